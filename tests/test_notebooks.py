"""The course itself, end to end, as a learner runs it: every notebook in the smoke profile."""

from __future__ import annotations

import json
import re

import pytest
from conftest import run_smoke

from mmhelpers.course import artifacts, publish
from mmhelpers.evaluation import COLUMNS, METRICS, STAGES

COURSE = sorted(set(artifacts.MADE_BY.values()))


def test_the_course_runs(course):
    assert course.status == 0, course.said
    assert {path.stem for path in course.build.glob("[0-9][0-9]_*.ipynb")} >= set(COURSE)
    print("peak memory and minutes are in:", course.said)


@pytest.mark.parametrize("name", COURSE)
def test_every_cell_ran(course, name):
    cells = [cell for cell in publish.code_cells(course.executed(name)) if cell.source.strip()]
    cells = [cell for cell in cells if "skip-execution" not in cell.metadata.get("tags", [])]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize("name", COURSE)
def test_stubs_are_open_and_solutions_are_right(course, name):
    solutions, verdicts = 0, []
    for cell in publish.code_cells(course.executed(name)):
        solutions += "solution" in cell.metadata.get("tags", [])
        said = "".join(out.get("text", "") for out in cell.outputs)
        if "exercises.check(" in cell.source:
            verdicts += [line.split(": ", 1)[1][:7] for line in said.splitlines() if ": " in line]
    assert solutions >= 2
    assert verdicts.count("OK") == solutions, verdicts
    assert verdicts.count("not sol") == len(verdicts) - solutions, verdicts


@pytest.mark.parametrize("name", COURSE)
def test_pages_open_without_a_network(course, name):
    page = (course.build / f"{name}.html").read_text(encoding="utf-8")
    # Also inside an iframe's srcdoc, where quotes are entities.
    loads = (
        r"""<(?:script|link|img|iframe|source|video)\b[^>]*?\b(?:src|href)\s*=\s*["']?(?:https?:)?//[^\s>]+"""
    )
    for text in (page, page.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')):
        assert re.findall(loads, text) == []
        assert re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^)\s]+""", text) == []


def test_artefacts_are_whole_and_know_where_they_come_from(course):
    made = {
        path.parent.name: json.loads(path.read_text()) for path in course.artifacts.glob("*/manifest.json")
    }
    assert set(made) == set(artifacts.MADE_BY)
    for name, manifest in made.items():
        assert manifest["made_by"] == artifacts.MADE_BY[name]
        assert manifest["inputs"] or name == "dataset"
    assert not list(course.artifacts.glob(".*")), "nothing half-written"


def test_the_scoreboard_is_complete(course):
    rows = json.loads((course.artifacts / "scoreboard.json").read_text(encoding="utf-8"))
    assert all(set(row) >= set(COLUMNS) for row in rows)
    whole = {(row["stage"], row["metric"]) for row in rows if (row["split"], row["slice"]) == ("test", "all")}
    assert {(stage, metric) for stage in STAGES for metric in METRICS} <= whole
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows)
    for stage in STAGES:
        assert re.search(rf"^{stage}\s+0\.", course.said, re.MULTILINE), "the final table shows it"


def test_a_second_run_does_nothing(course):
    before = {path: path.stat().st_mtime_ns for path in course.folder.rglob("*") if path.is_file()}
    again = run_smoke(course.folder)
    assert again.status == 0 and again.said.count("finished before, nothing to do") >= len(COURSE), again.said
    assert before == {path: path.stat().st_mtime_ns for path in course.folder.rglob("*") if path.is_file()}
