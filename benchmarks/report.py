"""A JSON file a machine, and the tables of README.md."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.workload import DEVICE
from mmhelpers.course.artifacts import write_atomically

FOLDER = Path(__file__).resolve().parent
RESULTS, PAGE = FOLDER / "results", FOLDER / "README.md"
START, END = "<!-- tables:start -->", "<!-- tables:end -->"
LIBRARIES = ("torch", "transformers", "sentence-transformers", "faiss-cpu")


def machine() -> dict[str, Any]:
    """What ran it: the kind of device and the libraries, no name and no place."""
    device = f"{os.cpu_count()}-core CPU" if DEVICE == "cpu" else torch.cuda.get_device_name()
    return {"machine": device, "versions": {name: metadata.version(name) for name in LIBRARIES}}


def write(found: dict[str, Any], folder: Path) -> None:
    """The result as <machine>.json in `folder`; an older one of the same machine is replaced."""
    name = re.sub("[^a-z0-9]+", "-", found["machine"].lower()).strip("-")
    write_atomically(folder / f"{name}.json", json.dumps(found, indent=1) + "\n")


def page() -> str:
    """README.md with the tables of all results."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    found = [tables(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(RESULTS.glob("*.json"))]
    return f"{before}{START}\n{''.join(found)}{END}{rest.split(END)[1]}"


def tables(found: dict[str, Any]) -> str:
    """The three tables of one machine, in Markdown."""
    training, reranking, indexes = found["training"], found["reranking"], found["indexes"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    batch = "batches of {batch}, {rounds} rounds of {steps} steps".format(**training)
    cells = "{index}|{setting}|{recall:.1%}|{ms:.3g}|{megabytes:,.1f}|{build_seconds:.1f}"
    lines = (cells.format(**row).split("|") for row in indexes["rows"])
    search = f"search among {indexes['vectors']:,} vectors of {indexes['dims']} numbers"
    head = [search, "setting", "recall of the exact top 10", "ms a query", "MB", "built in s"]
    parts = [f"### {found['machine']}\n\n{versions}.\n", _spread(f"training, {batch}", training["rows"])]
    parts.append(_spread(f"reranking {reranking['candidates']} candidates", reranking["rows"]))
    return "\n".join([*parts, _table(head, lines)])


def _spread(title: str, rows: Iterable[dict[str, Any]]) -> str:
    lines = ([row["name"], _number(row["median"]), f"{_number(row['low'])} to {_number(row['high'])}",
              row["unit"], str(row["runs"])] for row in rows)  # fmt: skip
    return _table([title, "median", "spread", "unit", "runs"], lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *lines))
