"""The shop's words, truth and splits."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from mmhelpers.shop import stock as shop
from mmhelpers.shop import words as language
from mmhelpers.shop.spec import BACKDROPS, COLOURS, KINDS, MOTIFS, PATTERNS, PLAIN, RELATIONS, Item, Scene
from mmhelpers.shop.wanted import Wanted, WantedItem, fits, grade
from mmhelpers.shop.words import ADJECTIVES, CATEGORIES, GENERIC, HOUSE

NAMES = (*KINDS, *COLOURS, PLAIN, *PATTERNS, *MOTIFS, *BACKDROPS, *RELATIONS)
HOUSE_WORDS = {word for words in HOUSE.values() for word in words}


@pytest.fixture(scope="module")
def built() -> shop.Shop:
    return shop.build(2000, 300, 1000, 1000, 200, 500, seed=7)


def tokens(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text))


def says(text: str, name: str, *vocabularies: dict[str, tuple[str, ...]]) -> bool:
    words = [word for vocabulary in vocabularies for word in vocabulary.get(name, ())]
    return any(re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", text) for word in words)


# --- words


def test_every_name_has_words_and_no_word_has_two_meanings():
    assert set(GENERIC) == set(NAMES) and set(ADJECTIVES) == set(PATTERNS)
    assert set(HOUSE) >= {*COLOURS, *PATTERNS, *MOTIFS} and len(set(HOUSE) & set(KINDS)) >= len(KINDS) * 2 / 3
    pairs = {(word, name) for table in (GENERIC, ADJECTIVES, HOUSE) for name, words in table.items() for word in words}
    assert len({word for word, _ in pairs}) == len(pairs)


def test_a_house_word_is_no_part_of_common_english():
    table = json.loads((Path(language.__file__).with_name("words.json")).read_text(encoding="utf-8"))
    everyday = [*GENERIC.values(), *ADJECTIVES.values(), *(table[name] for name in ("praise", "before", "after"))]
    everyday += [phrases for _, phrases in CATEGORIES.values()]
    common = {token for words in everyday for word in words for token in tokens(word)}
    assert not HOUSE_WORDS & common
    assert sorted(k for kinds, _ in CATEGORIES.values() for k in kinds) == sorted(KINDS)


def test_generic_captions_name_everything_and_hold_no_jargon():
    rng = random.Random(1)
    for _ in range(800):
        scene = shop.random_scene(rng)
        text = language.generic_caption(scene, rng)
        names = [n for i in scene.items for n in (i.kind, i.colour, i.colour2, i.motif) if n]
        assert all(says(text, name, GENERIC) for name in (*names, scene.backdrop)), (text, scene)
        patterns = [i.pattern for i in scene.items if i.pattern != PLAIN]
        assert all(says(text, name, GENERIC, ADJECTIVES) for name in patterns), (text, scene)
        assert not tokens(text) & HOUSE_WORDS, text
        assert text == " ".join(text.split()).lower()
        assert not tokens(language.generic_caption(scene, rng, full=False)) & HOUSE_WORDS


def test_the_two_colours_of_a_product_cannot_be_taken_for_each_other():
    item = Item("mug", "red", "stripes", "white", "star")
    rng = random.Random(2)
    red, white, adjective = "(?:red|scarlet)", "(?:snow )?white", "(?:striped|stripy)"
    kind, noun = "(?:coffee )?(?:mug|cup)", "(?:stripes|bands|striping)"
    readings = (
        rf"{red} {kind} with {white} {noun}",
        rf"{kind} in {red} with {white} {noun}",
        rf"{white}-{adjective} {red} {kind}",
        rf"{adjective} {kind} in {white} on {red}",
    )
    seen = Counter()
    for _ in range(400):
        speaker = language._Speaker(rng, {})
        text = speaker.say(Wanted.of(Scene((item,), "shelf")))
        matching = [reading for reading in readings if re.search(reading, text)]
        assert len(matching) == 1, text
        seen[matching[0]] += 1
    assert len(seen) == len(readings)


def test_house_captions_mix_the_vocabularies(built):
    share = sum(bool(tokens(p.caption) & HOUSE_WORDS) for p in built.pictures["train"]) / 2000
    assert 0.8 < share < 0.99
    met = Counter(word for p in built.pictures["train"] for word in tokens(p.caption) & HOUSE_WORDS)
    assert set(met) == HOUSE_WORDS and min(met.values()) >= 15
    for picture in built.pictures["train"][:300]:
        for want, item in zip(picture.stated.items, picture.scene.items, strict=True):
            stated = [v for v in (item.kind, want.colour, want.colour2) if v]
            assert all(says(picture.caption, v, GENERIC, HOUSE) for v in stated), picture


# --- truth

MUG = Item("mug", "red", "stripes", "white", "star")
LAMP = Item("lamp", "blue", "dots", "yellow")
ONE = Scene((MUG,), "shelf")
TWO = Scene((MUG, LAMP), "shelf", "left of")


def one(**changes) -> Scene:
    return Scene((replace(MUG, **changes),), "shelf")


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (ONE, 3),
        (replace(ONE, backdrop="arch"), 2),
        (one(colour2="black"), 2),
        (TWO, 2),  # a product too many
        (one(colour2="black", motif=None), 1),
        (one(colour="green"), 1),
        (one(pattern=PLAIN, colour2=None), 1),
        (one(colour="green", pattern="dots"), 0),
        (one(kind="jug"), 0),
    ],
)
def test_grades_for_one_product(scene, expected):
    assert grade(Wanted.of(ONE), scene) == expected
    assert fits(Wanted.of(ONE), scene) == (expected == 3)


@pytest.mark.parametrize(
    ("items", "relation", "expected"),
    [
        ((MUG, LAMP), "left of", 3),
        ((MUG, LAMP), "above", 2),
        ((LAMP, MUG), "left of", 2),  # mirrored
        ((MUG, replace(LAMP, motif="leaf")), "left of", 2),
        ((MUG, replace(LAMP, colour="black")), "left of", 1),
        ((replace(MUG, colour2="yellow"), replace(LAMP, colour2="white")), "left of", 1),
        ((replace(MUG, motif=None), replace(LAMP, motif="star")), "left of", 1),
        ((replace(MUG, colour="blue"), replace(LAMP, colour="red")), "left of", 0),
        ((replace(MUG, pattern="dots", colour2="yellow"), replace(LAMP, pattern="stripes", colour2="white")),
         "left of", 0),
    ],
)  # fmt: skip
def test_grades_for_two_products(items, relation, expected):
    assert grade(Wanted.of(TWO), Scene(items, "shelf", relation)) == expected


def test_a_wanted_product_that_is_missing_and_a_backdrop_that_is_left_open():
    assert grade(Wanted.of(TWO), ONE) == 0
    assert grade(Wanted.of(ONE, backdrop=False), replace(ONE, backdrop="arch")) == 3


def test_an_open_query_is_answered_or_not():
    tea = Wanted((WantedItem(CATEGORIES["tea"][0], "tea", pattern="stripes"),), graded=False)
    assert [grade(tea, scene) for scene in (ONE, TWO, one(colour="lime"), one(kind="jug"))] == [3, 3, 3, 3]
    assert [grade(tea, scene) for scene in (one(pattern="dots"), one(kind="hat"))] == [0, 0]
    stripes_on_lamp = Wanted((WantedItem(("lamp",), pattern="stripes"),), graded=False)
    assert grade(stripes_on_lamp, TWO) == 0


# --- the shop


def test_the_same_seed_builds_the_same_shop_and_another_a_different_one(built):
    small = shop.build(100, 60, 200, 40, 20, 30, seed=3)
    assert small == shop.build(100, 60, 200, 40, 20, 30, seed=3)
    assert small != shop.build(100, 60, 200, 40, 20, 30, seed=4)
    assert small.pictures["test"] == shop.build(50, 60, 200, 40, 20, 15, seed=3).pictures["test"]


def test_splits_share_neither_products_nor_families_nor_unseen_combinations(built):
    assert {split: len(pictures) for split, pictures in built.pictures.items()} == {
        "train": 2000, "validation": 300, "test": 1000,
    }  # fmt: skip
    everything = [p for pictures in built.pictures.values() for p in pictures]
    assert len({(p.scene.items, p.scene.relation) for p in everything}) == len(everything)
    assert len({p.image_id for p in everything}) == len(everything)
    families = [{p.family for p in pictures} for pictures in built.pictures.values()]
    assert sum(map(len, families)) == len(set.union(*families))
    shown = {
        split: sum(bool(built.unseen & {(i.kind, v) for i in p.scene.items for v in (i.colour, i.pattern)})
                   for p in pictures)
        for split, pictures in built.pictures.items()
    }  # fmt: skip
    assert len(built.unseen) == 30 and shown["train"] == shown["validation"] == 0 and shown["test"] > 200


def test_variants_differ_in_one_attribute_and_pairs_have_swapped_twins(built):
    families = defaultdict(list)
    for picture in built.pictures["train"][:1000]:
        families[picture.family].append(picture.scene)
    for first, *others in list(families.values())[:-1]:
        if len(first.items) == 1:
            assert 3 <= len(others) <= 5
            base = Wanted.of(first)
            assert all(grade(base, scene) in (1, 2) for scene in others)
        else:
            assert 2 <= len(others) <= 3
            for twin in others:
                assert grade(Wanted.of(first), twin) == 0
                values = [sorted(map(str, (getattr(i, f) for i in s.items)))
                          for s in (first, twin) for f in ("kind", "colour", "pattern")]  # fmt: skip
                assert values[:3] == values[3:]
    single = sum(len(p.scene.items) == 1 for p in built.pictures["train"])
    assert abs(single - 1000) < 10


def test_queries_have_answers_and_twins_that_are_wrong(built):
    corpus = {p.image_id: p for p in built.pictures["test"]}
    families = defaultdict(list)
    for picture in corpus.values():
        families[picture.family].append(picture)
    kinds = Counter(query.kind for query in built.queries["test"])
    assert kinds == {"exact": 450, "underspecified": 250, "binding": 300}
    texts = {query.text for query in built.queries["test"]}
    assert len(texts) == 1000 and not texts & {p.caption for p in built.pictures["test"]}
    for query in built.queries["test"]:
        qrels = built.qrels["test"][query.query_id]
        right = [image_id for image_id, value in qrels.items() if value == 3]
        assert right and set(qrels.values()) <= {1, 2, 3}
        if query.kind == "underspecified":
            assert 2 <= len(right) <= 60 and len(right) == len(qrels)
        elif query.kind == "binding":
            twins = [p for p in families[corpus[right[0]].family] if p.image_id not in right]
            assert twins and any(qrels.get(p.image_id, 0) == 0 for p in twins)
            assert all(qrels.get(p.image_id, 0) < 3 for p in twins)


def test_qrels_are_the_grades_of_all_pairs_and_specs_survive_json(built):
    for picture in built.pictures["validation"][:60]:
        assert Scene.from_json(picture.scene.to_json()) == picture.scene
    for query in built.queries["validation"][:60]:
        assert Wanted.from_json(query.wanted.to_json()) == query.wanted
        every = {p.image_id: grade(query.wanted, p.scene) for p in built.pictures["validation"]}
        assert built.qrels["validation"][query.query_id] == {i: g for i, g in every.items() if g}


def test_slices(built):
    slices, ids = built.slices["test"], {query.query_id for query in built.queries["test"]}
    for pair in (("one product", "two products"), ("unseen combination", "seen combination")):
        assert set(slices[pair[0]]) | set(slices[pair[1]]) == ids and not set(slices[pair[0]]) & set(slices[pair[1]])
    assert len(slices["unseen combination"]) >= 150 and "unseen combination" not in built.slices["validation"]


def test_short_captions_fit_other_pictures_and_full_ones_do_not(built):
    """So that a mined negative can turn out to be right, and be counted."""
    pictures = built.pictures["train"]
    full = [p for p in pictures[:300] if p.stated.graded]
    short = [p for p in pictures[:300] if not p.stated.graded]
    assert all(fits(p.stated, p.scene) for p in pictures)
    assert not any(fits(p.stated, other.scene) for p in full for other in pictures if other is not p)
    assert sum(any(fits(p.stated, other.scene) for other in pictures if other is not p) for p in short) > 10


def test_what_is_impossible_is_said():
    with pytest.raises(ValueError, match="unknown; choose one of mug"):
        Item("spoon", "red")
    with pytest.raises(ValueError, match="a pattern needs a second colour, another one"):
        Item("mug", "red", "dots", "red")
    with pytest.raises(ValueError, match="too few to ask about"):
        shop.build(10, 3, 3, 10, 10, 10, seed=1)
