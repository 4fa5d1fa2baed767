"""The 28 shapes, each a short list of parts in a unit square (x right, y down), first to last.

The notation is a small cousin of SVG paths. A kind is `name @ badge-x badge-y badge-radius ; part ;
part ...` and a part is `role outline`, where an outline joins segments with `|`:

    p x,y x,y ...        corners            b x0 y0 x1 y1 [r]        box, with round corners
    c x,y x,y ...        smooth and closed  e cx cy rx ry [from to]  ellipse or arc, degrees
    s x,y x,y ...        smooth and open    t x,y x,y ...            right half of a symmetric outline

A point given twice is a corner of a smooth curve; `role:width` draws the outline as a thick line.
Role "body" takes the surface pattern, "dark" and "light" are shades of the product's colour, every
other role is a fixed material; a role that ends in "-" has no rim (fine lines).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MATERIALS = {
    "wood": (190, 142, 96), "metal": (186, 182, 172), "brass": (214, 176, 98), "paper": (250, 245, 232),
    "rubber": (84, 80, 84), "sole": (246, 242, 232), "ink": (58, 52, 62), "sage": (138, 160, 122),
    "flame": (250, 178, 70), "glow": (255, 226, 140), "coffee": (118, 82, 62),
}  # fmt: skip
Points = list[tuple[float, float]]
Part = tuple[str, Points]

SHAPES = """
mug @ .43 .62 .19 ; dark:.095 e .76 .58 .18 .2 -95 95 ; body p .14,.2 .86,.2 | e .76 .9 .1 .1 0 90 | e .24
    .9 .1 .1 90 180 ; light e .5 .21 .36 .075 ; coffee e .5 .222 .3 .05 ; paper-:.025 s .4,.12 .44,.07
    .39,.03 .43,-.01 ; paper-:.025 s .58,.12 .62,.07 .57,.02 .61,-.02
teapot @ .5 .63 .19 ; dark:.07 e .86 .56 .13 .19 -110 110 ; dark c .26,.6 .12,.46 .03,.33 .03,.33 .14,.28
    .14,.28 .22,.4 .32,.46 .34,.8 ; dark b .32 .9 .68 .985 .03 ; body e .5 .61 .39 .335 ; light t .5,.18
    .62,.21 .71,.325 .71,.325 .5,.345 ; wood e .5 .145 .055 .055
jug @ .47 .66 .19 ; dark:.07 s .66,.18 .86,.16 .92,.36 .84,.58 .72,.68 ; body c .16,0 .16,0 .3,.06 .68,.02
    .68,.02 .64,.3 .76,.5 .8,.72 .7,.98 .7,.98 .24,.98 .24,.98 .14,.72 .18,.5 .28,.3 .25,.16 ; light c .16,0
    .16,0 .42,-.01 .68,.02 .68,.02 .5,.09 .3,.09 ; dark b .25 .94 .69 1 .025 ; light-:.022 s .29,.31 .64,.31
bowl @ .5 .67 .17 ; dark b .34 .86 .66 .96 .03 ; body p .99,.42 | e .5 .44 .47 .47 0 180 | p .01,.42 ; light
    e .5 .42 .49 .1 ; dark e .5 .43 .43 .07
plate @ .5 .48 .17 ; wood:.06 p .3,.8 .2,.99 ; wood:.06 p .7,.8 .8,.99 ; dark e .5 .48 .48 .48 ; body e .5
    .48 .425 .425 ; dark-:.018 e .5 .48 .3 .3 ; wood b .14 .9 .86 .97 .03
vase @ .5 .66 .185 ; sage-:.028 s .5,.4 .46,.24 .38,.12 ; sage-:.028 s .5,.4 .55,.24 .64,.1 ; sage-:.028 s
    .5,.4 .5,.02 ; sage e .34 .24 .08 .035 ; sage e .67 .23 .08 .035 ; paper e .34 .1 .085 .085 ; glow e .34
    .1 .035 .035 ; paper e .67 .08 .085 .085 ; glow e .67 .08 .035 .035 ; paper e .5 .03 .085 .085 ; glow e
    .5 .03 .035 .035 ; body t .66,.3 .66,.3 .63,.37 .78,.46 .89,.64 .83,.84 .68,1 .68,1 .5,1 ; light b .32
    .27 .68 .335 .028 ; dark b .31 .955 .69 1 .02
