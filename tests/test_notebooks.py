"""The course itself, end to end, as a learner runs it: every notebook in the smoke profile."""

from __future__ import annotations

import json
import re

import pytest
from conftest import NAMES, Done, run_smoke

from mmhelpers.course import artifacts
from mmhelpers.evaluation import COLUMNS, METRICS, STAGES
from scripts.outputs import code_cells


def test_the_course_runs(course: Done):
    assert course.status == 0, course.said
    assert {path.stem for path in course.build.glob("[0-9][0-9]_*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_ran_stubs_are_open_and_solutions_are_right(course: Done, name):
    cells = [cell for cell in code_cells(course.executed(name)) if cell.source.strip()]
    ran = [cell for cell in cells if "skip-execution" not in cell.metadata.get("tags", [])]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    solutions = sum("solution" in cell.metadata.get("tags", []) for cell in cells)
    shown = [cell.outputs for cell in cells if "exercises.check(" in cell.source]
    said = ["".join(out.text for out in outs if out.get("name") == "stdout") for outs in shown]
    verdicts = [line.split(": ", 1)[1][:7] for text in said for line in text.splitlines() if ": " in line]
    assert verdicts.count("OK") == solutions >= 2, verdicts
    assert verdicts.count("not sol") == len(verdicts) - solutions, verdicts


def test_artefacts_are_whole_and_know_where_they_come_from(course: Done):
    found = course.artifacts.glob("*/manifest.json")
    made = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in found}
    assert set(made) == set(artifacts.MADE_BY)
    for name, manifest in made.items():
        assert manifest["made_by"] == artifacts.MADE_BY[name]
        assert manifest["inputs"] or name == "dataset"
    assert not list(course.artifacts.glob(".*")), "nothing half-written"


def test_the_scoreboard_is_complete(course: Done):
    rows = json.loads((course.artifacts / "scoreboard.json").read_text(encoding="utf-8"))
    assert all(set(row) >= set(COLUMNS) for row in rows)
    whole = {(row["stage"], row["metric"]) for row in rows if (row["split"], row["slice"]) == ("test", "all")}
    assert {(stage, metric) for stage in STAGES for metric in METRICS} <= whole
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows)
    for stage in STAGES:
        assert re.search(rf"^{stage}\s+0\.", course.said, re.MULTILINE), "the final table shows it"


def test_without_a_name_to_publish_under_nothing_leaves_the_machine(course: Done):
    outputs = [out for cell in code_cells(course.executed(NAMES[6])) for out in cell.outputs]
    text = "".join(out.get("text", "") for out in outputs)
    assert "nothing was pushed" in text and "from the Hub" not in text
    cards = {path.parent.name for path in (course.artifacts / "published").glob("*/README.md")}
    assert cards == {"retriever", "reranker", "data"}


def test_a_second_run_does_nothing(course: Done):
    before = {path: path.stat().st_mtime_ns for path in course.folder.rglob("*") if path.is_file()}
    again = run_smoke(course.folder)
    assert again.status == 0 and again.said.count("finished before, nothing to do") == len(NAMES), again.said
    assert before == {path: path.stat().st_mtime_ns for path in course.folder.rglob("*") if path.is_file()}
