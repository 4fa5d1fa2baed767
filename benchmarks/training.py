"""Pairs a second of five ways to train, on the same batches; README.md says what each of them is."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import tempfile
from typing import Any

import torch
from datasets import Image
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from transformers import PrinterCallback, TrainerCallback, get_linear_schedule_with_warmup

from benchmarks.measure import interleaved, now, ratios, say, summary
from benchmarks.workload import DEVICE, Pairs, Size, load
from mmhelpers.course.profiles import CLIP_MINI
from mmhelpers.models import encoders

PLAIN, WORKERS, OURS, BARE, BY_LENGTH = "plain", "plain, workers", "ours", "bare loop", "bare loop, by length"
LEARNING_RATE, WARMUP, SCALE = 5e-4, 0.1, 20.0  # notebook 02
BOTH = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
PART = 32  # texts that go through the tower together in the loop by length


class Clock(TrainerCallback):
    """Times the steps after the warm-up: all of the trainer's work between the ends of two steps."""

    def __init__(self, size: Size) -> None:
        self.ends, self.seconds = (size.warmup, size.warmup + size.steps), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.ends:
            self.seconds = now() - self.seconds


class Trained:
    """The library's trainer, on its own recipe or on the course's; the model is kept from round to round."""

    def __init__(self, name: str, pairs: Pairs, size: Size) -> None:
        self.size = size
        self.changes: dict[str, Any] = {}
        if name in (PLAIN, WORKERS):  # as in the library's examples, but in float32 as ours
            options = {"device": DEVICE, "model_kwargs": {"dtype": torch.float32}}
            self.model = SentenceTransformer(str(CLIP_MINI), **options)
            self.rows = pairs.rows().cast_column("image", Image())
        else:
            self.model, self.rows = load(), pairs.rows()
            encoders.attach_image_cache(self.model, pairs.pictures)
            self.changes |= {"dataloader_pin_memory": False, "batch_sampler": BatchSamplers.NO_DUPLICATES}
        if name == WORKERS:
            self.changes["dataloader_num_workers"] = min(8, os.cpu_count() or 1)

    def trainer(self, **changes: Any) -> SentenceTransformerTrainer:
        """The trainer of one run."""
        settings = {
            "output_dir": tempfile.gettempdir(), "max_steps": self.size.warmup + self.size.steps,
            "per_device_train_batch_size": self.size.batch, "learning_rate": LEARNING_RATE,
            "warmup_steps": WARMUP, "use_cpu": DEVICE == "cpu", "seed": 0, "save_strategy": "no",
            "report_to": "none", "disable_tqdm": True, **self.changes, **changes,
        }  # fmt: skip
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of the library's model card
            loss = MultipleNegativesRankingLoss(self.model, scale=SCALE, **BOTH)
            trainer = SentenceTransformerTrainer(self.model, Arguments(**settings), self.rows, loss=loss)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def first_loss(self) -> float:
        """The untrained model's loss on the first batch."""
        trainer = self.trainer(dataloader_num_workers=0)
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))))

    def run(self) -> float:
        """Pairs a second of the steps after the warm-up."""
        clock, trainer = Clock(self.size), self.trainer()
        trainer.add_callback(clock)
        trainer.train()
        return self.size.steps * self.size.batch / clock.seconds


class Bare:
    """Forward, loss, backward, clip, step: nothing else, on batches that are on the device already."""

    def __init__(self, name: str, pairs: Pairs, size: Size) -> None:
        trainer = Trained(OURS, pairs, size).trainer()
        batches = itertools.islice(trainer.get_train_dataloader(), size.warmup + size.steps)
        self.size, self.by_length = size, name == BY_LENGTH
        self.model = trainer.model.transformers_model.train()
        self.batches = [self.arranged(*trainer.collect_features(batch)[0]) for batch in batches]

    def arranged(self, text: dict[str, Tensor], image: dict[str, Tensor]) -> tuple[list, Tensor]:
        """Texts in one part, or in parts of like length; and their pictures in the same order."""
        ids, mask, pixels = text["input_ids"], text["attention_mask"], image["pixel_values"]
        if not self.by_length:
            return [(ids, mask)], pixels
        lengths = mask.sum(1)
        order = lengths.argsort()
        parts = [(rows, int(lengths[rows[-1]])) for rows in order.split(PART)]
        return [(ids[rows, :longest], mask[rows, :longest]) for rows, longest in parts], pixels[order]

    def loss(self, texts: list[tuple[Tensor, Tensor]], pixels: Tensor) -> Tensor:
        """CLIP's loss: softmax over rows and over columns, the mean of both."""
        text = torch.cat([self.model.get_text_features(*part).pooler_output for part in texts])
        image = self.model.get_image_features(pixels).pooler_output
        logits = SCALE * functional.normalize(text, dim=-1) @ functional.normalize(image, dim=-1).T
        target = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2

    def first_loss(self) -> float:
        """The untrained model's loss on the first batch."""
        with torch.no_grad():
            return float(self.loss(*self.batches[0]))

    def run(self) -> float:
        """Pairs a second of the steps after the warm-up."""
        weights = list(self.model.parameters())
        optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP * (n := len(self.batches))), n)
        for number, batch in enumerate(self.batches):
            if number == self.size.warmup:
                began = now()
            optimizer.zero_grad()
            self.loss(*batch).backward()
            clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
        return self.size.steps * self.size.batch / (now() - began)


def measure(pairs: Pairs, size: Size) -> dict[str, Any]:
    """The rows of the table, and the loss of the first batch by variant: equal, or the work differs."""
    kinds = {PLAIN: Trained, WORKERS: Trained, OURS: Trained, BARE: Bare, BY_LENGTH: Bare}
    made = {name: kind(name, pairs, size) for name, kind in kinds.items()}
    losses = {name: variant.first_loss() for name, variant in made.items()}
    say("training, pairs a second")
    speeds = interleaved({name: variant.run for name, variant in made.items()}, size.rounds)
    rows = [summary(name, "pairs/s", values) for name, values in speeds.items()]
    rows += [ratios(f"{OURS} / {name}", speeds[OURS], speeds[name]) for name in made if name != OURS]
    settings = {"batch": size.batch, "steps": size.steps, "rounds": size.rounds}
    return {**settings, "rows": rows, "first_loss": losses}
