"""Six ways to train on the same batches: pairs a second, peak memory, operations, the parts of a step.

plain                 the library's own recipe: an Image column, the default collator
plain, workers        the same with dataloader workers
ours                  notebook 02: `encoders.load`, paths, `encoders.attach_image_cache`, the same trainer
bare loop             PyTorch alone on tensors that are in memory already, texts padded to the batch's longest
bare loop, by length  the same with texts of like length together, as `encoders.load` does on a CPU: the limit
open_clip             the training step of open_clip_torch on towers of the same sizes
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, TrainerCallback, get_linear_schedule_with_warmup

from benchmarks.measure import (
    Row,
    elsewhere,
    interleaved,
    keep_freed_memory,
    peak_memory,
    ratios,
    row,
    synchronize,
    timed,
)
from benchmarks.workload import Settings, Workload
from mmhelpers.models import encoders

PLAIN, WORKERS, PHOTOS, OURS = "plain", "plain, workers", "plain, 500 px photos", "ours"
BARE, BY_LENGTH, OPEN_CLIP = "bare loop", "bare loop, by length", "open_clip"
LEARNING_RATE, WARMUP, SCALE = 5e-4, 0.1, 20.0  # notebook 02
BOTH = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


class Clock(TrainerCallback):
    """Stops the time of the steps after the warm-up: all of the trainer's work between two ends of steps."""

    def __init__(self, chosen: Settings) -> None:
        self.chosen, self.seconds = chosen, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (self.chosen.warmup, self.chosen.warmup + self.chosen.steps):
            synchronize(self.chosen.device)
            self.seconds = time.perf_counter() - self.seconds


class Variant:
    """A way to train; its model is kept from round to round."""

    def __init__(self, name: str, chosen: Settings, work: Workload, batch: int = 0) -> None:
        self.name, self.chosen, self.work, self.batch = name, chosen, work, batch or chosen.batch
        self.plain = name in (PLAIN, WORKERS, PHOTOS)
        self.keeps_memory = not (self.plain or name == OPEN_CLIP)  # `encoders.load` sees to it, others do not
        if self.plain:  # as in the library's examples, but in float32 as ours
            options = {"device": chosen.device, "model_kwargs": {"dtype": torch.float32}}
            self.model = SentenceTransformer(str(work.model), **options)
        else:
            self.model = work.load(chosen.device)

    def attach(self, cache: Any = None) -> Any:
        """Give the model its image cache; the plain recipe has none."""
        if not self.plain:
            return encoders.attach_image_cache(self.model, cache or self.work.pictures)

    def trainer(self, steps: int, evaluator: Any = None, **changes: Any) -> SentenceTransformerTrainer:
        """The trainer of this variant; the loss, rate, schedule and batches are the same for all."""
        arguments = {
            "output_dir": tempfile.gettempdir(), "max_steps": steps, "learning_rate": LEARNING_RATE,
            "warmup_steps": WARMUP, "per_device_train_batch_size": self.batch, "report_to": "none",
            "fp16": self.chosen.dtype == "float16", "bf16": self.chosen.dtype == "bfloat16",
            "use_cpu": self.chosen.device == "cpu", "seed": 0, "save_strategy": "no", "disable_tqdm": True,
        }  # fmt: skip
        if self.plain:
            rows = self.work.image_rows(self.work.photos if self.name == PHOTOS else None)
            if self.name == WORKERS:
                arguments["dataloader_num_workers"] = min(8, os.cpu_count() or 1)
        else:  # the arguments of notebook 02
            rows = self.work.rows()
            arguments |= {"dataloader_pin_memory": False, "batch_sampler": BatchSamplers.NO_DUPLICATES}
            arguments |= {"logging_steps": 6}
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of the library's model card
            trainer = SentenceTransformerTrainer(
                model=self.model,
                args=SentenceTransformerTrainingArguments(**(arguments | changes)),
                train_dataset=rows,
                loss=MultipleNegativesRankingLoss(self.model, scale=SCALE, **BOTH),
                evaluator=evaluator,
            )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def first_loss(self) -> float:
        """Of the untrained model on the first batch."""
        trainer = self.trainer(1, dataloader_num_workers=0)
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad(), trainer.compute_loss_context_manager():
            return float(trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)))

    def run(self) -> float:
        """Pairs a second of the steps after the warm-up."""
        keep_freed_memory(self.keeps_memory)
        clock = Clock(self.chosen)
        trainer = self.trainer(self.chosen.warmup + self.chosen.steps)
        trainer.add_callback(clock)
        trainer.train()
        return self.chosen.steps * self.batch / clock.seconds


