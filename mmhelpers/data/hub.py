"""Data sets from the Hugging Face Hub, or tables of the same layout on disk, as a folder for `folder.py`.

hub:owner/name                              columns found, or known (PRESETS)
hub:owner/name@revision?image=picture&text=caption_0,caption_1&split=train
hub:flickr8k                                a short name
path/to/table.parquet?text=title            a file; also hub:path/to/folder, a copy of a Hub repository
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Features, Image, IterableDataset, List, Value, load_dataset
from huggingface_hub import DatasetCard, HfApi, errors, get_token

from mmhelpers.course.profiles import Profile
from mmhelpers.data.folder import DataError
from mmhelpers.data.images import store_picture, text_bar

OPTIONS = ("image", "text", "negatives", "config", "split", "licence")
PRESETS = {
    "jxie/flickr8k": {"text": ",".join(f"caption_{i}" for i in range(5))},
    "royokong/flickr30k_test": {"text": "text"},
    "Marqo/fashion200k": {"text": "text"},
    "ashraq/fashion-product-images-small": {"text": "productDisplayName"},
    "tomaarsen/llamaindex-vdr-en-train-preprocessed": {
        "text": "query", "negatives": ",".join(f"negative_{i}" for i in range(4)),
    },
    "unsloth/Radiology_mini": {"text": "caption"},
}  # fmt: skip
NAMES = {
    "flickr8k": "jxie/flickr8k",
    "fashion": "Marqo/fashion200k",
    "documents": "tomaarsen/llamaindex-vdr-en-train-preprocessed",
    "radiology": "unsloth/Radiology_mini",
}
SHUFFLED = 1000  # rows held at a time, out of which chance takes the next
USUAL_TEXTS = ("text", "caption", "captions", "query")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        place: a Hub id, a folder of that layout, or a Parquet file. revision: of a Hub id.
        options: of OPTIONS those that are given; several columns with commas between.
    """

    place: str
    revision: str | None
    options: Mapping[str, str]

    @classmethod
    def of(cls, place: str, options: Mapping[str, str]) -> Request:
        """From the source without and with what stands behind the question mark.

        Raises: DataError for an unknown option.
        """
        if unknown := sorted(options.keys() - set(OPTIONS)):
            raise DataError(place, [f"there is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}"])
        name = place.removeprefix("hub:")
        if Path(name).exists() or name.endswith(".parquet"):
            return cls(name, None, options)
        name, _, revision = NAMES.get(name, name).partition("@")
        return cls(name, revision or None, {**PRESETS.get(name, {}), **options})

    @property
    def local(self) -> Path | None:
        """The folder that pictures may lie in, None for the Hub."""
        path = Path(self.place)
        return path if path.is_dir() else path.parent if self.place.endswith(".parquet") else None

    def columns(self, option: str) -> list[str]:
        """The columns that an option names."""
        return [name for name in self.options.get(option, "").split(",") if name]


def gather(place: str, options: Mapping[str, str], profile: Profile, cache: Path) -> Path:
    """Stream as many rows as the profile takes into a folder for `folder.read_folder`; once.

    Rows with the same picture become one with several texts. Pictures are kept as the course uses them
    (`pictures.store_picture`); rows that cannot be used are counted and named. What a data set allows is
    printed before any of it is fetched.

    Args:
        place, options: "hub:owner/name" and the like, and what follows the question mark.
        cache: where the folders go.
    Raises: DataError for all that can be wrong: the id, access, the network, the licence, the columns.
    """
    request, limit = Request.of(place, options), profile.n_train + profile.n_validation + profile.n_test
    key = [request.place, request.revision, sorted(request.options.items()), limit, profile.seed]
    if (file := Path(request.place)).is_file():
        key += [file.stat().st_size, file.stat().st_mtime_ns]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]
    name = re.sub(r"[^\w.-]+", "-", Path(request.place).name if request.local else request.place)
    folder = cache / f"{name}-{digest}"
    if (folder / "metadata.jsonl").is_file():
        with open(folder / "metadata.jsonl", encoding="utf-8") as rows:
            first = json.loads(rows.readline())
        print(f"{request.place}: licence {first['licence']}; fetched before, in {folder.name}", flush=True)
        return folder
    with _in_plain_words(request.place):
        licence, commit = _licence(request)
        print(f"{request.place} {commit[:12]}: licence {licence}", flush=True)
        dataset = _opened(request, commit)
        part = cache / f".{folder.name}.new"
        shutil.rmtree(part, ignore_errors=True)
        (part / "images").mkdir(parents=True)
        kept = _Kept(part, request, dataset.features)
        rows = dataset.shuffle(seed=profile.seed, buffer_size=SHUFFLED)
        for number, row in enumerate(text_bar(rows, "fetching rows", limit), 1):
            kept.add(number, row)
            if len(kept.rows) == limit:
                break
    origin = Path(request.place).name if request.local else request.place  # no path of this disk travels
    kept.write({"source": origin, "source_commit": commit, "licence": licence})
    part.rename(folder)
    return folder


