"""The shop: product families, pairs with their swapped twins, splits, queries and their truth."""

from __future__ import annotations

import random

from mmhelpers.catalogue.spec import BACKDROPS, COLOURS, KINDS, MOTIFS, PATTERNS, PLAIN, RELATIONS, Item, Scene


def random_item(rng: random.Random, motif_share: float, kind: str | None = None) -> Item:
    """Any product, every kind, colour and pattern alike often; two in three have a pattern."""
    colour, colour2 = rng.sample(list(COLOURS), 2)
    pattern = rng.choice(PATTERNS) if rng.random() < 2 / 3 else PLAIN
    motif = rng.choice(MOTIFS) if rng.random() < motif_share else None
    return Item(kind or rng.choice(KINDS), colour, pattern, None if pattern == PLAIN else colour2, motif)


def random_scene(rng: random.Random) -> Scene:
    """A generic picture of one product or, as often, of two: the source of pretraining pictures."""
    n_items = rng.choice((1, 2))
    items = tuple(random_item(rng, 0.35 if n_items == 1 else 0.15) for _ in range(n_items))
    return Scene(items, rng.choice(BACKDROPS), rng.choice(RELATIONS) if n_items == 2 else None)