class Bare(Variant):
    """Forward, loss, backward, clip, step: nothing else, on batches that lie on the device."""

    def start(self) -> None:
        """Fetch the batches that the trainer would feed, and take the transformers model out of its wrap."""
        n = self.chosen.warmup + self.chosen.steps
        trainer = self.trainer(n)
        taken = itertools.islice(trainer.get_train_dataloader(), n)
        features = (trainer.collect_features(trainer._prepare_inputs(batch))[0] for batch in taken)
        self.ready = [
            self.arranged(text["input_ids"], text["attention_mask"], image["pixel_values"])
            for text, image in features
        ]
        self.module = self.model.transformers_model.train()

    def arranged(self, ids: Tensor, mask: Tensor, pixels: Tensor) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        """Texts in one part, or in parts of like length with their pictures in the same order."""
        if self.name != BY_LENGTH:
            return [(ids, mask)], pixels
        lengths = mask.sum(1)
        order = lengths.argsort()
        parts = [(rows, int(lengths[rows[-1]])) for rows in order.split(encoders._ByLength.ROWS)]
        return [(ids[rows, :longest], mask[rows, :longest]) for rows, longest in parts], pixels[order]

    def arithmetic(self) -> contextlib.AbstractContextManager:
        dtype = getattr(torch, self.chosen.dtype)
        return torch.autocast(self.chosen.device, dtype, enabled=dtype != torch.float32)

    def loss(self, texts: list[tuple[Tensor, ...]], pixels: Tensor) -> Tensor:
        """CLIP's loss: softmax over rows and over columns, the mean of both."""
        text = torch.cat([self.module.get_text_features(*part).pooler_output for part in texts])
        image = self.module.get_image_features(pixels).pooler_output
        logits = SCALE * functional.normalize(text, dim=-1) @ functional.normalize(image, dim=-1).T
        target = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2

    def first_loss(self) -> float:
        self.start()
        with torch.no_grad(), self.arithmetic():
            return float(self.loss(*self.ready[0]))

    def run(self) -> float:
        if not hasattr(self, "ready"):
            self.start()
        keep_freed_memory(self.keeps_memory)
        n = self.chosen.warmup + self.chosen.steps
        weights = list(self.module.parameters())
        optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP * n), n)
        scaler = torch.amp.GradScaler(self.chosen.device, enabled=self.chosen.dtype == "float16")
        for number, batch in enumerate(self.ready):
            if number == self.chosen.warmup:
                synchronize(self.chosen.device)
                began = time.perf_counter()
            optimizer.zero_grad()
            with self.arithmetic():
                loss = self.loss(*batch)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(weights, 1.0)
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
        synchronize(self.chosen.device)
        return self.chosen.steps * self.batch / (time.perf_counter() - began)

    def operations(self) -> float:
        """Floating-point operations of the matrix products of one step, forward and backward."""
        with FlopCounterMode(display=False) as counter, self.arithmetic():
            self.loss(*self.ready[-1]).backward()
        self.module.zero_grad()
        return float(counter.get_total_flops())


class OpenClip(Bare):
    """The model, loss and step of open_clip_torch, which reads texts at their full length of 77 tokens."""

    def start(self) -> None:
        super().start()
        open_clip = import_open_clip()
        clip, self.criterion = self.module, open_clip.ClipLoss()
        self.module = same_towers(open_clip, clip.config).to(self.chosen.device).train()
        if _size(self.module) != _size(clip):
            raise RuntimeError(f"open_clip has {_size(self.module):,} weights, not {_size(clip):,}")
        self.module.logit_scale.data.fill_(torch.tensor(SCALE).log())

    def arranged(self, ids: Tensor, mask: Tensor, pixels: Tensor) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        return [(functional.pad(ids, (0, 77 - ids.shape[1]), value=1),)], pixels

    def loss(self, texts: list[tuple[Tensor, ...]], pixels: Tensor) -> Tensor:
        return self.criterion(**self.module(pixels, texts[0][0]), output_dict=True)["contrastive_loss"]


