"""Commit a laptop run: its executed notebooks, scoreboard and picture, and the README's table of results.

python -m scripts.outputs        # after: make run ALL=1 PROFILE=laptop DATA=shop
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from mmhelpers.course.artifacts import write_atomically
from mmhelpers.evaluation import results_table

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- results:start -->", "<!-- results:end -->"
WIDGET = "application/vnd.jupyter.widget-view+json"
PLACES = {str(Path.home()), tempfile.gettempdir(), "/home", "/root", "/Users", "/tmp", "/var/folders"}
# What every notebook says of itself: the kernel, and that Colab and Kaggle should give it a GPU.
KAGGLE = {"accelerator": "nvidiaTeslaT4", "dataSources": [], "isGpuEnabled": True, "isInternetEnabled": True}
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kaggle": KAGGLE | {"language": "python", "sourceType": "notebook"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def committed(current: NotebookNode, executed: NotebookNode, root: Path = ROOT) -> NotebookNode:
    """A notebook with the outputs of its executed copy, the same wherever and whenever it ran.

    Widgets, stderr, timings of cells and addresses in memory go; the repository's path becomes ".".

    Raises: ValueError where cells are missing, or a path of this machine remains; it names cell and path.
    """
    book = nbformat.from_dict(current)
    book.metadata = nbformat.from_dict(METADATA)
    for cell in book.cells:
        kept = {key: value for key, value in cell.metadata.items() if key in ("jupyter", "tags")}
        cell.metadata = nbformat.from_dict(kept)
    for cell, done in zip(code_cells(book), code_cells(executed), strict=True):
        shown = [out for out in done.outputs if WIDGET not in out.get("data", {})]
        cell.outputs = [_plain(out, root) for out in shown if out.get("name") != "stderr"]
        cell.execution_count = done.execution_count
        if path := machine_path(cell.outputs):
            where = f"cell {book.cells.index(cell)}"
            raise ValueError(f"{where} shows a path of this machine, {path}; print it relative")
    return book


def machine_path(shown: Any) -> str | None:
    """An absolute path into somebody's home or temporary folder in text or outputs, if there is one."""
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", json.dumps(shown))
    text = re.sub(r'"image/(?!svg)[^"]*": ("[^"]*"|\[[^\]]*\])', "", text)
    places = "|".join(map(re.escape, sorted(PLACES)))
    found = re.search(rf"(?<![\w.])(?:{places}|[A-Z]:\\+Users)[/\\][\w./\\-]*", text)
    return found.group() if found else None


def with_table(readme: str, rows: list[dict[str, Any]]) -> str:
    """The README with the table between its markers made anew from the scoreboard's rows."""
    if START not in readme or END not in readme:
        raise ValueError(f"README.md lacks the markers {START} and {END}")
    part = "description" if any(row["slice"] == "description" for row in rows) else "all"
    table = results_table(rows, part=part).strip()
    return f"{readme.split(START)[0]}{START}\n{table}\n{END}{readme.split(END)[1]}"


def commit(root: Path, build: Path, artifacts: Path) -> None:
    """Outputs into the notebooks, scoreboard and picture beside them, the table into the README."""
    texts = {}
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        try:
            current, executed = (nbformat.read(place, as_version=4) for place in (path, build / path.name))
            texts[path] = nbformat.writes(committed(current, executed, root)) + "\n"
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error
    board = (artifacts / "scoreboard.json").read_text(encoding="utf-8")
    texts[root / "notebooks" / "scoreboard.json"] = board
    texts[root / "README.md"] = with_table((root / "README.md").read_text(encoding="utf-8"), json.loads(board))
    (root / "notebooks" / "images").mkdir(exist_ok=True)
    shutil.copy(artifacts / "evaluation" / "before_after.png", root / "notebooks" / "images")
    for path, text in texts.items():  # only now: an error above leaves the texts as they were
        write_atomically(path, text)


def _plain(value: Any, root: Path) -> Any:
    """Strings inside without the repository's path and addresses in memory; pictures as they are."""
    if isinstance(value, str):
        return re.sub(r" at 0x[0-9a-fA-F]{6,}", "", value.replace(str(root), "."))
    if isinstance(value, list):
        return [_plain(item, root) for item in value]
    if isinstance(value, dict):
        plain = {key: item if key.startswith("image/") else _plain(item, root) for key, item in value.items()}
        return nbformat.from_dict(plain)
    return value


if __name__ == "__main__":
    try:
        commit(ROOT, ROOT / "build" / "laptop" / "shop", ROOT / "artifacts" / "laptop" / "shop")
    except (ValueError, OSError) as problem:
        sys.exit(f"{problem}\nNothing was committed. First: make run ALL=1 PROFILE=laptop DATA=shop")