bottle @ .5 .66 .19 ; wood b .425 0 .575 .12 .025 ; body t .59,.1 .59,.1 .59,.24 .63,.32 .75,.38 .8,.49
    .8,.94 .785,.985 .74,1 .74,1 .5,1 ; dark b .41 .1 .59 .25 ; light b .39 .09 .61 .15 .02 ; light-:.03 s
    .265,.5 .265,.86
lamp @ .5 .38 .17 ; wood b .465 .5 .535 .95 ; wood e .5 .77 .06 .055 ; wood p .455,.84 .545,.84 .6,.94
    .4,.94 ; wood b .26 .92 .74 1 .04 ; brass-:.016 p .7,.64 .7,.79 ; brass e .7 .81 .025 .025 ; brass e .5
    .03 .035 .035 ; body p .31,.06 .69,.06 .94,.67 .06,.67 ; light p .08,.625 .92,.625 .945,.68 .055,.68 ;
    light p .31,.055 .69,.055 .705,.09 .295,.09
candle @ .5 .64 .18 ; brass:.05 e .94 .9 .07 .065 ; brass t .95,.89 .95,.89 .85,.985 .72,1 .5,1 ; body b .17
    .29 .83 .94 .03 ; ink-:.024 p .5,.28 .5,.18 ; light c .16,.31 .24,.25 .5,.24 .76,.25 .84,.31 .83,.46
    .79,.46 .75,.34 .62,.325 .5,.33 .38,.33 .34,.39 .29,.35 .22,.52 .17,.5 ; flame c .5,-.04 .5,-.04 .59,.11
    .57,.19 .5,.22 .43,.19 .41,.11 ; glow- c .5,.05 .5,.05 .54,.13 .5,.19 .46,.13
clock @ .5 .73 .17 ; wood e .26 1.01 .06 .05 ; wood e .74 1.01 .06 .05 ; body p .12,.26 .5,.06 .88,.26
    .88,.98 .12,.98 ; dark p .5,-.02 1,.25 .96,.345 .5,.1 .04,.345 0,.25 ; dark b .07 .93 .93 1 .02 ; paper
    e .5 .355 .165 .165 ; brass-:.028 e .5 .355 .165 .165 ; ink-:.03 p .5,.355 .5,.25 ; ink-:.03 p .5,.355
    .575,.4
cushion @ .5 .56 .19 ; light c .06,.16 .06,.16 -.04,.14 .04,.06 ; light c .94,.16 .94,.16 1.04,.14 .96,.06 ;
    light c .06,.96 .06,.96 -.04,.98 .04,1.06 ; light c .94,.96 .94,.96 1.04,.98 .96,1.06 ; dark c .04,.14
    .04,.14 .25,.17 .5,.16 .75,.17 .96,.14 .96,.14 .92,.35 .93,.56 .92,.77 .96,.98 .96,.98 .75,.96 .5,.97
    .25,.96 .04,.98 .04,.98 .08,.77 .07,.56 .08,.35 ; body c .0814,.1778 .0814,.1778 .2725,.2051 .5,.196
    .7275,.2051 .9186,.1778 .9186,.1778 .8822,.3689 .8913,.56 .8822,.7511 .9186,.9422 .9186,.9422 .7275,.924
    .5,.9331 .2725,.924 .0814,.9422 .0814,.9422 .1178,.7511 .1087,.56 .1178,.3689 ; dark-:.016 s .11,.2
    .2,.25 .26,.26 ; dark-:.016 s .89,.2 .8,.25 .74,.26 ; dark-:.016 s .11,.92 .2,.87 .26,.86 ; dark-:.016 s
    .89,.92 .8,.87 .74,.86
