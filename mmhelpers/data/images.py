"""Reading any picture the same way, and telling which ones look alike."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

MAX_PIXELS = 50_000_000  # a larger file is a mistake or a decompression bomb
LONGEST_SIDE = 1024  # pixels; no model here looks closer
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # named ones only: EPS would start Ghostscript


def in_threads(function: Callable[[Any], Any], items: Sequence[Any], what: str) -> Iterator[Any]:
    """Results of `function` in order, with a text progress bar; Pillow decodes outside Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from text_bar(pool.map(function, items), what, len(items))


def text_bar(items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
    """A progress bar on a terminal, and nothing where its repeated lines would be kept (in a notebook)."""
    return iter(tqdm(items, what, total, ascii=True, leave=False, disable=None))


def load_picture(file: Path | str | BinaryIO) -> Image.Image:
    """Read a picture as the course uses it: RGB, upright, no side above LONGEST_SIDE, the first frame.

    What is transparent turns white; 16-bit and float greys are stretched from their own range to 0..255.
    Raises ValueError above MAX_PIXELS, and for a damaged file whatever its decoder raises.
    """
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            given = f"{image.width} x {image.height} pixels"
            raise ValueError(f"gigantic: {given}, the limit is {MAX_PIXELS // 10**6} million; reduce it")
        image.draft(None, (2 * LONGEST_SIDE, 2 * LONGEST_SIDE))  # large JPEGs: eight times as fast
        image.load()
        picture = ImageOps.exif_transpose(image)
    if picture.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64), posinf=0, neginf=0)
        values -= values.min()
        picture = Image.fromarray((values * (255 / (values.max() or 1))).astype(np.uint8))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    picture = picture.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return picture


def store_picture(raw: bytes, target: Path) -> Path:
    """Write a picture's file as `load_picture` reads it, to `target` with a suffix; returns the file."""
    lossy = raw[:2] == b"\xff\xd8" or raw[8:12] == b"WEBP"  # drawings and screenshots stay sharp
    file = target.with_name(target.name + (".jpg" if lossy else ".png"))
    options = {"quality": 95, "subsampling": 0} if lossy else {}
    load_picture(io.BytesIO(raw)).save(file, icc_profile=None, **options)
    return file


def perceptual_hash(picture: Image.Image) -> np.ndarray:
    """512 bits, uint64 of shape (8,), of which few differ between pictures that look alike.

    128 bits are a difference hash: is a cell of the grey 9 x 9 thumbnail brighter than the one before it,
    the one above it (Krawetz, "Kind of like that", 2013). That is blind to colour, so 384 bits say which
    of 8 levels the mean red, green and blue of 4 x 4 cells reach, each cell with levels of its own.
    """
    grey = np.asarray(picture.convert("L").resize((9, 9), Image.Resampling.BOX), dtype=np.int16)
    across, down = np.diff(grey, axis=1)[:8] > 1, np.diff(grey, axis=0)[:, :8] > 1  # 1 is JPEG noise
    mean = np.asarray(picture.convert("RGB").resize((4, 4), Image.Resampling.BOX)).reshape(16, 3, 1)
    colour = mean > np.arange(0, 256, 32) + np.arange(0, 32, 2).reshape(16, 1, 1)
    return np.packbits(np.concatenate([across, down, colour], axis=None)).view(np.uint64)


def close_pairs(left: np.ndarray, right: np.ndarray, max_distance: int) -> np.ndarray:
    """Pairs of perceptual hashes, shapes (n, 8) and (m, 8), that differ in at most `max_distance` of their bits.

    Returns: int64 of shape (pairs, 3): row in left, row in right, distance.
    """
    found = [np.empty((0, 3), dtype=np.int64)]
    for start in range(0, len(left), 64):
        differing = left[start : start + 64, None] ^ right  # (64, m, 8): in parts, to stay small
        distance = np.bitwise_count(differing).sum(-1, dtype=np.uint16)
        i, j = np.nonzero(distance <= max_distance)
        found.append(np.column_stack([i + start, j, distance[i, j]]))
    return np.concatenate(found)
