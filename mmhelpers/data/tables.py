"""The usual ways to say which text belongs to which picture, read as rows of one form.

A JSONL, CSV or TSV file with usual or named columns; repeated rows, lists or several columns for several
texts of a picture; a text file beside each picture; folders named after classes.
"""

from __future__ import annotations

import csv
import io
import json
import os
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
WRITE_ONE = "write a metadata.jsonl with file_name and text for each picture"


def find_table(source: Path) -> Path:
    """The table that describes the pictures of a folder, or the folder itself where there is none.

    Raises:
        DataError: no such folder; several tables; a table that is a symbolic link.
    """
    if source.is_file() and source.suffix in (*TABLES, ".txt"):
        return source
    if not source.is_dir():
        raise DataError(source.absolute(), ["there is no such folder, nor a table; check DATA"])
    found = [source / name for name in ("metadata.jsonl", "metadata.csv") if os.path.lexists(source / name)]
    captions = source / "captions.txt"  # Flickr8k's, a CSV
    found = found or sorted(path for path in source.iterdir() if path.suffix in TABLES or path == captions)
    if len(found) > 1:
        names = " and ".join(path.name for path in found[:2])
        raise DataError(source, [f"there are both {names}; keep one, or name one: DATA={found[0]}"])
    if found and (found[0].is_symlink() or not found[0].is_file()):
        raise DataError(source, [f"{found[0].name} is a symbolic link or no file; put the file itself there"])
    return found[0] if found else source


def read_table(table: Path, options: Mapping[str, str], report: Report) -> list[Entry]:
    """The rows, each with `file_name`, `texts` (a list), and perhaps `image_id` and `label`.

    Rows for the same picture become one with several texts. What was taken for what is printed.

    Args:
        table: from `find_table`. options: `image`, `text` (several with commas) and `id` name columns.
    """
    if table.is_dir():
        return _sidecars(table, report) or _class_folders(table)
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
    named = {image: "file_name"} | ({options["id"]: "image_id"} if "id" in options else {})
    return _merged([(row, _one_form(entry, named, texts)) for row, entry in entries])


def choose_columns(
    columns: list[str], options: Mapping[str, str], report: Report, pictures: list[str] | None = None
) -> tuple[str, list[str]]:
    """Which column names the picture, and which hold its texts; what cannot be decided is reported.

    Args:
        columns: of the table. pictures: those that are known to hold pictures.
    """
    there = f"its columns are {', '.join(map(repr, columns))}"

    def choose(option: str, usual: tuple[str, ...], found: list[str]) -> list[str]:
        given = [name for name in options.get(option, "").split(",") if name]
        for name in given:
            if name not in columns:
                report.add(0, f"has no column {name!r}; {there}")
        if given or usual[0] in found:
            return given or [usual[0]]
        if len(found) > 1:
            both = " and ".join(map(repr, found[:2]))
            report.add(0, f"has columns {both}; say which one to take: ?{option}={found[0]}")
        return found[:1]

    known = pictures or [name for name in IMAGE_COLUMNS if name in columns]
    images = choose("image", ("image",) if pictures else IMAGE_COLUMNS, known)
    texts = [name for name in TEXT_COLUMNS if name in columns and name not in images]
    texts = choose("text", TEXT_COLUMNS, texts) or [name for name in columns if NUMBERED.fullmatch(name)]
    texts = texts or [name for name in columns if name == "label"]
    if (name := options.get("id", columns[0])) not in columns:
        report.add(0, f"has no column {name!r}; {there}")
    if not images:
        report.add(0, f"has no column 'file_name' for the pictures; name one with ?image=...; {there}")
    if not texts:
        report.add(0, f"has no column 'text' for the texts; name one with ?text=...; {there}")
    return (images or [""])[0], texts


