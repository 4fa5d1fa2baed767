"""The map: one file, no network, nothing a caption says can break out of it."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmhelpers.viz import atlas

NASTY = "</script><script>document.title='broken'</script><!-- {{title}} & \"a\" 'b' \u2028 <img src=x>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{index}.png" for index in range(20)]
    for index, path in enumerate(paths):
        Image.new("RGB", (96, 60 if index % 2 else 96), (12 * index, 90, 200)).save(path)
    return paths


def inputs(pictures: list[Path], **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    n, m = len(pictures), 6
    return {
        "pictures": pictures, "captions": [f"picture {i} of a mug" for i in range(n)],
        "texts": [f"text {i}" for i in range(m)],
        "picture_xy": rng.normal(size=(n, 2)) * 5, "text_xy": rng.normal(size=(m, 2)) + 3,
        "picture_embeddings": rng.normal(size=(n, 4)), "text_embeddings": rng.normal(size=(m, 4)) * 9,
        "groups": ["mugs" if i < 15 else "hats" for i in range(n)],
    } | changes  # fmt: skip


def data_of(path: Path) -> dict[str, Any]:
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_points_neighbours_groups_and_sheet(pictures: list[Path], tmp_path: Path) -> None:
    given = inputs(pictures)
    data = data_of(atlas.write(tmp_path / "map.html", **given, title="A shop", neighbours=3))
    points = data["points"]
    assert len(points) == 26 and data["images"] == 20
    assert [group["name"] for group in data["groups"]] == ["mugs", "hats", "text"]
    assert [point["group"] for point in points] == [0] * 15 + [1] * 5 + [2] * 6
    a = given["picture_embeddings"] / np.linalg.norm(given["picture_embeddings"], axis=1, keepdims=True)
    b = given["text_embeddings"] / np.linalg.norm(given["text_embeddings"], axis=1, keepdims=True)
    assert points[4]["near"] == [20 + int(j) for j in np.argsort(-(b @ a[4]))[:3]]
    assert points[22]["near"] == np.argsort(-(a @ b[2]))[:3].tolist()
    xy = np.array([[point["x"], point["y"]] for point in points])
    assert xy.min() == 0 and xy.max() == 1
    assert np.argmax(xy[:20, 1]) == np.argmin(given["picture_xy"][:, 1]), "up stays up"
    sheet = Image.open(io.BytesIO(base64.b64decode(data["sprite"].split(",")[1])))
    assert sheet.size == (5 * 48, 4 * 48)
    centre = sheet.getpixel((7 % 5 * 48 + 24, 7 // 5 * 48 + 24))
    assert np.abs(np.subtract(centre, (84, 90, 200))).max() < 12


def test_the_page_names_no_network(pictures: list[Path], tmp_path: Path) -> None:
    page = atlas.write(tmp_path / "map.html", **inputs(pictures)).read_text()
    assert (
        "://" not in page
        and "@import" not in page
        and not re.search(r"\b(fetch|XMLHttpRequest|WebSocket)\b", page)
    )
    for tag, attributes in Elements(page).found:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "href", "srcset", "action"} & set(attributes)
    assert "default-src 'none'" in page


def test_nothing_breaks_out(pictures: list[Path], tmp_path: Path) -> None:
    plain = atlas.write(tmp_path / "plain.html", **inputs(pictures)).read_text()
    nasty = inputs(pictures, captions=[NASTY] * 20, texts=[NASTY] * 6, groups=[NASTY] * 20)
    path = atlas.write(tmp_path / "nasty.html", **nasty, title=NASTY)
    page = path.read_text(encoding="utf-8")
    assert [tag for tag, _ in Elements(page).found] == [tag for tag, _ in Elements(plain).found]
    assert data_of(path)["points"][0]["text"] == NASTY and data_of(path)["groups"][0]["name"] == NASTY
    assert page.count("{{title}}") > 1, "a caption is no template"
    frame = atlas.show(path).data
    assert [tag for tag, _ in Elements(frame).found] == ["div", "iframe"]
    attributes = Elements(frame).found[1][1]
    assert attributes["sandbox"] == "allow-scripts" and attributes["srcdoc"] == page


def test_many_groups_share_a_grey_and_long_texts_are_cut(pictures: list[Path], tmp_path: Path) -> None:
    given = inputs(pictures * 2, groups=[str(min(i, 29)) for i in range(40)], captions=["word " * 500] * 40)
    data = data_of(atlas.write(tmp_path / "map.html", **given))
    assert len(data["groups"]) == 17 and data["groups"][0]["name"] == "29"
    assert data["groups"][-2]["name"] == "other" and data["points"][28]["group"] == 15
    assert len(data["points"][0]["text"]) == 300
    bare = data_of(atlas.write(tmp_path / "map.html", **inputs(pictures, groups=None)))
    assert [group["name"] for group in bare["groups"]] == ["picture", "text"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"texts": ["one"]}, "20 pictures and 1 texts"), ({"groups": ["a"]}, "not as many"),
     ({"picture_xy": np.zeros((3, 2))}, "not as many"), ({"text_xy": np.full((6, 2), np.nan)}, "not finite")],
)  # fmt: skip
def test_what_does_not_fit_is_an_error(
    changes: dict, message: str, pictures: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        atlas.write(tmp_path / "map.html", **inputs(pictures, **changes))
    assert not (tmp_path / "map.html").exists()


def test_the_file_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "photo.png"
    noise = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    noise.resize((96, 96), Image.Resampling.BICUBIC).save(path)
    xy, vectors = rng.normal(size=(200, 2)), rng.normal(size=(200, 16))
    words = ["a red mug with white stripes beside a blue lamp on a shelf"] * 200
    page = atlas.write(tmp_path / "map.html", [path] * 200, words, words, xy, xy, vectors, vectors)
    assert page.stat().st_size < 300_000, "1.5 MB for 1,000 pictures with as many texts"


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium to run the page")
def test_a_browser_finds_and_shows(pictures: list[Path], tmp_path: Path) -> None:
    captions = [f"picture {i}" for i in range(19)] + [f"mug {NASTY}"]
    path = atlas.write(
        tmp_path / "map.html", **inputs(pictures, captions=captions, groups=None), title="A shop"
    )
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom",
        f"file://{path}#q=mug",
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, check=True
        )
    except subprocess.SubprocessError as error:
        pytest.skip(f"the browser does not run here: {error}")
    shown = done.stdout
    assert "<title>A shop</title>" in shown and "1 found" in shown
    panel = re.search(r'<aside id="detail".*?</aside>', shown, re.S)[0]
    assert f"mug {html.escape(NASTY, quote=False)}" in panel and panel.count('class="near"') == 5
