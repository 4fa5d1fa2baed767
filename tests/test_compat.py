"""scripts/compat.py on a library of a few lines, in two versions; `make compat` asks the real ones."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest

from scripts import calls, compat

ROOT = Path(__file__).resolve().parents[1]

# What stands for `datasets`: the claims are made by name, so any package of that name will do.
LIBRARY = """
from typing import Self
__version__ = "1.0"

class Table:
    def __init__(self, rows, *, name=None): ...
    def select(self, rows) -> Self: ...
    def save(self, path, size=1): ...
    @property
    def first(self) -> "Row": ...

class Row:
    def show(self): ...

class Base:
    def run(self, step): ...

def load(path: str, **options) -> "Table | None": ...
"""
PACKAGE = {
    "shop": """
from datasets import Base, Table, load

def opened(path: str) -> Table:
    table = load(path, anything=1)
    table.save(path, size=2)
    return table

class Mine(Base):
    def run(self, step): ...
    def extra(self): ...
""",
}
CELLS = [
    "from mmhelpers import shop\nimport datasets\nfrom datasets import Table",
    "%matplotlib inline\ntable = shop.opened('here')",
    "options = {'size': 3}\ntable.select([1]).save('there', **options)\ntable.first.show()",
    "Table([1], name='a').save('x')\nstrange = datasets.Table",
]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A course of one module and one notebook."""
    (tmp_path / "mmhelpers").mkdir()
    (tmp_path / "notebooks").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "mmhelpers" / f"{name}.py").write_text(text)
    cells = [nbformat.v4.new_code_cell(cell, id=f"c-{number}") for number, cell in enumerate(CELLS)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_shop.ipynb")
    return tmp_path


@pytest.fixture
def problems(checkout, tmp_path, monkeypatch):
    """Compare the library as it is with a changed one; the sentences about what drifts."""
    claims = calls.collect(checkout)
    monkeypatch.setattr(compat, "LIBRARIES", ())  # it has no version on record

    def compare(*changes: tuple[str, str]) -> list[str]:
        answers = {}
        for name, changed in (("oldest", ()), ("newest", changes)):
            text = LIBRARY
            for old, new in changed:
                assert old in text
                text = text.replace(old, new)
            site = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
            site.mkdir()
            (site / "datasets.py").write_text(text)
            # The probe forgets PYTHONPATH, so a start-up script stands for the environment's Python.
            starter = site / "python"
            starter.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
            starter.chmod(0o755)
            answers[name] = compat.probe(starter, claims)
        return compat.drift(claims, answers)

    return compare


needs_sh = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for a Python is a shell script")


def test_uses_are_found_through_functions_cells_and_annotations(checkout):
    found = {(claim["where"].split(",")[0], claim["text"]) for claim in calls.collect(checkout)}
    module, book = "mmhelpers/shop.py", "01_shop.ipynb"
    assert found >= {
        (module, "import Base"),
        (module, "load(anything)"),
        (module, "table.save(size)"),
        (module, "class Mine"),
        (module, "Mine overrides run"),
        (book, "table.select()"),
        (book, "table.select([1]).save(size)"),
        (book, "table.first.show()"),
        (book, "Table(name)"),
        (book, "Table([1], name='a').save()"),
        (book, "datasets.Table"),
    }
    assert not any("opened" in text for _, text in found), "our own functions are the tests' business"


@needs_sh
def test_two_alike_libraries_have_no_drift(problems):
    assert problems() == []


@needs_sh
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("class Table:", "class Grid:", "01_shop.ipynb, cell 0, line 3: import Table: newest: "),
        ("def load(", "def read(", "mmhelpers/shop.py, line 2: import load: newest: "),
        ("size=1", "width=1", "line 6: table.save(size): newest: got an unexpected keyword argument 'size'"),
        ("size=1", "width=1", "cell 2, line 2: table.select([1]).save(size): newest: got an unexpected"),
        ("path, size=1", "path, mode, size=1", "Table([1], name='a').save(): newest: missing a required"),
        ("name=None", "label=None", "cell 3, line 1: Table(name): newest: got an unexpected keyword"),
        ("def show(self)", "def display(self)", "table.first.show(): not in newest, but in oldest"),
        ("def run(self, step)", "def step(self)", "Mine overrides run: not in newest, but in oldest"),
        (
            "def select(self, rows)",
            "def select(self)",
            "table.select(): newest: too many positional arguments",
        ),
    ],
)
def test_what_drifts_is_named_with_its_place(problems, old, new, expected):
    found = problems((old, new))
    assert any(expected in sentence for sentence in found), found


@needs_sh
def test_a_base_that_leaves_something_open_is_noticed(problems):
    change = "import abc\n\nclass Base(abc.ABC):\n    @abc.abstractmethod\n    def stop(self): ..."
    found = problems(("class Base:", change))
    assert len(found) == 1 and "class Mine: newest: it does not define stop" in found[0]


def test_the_course_itself_is_read(capsys):
    assert compat.main(["--list"]) == 0
    said = capsys.readouterr().out
    for use in ("SentenceTransformerTrainer(model, args", "mine_hard_negatives(", "Dataset.from_dict()"):
        assert use in said
    assert all(f"\n{name}.ipynb" in said for name in ("02_clip_finetuning", "04_reranker_training"))


def test_the_oldest_are_the_lower_bounds_of_the_requirements():
    bounds = (ROOT / "requirements.txt").read_text()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Supported are {', '.join(compat.oldest()).replace('==', ' ')} and newer" in readme
    for wanted in compat.oldest():
        assert f"\n{wanted.replace('==', '>=')} " in bounds


def test_a_second_change_on_colab_is_a_problem(tmp_path):
    pins = tmp_path / "pins.txt"
    pins.write_text("sentence-transformers==5.7.0\ntorch==2.11.0+cu128\nPyYAML==6.0.3\ntokenizers==0.22.2\n")
    after = {
        "sentence-transformers": "6.2.0",
        "torch": "2.11.0",
        "pyyaml": "6.0.3",
        "nvidia-nccl-cu13": "2.28",
    }
    only = {"sentence-transformers": ("5.7.0", "6.2.0")}
    assert compat.changes_on_colab(after | {"tokenizers": "0.22.2"}, pins) == only
    more = compat.changes_on_colab(after | {"tokenizers": "0.23.0", "new": "1.0"}, pins)
    assert more == only | {"tokenizers": ("0.22.2", "0.23.0"), "new": (None, "1.0")}
