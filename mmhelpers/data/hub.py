"""Data sets of the Hugging Face Hub, and tables of the same kind on disk, as a folder for `read_folder`.

hub:owner/name                              columns found, or known (KNOWN_COLUMNS)
hub:owner/name@revision?image=picture&text=caption_0,caption_1&split=train
hub:flickr8k                                a short name
table.parquet, a copy of a Hub repository, a folder from save_to_disk: likewise, without "hub:"
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import fsspec
from datasets import ClassLabel, Image, IterableDataset
from huggingface_hub import DatasetCard, HfApi

from mmhelpers.course.profiles import Profile
from mmhelpers.data.hub_errors import as_data_error
from mmhelpers.data.images import store_picture, text_bar
from mmhelpers.data.problems import DataError, Report
from mmhelpers.data.tables import choose_columns

OPTIONS = ("image", "text", "config", "split", "licence")
SHORT_NAMES = {
    "flickr8k": "jxie/flickr8k",
    "fashion": "Marqo/fashion200k",
    "documents": "tomaarsen/llamaindex-vdr-en-train-preprocessed",
    "radiology": "unsloth/Radiology_mini",
}
KNOWN_COLUMNS = {"ashraq/fashion-product-images-small": {"text": "productDisplayName"}}  # unusual ones
SHUFFLED = 1000  # rows held at a time, out of which chance takes the next
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes


def handles(place: str) -> bool:
    """Whether a source is one of these forms, and not an ordinary folder or table."""
    return place.startswith("hub:") or _is_saved(Path(place)) or bool(_parquet_files(Path(place)))


def gather(place: str, options: Mapping[str, str], profile: Profile, cache: Path) -> Path:
    """Stream as many rows as the profile takes into a folder for `folder.read_folder`; from the Hub once.

    Rows with the same picture become one with several texts. Pictures are kept as the course uses them
    (`images.store_picture`); rows that cannot be used are counted and named. What a data set allows is
    printed before any of it is fetched.

    Args:
        place, options: "hub:owner/name" and the like, and what follows the question mark (OPTIONS).
        cache: where the folders go.

    Returns:
        The folder, with metadata.jsonl and images/.

    Raises:
        DataError: for all that can be wrong: the id, access, the network, the licence, the columns.
    """
    source = _Source.of(place, options)
    limit = profile.n_train + profile.n_validation + profile.n_test
    asked = json.dumps([source.name, source.revision, sorted(source.options.items()), limit, profile.seed])
    digest = hashlib.sha256(asked.encode()).hexdigest()[:10]
    folder = cache / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', source.shown)}-{digest}"
    if source.local is None and folder.is_dir():
        print(f"{source.shown}: fetched before, in {folder.name}", flush=True)
        return folder
    part = cache / f".{folder.name}.new"
    for left in (part, folder):  # of a run that was stopped; of a table on disk, which may have changed
        shutil.rmtree(left, ignore_errors=True)
    (part / "images").mkdir(parents=True)
    with as_data_error(source.shown):
        about = source.about()
        rows = source.rows(about["source_commit"]).shuffle(seed=profile.seed, buffer_size=SHUFFLED)
        lines = [json.dumps(row | about, ensure_ascii=False) for row in source.kept(rows, limit, part)]
        (part / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    part.rename(folder)
    return folder


@dataclass(frozen=True)
class _Source:
    """What is asked for: an id on the Hub with a revision, or a folder or file of this disk."""

    name: str
    revision: str
    local: Path | None
    options: Mapping[str, str]

    @classmethod
    def of(cls, place: str, options: Mapping[str, str]) -> _Source:
        if unknown := sorted(options.keys() - set(OPTIONS)):
            raise DataError(place, [f"there is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}"])
        name = place.removeprefix("hub:")
        if Path(name).exists():
            return cls(str(Path(name).resolve()), "", Path(name).resolve(), options)
        name, _, revision = SHORT_NAMES.get(name, name).partition("@")
        return cls(name, revision, None, {**KNOWN_COLUMNS.get(name, {}), **options})

    @property
    def shown(self) -> str:
        """Its name as it may travel: without the path on this disk."""
        return self.local.name if self.local else self.name

    def about(self) -> dict[str, str]:
        """Source, commit ("" for what lies on this disk) and the licence on the card of that commit."""
        commit, card = "", None
        if self.local is None:
            info = HfApi().dataset_info(self.name, revision=self.revision or None)
            card, commit = info.card_data, info.sha
        elif (self.local / "README.md").is_file():
            card = DatasetCard.load(self.local / "README.md").data
        stated = [getattr(card, "license", None), getattr(card, "license_name", None)]
        words = [word for value in stated for word in (value if isinstance(value, list) else [value])]
        licence = ", ".join(word for word in words if word and word not in ("unknown", "other"))
        licence = licence or self.options.get("licence", "")
        if not licence and self.local is None:
            what = "its card states no licence; ask its authors what you may do with it, then add licence=..."
            raise DataError(self.shown, [f"{what} with what they said (behind a ?, or a & after others)"])
        print(f"{self.shown} {commit[:12]}: licence {licence or 'not stated'}", flush=True)
        return {"source": self.shown, "source_commit": commit, "licence": licence or "not stated"}

    def rows(self, commit: str) -> IterableDataset:
        """The rows of the chosen split as a stream, with pictures as their bytes or paths."""
        if self.local and _is_saved(self.local):
            found = datasets.load_from_disk(self.name)
            found = {"train": found} if isinstance(found, datasets.Dataset) else found
            found = {split: rows.to_iterable_dataset() for split, rows in found.items()}
        elif self.local and not (self.local / "README.md").is_file():
            found = datasets.load_dataset("parquet", data_files=_parquet_files(self.local), streaming=True)
        else:
            config, revision = self.options.get("config"), commit or None
            found = datasets.load_dataset(self.name, config, revision=revision, streaming=True)
        split = self.options.get("split") or ("train" if "train" in found else next(iter(found)))
        if split not in found:
            raise DataError(self.shown, [f"has no split {split!r}; there are {', '.join(found)}"])
        if found[split].features is None:
            what = "its rows are text, as CSV or JSON; download it, and give the file as DATA"
            raise DataError(self.shown, [what])
        return found[split].decode(False)  # first of all: what is built on it would decode pictures again

    def columns(self, features: Mapping[str, Any]) -> tuple[str, list[str]]:
        """The column with pictures and those with texts. Raises: DataError that lists all columns."""
        dtypes = {name: str(getattr(kind, "dtype", kind)) for name, kind in features.items()}
        pictures = [name for name, kind in features.items() if isinstance(kind, Image | dict)]
        report = Report(Path(self.shown))
        image, texts = choose_columns(list(features), self.options, report, pictures)
        # File names are believed on this disk only; on the Hub they would be addresses of somewhere else.
        as_file = dtypes.get(image, "").endswith(("binary", "string") if self.local else "binary")
        if image in features and not (image in pictures or as_file):
            report.add(0, f"column {image!r} holds no pictures; its columns are {', '.join(features)}")
        report.stop_if_whole()
        print(f"pictures from column {image!r}, texts from {', '.join(map(repr, texts))}", flush=True)
        return image, texts

    def kept(self, rows: IterableDataset, limit: int, folder: Path) -> Iterator[dict]:
        """Store the first `limit` different pictures; a row of metadata for each row that can be used."""
        image, columns = self.columns(rows.features)
        kinds = {name: rows.features[name] for name in columns}
        is_class = all(isinstance(kind, ClassLabel) for kind in kinds.values())
        rows = rows.cast_column(image, Image(decode=False)).select_columns([image, *columns])
        files: dict[str, str] = {}  # digest of a picture's bytes -> its file
        left_out = []
        for number, row in enumerate(text_bar(rows, "fetching rows", limit), 1):
            try:
                texts = [text for name in columns for text in _texts(kinds[name], row[name])]
                if not texts:
                    raise ValueError("it has no text")
                raw = self.read(row[image])
                digest = hashlib.blake2b(raw, digest_size=10).hexdigest()
                if digest not in files:
                    files[digest] = f"images/{_stored(raw, folder / 'images' / digest)}"
            except Exception as error:  # decoders raise nearly anything for damaged files
                left_out.append(f"row {number}: {str(error) or type(error).__name__}")
                continue
            found = {"label": texts[0], "texts": texts[1:]} if is_class else {"text": texts}
            yield {"file_name": files[digest]} | found
            if len(files) == limit:
                break
        first = left_out[:5] or ["it has no rows"]
        if not files:
            raise DataError(self.shown, [f"no row of it can be used; {line}" for line in first])
        if left_out:
            print(f"{len(left_out):,} rows cannot be used, the first of them:", *first, sep="\n    ")

    def read(self, value: Mapping[str, Any] | None) -> bytes:
        """A picture as it was stored. Raises: ValueError for a path outside the data set."""
        if value and value["bytes"] is not None:
            return value["bytes"]
        if not value or not (path := value["path"]):
            raise ValueError("it has no picture")
        if self.local:
            home = self.local if self.local.is_dir() else self.local.parent
            path = str((home / path).resolve())
            inside = Path(path).is_relative_to(home)
        else:  # a file there, perhaps in an archive; else a row could name any file of this disk
            inside = re.fullmatch(rf"(zip://[^:]*::)?hf://datasets/{re.escape(self.name)}@[^:]*", path)
        if not inside:
            raise ValueError(f"it names a file outside of the data set, {value['path']}")
        with fsspec.open(path) as file:
            return file.read()


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SAVED)


def _parquet_files(place: Path) -> list[str]:
    """A Parquet file itself, or those of a folder without a table of another kind, as on the Hub."""
    if place.is_file():
        return [str(place)] if place.suffix == ".parquet" else []
    tables = [*place.glob("*.jsonl"), *place.glob("*.csv")]
    return [] if tables else sorted(map(str, [*place.glob("*.parquet"), *place.glob("data/*.parquet")]))


def _texts(kind: Any, value: Any) -> list[str]:
    """The texts of a cell: none, one, a list of them, or the name of a class."""
    if isinstance(kind, ClassLabel):
        return [kind.int2str(value).replace("_", " ")]
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def _stored(raw: bytes, target: Path) -> str:
    """Keep a picture as the course uses it; returns the name of its file."""
    given = target.with_name("given.jpg" if raw[:2] == b"\xff\xd8" or raw[8:12] == b"WEBP" else "given.png")
    given.write_bytes(raw)
    try:
        return store_picture(given, target).name
    finally:
        given.unlink()
