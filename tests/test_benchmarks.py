"""The benchmark runs, its ways to train do the same work, and its page says what was measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from benchmarks import indexes, measure, report, training

RESULTS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(report.RESULTS.glob("*.json"))]
PLACE = re.compile(r"/(home|root|tmp|work|Users)\b|\.local\b|\\\\Users")


def all_rows(found: dict) -> list[dict]:
    return found["training"]["rows"] + found["reranking"]["rows"] + found["indexes"]["rows"]


@pytest.mark.slow
def test_a_quick_run_measures_all_three_tables(tmp_path):
    command = [sys.executable, "-m", "benchmarks.bench", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout
    found = json.loads(next(tmp_path.glob("*.json")).read_text(encoding="utf-8"))
    for row in all_rows(found):
        assert 0 < row["low"] <= row["median"] <= row["high"] if "median" in row else row["ms"] > 0, row
    names = [[row.get("name", row.get("index")) for row in all_rows(one)] for one in (found, RESULTS[0])]
    assert names[0] == names[1], "a result lacks what the command measures today"
    losses = found["training"]["first_loss"]
    assert len(losses) == 5 and max(losses.values()) - min(losses.values()) < 2e-4, losses
    by_index: dict[str, list[float]] = {}
    for row in found["indexes"]["rows"]:
        by_index.setdefault(row["index"], []).append(row["recall"])
    for name, recalls in by_index.items():
        assert recalls == sorted(recalls) and recalls[-1] >= (1 if name == "exact" else 0.9), by_index
    assert report.tables(found).strip() in done.stdout


def test_the_page_shows_the_results():
    assert RESULTS, "make bench"
    written = report.PAGE.read_text(encoding="utf-8")
    assert written == report.page(), "python -m benchmarks.bench --tables"
    assert all(f"### {found['machine']}" in written for found in RESULTS)


@pytest.mark.parametrize("found", RESULTS, ids=lambda found: found["machine"])
def test_a_result_is_of_the_full_size_and_names_no_machine(found):
    assert not PLACE.search(json.dumps(found))
    assert found["indexes"]["vectors"] == 1_000_000 and found["reranking"]["candidates"] == 100
    losses = found["training"]["first_loss"].values()
    assert max(losses) - min(losses) < 2e-4, "the ways to train did not do the same work"


def test_repeats_are_interleaved_and_ratios_taken_within_a_round():
    order, values = [], iter((10.0, 5.0, 30.0, 10.0))

    def run(name: str) -> float:
        order.append(name)
        return next(values)

    speeds = measure.interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=2)
    assert order == ["a", "b", "a", "b"]
    ratio = measure.ratios("a / b", speeds["a"], speeds["b"])
    assert (ratio["median"], ratio["low"], ratio["high"], ratio["runs"]) == (2.5, 2.0, 3.0, 2)


def test_the_spread_is_the_range_of_few_values_and_the_quartiles_of_many():
    few, many = (measure.summary("n", "u", values) for values in ([3, 1, 2], range(101)))
    assert (few["low"], few["median"], few["high"]) == (1, 2, 3)
    assert (many["low"], many["median"], many["high"]) == (25, 50, 75)


def test_texts_of_like_length_are_less_work_and_keep_their_pictures():
    lengths = torch.arange(70) % 7 + 3
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids, pixels = torch.arange(70)[:, None] * mask, torch.arange(70)
    loop = training.Bare.__new__(training.Bare)
    loop.by_length = True
    parts, pictures = loop.arranged({"input_ids": ids, "attention_mask": mask}, {"pixel_values": pixels})
    assert sum(part.numel() for part, _ in parts) < ids.numel()
    assert torch.equal(torch.cat([part[:, 0] for part, _ in parts]), pictures)
    assert all(part.shape[1] == kept.sum(1).max() for part, kept in parts)


def test_the_crowd_holds_the_pictures_and_neighbours_of_them():
    rng = np.random.default_rng(0)
    real = indexes.cut(rng.standard_normal((50, 80), dtype=np.float32))
    rows = indexes.crowd(real, 400, rng)
    assert rows.shape == (400, indexes.DIMS) and np.array_equal(rows[:50], real)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
