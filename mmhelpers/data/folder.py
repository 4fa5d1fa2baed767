"""Pictures with text in a folder of the reader's own: all of it is checked before anything is written."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from PIL import Image

from mmhelpers.course.profiles import class_folders
from mmhelpers.data.images import MAX_PIXELS, fingerprint, in_threads, load_picture

N_LISTED = 50
RESERVED = {"image", "spec"}  # the schema of mmhelpers.data fills these
Entry = tuple[int, dict]  # row number and its columns


class DataError(ValueError):
    """Data that cannot be used; `problems` has a line for each thing that is wrong."""

    def __init__(self, where: Path | str, problems: list[str]) -> None:
        self.problems = problems
        count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}"
        more = [f"and {len(problems) - N_LISTED:,} more"] if len(problems) > N_LISTED else []
        lines = [f"{count} in {where}, so it was not used:", *problems[:N_LISTED], *more]
        super().__init__("\n  ".join(lines))


@dataclass(frozen=True, eq=False)
class Row:
    """A row that was checked.

    Args:
        number: of its line; path: of its picture.
        texts: the first is `text`, the others say the same picture in other words.
        extra: its other columns. content: equal for equal pixels.
        is_class: its text names a class, and so belongs to many pictures.
        negatives: pictures that are near misses for its texts, with their content.
    """

    number: int
    path: Path
    image_id: str
    texts: tuple[str, ...]
    extra: dict[str, str]
    fingerprint: np.ndarray
    content: str
    is_class: bool = False
    negatives: tuple[tuple[Path, str], ...] = ()

    @property
    def text(self) -> str:
        """The text of its training pair."""
        return self.texts[0]


class _Report:
    """What is wrong, by row; row 0 is the metadata file as a whole."""

    def __init__(self, metadata: Path) -> None:
        self.metadata, self.found = metadata, []

    def add(self, row: int, what: str, name: object = None) -> None:
        where = [self.metadata.name, *([f"row {row}"] if row else []), *([f"({name})"] if name else [])]
        self.found.append((row, f"{' '.join(where)}: {what}"))

    def stop_if_any(self) -> None:
        if self.found:
            in_order = sorted(self.found, key=lambda found: found[0])
            raise DataError(self.metadata.parent, [line for _, line in in_order])


def read_folder(source: Path | str, columns: Mapping[str, str] | None = None) -> list[Row]:
    """Read and check pictures with their texts.

    Args:
        source: a folder with `metadata.jsonl` or `metadata.csv`; such a file under another name; or an
            ImageFolder without metadata, where the folders' names are classes.
        columns: our name -> the name in the file, where they differ: {"file_name": "path"}.

    The metadata has `file_name` (relative to its folder), `text`, and optionally a unique `image_id` (else
    file_name serves). In place of `text` there may be `label`, the name of a class. JSON may list further
    texts of a picture in `texts`, and the file names of near misses in `negatives`. All columns but the first
    three are kept as text with their row. Every picture is decoded.

    Raises: DataError with everything that is wrong, by row. No row is ever left out silently.
    """
    metadata = _metadata_file(Path(source))
    root, report = (metadata.parent if metadata.is_file() else metadata), _Report(metadata)
    entries = _entries(report, columns or {}) if metadata.is_file() else _class_folders(root)
    if any(row == 0 for row, _ in report.found):
        report.stop_if_any()  # without its columns, every row would only repeat the problem
    checked = [(row, entry) for row, entry in entries if _is_good(root, row, entry, report)]
    _check_unique(entries, report)
    names = [(entry["file_name"], *_listed(entry, "negatives")) for _, entry in checked]
    paths = {name: root / PurePosixPath(name) for own in names for name in own}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd tags; its size limit is above ours
        looks = dict(zip(paths, in_threads(_look, list(paths.values()), "checking pictures"), strict=True))
    rows = []
    for (row, entry), own in zip(checked, names, strict=True):
        problems = [(name, looks[name]) for name in own if isinstance(looks[name], str)]
        for name, what in problems:
            report.add(row, what, name)
        if not problems:
            near = tuple((paths[name], looks[name][1]) for name in own[1:])
            rows.append(_row(row, entry, paths[own[0]], looks[own[0]], near))
    report.stop_if_any()
    return rows


def _row(number: int, entry: dict, path: Path, look: tuple[np.ndarray, str], negatives: tuple) -> Row:
    extra = {k: _as_text(v) for k, v in entry.items() if k not in ("file_name", "image_id", "text")}
    texts = dict.fromkeys([_text(entry), *_listed(entry, "texts")])  # each once
    image_id, is_class = entry.get("image_id", entry["file_name"]), "text" not in entry
    return Row(number, path, image_id, tuple(texts), extra, *look, is_class, negatives)


def _text(entry: dict) -> object:
    return entry.get("text", entry.get("label"))


def _listed(entry: dict, column: str) -> list:
    """A column that is a list in JSON; a plain text of that name is like any other column."""
    return entry[column] if isinstance(entry.get(column), list) else []


def _metadata_file(source: Path) -> Path:
    """The file that describes the pictures, or the folder itself where its folders are classes."""
    if source.is_file() and source.suffix in (".csv", ".jsonl"):
        return source
    if not source.is_dir():
        raise DataError(source.absolute(), ["there is no such folder; check DATA"])
    names = [name for name in ("metadata.jsonl", "metadata.csv") if os.path.lexists(source / name)]
    if len(names) == 1 and (source / names[0]).is_file() and not (source / names[0]).is_symlink():
        return source / names[0]
    if not names and class_folders(source):
        return source
    if not names:
        what = "there is no metadata.jsonl or metadata.csv; write one with file_name and text a picture"
    elif len(names) == 2:
        what = "there are both metadata.jsonl and metadata.csv; keep one of them"
    else:
        what = f"{names[0]} is a symbolic link or not a file; put the file itself there"
    raise DataError(source, [what])


def _class_folders(root: Path) -> list[Entry]:
    """The rows of an ImageFolder as `datasets` reads it; the classes' names without their underscores."""
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    try:
        found = load_dataset("imagefolder", data_dir=str(root), streaming=True)
        splits = [split.cast_column("image", ImageFeature(decode=False)) for split in found.values()]
        names = [(row, split.features["label"].names) for split in splits for row in split]
    except (KeyError, FileNotFoundError, ValueError) as error:  # no classes, no pictures
        what = "there is no metadata.jsonl or metadata.csv, and its folders are not one for each class"
        raise DataError(
            root, [f"{what}; write a metadata.jsonl with file_name and text a picture"]
        ) from error
    files = [Path(row["image"]["path"]).relative_to(root.resolve()).as_posix() for row, _ in names]
    labels = [classes[row["label"]].replace("_", " ") for row, classes in names]
    pairs = enumerate(zip(files, labels, strict=True), 1)
    return [(number, {"file_name": file, "label": label}) for number, (file, label) in pairs]


