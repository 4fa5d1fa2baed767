"""The shop: families of products that differ little, splits, queries and their right answers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mmhelpers.shop import spec
from mmhelpers.shop.spec import BACKDROPS, COLOURS, KINDS, MOTIFS, NEAR, PATTERNS, PLAIN, RELATIONS, Item, Scene
from mmhelpers.shop.wanted import NO_MOTIF, Wanted, WantedItem, fits
from mmhelpers.shop.words import CATEGORIES, caption_wanted, house_caption, house_query

FAMILY = {"train": 5, "validation": 8, "test": 8}  # pictures; all of a family are in the corpus
WISHES = 0.2  # of the queries; the others are full descriptions
ANSWERS = (2, 60)  # right answers of a wish, in the corpus of its split
N_UNSEEN = 15  # kind x colour combinations that only the test split shows, and as many kind x pattern
UNSEEN_SHARE = 0.3  # of the test families, on purpose; chance adds some
N_ITEMS = (1, 2, 1, 3, 1, 2)  # products in the pictures of one family after the other
MOTIF_SHARE = {1: 0.35, 2: 0.2, 3: 0.2}  # of products, by how many are in the picture
SWAPS = 0.35  # of the pictures in a family of several products, each with something of two products exchanged
GENERIC_SHARE = 0.4  # of kinds, colours and patterns; the rest are drawn from all of them

Combinations = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """One picture of the shop; `stated` is what its caption says, so what a negative must not fit."""

    image_id: str
    scene: Scene
    caption: str
    stated: Wanted
    seed: int  # for draw()
    family: str


@dataclass(frozen=True)
class Query:
    """What somebody asks for; its kind is "description" or "wish", and in training also "caption"."""

    query_id: str
    kind: str
    text: str
    wanted: Wanted


@dataclass(frozen=True)
class Shop:
    """All of a shop by split: train (where each caption is a query as well), validation and test."""

    pictures: dict[str, list[Picture]]
    queries: dict[str, list[Query]]
    relevant: dict[str, dict[str, set[str]]]  # split -> query id -> image ids of the right answers
    slices: dict[str, dict[str, list[str]]]  # split -> slice -> query ids
    unseen: Combinations  # (kind, colour or pattern) that only the test split shows


def generic_scene(rng: random.Random, n_items: int) -> Scene:
    """One or two random products of which clip-mini knows all: the source of pretraining pictures."""
    items = tuple(_item(rng, 0.5 / n_items, generic_share=1) for _ in range(n_items))
    return Scene(items, rng.choice(BACKDROPS), rng.choice(("left of", "above")) if n_items == 2 else None)


def _item(rng: random.Random, motif_share: float, generic_share: float = GENERIC_SHARE) -> Item:
    """Any product; two in three have a pattern."""

    def one_of(generic: Sequence[str], every: Sequence[str]) -> str:
        return rng.choice(generic if rng.random() < generic_share else every)

    colour = colour2 = one_of(list(spec.GENERIC_COLOURS), list(COLOURS))
    while colour2 == colour:
        colour2 = one_of(list(spec.GENERIC_COLOURS), list(COLOURS))
    pattern = one_of(spec.GENERIC_PATTERNS, PATTERNS) if rng.random() < 2 / 3 else PLAIN
    motif = rng.choice(MOTIFS) if rng.random() < motif_share else None
    return Item(one_of(spec.GENERIC_KINDS, KINDS), colour, pattern, None if pattern == PLAIN else colour2, motif)


def _variant(base: Item, rng: random.Random) -> Item:
    """The same product in a near shade, or with another pattern, second colour or motif."""
    what = rng.choice(("colour", "pattern", "motif") if base.pattern == PLAIN else
                      ("colour", "colour2", "pattern", "motif"))  # fmt: skip
    if what == "motif":
        return replace(base, motif=rng.choice([m for m in (None, *MOTIFS) if m != base.motif]))
    if what != "pattern":
        other = base.colour2 if what == "colour" else base.colour
        return replace(base, **{what: rng.choice([c for c in NEAR[getattr(base, what)] if c != other])})
    pattern = rng.choice([p for p in (PLAIN, *PATTERNS) if p != base.pattern])
    colour2 = base.colour2 or rng.choice(NEAR[base.colour])
    return replace(base, pattern=pattern, colour2=None if pattern == PLAIN else colour2)


def _swapped(items: tuple[Item, ...], rng: random.Random) -> tuple[Item, ...] | None:
    """The same products with something of two of them exchanged; None where the exchange cannot be drawn."""
    i, j = rng.sample(range(len(items)), 2)
    names = rng.choice((("colour",), ("pattern", "colour2"), ("kind",), ("motif",)))
    of_i, of_j = ({name: getattr(items[n], name) for name in names} for n in (i, j))
    try:
        changed = {i: replace(items[i], **of_j), j: replace(items[j], **of_i)}
    except ValueError:  # a pattern in the product's own colour
        return None
    return tuple(changed.get(n, item) for n, item in enumerate(items))


def _family(base: tuple[Item, ...], size: int, rng: random.Random) -> list[Scene]:
    """A picture and others that differ from it in one attribute or, with several products, in an exchange."""
    backdrop = rng.choice(BACKDROPS)
    relation = rng.choice([name for name, n in RELATIONS.items() if n == len(base)] or [None])
    found = [base]
    while len(found) < size:
        if len(base) > 1 and rng.random() < SWAPS:
            items = _swapped(base, rng)
        else:
            n = rng.randrange(len(base))
            items = (*base[:n], _variant(base[n], rng), *base[n + 1 :])
        if items and items not in found:
            found.append(items)
    return [Scene(items, backdrop, relation) for items in found]


def _shows(item: Item, combinations: Combinations) -> bool:
    return (item.kind, item.colour) in combinations or (item.kind, item.pattern) in combinations


def _families(split: str, unseen: Combinations, used: set, rng: random.Random) -> Iterator[list[Scene]]:
    """Families without end, of one, two and three products, most of one.

    None shows what is in `used`, on whatever backdrop; and none an unseen combination, except in the test split.
    """
    for n_items in itertools.cycle(N_ITEMS):
        wanted = split == "test" and rng.random() < UNSEEN_SHARE
        for _ in range(1000):
            base = tuple(_item(rng, MOTIF_SHARE[n_items]) for _ in range(n_items))
            if len({item.kind for item in base}) < n_items or (wanted and not _shows(base[0], unseen)):
                continue
            scenes = _family(base, FAMILY[split], rng)
            keys = {(scene.items, scene.relation) for scene in scenes}
            known = split == "test" or not any(_shows(i, unseen) for s in scenes for i in s.items)
            if known and not keys & used:
                break
        else:
            raise ValueError("no new product family after 1,000 attempts: ask for fewer pictures")
        used |= keys
        yield scenes


def _pictures(split: str, n: int, families: Iterator[list[Scene]], rng: random.Random) -> list[Picture]:
    pictures: list[Picture] = []
    for number, scenes in enumerate(families):
        for scene in scenes[: n - len(pictures)]:
            stated = caption_wanted(scene, rng)
            name, family = f"{split}-{len(pictures):06d}", f"{split}-family-{number:05d}"
            caption = house_caption(stated, rng)
            pictures.append(Picture(name, scene, caption, stated, rng.randrange(2**31), family))
        if len(pictures) == n:
            break
    return pictures


class _Truth:
    """The right answers among a split's pictures: first those that hold each wanted value, then those that fit."""

    def __init__(self, pictures: list[Picture]) -> None:
        self.scenes = {picture.image_id: picture.scene for picture in pictures}
        self.having: dict[tuple[str, str | None], set[str]] = {}
        for image_id, scene in self.scenes.items():
            for item in scene.items:
                for name, value in vars(item).items():
                    self.having.setdefault((name, value), set()).add(image_id)

    def relevant(self, wanted: Wanted) -> set[str]:
        found = set(self.scenes)
        for item in wanted.items:
            if item.kinds:
                found &= set().union(*(self.having.get(("kind", kind), set()) for kind in item.kinds))
            for name in ("colour", "pattern", "colour2", "motif"):
                if (value := getattr(item, name)) not in (None, NO_MOTIF):
                    found &= self.having.get((name, value), set())
        return {image_id for image_id in found if fits(wanted, self.scenes[image_id])}


