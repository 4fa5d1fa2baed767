"""An executed notebook as one HTML page that opens without a network."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from nbformat import NotebookNode

# nbconvert's page without its scripts, which would be fetched from the network, and with folded solutions.
SCRIPTS = ("html_head_js", "jupyter_widgets", "html_head_js_mathjax", "html_head_js_mermaidjs")
TEMPLATE = (
    "{%- extends 'lab/index.html.j2' -%}"
    + "".join(f"{{%- block {name} -%}}{{%- endblock -%}}" for name in SCRIPTS)
    + "{%- block input_group -%}{%- if 'solution' in cell.metadata.get('tags', []) -%}"
    + "<details><summary>Solution</summary>{{ super() }}</details>"
    + "{%- else -%}{{ super() }}{%- endif -%}{%- endblock -%}"
)


def html(notebook: NotebookNode, path: Path) -> str:
    """One self-contained HTML page; badges go, since they are fetched from the network."""
    book = nbformat.from_dict(notebook)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(?m)^\[!\[Open in Colab\].*\n+", "", cell.source)
    where = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"course.html.j2": TEMPLATE})], template_file="course.html.j2",
        embed_images=True, log=logging.Logger("nbconvert", logging.ERROR),
    )  # fmt: skip
    return exporter.from_notebook_node(book, resources=where)[0]
