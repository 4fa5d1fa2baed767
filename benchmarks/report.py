"""What a run leaves: a JSON file and a picture by device and model, and the tables of both README.md."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import startup
from benchmarks.measure import Row
from benchmarks.workload import Settings
from mmhelpers.viz.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "benchmarks" / "README.md"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
COLOURS = {"ours": BLUE, "bare loop": GREEN, "bare loop, by length": GREEN, "open_clip": ORANGE}
PHOTOS, RERANKING = "training, photos, 224 px tower", "reranking 100 candidates"


def targets(rows: Iterable[dict[str, Any]], on: str, model: str, device: str) -> list[dict[str, Any]]:
    """What the course promises of its speed, and whether the median reaches it."""
    found = {(one["topic"], one["name"]): one for one in rows}
    shop, cpu, limit = f"training, {model}, shop", on == "cpu", 0.95 if on == "cpu" else 0.9
    wanted = [(work, f"ours / {bare}", ">=", limit) for work in (shop, PHOTOS)
              for bare in ("bare loop", "bare loop, by length")]  # fmt: skip
    wanted.append((RERANKING, "re-encoded / kept states", ">=", 15))
    if cpu:
        wanted += [(shop, "ours / plain", ">=", 1.2), (PHOTOS, "ours / plain", ">=", 2)]
        wanted += [(RERANKING, "kept states", "<", 40), ("start-up", "import to first step", "<", 10)]
    elif "H100" in device:
        wanted.append((PHOTOS, "ours / plain", ">=", 5))
    judged = []
    for topic, name, sign, bound in wanted:
        if one := found.get((topic, name)):
            reached = one["median"] >= bound if sign == ">=" else one["median"] < bound
            judged.append({"topic": topic, "name": name, "target": f"{sign} {bound:g}", "reached": reached})
    return judged


def result(
    chosen: Settings, rows: Sequence[Row], losses: dict[str, Any], profiles: list[Any],
    imports: dict[str, float], seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """All of a run, without a word of where the machine is or what it is called."""
    cpu = chosen.device == "cpu"
    device = f"{os.cpu_count()}-core CPU" if cpu else torch.cuda.get_device_name()
    table = [asdict(one) for one in rows]
    libraries = ["torch", "transformers", "sentence-transformers", "datasets"]
    libraries += ["open_clip_torch"] * bool(util.find_spec("open_clip"))
    return {
        "device": device,
        "on": chosen.device,
        "model": chosen.model,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in libraries},
        "settings": {key: value for key, value in asdict(chosen).items() if key not in ("device", "model")},
        "minutes": round(seconds / 60, 1),
        "rows": table,
        "targets": targets(table, chosen.device, chosen.model, device),
        "first_losses": losses,
        "profiles": profiles,
        "import_seconds": imports,
    }


def write(found: dict[str, Any], folder: Path) -> None:
    """<slug>.json and <slug>.png in `folder`; a result of the same device and model is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{slug(found)}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found).savefig(folder / f"{slug(found)}.png", dpi=100)


def slug(found: dict[str, Any]) -> str:
    """The device, and the model unless it is clip-mini, as a file name."""
    name = found["device"] if found["model"] == "clip-mini" else f"{found['device']} {found['model']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def stored() -> list[dict[str, Any]]:
    """The results that lie in benchmarks/results."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def pages() -> dict[Path, str]:
    """Both README.md as they should be: the course's with a summary, the benchmark's with everything."""
    found = {}
    for path, tell in ((ROOT / "README.md", summary), (PAGE, details)):
        page = path.read_text(encoding="utf-8")
        before, rest = page.split(START)
        text = "\n".join(map(tell, stored())).strip()
        found[path] = f"{before}{START}\n{text}\n{END}{rest.split(END)[1]}"
    return found


def with_block(name: str, text: str) -> str:
    """The benchmark's page with `text` between the marks <!-- name:start --> and <!-- name:end -->."""
    before, rest = PAGE.read_text(encoding="utf-8").split(f"<!-- {name}:start -->")
    after = rest.split(f"<!-- {name}:end -->")[1]
    text = text or f"Not measured yet: `python -m benchmarks.{name}`."
    return f"{before}<!-- {name}:start -->\n{text}\n<!-- {name}:end -->{after}"


def summary(found: dict[str, Any]) -> str:
    """For the project's page: training pairs a second, and the targets."""
    rows = {(one["topic"], one["name"]): one for one in found["rows"] if one["unit"] == "pairs/s"}
    topics = [topic for topic in dict.fromkeys(t for t, _ in rows) if topic.startswith("training, ")]
    head = ["pairs a second in training", *(topic.removeprefix("training, ") for topic in topics)]
    names = dict.fromkeys(name for topic, name in rows if topic in topics)
    lines = [[name, *(_measured(rows.get((topic, name))) for topic in topics)] for name in names]
    about = f"{found['device']}, {found['model']}, batches of {found['settings']['batch']}: median [spread]"
    return f"{about}\n\n{table(head, lines)}\n{_targets(found)}"


