"""What covers, decorates and surrounds a product: patterns, motifs, backdrops, light and shadow."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from mmhelpers.shop.shapes import Part, box, parse

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


# In a disc of radius 1, in the notation of `kinds`: "+" is ink and "-" is the badge's paper again.
MOTIFS = {
    "star": """+ p 0,-.95 .23511,-.32361 .9035,-.29357 .38042,.12361 .5584,.76857 0,.4 -.5584,.76857
    -.38042,.12361 -.9035,-.29357 -.23511,-.32361""",
    "heart": """+ c 0,-.42 0,-.42 .42,-.74 .82,-.5 .76,0 0,.82 0,.82 -.76,0 -.82,-.5 -.42,-.74""",
    "leaf": """+ c .72,-.78 .72,-.78 .66,.1 .1,.52 -.42,.44 -.5,-.1 -.1,-.56 ; +:.16 p -.3,.3 -.74,.78 ; -:.13
    p -.3,.3 .36,-.4""",
    "moon": """+ e 0 0 .82 .82 ; - e .4 -.2 .66 .66""",
    "fish": """+ e -.2 0 .66 .44 ; + p .25,0 .92,-.5 .92,.5 ; - e -.5 -.1 .11 .11""",
    "flower": """+ e 0 -.54 .34 .34 ; + e .51357 -.16687 .34 .34 ; + e .3174 .43687 .34 .34 ; + e -.3174
    .43687 .34 .34 ; + e -.51357 -.16687 .34 .34 ; + e 0 0 .4 .4 ; - e 0 0 .25 .25""",
    "bolt": """+ p .25,-.98 -.56,.14 -.06,.14 -.26,.98 .56,-.2 .06,-.2""",
    "crown": """+ p -.8,.6 -.86,-.52 -.4,0 0,-.74 .4,0 .86,-.52 .8,.6 ; - b -.66 .3 .66 .4""",
}


@lru_cache(maxsize=8)
def motif_shape(motif: str) -> list[Part]:
    return parse(MOTIFS[motif])


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


def _vertical(side: int, stops: list[tuple[float, str]]) -> Image.Image:
    y = (np.arange(side) + 0.5) / side
    channels = np.array([ImageColor.getrgb(colour) for _, colour in stops]).T
    column = np.stack([np.interp(y, [where for where, _ in stops], c) for c in channels], axis=1)
    return Image.fromarray(np.repeat(column[:, None], side, axis=1).round().astype(np.uint8))


# backdrop -> (gradient stops from top to bottom, colour of the ledge, things in the notation of `kinds`)
_SCENERY = {
    "studio": ([(0, "#f0e2d2"), (0.62, "#e6d2be"), (0.74, "#d8c2ae"), (1, "#e2ceba")], "#cab098",
        ""),
    "shelf": ([(0, "#e2dcd0"), (0.8, "#d4cdc0")], "#c49d76",
        """#c8c0b2 b 0 .8 1 .83 ; #d0ac86 b 0 .83 1 .955 ; #c49f79:.006 s .05,.87 .4,.865 .8,.872 ;
        #c49f79:.006 s .3,.915 .6,.92 .97,.912 ; #b08863 b 0 .955 1 1"""),
    "window": ([(0, "#dad4ca"), (1, "#cec7bc")], "#c4a482",
        """#beb6aa b .09 -.1 .93 .82 ; #ece8de b .08 -.1 .92 .8 ; #c8dbe6 b .13 -.1 .47 .32 ; #c8dbe6 b .53
        -.1 .87 .32 ; #d4e3e9 b .13 .38 .47 .76 ; #d4e3e9 b .53 .38 .87 .76 ; #e4edef c .17,.2 .24,.13
        .33,.12 .42,.2 .3,.22 ; #e4edef c .62,.5 .7,.44 .82,.5 .7,.53 ; #e2dbce b 0 .82 1 1 ; #c8c0b2 b 0
        .955 1 1"""),
    "meadow": ([(0, "#cedee6"), (0.7, "#e2e9e4")], "#b89876",
        """#f4e8c8 e .82 .16 .1 .1 ; #ecf1f0 c .06,.24 .14,.16 .24,.14 .36,.24 .2,.26 ; #c6d4ba c -.2,1
        -.1,.66 .2,.56 .55,.68 1.2,1 ; #bacbaa c -.1,1.1 .4,.76 .8,.62 1.2,.68 1.2,1.2 ; #acbf98 b -.1 .8
        1.1 1.1 ; #9cb188:.01 s .06,.87 .072,.84 ; #9cb188:.01 s .09,.88 .102,.85 ; #9cb188:.01 s .93,.86
        .942,.83 ; #9cb188:.01 s .9,.97 .912,.94 ; #9cb188:.01 s .15,.97 .162,.94 ; #9cb188:.01 s .12,.96
        .132,.93 ; #9cb188:.01 s .96,.87 .972,.84 ; #f4eedc e .04 .95 .011 .011 ; #f4eedc e .95 .93 .011
        .011 ; #f4eedc e .2 .84 .011 .011"""),
    "tiles": ([(0, "#c6d8d6"), (1, "#bed0ce")], "#ded6cb",
        """#dee9e6 b 0 .1 1 .114 ; #dee9e6 b 0 .34 1 .354 ; #dee9e6 b 0 .58 1 .594 ; #dee9e6 b .24 -.14 .254
        .1 ; #dee9e6 b .48 -.14 .494 .1 ; #dee9e6 b .72 -.14 .734 .1 ; #dee9e6 b .96 -.14 .974 .1 ; #dee9e6
        b .12 .1 .134 .34 ; #dee9e6 b .36 .1 .374 .34 ; #dee9e6 b .6 .1 .614 .34 ; #dee9e6 b .84 .1 .854 .34
        ; #dee9e6 b .24 .34 .254 .58 ; #dee9e6 b .48 .34 .494 .58 ; #dee9e6 b .72 .34 .734 .58 ; #dee9e6 b
        .96 .34 .974 .58 ; #dee9e6 b .12 .58 .134 .82 ; #dee9e6 b .36 .58 .374 .82 ; #dee9e6 b .6 .58 .614
        .82 ; #dee9e6 b .84 .58 .854 .82 ; #b0c1be b 0 .79 1 .82 ; #e6ded4 b 0 .81 1 .955 ; #cec5ba b 0 .955
        1 1"""),
    "arch": ([(0, "#e8d6d0"), (1, "#e0ccc6")], "#eadad0",
        """#d0b6b2 p .89,.84 | e .5 .46 .39 .38 0 -180 | p .11,.84 ; #d8c0be p .89,.84 | e .515 .46 .375
        .365 0 -180 | p .14,.84 ; #ecded4 b 0 .82 1 1 ; #d8c8be b 0 .82 1 .832"""),
}
_TINTS = ((255, 255, 255), (255, 240, 222), (224, 234, 255))


@lru_cache(maxsize=96)
def backdrop(name: str, side: int, ledge: bool, flipped: bool, tint: int) -> Image.Image:
    """The empty scene, RGB (side, side); with `ledge` it has a second board for a product above another."""
    stops, board, things = _SCENERY[name]
    image = _vertical(side, stops)
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
