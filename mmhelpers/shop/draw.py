"""From a structured scene to its picture, with Pillow alone and the same at every size.

All geometry lives in units of the picture's side; a picture is painted two or three times too
large and reduced, so edges are smooth. Chance comes from the seed alone and never from the size.
"""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from mmhelpers.shop import surfaces
from mmhelpers.shop.shapes import MATERIALS, Shape, shapes
from mmhelpers.shop.spec import COLOURS, PLAIN, Item, Scene

RGB = tuple[int, int, int]
BADGE_PAPER, BADGE_INK, SHADOW = (252, 246, 230), (46, 40, 54), (74, 60, 62)
CAST = [0] * 128 + [30] * 128  # how dark a silhouette's shadow is
# relation -> per product the cell it must stay in (x0, y0, x1, y1), where it stands (x, y), and its size
CELLS: dict[str | None, list[tuple[tuple[float, ...], tuple[float, float], float]]] = {
    None: [((0.04, 0.05, 0.96, 0.95), (0.5, 0.91), 0.74)],
    "left of": [((0.015, 0.05, 0.49, 0.95), (0.255, 0.9), 0.46),
                ((0.51, 0.05, 0.985, 0.95), (0.745, 0.9), 0.46)],
    "above": [((0.05, 0.015, 0.95, 0.475), (0.5, 0.472), 0.43),
              ((0.05, 0.53, 0.95, 0.965), (0.5, 0.945), 0.405)],
    "on two": [((0.05, 0.015, 0.95, 0.475), (0.5, 0.472), 0.42),
               ((0.03, 0.53, 0.49, 0.965), (0.26, 0.945), 0.405),
               ((0.51, 0.53, 0.97, 0.965), (0.74, 0.945), 0.405)],
}  # fmt: skip


def _mix(colour: RGB, other: RGB, share: float) -> RGB:
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))


def _shades(colour: RGB) -> dict[str, RGB]:
    """Trim and rim shades; black gets lighter trims, because a darker one could not be seen."""
    black, white = (20, 14, 28), (255, 255, 255)
    if sum(colour) < 150:
        dark, light, rim = _mix(colour, white, 0.09), _mix(colour, white, 0.18), (14, 12, 16)
    else:
        dark = _mix(colour, black, 0.13 if sum(colour) > 700 else 0.2)
        light, rim = _mix(colour, white, 0.3), _mix(colour, black, 0.42)
    return {"body": colour, "dark": dark, "light": light, "rim": rim}


def _place(shape: Shape, cell: tuple[float, ...], at: tuple[float, float], size: float,
           rng: random.Random, variation: float) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The product's points in the picture, and the 2 x 3 matrix that put them there."""
    angle, scale, dx, dy = (rng.uniform(-1, 1) * variation for _ in range(4))
    turn, scale = np.radians(8 * angle), size * (1 + 0.08 * scale)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = shape.points @ rotation.T
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array(cell[2:]) - cell[:2]
    scale = min(scale, *(room / (high - low)))
    offset = np.array([at[0] + 0.04 * dx, at[1] + 0.012 * dy - high[1] * scale])
    offset = np.clip(offset, np.array(cell[:2]) - low * scale, np.array(cell[2:]) - high * scale)
    return points * scale + offset, np.column_stack([rotation * scale, offset])


def _surface(item: Item, badge: np.ndarray, matrix: np.ndarray, frame: tuple[int, ...]) -> Image.Image:
    """The patterned cloth for the pixels of `frame`; `badge` and `matrix` are in pixels."""
    scale = float(np.hypot(*matrix[:, 0]))
    side = 512 if scale < 260 else 1024
    mask = surfaces.pattern_mask(item.pattern, side)
    back = np.linalg.inv(matrix[:, :2]) * side / surfaces.TILE_SPAN
    shift = side / 2 - back @ (badge - frame[:2])
    size = (frame[2] - frame[0], frame[3] - frame[1])
    affine = [*back[0], shift[0], *back[1], shift[1]]
    mask = mask.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    cloth = Image.new("RGB", size, COLOURS[item.colour])
    cloth.paste(COLOURS[item.colour2], (0, 0, *size), mask)
    return cloth


