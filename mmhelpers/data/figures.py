"""Textbook figures with alternative texts: OpenStax books, fetched with git at fixed commits.

A book's repository holds modules/<id>/index.cnxml, the pictures in media/, and collections/*.collection.xml,
which state the licence. Of its history only one commit is fetched, and of that only the files that are read.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mmhelpers.course.artifacts import write_atomically
from mmhelpers.data.folder import DataError
from mmhelpers.data.gitfiles import Repository
from mmhelpers.data.images import FORMATS, store_picture, text_bar

GITHUB = "https://github.com"
MIN_ALT = 20  # characters: a shorter alternative text names a figure, it does not describe it
LICENCE = "CC BY 4.0"
LICENCE_URL = r"https?://creativecommons\.org/licenses/by/4\.0/?"  # later commits are by-nc-sa
CREDIT = re.compile(r"\(\s*(?=(?:credits?|attribution)\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Book:
    """A book: its title, the subject that it belongs to, its repository, and the commit that is used."""

    title: str
    subject: str
    repository: str
    commit: str

    @property
    def slug(self) -> str:
        """Its short name, such as "microbiology"."""
        return self.repository.split("osbooks-")[-1]


BOOKS = {
    book.slug: book
    for book in (
        Book("Anatomy and Physiology", "medical", "openstax/osbooks-anatomy-physiology",
             "b0058a743bdd2cc08196abaaa7d5469970c0d80c"),
        Book("Microbiology", "medical", "openstax/osbooks-microbiology",
             "ecf34dad129d686703780e87ab5aa2e59c577a6a"),
        Book("College Physics", "physics", "openstax/osbooks-college-physics-bundle",
             "f98d7a792138a6133fe7267d17e70aa04e9ccbed"),
        Book("Psychology", "people", "openstax/osbooks-psychology",
             "e061043bf2f9e86ace51c4e8dc9555160f60a99d"),
        Book("Introduction to Sociology", "people", "openstax/osbooks-introduction-sociology",
             "d35d5f3bdac40f93607d600134865d4f13ce1f9b"),
        Book("U.S. History", "people", "openstax/osbooks-us-history",
             "046331cfcea0ac1b1a8fd461b3e6aae638845af3"),
        Book("Introduction to Anthropology", "people", "openstax/osbooks-introduction-anthropology",
             "418eedd9bef21ec1a6fa1b472c0d82c084e35c70"),
        Book("American Government", "people", "openstax/osbooks-american-government",
             "5c90dd7907dbf25f42266417e63ca3bb0012f031"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A picture in a module: its path in the repository, alternative text, caption, and credit."""

    path: str
    alt: str
    caption: str
    credit: str


def chosen(source: str) -> list[Book]:
    """The books of "figures" (all), "figures:<subject>" or "figures:<book>".

    Raises: DataError that lists the names.
    """
    name = source.partition(":")[2]
    found = [book for slug, book in BOOKS.items() if not name or name in (slug, book.subject)]
    if not found:
        subjects = dict.fromkeys(book.subject for book in BOOKS.values())
        what = f"there is no {name!r}; choose one of {', '.join([*subjects, *BOOKS])}"
        raise DataError("figures", [what])
    return found


def gather(source: str, cache: Path) -> Path:
    """Fetch the books of a source; a stopped run goes on where it was.

    Args:
        source: as in `chosen`.
        cache: for the books, each a folder with pictures and metadata.jsonl. MM_FIGURES_REMOTE may name
            another address than GitHub's for repositories of the same names.
    Returns: a metadata file for `folder.read_folder`.
    Raises: DataError where git fails, the licence is another one, or a module cannot be parsed.
    """
    books, lines = chosen(source), []
    for book in books:
        folder = cache / f"{book.slug}-{book.commit[:12]}"
        if not (folder / "metadata.jsonl").is_file():
            print(f"{book.title}: {LICENCE}, {book.repository} at {book.commit[:12]}", flush=True)
            _fetch(book, folder, os.environ.get("MM_FIGURES_REMOTE") or GITHUB)
        rows = (folder / "metadata.jsonl").read_text(encoding="utf-8").split("\n")
        for row in map(json.loads, filter(None, rows)):
            name = row["file_name"]
            row |= {"file_name": f"{folder.name}/{name}", "image_id": name}
            lines.append(json.dumps(row, ensure_ascii=False))
    metadata = cache / f"{source.replace(':', '-')}.jsonl"
    write_atomically(metadata, "\n".join(lines))
    return metadata


