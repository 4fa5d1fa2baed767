"""What a run leaves for readers: offline HTML, committed outputs, the README's results."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from mmhelpers.course.artifacts import write_atomically
from mmhelpers.evaluation import results_table

START, END = "<!-- results:start -->", "<!-- results:end -->"
WIDGET = "application/vnd.jupyter.widget-view+json"
BADGES = re.compile(r"^\[!\[Open in Colab\].*\n+", re.MULTILINE)  # one line, written by scripts/badges.py

# What every notebook says of itself: the kernel, and that Colab and Kaggle should give it a GPU.
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kaggle": {
        "accelerator": "nvidiaTeslaT4", "dataSources": [], "isGpuEnabled": True, "isInternetEnabled": True,
        "language": "python", "sourceType": "notebook",
    },
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}  # fmt: skip

# The template of nbconvert without its scripts, which would be fetched from the network, and with folded
# solutions.
TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block input_group -%}
{%- if "solution" in cell.metadata.get("tags", []) -%}
<details><summary>Solution</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
"""


def html(notebook: NotebookNode, title: str, folder: Path) -> str:
    """One self-contained page that opens without a network, so without the badges, which are fetched.

    Args:
        folder: where the notebook lies; pictures in its markdown are looked up from there.
    """
    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = BADGES.sub("", cell.source)
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"course.html.j2": TEMPLATE})],
        template_file="course.html.j2",
        embed_images=True,
        log=logging.Logger("nbconvert", logging.ERROR),  # it warns of every figure without another text
    )
    return exporter.from_notebook_node(
        notebook, resources={"metadata": {"name": title, "path": str(folder)}}
    )[0]


def is_set_up(cell: NotebookNode) -> bool:
    """Whether a cell is the set-up cell, the same in every notebook, which computes nothing."""
    return "colab" in cell.metadata.get("tags", [])


def with_outputs(current: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The text of one notebook with the outputs of another that has the same code cells."""
    merged = nbformat.from_dict(current)
    pairs = zip(code_cells(merged), code_cells(executed), strict=True)
    for cell, done in pairs:
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    return merged


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def normalised(notebook: NotebookNode, root: Path) -> NotebookNode:
    """An executed notebook as it is committed: the same wherever and whenever it ran.

    Widgets, stderr, timings of cells and addresses in memory go; the repository's path becomes ".".

    Raises:
        ValueError: a path of this machine remains; the message names cell and path.
    """
    result = nbformat.from_dict(notebook)
    result.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(result.cells):
        kept = {key: cell.metadata[key] for key in ("jupyter", "tags") if key in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type != "code":
            continue
        noise = [out for out in cell.outputs if out.get("name") == "stderr" or WIDGET in out.get("data", {})]
        cell.outputs = [_plain(out, root) for out in cell.outputs if out not in noise]
        if path := machine_path(cell.outputs):
            raise ValueError(f"cell {number} shows a path of this machine, {path}; print it relative")
    return result


def machine_path(outputs: list[Any]) -> str | None:
    """An absolute path into somebody's home or temporary folder that outputs show, if there is one."""
    text = [{k: v for k, v in out.get("data", {}).items() if not k.startswith("image/")} for out in outputs]
    shown = json.dumps([text, [(out.get("text"), out.get("traceback")) for out in outputs]])
    shown = re.sub(r"base64,[A-Za-z0-9+/=]+", "", shown)
    places = {str(Path.home()), tempfile.gettempdir(), "/home", "/root", "/Users", "/tmp", "/var/folders"}
    pattern = "|".join(re.escape(place) for place in sorted(places)) + r"|[A-Z]:\\+Users"
    found = re.search(rf"(?<![\w.])(?:{pattern})[/\\][\w./\\-]*", shown)
    return found.group() if found else None


def commit_outputs(build: Path, notebooks: Path, scoreboard: Path, root: Path) -> None:
    """Put executed copies, normalised, in the place of the notebooks, scoreboard and picture beside them."""
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        executed = nbformat.read(build / path.name, as_version=4)
        clean = normalised(with_outputs(nbformat.read(path, as_version=4), executed), root)
        write_atomically(path, nbformat.writes(clean) + "\n")
    write_atomically(notebooks / "scoreboard.json", scoreboard.read_text(encoding="utf-8").strip() + "\n")
    picture = scoreboard.parent / "evaluation" / "before_after.png"  # what the README opens with
    if picture.is_file():
        (notebooks / "images").mkdir(exist_ok=True)
        shutil.copyfile(picture, notebooks / "images" / picture.name)


def results_block(readme: str, rows: list[dict[str, Any]]) -> str:
    """The README with the table between its markers made anew from the scoreboard."""
    if START not in readme or END not in readme:
        raise ValueError(f"README.md lacks the markers {START} and {END}")
    before, after = readme.split(START)[0], readme.split(END)[1]
    return f"{before}{START}\n{results_table(rows).strip()}\n{END}{after}"


def _plain(value: Any, root: Path) -> Any:
    """Strings inside without the repository's path and addresses in memory; pictures as they are."""
    if isinstance(value, str):
        return re.sub(r" at 0x[0-9a-fA-F]{6,}", "", value.replace(str(root), "."))
    if isinstance(value, list):
        return [_plain(item, root) for item in value]
    if isinstance(value, dict):
        return nbformat.from_dict(
            {k: v if k.startswith("image/") else _plain(v, root) for k, v in value.items()}
        )
    return value
