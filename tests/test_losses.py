"""The sigmoid loss, against transformers' own, by hand, in the trainer; and training in too little memory."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from standins import pictures, tiny_clip, tiny_siglip

from mmhelpers.models import encoders
from mmhelpers.models.losses import SigmoidLoss, fitting

TEXTS = [f"a {colour} {kind}" for colour in ("red", "teal") for kind in ("mug", "armchair", "kite", "book")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"clip": tiny_clip(folder / "clip"), "siglip": tiny_siglip(folder / "siglip")}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in pictures(tmp_path_factory.mktemp("pictures"), 8)]


def features(model: SentenceTransformer, *columns: list[str]) -> list[dict[str, torch.Tensor]]:
    return [model.preprocess(column) for column in columns]


def arguments(folder: Path, **changes: object) -> SentenceTransformerTrainingArguments:
    shared = {
        "output_dir": str(folder), "max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "seed": 0,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    return SentenceTransformerTrainingArguments(**(shared | changes))


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (117.3, -12.9)])
def test_equals_the_loss_and_gradients_of_transformers(
    folders: dict[str, Path], paths: list[str], scale: float, bias: float
) -> None:
    model = encoders.load(folders["siglip"], device="cpu").train()
    siglip = model.transformers_model
    torch.nn.init.constant_(siglip.logit_scale, math.log(scale))
    torch.nn.init.constant_(siglip.logit_bias, bias)
    texts, images = features(model, TEXTS, paths)

    def reference() -> torch.Tensor:
        given = {"input_ids": texts["input_ids"], "pixel_values": images["pixel_values"]}
        return siglip(**given, return_loss=True).loss

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in siglip.named_parameters() if p.grad is not None}

    theirs = reference()
    expected = gradients(theirs)
    for ours in (SigmoidLoss(model, scale, bias), SigmoidLoss(model, scale=None, bias=None)):
        loss = ours(features(model, TEXTS, paths), labels=None)
        assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
        found = gradients(loss)
        found |= {"logit_scale": ours.logit_scale.grad.view(1), "logit_bias": ours.logit_bias.grad.view(1)}
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_negatives_and_repeats_by_hand(folders: dict[str, Path]) -> None:
    """Column 2 holds negatives of all rows. The picture of row 0 stands in row 2 too: a negative there."""
    loss = SigmoidLoss(encoders.load(folders["clip"], device="cpu"), scale=4.0, bias=-1.5)
    columns = torch.randn(3, 3, 6, generator=torch.Generator().manual_seed(0))
    columns[1, 2] = 7 * columns[1, 0]  # lengths do not count

    def by_hand(columns: torch.Tensor, t: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for i, anchor in enumerate(columns[0]):
            for j, candidate in enumerate([*columns[1], *columns[2]]):
                z = t.exp() * torch.cosine_similarity(anchor, candidate, dim=0) + bias
                total = total + torch.log(1 + torch.exp(-z if i == j else z))
        return total / 3

    exact = [x.detach().double().requires_grad_() for x in (columns, loss.logit_scale, loss.logit_bias)]
    expected = by_hand(*exact)
    columns.requires_grad_()
    found = loss.compute_loss_from_embeddings(list(columns))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    expected.backward()
    for ours, theirs in zip((columns, loss.logit_scale, loss.logit_bias), exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-6)


def test_logits_stay_float32_in_half_precision(folders: dict[str, Path]) -> None:
    loss = SigmoidLoss(encoders.load(folders["clip"], device="cpu"))
    columns = [torch.randn(64, 16, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
    plain = loss.compute_loss_from_embeddings(columns)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss.compute_loss_from_embeddings(columns)
    assert mixed.dtype == torch.float32
    assert mixed.item() == plain.item()
    assert loss.compute_loss_from_embeddings([c.half() for c in columns]).dtype == torch.float32


@pytest.mark.parametrize(("kind", "own"), [("clip", False), ("siglip", True)])
def test_the_trainer_learns_scale_and_bias(
    folders: dict[str, Path], paths: list[str], tmp_path: Path, kind: str, own: bool
) -> None:
    model = encoders.load(folders[kind], device="cpu")
    loss = SigmoidLoss(model, None, None) if own else SigmoidLoss(model)
    before = loss.get_config_dict()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments(tmp_path, learning_rate_mapping={"logit_": 0.1}, logging_steps=1),
        train_dataset=Dataset.from_dict({"text": TEXTS, "image": paths, "negative": paths[1:] + paths[:1]}),
        loss=loss,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    after = loss.get_config_dict()
    assert all(abs(after[name] - before[name]) > 0.1 for name in ("scale", "bias")), (before, after)
    assert loss.temperature == pytest.approx(1 / after["scale"])

    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    saved = encoders.load(tmp_path / "saved", device="cpu").transformers_model
    trained = math.isclose(saved.logit_scale.exp().item(), after["scale"], rel_tol=1e-5)
    assert trained == own, "the model's own scale is trained and saved, a new one stays with the loss"
    if own:
        assert saved.logit_bias.item() == pytest.approx(after["bias"])


def test_the_model_card_cites_the_paper(folders: dict[str, Path], paths: list[str], tmp_path: Path) -> None:
    model = encoders.load(folders["siglip"], device="cpu")
    rows = Dataset.from_dict({"text": TEXTS, "image": paths})
    args = arguments(tmp_path, max_steps=1)
    SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=SigmoidLoss(model)).train()
    model.save_pretrained(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert "zhai2023sigmoid" in card and "SigmoidLoss" in card and '"bias"' in card


def test_what_cannot_be(folders: dict[str, Path], paths: list[str]) -> None:
    model = encoders.load(folders["clip"], device="cpu")
    with pytest.raises(ValueError, match="CLIPModel has no logit_bias of its own; give a number"):
        SigmoidLoss(model, scale=None, bias=None)
    with pytest.raises(ValueError, match="at least two columns"):
        SigmoidLoss(model)(features(model, paths), labels=None)


# What torch says on CUDA (its allocator, the driver, cuBLAS), on Apple's GPUs and on a CPU.
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.74 GiB of which"
DRIVER = (
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"
)
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
MPS = (
    "MPS backend out of memory (MPS allocated: 17.9 GiB, other allocations: 1.2 MiB, max allowed: 18.1 GiB)."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)


# Not Adam: it blows up the rounding errors of gradients that are 0, such as those of a key's bias.
SGD = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant"}


def training(
    folder: Path, paths: list[str], scratch: Path, limit: int, tries: list[tuple[int, int]]
) -> Callable[[int], dict[str, torch.Tensor]]:
    """A training that runs out of memory in step 2 where more than `limit` pictures pass the tower at once.

    It returns the weights, and notes in `tries` the rows at a time and the pictures that passed at most.
    """

    def train(rows: int) -> dict[str, torch.Tensor]:
        model = encoders.load(folder, device="cpu")
        passes: list[int] = []

        def in_too_little_memory(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            passes.append(len(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]))
            if len(passes) >= 3 and passes[-1] > limit:
                tries.append((rows, max(passes)))
                raise torch.OutOfMemoryError(CUDA)

        model.transformers_model.vision_model.register_forward_pre_hook(
            in_too_little_memory, with_kwargs=True
        )
        both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
        loss = MultipleNegativesRankingLoss(model, **both)
        if rows < 8:
            loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=rows, **both)
        SentenceTransformerTrainer(
            model=model,
            args=arguments(scratch, per_device_train_batch_size=8, max_steps=3, **SGD),
            train_dataset=Dataset.from_dict({"text": TEXTS, "image": paths, "negative": paths[::-1]}),
            loss=loss,
        ).train()
        tries.append((rows, max(passes)))
        return {name: value.clone() for name, value in model.state_dict().items()}

    return train


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_too_little_memory_changes_the_mini_batch_and_not_the_result(
    folders: dict[str, Path], paths: list[str], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture
) -> None:
    tries: list[tuple[int, int]] = []
    plain = fitting(training(folders[kind], paths, tmp_path, 10**6, tries), 8)
    assert tries == [(8, 8)]
    assert "memory" not in capsys.readouterr().out
    tries.clear()
    short = fitting(training(folders[kind], paths, tmp_path, 3, tries), 8, smallest=2)
    assert tries == [(8, 8), (4, 4), (2, 2)]
    said = [line for line in capsys.readouterr().out.splitlines() if "memory" in line]
    assert [("4 rows" in line, "2 rows" in line, "stays at 8" in line) for line in said] == [
        (True, False, True),
        (False, True, True),
    ]
    first = encoders.load(folders[kind], device="cpu").state_dict()
    assert max(float((plain[name] - first[name]).abs().max()) for name in first) > 1e-3, "it was trained"
    for name in plain:
        torch.testing.assert_close(short[name], plain[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("error", [CUDA, DRIVER, CUBLAS, MPS, CPU])
def test_every_device_says_it_differently(error: str) -> None:
    def train(rows: int) -> int:
        if rows > 16:
            raise RuntimeError(error)
        return rows

    assert fitting(train, 128) == 16
    with pytest.raises(MemoryError, match="even with 20 rows at a time"):
        fitting(train, 80, smallest=12)


def test_other_errors_pass() -> None:
    tried = []

    def train(rows: int) -> None:
        tried.append(rows)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        fitting(train, 64)
    assert tried == [64]


def test_what_a_failed_try_held_is_free_before_the_next() -> None:
    held: list[weakref.ref] = []

    def train(rows: int) -> bool:
        assert all(ref() is None for ref in held), "the first try still holds its model"
        trainer = torch.nn.Linear(2, 2)
        trainer.__dict__["callback"] = [trainer]  # a cycle, as in a trainer
        held.append(weakref.ref(trainer))
        if rows > 8:
            raise torch.OutOfMemoryError(CUDA)
        return True

    gc.disable()  # no lucky collection in between
    try:
        assert fitting(train, 32)
    finally:
        gc.enable()
    assert len(held) == 3
