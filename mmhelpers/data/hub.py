"""Data sets of the Hugging Face Hub, and tables of the same kind on disk, as a folder for `read_folder`.

hub:owner/name                              columns found by their usual names
hub:owner/name@revision?image=picture&text=caption_0,caption_1&config=...&split=train
table.parquet, a folder of such files, a folder from save_to_disk: likewise, without "hub:"
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import fsspec
from datasets import ClassLabel, Image, IterableDataset
from huggingface_hub import HfApi, errors, get_token

from mmhelpers.course.profiles import Profile
from mmhelpers.data.images import store_picture, text_bar
from mmhelpers.data.problems import DataError, Report
from mmhelpers.data.tables import choose_columns, find_table

OPTIONS = ("image", "text", "config", "split")
SHUFFLED = 1000  # rows held at a time, out of which chance takes the next
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
MEANINGS = {
    errors.GatedRepoError: f"it is gated: ask for access on its page on the Hub, then {LOG_IN}",
    errors.RevisionNotFoundError: "it has no such revision; write owner/name@branch, tag or commit",
    errors.RepositoryNotFoundError: f"there is no such {{}}, or it is private; check the id, or {LOG_IN}",
    errors.HFValidationError: "it is not an id such as owner/name",
    401: f"the Hub refuses the token; {LOG_IN}",
    403: f"the Hub refuses the token; {LOG_IN}",
    429: f"the Hub asks to slow down (status 429); wait some minutes, or {LOG_IN}",
    ConnectionError: "the Hub cannot be reached; check the network, or HF_HUB_OFFLINE",
}
UNREACHED = ("ConnectError", "ConnectTimeout", "ReadTimeout")  # of httpx, whichever huggingface_hub has


def handles(place: str) -> bool:
    """Whether a source is one of these forms, and not an ordinary folder or table."""
    path = Path(place)
    if place.startswith("hub:") or path.suffix == ".parquet" or _is_saved(path):
        return True
    parquet = any([*path.glob("*.parquet"), *path.glob("data/*.parquet")]) if path.is_dir() else False
    return parquet and find_table(path) == path


def gather(place: str, options: Mapping[str, str], profile: Profile, cache: Path) -> Path:
    """Stream as many rows as the profile takes into a folder for `read_folder`; from the Hub only once.

    Rows with the same picture become one with several texts. Pictures are kept as the course uses them
    (`store_picture`); rows that cannot be used are counted and named. The licence is printed first.

    Args:
        place, options: "hub:owner/name" and the like, and what follows the question mark (OPTIONS).
        cache: where the folders go.

    Returns: the folder, with metadata.jsonl and images/.
    Raises: DataError for all that can be wrong: the id, access, the network, the columns.
    """
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise DataError(place, [f"there is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}"])
    fetched, name = place.startswith("hub:"), shown(place)
    limit = profile.n_train + profile.n_validation + profile.n_test
    digest = hashlib.sha256(json.dumps([place, sorted(options.items()), limit, profile.seed]).encode())
    folder = cache / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{digest.hexdigest()[:10]}"
    if fetched and folder.is_dir():
        print(f"{name}: fetched before, in {folder.name}", flush=True)
        return folder
    part = cache / f".{folder.name}.new"
    for left in (part, folder):  # of a run that was stopped; of a table on disk, which may have changed
        shutil.rmtree(left, ignore_errors=True)
    (part / "images").mkdir(parents=True)
    with as_data_error(name):
        about = _about(place) if fetched else {"source": name}
        if fetched:
            where = {"revision": about["source_commit"], "streaming": True}
            splits = datasets.load_dataset(name, options.get("config"), **where)
        else:
            splits = _local(Path(place))
        rows = _split(splits, options).shuffle(seed=profile.seed, buffer_size=SHUFFLED)
        lines = [json.dumps(row | about, ensure_ascii=False) for row in _kept(rows, options, limit, part, name)]
        (part / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    part.rename(folder)
    return folder


def shown(place: str) -> str:
    """A source's name as it may travel: the id without its revision, or the name of a file or folder."""
    return place.removeprefix("hub:").partition("@")[0] if place.startswith("hub:") else Path(place).name


def _about(place: str) -> dict[str, str]:
    """Source, commit, and the licence on the card of that commit."""
    name, _, revision = place.removeprefix("hub:").partition("@")
    info = HfApi().dataset_info(name, revision=revision or None)
    stated = [getattr(info.card_data, key, None) for key in ("license", "license_name")]
    words = [word for value in stated for word in (value if isinstance(value, list) else [value])]
    licence = ", ".join(word for word in words if word and word not in ("unknown", "other"))
    licence = licence or "not stated; ask its authors what you may do with it"
    print(f"{name} {info.sha[:12]}: licence {licence}", flush=True)
    return {"source": name, "source_commit": info.sha, "licence": licence}


