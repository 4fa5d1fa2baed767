"""Words for pictures: a grammar, the generic English that it speaks, and this shop's own jargon."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from mmhelpers.catalogue.relevance import NO_MOTIF, Wanted, WantedItem
from mmhelpers.catalogue.spec import PLAIN, Scene

# The first word is the plain name and the most frequent one. No word stands for two things.
GENERIC: dict[str, tuple[str, ...]] = {
    "mug": ("mug", "cup", "coffee mug"), "teapot": ("teapot", "tea pot"), "jug": ("jug", "pitcher"),
    "bowl": ("bowl", "dish"), "plate": ("plate", "dinner plate"), "vase": ("vase", "flower vase"),
    "bottle": ("bottle", "flask"), "lamp": ("lamp", "table lamp"), "candle": ("candle", "wax candle"),
    "clock": ("clock", "timepiece"), "cushion": ("cushion", "pillow"), "armchair": ("armchair", "easy chair"),
    "stool": ("stool", "footstool"), "tote bag": ("tote bag", "shopping bag", "tote"),
    "backpack": ("backpack", "rucksack"), "hat": ("hat", "sun hat"), "scarf": ("scarf", "neck scarf"),
    "t-shirt": ("t-shirt", "tee", "shirt"), "dress": ("dress", "frock"), "sock": ("sock", "ankle sock"),
    "boot": ("boot", "rain boot"), "sneaker": ("sneaker", "trainer", "running shoe"),
    "umbrella": ("umbrella", "parasol"), "book": ("book", "notebook"), "kite": ("kite", "toy kite"),
    "drum": ("drum", "toy drum"), "mitten": ("mitten", "glove"), "watering can": ("watering can", "garden can"),
    "red": ("red", "scarlet"), "orange": ("orange", "tangerine"), "yellow": ("yellow", "lemon yellow"),
    "lime": ("lime", "lime green"), "green": ("green", "dark green"), "teal": ("teal", "turquoise"),
    "sky blue": ("sky blue", "light blue", "pale blue"), "blue": ("blue", "royal blue"),
    "purple": ("purple", "violet"), "pink": ("pink", "rose pink"), "brown": ("brown", "chocolate brown"),
    "grey": ("grey", "gray"), "white": ("white", "snow white"), "black": ("black", "jet black"),
    PLAIN: ("plain", "unpatterned", "single-colour"),
    "stripes": ("stripes", "bands", "striping"), "diagonal": ("diagonal stripes", "slanted stripes", "diagonal lines"),
    "dots": ("dots", "polka dots", "spots"), "checks": ("checks", "chequers", "checkerboard squares"),
    "zigzag": ("zigzags", "zigzag lines", "chevrons"), "grid": ("grid lines", "thin grid lines", "windowpane lines"),
    "colour block": ("colour block", "solid block", "contrast panel"),
    "sunburst": ("sunburst", "sun rays", "radiating rays"),
    "star": ("star", "little star"), "heart": ("heart", "love heart"), "leaf": ("leaf", "small leaf"),
    "moon": ("moon", "crescent moon"), "fish": ("fish", "small fish"), "flower": ("flower", "blossom"),
    "bolt": ("lightning bolt", "bolt", "flash"), "crown": ("crown", "royal crown"),
    "studio": ("studio", "photo studio"), "shelf": ("shelf", "wooden shelf"), "window": ("window", "windowsill"),
    "meadow": ("meadow", "grassy field"), "tiles": ("tiles", "tiled wall"), "arch": ("arch", "archway"),
    "left of": ("left of", "to the left of", "on the left of"), "above": ("above", "over", "higher up than"),
}  # fmt: skip
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "stripes": ("striped", "stripy"), "diagonal": ("diagonally striped", "diagonal-striped"),
    "dots": ("dotted", "polka-dot", "spotted"), "checks": ("checked", "checkered", "chequered"),
    "zigzag": ("zigzag", "zigzag-patterned"), "grid": ("grid-patterned", "gridded"),
    "colour block": ("colour-block", "colour-blocked"), "sunburst": ("sunburst-patterned", "rayed"),
}  # fmt: skip
_RIGHT_OF = ("right of", "to the right of", "on the right of")
_BELOW = ("below", "under", "beneath")
_WITH_ARTICLE = {"colour block", "solid block", "contrast panel", "sunburst"}
_PLACES = {
    "studio": ("in {}",), "shelf": ("on {}",), "window": ("by {}", "at {}", "in front of {}"),
    "meadow": ("in {}", "out in {}"), "tiles": ("in front of {}", "against {}"), "arch": ("under {}", "beneath {}"),
}  # fmt: skip

# Words without a meaning for the picture: a model should learn to read past what it does not know.
_PRAISE = (
    "lovely handmade new pretty classic charming modern simple cosy elegant cheerful favourite premium vintage "
    "beautiful fine popular sturdy neat stylish everyday delightful fresh trendy gorgeous quality sweet rustic "
    "limited exclusive genuine affordable practical durable local artisan seasonal bestselling fancy smart"
).split()  # fmt: skip
_BEFORE = ("for sale:", "new in:", "now available:", "just arrived:", "on offer:", "special offer:", "gift idea:",
           "bestseller:", "back in stock:", "today only:")  # fmt: skip
_AFTER = ("for sale", "in stock", "free delivery", "a great gift", "ships today", "last one", "half price",
          "sold as shown", "made with care", "order now")  # fmt: skip
_SYLLABLES = "zor vak mip lun dra fex quo bil tav nos gri pem hul jot wex yar osk umb ret sil".split()
FILLER_SHARE = 0.1

Word = Callable[[str], str]


def _pick(rng: random.Random, words: tuple[str, ...]) -> str:
    return words[0] if rng.random() < 0.4 else rng.choice(words)


def _a(phrase: str) -> str:
    return ("an " if phrase[0] in "aeio" or phrase.startswith(("umb", "unp")) else "a ") + phrase


def _pattern_noun(item: WantedItem, word: Word) -> str:
    noun = word(item.pattern or PLAIN)
    phrase = f"{word(item.colour2)} {noun}" if item.colour2 else noun
    return _a(phrase) if noun in _WITH_ARTICLE else phrase


def _product(item: WantedItem, word: Word, adjective: Word, rng: random.Random) -> str:
    """A noun phrase without article. The base colour stands before the kind or after "in", the pattern's
    colour stands with the pattern: no reading swaps them."""
    kind = word(item.kinds[0])
    colour = word(item.colour) if item.colour else ""
    extras: list[str] = []
    form = rng.choice(("with", "with", "in", "hyphen", "on"))
    if item.pattern in (None, PLAIN):
        plain = f"{word(PLAIN)} " if item.pattern == PLAIN and rng.random() < 0.4 else ""
        in_colour = colour and form == "in"
        head = f"{plain}{kind} in {colour}" if in_colour else f"{plain}{colour} {kind}"
    elif form == "on" and colour and item.colour2:
        head = f"{adjective(item.pattern)} {kind} in {word(item.colour2)} on {colour}"
    elif form == "hyphen" or (form == "on" and not item.colour2):
        first = f"{word(item.colour2)}-" if item.colour2 else ""
        head = f"{first}{adjective(item.pattern)} {colour} {kind}"
    else:
        head = f"{kind} in {colour}" if colour and form == "in" else f"{colour} {kind}"
        extras.append(_pattern_noun(item, word))
    if item.motif not in (None, NO_MOTIF):
        extras.append(_a(word(item.motif)) + rng.choice(("", " on it", " motif", " print")))
    return " ".join(f"{head}{' with ' if extras else ''}{' and '.join(extras)}".split())


def _place(backdrop: str, word: Word, rng: random.Random) -> str:
    name = word(backdrop)
    return rng.choice(_PLACES[backdrop]).format(name if name == "tiles" else _a(name))


def _pair(first: str, second: str, relation: str | None, word: Word, rng: random.Random) -> str:
    if relation is None:
        return rng.choice(("{} and {}", "{} together with {}", "two things: {} and {}")).format(first, second)
    beside = relation == "left of"
    form = rng.randrange(4)
    if form == 0:
        return f"{second} {_pick(rng, _RIGHT_OF if beside else _BELOW)} {first}"
    if form == 1:
        sides = ("on the left", "on the right") if beside else ("at the top", "at the bottom")
        opening = rng.choice(("", "two things: "))
        return f"{opening}{first} {sides[0]} and {second} {sides[1]}"
    if form == 2:
        sides = ("left", "right") if beside else ("top", "bottom")
        return f"{sides[0]}: {first}; {sides[1]}: {second}"
    return f"{first} {word(relation)} {second}"


def _filler(rng: random.Random) -> str:
    return "".join(rng.choices(_SYLLABLES, k=2)) if rng.random() < 0.3 else rng.choice(_PRAISE)


def say(wanted: Wanted, word: Word, adjective: Word, rng: random.Random, filler: bool = False) -> str:
    """A sentence that names all that `wanted` names, with `word` and `adjective` choosing the words."""
    article = rng.random() < 0.7
    products = [_product(item, word, adjective, rng) for item in wanted.items]
    if filler:
        products = [f"{_filler(rng)} {p}" if rng.random() < 0.6 else p for p in products]
    products = [_a(p) if article else p for p in products]
    text = products[0] if len(products) == 1 else _pair(*products, wanted.relation, word, rng)
    opening = rng.choice(("", "", "", "photo of ", "picture of "))
    if opening and ":" not in text:
        text = opening + text
    if wanted.backdrop:
        place = _place(wanted.backdrop, word, rng)
        text = f"{place}: {text}" if ":" not in text and rng.random() < 0.2 else f"{text}, {place}"
    if filler and rng.random() < 0.3 and ":" not in text:
        text = f"{rng.choice(_BEFORE)} {text}"
    elif filler and rng.random() < 0.4:
        text = f"{text}, {rng.choice(_AFTER)}"
    return text


def _leave_out(wanted: Wanted, rng: random.Random) -> Wanted:
    """Forgets each attribute with some probability; the kind always stays."""

    def keep(value: str | None, probability: float) -> str | None:
        return value if rng.random() < probability else None

    items = []
    for item in wanted.items:
        pattern = keep(item.pattern, 0.7)
        colour2 = keep(item.colour2, 0.7) if pattern else None
        motif = keep(item.motif, 0.6)
        items.append(replace(item, colour=keep(item.colour, 0.8), pattern=pattern, colour2=colour2, motif=motif))
    return Wanted(tuple(items), keep(wanted.backdrop, 0.4), keep(wanted.relation, 0.7))


def generic_caption(scene: Scene, rng: random.Random, full: bool = True) -> str:
    """A caption in common English, as a general model would have met it.

    Args:
        scene: the picture.
        rng: the source of chance; the same state gives the same caption.
        full: name every attribute; otherwise some are left out at random (never a kind).

    Returns:
        One line of about 8 to 24 words, in lower case; a tenth of them hold words without meaning.
    """
    wanted = Wanted.of(scene)
    return say(
        wanted if full else _leave_out(wanted, rng),
        lambda name: _pick(rng, GENERIC[name]),
        lambda name: _pick(rng, ADJECTIVES[name]),
        rng,
        filler=rng.random() < FILLER_SHARE,
    )
