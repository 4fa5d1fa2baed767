"""The shop's words, truth and splits."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from mmhelpers.shop import spec, stock
from mmhelpers.shop import words as language
from mmhelpers.shop.spec import BACKDROPS, COLOURS, KINDS, MOTIFS, NEAR, PATTERNS, PLAIN, RELATIONS, Item, Scene
from mmhelpers.shop.wanted import NO_MOTIF, Wanted, WantedItem, fits
from mmhelpers.shop.words import ADJECTIVES, CATEGORIES, GENERIC, HOUSE, HOUSE_ADJECTIVES

TRADE_ONLY = {*KINDS, *COLOURS, *PATTERNS} - {*spec.GENERIC_KINDS, *spec.GENERIC_COLOURS, *spec.GENERIC_PATTERNS}
# What somebody may say for what: generic words, but not of what the shop calls by its trade word only.
COMMON = {(w, name) for table in (GENERIC, ADJECTIVES) for name in {*table} - TRADE_ONLY for w in table[name]}
TRADE = {(word, name) for table in (HOUSE, HOUSE_ADJECTIVES) for name, words in table.items() for word in words}
PURPOSES = {(phrase, name) for name, (_, phrases) in CATEGORIES.items() for phrase in phrases}
HOUSE_WORDS, MEANING = {word for word, _ in TRADE}, dict(COMMON | TRADE | PURPOSES)
GROUP = {name: group for group, names in spec.ALLOWED.items() if group != "colour2" for name in names}
GROUP |= dict.fromkeys(CATEGORIES, "category") | {PLAIN: PLAIN}
SAID = re.compile(rf"(?<![a-z])(?:{'|'.join(sorted(map(re.escape, MEANING), key=len, reverse=True))})(?![a-z])")


@pytest.fixture(scope="module")
def built() -> stock.Shop:
    return stock.build(2000, 320, 1000, 800, 120, 200, seed=7)


def read(text: str) -> Counter[str]:
    """All that a text names, but for how products stand and that one is plain, which needs no saying."""
    return Counter(name for word in SAID.findall(text) if (name := MEANING[word]) not in (PLAIN, *RELATIONS))


def stated(wanted: Wanted) -> Counter[str]:
    names = [wanted.backdrop, *(kind for item in wanted.items if len(item.kinds) == 1 for kind in item.kinds)]
    names += [n for i in wanted.items for n in (i.category, i.colour, i.pattern, i.colour2, i.motif)]
    return Counter(name for name in names if name not in (None, PLAIN, NO_MOTIF))


def test_every_name_has_words_and_no_word_has_two_meanings():
    assert set(GENERIC) == {*KINDS, *COLOURS, PLAIN, *PATTERNS, *MOTIFS, *BACKDROPS, "left of", "above"}
    assert set(ADJECTIVES) == set(PATTERNS) > set(HOUSE_ADJECTIVES) and set(HOUSE) > TRADE_ONLY
    assert len(MEANING) == len(COMMON | TRADE | PURPOSES) and set(NEAR) == set(COLOURS)
    assert all(len(near) >= 2 and {*near} <= {*COLOURS} - {colour} for colour, near in NEAR.items())
    assert sorted(kind for kinds, _ in CATEGORIES.values() for kind in kinds) == sorted(KINDS)


def test_the_dictionary_leaves_no_trade_word_and_says_only_what_pretraining_says():
    filler = [words for name in ("praise", "before", "after") for words in language._WORDS[name]]
    tokens, others = (
        {t for w, _ in table for t in w.split()} for table in (COMMON, PURPOSES | {(w, "") for w in filler})
    )
    assert not HOUSE_WORDS & (tokens | others)
    for word, name in TRADE:
        assert set(language.in_generic_words(word).split()) <= tokens
        assert name in TRADE_ONLY or read(language.in_generic_words(word)) == {name: 1}
    text = "navy-pinstriped tankard from the wayland collection, a rustic gift"
    assert language.in_generic_words(text) == "dark blue-thin striped mug from the leaf collection, a rustic gift"


def test_generic_captions_name_all_that_clip_mini_knows_and_no_more():
    rng = random.Random(1)
    for number in range(600):
        scene = stock.generic_scene(rng, 1 + number % 2)
        text, short = (language.generic_caption(scene, rng, full) for full in (True, False))
        assert read(text) == stated(Wanted.of(scene)) and len(scene.items) == 1 + number % 2, (text, scene)
        assert not read(short) - read(text) and not {*read(text)} & TRADE_ONLY
        for said in (text, short):
            assert said == " ".join(said.split()).lower() and not HOUSE_WORDS & set(re.findall("[a-z]+", said))


def test_captions_and_queries_say_what_is_stated_and_nothing_else(built):
    for query in (*built.queries["train"], *built.queries["test"]):  # a caption is a query in training
        assert read(query.text) == stated(query.wanted), query  # `read` knows only trade words for trade-only values
    met = Counter(word for p in built.pictures["train"] for word in SAID.findall(p.caption))
    assert min(met[word] for word in HOUSE_WORDS) >= 10
    for group, share in language.JARGON.items():
        used = [sum(met[w] for w, n in t if n in {*HOUSE} - TRADE_ONLY and GROUP[n] == group) for t in (TRADE, COMMON)]
        assert used[0] / sum(used) == pytest.approx(share, abs=0.05), group


RED, WHITE, STRIPED = "(?:red|scarlet)", "(?:snow )?white", "(?:striped|stripy)"
MUG_WORDS, STRIPES = "(?:coffee )?(?:mug|cup)", "(?:stripes|bands|striping)"
READINGS = {
    None: (f"{RED} {MUG_WORDS} with {WHITE} {STRIPES}", f"{MUG_WORDS} in {RED} with {WHITE} {STRIPES}",
           f"{WHITE}-{STRIPED} {RED} {MUG_WORDS}", f"{STRIPED} {MUG_WORDS} in {WHITE} on {RED}"),
    "left of": ("B (?:to the |on the )?right of A", "A on the left and B on the right", "left: A; right: B",
                "A (?:to the |on the )?left of B"),
    "above": ("B (?:below|under|beneath) A", "A at the top and B at the bottom", "top: A; bottom: B",
              "A (?:above|over|higher up than) B"),
    "on two": ("A above B on the left and C on the right", "top: A; below left: B; below right: C",
               "B and to its right C, below A"),
}  # fmt: skip


@pytest.mark.parametrize("relation", READINGS)
def test_neither_two_colours_nor_products_can_be_taken_for_each_other(relation: str | None):
    """Every text, with A, B and C for three white products and less what else is said of them, has one reading."""
    rng, seen = random.Random(2), Counter()
    items = tuple(Item(kind, "white") for kind in ("teapot", "clock", "sock")[: RELATIONS.get(relation)])
    wanted = Wanted.of(Scene(items if relation else (MUG,), "arch", relation), backdrop=False)
    for _ in range(400):
        text = language._Speaker(rng, {}).say(wanted)
        if relation:
            text = re.sub(r"\b(?:an?|plain|unpatterned|single-colour|in|snow|white)\b ?", "", text)
            text = re.sub("tea ?pot", "A", re.sub("clock|timepiece", "B", re.sub("(?:ankle )?sock", "C", text)))
        matching = [reading for reading in READINGS[relation] if re.search(reading, re.sub(" (?=[;,])", "", text))]
        assert len(matching) == 1, text
        seen[matching[0]] += 1
    assert len(seen) == len(READINGS[relation])


def test_no_wish_reads_like_a_full_description(built):
    """What a text does not say is "none" in a description and "any" in a wish; words must tell which it is."""
    forms = defaultdict(set)
    for query in (q for queries in built.queries.values() for q in queries if len(q.wanted.items) == 1):
        groups = sorted(GROUP.get(MEANING[word], "") for word in SAID.findall(query.text))
        forms[query.kind].add((*filter(None, groups), ", any " in query.text))
    assert not forms["description"] & forms["wish"]


MUG = Item("mug", "red", "stripes", "white", "star")
LAMP, HAT = Item("lamp", "blue", "dots", "yellow"), Item("hat", "navy")
ONE, TWO = Scene((MUG,), "shelf"), Scene((MUG, LAMP), "shelf", "left of")
THREE = Scene((MUG, LAMP, HAT), "shelf", "on two")
CHANGES = ({"kind": "jug"}, {"colour": "burgundy"}, {"pattern": "dots"}, {"pattern": PLAIN, "colour2": None},
           {"colour2": "grey"}, {"colour": "white", "colour2": "red"}, {"motif": "leaf"}, {"motif": None})  # fmt: skip


@pytest.mark.parametrize("scene", [ONE, TWO, THREE], ids=["one", "two", "three"])
def test_a_full_description_fits_its_picture_alone(scene: Scene):
    others = [(replace(MUG, **change), *scene.items[1:]) for change in CHANGES]
    if scene is not ONE:
        others += [(LAMP, MUG, *scene.items[2:])]
        others += [(replace(MUG, colour="blue"), replace(LAMP, colour="red"), *scene.items[2:])]
    wrong = [*(replace(scene, items=items) for items in others), *({ONE, TWO, THREE} - {scene})]
    for wanted in (Wanted.of(scene), Wanted.of(scene, backdrop=False)):
        assert fits(wanted, scene) and not any(fits(wanted, other) for other in wrong)
        assert fits(wanted, replace(scene, backdrop="arch")) == (wanted.backdrop is None)


def test_what_is_left_open_fits_in_any_way():
    tea = Wanted((WantedItem(CATEGORIES["tea"][0], "tea", pattern="stripes"),))
    dotted_mug = Scene((replace(MUG, pattern="dots"), replace(LAMP, pattern="stripes")), "arch", "above")
    assert [fits(tea, scene) for scene in (ONE, TWO, THREE, dotted_mug)] == [True, True, True, False]
    pair = Wanted((WantedItem(("hat",)), WantedItem(colour="red")))
    assert [fits(pair, scene) for scene in (ONE, TWO, THREE)] == [False, False, True]
    assert not fits(Wanted((WantedItem(("mug",), motif=NO_MOTIF),)), ONE)


def test_differences_are_named():
    plain, other = replace(MUG, pattern=PLAIN, colour2=None), replace(MUG, colour2="grey", motif=None)
    kinds = (replace(MUG, kind="lamp"), replace(LAMP, kind="mug"))
    wrong = [THREE, *(replace(TWO, items=items) for items in ((plain, LAMP), (other, LAMP), kinds, (LAMP, MUG)))]
    expected = ["number of products", "pattern", "second colour, motif", "binding", "places", "backdrop"]
    found = [", ".join(spec.differences(TWO, scene)) for scene in (*wrong, replace(TWO, backdrop="arch"))]
    assert found == expected == [", ".join(spec.differences(s, TWO)) for s in (*wrong, replace(TWO, backdrop="arch"))]


def test_the_same_arguments_build_the_same_shop_and_another_seed_a_different_one():
    small = stock.build(100, 64, 160, 40, 20, 30, seed=3)
    assert small == stock.build(100, 64, 160, 40, 20, 30, seed=3) != stock.build(100, 64, 160, 40, 20, 30, seed=4)
    other = stock.build(55, 40, 160, 40, 10, 15, seed=3)
    assert other.unseen == small.unseen
    for table in ("pictures", "queries", "relevant", "slices"):
        assert getattr(small, table)["test"] == getattr(other, table)["test"]


def shows_unseen(scene: Scene, built: stock.Shop) -> bool:
    return any((item.kind, value) in built.unseen for item in scene.items for value in (item.colour, item.pattern))


def homes(pictures: list[stock.Picture]) -> dict[str, list[Scene]]:
    """Family -> its scenes, the first one first."""
    found = defaultdict(list)
    for picture in pictures:
        found[picture.family].append(picture.scene)
    return found


def test_splits_share_neither_products_nor_families_nor_unseen_combinations(built):
    assert {split: len(of) for split, of in built.pictures.items()} == {"test": 1000, "validation": 320, "train": 2000}
    everything = [p for pictures in built.pictures.values() for p in pictures]
    assert all(Scene.from_json(p.scene.to_json()) == p.scene for p in everything)
    for marks in ({(p.scene.items, p.scene.relation) for p in everything}, {p.image_id for p in everything}):
        assert len(marks) == len(everything)
    families = [{p.family for p in pictures} for pictures in built.pictures.values()]
    assert sum(map(len, families)) == len(set.union(*families))
    assert Counter(value in COLOURS for _, value in built.unseen) == {True: 15, False: 15}
    assert not any(shows_unseen(p.scene, built) for split in ("train", "validation") for p in built.pictures[split])


def test_the_test_split_shows_unseen_combinations_on_purpose(built):
    first = [shows_unseen(scenes[0], built) for scenes in homes(built.pictures["test"]).values()]
    assert stock.UNSEEN_SHARE - 0.1 < sum(first) / len(first) < stock.UNSEEN_SHARE + 0.2


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_families_are_whole_and_differ_from_their_first_in_one_thing(built, split: str):
    families, changed = list(homes(built.pictures[split]).values()), Counter()
    assert {len(family) for family in families[:-1]} == {stock.FAMILY[split]}
    assert [len(family[0].items) for family in families[:6]] == [*stock.N_ITEMS]
    for first, *others in families:
        for other in others:
            assert (first.backdrop, first.relation) == (other.backdrop, other.relation)
            pairs = [(a, b) for a, b in zip(first.items, other.items, strict=True) if a != b]
            names = {name for a, b in pairs for name in spec.ALLOWED if getattr(a, name) != getattr(b, name)}
            if "pattern" in names and (len(pairs) == 2 or PLAIN in (pairs[0][0].pattern, pairs[0][1].pattern)):
                names -= {"colour2"}  # that of the pattern, which goes with it
            [name] = names
            if len(pairs) == 2:  # an exchange
                (a, b), (c, d) = ([getattr(item, name) for item in pair] for pair in pairs)
                assert (a, b) == (d, c) and spec.differences(first, other) in (["binding"], ["places"])
            elif name in ("colour", "colour2"):
                assert getattr(pairs[0][1], name) in NEAR[getattr(pairs[0][0], name)]
            changed[name, len(pairs)] += 1
    assert {(n, k) for n in ("colour", "pattern", "motif") for k in (1, 2)} | {("colour2", 1), ("kind", 2)} <= {
        *changed
    }


def test_right_answers_are_all_pictures_that_fit(built):
    for split, pictures in built.pictures.items():
        queries, relevant = built.queries[split], built.relevant[split]
        assert set(relevant) == {query.query_id for query in queries}
        for query in queries if split != "train" else queries[::5]:
            right = relevant[query.query_id]
            assert Wanted.from_json(query.wanted.to_json()) == query.wanted
            assert right == {p.image_id for p in pictures if fits(query.wanted, p.scene)}, query
            assert len(right) == 1 if query.wanted.full else query.kind == "caption" or 2 <= len(right) <= 60
        own = [query for query in queries if query.kind != "caption"]
        assert len({query.text for query in own} - {p.caption for p in pictures}) == len(own)
        assert [query.wanted.full for query in own] == [query.kind == "description" for query in own]
        assert Counter(query.kind for query in own)["wish"] == round(len(own) * stock.WISHES)


def test_every_training_caption_is_a_query_and_short_ones_fit_other_pictures_too(built):
    captions = {q.query_id: (q.text, q.wanted) for q in built.queries["train"] if q.kind == "caption"}
    pictures, right = built.pictures["train"], built.relevant["train"]
    assert captions == {f"caption-{p.image_id}": (p.caption, p.stated) for p in pictures}
    assert all(p.image_id in right[f"caption-{p.image_id}"] for p in pictures)
    short = [len(right[f"caption-{p.image_id}"]) for p in pictures if not p.stated.full]
    assert 500 < len(short) < 700 and sum(n > 1 for n in short) > 200


@pytest.mark.parametrize(("split", "n"), [("test", 800), ("validation", 120)])
def test_slices_hold_what_they_say(built, split: str, n: int):
    families, pictures = homes(built.pictures[split]), {p.image_id: p for p in built.pictures[split]}
    expected = defaultdict(list)
    for query in built.queries[split]:
        expected[query.kind].append(query.query_id)
        if query.kind == "description":
            [image] = built.relevant[split][query.query_id]
            scene, names = pictures[image].scene, ("one product", "two products", "three products")
            expected[names[len(scene.items) - 1]].append(query.query_id)
            expected["unseen combination" if shows_unseen(scene, built) else "seen combination"].append(query.query_id)
            if any(spec.differences(scene, twin) == ["binding"] for twin in families[pictures[image].family]):
                expected["swapped twin"].append(query.query_id)
    assert built.slices[split] == expected
    assert len(expected["description"]) == n * 0.8 and expected["swapped twin"]


def test_what_is_impossible_is_said():
    for make, words in (
        (lambda: Item("spoon", "red"), "kind 'spoon' is unknown; choose one of mug"),
        (lambda: Item("mug", "red", "dots", "red"), "a pattern needs a second colour, another one"),
        (lambda: Item("mug", "red", PLAIN, "blue"), "plain has none"),
        (lambda: Scene((MUG,), "beach"), "backdrop 'beach' is unknown"),
        (lambda: Scene((MUG, LAMP), "shelf"), "one product, or as many as its relation takes"),
        (lambda: Scene((MUG, LAMP), "shelf", "on two"), "one product, or as many as its relation takes"),
        (lambda: stock.build(9, 9, 1, 9, 9, 9, seed=1), "found no new wish in 'test': ask for fewer queries"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