armchair @ .5 .36 .18 ; wood p .14,.86 .24,.86 .18,1 .12,1 ; wood p .86,.86 .76,.86 .82,1 .88,1 ; body t
    .5,.02 .7,.04 .81,.14 .82,.4 .82,.8 .82,.8 .5,.8 ; dark b .16 .72 .84 .9 .03 ; light b .2 .6 .8 .75 .06
    ; dark b .02 .46 .22 .9 .09 ; dark b .78 .46 .98 .9 .09
stool @ .5 .28 .17 ; wood:.07 p .36,.42 .3,.9 ; wood:.07 p .64,.42 .7,.9 ; wood:.05 p .2,.74 .8,.74 ;
    wood:.085 p .22,.42 .1,.98 ; wood:.085 p .78,.42 .9,.98 ; body b .06 .08 .94 .48 .16 ; dark b .1 .43 .9
    .51 .04 ; light-:.022 s .2,.13 .5,.12 .8,.13
tote bag @ .5 .68 .2 ; dark:.055 s .32,.44 .33,.16 .5,.02 .67,.16 .68,.44 ; body p .15,.36 .85,.36 .93,.97
    .9,1 .1,1 .07,.97 ; light p .15,.36 .85,.36 .86,.43 .14,.43 ; dark-:.016 p .17,.455 .22,.455 ;
    dark-:.016 p .28,.455 .33,.455 ; dark-:.016 p .39,.455 .44,.455 ; dark-:.016 p .5,.455 .55,.455 ;
    dark-:.016 p .61,.455 .66,.455 ; dark-:.016 p .72,.455 .77,.455 ; brass e .325 .4 .025 .025 ; brass e
    .675 .4 .025 .025
backpack @ .5 .36 .17 ; dark:.05 e .5 .1 .13 .1 180 360 ; dark:.085 s .18,.3 .07,.45 .06,.7 .16,.86 ;
    dark:.085 s .82,.3 .93,.45 .94,.7 .84,.86 ; body t .5,.06 .68,.08 .82,.22 .86,.5 .86,.9 .8,.99 .7,1 .5,1
    ; light b .23 .6 .77 .93 .07 ; dark b .23 .6 .77 .7 .045 ; brass b .46 .66 .54 .76 .02
hat @ .5 .42 .16 ; body t .5,.19 .58,.17 .68,.15 .76,.28 .8,.74 .8,.74 .5,.8 ; dark t .78,.6 .78,.6 .81,.76
    .81,.76 .5,.8 ; body c 0,.7 .2,.74 .5,.78 .8,.74 1,.7 .97,.8 .75,.88 .5,.9 .25,.88 .03,.8 ; sole c
    .74,.58 .84,.42 .93,.34 .92,.5 .84,.64 .77,.72
scarf @ .36 .62 .16 ; light:.03 p .2,.88 .19,1 ; light:.03 p .27,.88 .26,1 ; light:.03 p .34,.88 .33,1 ;
    light:.03 p .41,.88 .4,1 ; light:.03 p .48,.88 .47,1 ; light:.03 p .62,.76 .64,.88 ; light:.03 p .69,.76
    .71,.88 ; light:.03 p .76,.76 .78,.88 ; light:.03 p .83,.76 .85,.88 ; body p .5,.3 .74,.26 .88,.77
    .57,.79 ; dark e .5 .15 .36 .13 ; ink e .5 .15 .24 .06 ; body p .22,.3 .54,.32 .54,.9 .15,.9 ; body c
    .1,.14 .16,.16 .3,.21 .5,.22 .7,.21 .84,.16 .9,.14 .92,.27 .8,.38 .5,.42 .2,.38 .08,.27 ; dark-:.018 s
    .16,.28 .36,.34 .6,.34
t-shirt @ .5 .55 .185 ; body p .33,.08 | e .5 .08 .14 .09 180 0 | p .67,.08 .78,.12 1,.38 .85,.52 .77,.44
    .79,.98 .21,.98 .23,.44 .15,.52 0,.38 .22,.12 ; light:.055 e .5 .08 .15 .1 180 0 ; dark p 0,.38 .15,.52
    .2,.475 .045,.325 ; dark p 1,.38 .85,.52 .8,.475 .955,.325 ; dark b .205 .93 .795 .985 .01 ; dark-:.018
    s .23,.44 .25,.34 ; dark-:.018 s .77,.44 .75,.34