def _fetch(book: Book, folder: Path, remote: str) -> None:
    """Fill the folder of a book; its metadata.jsonl, written last, says that it is whole."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    repository = Repository(folder / "git", f"{remote}/{book.repository}.git", book.commit)
    _check_licence(book, repository)
    modules = [path for path in repository.files if re.fullmatch(r"modules/[^/]+/index\.cnxml", path)]
    figures = [
        figure
        for path, raw in repository.read(sorted(modules))
        for figure in parse_module(raw, path, book.repository)
    ]
    kept, left_out = _worth_keeping(figures, repository)
    names = {figure.path: f"{book.slug}__{_plain_name(figure.path)}" for figure in kept}
    stored = {path.stem: path for path in (folder / "images").iterdir() if path.suffix in (".jpg", ".png")}
    missing = [figure.path for figure in kept if names[figure.path] not in stored]
    for path, raw in text_bar(repository.read(missing), f"fetching {book.slug}", len(missing)):
        try:
            stored[names[path]] = _store(
                raw, folder / "git" / Path(path).name, folder / "images" / names[path]
            )
        except Exception as error:  # decoders raise nearly anything for damaged files
            left_out[f"cannot be opened ({posixpath.basename(path)}: {error})"] += 1
    rows = [
        {
            "file_name": f"images/{stored[names[figure.path]].name}",
            "text": figure.alt,
            "caption": figure.caption,
            "credit": figure.credit,
            "source": book.title,
            "source_repo": book.repository,
            "source_commit": book.commit,
            "licence": LICENCE,
        }
        for figure in kept
        if names[figure.path] in stored
    ]
    if not rows:
        raise DataError(f"{book.repository} at {book.commit}", ["it has no figure that can be used"])
    print(f"{book.title}: {len(rows):,} figures. Left out:", flush=True)
    for why, count in left_out.items():
        print(f"    {count:,} {why}", flush=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write_atomically(folder / "metadata.jsonl", "\n".join(lines))
    shutil.rmtree(folder / "git", ignore_errors=True)


def _worth_keeping(figures: Iterable[Figure], repository: Repository) -> tuple[list[Figure], Counter[str]]:
    """Figures that say what they show, each picture and each text once; and how many are left out, by why."""
    kept, left_out, seen = [], Counter(), set()
    suffixes = {".jpg", ".jpeg", *(f".{name.lower()}" for name in FORMATS)}
    for figure in figures:
        if len(figure.alt) < MIN_ALT:
            left_out[f"with an alternative text below {MIN_ALT} characters"] += 1
        elif posixpath.splitext(figure.path)[1].lower() not in suffixes:
            left_out["in another format"] += 1
        elif figure.path not in repository.files:
            left_out["whose picture is not in the repository"] += 1
        elif not seen.isdisjoint(marks := {figure.alt, _plain_name(figure.path)}):
            left_out["that came before, with the same text or picture"] += 1
        else:
            seen |= marks
            kept.append(figure)
    return kept, left_out


def _plain_name(path: str) -> str:
    return re.sub(r"[^\w.-]", "_", posixpath.splitext(posixpath.basename(path))[0], flags=re.ASCII)


def _store(raw: bytes, scratch: Path, target: Path) -> Path:
    """Keep a picture as the course uses it, moved into place: a file that is there is whole."""
    scratch.write_bytes(raw)
    ready = store_picture(scratch, scratch.with_name(f"ready-{target.name}"))
    scratch.unlink()
    return ready.replace(target.with_name(target.name + ready.suffix))


def _check_licence(book: Book, repository: Repository) -> None:
    collections = [path for path in repository.files if path.endswith(".collection.xml")]
    stated = {
        element.get("url", "")
        for path, raw in repository.read(collections)
        for element in _parse(raw, f"{book.repository} {path}").iter()
        if _tag(element) == "license"
    }
    if not stated or not all(re.fullmatch(LICENCE_URL, url) for url in stated):
        what = f"its licence is {', '.join(sorted(stated)) or 'not stated'}, expected was {LICENCE}"
        raise DataError(f"{book.repository} at {book.commit}", [what])


def parse_module(raw: bytes, path: str, where: str) -> list[Figure]:
    """The figures of a module in CNXML (cnx.rice.edu/cnxml), in their order.

    A caption's credit, in round brackets, is taken out of it. Subfigures have the figure's caption after
    their own. Pictures outside a figure have none. MathML becomes its letters, links without a text vanish.

    Args:
        raw: of modules/<id>/index.cnxml. path: of that file; pictures are named from there.
        where: for the message.
    Raises: DataError where it is not XML, or declares a document type (and with it perhaps entities).
    """
    root = _parse(raw, f"{where} {path}")
    try:
        media = list(_media(root, ""))
    except RecursionError:
        raise DataError(f"{where} {path}", ["it cannot be parsed: it is nested too deeply"]) from None
    home = posixpath.dirname(path)
    return [
        Figure(posixpath.normpath(posixpath.join(home, src)), alt, *_credited(caption))
        for src, alt, caption in media
    ]


def _media(element: ElementTree.Element, caption: str) -> Iterator[tuple[str, str, str]]:
    if _tag(element) in ("figure", "subfigure"):
        own = [_text(child) for child in element if _tag(child) == "caption"]
        caption = " ".join(filter(None, [*own, caption]))
    if _tag(element) == "media":
        images = [child for child in element if _tag(child) == "image" and child.get("src")]
        for image in images[:1]:  # the others are the same picture for other outputs
            yield image.get("src"), " ".join((element.get("alt") or image.get("alt") or "").split()), caption
    for child in element:
        yield from _media(child, caption)


def _credited(caption: str) -> tuple[str, str]:
    """A caption without its credits, and the credits: "A cell. (credit: NIH)" -> "A cell.", "credit: NIH"."""
    credits, start = [], 0
    while found := CREDIT.search(caption, start):
        start, depth, end = found.start(), 1, found.end()
        while end < len(caption) and depth:
            depth += {"(": 1, ")": -1}.get(caption[end], 0)
            end += 1
        credits.append(caption[found.end() : end - (depth == 0)].strip())
        before, after = caption[:start].rstrip(), caption[end:]
        after = after.lstrip(".") if before.endswith(".") else after
        caption = f"{before}{after}"
        start = len(before)
    return " ".join(caption.split()), "; ".join(filter(None, credits))


class _NoDoctype(ElementTree.TreeBuilder):
    """A document type is where entities are declared that grow without end or read files."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        raise ValueError("it declares a document type, which no module needs")


def _parse(raw: bytes, where: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(raw, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(where, [f"it cannot be parsed: {error}"]) from None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _text(element: ElementTree.Element) -> str:
    def pieces(element: ElementTree.Element) -> Iterator[str]:
        if _tag(element) not in ("annotation", "annotation-xml", "footnote"):
            yield element.text or ""
            for child in element:
                yield from pieces(child)
                yield " " if _tag(child) in ("newline", "space", "para", "item") else ""
                yield child.tail or ""

    return " ".join("".join(pieces(element)).split())