def _size(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def import_open_clip() -> Any:
    """open_clip, with placeholders for torchvision where that is missing: it is named, but not used here."""
    missing = [] if find_spec("torchvision") else ["", ".transforms", ".transforms.functional", ".ops.misc"]
    for name in missing:
        sys.modules["torchvision" + name] = MagicMock()
    try:
        import open_clip
    finally:
        for name in missing:  # nobody else shall take them for the library
            del sys.modules["torchvision" + name]
    return open_clip


def same_towers(open_clip: Any, config: Any) -> nn.Module:
    """open_clip's model with the sizes of a CLIP of transformers; its weights are random."""
    text, vision = config.text_config, config.vision_config
    side = {"layers": text.num_hidden_layers, "width": text.hidden_size, "heads": text.num_attention_heads}
    end = {"pool_type": "eos", "eos_id": text.eos_token_id, "vocab_size": text.vocab_size}
    head = vision.hidden_size // vision.num_attention_heads
    return open_clip.CLIP(
        embed_dim=config.projection_dim,
        vision_cfg={
            "layers": vision.num_hidden_layers, "width": vision.hidden_size, "head_width": head,
            "patch_size": vision.patch_size, "image_size": vision.image_size,
        },
        text_cfg={**side, **end, "context_length": text.max_position_embeddings},
        quick_gelu=vision.hidden_act == "quick_gelu",
        output_dict=True,
    )  # fmt: skip


def make(name: str, chosen: Settings, work: Workload, batch: int = 0) -> Variant:
    """The variant of this name."""
    kinds = {BARE: Bare, BY_LENGTH: Bare, OPEN_CLIP: OpenClip}
    return kinds.get(name, Variant)(name, chosen, work, batch)


def names(work: Workload) -> list[str]:
    """All ways to train; open_clip only where it is installed, as `make bench` does."""
    found = [PLAIN, WORKERS, OURS, BARE, BY_LENGTH]
    return found + [OPEN_CLIP] * bool(find_spec("open_clip")) + [PHOTOS] * bool(work.photos)


def throughput(
    chosen: Settings, work: Workload, say: Callable[[str], None], peak: float
) -> tuple[list[Row], dict[str, float]]:
    """Pairs a second of every variant, what they are to each other, and the share of the matmul peak.

    Args:
        peak: floating-point operations a second that a large matrix product reaches on this machine.

    Returns:
        Rows, and the loss of the first batch by variant: equal, or the work differs.
    """
    topic = f"training, {work.name}"
    made = {name: make(name, chosen, work) for name in names(work)}
    cache = made[OURS].attach()
    for variant in made.values():
        variant.attach(cache)
    losses = {name: variant.first_loss() for name, variant in made.items()}
    speeds = interleaved({name: variant.run for name, variant in made.items()}, chosen.rounds, say)
    rows = [row(topic, name, "pairs/s", values) for name, values in speeds.items()]
    rows += [ratios(topic, f"{OURS} / {name}", speeds[OURS], speeds[name]) for name in made if name != OURS]
    for name, variant in made.items():
        if isinstance(variant, Bare):
            shares = [speed * variant.operations() / chosen.batch / peak for speed in speeds[name]]
            rows.append(row(topic, f"{name}, share of the matmul peak", "share", shares))
    each = made[BY_LENGTH if chosen.device == "cpu" else BARE].operations() / chosen.batch
    shares = [speed * each / peak for speed in speeds[OURS]]  # ours does what that loop does
    return [*rows, row(topic, f"{OURS}, share of the matmul peak", "share", shares)], losses


def matmul_peak(chosen: Settings, n: int = 2048) -> list[float]:
    """Operations a second of a product of two n x n matrices, in the arithmetic of the training."""
    dtype = getattr(torch, chosen.dtype)
    a, b = (torch.randn(n, n, device=chosen.device, dtype=dtype) for _ in range(2))
    seconds = [timed(lambda: [torch.mm(a, b) for _ in range(3)], chosen.device) for _ in range(9)]
    return [3 * 2 * n**3 / each for each in seconds[1:]]


def by_batch_size(chosen: Settings, work: Workload, say: Callable[[str], None]) -> list[Row]:
    """Pairs a second of ours and of the bare loop, from small batches to large ones."""
    cache, made = None, {}
    for size in (4, 8) if chosen.quick else (16, 64, 256):
        for name in (OURS, BARE):
            variant = make(name, chosen, work, size)
            cache = variant.attach(cache)
            made[f"{name}, batch {size}"] = variant
    speeds = interleaved({name: each.run for name, each in made.items()}, 1 if chosen.quick else 2, say)
    return [row("growth: batch size", name, "pairs/s", values) for name, values in speeds.items()]


def memory(chosen: Settings, work: Workload, say: Callable[[str], None]) -> list[Row]:
    """Peak megabytes of each variant, in a process of its own, above those with the model loaded."""
    rows = []
    for name in [OURS] if chosen.quick else names(work):
        found = elsewhere(_peak, name, chosen, work)
        say(f"{name}: {found['mb']:.0f} MB")
        rows.append(row("peak memory of training", name, "MB", [found["mb"]]))
        if "gpu" in found:
            rows.append(row("peak memory of training", f"{name}, GPU", "MB", [found["gpu"]]))
    return rows


def _peak(name: str, chosen: Settings, work: Workload) -> dict[str, float]:
    """What `memory` runs elsewhere. Data and caches count; the model's weights do not."""
    variant = make(name, chosen, work)
    with peak_memory() as found:
        variant.attach()
        variant.run()
    if chosen.device == "cuda":
        found["gpu"] = torch.cuda.max_memory_allocated() / 1e6
    return found


class _Parts(TrainerCallback):
    """Adds up the seconds of each part of the steps after the warm-up, then profiles one more step."""

    def __init__(self, chosen: Settings, trainer: Any) -> None:
        self.chosen, self.counting, self.began = chosen, False, 0.0
        self.seconds: dict[str, float] = {}
        trainer.compute_loss = self.around("forward", trainer.compute_loss)
        trainer.accelerator.backward = self.around("backward", trainer.accelerator.backward)
        trainer.accelerator.clip_grad_norm_ = self.around("clip", trainer.accelerator.clip_grad_norm_)
        collator = trainer.data_collator
        collator.preprocess_fn = self.around("tokens and pixels", collator.preprocess_fn)
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] * (chosen.device == "cuda")
        self.profiler = torch.profiler.profile(activities=kinds)

    def around(self, part: str, method: Callable) -> Callable:
        self.seconds[part] = 0.0

        def measured(*args: Any, **kwargs: Any) -> Any:
            began = self.now()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[part] += self.counting * (self.now() - began)

        return measured

    def now(self) -> float:
        synchronize(self.chosen.device)
        return time.perf_counter()

    def on_train_begin(self, *args: Any, optimizer: Any = None, **kwargs: Any) -> None:
        optimizer.step = self.around("optimiser", optimizer.step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step - self.chosen.warmup
        if step == 0:
            self.counting, self.began = True, self.now()
        elif step == self.chosen.steps:
            whole, self.counting = self.now() - self.began, False
            self.seconds["rest of the trainer"] = whole - sum(self.seconds.values())
            self.profiler.start()
        elif step == self.chosen.steps + 1:
            self.profiler.stop()


def profile(chosen: Settings, work: Workload, say: Callable[[str], None], n: int = 10) -> dict[str, Any]:
    """A step of ours: milliseconds of parts, share outside forward, backward, optimiser, `n` operators."""
    variant = Variant(OURS, chosen, work)
    variant.attach()
    trainer = variant.trainer(chosen.warmup + chosen.steps + 1)
    parts = _Parts(chosen, trainer)
    trainer.add_callback(parts)
    trainer.train()
    whole = sum(parts.seconds.values())
    outside = 1 - sum(parts.seconds[part] for part in ("forward", "backward", "optimiser")) / whole
    say(f"{1000 * whole / chosen.steps:.0f} ms a step, {outside:.1%} outside forward, backward, optimiser")
    spent = f"self_{'device' if chosen.device == 'cuda' else 'cpu'}_time_total"
    took = {event.key: (getattr(event, spent), event.count) for event in parts.profiler.key_averages()}
    total = sum(each for each, _ in took.values())
    return {
        "workload": work.name,
        "milliseconds": {name: round(1000 * each / chosen.steps, 2) for name, each in parts.seconds.items()},
        "outside": round(outside, 4),
        "operators": [
            {"operator": name, "calls": calls, "ms": round(each / 1000, 1), "share": round(each / total, 4)}
            for name, (each, calls) in sorted(took.items(), key=lambda item: -item[1][0])[:n]
        ],
    }
