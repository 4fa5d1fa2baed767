"""What a text asks for, and whether a picture is a right answer to it."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass

from mmhelpers.shop.spec import Item, Scene

NO_MOTIF = "none"


@dataclass(frozen=True, order=True)
class WantedItem:
    """A product of which parts may be left open.

    `kinds` are the kinds that will do (empty: any) and `category` the shop's word for several of them;
    elsewhere None means that anything will do, and the motif "none" that there must be none.
    """

    kinds: tuple[str, ...] = ()
    category: str | None = None
    colour: str | None = None
    pattern: str | None = None
    colour2: str | None = None
    motif: str | None = None

    def fits(self, item: Item) -> bool:
        if (self.kinds and item.kind not in self.kinds) or self.motif not in (None, item.motif or NO_MOTIF):
            return False
        return all(getattr(self, name) in (None, getattr(item, name)) for name in ("colour", "pattern", "colour2"))


@dataclass(frozen=True, order=True)
class Wanted:
    """A picture of which parts may be left open; `full` where all products are named, with all they have."""

    items: tuple[WantedItem, ...]
    backdrop: str | None = None
    relation: str | None = None
    full: bool = False

    @classmethod
    def of(cls, scene: Scene, backdrop: bool = True) -> Wanted:
        """All that this picture shows, with or without its backdrop."""
        items = (WantedItem((i.kind,), None, i.colour, i.pattern, i.colour2, i.motif or NO_MOTIF) for i in scene.items)
        return cls(tuple(items), scene.backdrop if backdrop else None, scene.relation, full=True)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Wanted:
        raw = json.loads(text)
        items = tuple(WantedItem(**{**item, "kinds": tuple(item["kinds"])}) for item in raw["items"])
        return cls(**{**raw, "items": items})


def fits(wanted: Wanted, scene: Scene) -> bool:
    """Whether the picture shows all that was asked for: a negative that fits is a false negative."""
    if wanted.backdrop not in (None, scene.backdrop) or wanted.relation not in (None, scene.relation):
        return False
    if len(wanted.items) > len(scene.items) or (wanted.full and len(wanted.items) < len(scene.items)):
        return False
    orders = [scene.items] if wanted.relation else itertools.permutations(scene.items, len(wanted.items))
    return any(all(want.fits(item) for want, item in zip(wanted.items, order, strict=True)) for order in orders)
