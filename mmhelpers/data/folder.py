"""Pictures with text in a folder of your own: all of it is checked before anything is written."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from mmhelpers.data.images import in_threads, load_picture, perceptual_hash
from mmhelpers.data.problems import DataError, Report
from mmhelpers.data.tables import Entry, find_table, read_table

OPTIONS = ("image", "text", "bad")
OURS = ("file_name", "image_id", "texts", "is_class")


@dataclass(frozen=True, eq=False)
class Row:
    """A picture that was checked, with its texts.

    `number` is that of its (first) row, `texts` are one or more, all of the same picture, and `extra` its
    other columns. Equal `content` is equal pixels. With `is_class` its text names a class of many pictures.
    """

    number: int
    path: Path
    image_id: str
    texts: tuple[str, ...]
    extra: dict[str, str]
    perceptual_hash: np.ndarray
    content: str
    is_class: bool = False


def read_folder(
    source: Path | str, options: Mapping[str, str] | None = None, skipped: list[dict] | None = None
) -> list[Row]:
    """Read and check pictures with their texts, one row a picture. Every picture is decoded.

    Args:
        source: a folder or a table, in any of the forms that `data/README.md` shows.
        options: `image` and `text` name columns; with `bad="skip"` rows with problems go into `skipped`.

    Raises: DataError with everything that is wrong, by row. No row is ever left out silently.
    """
    options, place = dict(options or {}), find_table(Path(source))
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise DataError(source, [f"there is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}"])
    if options.get("bad", "skip") != "skip":
        raise DataError(source, [f"bad={options['bad']} is unknown; there is bad=skip"])
    root = place if place.is_dir() else place.parent
    report = Report(place, source, skip="bad" in options)
    entries = read_table(place, options, report)
    n_rows = len({row for row, _ in entries} | report.bad)
    good = [(row, entry) for row, entry in entries if _is_good(root, row, entry, report)]
    _check_unique(good, report)
    rows = _with_pictures(root, good, report)
    report.stop_if_any(n_rows)
    if skipped is not None:
        in_order = sorted(report.found, key=lambda found: found[0])
        skipped += [{"file": name or "", "row": row, "problem": what} for row, name, what in in_order]
    return [row for row in rows if row.number not in report.bad]


def _with_pictures(root: Path, entries: list[Entry], report: Report) -> list[Row]:
    paths = [root / entry["file_name"] for _, entry in entries]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd tags; its size limit is above ours
        looks = list(in_threads(_look, paths, "checking pictures"))
    rows = []
    for (number, entry), path, look in zip(entries, paths, looks, strict=True):
        if isinstance(look, str):
            report.add(number, look, entry["file_name"])
            continue
        extra = {name: _as_text(value) for name, value in entry.items() if name not in OURS}
        texts, image_id = tuple(dict.fromkeys(entry["texts"])), entry.get("image_id", entry["file_name"])
        rows.append(Row(number, path, image_id, texts, extra, *look, entry["is_class"]))
    return rows


def _is_good(root: Path, row: int, entry: dict, report: Report) -> bool:
    """Whether the fields of a row can be used; what is wrong goes into the report."""
    before, name = len(report.found), entry["file_name"]
    try:
        json.dumps(entry, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        report.add(row, "holds a character that is not valid Unicode (a lone surrogate)", ascii(name))
        return False
    if not _is_visible(name):
        report.add(row, f"file_name must be the path of a picture, not {name!r}")
    elif problem := _path_problem(root, name):
        report.add(row, problem, name)
    for text in entry["texts"] or [None]:
        if not _is_visible(text):
            report.add(row, f"text must say something, not {text!r}; write what the picture shows", name)
    if not _is_visible(entry.get("image_id", "none given")):
        report.add(row, f"image_id must be a string, not {entry['image_id']!r}", name)
    return len(report.found) == before


def _is_visible(value: object) -> bool:
    """A string with more than spaces, byte order marks and other signs that nobody sees."""
    return isinstance(value, str) and any(sign.isprintable() and not sign.isspace() for sign in value)


def _path_problem(root: Path, name: str) -> str | None:
    parts, path = PurePosixPath(name).parts, root / name
    if "\\" in name or name.startswith("/") or PureWindowsPath(name).drive or ".." in parts:
        return "file_name must lead into the folder: write it relative to it, with / and without .."
    try:
        if any(root.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts))):
            return "file_name is or passes a symbolic link; put the file itself into the folder"
        if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):  # Windows has junctions
            return "the picture is missing; add it or correct file_name"
    except (OSError, ValueError) as error:
        return f"file_name cannot be looked up ({error}); rename the picture"
    return None


def _check_unique(entries: list[Entry], report: Report) -> None:
    """No picture under two spellings of its path, no image_id twice."""
    for column in ("file_name", "image_id"):
        first: dict[str, int] = {}
        for row, entry in entries:
            value = entry.get(column, entry["file_name"])
            key = str(PurePosixPath(value)) if column == "file_name" else value
            if first.setdefault(key, row) != row:
                what = f"{column} {value!r} is that of row {first[key]} too; each needs its own"
                report.add(row, what, entry["file_name"])


def _look(path: Path) -> tuple[np.ndarray, str] | str:
    """Fingerprint and content of a picture, or what is wrong with it."""
    try:
        picture = load_picture(path)
    except Exception as error:  # decoders raise nearly anything for damaged files
        why = str(error).replace(repr(str(path)), "it") or type(error).__name__
        return f"the picture cannot be used ({why}); repair or replace it"
    digest = hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=16)
    return perceptual_hash(picture), digest.hexdigest()


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
