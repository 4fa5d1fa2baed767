"""Figures say what they should, hold on odd input, and stay small enough for a notebook."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from mmhelpers.course.stages import STAGES
from mmhelpers.viz import figures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve pictures: shaded, of odd shapes and modes."""
    folder, paths = tmp_path_factory.mktemp("pictures"), []
    for index, mode in enumerate(("RGB", "RGBA", "L", "P") * 3):
        size = [(96, 96), (300, 40), (30, 200), (1, 1)][index % 4]
        picture = Image.linear_gradient("L").resize(size).convert("RGB")
        ImageDraw.Draw(picture).ellipse((5, 5, 60, 60), fill=(20 * index, 200, 90))
        paths.append(folder / f"{index}.png")
        picture.convert(mode).save(paths[-1])
    return paths


def words(figure: Figure) -> str:
    """All that a figure says, once it is drawn: closed in pyplot, and a small PNG."""
    assert not plt.get_fignums(), "an open figure would be shown twice"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert len(buffer.getvalue()) < 150_000
    axes = [text.get_text() for axes in figure.axes for text in (axes.title, axes._left_title, *axes.texts)]
    return " ".join([*(text.get_text() for text in figure.texts), *axes]).strip()


def frames(figure: Figure) -> list[str | None]:
    spines = [axes.spines["top"] for axes in figure.axes if axes.images]
    return [to_hex(s.get_edgecolor()).upper() if s.get_visible() else None for s in spines]


def test_galleries_frame_and_caption_their_pictures(pictures: list[Path]) -> None:
    captions = ["price $5 and $6, " + "a very long caption " * 20] + ["short"] * 11
    figure = figures.gallery(pictures, captions, columns=5, title="Odd pictures", frames=[figures.GREEN, None])
    assert len(figure.axes) == 12 and frames(figure) == [figures.GREEN] + [None] * 11
    assert "Odd pictures" in words(figure) and words(figure).count("short") == 11 and " …" in words(figure)
    wide = figure.axes[1].images[0].get_array()  # 300 x 40: whole, in a square, on white
    assert wide.shape[0] == wide.shape[1] and (wide[0] == 255).all() and (wide[len(wide) // 2] < 255).any()

    labels = [True, np.bool_(False), 0.25, np.float32(0.5), "twin", None]
    figure = figures.retrieval_gallery([("a <mug> for $5", list(zip(pictures, labels, strict=False)))])
    assert frames(figure) == [figures.GREEN, figures.VERMILLION] + [None] * 4
    assert all(word in words(figure) for word in ("<mug>", "right", "wrong", "0.25", "0.50", "twin"))
    for figure in (figures.gallery([], title="No failures"), figures.retrieval_gallery([], "No failures")):
        assert words(figure) == "No failures"


def test_bars_and_slices_follow_the_stages() -> None:
    board = pd.DataFrame(
        {"stage": stage, "split": "test", "slice": name, "metric": metric, "value": value,
         "low": value - 0.02, "high": value + 0.03, "n_queries": 40}
        for stage, value in (("reranked", 0.8), ("zero-shot", 0.2))
        for name in ("all", "binding", "unseen combinations")
        for metric in ("recall@1", "ndcg@10")
    )  # fmt: skip
    board["stage"] = pd.Categorical(board["stage"], list(STAGES), ordered=True)
    bars = figures.metric_bars(board)
    assert words(bars) == "ndcg@10: 0.20 zero-shot, 0.80 reranked 0.200 0.800"
    assert [round(bar.get_width(), 3) for bar in bars.axes[0].patches] == [0.2, 0.8]
    assert "40 queries" in bars.axes[0].get_xlabel()
    figure = figures.slices(board, "recall@1", title="Binding is hard")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["all\n(40)", "binding\n(40)", "unseen\ncombinations\n(40)"]
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["zero-shot", "reranked"]
    assert words(figure) == "Binding is hard"


def test_curve_with_and_without_a_band() -> None:
    x, y = np.arange(1, 20), np.linspace(0, 1, 19)
    series = {"a": (x, y, y - 0.1, y + 0.1), "b": (x, y**2)}
    figure = figures.curve(series, "ms a query", "nDCG@10", "Up", log_x=True)
    (axes,) = figure.axes
    assert len(axes.lines) == 2 and len(axes.collections) == 1 and axes.get_xscale() == "log"
    assert axes.lines[0].get_marker() != axes.lines[1].get_marker()
    assert (axes.get_xlabel(), axes.get_ylabel(), words(figure)) == ("ms a query", "nDCG@10", "Up")
    figures.tidy(axes, "Down", xlabel="s")
    assert (axes.get_xlabel(), words(figure)) == ("s", "Down") and not axes.spines["top"].get_visible()