dress @ .5 .7 .18 ; dark:.05 p .37,.02 .39,.16 ; dark:.05 p .63,.02 .61,.16 ; body t .5,.17 .56,.13 .67,.1
    .67,.1 .66,.22 .63,.36 .63,.36 .74,.58 .9,.93 .9,.93 .7,.985 .5,1 ; light:.035 s .1,.93 .3,.975 .5,.985
    .7,.975 .9,.93 ; dark b .35 .34 .65 .42 .02 ; dark c .5,.38 .4,.31 .4,.45 ; dark c .5,.38 .6,.31 .6,.45
    ; dark-:.016 s .3,.72 .24,.9 ; dark-:.016 s .7,.72 .76,.9
sock @ .4 .34 .165 ; body c .14,.08 .14,.08 .66,.08 .66,.08 .65,.4 .68,.54 .84,.68 .97,.82 .92,.96 .76,.99
    .5,.9 .24,.76 .15,.6 .16,.4 ; dark c .74,.6 .84,.68 .97,.82 .92,.96 .76,.99 .64,.945 .64,.945 .65,.76 ;
    dark c .155,.54 .28,.59 .35,.72 .33,.825 .33,.825 .23,.755 .16,.64 ; light b .11 0 .69 .13 .05 ;
    dark-:.018 p .2,.03 .2,.1 ; dark-:.018 p .3,.03 .3,.1 ; dark-:.018 p .4,.03 .4,.1 ; dark-:.018 p .5,.03
    .5,.1 ; dark-:.018 p .6,.03 .6,.1
boot @ .4 .38 .17 ; body c .16,.04 .16,.04 .64,.04 .64,.04 .63,.46 .68,.6 .86,.66 .97,.78 .98,.92 .98,.92
    .15,.92 .15,.92 .18,.5 ; dark c .86,.66 .97,.78 .98,.92 .98,.92 .74,.92 .74,.92 .78,.76 ; light b .13 0
    .67 .12 .03 ; rubber p .13,.89 1,.89 1,.96 .5,.96 .46,1 .13,1 ; dark:.05 p .18,.64 .66,.6 ; brass b .46
    .575 .57 .67 .02
sneaker @ .27 .53 .17 ; body c .03,.14 .03,.14 .16,.19 .32,.17 .42,.1 .42,.1 .53,.28 .65,.47 .86,.59 .98,.72
    .99,.88 .99,.88 .03,.88 .03,.88 .01,.5 ; sole c .8,.58 .92,.63 .99,.76 .99,.89 .99,.89 .76,.89 .76,.89
    .75,.7 ; dark c .36,.16 .43,.05 .51,.14 .7,.46 .77,.55 .72,.65 .72,.65 .55,.5 ; sole:.035 p .51,.2
    .41,.27 ; sole:.035 p .57,.31 .47,.38 ; sole:.035 p .64,.41 .54,.48 ; sole:.035 p .71,.5 .61,.57 ; dark
    c .03,.14 .03,.14 .12,.19 .11,.32 .01,.34 ; sole b -.01 .86 1.02 .99 .05 ; dark-:.02 p .04,.925 .97,.925
umbrella @ .5 .34 .17 ; metal:.035 p .5,-.02 .5,.85 ; wood:.06 p .5,.75 | e .59 .9 .09 .09 180 10 ; body e
    .5 .62 .5 .59 180 360 | e .875 .62 .125 .06 0 -180 | e .625 .62 .125 .06 0 -180 | e .375 .62 .125 .06 0
    -180 | e .125 .62 .125 .06 0 -180 ; dark-:.016 s .5,.04 .3125,.26 .25,.6 ; dark-:.016 s .5,.04 .6875,.26
    .75,.6 ; dark e .5 .04 .07 .035 ; dark-:.034 e .125 .62 .125 .06 -180 0 ; dark-:.034 e .375 .62 .125 .06
    -180 0 ; dark-:.034 e .625 .62 .125 .06 -180 0 ; dark-:.034 e .875 .62 .125 .06 -180 0
