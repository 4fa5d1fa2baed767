"""The library's miner on picture paths, the table to choose margins from, and the audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives
from standins import pictures, tiny_clip

from mmhelpers.evaluation import mining
from mmhelpers.models import encoders

TEXTS = [f"{colour} {kind}" for colour in ("red", "blue", "teal") for kind in ("mug", "hat", "kite", "lamp")]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in pictures(tmp_path_factory.mktemp("pictures"), 16)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, paths: list[str]) -> SentenceTransformer:
    model = encoders.load(tiny_clip(tmp_path_factory.mktemp("clip")), device="cpu")
    encoders.attach_image_cache(model, paths)
    return model


@pytest.fixture
def pairs(paths: list[str]) -> Dataset:
    """Twelve texts; the first three have a second picture."""
    return Dataset.from_dict({"text": TEXTS + TEXTS[:3], "image": paths[:15]})


@pytest.mark.parametrize("output_format", ["triplet", "n-tuple", "labeled-pair", "labeled-list"])
def test_the_librarys_miner_takes_cached_paths(
    output_format: str, model: SentenceTransformer, pairs: Dataset, paths: list[str]
) -> None:
    mined = mine_hard_negatives(
        pairs, model, corpus=paths, num_negatives=14, output_format=output_format, verbose=False
    )
    assert mined.column_names[:2] == ["text", "image"]
    if output_format == "n-tuple":
        for row in mined:
            right = {
                path for text, path in zip(pairs["text"], pairs["image"], strict=True) if text == row["text"]
            }
            wrong = [row[f"negative_{rank}"] for rank in range(1, 15)]
            assert len({*wrong}) == 14 and not right & {*wrong} and {*wrong} <= {*paths}
    backwards = mine_hard_negatives(
        pairs.select_columns(["image", "text"]), model, num_negatives=1, verbose=False
    )
    assert set(backwards["negative"]) <= set(TEXTS) and set(backwards["image"]) <= set(paths)


def test_percentiles_are_those_of_the_similarity_matrix(
    model: SentenceTransformer, pairs: Dataset, paths: list[str]
) -> None:
    table = mining.score_percentiles(model, pairs, n=1000, ranks=(1, 5, 999), seed=3)
    scores = model.similarity(model.encode(pairs["text"]), model.encode(paths[:15])).numpy()
    right = np.array([[text == other for other in pairs["text"]] for text in pairs["text"]])
    wrong = -np.sort(-np.where(right, -np.inf, scores), axis=1)
    expected = {
        "positive": scores.diagonal(),
        "negative at rank 1": wrong[:, 0],
        "negative at rank 5": wrong[:, 4],
        "positive minus rank 1": scores.diagonal() - wrong[:, 0],
        "positive minus rank 5": scores.diagonal() - wrong[:, 4],
    }
    assert set(table.index) == {*expected, "random negative"}
    for name, values in expected.items():
        np.testing.assert_allclose(table.loc[name], np.percentile(values, (5, 25, 50, 75, 95)), atol=1e-6)
    assert np.isfinite(table.to_numpy()).all()
    assert table.loc["random negative", "95 %"] <= table.loc["negative at rank 1", "95 %"]
    assert table.equals(mining.score_percentiles(model, pairs, ranks=(1, 5), seed=3))
    few = mining.score_percentiles(model, pairs, n=4, ranks=(1,), seed=3)
    assert not few.equals(table.loc[few.index])


def test_percentiles_follow_the_weights(paths: list[str], pairs: Dataset, tmp_path: Path) -> None:
    model = encoders.load(tiny_clip(tmp_path), device="cpu")
    before = mining.score_percentiles(model, pairs, ranks=(1,))
    for parameter in model.parameters():
        parameter.data.add_(0.05)
    assert not np.allclose(before, mining.score_percentiles(model, pairs, ranks=(1,)))


def test_percentiles_want_paths_and_candidates(model: SentenceTransformer, pairs: Dataset) -> None:
    with pytest.raises(ValueError, match="'image' must hold paths, not PngImageFile"):
        mining.score_percentiles(model, pairs.cast_column("image", Image()))
    with pytest.raises(ValueError, match="1 pictures are too few"):
        mining.score_percentiles(model, pairs.select([0]))


def test_audit_counts_and_shows_what_it_found() -> None:
    mined = Dataset.from_dict(
        {"text": ["a", "b"], "image": ["1", "2"], "negative_1": ["a1", "a2"], "negative_2": ["b3", "b4"]}
    )
    result = mining.audit(mined, lambda row, candidate: candidate.startswith(row["text"]))
    assert [(row["text"], candidate) for row, candidate in result.found] == [("a", "a1"), ("b", "b4")]
    assert (result.count, result.total, result.rate) == (2, 4, 0.5)
    assert str(result) == "50.0% false negatives (2 of 4; 15.0% to 85.0%)"
    none = mining.audit(mined.select_columns(["text", "negative_1"]), lambda row, candidate: False)
    assert (
        none.rate == 0
        and none.interval[0] == pytest.approx(0)
        and none.interval[1] == pytest.approx(0.6576, abs=1e-4)
    )
    for empty in (mined.select([]), mined.select_columns(["text", "image"])):
        with pytest.raises(ValueError, match="no negatives to audit"):
            mining.audit(empty, lambda row, candidate: True)