def _paint(canvas: Image.Image, item: Item, shape: Shape, points: np.ndarray, matrix: np.ndarray,
           from_left: bool, strength: float) -> Image.Image:  # fmt: skip
    """Paint one product (points and matrix in pixels) and return its silhouette as 'L' mask."""
    scale = float(np.hypot(*matrix[:, 0]))
    low, high = np.floor(points.min(axis=0) - 4).astype(int), np.ceil(points.max(axis=0) + 4).astype(int)
    frame = (*low.clip(0).tolist(), *high.clip(None, canvas.width).tolist())
    parts = [(role, points[a:b].ravel().tolist()) for role, a, b in shape.parts]
    silhouette = Image.new("L", canvas.size)
    pen = ImageDraw.Draw(silhouette)
    rim = max(1, round(0.013 * scale))
    for role, xy in parts:
        pen.polygon(xy, fill=255)
        if role[-1] != "-":
            pen.line(xy + xy[:4], fill=255, width=rim)
    _shadow(canvas, silhouette, points, frame, scale, from_left)
    x, y, radius = shape.badge
    badge = matrix @ (x, y, 1)
    cloth = None if item.pattern == PLAIN else _surface(item, badge, matrix, frame)
    shades = _shades(COLOURS[item.colour])
    pen = ImageDraw.Draw(canvas)
    for role, xy in parts:
        name = role.rstrip("-")
        fill = shades.get(name) or MATERIALS[name]
        if name == "body" and cloth:
            mask = Image.new("L", cloth.size)
            ImageDraw.Draw(mask).polygon([v - frame[i % 2] for i, v in enumerate(xy)], fill=255)
            canvas.paste(cloth, frame, mask)
        else:
            pen.polygon(xy, fill=fill)
        if name == role:
            edge = shades["rim"] if name in shades else _mix(fill, SHADOW, 0.45)
            pen.line(xy + xy[:4], fill=edge, width=rim)
    if item.motif:
        _badge(pen, item.motif, badge, radius * scale, matrix / scale, rim)
    size = (frame[2] - frame[0], frame[3] - frame[1])
    inside = silhouette.crop(frame)
    for tone, mask in zip(((255, 250, 240), (36, 22, 44)), surfaces.light_masks(from_left, strength), strict=True):
        canvas.paste(tone, frame, ImageChops.multiply(mask.resize(size, Image.Resampling.BILINEAR), inside))
    return silhouette


def _shadow(canvas: Image.Image, silhouette: Image.Image, points: np.ndarray, frame: tuple[int, ...],
            scale: float, from_left: bool) -> None:  # fmt: skip
    """A soft ellipse under the product and a faint cast shadow beside it, away from the light."""
    ground = points[:, 1].max()
    feet = points[points[:, 1] > ground - 0.14 * scale, 0]
    w, h = round(feet.max() - feet.min() + 0.24 * scale), round(0.13 * scale)
    x, y = round((feet.min() + feet.max() - w) / 2), round(ground - 0.55 * h)
    soft = surfaces.soft_ellipse().resize((w, h), Image.Resampling.BILINEAR)
    canvas.paste(SHADOW, (x, y, x + w, y + h), soft)
    shift = round(0.03 * scale) * (1 if from_left else -1)
    cast = silhouette.crop(frame).point(CAST)
    canvas.paste(SHADOW, (frame[0] + shift, frame[1] + abs(shift) // 3), cast)


def _badge(pen: ImageDraw.ImageDraw, motif: str, centre: np.ndarray, radius: float,
           turn: np.ndarray, rim: int) -> None:  # fmt: skip
    x, y = centre.tolist()
    for r, fill in ((radius + 1.2 * rim, _mix(BADGE_INK, BADGE_PAPER, 0.25)), (radius, BADGE_PAPER)):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    for sign, outline in surfaces.motif_shape(motif):
        xy = np.array(outline) @ turn[:, :2].T * (0.8 * radius) + centre
        pen.polygon(xy.ravel().tolist(), fill=BADGE_INK if sign == "+" else BADGE_PAPER)


def draw_with_regions(
    scene: Scene, size: int = 96, seed: int = 0, variation: float = 1.0
) -> tuple[Image.Image, list[Image.Image]]:
    """The picture (RGB) of a scene, and for each product an 'L' mask of its pixels, all (size, size).

    `seed` is of turn, size, place, light and tint; `variation` says how far chance may go: 0 is a straight
    pose, 1 the shop's. It is the same picture at every size.
    """
    rng, factor = random.Random(seed), 3 if size < 112 else 2
    side, from_left, tint = size * factor, rng.random() < 0.5, rng.randrange(3)
    strength = round(1 + 0.3 * variation * rng.uniform(-1, 1), 1)
    canvas = surfaces.backdrop(scene.backdrop, side, scene.relation in ("above", "on two"), not from_left, tint).copy()
    masks = []
    for item, (cell, at, part) in zip(scene.items, CELLS[scene.relation], strict=True):
        shape = shapes()[item.kind]
        points, matrix = _place(shape, cell, at, part, rng, variation)
        masks.append(_paint(canvas, item, shape, points * side, matrix * side, from_left, strength))
    return canvas.reduce(factor), [mask.reduce(factor) for mask in masks]


def draw(scene: Scene, size: int = 96, seed: int = 0, variation: float = 1.0) -> Image.Image:
    """The picture (RGB) of a scene; see `draw_with_regions`."""
    return draw_with_regions(scene, size, seed, variation)[0]