def details(found: dict[str, Any]) -> str:
    """For the benchmark's page: every number with its spread, and the profiles."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    sizes = "batch {batch}, {dtype}, {rounds} rounds of {steps} steps".format(**found["settings"])
    parts = [f"### {found['device']}, {found['model']}\n"]
    parts.append(f"{found['minutes']:g} minutes; {sizes}; Python {found['python']}, {versions}.\n")
    parts.append(_targets(found))
    for topic in dict.fromkeys(one["topic"] for one in found["rows"]):
        lines = [[one["name"], _number(one["median"]), _spread(one), one["unit"], str(one["runs"])]
                 for one in found["rows"] if one["topic"] == topic]  # fmt: skip
        parts.append(table([topic, "median", "spread", "unit", "runs"], lines))
    for one in found["profiles"]:
        shown = ", ".join(f"{name} {value:g}" for name, value in one["milliseconds"].items())
        parts.append(f"One step of ours ({one['workload']}), milliseconds: {shown}. Outside forward, "
                     f"backward and optimiser: {one['outside']:.1%}.\n")  # fmt: skip
        lines = [[f"`{each['operator']}`", f"{each['ms']:g}", f"{each['share']:.1%}", str(each["calls"])]
                 for each in one["operators"]]  # fmt: skip
        parts.append(table(["operator (self time)", "ms", "share", "calls"], lines))
    slow = ", ".join(f"{name} {seconds:g}" for name, seconds in found["import_seconds"].items())
    return "\n".join([*parts, f"Seconds of the imports by package (`python -X importtime`): {slow}.\n"])


def _targets(found: dict[str, Any]) -> str:
    rows = {(one["topic"], one["name"]): one for one in found["rows"]}
    lines = []
    for one in found["targets"]:
        row = rows[one["topic"], one["name"]]
        what, bound = f"{one['topic']}: {one['name']}", f"{one['target']} {row['unit']}"
        lines.append([what, bound, _measured(row), "yes" if one["reached"] else "**no**"])
    return table(["target", "", "measured", "reached"], lines) + _why(found, rows)


def _why(found: dict[str, Any], rows: dict[tuple[str, str], dict[str, Any]]) -> str:
    """For each target that was missed and of which the run knows the reason, a sentence."""
    lines = []
    for one in found["targets"]:
        topic, name = one["topic"], one["name"]
        step = next((each for each in found["profiles"] if f"training, {each['workload']}" == topic), None)
        if one["reached"] or not (step or topic == "start-up"):
            continue
        because = _bounds(topic, name, step, rows) if step else _start(found, rows)
        lines.append(f"\nWhy *{topic}: {name}* is missed: {because}.\n")
    return "".join(lines)


def _bounds(topic: str, name: str, step: dict[str, Any], rows: dict[tuple[str, str], dict[str, Any]]) -> str:
    """What a ratio of ours could be at most, from the profile and the limit of the same run."""
    other = name.removeprefix("ours / ")
    limit = rows[topic, "bare loop, by length"]["median"] / rows[topic, other]["median"]
    parts = f"{1 - step['outside']:.1%} of a step of ours is forward, backward and optimiser"
    return f"{parts}; with all else free, as in the bare loop by length, it would be {limit:.2f}"


def _start(found: dict[str, Any], rows: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Where the seconds of the start go."""
    took = {name: _number(one["median"]) for (topic, name), one in rows.items() if topic == "start-up"}
    largest = list(found["import_seconds"].items())[:5]
    others = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in largest)
    return (
        f"imports take {took[startup.PARTS[0]]} s ({others}); the first "
        f"step takes {took[startup.PARTS[-1]]} s and one more {took[startup.AGAIN]} s: the first needs "
        f"{took[startup.FRESH]} MB of new memory, and {took[startup.SYSTEM]} s of the system"
    )


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; all but the first column stand to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *lines))


def _measured(one: dict[str, Any] | None) -> str:
    return f"{_number(one['median'])} [{_spread(one)}]" if one else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(one: dict[str, Any]) -> str:
    return f"{_number(one['low'])} to {_number(one['high'])}" if one["runs"] > 1 else "one run"


