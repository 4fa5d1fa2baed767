"""The structured truth behind a picture: what is in it, and what the words for that are.

The order of a list is part of the shop's bits, so new names go to the end.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

# What clip-mini's pretraining shows comes first; what only the shop sells stands apart, so that a finetuned
# image tower has something to learn as well.
GENERIC_KINDS = (
    "mug", "teapot", "jug", "bowl", "plate", "vase", "bottle", "lamp", "candle", "clock",
    "cushion", "armchair", "stool", "tote bag", "backpack", "hat", "scarf", "t-shirt", "dress",
    "sock", "boot", "sneaker", "umbrella", "book", "kite", "drum", "mitten", "watering can",
)  # fmt: skip
KINDS = (*GENERIC_KINDS, "carafe", "satchel", "lantern", "beret", "clog", "saucepan")
# sRGB. The generic ones stay far apart under the light and shade that the drawing adds; each of the shop's
# own shades lies near one or two of them.
GENERIC_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 44, 50), "orange": (240, 132, 38), "yellow": (248, 208, 60), "lime": (166, 206, 72),
    "green": (44, 122, 70), "teal": (30, 150, 154), "sky blue": (134, 196, 236), "blue": (42, 82, 190),
    "purple": (124, 66, 158), "pink": (242, 150, 178), "brown": (128, 80, 48), "grey": (138, 140, 146),
    "white": (250, 248, 242), "black": (40, 38, 44),
}  # fmt: skip
COLOURS = GENERIC_COLOURS | {
    "navy": (28, 42, 96), "cobalt": (30, 128, 240), "burgundy": (120, 24, 48), "coral": (246, 112, 96),
    "rust": (186, 84, 32), "mustard": (198, 150, 20), "olive": (110, 116, 44), "sage": (150, 178, 138),
    "mint": (146, 232, 200), "lilac": (186, 160, 222), "plum": (92, 30, 84), "fuchsia": (222, 44, 142),
    "camel": (214, 174, 130), "charcoal": (84, 86, 94),
}  # fmt: skip
# What lies near a colour: the shade that a shop also has, and a picture is taken for.
NEAR: dict[str, tuple[str, ...]] = {
    "red": ("burgundy", "coral", "rust"), "orange": ("coral", "rust", "mustard"), "yellow": ("mustard", "lime"),
    "lime": ("yellow", "olive", "mint"), "green": ("olive", "teal"), "teal": ("green", "mint", "cobalt"),
    "sky blue": ("mint", "lilac", "cobalt"), "blue": ("cobalt", "navy"), "purple": ("plum", "lilac", "fuchsia"),
    "pink": ("fuchsia", "coral", "lilac"), "brown": ("rust", "camel", "burgundy"), "grey": ("charcoal", "sage"),
    "white": ("camel", "grey"), "black": ("charcoal", "navy"), "navy": ("blue", "plum", "charcoal"),
    "cobalt": ("blue", "navy", "sky blue"), "burgundy": ("red", "plum", "brown"), "coral": ("red", "orange", "pink"),
    "rust": ("brown", "orange", "red"), "mustard": ("yellow", "orange", "camel"), "olive": ("green", "lime", "brown"),
    "sage": ("mint", "olive", "grey"), "mint": ("sage", "teal", "sky blue"), "lilac": ("purple", "pink", "sky blue"),
    "plum": ("purple", "burgundy", "navy"), "fuchsia": ("pink", "red", "purple"),
    "camel": ("brown", "mustard", "white"), "charcoal": ("grey", "black", "navy"),
}  # fmt: skip
PLAIN = "plain"
GENERIC_PATTERNS = ("stripes", "diagonal", "dots", "checks", "zigzag", "grid", "colour block", "sunburst")
PATTERNS = (*GENERIC_PATTERNS, "gingham", "houndstooth", "argyle", "pinstripe", "scallop", "herringbone")
MOTIFS = ("star", "heart", "leaf", "moon", "fish", "flower", "bolt", "crown")
BACKDROPS = ("studio", "shelf", "window", "meadow", "tiles", "arch")
# How the products stand; "on two" is the first above, the second below left and the third below right.
RELATIONS = {"left of": 2, "above": 2, "on two": 3}  # and the number of products
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
    """One picture: one product, or two or three that stand to each other as `relation` says."""

    items: tuple[Item, ...]
    backdrop: str
    relation: str | None = None

    def __post_init__(self) -> None:
        if self.backdrop not in BACKDROPS:
            raise ValueError(f"backdrop {self.backdrop!r} is unknown; choose one of {', '.join(BACKDROPS)}")
        if len(self.items) != RELATIONS.get(self.relation, 1):
            raise ValueError(f"a picture shows one product, or as many as its relation takes ({RELATIONS}): {self}")

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
