"""The usual ways to say which text belongs to which picture, read as rows of one form.

A JSONL, CSV or TSV file with usual or named columns; repeated rows, lists or several columns for several
texts of a picture; a text file beside each picture; folders named after classes.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmhelpers.data.problems import DataError, Report

Entry = tuple[int, dict]  # row number, and its columns

IMAGE_COLUMNS = ("file_name", "filename", "file", "image", "path")
TEXT_COLUMNS = ("text", "caption", "captions", "title", "description", "query")
NUMBERED = re.compile(rf"({'|'.join(TEXT_COLUMNS)})[_ -]?\d+")  # caption_0, caption_1 ...
TABLES = (".jsonl", ".csv", ".tsv")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def find_table(source: Path) -> Path:
    """The table that describes the pictures of a folder, or the folder itself where there is none.

    Raises: DataError: no such folder; several tables; a table that is a symbolic link.
    """
    if source.is_file() and source.suffix in (*TABLES, ".txt"):
        return source
    if not source.is_dir():
        raise DataError(source.absolute(), ["there is no such folder, nor a table; check DATA"])
    tables = sorted(path for path in source.iterdir() if path.suffix in TABLES or path.name == "captions.txt")
    found = [path for path in tables if path.stem == "metadata"] or tables
    if len(found) > 1:
        names = " and ".join(path.name for path in found[:2])
        raise DataError(source, [f"there are both {names}; keep one, or name one: DATA={found[0]}"])
    if found and (found[0].is_symlink() or not found[0].is_file()):
        raise DataError(source, [f"{found[0].name} is a symbolic link or no file; put the file itself there"])
    return found[0] if found else source


def read_table(table: Path, options: Mapping[str, str], report: Report) -> list[Entry]:
    """The rows, each with `file_name`, `texts` (a list), `is_class`, and what other columns there are.

    Rows for the same picture become one with several texts. What was taken for what is printed.

    Args: table: from `find_table`. options: `image` and `text` (several with commas) name columns.
    """
    if table.is_dir():
        return _without_table(table, report)
    raw = table.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        report.add(0, "is UTF-16; save it as UTF-8 (in Excel: 'CSV UTF-8')")
        return []
    parse = _jsonl if table.suffix == ".jsonl" else _csv
    entries = list(parse(raw.removeprefix(b"\xef\xbb\xbf"), report))
    if not entries and not report.found:
        report.add(0, "has no rows; write one for each picture, with file_name and text")
    columns = list(dict.fromkeys(column for _, entry in entries for column in entry))
    image, texts = choose_columns(columns, options, report) if entries else ("", [])
    for column in sorted({"image", "spec"}.intersection(columns) - {image, *texts}):
        report.add(0, f"has a column {column!r}, a name that is taken; rename the column")
    report.stop_if_whole()
    if entries and (image, texts) not in (("file_name", ["text"]), ("file_name", ["label"])):
        print(f"{table.name}: pictures from column {image!r}, texts from {', '.join(map(repr, texts))}")
    return _merged([(row, _one_form(entry, image, texts)) for row, entry in entries])


def choose_columns(
    columns: list[str], options: Mapping[str, str], report: Report, pictures: list[str] | None = None
) -> tuple[str, list[str]]:
    """Which column names the picture, and which hold its texts; what cannot be decided is reported.

    Args: columns: of the table. pictures: those that are known to hold pictures.
    """

    def choose(option: str, usual: tuple[str, ...], found: list[str]) -> list[str]:
        if given := [name for name in options.get(option, "").split(",") if name]:
            return given
        if usual[0] in found:
            return [usual[0]]
        if len(found) > 1:
            both = " and ".join(map(repr, found[:2]))
            report.add(0, f"has columns {both}; say which one to take: ?{option}={found[0]}")
        return found[:1]

    known = pictures or [name for name in IMAGE_COLUMNS if name in columns]
    images = choose("image", ("image",) if pictures else IMAGE_COLUMNS, known)
    texts = [name for name in TEXT_COLUMNS if name in columns and name not in images]
    texts = choose("text", TEXT_COLUMNS, texts) or [name for name in columns if NUMBERED.fullmatch(name)]
    texts = texts or [name for name in columns if name == "label"]
    there = f"its columns are {', '.join(map(repr, columns))}"
    for name in [*images, *texts]:
        if name not in columns:
            report.add(0, f"has no column {name!r}; {there}")
    if not images:
        report.add(0, f"has no column 'file_name' for the pictures; name one with ?image=...; {there}")
    if not texts:
        report.add(0, f"has no column 'text' for the texts; name one with ?text=...; {there}")
    return (images or [""])[0], texts


def _one_form(entry: dict, image: str, texts: list[str]) -> dict:
    """A row with our names, all its texts in the list `texts`; a text that is no string stays as it is."""
    found = []
    for value in map(entry.get, texts):
        found += value if isinstance(value, list) else [value]
    if len(texts) > 1:  # of several columns, some may be empty
        found = [text for text in found if text not in (None, "")] or found[:1]
    taken = {"text", "texts", image, *texts} - {"label"}
    kept = {name: value for name, value in entry.items() if name not in taken}
    return kept | {"file_name": entry.get(image), "texts": found, "is_class": texts == ["label"]}


def _merged(entries: list[Entry]) -> list[Entry]:
    """One row a picture: repeated rows add their texts to the first."""
    first: dict[object, dict] = {}
    merged = []
    for row, entry in entries:
        name = entry["file_name"]
        key = name if isinstance(name, str) else row  # what is wrong with others is told by row
        if (known := first.setdefault(key, entry)) is not entry:
            known["texts"] += entry["texts"]
        else:
            merged.append((row, entry))
    return merged


def _jsonl(raw: bytes, report: Report) -> Iterator[Entry]:
    for row, line in enumerate(raw.split(b"\n"), 1):  # not splitlines: texts may hold other line ends
        if not line.strip():
            continue
        try:
            entry = json.loads(line.decode("utf-8"))
            if not isinstance(entry, dict):
                raise ValueError("a value that is no object")
        except UnicodeDecodeError:
            report.add(row, "is not UTF-8; save the file as UTF-8")
        except (ValueError, RecursionError) as error:
            report.add(row, f"is not JSON ({error}); write one object {{...}} a line")
        else:
            yield row, entry


def _csv(raw: bytes, report: Report) -> Iterator[Entry]:
    """Rows are counted as in a spreadsheet: the header is row 1. The first line tells the separator."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        report.add(0, f"is not UTF-8 from line {line} on; save it as UTF-8 (in Excel: 'CSV UTF-8')")
        return
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    header: list[str] = []
    for row in itertools.count(1):
        try:
            cells = next(reader, None)
        except csv.Error as error:
            report.add(row, f"is not CSV ({error}); check its quotation marks")
            continue
        if cells is None:
            return
        if row == 1:
            header = cells
            if len(set(header)) < len(header):
                report.add(0, f"names a column twice; rename one: {', '.join(map(repr, header))}")
        elif cells and len(cells) != len(header):
            report.add(row, f"has {len(cells)} cells, not {len(header)}; quote cells with {separator!r}")
        elif cells:
            yield row, dict(zip(header, cells, strict=True))


