"""The benchmark runs, its variants do the same work, and README.md says of speed what was measured."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import ROOT

from benchmarks import indexes, measure, report, series, startup, training
from mmhelpers.course import profiles
from mmhelpers.models import encoders

RUNS = report.stored()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str, Path]:
    """A quick run in a process of its own: its JSON, what it printed, and the folder of its results."""
    folder = tmp_path_factory.mktemp("bench")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", "--quick", "--out", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    (file,) = folder.glob("*.json")
    return json.loads(file.read_text(encoding="utf-8")), done.stdout, folder


def test_a_quick_run_measures_every_topic(quick):
    found, said, folder = quick
    topics = {one["topic"] for one in found["rows"]}
    for start in ("training, clip-mini, shop", report.PHOTOS, "growth: batch size", "growth: candidates",
                  "growth: pictures", "peak memory of training", "encoding", "mining, ", "reranking ",
                  "time to nDCG@10", "start-up"):  # fmt: skip
        assert any(topic.startswith(start) for topic in topics), start
        assert f"| {start}" in said, "the table is printed"
    assert all(0 < one["low"] <= one["median"] <= one["high"] for one in found["rows"]), found["rows"]
    assert (folder / report.slug(found)).with_suffix(".png").stat().st_size > 20_000
    assert re.search(r"round 2 of 2: plain [\d.]+, plain, workers [\d.]+, ours [\d.]+, bare", said)


def test_all_variants_do_the_same_work(quick):
    """Same weights, same pairs, same loss: otherwise their speeds could not be compared."""
    for work, losses in quick[0]["first_losses"].items():
        losses.pop(training.OPEN_CLIP, None)  # random weights
        photos = losses.pop(training.PHOTOS, None)
        assert len(losses) == 5
        assert max(losses.values()) - min(losses.values()) < 2e-4, (work, losses)
        if photos:
            assert abs(photos - losses[training.PLAIN]) < 0.05, "a photo is a little sharper than its copy"


def test_a_profile_accounts_for_the_whole_step(quick):
    for one in quick[0]["profiles"]:
        assert all(value > 0 for value in one["milliseconds"].values()), "no part is missing or counted twice"
        assert 0 < one["outside"] < 1
        assert len(one["operators"]) == 10 and sum(each["share"] for each in one["operators"]) <= 1.001


def test_parts_of_like_length_are_less_work_and_the_same_loss():
    """The limit that ours is measured against computes what the plain bare loop does."""
    lengths = torch.arange(64) % 7 + 3
    mask = (torch.arange(12) < lengths[:, None]).long()
    words = torch.arange(12) < lengths[:, None] - 1  # then the token that ends a text, which also pads
    ids = torch.where(words, torch.arange(64)[:, None] + 300, 1)
    pixels = torch.randn(64, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    losses, work = {}, {}
    for name in (training.BARE, training.BY_LENGTH):
        loop = training.Bare.__new__(training.Bare)
        loop.name, loop.module = name, encoders.load(profiles.CLIP_MINI, device="cpu").transformers_model
        texts, pictures = loop.arranged(ids, mask, pixels)
        work[name] = sum(part.numel() for part, _ in texts)
        with torch.no_grad():
            losses[name] = loop.loss(texts, pictures)
    assert work[training.BY_LENGTH] < work[training.BARE]
    torch.testing.assert_close(*losses.values())


def test_open_clip_has_the_same_towers():
    if not importlib.util.find_spec("open_clip"):
        pytest.skip("pip install --no-deps -r benchmarks/requirements.txt")
    clip = encoders.load(profiles.CLIP_MINI, device="cpu").transformers_model
    other = training.same_towers(training.import_open_clip(), clip.config)
    assert "torchvision" not in sys.modules, "the placeholder is gone again"
    assert training._size(other) == training._size(clip)
    pictures = torch.zeros(2, 3, 96, 96)
    assert other.encode_image(pictures).shape == clip.get_image_features(pictures).pooler_output.shape


def test_repeats_are_interleaved_and_ratios_taken_within_a_round():
    order, values = [], iter((10.0, 5.0, 30.0, 10.0))

    def run(name):
        order.append(name)
        return next(values)

    speeds = measure.interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=2)
    assert order == ["a", "b", "a", "b"]
    ratio = measure.ratios("topic", "a / b", speeds["a"], speeds["b"])
    assert (ratio.median, ratio.low, ratio.high, ratio.runs) == (2.5, 2.0, 3.0, 2)


def test_spread_is_the_range_of_few_values_and_the_quartiles_of_many():
    few, many = (measure.row("t", "n", "u", values) for values in ([3, 1, 2], range(101)))
    assert (few.low, few.median, few.high) == (1, 2, 3)
    assert (many.low, many.median, many.high) == (25, 50, 75)


def outcome(code):
    """What this prints in a process of its own, which has kept no memory yet."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_peak_memory_sees_what_was_freed_again():
    code = """
import torch
from benchmarks import measure
with measure.peak_memory() as found:
    block = torch.ones(50_000_000)  # 200 MB
    del block
print(found["mb"])
"""
    assert 150 < float(outcome(code)) < 400


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_memory_is_kept_for_ours_and_given_back_for_the_others():
    code = """
import resource, torch
from benchmarks.measure import keep_freed_memory
for keep in (False, True, False):
    keep_freed_memory(keep)
    torch.zeros(12_000_000).add_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.zeros(12_000_000).add_(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    given_back, kept, given_back_again = map(int, outcome(code).split())
    assert kept < min(given_back, given_back_again) / 5


def test_a_target_that_was_missed_is_said_to_be():
    rows = [
        {"topic": "start-up", "name": "import to first step", "unit": "seconds", "median": 11.0},
        {"topic": "training, clip-mini, shop", "name": "ours / plain", "unit": "times", "median": 1.2},
    ]
    judged = {one["name"]: one["reached"] for one in report.targets(rows, "cpu", "clip-mini", "2-core CPU")}
    assert judged == {"import to first step": False, "ours / plain": True}


def test_a_slow_start_is_explained():
    seconds = {"imports": 5.2, "first step": 9.5, startup.AGAIN: 1.25, startup.FRESH: 1100, startup.SYSTEM: 2}
    seconds["import to first step"] = 15.0
    rows = [asdict(measure.row("start-up", name, "seconds", [value])) for name, value in seconds.items()]
    settings = {"batch": 128, "dtype": "float32", "rounds": 1, "steps": 4}
    found = {
        "rows": rows, "profiles": [], "import_seconds": {"torch": 1.9, "scipy": 0.5}, "settings": settings,
        "versions": {}, "device": "2-core CPU", "model": "clip-mini", "minutes": 1, "python": "3.11",
        "targets": report.targets(rows, "cpu", "clip-mini", "2-core CPU"),
    }  # fmt: skip
    said = report.details(found)
    assert "imports take 5.2 s (torch 1.9 s, scipy 0.5 s)" in said
    assert "takes 9.5 s and one more 1.25 s: the first needs 1,100 MB" in said


def test_the_tables_are_those_of_the_results():
    assert RUNS, "make bench"
    for path, text in report.pages().items():
        assert path.read_text(encoding="utf-8") == text, "python -m benchmarks.bench --table"


@pytest.mark.parametrize("found", RUNS, ids=report.slug)
def test_results_are_whole_and_name_no_machine(found):
    assert not re.search(r"/(home|root|tmp|work|Users)\b|\.local|\\\\Users", json.dumps(found))
    assert (report.RESULTS / f"{report.slug(found)}.png").is_file()
    assert not found["settings"]["quick"]
    assert found["targets"] == report.targets(found["rows"], found["on"], found["model"], found["device"])
    assert len(found["profiles"]) == 2, "what says why a target was missed"


def test_make_bench_is_what_its_page_says():
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in ("-m benchmarks.bench", "--no-deps -r benchmarks/requirements.txt -c constraints.txt"):
        assert command in page and command in makefile


def test_indexes_are_measured_against_exact_search():
    rows = indexes.measure((600, 1200), pictures=40)
    assert [row["size"] for row in rows] == [600] * 14 + [1200] * 14
    for row in rows:
        assert row["ms"] > 0 and row["megabytes"] > 0 and 0 <= row["recall"] <= 1
    by_index = {}
    for row in rows:
        by_index.setdefault((row["size"], row["index"]), []).append(row["recall"])
    for (_, name), recalls in by_index.items():
        assert recalls[-1] >= (1 if name == "exact" else 0.75), (name, recalls)
        assert recalls == sorted(recalls), "a knob that costs time buys recall"
    assert indexes.details({"device": "a CPU", "rows": rows}).count("\n| ") == 10


def test_of_an_index_the_fastest_good_setting_is_told():
    def row(name, recall, ms):
        return {"size": 10, "index": name, "recall": recall, "ms": ms}

    rows = [row("HNSW", 0.8, 1), row("HNSW", 0.92, 2), row("HNSW", 0.99, 3), row("binary", 0.5, 1)]
    rows += [row("binary", 0.7, 9)]
    assert indexes.best({"rows": rows}) == [rows[1], rows[4]], "where none is good, the best"


def executed(cells):
    """A notebook as nbclient leaves it: (heading, seconds) for each code cell."""
    found = nbformat.v4.new_notebook()
    for heading, seconds in cells:
        if heading:
            found.cells.append(nbformat.v4.new_markdown_cell(f"## {heading}\n\nText.\n\n### A part of it"))
        cell = nbformat.v4.new_code_cell("1 + 1")
        times = {"busy": "2026-01-01T00:00:00.000000Z", "idle": f"2026-01-01T00:00:{seconds:09.6f}Z"}
        cell.metadata["execution"] = {f"iopub.status.{at}": time for at, time in times.items()}
        found.cells.append(cell)
    return found


def test_the_minutes_of_a_notebook_are_told_by_section():
    notebook = executed([("", 1.5), ("1. First", 2.25), ("", 3), ("2 Second", 10)])
    assert series.sections(notebook) == {"set-up": 1.5, "First": 5.2, "Second": 10.0}
    del notebook.cells[-1].metadata["execution"]
    with pytest.raises(ValueError, match="cell 6 has not been executed"):
        series.sections(notebook)


@pytest.mark.parametrize(("minutes", "word"), [(1.9, "is reached"), (2.1, "is \\*\\*not reached")])
def test_the_target_of_the_series_is_of_its_first_five_notebooks(minutes, word):
    names = [f"{number:02d}_name" for number in range(1, 9)]
    notebooks = {name: {"minutes": minutes, "sections": {"Only": 60 * minutes}} for name in names}
    found = {"device": "2-core CPU", "matmul_gflops": 300, "notebooks": notebooks}
    assert series.first_minutes(found) == pytest.approx(5 * minutes)
    assert re.search(word, series.summary(found))
    assert len(series.draw(found).axes) == 2


@pytest.mark.parametrize("topic", [series, indexes])
def test_the_page_tells_what_was_measured_of(topic):
    assert report.PAGE.read_text(encoding="utf-8") == topic.page(), f"python -m {topic.__name__}"
    for found in topic.stored():
        file = topic.RESULTS / f"{report.slug(found)}.json"
        assert file.with_suffix(".png").is_file()
        assert not re.search(r"/(home|root|tmp|work|Users)\b", file.read_text(encoding="utf-8"))