def draw(found: dict[str, Any]) -> Figure:
    """One picture of a run: training, a step's parts, what caches bring, growth."""
    figure, grid = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    plt.close(figure)
    rows = found["rows"]
    for axes, topic in zip(grid[0], (f"training, {found['model']}, shop", PHOTOS), strict=False):
        _speeds(axes, [one for one in rows if one["topic"] == topic])
    _parts(grid[0][2], found["profiles"])
    _gains(grid[1][0], rows)
    _growth(grid[1][1], rows, "growth: batch size", "pairs in a batch", "pairs a second")
    _growth(grid[1][2], rows, "growth: pictures", "pictures (random vectors)", "time, as the legend says")
    figure.suptitle(f"{found['device']}, {found['model']}", fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure


def _speeds(axes: Axes, rows: list[dict[str, Any]]) -> None:
    times = {one["name"]: one["median"] for one in rows if one["unit"] == "times"}
    rows = [one for one in rows if one["unit"] == "pairs/s"]
    names = [one["name"] for one in rows]
    colours = [COLOURS.get(name, GREY) for name in names]
    axes.barh(names, [one["median"] for one in rows], xerr=_ends(rows), capsize=3, color=colours)
    for place, one in enumerate(rows):
        axes.text(one["high"], place, f" {_number(one['median'])}", va="center", fontsize=9)
    axes.set_xlim(0, 1.15 * max(one["high"] for one in rows))
    axes.invert_yaxis()
    plain, bare = times["ours / plain"], times["ours / bare loop"]
    story = f"ours: {plain:.2f} times plain, {bare:.2f} times bare"
    _finish(axes, f"{rows[0]['topic'].capitalize()}\n{story}", "pairs a second; whiskers: all rounds")


def _parts(axes: Axes, profiles: list[dict[str, Any]]) -> None:
    for place, one in enumerate(profiles):
        left, whole = 0.0, sum(one["milliseconds"].values())
        colours = (BLUE, SKY, PURPLE, GREEN, ORANGE, GREY)
        for (part, value), colour in zip(one["milliseconds"].items(), colours, strict=True):
            share = 100 * value / whole
            axes.barh(place, share, left=left, color=colour, label=None if place else part)
            left += share
    axes.set_yticks(range(len(profiles)), [one["workload"].replace(", ", ",\n") for one in profiles])
    axes.set_ylim(-0.6, len(profiles) + 0.3)
    axes.legend(ncols=3, frameon=False, fontsize=8, loc="upper center")
    most = max(one["outside"] for one in profiles)
    _finish(axes, f"A step of ours: at most {most:.1%} is spent\noutside forward, backward, optimiser",
            "% of the step")  # fmt: skip


def _gains(axes: Axes, rows: list[dict[str, Any]]) -> None:
    names = {"ours / plain": "", "image cache / paths": "encoding pictures", "paths / image cache": "mining",
             "re-encoded / kept states": "reranking", "plain / ours": "training until good"}  # fmt: skip
    shown = [one for one in rows if one["name"] in names]
    labels = [names[one["name"]] or one["topic"].replace(", ", ",\n", 1) for one in shown]
    axes.errorbar([one["median"] for one in shown], range(len(shown)), xerr=_ends(shown), fmt="o", color=BLUE,
                  capsize=4)  # fmt: skip
    for place, one in enumerate(shown):
        axes.text(one["high"] * 1.08, place, f"{_number(one['median'])} times", va="center", fontsize=9)
    axes.axvline(1, color=VERMILLION, lw=0.8)
    axes.set_xscale("log")
    axes.set_xlim(0.7, 3 * max(one["high"] for one in shown))
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_yticks(range(len(shown)), labels)
    axes.invert_yaxis()
    top = max(range(len(shown)), key=lambda place: shown[place]["median"])
    story = f"{labels[top]}, {_number(shown[top]['median'])} times as fast"
    _finish(axes, f"What ours brings: most in {story.partition(', ')[0]},\n{story.partition(', ')[2]}",
            "times as fast as without (log scale)")  # fmt: skip


def _growth(axes: Axes, rows: list[dict[str, Any]], topic: str, xlabel: str, ylabel: str) -> None:
    lines: dict[str, list[dict[str, Any]]] = {}
    for one in rows:
        if one["topic"] == topic:
            lines.setdefault(one["name"].rpartition(", ")[0], []).append(one)
    for (name, line), colour, marker in zip(lines.items(), (BLUE, GREEN), "os", strict=True):
        sizes = [int(re.sub(r"\D", "", one["name"].rpartition(", ")[2])) for one in line]
        label = f"{name} ({line[0]['unit']})"
        axes.errorbar(sizes, [one["median"] for one in line], yerr=_ends(line), marker=marker, color=colour,
                      capsize=3, label=label)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    if line[0]["unit"] == "pairs/s":
        axes.set_ylim(0)
    else:
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8)
    factors = [f"{name.partition(' for')[0]} {line[-1]['median'] / line[0]['median']:.2g}"
               for name, line in lines.items()]  # fmt: skip
    story = f"{sizes[-1] / sizes[0]:.0f} times as many {xlabel.partition(' (')[0]}"
    _finish(axes, f"{story}:\n{', '.join(factors)} times", f"{xlabel}, log scale", ylabel)


def _ends(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.array([[one["median"] - one["low"], one["high"] - one["median"]] for one in rows]).T


def _finish(axes: Axes, title: str, xlabel: str, ylabel: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