def _without_table(root: Path, report: Report) -> list[Entry]:
    """A row for each picture with a text file of the same name beside it; else its folder names its class."""
    entries, paths = [], sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURES)
    paths = [path for path in paths if not path.relative_to(root).as_posix().startswith((".", "__"))]  # macOS
    beside = any(path.with_suffix(".txt").is_file() for path in paths)
    if not beside and len({path.parent.name for path in paths if path.parent != root}) < 2:
        what = "there is no table, no text file beside a picture, and no folder for each class"
        raise DataError(root, [f"{what}; write a metadata.jsonl with file_name and text for each picture"])
    for row, path in enumerate(paths, 1):
        entry = {"file_name": path.relative_to(root).as_posix(), "is_class": not beside}
        try:
            if not beside and path.parent == root:
                report.add(row, "lies outside of the folders for classes; move it", entry["file_name"])
            elif beside:
                entry["texts"] = [" ".join(path.with_suffix(".txt").read_text("utf-8-sig").split())]
            else:
                entry["label"] = path.parent.name.replace("_", " ")
                entry["texts"] = [entry["label"]]
            entries += [(row, entry)] if "texts" in entry else []
        except (OSError, UnicodeDecodeError):
            what = f"there is no {path.stem}.txt in UTF-8 beside it; write one"
            report.add(row, what, entry["file_name"])
    how = "a text file beside each" if beside else "in folders for classes"
    print(f"{root.name}: {len(entries):,} pictures, {how}")
    return entries