def _licence(request: Request) -> tuple[str, str]:
    """The licence on the card, and the commit that it stands for; "" for what lies on this disk."""
    if request.place.endswith(".parquet"):
        return request.options.get("licence", "not stated"), ""
    if request.local:
        readme, commit = request.local / "README.md", ""
        card = DatasetCard.load(readme).data if readme.is_file() else None
    else:
        info = HfApi().dataset_info(request.place, revision=request.revision)
        card, commit = info.card_data, info.sha
    stated = [getattr(card, "license", None), getattr(card, "license_name", None)]
    words = [word for value in stated for word in (value if isinstance(value, list) else [value])]
    known = [word for word in words if word and word not in ("unknown", "other")]
    if not known and not request.options.get("licence"):
        what = "its card states no licence; ask its authors what you may do with it, then add licence=..."
        raise DataError(request.place, [f"{what} with what they said (behind a ?, or a & after others)"])
    return ", ".join(known) or f"{request.options['licence']} (yours to know; the card has none)", commit


def _opened(request: Request, commit: str) -> IterableDataset:
    """The rows as a stream, with pictures as their bytes."""
    if request.place.endswith(".parquet"):
        found = load_dataset("parquet", data_files=request.place, streaming=True)
    else:
        found = load_dataset(
            request.place, request.options.get("config"), revision=commit or None, streaming=True
        )
    split = request.options.get("split") or ("train" if "train" in found else next(iter(found)))
    if split not in found:
        raise DataError(request.place, [f"has no split {split!r}; there are {', '.join(found)}"])
    dataset = found[split]
    if dataset.features is None:
        what = "its rows are text, as CSV or JSON, without pictures; download it, and give the file as DATA"
        raise DataError(request.place, [what])
    for column in dataset.column_names:
        if isinstance(dataset.features[column], Image):
            dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


