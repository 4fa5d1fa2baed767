"""One place for the course's address: pyproject.toml, notebooks and README agree, in a fork as well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import NAMES, ROOT, git

from mmhelpers.course import publish
from scripts import badges


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The files that carry the address, as they are here."""
    (tmp_path / "notebooks").mkdir()
    for name in ("pyproject.toml", "README.md", *(f"notebooks/{name}.ipynb" for name in NAMES)):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def results(path: Path) -> list[tuple[int, list]]:
    cells = publish.code_cells(nbformat.read(path, as_version=4))
    return [(cell.execution_count, cell.outputs) for cell in cells]


def test_notebooks_and_readme_carry_the_address_of_pyproject(checkout):
    assert badges.refresh(checkout) == [], "in line again with: make badges"


def test_one_command_rewrites_a_fork_and_nothing_else(checkout):
    before = {path: path.read_text(encoding="utf-8") for path in checkout.rglob("*.*") if path.is_file()}
    ran = {path: results(path) for path in before if path.suffix == ".ipynb"}
    old = badges.Course.read(checkout).repository
    changed = badges.refresh(checkout, "https://github.com/Work-Shop/image.search.git")
    assert set(changed) == set(before)
    for path, text in before.items():
        new = path.read_text(encoding="utf-8")
        assert new.replace("Work-Shop/image.search", old) == text, "nothing else has changed"
        assert f"github.com/{old}" not in new and f"github/{old}" not in new and f'"{old}' not in new
    assert {path: results(path) for path in ran} == ran
    assert badges.refresh(checkout) == [], "done twice, nothing is left to do"
    badges.refresh(checkout, old)
    assert {path: path.read_text(encoding="utf-8") for path in before} == before, "and back again"


@pytest.mark.parametrize("name", NAMES)
def test_badges_open_the_notebook_they_stand_on(name):
    course = badges.Course.read(ROOT)
    title, empty, line, *_ = (
        nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells[0].source.splitlines()
    )
    assert title.startswith("# ") and not empty
    place = f"{course.repository}/blob/{badges.BRANCH}/notebooks/{name}.ipynb)"
    assert line.count(place) == 2
    assert f"(https://colab.research.google.com/github/{place}" in line
    assert f"(https://kaggle.com/kernels/welcome?src=https://github.com/{place}" in line
    assert line in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("address", ["just-a-name", "a/b/c", "https://example.org/a/b", "a b/c", ""])
def test_an_address_that_is_none_is_refused_and_nothing_is_written(checkout, address):
    before = (checkout / "pyproject.toml").read_text()
    with pytest.raises(ValueError, match="owner/name"):
        badges.owner_name(address)
    if address:
        with pytest.raises(ValueError, match="owner/name"):
            badges.refresh(checkout, address)
    assert (checkout / "pyproject.toml").read_text() == before


def test_a_broken_notebook_leaves_everything_as_it_was(checkout):
    broken = checkout / "notebooks" / "99_no_title.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", id="a")]), broken)
    before = (checkout / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="99_no_title.ipynb does not begin with a title"):
        badges.refresh(checkout, "some/fork")
    assert (checkout / "README.md").read_text(encoding="utf-8") == before


def test_a_new_notebook_gets_badges_set_up_cell_and_metadata(checkout):
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    cells = [text("# 99 · New\n\nWords.", id="a"), text("More words.", id="b"), code("1 + 1", id="c")]
    path = checkout / "notebooks" / "99_new.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert badges.refresh(checkout) == [path]
    book = nbformat.read(path, as_version=4)
    nbformat.validate(json.loads(path.read_text(encoding="utf-8")))
    kinds = [cell.cell_type for cell in book.cells]
    assert kinds == ["markdown", "markdown", "code", "code"] and publish.is_set_up(book.cells[2])
    course = badges.Course.read(checkout)
    assert book.cells[0].source == f"# 99 · New\n\n{course.badges('99_new')}\n\nWords."
    assert book.cells[2].source == course.set_up and book.cells[3].source == "1 + 1"
    assert book.metadata == publish.METADATA
    assert badges.refresh(checkout) == []


def test_outputs_that_are_committed_again_keep_all_of_it(checkout, tmp_path):
    """An executed copy, with another kernel's metadata and cells' timings, put in the notebook's place."""
    badges.refresh(checkout, "some/fork")
    path = checkout / "notebooks" / f"{NAMES[0]}.ipynb"
    before = path.read_text(encoding="utf-8")
    executed = nbformat.read(path, as_version=4)
    executed.metadata = nbformat.from_dict({"kernelspec": {"name": "mine", "display_name": "Mine"}})
    executed.cells[-1].metadata["execution"] = {"iopub.status.busy": "2026"}
    build = tmp_path / "build"
    build.mkdir()
    for name in NAMES:
        shutil.copyfile(checkout / "notebooks" / f"{name}.ipynb", build / f"{name}.ipynb")
    nbformat.write(executed, build / path.name)
    board = build / "scoreboard.json"
    board.write_text("[]")
    publish.commit_outputs(build, checkout / "notebooks", board, checkout)
    assert path.read_text(encoding="utf-8") == before
    metadata = nbformat.read(path, as_version=4).metadata
    assert metadata.accelerator == "GPU" and metadata.colab.gpuType == "T4" and metadata.kaggle.isGpuEnabled


def test_pages_that_open_offline_have_no_badges(checkout):
    book = nbformat.read(checkout / "notebooks" / f"{NAMES[0]}.ipynb", as_version=4)
    book.cells = badges.with_set_up(book, NAMES[0], badges.Course.read(checkout)).cells[:2]
    page = publish.html(book, NAMES[0], checkout / "notebooks")
    assert "colab-badge" not in page and "open-in-kaggle" not in page and "You will be able to" in page
    assert "colab-badge" in book.cells[0].source, "the notebook keeps them"


def test_a_package_that_has_moved_on_since_its_tag_is_noticed(checkout):
    tag = f"v{badges.Course.read(checkout).version}"
    (checkout / "mmhelpers").mkdir()
    module = checkout / "mmhelpers" / "some.py"
    module.write_text("VALUE = 1\n")
    assert badges.moved_on(checkout) is None, "no git checkout, nothing to compare"
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "First")
    module.write_text("VALUE = 2\n")
    assert badges.moved_on(checkout) is None, "not released yet"
    git(checkout, "tag", tag)
    assert f"changed since {tag}" in badges.moved_on(checkout)
    git(checkout, "commit", "-qam", "Second")
    assert "raise the version" in badges.moved_on(checkout)
    git(checkout, "tag", "-f", tag)
    assert badges.moved_on(checkout) is None


def test_the_version_is_raised_with_the_first_change_after_a_release():
    assert badges.moved_on(ROOT) is None, badges.moved_on(ROOT)
