"""The sigmoid loss, against transformers' own, by hand, in the trainer; and training in too little memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from standins import pictures, tiny_clip, tiny_siglip

from mmhelpers.models import encoders
from mmhelpers.models.losses import SigmoidLoss

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

    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    saved = encoders.load(tmp_path / "saved", device="cpu").transformers_model
    trained = math.isclose(saved.logit_scale.exp().item(), after["scale"], rel_tol=1e-5)
    assert trained == own, "the model's own scale is trained and saved, a new one stays with the loss"
    if own:
        assert saved.logit_bias.item() == pytest.approx(after["bias"])


def test_what_cannot_be(folders: dict[str, Path], paths: list[str]) -> None:
    model = encoders.load(folders["clip"], device="cpu")
    with pytest.raises(ValueError, match="CLIPModel has no logit_bias of its own; give a number"):
        SigmoidLoss(model, scale=None, bias=None)
    with pytest.raises(ValueError, match="at least two columns"):
        SigmoidLoss(model)(features(model, paths), labels=None)
