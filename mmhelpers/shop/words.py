"""Words for pictures: a grammar, the generic English that it speaks, and this shop's trade words.

The words themselves stand in words.json. The first word of a list is the plain name and the most frequent
one; no word stands for two things. What clip-mini has never seen (spec.py) the shop calls by its trade word
only, and its generic words are what a dictionary would say. A motif's trade word is the collection that its
products belong to, and some kinds, patterns and motifs have none.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mmhelpers.shop import spec
from mmhelpers.shop.spec import MOTIFS, PLAIN, Scene
from mmhelpers.shop.wanted import NO_MOTIF, Wanted, WantedItem

_WORDS = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
Words = dict[str, list[str]]
GENERIC: Words = _WORDS["generic"]
ADJECTIVES: Words = _WORDS["adjectives"]  # of patterns
HOUSE: Words = _WORDS["house"]  # what the trade says
HOUSE_ADJECTIVES: Words = _WORDS["house adjectives"]  # of patterns, where they differ
# The shop's departments: their kinds, and how one asks for something from them.
CATEGORIES = {name: (tuple(kinds), phrases) for name, (kinds, phrases) in _WORDS["categories"].items()}

# How often the shop, and a shopper, says the trade word where a generic one would do.
JARGON = {"kind": 0.6, "motif": 0.8, "pattern": 0.6}
SHORT_CAPTIONS, NAMED_BACKDROPS, NAMED_CATEGORIES = 0.3, 0.3, 0.25  # shares of captions
FILLER_SHARE = 0.1  # of captions hold words without a meaning for the picture, to be read past

_GROUP = {**dict.fromkeys(spec.KINDS, "kind"), **dict.fromkeys(MOTIFS, "motif"),
          **dict.fromkeys(spec.PATTERNS, "pattern")}  # fmt: skip
_TRADE_ONLY = {*spec.KINDS, *spec.COLOURS, *spec.PATTERNS}
_TRADE_ONLY -= {*spec.GENERIC_KINDS, *spec.GENERIC_COLOURS, *spec.GENERIC_PATTERNS}
_COLLECTIONS = {word for motif in MOTIFS for word in HOUSE.get(motif, ())}
_RIGHT_OF = ("right of", "to the right of", "on the right of")
_BELOW = ("below", "under", "beneath")
_WITH_ARTICLE = ("colour block", "solid block", "contrast panel", "sunburst")
_PHOTO = ("", "", "", "photo of ", "picture of ")
_LABEL = ("", "", "", "photo of ")
_ASKING = ("", "", "", "looking for ", "i need ", "show me ", "do you have ", "i would like ")


def _a(phrase: str) -> str:
    return ("an " if phrase[0] in "aeio" or phrase.startswith(("umb", "unp", "urn")) else "a ") + phrase


@dataclass(frozen=True)
class _Speaker:
    """Somebody with a vocabulary who puts what is wanted into words, all of it and nothing else."""

    rng: random.Random
    jargon: Mapping[str, float]
    openings: tuple[str, ...] = _PHOTO
    filler: bool = False
    say_plain: float = 0.4  # of a full text

    def word(self, name: str, adjective: bool = False) -> str:
        if name in _TRADE_ONLY or (name in HOUSE and self.rng.random() < self.jargon.get(_GROUP[name], 0.0)):
            return self.rng.choice((HOUSE_ADJECTIVES if adjective and name in HOUSE_ADJECTIVES else HOUSE)[name])
        words = (ADJECTIVES if adjective else GENERIC)[name]
        return words[0] if self.rng.random() < 0.4 else self.rng.choice(words)

    def product(self, item: WantedItem, say_plain: float) -> str:
        """A noun phrase without its article.

        The base colour stands beside the kind or after "in", the pattern's colour beside the pattern or
        before "on": no reading swaps the two.
        """
        rng, form = self.rng, self.rng.choice(("with", "with", "in", "hyphen", "on"))
        kind = self.word(item.kinds[0]) if len(item.kinds) == 1 else rng.choice(("something", "anything"))
        colour = self.word(item.colour) if item.colour else ""
        colour2 = self.word(item.colour2) if item.colour2 else ""
        before, after, extras = colour, "", []
        if colour and form == "in":
            before, after = "", f"in {colour}"
        if item.pattern == PLAIN and rng.random() < say_plain:
            before = f"{self.word(PLAIN)} {before}"
        elif item.pattern not in (None, PLAIN):
            if form == "on" and colour and colour2:
                before, after = self.word(item.pattern, adjective=True), f"in {colour2} on {colour}"
            elif form in ("hyphen", "on"):
                hyphen = "-" if colour2 else ""
                before = f"{colour2}{hyphen}{self.word(item.pattern, adjective=True)} {colour}"
            else:
                noun = self.word(item.pattern)
                extra = f"{colour2} {noun}".strip()
                extras.append(_a(extra) if noun in _WITH_ARTICLE else extra)
        if self.filler and rng.random() < 0.4:
            before = f"{rng.choice(_WORDS['praise'])} {before}"
        motif = self.word(item.motif) if item.motif not in (None, NO_MOTIF) else ""
        collection = f"from the {motif} collection" if motif in _COLLECTIONS else ""
        if motif and not collection:
            extras.append(_a(motif) + rng.choice(("", " on it", " motif", " print")))
        named = f"{before} {kind}" if len(item.kinds) == 1 else f"{kind} {before}"
        joined = f"with {' and '.join(extras)}" if extras else ""
        purpose = rng.choice(CATEGORIES[item.category][1]) if item.category else ""
        return " ".join(f"{named} {after} {joined} {collection} {purpose}".split())

    def pair(self, first: str, second: str, relation: str | None) -> str:
        rng = self.rng
        if relation is None:
            return rng.choice(("", "", "two things: ")) + f"{first} and {second}"
        beside, form = relation == "left of", rng.randrange(4)
        if form == 0:
            return f"{second} {rng.choice(_RIGHT_OF if beside else _BELOW)} {first}"
        if form == 1:
            sides = ("on the left", "on the right") if beside else ("at the top", "at the bottom")
            return f"{rng.choice(('', 'two things: '))}{first} {sides[0]} and {second} {sides[1]}"
        if form == 2:
            sides = ("left", "right") if beside else ("top", "bottom")
            return f"{sides[0]}: {first}; {sides[1]}: {second}"
        return f"{first} {self.word(relation)} {second}"

    def trio(self, top: str, left: str, right: str, relation: str | None) -> str:
        if relation is None:
            return f"{top}, {left} and {right}"
        return self.rng.choice((
            f"{top} above {left} on the left and {right} on the right",
            f"top: {top}; below left: {left}; below right: {right}",
            f"{left} and to its right {right}, below {top}",
        ))  # fmt: skip

    def say(self, wanted: Wanted) -> str:
        rng, opening = self.rng, self.rng.choice(self.openings)
        article = rng.random() < 0.7 or opening in _ASKING[3:]
        products = [self.product(item, self.say_plain if wanted.full else 1.0) for item in wanted.items]
        products = [_a(p) if article and not p.startswith(("something", "anything")) else p for p in products]
        join = {1: lambda text, _: text, 2: self.pair, 3: self.trio}[len(products)]
        text = join(*products, wanted.relation)
        if ":" not in text:
            text = opening + text
        if wanted.backdrop:
            name = self.word(wanted.backdrop)
            place = rng.choice(_WORDS["places"][wanted.backdrop]).format(name if name == "tiles" else _a(name))
            ahead = ":" not in text and not opening and rng.random() < 0.25
            text = f"{place}: {text}" if ahead else f"{text}, {place}"
        if self.filler and rng.random() < 0.3 and ":" not in text:
            text = f"{rng.choice(_WORDS['before'])} {text}"
        elif self.filler and rng.random() < 0.4:
            text = f"{text}, {rng.choice(_WORDS['after'])}"
        return text


def leave_out(wanted: Wanted, rng: random.Random) -> Wanted:
    """Opens each attribute with some probability; kinds stay, and what is left is no longer full.

    What a full description says by silence, that there is no motif, a short one leaves open.
    """

    def keep(value: str | None, probability: float) -> str | None:
        return value if rng.random() < probability else None

    items = []
    for item in wanted.items:
        colour, pattern = keep(item.colour, 0.8), keep(item.pattern, 0.7)
        motif = keep(item.motif, 0.6) if item.motif != NO_MOTIF else None
        colour2 = keep(item.colour2, 0.7) if pattern else None
        items.append(replace(item, colour=colour, pattern=pattern, colour2=colour2, motif=motif))
    return Wanted(tuple(items), keep(wanted.backdrop, 0.4), keep(wanted.relation, 0.7))


def caption_wanted(scene: Scene, rng: random.Random) -> Wanted:
    """What the shop chooses to say about a picture: all of it, or for the sake of brevity only some."""
    wanted = Wanted.of(scene, backdrop=rng.random() < NAMED_BACKDROPS)
    if rng.random() < SHORT_CAPTIONS:
        wanted = leave_out(wanted, rng)
    if len(wanted.items) == 1 and rng.random() < NAMED_CATEGORIES:
        category = next(name for name, (kinds, _) in CATEGORIES.items() if scene.items[0].kind in kinds)
        wanted = replace(wanted, items=(replace(wanted.items[0], category=category),))
    return wanted


def generic_caption(scene: Scene, rng: random.Random, full: bool = True) -> str:
    """A caption in common English, of every attribute or, if not `full`, of some (and of every kind)."""
    wanted = Wanted.of(scene) if full else leave_out(Wanted.of(scene), rng)
    return _Speaker(rng, {}, filler=rng.random() < FILLER_SHARE).say(wanted)


def house_caption(stated: Wanted, rng: random.Random) -> str:
    """A caption as this shop writes it, of what `caption_wanted` chose to say."""
    return _Speaker(rng, JARGON, _LABEL, rng.random() < FILLER_SHARE).say(stated)


def house_query(wanted: Wanted, rng: random.Random) -> str:
    """What a shopper who knows the trade's words types to find `wanted`."""
    text = _Speaker(rng, JARGON, _ASKING, say_plain=1.0).say(wanted)
    left_open = [name for name in ("colour", "pattern") if getattr(wanted.items[0], name) is None]
    if len(wanted.items) == len(wanted.items[0].kinds) == 1 and left_open and rng.random() < 0.3:
        text += f", any {rng.choice(left_open)}"
    return text


def in_generic_words(text: str) -> str:
    """A text with each trade word replaced by what a dictionary says for it: no more than words can close."""

    def meaning(found: re.Match[str]) -> str:
        noun = re.search(r"with (?:[\w-]+ ){0,3}$", text[: found.start()])  # "with navy gingham", not "a gingham mug"
        return _DICTIONARY[found[0]] if noun else _AS_ADJECTIVES.get(found[0], _DICTIONARY[found[0]])

    translated = _TRADE_WORD.sub(meaning, text)
    return re.sub(r"\ban? (?=([a-z-]+))", lambda found: _a(found[1]).removesuffix(found[1]), translated)


_DICTIONARY = {word: GENERIC[name][0] for name, words in HOUSE.items() for word in words}
_DICTIONARY |= {word: ADJECTIVES[name][0] for name, words in HOUSE_ADJECTIVES.items() for word in words}
_AS_ADJECTIVES = {HOUSE[name][0]: words[0] for name, words in ADJECTIVES.items() if name in HOUSE}
_TRADE_WORD = re.compile(rf"\b({'|'.join(sorted(_DICTIONARY, key=len, reverse=True))})\b")
