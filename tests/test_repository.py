"""Dull ways in which a course breaks, found without torch and without running anything."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from mmhelpers.course import artifacts, publish

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
MODULES = sorted((ROOT / "mmhelpers").rglob("*.py"))
COURSE = sorted(set(artifacts.MADE_BY.values()))
IMPORTED_AS = {
    "pillow": "PIL",
    "umap-learn": "umap",
    "faiss-cpu": "faiss",
    "qdrant-client": "qdrant_client",
    "sentence-transformers": "sentence_transformers",
    "ir-measures": "ir_measures",
}
# Needed, though no line imports them: started as commands, or by a library.
EXCUSED = {"accelerate", "ipykernel", "jupyterlab", "onnx", "onnxscript", "protobuf", "ruff"}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def python(source: str) -> str:
    """A cell without IPython's magics, as Python."""
    return TransformerManager().transform_cell(source)


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def requirements(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return dict(re.fullmatch(r"([\w.-]+)([<>=].*)", line).groups() for line in lines if line)


def test_the_course_is_complete():
    assert {path.stem for path in NOTEBOOKS} >= set(COURSE)


@every_notebook
def test_notebook_is_valid_and_its_cells_parse(path):
    nbformat.validate(json.loads(path.read_text(encoding="utf-8")))
    for cell in publish.code_cells(read(path)):
        ast.parse(python(cell.source))


@every_notebook
def test_notebook_begins_with_a_title_and_the_set_up_cell(path):
    """Its text, address and version are held to pyproject.toml in test_badges; test_hosted runs it."""
    cells = read(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    first, *others = publish.code_cells(read(path))
    assert publish.is_set_up(first) and not any(map(publish.is_set_up, others)), "make badges"
    assert first.outputs == [], "silent on a machine of one's own"
    assert not any("pip" in cell.source and "install" in cell.source for cell in others), "set-up installs"


@every_notebook
def test_notebook_is_committed_executed_and_without_an_error(path):
    cells = [cell for cell in publish.code_cells(read(path)) if cell.source.strip()]
    cells = [cell for cell in cells if "skip-execution" not in cell.metadata.get("tags", [])]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        if "raises-exception" not in cell.metadata.get("tags", []):
            assert "error" not in [out.output_type for out in cell.outputs], cell.source


@every_notebook
def test_notebook_is_light_and_normalised(path):
    book = read(path)
    assert path.stat().st_size < 1_500_000
    assert "widgets" not in book.metadata, "GitHub refuses some of them"
    assert book.metadata.kernelspec.name == "python3"
    assert path.read_text(encoding="utf-8") == nbformat.writes(publish.normalised(book, ROOT)) + "\n", (
        "commit it with: make outputs"
    )


@every_notebook
def test_notebook_shows_no_path_of_a_machine(path):
    for cell in read(path).cells:
        assert publish.machine_path([{"text": cell.source}]) is None, cell.source
        assert publish.machine_path(cell.get("outputs", [])) is None, cell.source


@every_notebook
def test_no_result_is_typed_by_hand(path):
    """A number such as 0.61 in the prose is printed by a cell instead; a setting stands in `backticks`."""
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", cell.source, flags=re.DOTALL)
            assert not (found := re.findall(r"(?<![\w.])[01]\.\d\d+", prose)), (found, cell.source)


@every_notebook
def test_notebook_has_exercises_with_folded_solutions(path):
    cells = publish.code_cells(read(path))
    solutions = [cell for cell in cells if "solution" in cell.metadata.get("tags", [])]
    checks = [cell for cell in cells if "exercises.check(" in cell.source]
    assert len(solutions) >= 2, "at least two exercises"
    assert all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in solutions)
    assert len(checks) >= 2 * len(solutions), "a check for the learner, and one for the solution"


def test_every_requirement_is_used_and_says_by_whom():
    sources = [path.read_text(encoding="utf-8") for path in (*MODULES, *ROOT.glob("tests/*.py"))]
    sources += [path.read_text(encoding="utf-8") for path in ROOT.glob("scripts/*.py")]
    sources += [python(cell.source) for path in NOTEBOOKS for cell in publish.code_cells(read(path))]
    used = {name for source in sources for name in imports(source)}
    for name in requirements("requirements.txt"):
        assert name in EXCUSED or IMPORTED_AS.get(name, name) in used, f"nothing imports {name}"
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert line.startswith("#") or re.search(r"\S\s+# \w", line), f"who needs it? {line}"


def test_constraints_are_exact_portable_and_cover_the_requirements():
    pins = requirements("constraints.txt")
    assert all(re.fullmatch(r"==[\w.]+", version) for version in pins.values()), "no +cpu, no paths, no hosts"
    assert set(requirements("requirements.txt")) <= {name.replace("_", "-") for name in pins}


# 800 of them read data from elsewhere (figures, gitfiles, hub, more forms of a folder) with the checks that a
# course needs; what libraries can do of it, they do. 230 are `hosted`, which would otherwise stand in the
# first cell of every notebook.
LINES = 6450


def test_the_package_stays_small():
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: n for name, n in lines.items() if n > 350} == {}, "split them"
    assert sum(lines.values()) <= LINES, "something belongs in a library, or in a notebook"


def test_the_package_data_travels_with_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["package-data"]["mmhelpers"] == ["*.html", "clip_mini/**/*"]
    weights = list((ROOT / "mmhelpers" / "clip_mini").glob("**/*.safetensors"))
    assert weights and sum(path.stat().st_size for path in weights) < 16e6


def test_ci_runs_the_test_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make run" in readme and "make test" in readme
    for command in ("-m mmhelpers.course.runner run", "-m pytest", "-m jupyterlab", "-r requirements.txt"):
        assert command in readme, f"{command}: for people without make"


def test_the_results_in_the_readme_are_those_of_the_notebooks():
    rows = json.loads((ROOT / "notebooks" / "scoreboard.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert publish.results_block(readme, rows) == readme, "python -m mmhelpers.course.runner table"
