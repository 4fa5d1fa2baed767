"""Textbook figures with alternative texts: OpenStax books, fetched with git, as a folder for DATA.

    python scripts/textbook_figures.py medical                  # to downloads/figures-medical
    make run DATA=downloads/figures-medical

A book's repository holds modules/<id>/index.cnxml, the pictures in media/, and collections/*.collection.xml,
which state the licence. Of it only one commit is fetched, and of that only the files that are read. A stopped
run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from mmhelpers.course.artifacts import write_atomically
from mmhelpers.course.profiles import downloads
from mmhelpers.data.images import store_picture, text_bar

GITHUB = "https://github.com"
MIN_ALT = 20  # characters: a shorter alternative text names a figure, it does not describe it
LICENCE, LICENCE_URL = "CC BY 4.0", r"https?://creativecommons\.org/licenses/by/4\.0/?"
CREDIT = re.compile(r"\(\s*(?=(?:credits?|attribution)\b)", re.IGNORECASE)
A_BATCH = 64  # pictures in one request; what was stored before a stop is not fetched again
BOOKS = {  # openstax/osbooks-<name>: subject, title, a commit under the licence (later ones are by-nc-sa)
    "anatomy-physiology": ("medical", "Anatomy and Physiology", "b0058a743bdd2cc08196abaaa7d5469970c0d80c"),
    "microbiology": ("medical", "Microbiology", "ecf34dad129d686703780e87ab5aa2e59c577a6a"),
    "college-physics-bundle": ("physics", "College Physics", "f98d7a792138a6133fe7267d17e70aa04e9ccbed"),
    "psychology": ("people", "Psychology", "e061043bf2f9e86ace51c4e8dc9555160f60a99d"),
    "introduction-sociology":
        ("people", "Introduction to Sociology", "d35d5f3bdac40f93607d600134865d4f13ce1f9b"),
    "us-history": ("people", "U.S. History", "046331cfcea0ac1b1a8fd461b3e6aae638845af3"),
    "introduction-anthropology":
        ("people", "Introduction to Anthropology", "418eedd9bef21ec1a6fa1b472c0d82c084e35c70"),
    "american-government": ("people", "American Government", "5c90dd7907dbf25f42266417e63ca3bb0012f031"),
}  # fmt: skip


class Figure(NamedTuple):
    """A picture in a module: its path in the repository, alternative text, caption, and credit."""

    path: str
    alt: str
    caption: str
    credit: str


def gather(name: str, out: Path, remote: str = GITHUB) -> int:
    """Fetch the books of a name into a folder; its metadata.jsonl, written last, says that it is whole.

    Args:
        name: of a subject or a book. remote: where repositories of the same names are.

    Returns: how many figures there are.
    Raises: ValueError where git fails, the licence is another one, or a module cannot be parsed.
    """
    books = [slug for slug, (subject, *_) in BOOKS.items() if name in (slug, subject)]
    if not books:
        there = ", ".join([*dict.fromkeys(subject for subject, *_ in BOOKS.values()), *BOOKS])
        raise ValueError(f"there is no {name!r}; choose one of {there}")
    table = out / "metadata.jsonl"
    if not table.is_file():
        (out / "images").mkdir(parents=True, exist_ok=True)
        rows = [row for slug in books for row in fetch(slug, out, remote)]
        write_atomically(table, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        shutil.rmtree(out / "git", ignore_errors=True)
    return table.read_bytes().count(b"\n")


def fetch(slug: str, out: Path, remote: str) -> list[dict[str, str]]:
    """Store the pictures of a book in out/images; returns its rows."""
    (_, title, commit), repository, checkout = BOOKS[slug], f"openstax/osbooks-{slug}", out / "git" / slug
    where = f"{repository} at {commit}"
    print(f"{title}: {LICENCE}, {where}", flush=True)
    checkout.mkdir(parents=True, exist_ok=True)
    git(checkout, "init", "--quiet")
    git(checkout, "config", "remote.origin.url", f"{remote}/{repository}.git")
    git(checkout, "fetch", "--quiet", "--no-tags", "--depth=1", "--filter=blob:none", "origin", commit)
    entries = [line.partition("\t") for line in git(checkout, "ls-tree", "-r", "-z", commit).split("\0")]
    files = {path for kind, _, path in entries if kind.startswith("100")}  # no symbolic links
    figures, left_out = worth_keeping(read_book(checkout, commit, files, where), files)
    names = {figure.path: f"{slug}__{plain_name(figure.path)}" for figure in figures}
    stored = store(checkout, commit, names, out / "images", left_out)
    about = {"source": title, "source_repo": repository, "source_commit": commit, "licence": LICENCE}
    rows = [
        about | {"file_name": f"images/{stored[name]}", "text": alt, "caption": caption, "credit": credit}
        for path, alt, caption, credit in figures
        if (name := names[path]) in stored
    ]
    if not rows:
        raise ValueError(f"{where}: it has no figure that can be used")
    counts = [f"{count:,} {why}" for why, count in left_out.items()]
    print(f"{title}: {len(rows):,} figures. Left out:", *counts, sep="\n    ", flush=True)
    return rows


def read_book(checkout: Path, commit: str, files: set[str], where: str) -> list[Figure]:
    """The figures of all modules. Raises: ValueError where the book states another licence, or none."""
    collections = sorted(path for path in files if path.endswith(".collection.xml"))
    modules = sorted(path for path in files if re.fullmatch(r"modules/[^/]+/index\.cnxml", path))
    check_out(checkout, commit, [*collections, *modules])
    roots = [parse((checkout / path).read_bytes(), f"{where}, {path}") for path in collections]
    stated = {found.get("url", "") for root in roots for found in root.iter() if tag(found) == "license"}
    if not stated or not all(re.fullmatch(LICENCE_URL, url) for url in stated):
        found = ", ".join(sorted(stated)) or "not stated"
        raise ValueError(f"{where}: its licence is {found}, expected was {LICENCE}")
    return [f for path in modules for f in parse_module((checkout / path).read_bytes(), path, where)]


def store(checkout: Path, commit: str, names: dict[str, str], images: Path, left_out: Counter) -> dict:
    """Keep the pictures that are not there yet, as the course uses them; counts those that cannot be opened.

    Args: names: path in the repository -> name, without a suffix.
    Returns: name -> name of its file.
    """
    stored = {path.stem: path.name for path in images.iterdir()}
    missing = [path for path, name in names.items() if name not in stored]
    for number, path in enumerate(text_bar(missing, f"fetching {checkout.name}", len(missing))):
        if number % A_BATCH == 0:
            check_out(checkout, commit, missing[number : number + A_BATCH])
        try:  # moved into place: a file that is there is whole
            ready = store_picture((checkout / path).read_bytes(), checkout / names[path])
            stored[names[path]] = ready.replace(images / ready.name).name
        except Exception as error:  # decoders raise nearly anything for damaged files
            left_out[f"cannot be opened ({posixpath.basename(path)}: {error})"] += 1
    return stored


def git(folder: Path, *command: str, given: str = "") -> str:
    """What git says. Raises: ValueError with the last line of what went wrong."""
    other = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set where we run from a git hook
    environment = {name: value for name, value in os.environ.items() if name not in other}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}  # never asks for a password
    settings = ("-c", "gc.auto=0", "-c", "core.autocrlf=false", "-c", "core.symlinks=false")
    try:
        done = subprocess.run(["git", *settings, *command], cwd=folder, input=given, env=environment,
                              capture_output=True, encoding="utf-8", errors="surrogateescape")  # fmt: skip
    except FileNotFoundError:
        raise ValueError("git is not installed; the figures are fetched with it") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"git {command[0]} failed: {said}; run again, it goes on where it stopped")
    return done.stdout


def check_out(folder: Path, commit: str, paths: list[str]) -> None:
    """Fetch files of a commit, all in one request, and write them to the folder."""
    given = "\0".join(f":(literal){path}" for path in paths)
    git(folder, "checkout", "--quiet", commit, "--pathspec-from-file=-", "--pathspec-file-nul", given=given)


def worth_keeping(figures: list[Figure], files: set[str]) -> tuple[list[Figure], Counter[str]]:
    """Figures that say what they show, each picture and each text once; and how many are left out, by why."""
    kept, left_out, seen = [], Counter(), set()
    for figure in figures:
        marks = {figure.alt, plain_name(figure.path)}
        if len(figure.alt) < MIN_ALT:
            left_out[f"with an alternative text below {MIN_ALT} characters"] += 1
        elif figure.path not in files:
            left_out["whose picture is not in the repository"] += 1
        elif seen & marks:
            left_out["that came before, with the same text or picture"] += 1
        else:
            seen |= marks
            kept.append(figure)
    return kept, left_out


def plain_name(path: str) -> str:
    return re.sub(r"[^\w.-]", "_", posixpath.splitext(posixpath.basename(path))[0], flags=re.ASCII)


def parse_module(raw: bytes, path: str, where: str) -> list[Figure]:
    """The figures of a module in CNXML (cnx.rice.edu/cnxml), in their order; links start at its path.

    A caption's credit, in round brackets, is taken out of it. Subfigures have the figure's caption after
    their own. Pictures outside a figure have none. MathML becomes its letters, links without a text vanish.
    """
    root = parse(raw, f"{where}, {path}")
    try:
        found = list(media(root, ""))
    except RecursionError:
        raise ValueError(f"{where}, {path}: it cannot be parsed: it is nested too deeply") from None
    home = posixpath.dirname(path)
    return [Figure(posixpath.normpath(posixpath.join(home, src)), alt, *credited(c)) for src, alt, c in found]


def media(element: ElementTree.Element, caption: str) -> Iterator[tuple[str, str, str]]:
    """Source, alternative text and caption of the pictures below an element."""
    if tag(element) in ("figure", "subfigure"):
        own = [text_of(child) for child in element if tag(child) == "caption"]
        caption = " ".join(filter(None, [*own, caption]))
    if tag(element) == "media":
        images = [child for child in element if tag(child) == "image" and child.get("src")]
        for image in images[:1]:  # the others are the same picture for other outputs
            yield image.get("src"), " ".join((element.get("alt") or image.get("alt") or "").split()), caption
    for child in element:
        yield from media(child, caption)


def credited(caption: str) -> tuple[str, str]:
    """A caption and its credits apart: "A cell. (credit: NIH)" -> "A cell.", "credit: NIH"."""
    credits, start = [], 0
    while found := CREDIT.search(caption, start):
        start, depth, end = found.start(), 1, found.end()
        while end < len(caption) and depth:
            depth += {"(": 1, ")": -1}.get(caption[end], 0)
            end += 1
        credits.append(caption[found.end() : end - (depth == 0)].strip())
        before, after = caption[:start].rstrip(), caption[end:]
        caption, start = before + (after.lstrip(".") if before.endswith(".") else after), len(before)
    return " ".join(caption.split()), "; ".join(filter(None, credits))


class NoDoctype(ElementTree.TreeBuilder):
    """A document type is where entities are declared that grow without end or read files."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        raise ValueError("it declares a document type, which no module needs")


def parse(raw: bytes, where: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(raw, ElementTree.XMLParser(target=NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{where}: it cannot be parsed: {error}") from None


def tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def text_of(element: ElementTree.Element) -> str:
    def pieces(element: ElementTree.Element) -> Iterator[str]:
        if tag(element) not in ("annotation", "annotation-xml", "footnote"):
            yield element.text or ""
            for child in element:
                yield from pieces(child)
                yield " " if tag(child) in ("newline", "space", "para", "item") else ""
                yield child.tail or ""

    return " ".join("".join(pieces(element)).split())


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="medical, physics, people, or a book")
    parser.add_argument("--out", type=Path, help="a folder; default: downloads/figures-<name>")
    options = parser.parse_args()
    out = options.out or downloads() / f"figures-{options.name}"
    try:
        count = gather(options.name, out)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count:,} figures in {out}; run the course on them with DATA={out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
