"""Static figures for the notebooks: small PNGs, colours that colour-blind readers can tell apart.

Every function returns its Figure and closes it in pyplot, so that a notebook shows it once, as the last value
of a cell. Sheets of pictures are laid out in pixels, so that a thumbnail is never resampled twice.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from mmhelpers.course.stages import STAGES

Picture = str | Path | Image.Image
Answers = Sequence[tuple[Picture, bool | float | str | None]]  # pictures with right or wrong, a score, a word

# Okabe and Ito (2008), "Color universal design".
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY = "#56B4E9", "#CC79A7", "#7F7F7F"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY)
_MARKERS = "osD^vPX"
_DPI = 100
_FONT = {"fontsize": 8, "color": "#222222"}


def gallery(
    pictures: Sequence[Picture], captions: Sequence[str] = (), columns: int = 6, title: str = "",
    frames: Sequence[str | None] = (),
) -> Figure:  # fmt: skip
    """Contact sheet: pictures with wrapped captions below and, where given, coloured frames."""
    size, wide = 96, 150
    texts = [_wrap(caption, 23, 5) for caption in captions]
    tall = size + 22 + 13 * max((text.count("\n") + 1 for text in texts), default=0)
    columns = max(1, min(columns, len(pictures)))
    figure, place = _sheet(columns * wide, -(-len(pictures) // columns) * tall, title)
    for index, picture in enumerate(pictures):
        left, top = index % columns * wide, index // columns * tall
        spot = place(left + (wide - size) // 2, top, size, size)
        caption, frame = (given[index] if index < len(given) else None for given in (texts, frames))
        _put(spot, picture, size, frame, caption)
    return figure


def retrieval_gallery(rows: Sequence[tuple[str, Answers]], title: str = "") -> Figure:
    """One query a row: its text, then its answers from left to right.

    Args:
        rows: (query text, [(picture, label), ...]); a label of True or False draws a green or a red frame, a
            float is shown as a score, a str as it is.
    """
    size, wide, tall, text_wide = 96, 112, 126, 196
    longest = max((len(answers) for _, answers in rows), default=1)
    figure, place = _sheet(text_wide + wide * longest, tall * len(rows), title)
    for row, (query, answers) in enumerate(rows):
        text = place(0, row * tall, text_wide, size)
        text.axis("off")
        text.text(0.02, 0.5, _wrap(query, 29, 6), va="center", **_FONT)
        for column, (picture, label) in enumerate(answers):
            frame = None
            if isinstance(label, bool | np.bool_):
                frame, label = (GREEN, "right") if label else (VERMILLION, "wrong")
            elif isinstance(label, float | np.floating):
                label = f"{label:.2f}"
            _put(place(text_wide + column * wide, row * tall, size, size), picture, size, frame, label)
    return figure


def metric_bars(frame: pd.DataFrame, metric: str = "ndcg@10", split: str = "test", title: str = "") -> Figure:
    """One bar a stage with its 95 % interval, from `Scoreboard.frame()`."""
    rows = frame[(frame["metric"] == metric) & (frame["split"] == split) & (frame["slice"] == "all")]
    rows = rows.sort_values("stage", kind="stable")
    figure, axes = _axes((7, 0.55 * len(rows) + 1.3))
    colours = [STAGES[stage] for stage in rows["stage"]]
    errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    axes.barh(rows["stage"].astype(str), rows["value"], xerr=errors, capsize=4, color=colours, ecolor="#222222")
    for position, (value, high) in enumerate(zip(rows["value"], rows["high"], strict=True)):
        axes.text(high + 0.015, position, f"{value:.3f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), xlabel=f"{metric} on {split}, {rows['n_queries'].max()} queries, 95 % interval")
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    first, last = rows.iloc[0], rows.iloc[-1]
    story = f"{metric}: {first.value:.2f} {first.stage}, {last.value:.2f} {last.stage}"
    return _finish(figure, axes, title or story)


def slices(frame: pd.DataFrame, metric: str = "ndcg@10", split: str = "test", title: str = "") -> Figure:
    """Each slice of the queries with the value and interval of every stage, from `Scoreboard.frame()`."""
    rows = frame[(frame["metric"] == metric) & (frame["split"] == split)].sort_values("stage", kind="stable")
    names, stages = list(rows["slice"].unique()), list(rows["stage"].unique())
    figure, axes = _axes((max(6.5, 1.25 * len(names) + 1.5), 4))
    for index, stage in enumerate(stages):
        part = rows[rows["stage"] == stage]
        x = np.array([names.index(name) for name in part["slice"]]) + (index - (len(stages) - 1) / 2) * 0.14
        errors = [part["value"] - part["low"], part["high"] - part["value"]]
        look = {"fmt": _MARKERS[index], "color": STAGES[stage], "capsize": 2, "ms": 6}
        axes.errorbar(x, part["value"], errors, label=stage, **look)
    counts = rows.groupby("slice")["n_queries"].max()
    axes.set_xticks(range(len(names)), [f"{_wrap(name, 14, 2)}\n({counts[name]})" for name in names])
    axes.set(ylim=(0, 1.02), ylabel=f"{metric}, 95 % interval", xlabel="slice of the queries (how many)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return _finish(figure, axes, title or f"{metric} by slice on {split}")


def curve(series: Mapping[str, Sequence], xlabel: str, ylabel: str, title: str = "", log_x: bool = False) -> Figure:
    """Lines with markers: learning curves, or quality against depth or milliseconds.

    Args:
        series: label -> (x, y) or, with a band for the interval, (x, y, low, high).
    """
    figure, axes = _axes((6.5, 3.8))
    for index, (label, (x, y, *band)) in enumerate(series.items()):
        colour = PALETTE[index % len(PALETTE)]
        axes.plot(x, y, color=colour, marker=_MARKERS[index % len(_MARKERS)], ms=5, lw=1.8, label=label)
        if band:
            axes.fill_between(x, *band, color=colour, alpha=0.18, lw=0)
    if log_x:
        axes.set_xscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1:
        axes.legend(frameon=False)
    return _finish(figure, axes, title)


def _sheet(width: int, height: int, title: str):  # noqa: ANN202
    """A figure of that many pixels under its title, and a function that places axes on it in pixels."""
    head, margin = 34 if title else 6, 8
    total_width, total_height = width + 2 * margin, height + head + margin
    figure = plt.figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI, facecolor="white")
    plt.close(figure)
    at = (margin / total_width, 1 - 8 / total_height)
    figure.text(*at, title, va="top", fontsize=11, fontweight="bold")

    def place(left: int, top: int, wide: int, tall: int) -> Axes:
        bottom = total_height - head - top - tall
        box = ((left + margin) / total_width, bottom / total_height, wide / total_width, tall / total_height)
        return figure.add_axes(box)

    return figure, place


def _put(axes: Axes, picture: Picture, size: int, frame: str | None = None, below: str | None = None) -> None:
    axes.imshow(_thumbnail(picture, size), interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=4)
    axes.text(0.5, -0.07, below or "", transform=axes.transAxes, ha="center", va="top", **_FONT)


def _thumbnail(picture: Picture, size: int) -> np.ndarray:
    """uint8 array of shape (size, size, 3): the whole picture, on white where it is not square."""
    opened = picture if isinstance(picture, Image.Image) else Image.open(picture)
    image = ImageOps.exif_transpose(opened).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    square = ImageOps.pad(flat, (size, size), Image.Resampling.LANCZOS, color="white")
    return np.asarray(square.quantize(64).convert("RGB"))  # a third smaller as PNG, looks the same


def _wrap(text: str, width: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(str(text), width, max_lines=lines, placeholder=" …")).replace("$", r"\$")


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=size, dpi=_DPI)
    plt.close(figure)
    return figure, axes


def tidy(axes: Axes, title: str, **labels: str) -> None:
    """A title that says what to see, labels (xlabel, ylabel), and no lines that mean nothing."""
    axes.set(**labels)
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _finish(figure: Figure, axes: Axes, title: str) -> Figure:
    tidy(axes, title)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    figure.tight_layout()
    return figure
