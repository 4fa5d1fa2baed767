"""What covers, decorates and surrounds a product: patterns, motifs, backdrops, light and shadow."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from mmhelpers.shop.shapes import Part, box, parse, tables

TILE_SPAN = 2.4  # a pattern covers this many product sizes, so that no rotation runs out of it


@lru_cache(maxsize=64)
def pattern_mask(pattern: str, side: int) -> Image.Image:
    """'L' mask (side, side) of where the second colour goes, centred on the product's badge."""
    axis = ((np.arange(side) + 0.5) / side - 0.5) * TILE_SPAN
    x, y = np.meshgrid(axis, axis)
    odd = (np.floor(y / 0.17) % 2) * 0.1
    rise, fall = x / 0.31 + y / 0.44, x / 0.31 - y / 0.44  # along the sides of an argyle's diamonds
    on = {
        "stripes": lambda: (y / 0.18 + 0.25) % 1 < 0.5,
        "diagonal": lambda: ((x + y) / 0.25) % 1 < 0.5,
        "dots": lambda: np.hypot((x + odd) % 0.2 - 0.1, y % 0.17 - 0.085) < 0.057,
        "checks": lambda: (np.floor(x / 0.12) + np.floor(y / 0.12)) % 2 == 0,
        "zigzag": lambda: ((y + 0.85 * np.abs(x % 0.25 - 0.125)) / 0.18) % 1 < 0.48,
        "grid": lambda: (((x + 0.02) % 0.175) < 0.042) | (((y + 0.02) % 0.175) < 0.042),
        "colour block": lambda: y > 0,
        "sunburst": lambda: (np.arctan2(y, x) / (2 * np.pi) * 9 + 0.25) % 1 < 0.5,
        # Two wide bands cross: full colour where both lie, and a fine hatch, a half-tone, where one does.
        "gingham": lambda: np.where(
            (x + y) / 0.03 % 1 < 0.5,
            (x / 0.24 % 1 < 0.5) | (y / 0.24 % 1 < 0.5),
            (x / 0.24 % 1 < 0.5) & (y / 0.24 % 1 < 0.5),
        ),
        # A real twill: four threads of each colour both ways, and a diagonal says which of them lies on top.
        "houndstooth": lambda: np.where((x + y) / 0.14 % 1 < 0.5, x / 0.28 % 1 < 0.5, y / 0.28 % 1 < 0.5),
        "argyle": lambda: (
            ((np.floor(rise) + np.floor(fall)) % 2 == 0)
            ^ (np.minimum(np.abs(rise % 1 - 0.5), np.abs(fall % 1 - 0.5)) < 0.05)
        ),
        "pinstripe": lambda: x / 0.1 % 1 < 0.28,
        "scallop": lambda: (
            np.abs(np.hypot((x + 0.12 * (np.floor(y / 0.12) % 2)) % 0.24 - 0.12, y % 0.12) - 0.103) < 0.0175
        ),
        "herringbone": lambda: (
            (((y + 1.2 * np.abs(x % 0.36 - 0.18)) / 0.125 + np.floor(x / 0.18) / 2) % 1 < 0.5) & (x % 0.18 > 0.02)
        ),
    }[pattern]()
    return Image.fromarray(np.where(on, 255, 0).astype(np.uint8))


@lru_cache(maxsize=8)
def motif_shape(motif: str) -> list[Part]:
    return parse(tables()["motifs"][motif][1])


@lru_cache(maxsize=1)
def soft_ellipse() -> Image.Image:
    """The contact shadow, to be resized: an 'L' mask that fades from the middle."""
    x, y = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 32))
    return Image.fromarray((158 * np.clip(1 - np.hypot(x, y), 0, 1) ** 0.8).astype(np.uint8))


@lru_cache(maxsize=64)
def light_masks(from_left: bool, strength: float) -> tuple[Image.Image, Image.Image]:
    """(light, shade) 'L' masks of 48 x 48, to be resized over a product: bright side and dark side."""
    x, y = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 48))
    t = (x if from_left else -x) + 0.35 * y
    masks = (np.clip(-t, 0, 1.2) * 52, np.clip(t - 0.1, 0, 1.2) ** 1.2 * 52)
    return tuple(Image.fromarray((m * strength).astype(np.uint8)) for m in masks)


_TINTS = ((255, 255, 255), (255, 240, 222), (224, 234, 255))


@lru_cache(maxsize=96)
def backdrop(name: str, side: int, ledge: bool, flipped: bool, tint: int) -> Image.Image:
    """The empty scene, RGB (side, side); with `ledge` it has a second board for a product above another."""
    numbers, things = tables()["backdrops"][name]
    *stops, _, board = numbers.split()  # "0 #f0e2d2 1 #e2ceba ledge #cab098"
    colours = np.array([ImageColor.getrgb(colour) for colour in stops[1::2]]).T
    y, at = (np.arange(side) + 0.5) / side, list(map(float, stops[::2]))
    column = np.stack([np.interp(y, at, channel) for channel in colours], axis=1)
    image = Image.fromarray(np.repeat(column[:, None], side, axis=1).round().astype(np.uint8))
    pen = ImageDraw.Draw(image)
    shade, shine = (tuple(int(v * f) for v in ImageColor.getrgb(board)) for f in (0.82, 1.06))
    boards = [(shade, box(0.18, 0.5, 0.22, 0.56)), (shade, box(0.78, 0.5, 0.82, 0.56)),
              (shade, box(0.1, 0.478, 0.9, 0.515, 0.01)), (board, box(0.1, 0.468, 0.9, 0.502, 0.01)),
              (shine, box(0.1, 0.462, 0.9, 0.478, 0.007))]  # fmt: skip
    for colour, points in [*parse(things), *(boards if ledge else [])]:
        pen.polygon([v * side for p in points for v in p], fill=colour)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Image.blend(image, Image.new("RGB", image.size, _TINTS[tint]), 0.0 if tint == 0 else 0.16)