def wish(scene: Scene, rng: random.Random) -> Wanted:
    """One to three constraints that a product of this picture meets: kinds or a department, and attributes."""
    item = rng.choice(scene.items)
    named = [n for n in ("colour", "pattern", "motif") if getattr(item, n) not in (None, PLAIN)]
    chosen = {name: getattr(item, name) for name in rng.sample(named, min(len(named), rng.choice((1, 2, 2))))}
    if "pattern" in chosen and "colour" not in chosen and rng.random() < 0.3:
        chosen["colour2"] = item.colour2
    form = rng.random()
    if form < 0.4:
        category, kinds = next((name, kinds) for name, (kinds, _) in CATEGORIES.items() if item.kind in kinds)
        return Wanted((WantedItem(kinds, category, **chosen),))
    return Wanted((WantedItem((item.kind,) if form < 0.85 else (), **chosen),))


def _ask(split: str, n: int, pictures: list[Picture], rng: random.Random) -> tuple[list[Query], dict]:
    """`n` queries in a mixed order, and their right answers."""
    truth, taken = _Truth(pictures), {picture.caption for picture in pictures}
    kinds = ["wish"] * round(n * WISHES)
    kinds += ["description"] * (n - len(kinds))
    rng.shuffle(kinds)
    turns = {kind: itertools.cycle(rng.sample(pictures, len(pictures))) for kind in ("description", "wish")}
    queries, relevant = [], {}
    for number, kind in enumerate(kinds):
        for picture in itertools.islice(turns[kind], 1000):
            full = kind == "description"
            wanted = Wanted.of(picture.scene, backdrop=rng.random() < 0.3) if full else wish(picture.scene, rng)
            text = house_query(wanted, rng)
            found = {picture.image_id} if full else truth.relevant(wanted)
            if text not in taken and (full or ANSWERS[0] <= len(found) <= ANSWERS[1]):
                break
        else:
            raise ValueError(f"found no new {kind} in {split!r}: ask for fewer queries, or about more pictures")
        taken.add(text)
        query = Query(f"{split}-query-{number:05d}", kind, text, wanted)
        relevant[query.query_id] = found
        queries.append(query)
    return queries, relevant


