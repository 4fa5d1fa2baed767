"""The drawing engine: the same spec gives the same picture, and different specs give different ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from mmhelpers.shop.draw import CELLS, draw, draw_with_regions
from mmhelpers.shop.spec import BACKDROPS, COLOURS, KINDS, MOTIFS, PATTERNS, PLAIN, RELATIONS, Item, Scene

MUG, LAMP = Item("mug", "red", "stripes", "white", "star"), Item("lamp", "blue")
# Mean absolute difference (0 to 255) inside the product that two specs must have at 128 px. In one pose equal
# specs differ by 0; the nearest measured, 2.3, are two dark shades in a thin pattern.
MARGIN = 2.0


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


def test_one_seed_is_one_picture():
    one, same, other = (draw(Scene((MUG, LAMP), "shelf", "left of"), 128, seed) for seed in (5, 5, 6))
    assert one.tobytes() == same.tobytes() != other.tobytes() and (one.size, one.mode) == ((128, 128), "RGB")


@pytest.mark.parametrize("size", [128, 224])
def test_geometry_does_not_depend_on_size(size):
    for number, kind in enumerate(KINDS):
        scene = Scene((Item(kind, "red", PATTERNS[number % 14], "white", "moon"),), BACKDROPS[number % 6])
        (small, [mask]), (large, [large_mask]) = (draw_with_regions(scene, side, number) for side in (96, size))
        large, large_mask = (image.resize((96, 96), Image.Resampling.BOX) for image in (large, large_mask))
        assert np.abs(array(small) - array(large)).mean() < 4 > np.abs(array(mask) - array(large_mask)).mean()
        assert np.abs(np.roll(array(mask), 2, axis=1) - array(large_mask)).mean() > 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_shows_on_every_kind(kind):
    plain = array(draw(Scene((Item(kind, "yellow", motif="fish"),), "arch"), 96, 1))
    for pattern in PATTERNS:
        item = Item(kind, "yellow", pattern, "blue", "fish")
        picture, (mask,) = draw_with_regions(Scene((item,), "arch"), 96, 1)
        changed = np.abs(array(picture) - plain).mean(axis=2) > 30
        assert changed[array(mask) > 127].mean() > 0.06, pattern
        assert not changed[array(mask) == 0].any(), pattern


@pytest.mark.parametrize("relation", [None, *RELATIONS])
@pytest.mark.parametrize("variation", [0.0, 1.0, 2.0])
def test_products_stay_in_their_cells_and_never_meet(relation, variation):
    cells = [np.array(cell) * 96 for cell, _, _ in CELLS[relation]]
    for seed, kind in enumerate(KINDS):
        rest = tuple(Item(KINDS[seed - 5 * n], "teal") for n in range(1, len(cells)))
        scenes = [Scene((Item(kind, c), *rest), "window", relation) for c in ("red", "green")]
        (one, regions), (two, _) = (draw_with_regions(s, 96, seed, variation) for s in scenes)
        regions = [array(region) for region in regions]
        assert (np.sum([region > 0 for region in regions], axis=0) <= 1).all()
        for region, (x0, y0, x1, y1) in zip(regions, cells, strict=True):
            assert (region > 127).sum() > 250
            y, x = np.nonzero(region > 127)
            assert x.min() >= x0 - 1 and y.min() >= y0 - 1 and x.max() <= x1 and y.max() <= y1, kind
        differs = np.abs(array(one) - array(two)).max(axis=2) > 0
        assert differs[regions[0] > 127].mean() > 0.2
        assert not differs[regions[0] == 0].any()


def neighbours(base: Item) -> list[Item]:
    """The item and everything one attribute away, its colours swapped and its plain version too."""
    found = {replace(base, pattern=PLAIN, colour2=None), replace(base, colour=base.colour2, colour2=base.colour)}
    found |= {replace(base, colour=c) for c in COLOURS if c != base.colour2}
    found |= {replace(base, colour2=c) for c in COLOURS if c != base.colour}
    found |= {replace(base, pattern=p) for p in PATTERNS} | {replace(base, motif=m) for m in (None, *MOTIFS)}
    return sorted(found, key=str)


BASES = (
    MUG, Item("kite", "sky blue", "zigzag", "blue", "leaf"), Item("carafe", "black", "pinstripe", "charcoal", "fish"),
    Item("satchel", "lime", "houndstooth", "olive", "heart"), Item("scarf", "orange", "dots", "pink", "moon"),
    Item("clog", "plum", "gingham", "navy", "flower"), Item("saucepan", "mint", "herringbone", "sage", "crown"),
)  # fmt: skip


@pytest.mark.parametrize("base", BASES, ids=lambda item: item.kind)
@pytest.mark.parametrize("relation", [None, "on two"])
def test_no_two_specs_look_the_same(base, relation):
    items = neighbours(base)
    rest = (LAMP, LAMP) if relation else ()
    drawn = [draw_with_regions(Scene((i, *rest), "studio", relation), 128, 3, 0.0) for i in items]
    inside = array(drawn[0][1][0]) > 127
    differ([array(picture)[inside] for picture, _ in drawn], items, MARGIN)


def test_no_two_kinds_look_the_same():
    differ([array(draw(Scene((Item(kind, "teal"),), "studio"), 96, 0, 0.0)) for kind in KINDS], KINDS, 8)


def differ(pixels: list[np.ndarray], names: Sequence, margin: float) -> None:
    pairs = combinations(zip(pixels, names, strict=True), 2)
    nearest = min((float(np.abs(a - b).mean()), str(x), str(y)) for (a, x), (b, y) in pairs)
    assert nearest[0] > margin, nearest
