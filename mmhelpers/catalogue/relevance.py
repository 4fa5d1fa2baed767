"""What a shopper wants, and how well a picture gives it: the graded truth behind the qrels."""

from __future__ import annotations

from dataclasses import dataclass

from mmhelpers.catalogue.spec import Scene

NO_MOTIF = "none"


@dataclass(frozen=True, order=True)
class WantedItem:
    """An item of which parts may be left open: None means that anything will do."""

    kinds: tuple[str, ...] = ()
    category: str | None = None
    colour: str | None = None
    pattern: str | None = None
    colour2: str | None = None
    motif: str | None = None


@dataclass(frozen=True, order=True)
class Wanted:
    """A picture of which parts may be left open, in the order of the picture's items."""

    items: tuple[WantedItem, ...]
    backdrop: str | None = None
    relation: str | None = None

    @classmethod
    def of(cls, scene: Scene) -> Wanted:
        """Everything that this picture shows, nothing left open."""
        items = tuple(
            WantedItem((i.kind,), None, i.colour, i.pattern, i.colour2, i.motif or NO_MOTIF) for i in scene.items
        )
        return cls(items, scene.backdrop, scene.relation)
