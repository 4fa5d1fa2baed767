"""What all tests share: no network, no settings from outside, and small notebooks to run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: nothing is fetched by surprise
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CODE, TEXT = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Settings of the person who runs the tests do not count, and none leaks into the next test."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("MM_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def notebook(tmp_path: Path) -> Callable[..., Path]:
    """Write a notebook into tmp_path/notebooks: code cells, or (tag, code), or text that starts with #."""

    def write(name: str, *cells: str | tuple[str, str]) -> Path:
        made = []
        for cell in cells:
            tag, source = cell if isinstance(cell, tuple) else (None, cell)
            made.append(TEXT(source) if source.startswith("#") else CODE(source))
            made[-1].metadata.update({"tags": [tag]} if tag else {})
        for number, cell in enumerate(made):
            cell["id"] = f"cell-{number}"
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=made), path)
        return path

    return write