def _entries(report: _Report, renamed: Mapping[str, str]) -> list[Entry]:
    raw = report.metadata.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        report.add(0, "is UTF-16; save it as UTF-8 (in Excel: 'CSV UTF-8')")
        return []
    parse = _jsonl if report.metadata.suffix == ".jsonl" else _csv
    entries = list(parse(raw.removeprefix(b"\xef\xbb\xbf"), report))
    columns = list(dict.fromkeys(column for _, entry in entries for column in entry))
    if not entries and not report.found:
        report.add(0, "has no rows; write one for every picture, with file_name and text")
    for column in [renamed.get(column, column) for column in ("file_name", "text")] if entries else []:
        if column not in columns and (column, "label" in columns) != ("text", True):
            report.add(0, f"has no column {column!r}; its columns are {', '.join(map(repr, columns))}")
    ours = {theirs: name for name, theirs in renamed.items()}
    for column in sorted(RESERVED.intersection(columns) - ours.keys()):
        report.add(0, f"has a column {column!r}, a name that is taken; rename the column")
    return [(row, {ours.get(name, name): value for name, value in entry.items()}) for row, entry in entries]


def _jsonl(raw: bytes, report: _Report) -> Iterator[Entry]:
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


def _csv(raw: bytes, report: _Report) -> Iterator[Entry]:
    """Rows are counted as a spreadsheet shows them: the header is row 1."""
    try:
        reader = csv.reader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        report.add(0, f"is not UTF-8 from line {line} on; save it as UTF-8 (in Excel: 'CSV UTF-8')")
        return
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
            report.add(row, f"has {len(cells)} cells, the header {len(header)}; quote cells with commas")
        elif cells:
            yield row, dict(zip(header, cells, strict=True))


