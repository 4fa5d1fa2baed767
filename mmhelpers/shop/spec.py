"""The structured truth behind a picture: what is in it, and what the words for that are.

The order of a list is part of the format (labels are positions in it), so new names go to the end.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

KINDS = (
    "mug", "teapot", "jug", "bowl", "plate", "vase", "bottle", "lamp", "candle", "clock",
    "cushion", "armchair", "stool", "tote bag", "backpack", "hat", "scarf", "t-shirt", "dress",
    "sock", "boot", "sneaker", "umbrella", "book", "kite", "drum", "mitten", "watering can",
)  # fmt: skip
# sRGB. Chosen so that any two stay apart under the light and shade that the drawing adds.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 44, 50), "orange": (240, 132, 38), "yellow": (248, 208, 60), "lime": (166, 206, 72),
    "green": (44, 122, 70), "teal": (30, 150, 154), "sky blue": (134, 196, 236), "blue": (42, 82, 190),
    "purple": (124, 66, 158), "pink": (242, 150, 178), "brown": (128, 80, 48), "grey": (138, 140, 146),
    "white": (250, 248, 242), "black": (40, 38, 44),
}  # fmt: skip
PLAIN = "plain"
PATTERNS = ("stripes", "diagonal", "dots", "checks", "zigzag", "grid", "colour block", "sunburst")
MOTIFS = ("star", "heart", "leaf", "moon", "fish", "flower", "bolt", "crown")
BACKDROPS = ("studio", "shelf", "window", "meadow", "tiles", "arch")
RELATIONS = ("left of", "above")
ALLOWED = {
    "kind": KINDS, "colour": tuple(COLOURS), "pattern": (PLAIN, *PATTERNS), "colour2": (None, *COLOURS),
    "motif": (None, *MOTIFS),
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Item:
    """One product: `pattern` is "plain" or one of PATTERNS, and only a pattern has a `colour2`."""

    kind: str
    colour: str
    pattern: str = PLAIN
    colour2: str | None = None
    motif: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(map(str, allowed))}")
        if (self.pattern == PLAIN) != (self.colour2 is None) or self.colour == self.colour2:
            raise ValueError(f"a pattern needs a second colour, another one, and plain has none: {self}")


@dataclass(frozen=True, order=True)
class Scene:
    """One picture: one product, or two of which the first stands `relation` the second."""

    items: tuple[Item, ...]
    backdrop: str
    relation: str | None = None

    def __post_init__(self) -> None:
        if self.backdrop not in BACKDROPS:
            raise ValueError(f"backdrop {self.backdrop!r} is unknown; choose one of {', '.join(BACKDROPS)}")
        if (len(self.items), self.relation in RELATIONS) not in ((1, False), (2, True)):
            raise ValueError(f"a picture shows one product, or two with a relation of {RELATIONS}: {self}")

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Scene:
        raw = json.loads(text)
        return cls(tuple(Item(**item) for item in raw["items"]), raw["backdrop"], raw["relation"])


def differences(right: Scene, wrong: Scene) -> list[str]:
    """In what two scenes differ, in words; "binding" means all values are there, on the wrong product."""
    if len(right.items) != len(wrong.items):
        return ["number of products"]

    def values(scene: Scene, name: str) -> list[str]:
        return sorted(str(getattr(item, name)) for item in scene.items)

    found = [name for name in ALLOWED if values(right, name) != values(wrong, name)]
    if "pattern" in found and "colour2" in found:
        found.remove("colour2")  # a plain product has none
    if found:
        return ["second colour" if name == "colour2" else name for name in found]
    if set(right.items) != set(wrong.items):
        return ["binding"]
    return ["backdrop"] if (right.items, right.relation) == (wrong.items, wrong.relation) else ["places"]