def _local(place: Path) -> dict[str, IterableDataset]:
    if _is_saved(place):
        found = datasets.load_from_disk(str(place))
        found = {"train": found} if isinstance(found, datasets.Dataset) else found
        return {split: rows.to_iterable_dataset() for split, rows in found.items()}
    files = {"data_files": str(place)} if place.is_file() else {"data_dir": str(place)}
    return datasets.load_dataset("parquet", **files, streaming=True)


def _split(found: Mapping[str, IterableDataset], options: Mapping[str, str]) -> IterableDataset:
    """The rows of the chosen split as a stream, with pictures as their bytes or paths."""
    split = options.get("split") or ("train" if "train" in found else next(iter(found)))
    if split not in found:
        raise ValueError(f"it has no split {split!r}; there are {', '.join(found)}")
    if found[split].features is None:
        raise ValueError("its rows are CSV or JSON; download it, and give the file as DATA")
    return found[split].decode(False)  # first of all: what is built on it would decode pictures again


def _kept(rows: IterableDataset, options: Mapping[str, str], limit: int, folder: Path, name: str) -> Iterator[dict]:
    """Store the first `limit` different pictures; a row of metadata for each row that can be used."""
    kinds, report = rows.features, Report(Path(name))
    pictures = [column for column, kind in kinds.items() if isinstance(kind, Image | dict)]
    image, columns = choose_columns(list(kinds), options, report, pictures)
    if image in kinds and not (image in pictures or getattr(kinds[image], "dtype", "").endswith("binary")):
        report.add(0, f"column {image!r} holds no pictures; its columns are {', '.join(kinds)}")
    report.stop_if_whole()
    print(f"pictures from column {image!r}, texts from {', '.join(map(repr, columns))}", flush=True)
    is_class = all(isinstance(kinds[column], ClassLabel) for column in columns)
    rows = rows.cast_column(image, Image(decode=False)).select_columns([image, *columns])
    files: dict[str, str] = {}  # digest of a picture's bytes -> its file
    left_out = []
    for number, row in enumerate(text_bar(rows, "fetching rows", limit), 1):
        try:
            raw, texts = _bytes(row[image], name), [text for c in columns for text in _texts(kinds[c], row[c])]
            digest = hashlib.blake2b(raw, digest_size=10).hexdigest()
            if not texts:
                raise ValueError("it has no text")
            if digest not in files:
                files[digest] = f"images/{store_picture(raw, folder / 'images' / digest).name}"
        except Exception as error:  # decoders raise nearly anything for damaged files
            left_out.append(f"row {number}: {str(error) or type(error).__name__}")
            continue
        yield {"file_name": files[digest]} | ({"label": texts[0]} if is_class else {"text": texts})
        if len(files) == limit:
            break
    if not files:
        raise ValueError(f"no row of it can be used; {'; '.join(left_out[:5]) or 'it has none'}")
    if left_out:
        print(f"{len(left_out):,} rows cannot be used, the first:", *left_out[:5], sep="\n    ")


def _is_saved(folder: Path) -> bool:
    """Whether save_to_disk has written this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _bytes(value: Mapping[str, Any] | None, name: str) -> bytes:
    """A picture as it was stored. A path counts within the data set on the Hub alone: others are not the row's."""
    if value and value["bytes"] is not None:
        return value["bytes"]
    path = (value or {}).get("path") or ""
    if not re.match(rf"(zip://[^:]*::)?hf://datasets/{re.escape(name)}@", path):
        raise ValueError(f"it holds no picture {path}".strip())
    with fsspec.open(path) as file:
        return file.read()


def _texts(kind: Any, value: Any) -> list[str]:
    """The texts of a cell: none, one, a list of them, or the name of a class."""
    if isinstance(kind, ClassLabel):
        return [kind.int2str(value).replace("_", " ")]
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def refusal(error: BaseException, what: str) -> str | None:
    """What an error means and what to do, where the Hub refuses or does not answer; None for any other error.

    Args:
        error: as a library raised it; what it was raised from counts too.
        what: was asked for, "data set" or "model".
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    for kind, meaning in MEANINGS.items():
        if kind == status or (isinstance(kind, type) and isinstance(error, kind)):
            return meaning.format(what)
    if "is a gated dataset" in str(error):
        return MEANINGS[errors.GatedRepoError]
    if type(error).__name__ in UNREACHED:
        return MEANINGS[ConnectionError]
    return refusal(error.__cause__, what) if error.__cause__ else None


@contextmanager
def as_data_error(place: str) -> Iterator[None]:
    """Turn errors of the libraries into a DataError that says what to do, and never shows a token."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")
        for secret in filter(None, [get_token(), *re.findall(r"hf_\w{8,}", said)]):
            said = said.replace(secret, "hf_...")
        what = refusal(error, "data set") or (said if type(error) is ValueError else f"{type(error).__name__}: {said}")
        raise DataError(place, [what]) from None  # the chain might show a request's headers
