"""The shop: product families, pairs with their swapped twins, splits, queries and their truth."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mmhelpers.shop.spec import BACKDROPS, COLOURS, KINDS, MOTIFS, PATTERNS, PLAIN, RELATIONS, Item, Scene
from mmhelpers.shop.wanted import Wanted, WantedItem, grade
from mmhelpers.shop.words import CATEGORIES, caption_wanted, house_caption, house_query, leave_out

QUERY_MIX = {"exact": 0.45, "underspecified": 0.25, "binding": 0.30}
ANSWERS = (2, 60)  # right answers of an underspecified query, in the corpus of its split
N_UNSEEN = 15  # kind x colour combinations that only the test split shows, and as many kind x pattern
UNSEEN_SHARE = 0.35  # of the test families, on purpose; chance adds some
MOTIF_SHARES = (0.35, 0.15)  # of products alone and in pairs

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
    """What somebody asks for; kinds as in QUERY_MIX, and in training also "caption"."""

    query_id: str
    kind: str
    text: str
    wanted: Wanted


@dataclass(frozen=True)
class Shop:
    """All of a shop by split: train (where each caption is a query as well), validation and test."""

    pictures: dict[str, list[Picture]]
    queries: dict[str, list[Query]]
    qrels: dict[str, dict[str, dict[str, int]]]  # split -> query id -> image id -> grade, above 0 only
    slices: dict[str, dict[str, list[str]]]  # split -> slice -> query ids
    unseen: Combinations  # (kind, colour or pattern) that only the test split shows


def random_item(rng: random.Random, motif_share: float) -> Item:
    """Any product, every kind, colour and pattern alike often; two in three have a pattern."""
    colour, colour2 = rng.sample(list(COLOURS), 2)
    pattern = rng.choice(PATTERNS) if rng.random() < 2 / 3 else PLAIN
    motif = rng.choice(MOTIFS) if rng.random() < motif_share else None
    return Item(rng.choice(KINDS), colour, pattern, None if pattern == PLAIN else colour2, motif)


def random_scene(rng: random.Random) -> Scene:
    """A generic picture of one product or, as often, of two: the source of pretraining pictures."""
    n_items = rng.choice((1, 2))
    items = tuple(random_item(rng, MOTIF_SHARES[n_items - 1]) for _ in range(n_items))
    return Scene(items, rng.choice(BACKDROPS), rng.choice(RELATIONS) if n_items == 2 else None)


def _variant(base: Item, rng: random.Random) -> Item:
    """The same product with another colour, pattern, second colour or motif."""
    what = rng.choice(("colour", "pattern", "motif") if base.pattern == PLAIN else
                      ("colour", "pattern", "colour2", "motif"))  # fmt: skip
    others = [c for c in COLOURS if c not in (base.colour, base.colour2)]
    if what in ("colour", "colour2"):
        return replace(base, **{what: rng.choice(others)})
    if what == "motif":
        return replace(base, motif=rng.choice([m for m in (None, *MOTIFS) if m != base.motif]))
    pattern = rng.choice([p for p in (PLAIN, *PATTERNS) if p != base.pattern])
    colour2 = base.colour2 or rng.choice(others)
    return replace(base, pattern=pattern, colour2=None if pattern == PLAIN else colour2)


def _family(base: Item, rng: random.Random) -> list[Scene]:
    """A product and three to five variants of it, each of which differs from it in one attribute."""
    backdrop, size = rng.choice(BACKDROPS), rng.randint(4, 6)
    products = [base]
    while len(products) < size:
        variant = _variant(base, rng)
        if variant not in products:
            products.append(variant)
    return [Scene((product,), backdrop) for product in products]


def _twins(a: Item, rng: random.Random) -> list[Scene]:
    """A pair of products and two or three of its swapped twins, on the same backdrop."""
    b, taken = a, (a.kind, a.pattern, a.colour, a.colour2 or a.colour)
    while any(value in taken for value in (b.kind, b.pattern, b.colour, b.colour2)):
        b = random_item(rng, MOTIF_SHARES[1])
    backdrop, relation = rng.choice(BACKDROPS), rng.choice(RELATIONS)

    def swapped(*names: str) -> tuple[Item, Item]:
        of_a, of_b = ({name: getattr(item, name) for name in names} for item in (a, b))
        return replace(a, **of_b), replace(b, **of_a)

    by_kind = swapped("kind")
    swaps = [swapped("colour"), swapped("pattern", "colour2"), by_kind, by_kind[::-1]]
    return [Scene(items, backdrop, relation) for items in [(a, b), *rng.sample(swaps, rng.randint(2, 3))]]


def _shows(item: Item, combinations: Combinations) -> bool:
    return (item.kind, item.colour) in combinations or (item.kind, item.pattern) in combinations


def _families(unseen: Combinations, held_out: bool, used: set, rng: random.Random) -> Iterator[list[Scene]]:
    """Families without end, of one product or of two, whichever has fewer pictures so far.

    None shows what is in `used`, on whatever backdrop; and none an unseen combination unless `held_out`.
    """
    shown, misses = [0, 0], 0
    while misses < 1000:
        pair = shown[1] < shown[0]
        base, wanted = random_item(rng, MOTIF_SHARES[pair]), held_out and rng.random() < UNSEEN_SHARE
        while wanted and not _shows(base, unseen):
            base = random_item(rng, MOTIF_SHARES[pair])
        scenes = (_twins if pair else _family)(base, rng)
        keys = {(scene.items, scene.relation) for scene in scenes}
        if keys & used or (not held_out and any(_shows(i, unseen) for s in scenes for i in s.items)):
            misses += 1
        else:
            used |= keys
            shown[pair] += len(scenes)
            misses = 0
            yield scenes
    raise ValueError(f"no new product family after {misses} attempts: ask for fewer pictures")


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
    """The grades of a split's pictures, looked up by kind first."""

    def __init__(self, pictures: list[Picture]) -> None:
        self.by_kind: dict[str, list[Picture]] = {kind: [] for kind in KINDS}
        for picture in pictures:
            for kind in {item.kind for item in picture.scene.items}:
                self.by_kind[kind].append(picture)

    def qrels(self, wanted: Wanted) -> dict[str, int]:
        kinds = wanted.items[0].kinds or KINDS
        candidates = {p.image_id: p.scene for kind in kinds for p in self.by_kind[kind]}
        grades = ((image_id, grade(wanted, scene)) for image_id, scene in candidates.items())
        return {image_id: g for image_id, g in sorted(grades) if g}


