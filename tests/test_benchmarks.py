"""The benchmark runs, its ways to train do the same work, and its page says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import measure, report
from scripts import outputs

RESULTS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(report.RESULTS.glob("*.json"))]


def all_rows(found: dict) -> list[dict]:
    return found["training"]["rows"] + found["reranking"]["rows"] + found["indexes"]["rows"]


@pytest.mark.slow
def test_a_quick_run_measures_all_three_tables(tmp_path):
    command = [sys.executable, "-m", "benchmarks.bench", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
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


def test_the_page_shows_the_results_of_full_size():
    written = report.PAGE.read_text(encoding="utf-8")
    assert written == report.page(), "its tables are not those of the results: make bench"
    assert RESULTS and all(f"### {found['machine']}" in written for found in RESULTS)
    for found in RESULTS:
        assert outputs.machine_path(found) is None, "a result names no machine"
        assert found["indexes"]["vectors"] == 1_000_000 and found["reranking"]["candidates"] == 100
        losses = found["training"]["first_loss"].values()
        assert max(losses) - min(losses) < 2e-4, "the ways to train did not do the same work"


def test_ratios_are_taken_within_a_round():
    values = iter((10.0, 5.0, 30.0, 10.0))
    speeds = measure.interleaved({"a": lambda: next(values), "b": lambda: next(values)}, rounds=2)
    ratio = measure.ratios("a / b", speeds["a"], speeds["b"])
    assert (ratio["median"], ratio["low"], ratio["high"], ratio["runs"]) == (2.5, 2.0, 3.0, 2)
