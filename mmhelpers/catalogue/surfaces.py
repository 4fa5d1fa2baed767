"""What covers, decorates and surrounds a product: patterns, motifs, backdrops, light and shadow."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from mmhelpers.catalogue.kinds import Points, blob, box, ell, line, stroke

TILE_SPAN = 2.4  # a pattern covers this many product sizes, so that no rotation runs out of it


@lru_cache(maxsize=64)
def pattern_mask(pattern: str, side: int) -> Image.Image:
    """'L' mask (side, side) of where the second colour goes, centred on the product's badge."""
    axis = ((np.arange(side) + 0.5) / side - 0.5) * TILE_SPAN
    x, y = np.meshgrid(axis, axis)
    odd = (np.floor(y / 0.17) % 2) * 0.1
    on = {
        "stripes": lambda: (y / 0.18 + 0.25) % 1 < 0.5,
        "diagonal": lambda: ((x + y) / 0.25) % 1 < 0.5,
        "dots": lambda: np.hypot((x + odd) % 0.2 - 0.1, y % 0.17 - 0.085) < 0.057,
        "checks": lambda: (np.floor(x / 0.12) + np.floor(y / 0.12)) % 2 == 0,
        "zigzag": lambda: ((y + 0.85 * np.abs(x % 0.25 - 0.125)) / 0.18) % 1 < 0.48,
        "grid": lambda: (((x + 0.02) % 0.175) < 0.042) | (((y + 0.02) % 0.175) < 0.042),
        "colour block": lambda: y > 0,
        "sunburst": lambda: (np.arctan2(y, x) / (2 * np.pi) * 9 + 0.25) % 1 < 0.5,
    }[pattern]()
    return Image.fromarray(np.where(on, 255, 0).astype(np.uint8))


def _polar(*radii: float, n: int) -> Points:
    t = np.arange(n * len(radii)) * 2 * np.pi / (n * len(radii)) - np.pi / 2
    r = np.resize(radii, len(t))
    return list(zip(r * np.cos(t), r * np.sin(t), strict=True))


# Outlines in a disc of radius 1; "+" is ink and "-" is the badge's paper again.
MOTIF_SHAPES: dict[str, list[tuple[str, Points]]] = {
    "star": [("+", _polar(0.95, 0.4, n=5))],
    "heart": [("+", blob((0, -0.42), (0, -0.42), (0.42, -0.74), (0.82, -0.5), (0.76, 0.0), (0, 0.82), (0, 0.82),
                         (-0.76, 0.0), (-0.82, -0.5), (-0.42, -0.74)))],
    "leaf": [("+", blob((0.72, -0.78), (0.72, -0.78), (0.66, 0.1), (0.1, 0.52), (-0.42, 0.44), (-0.5, -0.1), (-0.1, -0.56))),
             ("+", stroke(0.16, (-0.3, 0.3), (-0.74, 0.78))), ("-", stroke(0.13, (-0.3, 0.3), (0.36, -0.4)))],
    "moon": [("+", ell(0.0, 0, 0.82, 0.82)), ("-", ell(0.4, -0.2, 0.66, 0.66))],
    "fish": [("+", ell(-0.2, 0, 0.66, 0.44)), ("+", [(0.25, 0), (0.92, -0.5), (0.92, 0.5)]), ("-", ell(-0.5, -0.1, 0.11, 0.11))],
    "flower": [*[("+", ell(0.54 * np.sin(a), -0.54 * np.cos(a), 0.34, 0.34)) for a in np.arange(5) * 2 * np.pi / 5],
               ("+", ell(0, 0, 0.4, 0.4)), ("-", ell(0, 0, 0.25, 0.25))],
    "bolt": [("+", [(0.25, -0.98), (-0.56, 0.14), (-0.06, 0.14), (-0.26, 0.98), (0.56, -0.2), (0.06, -0.2)])],
    "crown": [("+", [(-0.8, 0.6), (-0.86, -0.52), (-0.4, 0.0), (0, -0.74), (0.4, 0.0), (0.86, -0.52), (0.8, 0.6)]),
              ("-", box(-0.66, 0.3, 0.66, 0.4))],
}  # fmt: skip


@lru_cache(maxsize=1)
def soft_ellipse() -> Image.Image:
    """The contact shadow, to be resized: an 'L' mask that fades from the middle."""
    x, y = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 32))
    return Image.fromarray((255 * np.clip(1 - np.hypot(x, y), 0, 1) ** 0.8).astype(np.uint8))


@lru_cache(maxsize=4)
def light_masks(from_left: bool) -> tuple[Image.Image, Image.Image]:
    """(light, shade) 'L' masks of 48 x 48, to be resized over a product: bright side and dark side."""
    x, y = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 48))
    t = (x if from_left else -x) + 0.35 * y
    masks = (np.clip(-t, 0, 1.2) * 52, np.clip(t - 0.1, 0, 1.2) ** 1.2 * 52)
    return tuple(Image.fromarray(m.astype(np.uint8)) for m in masks)


def _vertical(side: int, *stops: tuple[float, tuple[int, int, int]]) -> Image.Image:
    where, colours = zip(*stops, strict=True)
    y = (np.arange(side) + 0.5) / side
    column = np.stack([np.interp(y, where, c) for c in np.array(colours).T], axis=1)
    return Image.fromarray(np.repeat(column[:, None], side, axis=1).round().astype(np.uint8))


