"""What a shopper wants, and how well a picture gives it: the graded truth behind the qrels."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from mmhelpers.shop.spec import Item, Scene

NO_MOTIF = "none"


@dataclass(frozen=True, order=True)
class WantedItem:
    """An item of which parts may be left open.

    `kinds` are the kinds that will do (empty: any) and `category` the shop's word for several of them;
    elsewhere None means that anything will do, and the motif "none" that there must be none. A second
    colour is wanted only together with a pattern.
    """

    kinds: tuple[str, ...] = ()
    category: str | None = None
    colour: str | None = None
    pattern: str | None = None
    colour2: str | None = None
    motif: str | None = None

    def differences(self, item: Item) -> tuple[int, int] | None:
        """(major, minor) attributes in which `item` differs, None where its kind is wrong."""
        if self.kinds and item.kind not in self.kinds:
            return None
        other_pattern = self.pattern is not None and self.pattern != item.pattern
        major = (self.colour is not None and self.colour != item.colour) + other_pattern
        # A plain item's missing second colour is part of its other pattern, not one more difference.
        minor = self.colour2 is not None and item.colour2 is not None and self.colour2 != item.colour2
        minor += self.motif is not None and self.motif != (item.motif or NO_MOTIF)
        return major, minor


@dataclass(frozen=True, order=True)
class Wanted:
    """A picture of which parts may be left open; `graded` is False where a picture fits or does not."""

    items: tuple[WantedItem, ...]
    backdrop: str | None = None
    relation: str | None = None
    graded: bool = True

    @classmethod
    def of(cls, scene: Scene, backdrop: bool = True) -> Wanted:
        """All that this picture shows, with or without its backdrop."""
        items = (WantedItem((i.kind,), None, i.colour, i.pattern, i.colour2, i.motif or NO_MOTIF) for i in scene.items)
        return cls(tuple(items), scene.backdrop if backdrop else None, scene.relation)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Wanted:
        raw = json.loads(text)
        items = tuple(WantedItem(**{**item, "kinds": tuple(item["kinds"])}) for item in raw["items"])
        return cls(**{**raw, "items": items})


def grade(wanted: Wanted, scene: Scene) -> int:
    """How well a picture answers a query, from 0 (not at all) to 3 (exactly what was asked for).

    The wanted products are laid on the pictured ones in the way that fits best; then it counts in what
    they differ. Attributes that the query leaves open never differ.

    | differs in                                                                        | grade |
    |-----------------------------------------------------------------------------------|-------|
    | nothing                                                                           | 3     |
    | one minor attribute: second colour, motif, backdrop, relation, a product too many | 2     |
    | two minor attributes, or one major attribute: colour, pattern                     | 1     |
    | more than that, or a kind that was not asked for, or a wanted product is missing  | 0     |

    A query that is not graded (an underspecified one) is answered (3) or not (0), and a product too many does
    not count against it.
    """
    if len(wanted.items) > len(scene.items):
        return 0
    if len(scene.items) == 1:
        return _grade(wanted, scene.items, None, scene.backdrop)
    first, second = scene.items
    if len(wanted.items) == 1:
        best = max(_grade(wanted, (item,), None, scene.backdrop) for item in scene.items)
        return max(0, best - 1) if wanted.graded else best
    mirrored = _grade(wanted, (second, first), f"not {scene.relation}", scene.backdrop)
    return max(mirrored, _grade(wanted, (first, second), scene.relation, scene.backdrop))


def fits(wanted: Wanted, scene: Scene) -> bool:
    """Whether the picture is all that was asked for: a negative that fits is a false negative."""
    return grade(wanted, scene) == 3


def _grade(wanted: Wanted, items: tuple[Item, ...], relation: str | None, backdrop: str) -> int:
    """The grade with the wanted items laid on `items` one to one, in this order."""
    found = [want.differences(item) for want, item in zip(wanted.items, items, strict=True)]
    if None in found:
        return 0
    major, minor = map(sum, zip(*found, strict=True))
    minor += wanted.relation is not None and wanted.relation != relation
    minor += wanted.backdrop is not None and wanted.backdrop != backdrop
    return max(0, 3 - minor - 2 * major) if wanted.graded else 0 if major or minor else 3