def _is_good(root: Path, row: int, entry: dict, report: _Report) -> bool:
    """Whether the fields of a row can be used; what is wrong goes into the report."""
    before, name, text = len(report.found), entry.get("file_name"), _text(entry)
    try:
        json.dumps(entry, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        report.add(row, "holds half a character (a lone surrogate); write it anew", ascii(name))
        return False
    if not _has_ink(name):
        report.add(row, f"file_name must be the path of a picture, not {name!r}")
    elif problem := _path_problem(root, name):
        report.add(row, problem, name)
    if not _has_ink(text):
        report.add(row, f"text must say something, not {text!r}; write what the picture shows", name)
    for other in _listed(entry, "texts"):
        if not _has_ink(other):
            report.add(row, f"texts must be a list of texts that say something, not {other!r}", name)
    for other in _listed(entry, "negatives"):
        problem = _path_problem(root, other) if _has_ink(other) else "is no path of a picture"
        if problem:
            report.add(row, f"negatives: {problem}", other)
    if not _has_ink(entry.get("image_id", "none given")):
        report.add(row, f"image_id must be a string, not {entry['image_id']!r}", name)
    return len(report.found) == before


def _has_ink(value: object) -> bool:
    """Not only spaces, byte order marks and other signs that nobody sees."""
    return isinstance(value, str) and any(sign.isprintable() and not sign.isspace() for sign in value)


def _path_problem(root: Path, name: str) -> str | None:
    parts = PurePosixPath(name).parts
    if "\\" in name:
        return "file_name has a backslash; write the path with /"
    if name.startswith("/") or PureWindowsPath(name).drive:
        return "file_name is an absolute path; write it relative to the folder"
    if ".." in parts:
        return "file_name leaves the folder; put the picture inside and write its path without .."
    path = root
    try:
        for part in parts:
            path = path / part
            if path.is_symlink():
                return f"{part} is a symbolic link; put the file itself into the folder"
        if not path.exists():
            return "the picture is missing; add it or correct file_name"
        if not path.is_file():
            return "file_name is not a file; name a picture"
        if not path.resolve().is_relative_to(root.resolve()):  # Windows has junctions beside symbolic links
            return "file_name leaves the folder; put the file itself into the folder"
    except (OSError, ValueError) as error:
        return f"file_name cannot be looked up ({error}); rename the picture"
    return None


def _check_unique(entries: list[Entry], report: _Report) -> None:
    for column in ("file_name", "image_id") if any("image_id" in e for _, e in entries) else ("file_name",):
        first: dict[str, int] = {}
        for row, entry in entries:
            if _has_ink(value := entry.get(column, entry.get("file_name"))):
                key = str(PurePosixPath(value)) if column == "file_name" else value
                if first.setdefault(key, row) != row:
                    report.add(row, f"{column} is that of row {first[key]} too; each needs its own", value)


def _look(path: Path) -> tuple[np.ndarray, str] | str:
    """Fingerprint and content of a picture, or what is wrong with it."""
    try:
        picture, _ = load_picture(path)
    except Image.DecompressionBombError:
        return f"the picture is gigantic, the limit is {MAX_PIXELS // 10**6} million pixels; reduce it"
    except Exception as error:  # decoders raise nearly anything for damaged files
        why = str(error).replace(repr(str(path)), "it") or type(error).__name__
        return f"the picture cannot be used ({why}); repair or replace it"
    digest = hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=16)
    return fingerprint(picture), digest.hexdigest()


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