def _slices(queries: list[Query], relevant: dict, pictures: list[Picture], unseen: Combinations) -> dict:
    """Slice -> query ids: kinds of queries, and descriptions by what makes them hard."""
    slices: dict[str, list[str]] = {}
    families: dict[str, list[Scene]] = {}
    for picture in pictures:
        families.setdefault(picture.family, []).append(picture.scene)
    home = {picture.image_id: (picture.scene, families[picture.family]) for picture in pictures}
    for query in queries:
        names = [query.kind]
        if query.kind == "description":
            scene, family = home[next(iter(relevant[query.query_id]))]
            names.append(f"{('one product', 'two products', 'three products')[len(scene.items) - 1]}")
            if any(spec.differences(scene, other) == ["binding"] for other in family):
                names.append("swapped twin")
            new = any(_shows(item, unseen) for item in scene.items)
            names.append("unseen combination" if new else "seen combination")
        for name in names:
            slices.setdefault(name, []).append(query.query_id)
    return slices


def build(
    n_train: int, n_validation: int, n_test: int,
    n_queries: int, n_queries_validation: int, n_queries_train: int, seed: int,
) -> Shop:  # fmt: skip
    """A whole shop, the same for the same arguments; the test split does not depend on the others' sizes.

    No two of the pictures show the same, so a full description has one right answer. `n_queries` are those of
    the test split; most of its pictures may be stock that no query asks for.
    """
    sizes = {"test": n_test, "validation": n_validation, "train": n_train}
    asked = {"test": n_queries, "validation": n_queries_validation, "train": n_queries_train}
    rng, used = random.Random(f"{seed} unseen"), set[tuple]()
    pools = [[(kind, value) for kind in KINDS for value in values] for values in (COLOURS, PATTERNS)]
    unseen = frozenset(pair for pool in pools for pair in rng.sample(pool, N_UNSEEN))
    pictures, queries, relevant, slices = {}, {}, {}, {}
    for split, n in sizes.items():
        rng = random.Random(f"{seed} {split}")
        pictures[split] = _pictures(split, n, _families(split, unseen, used, rng), rng)
        queries[split], relevant[split] = _ask(split, asked[split], pictures[split], rng)
        slices[split] = _slices(queries[split], relevant[split], pictures[split], unseen)
        if split == "train":
            truth = _Truth(pictures[split])
            for p in pictures[split]:
                caption = Query(f"caption-{p.image_id}", "caption", p.caption, p.stated)
                queries[split].append(caption)
                relevant[split][caption.query_id] = {p.image_id} if p.stated.full else truth.relevant(p.stated)
                slices[split].setdefault("caption", []).append(caption.query_id)
    return Shop(pictures, queries, relevant, slices, unseen)