def open_wanted(scene: Scene, rng: random.Random) -> Wanted:
    """One to three constraints that this picture meets: kinds or a department, and attributes."""
    if len(scene.items) == 2 and rng.random() < 0.3:
        return leave_out(replace(Wanted.of(scene, backdrop=False), relation=None), rng)
    item = rng.choice(scene.items)
    named = [n for n in ("colour", "pattern", "motif") if getattr(item, n) not in (None, PLAIN)]
    chosen = {name: getattr(item, name) for name in rng.sample(named, min(len(named), rng.choice((1, 2, 2))))}
    if "pattern" in chosen and rng.random() < 0.3:
        chosen["colour2"] = item.colour2
    form = rng.random()
    if form < 0.4:
        category, kinds = next((name, kinds) for name, (kinds, _) in CATEGORIES.items() if item.kind in kinds)
        wanted = WantedItem(kinds, category, **chosen)
    else:
        wanted = WantedItem((item.kind,) if form < 0.85 else (), **chosen)
    return Wanted((wanted,), graded=False)


def _ask(split: str, n: int, pictures: list[Picture], rng: random.Random) -> tuple[list[Query], dict]:
    """`n` queries in a mixed order, and their qrels."""
    truth = _Truth(pictures)
    taken = {picture.caption for picture in pictures}
    families = Counter(picture.family for picture in pictures)
    targets = {
        "exact": [p for p in pictures if len(p.scene.items) == 1],
        "underspecified": list(pictures),
        "binding": [p for p in pictures if len(p.scene.items) == 2 and families[p.family] > 1],
    }
    if not all(targets.values()):
        raise ValueError(f"{len(pictures)} pictures are too few to ask about in {split!r}: use 20 or more")
    kinds = ["exact"] * round(n * QUERY_MIX["exact"]) + ["binding"] * round(n * QUERY_MIX["binding"])
    kinds += ["underspecified"] * (n - len(kinds))
    rng.shuffle(kinds)
    for pool in targets.values():
        rng.shuffle(pool)
    turns = {kind: itertools.cycle(pool) for kind, pool in targets.items()}
    queries, qrels = [], {}
    for number, kind in enumerate(kinds):
        exact, query_id = kind != "underspecified", f"{split}-query-{number:05d}"
        for picture in itertools.islice(turns[kind], 1000):
            scene = picture.scene
            wanted = Wanted.of(scene, backdrop=rng.random() < 1 / 3) if exact else open_wanted(scene, rng)
            text, found = house_query(wanted, rng), truth.qrels(wanted)
            if text not in taken and (exact or ANSWERS[0] <= len(found) <= ANSWERS[1]):
                break
        else:
            raise ValueError(f"found no new {kind} query: ask for fewer queries, or about more pictures")
        taken.add(text)
        qrels[query_id] = found
        queries.append(Query(query_id, kind, text, wanted))
    return queries, qrels


def _slices(queries: list[Query], unseen: Combinations) -> dict[str, list[str]]:
    slices: dict[str, list[str]] = {}
    for query in queries:
        items = query.wanted.items
        pairs = {(*i.kinds, value) for i in items for value in (i.colour, i.pattern)}
        seen = "unseen combination" if pairs & unseen else "seen combination"
        for name in (query.kind, "one product" if len(items) == 1 else "two products", seen):
            slices.setdefault(name, []).append(query.query_id)
    return dict(sorted(slices.items()))


def build(
    n_train: int, n_validation: int, n_test: int,
    n_queries: int, n_queries_validation: int, n_queries_train: int, seed: int,
) -> Shop:  # fmt: skip
    """A whole shop, the same for the same arguments; the test split does not depend on the others' sizes.

    No two of the pictures show the same. `n_queries` are those of the test split.
    """
    sizes = {"test": n_test, "validation": n_validation, "train": n_train}
    asked = {"test": n_queries, "validation": n_queries_validation, "train": n_queries_train}
    rng, used = random.Random(f"{seed} unseen"), set[tuple]()
    pools = [[(kind, value) for kind in KINDS for value in values] for values in (COLOURS, PATTERNS)]
    unseen = frozenset(pair for pool in pools for pair in rng.sample(pool, N_UNSEEN))
    pictures, queries, qrels, slices = {}, {}, {}, {}
    for split, n in sizes.items():
        rng = random.Random(f"{seed} {split}")
        pictures[split] = _pictures(split, n, _families(unseen, split == "test", used, rng), rng)
        queries[split], qrels[split] = _ask(split, asked[split], pictures[split], rng)
        if split == "train":
            truth, shown = _Truth(pictures[split]), pictures[split]
            captions = [Query(f"caption-{p.image_id}", "caption", p.caption, p.stated) for p in shown]
            qrels[split] |= {caption.query_id: truth.qrels(caption.wanted) for caption in captions}
            queries[split] += captions
        slices[split] = _slices(queries[split], unseen)
    return Shop(pictures, queries, qrels, slices, unseen)
