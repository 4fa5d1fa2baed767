"""The map: one file, no network, nothing a caption says can break out of it."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmhelpers.viz import atlas

NASTY = "</script><script>document.title='broken'</script><!-- {{title}} & \"a\" 'b' \u2028 <img src=x>"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("pictures") / f"{index}.png" for index in range(20)]
    for index, path in enumerate(paths):
        Image.new("RGB", (96, 60 if index % 2 else 96), (12 * index, 90, 200)).save(path)
    return paths


def inputs(pictures: list[Path], **changes: Any) -> dict[str, Any]:
    rng, n, m = np.random.default_rng(0), len(pictures), 6
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


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    found, parser = [], HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(page)
    return found


def test_points_neighbours_groups_and_sheet(pictures: list[Path], tmp_path: Path) -> None:
    given = inputs(pictures)
    data = data_of(atlas.write(tmp_path / "map.html", **given, title="A shop"))
    points = data["points"]
    assert len(points) == 26 and data["images"] == 20
    assert [group["name"] for group in data["groups"]] == ["mugs", "hats", "text"]
    assert [point["group"] for point in points] == [0] * 15 + [1] * 5 + [2] * 6
    a, b = given["picture_embeddings"], given["text_embeddings"]
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (a, b))
    assert points[4]["near"] == [20 + int(j) for j in np.argsort(-(b @ a[4]))[:5]]
    assert points[22]["near"] == np.argsort(-(a @ b[2]))[:5].tolist()
    xy = np.array([[point["x"], point["y"]] for point in points])
    assert xy.min() == 0 and xy.max() == 1
    assert np.argmax(xy[:20, 1]) == np.argmin(given["picture_xy"][:, 1]), "up stays up"
    sheet = Image.open(io.BytesIO(base64.b64decode(data["sprite"].split(",")[1])))
    assert sheet.size == (5 * 48, 4 * 48)
    assert np.abs(np.subtract(sheet.getpixel((2 * 48 + 24, 48 + 24)), (84, 90, 200))).max() < 12, "picture 7"


def test_the_page_names_no_network_and_nothing_breaks_out(pictures: list[Path], tmp_path: Path) -> None:
    plain = atlas.write(tmp_path / "plain.html", **inputs(pictures)).read_text()
    assert "default-src 'none'" in plain
    assert not re.search(r"://|@import|\b(fetch|XMLHttpRequest|WebSocket)\b", plain)
    for tag, attributes in elements(plain):
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "href", "srcset", "action"} & set(attributes)
    nasty = inputs(pictures, captions=[NASTY] * 20, texts=[NASTY] * 6, groups=[NASTY] * 20)
    path = atlas.write(tmp_path / "nasty.html", **nasty, title=NASTY)
    page = path.read_text(encoding="utf-8")
    assert [tag for tag, _ in elements(page)] == [tag for tag, _ in elements(plain)]
    assert "<" not in page.split('id="data">')[1].split("</script>")[0], "what a browser could take for a tag"
    assert data_of(path)["points"][0]["text"] == NASTY and data_of(path)["groups"][0]["name"] == NASTY
    (_, _), (frame, attributes) = elements(atlas.show(path).data)
    assert frame == "iframe" and attributes["sandbox"] == "allow-scripts" and attributes["srcdoc"] == page