@dataclass
class _Kept:
    """What is kept of the rows: pictures under their content's name, texts and near misses by picture."""

    folder: Path
    request: Request
    features: Features
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find the columns. Raises: DataError that lists them."""
        pictures = [name for name, kind in self.features.items() if _holds_pictures(kind, self.request)]
        usual = [name for name in USUAL_TEXTS if name in self.features]
        self.images = self.request.columns("image") or [n for n in pictures if n == "image"] or pictures[:1]
        self.texts = self.request.columns("text") or usual[:1]
        self.negatives = self.request.columns("negatives")
        problems = [
            f"has no column {name!r}"
            for name in (*self.images, *self.texts, *self.negatives)
            if name not in self.features
        ]
        problems += [
            f"column {name!r} holds no pictures"
            for name in (*self.images, *self.negatives)
            if name in self.features and name not in pictures
        ]
        problems += [] if len(self.images) == 1 else ["image=... must name the column with the pictures"]
        problems += [] if self.texts else ["text=... must name the column with the texts"]
        if problems:
            columns = ", ".join(f"{name} ({_kind(kind)})" for name, kind in self.features.items())
            raise DataError(self.request.place, [*problems, f"its columns are {columns}"])

    def add(self, number: int, row: dict[str, Any]) -> None:
        try:
            texts = [text for column in self.texts for text in self._texts(column, row[column])]
            if not texts:
                raise ValueError("it has no text")
            name = self._store(row[self.images[0]])
            near = [self._store(row[column]) for column in self.negatives if row[column] is not None]
        except Exception as error:  # decoders raise nearly anything for damaged files
            self.left_out.append(f"row {number}: {str(error) or type(error).__name__}")
            return
        entry = self.rows.setdefault(name, {"texts": [], "negatives": []})
        entry["texts"] += [text for text in texts if text not in entry["texts"]]
        entry["negatives"] += [other for other in near if other not in (name, *entry["negatives"])]

    def write(self, about: dict[str, str]) -> None:
        """The metadata; says what was left out. Raises: DataError where nothing is left."""
        if not self.rows:
            first = self.left_out[:5] or ["it has no rows"]
            raise DataError(self.request.place, [f"no row of it can be used; {line}" for line in first])
        if self.left_out:
            first = "\n    ".join(self.left_out[:5])
            print(f"{len(self.left_out):,} rows cannot be used, the first of them:\n    {first}", flush=True)
        is_class = all(isinstance(self.features[column], ClassLabel) for column in self.texts)
        with open(self.folder / "metadata.jsonl", "w", encoding="utf-8", newline="\n") as out:
            for name, entry in self.rows.items():
                text, *others = entry["texts"]
                row = {"file_name": name, "label" if is_class else "text": text}
                row |= {"texts": others} if others else {}
                row |= {"negatives": entry["negatives"]} if self.negatives else {}
                out.write(json.dumps(row | about, ensure_ascii=False) + "\n")

    def _texts(self, column: str, value: Any) -> Iterator[str]:
        kind = self.features[column]
        for text in value if isinstance(value, list) else [value]:
            if isinstance(kind, ClassLabel):
                yield kind.int2str(text).replace("_", " ")
            elif isinstance(text, str) and text.strip():
                yield text.strip()

    def _store(self, value: Any) -> str:
        raw = _raw(value, self.request)
        name = f"images/{hashlib.blake2b(raw, digest_size=10).hexdigest()}"
        if found := next((self.folder / "images").glob(f"{Path(name).name}.*"), None):
            return f"images/{found.name}"
        lossy = raw[:2] == b"\xff\xd8" or raw[8:12] == b"WEBP"
        given = self.folder / f"given{'.jpg' if lossy else '.png'}"
        given.write_bytes(raw)
        stored = store_picture(given, self.folder / name)
        given.unlink()
        return f"images/{stored.name}"


def _holds_pictures(kind: Any, request: Request) -> bool:
    """Whether a column can be read as pictures; names of files are believed on this disk only."""
    if isinstance(kind, dict):
        return "bytes" in kind
    path = isinstance(kind, Value) and kind.dtype in ("string", "large_string")
    binary = isinstance(kind, Value) and kind.dtype in ("binary", "large_binary")
    return isinstance(kind, Image) or binary or (path and request.local is not None)


def _kind(kind: Any) -> str:
    if isinstance(kind, List):
        return f"list of {_kind(kind.feature)}"
    return kind.dtype if isinstance(kind, Value) else type(kind).__name__


def _raw(value: Any, request: Request) -> bytes:
    """The bytes of a picture. A path must lie in the data set, or a row could name any file on this disk."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, dict):
        value = {"path": value, "bytes": None}
    if value["bytes"] is not None:
        return value["bytes"]
    path = value["path"]
    if not path:
        raise ValueError("it has no picture")
    if request.local is None and path.startswith(f"hf://datasets/{request.place}@"):
        out = io.BytesIO()
        Image().decode_example(value).save(out, "PNG")
        return out.getvalue()
    home = request.local and request.local.resolve()
    if home is None or not (home / path).resolve().is_relative_to(home):
        raise ValueError(f"it names a file outside of the data set, {path}")
    return (home / path).read_bytes()


@contextmanager
def _in_plain_words(place: str) -> Iterator[None]:
    """Errors of the libraries as a DataError; a token is never part of it."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(place, [_explained(error)]) from None  # the chain might show a request's headers


def _explained(error: Exception) -> str:
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    for secret in filter(None, [get_token(), *re.findall(r"hf_\w{8,}", said)]):
        said = said.replace(secret, "hf_...")
    if isinstance(error, errors.HFValidationError):
        return f"is not an id such as owner/name, nor one of {', '.join(NAMES)}"
    if "scripts are no longer supported" in said:
        return "it comes as a program, which is not run; look for a copy of it in Parquet"
    return refusal(error, "data set") or f"{type(error).__name__}: {said}"


def refusal(error: BaseException, what: str) -> str | None:
    """What an answer of the Hub means, or that it gives none, and what to do; None for any other error.

    Args:
        error: as a library raised it; what it was raised from counts too.
        what: was asked for, "data set" or "model".
    """
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or "is a gated dataset" in str(error):
        return f"it is gated: ask for access on its page on the Hub, then {log_in}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision; write owner/name@branch, tag or commit"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such {what}, or it is private, or the token is wrong; check the id, or {log_in}"
    if isinstance(error, errors.HFValidationError):
        return "it is no id such as owner/name"
    if status in (401, 403):
        return f"the Hub refuses the token (status {status}); {log_in}"
    if status == 429:
        return f"the Hub asks to slow down (status 429); wait some minutes, or {log_in}"
    unreached = ("ConnectError", "ConnectTimeout", "ReadTimeout")  # of httpx, whichever huggingface_hub has
    if isinstance(error, ConnectionError) or type(error).__name__ in unreached:
        return f"the Hub cannot be reached ({type(error).__name__}); check the network, or HF_HUB_OFFLINE"
    return refusal(error.__cause__, what) if error.__cause__ else None
