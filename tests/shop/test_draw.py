"""The drawing engine: the same spec gives the same picture, and different specs give different ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from mmhelpers.shop.draw import draw, draw_with_regions
from mmhelpers.shop.spec import BACKDROPS, COLOURS, KINDS, MOTIFS, PATTERNS, RELATIONS, Item, Scene

MUG, LAMP = Item("mug", "red", "stripes", "white", "star"), Item("lamp", "blue")
# Mean absolute difference (0 to 255) inside the product that two specs must have at 96 px. In one pose
# equal specs differ by 0. The nearest ones differ in the motif alone: a badge fills a tenth of a large
# product and two inks disagree on a third of it by 200, so about 6; the nearest measured is above 3.
MARGIN = 2.5


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


def pair(relation: str, backdrop: str = "shelf") -> Scene:
    return Scene((MUG, LAMP), backdrop, relation)


@pytest.mark.parametrize("size", [96, 224])
def test_one_seed_is_one_picture(size):
    scene = pair("left of")
    assert draw(scene, size, 5).tobytes() == draw(scene, size, 5).tobytes()
    assert draw(scene, size, 5).tobytes() != draw(scene, size, 6).tobytes()
    assert draw(scene, size, 5).size == (size, size)
    assert draw(scene, size, 5).mode == "RGB"


@pytest.mark.parametrize("size", [192, 336])
def test_geometry_does_not_depend_on_size(size):
    for number, kind in enumerate(KINDS):
        scene = Scene((Item(kind, "red", PATTERNS[number % 8], "white", "moon"),), BACKDROPS[number % 6])
        small, large = draw_with_regions(scene, 96, number), draw_with_regions(scene, size, number)
        box = Image.Resampling.BOX
        assert np.abs(array(small[0]) - array(large[0].resize((96, 96), box))).mean() < 4
        assert np.abs(array(small[1][0]) - array(large[1][0].resize((96, 96), box))).mean() < 4
        shifted = np.roll(array(small[1][0]), 2, axis=1)
        assert np.abs(shifted - array(large[1][0].resize((96, 96), box))).mean() > 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_shows_on_every_kind(kind):
    plain = array(draw(Scene((Item(kind, "yellow", motif="fish"),), "arch"), 96, 1))
    for pattern in PATTERNS:
        item = Item(kind, "yellow", pattern, "blue", "fish")
        picture, (mask,) = draw_with_regions(Scene((item,), "arch"), 96, 1)
        changed = np.abs(array(picture) - plain).mean(axis=2) > 30
        assert changed[array(mask) > 127].mean() > 0.06, pattern
        assert not changed[array(mask) == 0].any(), pattern


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("variation", [0.0, 1.0, 2.0])
def test_regions_hold_their_product_and_never_meet(relation, variation):
    for seed, kind in enumerate(KINDS):
        other = Item(KINDS[seed - 5], "teal")
        scenes = [Scene((Item(kind, c), other), "window", relation) for c in ("red", "green")]
        (one, regions), (two, _) = (draw_with_regions(s, 96, seed, variation) for s in scenes)
        first, second = (array(region) for region in regions)
        assert not ((first > 0) & (second > 0)).any()
        assert min((first > 127).sum(), (second > 127).sum()) > 250
        differs = np.abs(array(one) - array(two)).max(axis=2) > 0
        assert differs[first > 127].mean() > 0.2
        assert not differs[first == 0].any()
        axis = 0 if relation == "above" else 1
        assert np.nonzero(first > 127)[axis].mean() < np.nonzero(second > 127)[axis].mean()


def neighbours(base: Item) -> list[Item]:
    """The item and everything one attribute away, its colours swapped and its plain version too."""
    kind, colour, pattern, colour2, motif = base.kind, base.colour, base.pattern, base.colour2, base.motif
    found = {base, Item(kind, colour, motif=motif), Item(kind, colour2, pattern, colour, motif)}
    found |= {Item(kind, c, pattern, colour2, motif) for c in COLOURS if c != colour2}
    found |= {Item(kind, colour, pattern, c, motif) for c in COLOURS if c != colour}
    found |= {Item(kind, colour, p, colour2, motif) for p in PATTERNS}
    found |= {Item(kind, colour, pattern, colour2, m) for m in (None, *MOTIFS)}
    return sorted(found, key=str)


@pytest.mark.parametrize(
    "base",
    [
        Item("mug", "red", "stripes", "white", "star"),
        Item("kite", "sky blue", "zigzag", "blue", "leaf"),
        Item("sock", "black", "checks", "brown", "fish"),
        Item("lamp", "lime", "grid", "green", "heart"),
        Item("scarf", "orange", "dots", "pink", "moon"),
        Item("sneaker", "purple", "colour block", "teal", "flower"),
    ],
    ids=lambda item: item.kind,
)
@pytest.mark.parametrize("relation", [None, "left of"])
def test_no_two_specs_look_the_same(base, relation):
    items = neighbours(base)
    rest = (LAMP,) if relation else ()
    drawn = [draw_with_regions(Scene((i, *rest), "studio", relation), 96, 3, 0.0) for i in items]
    inside = array(drawn[0][1][0]) > 127
    pixels = [array(picture)[inside] for picture, _ in drawn]
    nearest = min(
        (float(np.abs(a - b).mean()), str(x), str(y))
        for (a, x), (b, y) in combinations(zip(pixels, items, strict=True), 2)
    )
    assert nearest[0] > MARGIN, nearest
