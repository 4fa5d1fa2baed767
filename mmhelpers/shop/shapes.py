"""Outlines of kinds, motifs and backdrops from shapes.txt: lists of parts, drawn first to last.

The notation is a small cousin of SVG paths, in a unit square (x right, y down). An entry is `name @ numbers
; part ; part ...` and a part is `role outline`, where an outline joins segments with `|`:

    p x,y x,y ...        corners            b x0 y0 x1 y1 [r]        box, with round corners
    c x,y x,y ...        smooth and closed  e cx cy rx ry [from to]  ellipse or arc, degrees
    s x,y x,y ...        smooth and open    t x,y x,y ...            right half of a symmetric outline

A point given twice is a corner of a smooth curve; `role:width` draws the outline as a thick line.
A kind's numbers are its badge's x, y and radius. Role "body" takes the surface pattern, "dark" and "light"
are shades of the product's colour, every other role is a fixed material; a role that ends in "-" has no rim
(fine lines). A motif fills a disc of radius 1, "+" with ink and "-" with the badge's paper again. The numbers
of a backdrop are the stops of its gradient, from top to bottom, and the colour of its ledge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

MATERIALS = {
    "wood": (190, 142, 96), "metal": (186, 182, 172), "brass": (214, 176, 98), "paper": (250, 245, 232),
    "rubber": (84, 80, 84), "sole": (246, 242, 232), "ink": (58, 52, 62), "sage": (138, 160, 122),
    "flame": (250, 178, 70), "glow": (255, 226, 140), "coffee": (118, 82, 62),
}  # fmt: skip
Points = list[tuple[float, float]]
Part = tuple[str, Points]


def ell(cx: float, cy: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Points:
    t = np.radians(np.linspace(start, stop, max(8, round(abs(stop - start) / 9)) + 1))
    return list(zip(cx + rx * np.cos(t), cy + ry * np.sin(t), strict=True))


def box(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> Points:
    corners = ((x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180), (x1 - r, y0 + r, 270))
    if not r:
        return [(x, y) for x, y, _ in corners]
    return [p for x, y, a in corners for p in ell(x, y, r, r, a, a + 90)]


def smooth(points: Points, closed: bool = False) -> Points:
    """Catmull-Rom curve through the points; a point given twice is a corner."""
    p = np.array(points, float)
    p = np.vstack([p[-1], p, p[0], p[1]]) if closed else np.vstack([p[0], p, p[-1]])
    t = np.linspace(0, 1, 7)[:-1, None]
    out = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        if not np.array_equal(b, c):
            out.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    tail = [] if closed else [p[-1:]]
    return [(float(x), float(y)) for x, y in np.vstack([*out, *tail])]


def stroke(width: float, points: Points) -> Points:
    """A thick line with round ends as an outline."""
    p = np.array(points, float)
    keep = np.r_[True, np.hypot(*np.diff(p, axis=0).T) > 1e-6]
    p, r = p[keep], width / 2
    step = np.gradient(p, axis=0) if len(p) > 2 else np.repeat(np.diff(p, axis=0), 2, axis=0)
    angle = np.degrees(np.arctan2(step[:, 1], step[:, 0]))
    side = r * np.stack([np.cos(np.radians(angle + 90)), np.sin(np.radians(angle + 90))], axis=1)
    end = ell(*p[-1], r, r, angle[-1] + 90, angle[-1] - 90)
    start = ell(*p[0], r, r, angle[0] - 90, angle[0] - 270)
    return [*map(tuple, p + side), *end, *map(tuple, (p - side)[::-1]), *start]


def _turned(points: Points) -> Points:
    right = smooth(points)
    return right + [(1 - x, y) for x, y in reversed(right)]


_SEGMENTS = {
    "p": list, "s": smooth, "c": lambda points: smooth(points, closed=True), "t": _turned,
    "e": ell, "b": box,
}  # fmt: skip


def parse(text: str) -> list[Part]:
    """The parts that a text in the notation above describes, as (role, outline points)."""
    parts = []
    for part in filter(str.strip, text.split(";")):
        head, outline = part.split(maxsplit=1)
        role, _, width = head.partition(":")
        points: Points = []
        for segment in outline.split("|"):
            name, *words = segment.split()
            values = [tuple(map(float, word.split(","))) for word in words]
            points += _SEGMENTS[name](*(v for (v,) in values)) if name in "eb" else _SEGMENTS[name](values)
        parts.append((role, stroke(float(width), points) if width else points))
    return parts


@dataclass(frozen=True)
class Shape:
    """A kind ready to draw: all outline points (n, 2), and per part its role, start and stop."""

    points: np.ndarray
    parts: tuple[tuple[str, int, int], ...]
    badge: tuple[float, float, float]


@lru_cache(maxsize=1)
def tables() -> dict[str, dict[str, tuple[str, str]]]:
    """Section of shapes.txt -> name -> (numbers, parts), as texts."""
    sections: dict[str, dict[str, tuple[str, str]]] = {}
    text = Path(__file__).with_name("shapes.txt").read_text(encoding="utf-8")
    for entry in filter(None, re.split(r"\n+(?=\S)", text.strip())):
        if entry[0] == "[":
            section = sections.setdefault(entry.strip("[]"), {})
            continue
        head, parts = entry.split(";", 1)
        name, _, numbers = head.partition("@")
        section[name.strip()] = numbers, parts
    return sections


@lru_cache(maxsize=1)
def shapes() -> dict[str, Shape]:
    """Every kind with its longer side 1, standing on y = 0 (y down) and centred on x = 0."""
    table = {}
    for kind, (numbers, text) in tables()["kinds"].items():
        x, y, radius = map(float, numbers.split())
        parts = parse(text)
        points = np.array([p for _, part in parts for p in part], dtype=float)
        low, high = points.min(axis=0), points.max(axis=0)
        scale, origin = 1 / (high - low).max(), np.array([(low[0] + high[0]) / 2, high[1]])
        stops = np.cumsum([len(part) for _, part in parts]).tolist()
        spans = tuple((role, stop - len(part), stop) for (role, part), stop in zip(parts, stops, strict=True))
        bx, by = (np.array([x, y]) - origin) * scale
        badge = (float(bx), float(by), min(max(radius * scale, 0.17), 0.19))
        table[kind] = Shape((points - origin) * scale, spans, badge)
    return table