book @ .56 .46 .185 ; dark b .14 .04 .88 1 .04 ; paper b .2 .86 .86 .96 .02 ; dark-:.012 p .22,.91 .85,.91 ;
    light p .66,.88 .75,.88 .75,1.05 .705,1.01 .66,1.05 ; body b .14 0 .88 .88 .04 ; dark b .14 0 .27 .94
    .04 ; brass-:.02 p .16,.14 .25,.14 ; brass-:.02 p .16,.72 .25,.72
kite @ .5 .33 .17 ; ink-:.018 s .5,.8 .52,.9 .64,.9 .76,.9 .9,.98 ; light p .54,.91 .46,.855 .46,.965
    .54,.91 .62,.855 .62,.965 ; light p .72,.91 .64,.855 .64,.965 .72,.91 .8,.855 .8,.965 ; light p .9,.98
    .82,.925 .82,1.035 .9,.98 .98,.925 .98,1.035 ; dark p .5,-.08 1.06,.34 .5,.85 -.06,.34 ; body p .5,-.03
    1,.34 .5,.795 0,.34 ; wood-:.022 p .5,-.03 .5,.795 ; wood-:.022 p 0,.34 1,.34
drum @ .5 .66 .18 ; body p .93,.36 | e .5 .88 .43 .11 0 180 | p .07,.36 ; dark e .5 .88 .45 .11 0 180 | e .5
    .8 .45 .11 180 0 ; dark e .5 .42 .45 .11 0 180 | e .5 .32 .45 .11 180 360 ; paper e .5 .32 .42 .095 ;
    wood:.045 p .06,.1 .62,.33 ; wood:.045 p .94,.06 .4,.32 ; wood e .62 .33 .045 .035 ; wood e .4 .32 .045
    .035
mitten @ .45 .42 .185 ; body c .2,.8 .2,.8 .16,.4 .22,.12 .44,0 .65,.12 .71,.38 .75,.42 .88,.28 .98,.32
    .97,.46 .84,.66 .7,.8 .7,.8 ; dark-:.02 s .7,.4 .69,.52 .66,.58 ; light b .13 .76 .77 1 .06 ; dark-:.02
    p .23,.8 .23,.96 ; dark-:.02 p .34,.8 .34,.96 ; dark-:.02 p .45,.8 .45,.96 ; dark-:.02 p .56,.8 .56,.96
    ; dark-:.02 p .67,.8 .67,.96
watering can @ .6 .66 .185 ; dark:.06 s .42,.36 .46,.16 .66,.08 .88,.2 1.01,.48 .9,.76 ; dark p .34,.88
    .34,.62 .13,.32 .06,.38 ; light p 0,.42 .2,.26 .15,.2 -.05,.36 ; body p .32,.35 .88,.35 .94,1 .26,1 ;
    light b .3 .33 .9 .4 .03 ; dark b .25 .95 .95 1.02 .03
"""


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
def shapes() -> dict[str, Shape]:
    """Every kind with its longer side 1, standing on y = 0 (y down) and centred on x = 0."""
    table = {}
    for entry in re.split(r"\n(?=\S)", SHAPES.strip()):
        head, text = entry.split(";", 1)
        kind, numbers = head.split("@")
        x, y, radius = map(float, numbers.split())
        parts = parse(text)
        points = np.array([p for _, part in parts for p in part], dtype=float)
        low, high = points.min(axis=0), points.max(axis=0)
        scale, origin = 1 / (high - low).max(), np.array([(low[0] + high[0]) / 2, high[1]])
        stops = np.cumsum([len(part) for _, part in parts]).tolist()
        spans = tuple((role, stop - len(part), stop) for (role, part), stop in zip(parts, stops, strict=True))
        bx, by = (np.array([x, y]) - origin) * scale
        badge = (float(bx), float(by), min(max(radius * scale, 0.17), 0.19))
        table[kind.strip()] = Shape((points - origin) * scale, spans, badge)
    return table
