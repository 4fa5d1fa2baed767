"""Where the minutes of the series go, by notebook and section, from the copies that `make run` has executed.

python -m benchmarks.series     after make run PROFILE=laptop: results/series/<machine>.json and .png
"""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from typing import Any

import nbformat
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from nbformat import NotebookNode

from benchmarks import report, training, workload
from mmhelpers.course import profiles
from mmhelpers.course.artifacts import write_atomically
from mmhelpers.course.runner import Run
from mmhelpers.viz.figures import BLUE, GREY, PALETTE

RESULTS = report.RESULTS / "series"
TARGET = 10  # minutes for 01 to 05 on two cores
FIRST = 5  # of which notebooks
HEADING = re.compile(r"^## (?:\d+\.? )?(.+)$", re.MULTILINE)


def sections(notebook: NotebookNode) -> dict[str, float]:
    """Heading -> seconds that its cells took; what comes before the first heading is the set-up.

    Raises:
        ValueError: a code cell has no times, so the notebook was not executed to its end.
    """
    found, heading = {}, "set-up"
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            heading = (HEADING.findall(cell.source) or [heading])[-1]
            continue
        times = cell.metadata.get("execution", {})
        if cell.cell_type != "code" or "raises-exception" in cell.metadata.get("tags", []):
            continue
        if "iopub.status.idle" not in times:
            raise ValueError(f"cell {number + 1} has not been executed; run the notebook again")
        start, end = (datetime.fromisoformat(times[f"iopub.status.{at}"]) for at in ("busy", "idle"))
        found[heading] = found.get(heading, 0.0) + (end - start).total_seconds()
    return {name: round(seconds, 1) for name, seconds in found.items()}


def measured(run: Run) -> dict[str, Any]:
    """What the finished notebooks of a run took: minutes in all, seconds by section.

    Raises:
        ValueError: one of the notebooks has not run as it stands now.
    """
    notebooks = {}
    for path in run.select(None):
        if not run.finished(path, nbformat.read(path, as_version=4)):
            raise ValueError(f"{path.name} has not run as it stands now: make run PROFILE=laptop")
        parts = sections(nbformat.read(run.copy(path), as_version=4))
        notebooks[path.stem] = {"minutes": run.state[path.stem]["minutes"], "sections": parts}
    peak = max(training.matmul_peak(workload.settings("cpu", "clip-mini", quick=False))) / 1e9
    about = {"device": f"{os.cpu_count()}-core CPU", "model": "clip-mini", "matmul_gflops": round(peak)}
    return {**about, "notebooks": notebooks}


def first_minutes(found: dict[str, Any]) -> float:
    """Minutes of notebooks 01 to 05, starting and ending each kernel included."""
    return sum(one["minutes"] for name, one in found["notebooks"].items() if int(name[:2]) <= FIRST)


def summary(found: dict[str, Any]) -> str:
    """For the benchmark's page: a table of minutes, and whether the target is reached."""
    minutes = [f"{one['minutes']:.1f}" for one in found["notebooks"].values()]
    table = report.table(["notebook", *(name[:2] for name in found["notebooks"])], [["minutes", *minutes]])
    total = first_minutes(found)
    word = "reached" if total < TARGET else "**not reached**"
    said = f"{found['device']} with a matmul peak of {found['matmul_gflops']:.0f} GFLOP/s"
    return f"{said}: 01 to 05 take {total:.1f} minutes; the target, less than {TARGET}, is {word}.\n\n{table}"


def draw(found: dict[str, Any], longest: int = 10) -> Figure:
    """A bar a notebook, its sections side by side; beside it, the longest sections."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), width_ratios=(1, 0.8), layout="constrained")
    plt.close(figure)
    every = [(seconds, name[:2], heading) for name, one in found["notebooks"].items()
             for heading, seconds in one["sections"].items()]  # fmt: skip
    top = sorted(every, reverse=True)[:longest]
    for place, (name, one) in enumerate(found["notebooks"].items()):
        start = 0.0
        for number, (heading, seconds) in enumerate(one["sections"].items()):
            colour = PALETTE[number % len(PALETTE)]
            left.barh(place, seconds / 60, left=start / 60, color=colour, edgecolor="white", lw=0.6)
            if (seconds, name[:2], heading) in top:
                middle = (start + seconds / 2) / 60
                rank = top.index((seconds, name[:2], heading)) + 1
                left.text(middle, place, rank, ha="center", va="center", color="white", fontweight="bold")
            start += seconds
        left.text(start / 60, place, f"  {one['minutes']:.1f}", va="center", fontsize=9)
    left.set_yticks(range(len(found["notebooks"])), [name.replace("_", " ") for name in found["notebooks"]])
    left.set_xlim(0, 1.1 * max(one["minutes"] for one in found["notebooks"].values()))
    labels = [f"{n}. {number} {heading}" for n, (_, number, heading) in enumerate(top, 1)]
    colours = [BLUE if int(number) <= FIRST else GREY for _, number, _ in top]
    right.barh(labels, [seconds / 60 for seconds, *_ in top], color=colours)
    total, share = first_minutes(found), sum(s for s, *_ in top) / sum(s for s, *_ in every)
    for axes, title in ((left, f"{found['device']}: 01 to 05 take {total:.1f} minutes"),
                        (right, f"Ten sections are {share:.0%} of the series")):  # fmt: skip
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("minutes")
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25, lw=0.6)
        axes.set_axisbelow(True)
    return figure


def stored() -> list[dict[str, Any]]:
    """The results that lie in benchmarks/results/series."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def page() -> str:
    """benchmarks/README.md as it should be."""
    runs = [f"{summary(found)}\n![minutes by notebook and section](results/series/{report.slug(found)}.png)"
            for found in stored()]  # fmt: skip
    return report.with_block("series", "\n\n".join(runs))


def main() -> None:
    found = measured(Run.open("laptop", profiles.SHOP, None, None))
    name = RESULTS / report.slug(found)
    write_atomically(name.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    draw(found).savefig(name.with_suffix(".png"), dpi=100)
    write_atomically(report.PAGE, page())
    print(summary(found))


if __name__ == "__main__":
    main()
