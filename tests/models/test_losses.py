"""The losses: against the library's and transformers' own, by hand, in half precision, in the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from standins import fit, pictures, tiny_clip, tiny_siglip
from torch.nn import functional

from mmhelpers.models import encoders
from mmhelpers.models.losses import KnownPositivesRankingLoss, SigmoidLoss

TEXTS = [f"a {colour} {kind}" for colour in ("red", "teal") for kind in ("mug", "armchair", "kite", "book")]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return [str(path) for path in pictures(tmp_path, 8)]


def test_equals_the_loss_and_gradients_of_transformers(paths: list[str], tmp_path: Path) -> None:
    model = encoders.load(tiny_siglip(tmp_path / "siglip"), device="cpu").train()
    siglip, scale, bias = model.transformers_model, 117.3, -12.9
    torch.nn.init.constant_(siglip.logit_scale, math.log(scale))
    torch.nn.init.constant_(siglip.logit_bias, bias)
    texts, images = model.preprocess(TEXTS), model.preprocess(paths)

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in siglip.named_parameters() if p.grad is not None}

    theirs = siglip(texts["input_ids"], images["pixel_values"], return_loss=True).loss
    expected = gradients(theirs)
    for ours in (SigmoidLoss(model, scale, bias), SigmoidLoss(model, scale=None, bias=None)):
        loss = ours([dict(texts), dict(images)], labels=None)
        assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
        found = gradients(loss)
        found |= {"logit_scale": ours.logit_scale.grad.view(1), "logit_bias": ours.logit_bias.grad.view(1)}
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_negatives_by_hand_and_in_half_precision(paths: list[str], tmp_path: Path) -> None:
    """Columns from the third on hold negatives of all rows; lengths of vectors do not count."""
    model = encoders.load(tiny_clip(tmp_path / "clip"), device="cpu")
    loss = SigmoidLoss(model, scale=4.0, bias=-1.5)
    columns = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    columns[1, 2] = 7 * columns[1, 0]  # the picture of row 0 stands in row 2 too: a negative there
    exact = columns.double().requires_grad_()
    expected = 0
    for i, anchor in enumerate(exact[0]):
        for j, candidate in enumerate(exact[1:].flatten(0, 1)):
            z = 4 * torch.cosine_similarity(anchor, candidate, dim=0) - 1.5
            expected = expected + torch.log(1 + torch.exp(-z if i == j else z)) / 3
    columns.requires_grad_()
    found = loss.compute_loss_from_embeddings(list(columns))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    expected.backward()
    torch.testing.assert_close(columns.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)

    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss.compute_loss_from_embeddings(list(columns))
    assert mixed.dtype == torch.float32 and mixed.item() == found.item(), "the sum stays float32"
    assert loss.compute_loss_from_embeddings([c.half() for c in columns]).dtype == torch.float32
    with pytest.raises(ValueError, match="CLIPModel has no logit_bias of its own; give a number"):
        SigmoidLoss(model, scale=None, bias=None)
    with pytest.raises(ValueError, match="at least two columns"):
        SigmoidLoss(model)([model.preprocess(paths)], labels=None)


@pytest.mark.parametrize(("make", "own"), [(tiny_clip, False), (tiny_siglip, True)])
def test_the_trainer_learns_scale_and_bias(make: Callable, own: bool, paths: list[str], tmp_path: Path) -> None:
    model = encoders.load(make(tmp_path / "model"), device="cpu")
    loss = SigmoidLoss(model, None, None) if own else SigmoidLoss(model)
    before = loss.get_config_dict()
    columns = {"text": TEXTS, "image": paths, "negative": paths[1:] + paths[:1]}
    settings = {"learning_rate_mapping": {"logit_": 0.1}, "logging_strategy": "steps", "logging_steps": 1}
    trainer = fit(model, columns, tmp_path, loss, max_steps=8, **settings)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    after = loss.get_config_dict()
    assert all(abs(after[name] - before[name]) > 0.1 for name in ("scale", "bias")), (before, after)

    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    saved = encoders.load(tmp_path / "saved", device="cpu").transformers_model
    trained = math.isclose(saved.logit_scale.exp().item(), after["scale"], rel_tol=1e-5)
    assert trained == own, "the model's own scale is trained and saved, a new one stays with the loss"
    assert not own or saved.logit_bias.item() == pytest.approx(after["bias"])


def test_known_right_answers_are_no_negatives_in_either_direction():
    model, both = None, {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    parts = [torch.randn(4, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    rows, own = [[f"p{i}", f"n{i}"] for i in range(4)], [{f"p{i}"} for i in range(4)]
    plain = MultipleNegativesRankingLoss(model, **both).compute_loss_from_embeddings(parts, None)
    masked = KnownPositivesRankingLoss(model, rows, own, **both).compute_loss_from_embeddings(parts, torch.arange(4))
    assert masked.item() == pytest.approx(plain.item(), abs=1e-5), "its own positive is never left out"

    right = [{"p0", "p2", "n1"}, *own[1:]]  # the first anchor has two more right answers in the batch
    loss = KnownPositivesRankingLoss(model, rows, right, **both).compute_loss_from_embeddings(parts, torch.arange(4))
    anchors, *documents = (functional.normalize(part, dim=1) for part in parts)
    logits = 20 * anchors @ torch.cat(documents).T
    logits[0, [2, 5]] = -torch.inf
    by_hand = sum(functional.cross_entropy(table, torch.arange(4)) for table in (logits, logits[:, :4].T))
    assert loss.item() == pytest.approx(by_hand.item() / 2, abs=1e-4)