def _one_form(entry: dict, named: Mapping[str, str], texts: list[str]) -> dict:
    """A row with our names, all its texts in the list `texts`; a text that is no string stays as it is."""
    found = []
    for column in texts:
        value = entry.get(column)
        found += value if isinstance(value, list) else [value]
    if len(texts) > 1:  # of several columns, some may be empty
        found = [text for text in found if text not in (None, "")] or found[:1]
    further = entry.get("texts")
    found += further if isinstance(further, list) else []
    taken = {"text", *texts} - {"label"} | ({"texts"} if isinstance(further, list) else set())
    kept = {named.get(name, name): value for name, value in entry.items() if name not in taken}
    return kept | {"texts": found, "is_class": texts == ["label"]}


def _merged(entries: list[Entry]) -> list[Entry]:
    """One row a picture: repeated rows add their texts to the first."""
    first: dict[str, dict] = {}
    merged = []
    for row, entry in entries:
        name = entry.get("file_name")
        if isinstance(name, str) and name in first:
            first[name]["texts"] += entry["texts"]
            continue
        if isinstance(name, str):
            first[name] = entry
        merged.append((row, entry))
    return merged


def _jsonl(raw: bytes, report: Report) -> Iterator[Entry]:
    for row, line in enumerate(raw.split(b"\n"), 1):  # not splitlines: texts may hold other line ends
        if not line.strip():
            continue
        try:
            entry = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            report.add(row, "is not UTF-8; save the file as UTF-8")
        except (ValueError, RecursionError) as error:
            report.add(row, f"is not JSON ({error}); write one object {{...}} a line")
        else:
            if isinstance(entry, dict):
                yield row, entry
            else:
                report.add(row, "is JSON but not an object; write one object {...} a line")


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
    header, row = None, 0
    while True:
        row += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report.add(row, f"is not CSV ({error}); check its quotation marks")
            continue
        if header is None:
            header = cells
            if len(set(header)) < len(header):
                report.add(0, f"names a column twice; rename one: {', '.join(map(repr, header))}")
        elif cells and len(cells) != len(header):
            report.add(row, f"has {len(cells)} cells, not {len(header)}; quote cells with {separator!r}")
        elif cells:
            yield row, dict(zip(header, cells, strict=True))


def _sidecars(root: Path, report: Report) -> list[Entry]:
    """A row for each picture with a text file of the same name beside it; none where no picture has one."""
    pictures = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURES)
    if not any(path.with_suffix(".txt").is_file() for path in pictures):
        return []
    entries = []
    for row, path in enumerate(pictures, 1):
        name = path.relative_to(root).as_posix()
        try:
            text = path.with_suffix(".txt").read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            report.add(row, "its text is not UTF-8; save it as UTF-8", name)
        except OSError:
            report.add(row, f"there is no {path.with_suffix('.txt').name} beside it; write one", name)
        else:
            entries.append((row, {"file_name": name, "texts": [" ".join(text.split())], "is_class": False}))
    print(f"{root.name}: {len(entries):,} pictures with a text file beside them")
    return entries


def _class_folders(root: Path) -> list[Entry]:
    """The rows of an ImageFolder as `datasets` reads it; the classes' names without their underscores."""
    from datasets import Image, load_dataset

    try:
        found = load_dataset("imagefolder", data_dir=str(root), streaming=True)
        splits = [split.cast_column("image", Image(decode=False)) for split in found.values()]
        rows = [(row, split.features["label"].names) for split in splits for row in split]
        if len({(names[row["label"]]) for row, names in rows}) < 2:
            raise ValueError("one class")
    except (KeyError, FileNotFoundError, ValueError) as error:  # no classes, no pictures
        what = "there is no table, no text file beside a picture, and no folder for each class"
        raise DataError(root, [f"{what}; {WRITE_ONE}"]) from error
    files = [Path(row["image"]["path"]).relative_to(root.resolve()).as_posix() for row, _ in rows]
    labels = [names[row["label"]].replace("_", " ") for row, names in rows]
    return [
        (number, {"file_name": file, "texts": [label], "label": label, "is_class": True})
        for number, (file, label) in enumerate(zip(files, labels, strict=True), 1)
    ]
