"""One place for the course's address: pyproject.toml, notebooks and README agree, in a fork as well."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import CODE, NAMES, ROOT, TEXT

from scripts import badges
from scripts.outputs import code_cells

FORK = "Work-Shop/image.search"


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The files that carry the address, as they are here, before there was one."""
    (tmp_path / "notebooks").mkdir()
    for name in ("pyproject.toml", "README.md", *(f"notebooks/{name}.ipynb" for name in NAMES)):
        shutil.copyfile(ROOT / name, tmp_path / name)
    badges.refresh(tmp_path, badges.PLACEHOLDER)
    return tmp_path


def texts(checkout: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in checkout.rglob("*.*") if path.is_file()}


def test_notebooks_and_readme_carry_the_address_of_pyproject():
    assert badges.refresh(ROOT) == [], "make badges has brought them in line: commit that"


def test_one_command_writes_a_fork_s_address_and_nothing_else(checkout):
    before = texts(checkout)
    assert badges.refresh(checkout) == [], "done twice, nothing is left to do"
    assert set(badges.refresh(checkout, f"https://github.com/{FORK}.git")) == set(before)
    for path, text in texts(checkout).items():
        assert FORK in text and badges.PLACEHOLDER not in text
        if path.suffix == ".ipynb":
            old, new = nbformat.reads(before[path], 4), nbformat.reads(text, 4)
            assert new.cells[0].source.count(f"github.com/{FORK}/blob/main/notebooks/{path.name})") == 1
            assert new.cells[0].source.count(f"/github/{FORK}/blob/main/notebooks/{path.name})") == 1
            changed = [a for a, b in zip(old.cells, new.cells, strict=True) if a != b]
            assert changed == [old.cells[0], code_cells(old)[0]]
            assert code_cells(new)[0].outputs == code_cells(old)[0].outputs
            assert code_cells(new)[0].source.count(f"git+https://github.com/{FORK}@v") == 1
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert readme.count("[![Open in Colab]") == readme.count("[![Open in Kaggle]") == len(NAMES)
    badges.refresh(checkout, badges.PLACEHOLDER)
    assert texts(checkout) == before, "and back again"


def test_what_is_refused_leaves_everything_as_it_was(checkout):
    before = texts(checkout)
    for address in ("just-a-name", "a/b/c", "https://example.org/a/b", "a b/c"):
        with pytest.raises(ValueError, match="owner/name"):
            badges.refresh(checkout, address)
    assert texts(checkout) == before
    for cells in ([CODE("1")], [TEXT("# Title"), CODE("1")]):  # no title; no first cell of ours
        nbformat.write(nbformat.v4.new_notebook(cells=cells), checkout / "notebooks" / "99_new.ipynb")
        before = texts(checkout)
        with pytest.raises(ValueError, match="99_new.ipynb needs a title.* tagged colab"):
            badges.refresh(checkout, "some/fork")
        assert texts(checkout) == before
