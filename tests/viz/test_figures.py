"""Figures say what they should, hold on odd input, and stay small enough for a notebook."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from mmhelpers.viz import figures

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve pictures: shaded, of odd shapes and modes."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for index, mode in enumerate(("RGB", "RGBA", "L", "P") * 3):
        size = [(96, 96), (300, 40), (30, 200), (1, 1)][index % 4]
        picture = Image.linear_gradient("L").resize(size).convert("RGB")
        ImageDraw.Draw(picture).ellipse((5, 5, 60, 60), fill=(20 * index, 200, 90))
        paths.append(folder / f"{index}.png")
        picture.convert(mode).save(paths[-1])
    return paths


@pytest.fixture
def board() -> pd.DataFrame:
    rows = [
        {"stage": stage, "split": "test", "slice": name, "metric": metric, "value": value,
         "low": value - 0.02, "high": value + 0.03, "n_queries": 40, "train_seconds": 1.0, "seed": 0}
        for stage, value in (("reranked", 0.8), ("zero-shot", 0.2))
        for name in ("all", "binding", "unseen combinations")
        for metric in ("recall@1", "ndcg@10")
    ]  # fmt: skip
    stages = list(figures.STAGE_COLOURS)
    return pd.DataFrame(rows).assign(stage=lambda f: pd.Categorical(f["stage"], stages, ordered=True))


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def words(figure: Figure) -> str:
    axes = [text.get_text() for axes in figure.axes for text in (axes.title, axes._left_title, *axes.texts)]
    return " ".join([*(text.get_text() for text in figure.texts), *axes])


def frames(figure: Figure) -> list[str | None]:
    spines = [axes.spines["top"] for axes in figure.axes if axes.images]
    return [to_hex(spine.get_edgecolor()) if spine.get_visible() else None for spine in spines]


def test_gallery(pictures: list[Path]) -> None:
    captions = ["price $5 and $6, " + "a very long caption " * 20] + ["short"] * 11
    frame = [figures.GREEN, None]
    figure = figures.gallery(pictures, captions, columns=5, title="Odd pictures", frames=frame)
    assert len(figure.axes) == 12 and "Odd pictures" in words(figure) and " …" in words(figure)
    assert frames(figure)[:3] == [figures.GREEN.lower(), None, None]
    assert len(png(figure)) < 150_000
    assert not plt.get_fignums(), "an open figure would be shown twice"


def test_thumbnails_are_square_whole_and_on_white(pictures: list[Path]) -> None:
    wide = figures._thumbnail(pictures[1], 48)
    assert wide.shape == (48, 48, 3) and (wide[0] == 255).all() and (wide[24] < 255).any()
    clear = figures._thumbnail(Image.new("RGBA", (10, 10), (0, 0, 0, 0)), 48)
    assert (clear == 255).all()


def test_nothing_to_show_is_an_empty_figure() -> None:
    title = "No failures"
    for figure in (figures.gallery([], title=title), figures.retrieval_gallery([], title=title)):
        assert "No failures" in words(figure) and png(figure)


def test_retrieval_gallery_frames_by_grade(pictures: list[Path]) -> None:
    labels = [3, np.int64(1), 0, 0.25, np.float32(0.5), "twin", None]
    figure = figures.retrieval_gallery([("a <mug> for $5", list(zip(pictures, labels, strict=False)))])
    assert frames(figure)[:3] == [c.lower() for c in (figures.GREEN, figures.ORANGE, figures.VERMILLION)]
    assert set(frames(figure)[3:]) == {None}
    assert all(word in words(figure) for word in ("grade 3", "grade 1", "0.25", "0.50", "twin"))
    binary = figures.retrieval_gallery([("q", [(pictures[0], 1), (pictures[1], 0)])], top_grade=1)
    assert frames(binary) == [figures.GREEN.lower(), figures.VERMILLION.lower()]


def test_similarity_matrix(pictures: list[Path]) -> None:
    matrix = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    figure = figures.similarity_matrix(matrix, ["a long text about a mug " * 9] * 4, pictures[:6], "Brighter")
    heat = next(axes for axes in figure.axes if axes.get_yticklabels() and len(axes.patches) == 4)
    assert len(heat.texts) == 24 and heat.texts[0].get_text() == f"{matrix[0, 0]:.2f}"
    assert len(png(figure)) < 150_000
    unnumbered = figures.similarity_matrix(np.eye(16), ["t"] * 16, [pictures[0]] * 16)
    assert not any("0.00" in text.get_text() for axes in unnumbered.axes for text in axes.texts)


def test_bars_and_slices_follow_the_stages(board: pd.DataFrame) -> None:
    bars = figures.metric_bars(board)
    assert words(bars).strip() == "ndcg@10: 0.20 zero-shot, 0.80 reranked 0.200 0.800"
    assert "40 queries" in bars.axes[0].get_xlabel()
    figure = figures.slices(board, "recall@1", title="Binding is hard")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["all\n(40)", "binding\n(40)", "unseen\ncombinations\n(40)"]
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["zero-shot", "reranked"]
    assert len(png(bars)) < 150_000 and len(png(figure)) < 150_000
    with pytest.raises(ValueError, match="no map@5 on test"):
        figures.metric_bars(board, "map@5")


def test_curve_with_and_without_a_band() -> None:
    x, y = np.arange(1, 20), np.linspace(0, 1, 19)
    figure = figures.curve(
        {"a": (x, y, y - 0.1, y + 0.1), "b": (x, y**2)}, "ms a query", "nDCG@10", "Up", log_x=True
    )
    axes = figure.axes[0]
    assert len(axes.lines) == 2 and len(axes.collections) == 1 and axes.get_xscale() == "log"
    assert axes.lines[0].get_marker() != axes.lines[1].get_marker()
    assert axes.get_xlabel() == "ms a query" and "Up" in words(figure)


def test_maps(pictures: list[Path]) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(500, 2))
    panels = {"before": (images + 9, images), "after": (images[:80], images[:80])}
    figure = figures.scatter_map(panels, "The gap closes")
    assert [axes.get_title() for axes in figure.axes] == ["before", "after"]
    joined = [len(axes.collections[0].get_segments()) for axes in figure.axes]
    assert joined == [150, 80] and len(png(figure)) < 200_000

    xy = np.array([[0, 0], [1, 1], [0, 0.001], [0.5, 0.5]])
    figure = figures.picture_map(xy, pictures[:4])
    assert "3 of 4 pictures" in words(figure), "the one on top of another is left out"
    assert png(figures.picture_map(np.zeros((2, 2)), pictures[:2]))
