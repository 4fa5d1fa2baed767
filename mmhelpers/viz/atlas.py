"""An interactive map of pictures and texts in one HTML file that needs no network, now or later.

The pictures are one JPEG sheet of thumbnails and the rest is JSON, so that 2,000 points cost about
1.2 MB. The file may be opened with a search in its address: `atlas.html#q=mug`.
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
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from IPython.display import HTML

# Okabe and Ito (2008) first, then Tol's "muted" (2021) for more groups than they have colours.
_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#332288", "#999933",
    "#882255", "#44AA99", "#DDCC77", "#AA4499", "#117733", "#88CCEE", "#CC6677",
)  # fmt: skip
_OTHER, _TEXT = "#9A9A9A", "#222222"
_MAX_TEXT = 300  # characters of a text that the map carries


def write(
    path: Path | str,
    pictures: Sequence[Path | str],
    captions: Sequence[str],
    texts: Sequence[str],
    picture_xy: np.ndarray,
    text_xy: np.ndarray,
    picture_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    groups: Sequence[str] | None = None,
    title: str = "Pictures and texts",
    thumbnail: int = 48,
    quality: int = 72,
    neighbours: int = 5,
) -> Path:
    """Write the map of some pictures and texts to `path`.

    Args:
        pictures, captions: n image files, and what each one's panel says.
        texts: m texts, queries for instance, drawn as diamonds.
        picture_xy, text_xy: float, shapes (n, 2) and (m, 2), one common projection of both.
        picture_embeddings, text_embeddings: float, shapes (n, d) and (m, d); the nearest texts of a picture
            and the other way round are found here by cosine, not on the map.
        groups: a name a picture, for its colour in the legend; the rarest share one grey "other".
        thumbnail: pixels of a thumbnail's side; with `quality` (JPEG) and n it decides the file's size.

    Returns:
        `path`.

    Raises:
        ValueError: lengths that do not agree, or coordinates that are not finite.
    """
    n, m = len(pictures), len(texts)
    given = (len(captions), len(groups or captions), len(picture_xy), len(picture_embeddings))
    if given != (n,) * 4 or (len(text_xy), len(text_embeddings)) != (m, m):
        raise ValueError(
            f"{n} pictures and {m} texts, but not as many captions, groups, coordinates or embeddings"
        )
    xy = np.concatenate([np.reshape(picture_xy, (n, 2)), np.reshape(text_xy, (m, 2))]).astype(float)
    if not np.isfinite(xy).all():
        raise ValueError("a coordinate is not finite: leave such points out")
    low = xy.min(0)
    xy = (xy - low) / np.maximum(xy.max(0) - low, 1e-9)
    xy[:, 1] = 1 - xy[:, 1]  # the screen's y runs down
    cosines = _unit(picture_embeddings) @ _unit(text_embeddings).T
    near = [(row + n).tolist() for row in np.argsort(-cosines, axis=1)[:, :neighbours]]
    near += np.argsort(-cosines.T, axis=1)[:, :neighbours].tolist()
    legend, members = _legend(groups or ["picture"] * n)
    words = [str(text)[:_MAX_TEXT] for text in (*captions, *texts)]
    columns = max(1, int(np.ceil(np.sqrt(n))))
    data = {
        "points": [
            {"x": round(x, 4), "y": round(y, 4), "text": text, "group": group, "near": nearest}
            for (x, y), text, group, nearest in zip(
                xy.tolist(), words, members + [len(legend)] * m, near, strict=True
            )
        ],
        "groups": [*legend, {"name": "text", "colour": _TEXT, "text": True}],
        "images": n, "thumb": thumbnail, "columns": columns,
        "sprite": _sprite(pictures, columns, thumbnail, quality),
    }  # fmt: skip
    parts = {"title": html.escape(title), "data": _embed(data)}
    template = Path(__file__).with_name("atlas.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def show(path: Path | str, height: int = 640) -> HTML:
    """The map inside a notebook: a sandboxed frame that holds the whole file, so that exports keep it."""
    from IPython.display import HTML

    page = html.escape(Path(path).read_text(encoding="utf-8"), quote=True)
    style = f"width:100%;height:{height}px;border:1px solid #ddd"
    frame = f'<iframe title="map" sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>'
    return HTML(f"<div>{frame}</div>")  # a bare frame makes IPython warn that it prefers its own class


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _legend(groups: Sequence[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """Legend entries by frequency, and each picture's position among them."""
    names = [name for name, _ in Counter(groups).most_common()]
    kept = names if len(names) <= len(_COLOURS) else names[: len(_COLOURS) - 1]
    legend = [{"name": name, "colour": colour} for name, colour in zip(kept, _COLOURS, strict=False)]
    if len(kept) < len(names):
        legend.append({"name": "other", "colour": _OTHER})
    position = {name: index for index, name in enumerate(kept)}
    return legend, [position.get(name, len(kept)) for name in groups]


def _sprite(pictures: Sequence[Path | str], columns: int, size: int, quality: int) -> str:
    """All thumbnails, row by row on one sheet, as a JPEG data address."""
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
