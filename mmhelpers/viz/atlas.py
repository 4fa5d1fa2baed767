"""An interactive map of pictures and texts in one HTML file that needs no network, now or later.

It may be opened with a search in its address: `atlas.html#q=mug`. 2,000 points cost about 1.2 MB.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML
from PIL import Image, ImageOps

# Okabe and Ito (2008) first, then Tol's "muted" (2021) for more groups than they have colours.
_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#332288", "#999933",
    "#882255", "#44AA99", "#DDCC77", "#AA4499", "#117733", "#88CCEE", "#CC6677",
)  # fmt: skip
_OTHER, _TEXT = "#9A9A9A", "#222222"
_MAX_TEXT = 300  # characters of a text that the map carries
_THUMBNAIL, _NEIGHBOURS = 48, 5  # pixels a side; nearest texts of a picture, and the other way round


def write(
    path: Path | str, pictures: Sequence[Path | str], captions: Sequence[str], texts: Sequence[str],
    picture_xy: np.ndarray, text_xy: np.ndarray, picture_embeddings: np.ndarray, text_embeddings: np.ndarray,
    groups: Sequence[str], title: str = "Pictures and texts", quality: int = 72,
) -> Path:  # fmt: skip
    """Write the map of some pictures and texts to `path`.

    Args:
        pictures, captions, groups: n image files, what each one's panel says, and a name for its colour in
            the legend; the rarest share one grey "other".
        texts: m texts, queries for instance, drawn as diamonds.
        picture_xy, text_xy: float (n, 2) and (m, 2), one common projection of both.
        picture_embeddings, text_embeddings: float (n, d) and (m, d), for the nearest neighbours by cosine.
    """
    n, m = len(pictures), len(texts)
    given = [len(side) for side in (captions, groups, picture_xy, picture_embeddings)]
    if given != [n] * 4 or (len(text_xy), len(text_embeddings)) != (m, m):
        raise ValueError(f"{n} pictures and {m} texts, but captions, groups, coordinates or embeddings differ")
    near = _neighbours(picture_embeddings, text_embeddings)
    legend, members = _legend(groups)
    columns = max(1, int(np.ceil(np.sqrt(n))))
    xy = _on_screen(np.concatenate([np.reshape(picture_xy, (n, 2)), np.reshape(text_xy, (m, 2))]))
    rows = zip(xy, (*captions, *texts), members + [len(legend)] * m, near, strict=True)
    data = {
        "points": [
            {"x": x, "y": y, "text": str(text)[:_MAX_TEXT], "group": group, "near": nearest}
            for (x, y), text, group, nearest in rows
        ],
        "groups": [*legend, {"name": "text", "colour": _TEXT, "text": True}],
        "images": n, "thumb": _THUMBNAIL, "columns": columns, "sprite": _sprite(pictures, columns, quality),
    }  # fmt: skip
    parts = {"title": html.escape(title), "data": _embed(data)}
    template = Path(__file__).with_name("atlas.html").read_text(encoding="utf-8")
    path = Path(path)
    path.write_text(re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template), encoding="utf-8")
    return path


def show(path: Path | str, height: int = 640) -> HTML:
    """The map inside a notebook: a sandboxed frame that holds the whole file, so that exports keep it."""
    page = html.escape(Path(path).read_text(encoding="utf-8"), quote=True)
    style = f"width:100%;height:{height}px;border:1px solid #ddd"
    frame = f'<iframe title="map" sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>'
    return HTML(f"<div>{frame}</div>")  # a bare frame makes IPython warn that it prefers its own class


def _on_screen(xy: np.ndarray) -> list[list[float]]:
    """Coordinates from 0 to 1, y running down."""
    if not np.isfinite(xy).all():
        raise ValueError("a coordinate is not finite: leave such points out")
    low, high = xy.min(0), xy.max(0)
    return (((xy - low) / np.maximum(high - low, 1e-9)) * [1, -1] + [0, 1]).round(4).tolist()


def _neighbours(pictures: np.ndarray, texts: np.ndarray) -> list[list[int]]:
    """For each picture, then each text, the positions of the nearest of the other side."""
    sides = [np.asarray(side, dtype=np.float32) for side in (pictures, texts)]
    a, b = (side / np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-9) for side in sides)
    cosines = a @ b.T
    near = (np.argsort(-cosines, axis=1)[:, :_NEIGHBOURS] + len(a)).tolist()
    return near + np.argsort(-cosines.T, axis=1)[:, :_NEIGHBOURS].tolist()


def _legend(groups: Sequence[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """Legend entries by frequency, and each picture's position among them."""
    names = [name for name, _ in Counter(groups).most_common()]
    kept = names if len(names) <= len(_COLOURS) else names[: len(_COLOURS) - 1]
    legend = [{"name": name, "colour": colour} for name, colour in zip(kept, _COLOURS, strict=False)]
    if len(kept) < len(names):
        legend.append({"name": "other", "colour": _OTHER})
    position = {name: index for index, name in enumerate(kept)}
    return legend, [position.get(name, len(kept)) for name in groups]


def _sprite(pictures: Sequence[Path | str], columns: int, quality: int) -> str:
    """All thumbnails, row by row on one sheet, as a JPEG data address."""
    size = _THUMBNAIL
    sheet = Image.new("RGB", (columns * size, max(1, -(-len(pictures) // columns)) * size), "white")
    for index, picture in enumerate(pictures):
        with Image.open(picture) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGBA")
        thumb = ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS)
        sheet.paste(thumb, (index % columns * size, index // columns * size), thumb)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _embed(data: Any) -> str:
    """JSON that cannot end the script element around it (`</script>`, `<!--`), whatever the texts say."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