# backdrop -> (gradient stops from top to bottom, [(colour, outline)...], colour of the ledge)
_SCENERY: dict[str, tuple[list, list, tuple[int, int, int]]] = {
    "studio": ([(0, (240, 226, 210)), (0.62, (230, 210, 190)), (0.74, (216, 194, 174)), (1, (226, 206, 186))],
               [], (202, 176, 152)),
    "shelf": ([(0, (226, 220, 208)), (0.8, (212, 205, 192))],
              [((200, 192, 178), box(0, 0.8, 1, 0.83)), ((208, 172, 134), box(0, 0.83, 1, 0.955)),
               ((196, 159, 121), line(0.006, (0.05, 0.87), (0.4, 0.865), (0.8, 0.872))),
               ((196, 159, 121), line(0.006, (0.3, 0.915), (0.6, 0.92), (0.97, 0.912))),
               ((176, 136, 99), box(0, 0.955, 1, 1))], (196, 157, 118)),
    "window": ([(0, (218, 212, 202)), (1, (206, 199, 188))],
               [((190, 182, 170), box(0.09, -0.1, 0.93, 0.82)), ((236, 232, 222), box(0.08, -0.1, 0.92, 0.8)),
                ((200, 219, 230), box(0.13, -0.1, 0.47, 0.32)), ((200, 219, 230), box(0.53, -0.1, 0.87, 0.32)),
                ((212, 227, 233), box(0.13, 0.38, 0.47, 0.76)), ((212, 227, 233), box(0.53, 0.38, 0.87, 0.76)),
                ((228, 237, 239), blob((0.17, 0.2), (0.24, 0.13), (0.33, 0.12), (0.42, 0.2), (0.3, 0.22))),
                ((228, 237, 239), blob((0.62, 0.5), (0.7, 0.44), (0.82, 0.5), (0.7, 0.53))),
                ((226, 219, 206), box(0, 0.82, 1, 1)), ((200, 192, 178), box(0, 0.955, 1, 1))], (196, 164, 130)),
    "meadow": ([(0, (206, 222, 230)), (0.7, (226, 233, 228))],
               [((244, 232, 200), ell(0.82, 0.16, 0.1, 0.1)),
                ((236, 241, 240), blob((0.06, 0.24), (0.14, 0.16), (0.24, 0.14), (0.36, 0.24), (0.2, 0.26))),
                ((198, 212, 186), blob((-0.2, 1), (-0.1, 0.66), (0.2, 0.56), (0.55, 0.68), (1.2, 1))),
                ((186, 203, 170), blob((-0.1, 1.1), (0.4, 0.76), (0.8, 0.62), (1.2, 0.68), (1.2, 1.2))),
                ((172, 191, 152), box(-0.1, 0.8, 1.1, 1.1)),
                *[((156, 177, 136), line(0.01, (x, y), (x + 0.012, y - 0.03))) for x, y in
                  ((0.06, 0.87), (0.09, 0.88), (0.93, 0.86), (0.9, 0.97), (0.15, 0.97), (0.12, 0.96), (0.96, 0.87))],
                *[((244, 238, 220), ell(x, y, 0.011, 0.011)) for x, y in ((0.04, 0.95), (0.95, 0.93), (0.2, 0.84))]],
               (184, 152, 118)),
    "tiles": ([(0, (198, 216, 214)), (1, (190, 208, 206))],
              [*[((222, 233, 230), box(0, y, 1, y + 0.014)) for y in (0.1, 0.34, 0.58)],
               *[((222, 233, 230), box(x, y, x + 0.014, y + 0.24)) for y, o in ((-0.14, 0.12), (0.1, 0), (0.34, 0.12), (0.58, 0))
                 for x in (o + 0.12, o + 0.36, o + 0.6, o + 0.84)],
               ((176, 193, 190), box(0, 0.79, 1, 0.82)), ((230, 222, 212), box(0, 0.81, 1, 0.955)),
               ((206, 197, 186), box(0, 0.955, 1, 1))], (222, 214, 203)),
    "arch": ([(0, (232, 214, 208)), (1, (224, 204, 198))],
             [((208, 182, 178), [(0.89, 0.84), *ell(0.5, 0.46, 0.39, 0.38, 0, -180), (0.11, 0.84)]),
              ((216, 192, 190), [(0.89, 0.84), *ell(0.515, 0.46, 0.375, 0.365, 0, -180), (0.14, 0.84)]),
              ((236, 222, 212), box(0, 0.82, 1, 1)), ((216, 200, 190), box(0, 0.82, 1, 0.832))], (234, 218, 208)),
}  # fmt: skip
_TINTS = ((255, 255, 255), (255, 240, 222), (224, 234, 255))


@lru_cache(maxsize=96)
def backdrop(name: str, side: int, ledge: bool, flipped: bool, tint: int) -> Image.Image:
    """The empty scene, RGB (side, side); with `ledge` it has a second board for a product above another."""
    stops, shapes, board = _SCENERY[name]
    image = _vertical(side, *stops)
    pen = ImageDraw.Draw(image)
    shade, shine = (tuple(int(v * f) for v in board) for f in (0.82, 1.06))
    boards = [(shade, box(0.18, 0.5, 0.22, 0.56)), (shade, box(0.78, 0.5, 0.82, 0.56)),
              (shade, box(0.1, 0.478, 0.9, 0.515, 0.01)), (board, box(0.1, 0.468, 0.9, 0.502, 0.01)),
              (shine, box(0.1, 0.462, 0.9, 0.478, 0.007))]  # fmt: skip
    for colour, points in [*shapes, *(boards if ledge else [])]:
        pen.polygon([v * side for p in points for v in p], fill=colour)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Image.blend(image, Image.new("RGB", image.size, _TINTS[tint]), 0.0 if tint == 0 else 0.16)
