"""One schema for every source of pictures with text, and how it is kept in a folder that may be moved.

images/                                             the pictures, flat
train.parquet, validation.parquet, test.parquet     file_name, image_id, text, spec, other columns
collection.json                                     name, licence, has_specs; queries, qrels, slices by split
README.md                                           the data card
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Image, Value

from mmhelpers.course.profiles import SHOP, Profile, downloads, with_options
from mmhelpers.data import figures, hub
from mmhelpers.data.folder import DataError, Row, read_folder
from mmhelpers.data.images import close_pairs, fingerprint, in_threads, load_picture, store_picture, text_bar
from mmhelpers.data.splits import LOOKS_ALIKE, MIN_ROWS, SPLITS, plain, split_rows  # noqa: F401
from mmhelpers.shop import stock as shop
from mmhelpers.shop.draw import draw
from mmhelpers.shop.spec import Scene

SCHEMA = ("image", "image_id", "text", "spec")
PER_CLASS = 100  # pictures of a class whose label is a training query: each is answered by all of the class


@dataclass(frozen=True)
class Retrieval:
    """The ground truth of one split.

    Args:
        queries: query id -> text.
        corpus: image id -> path of the picture.
        qrels: query id -> image id -> grade; what is not there has grade 0.
        slices: name -> query ids; "all" goes without saying.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, int]]
    slices: dict[str, list[str]]


@dataclass(frozen=True)
class Collection:
    """Pictures with text and their truth.

    Args:
        splits: train, validation, test with the columns image (a reference to a file), image_id, text,
            spec ("" where the structured truth is unknown), and what else the source knows of a row.
        truth: by split, each over the pictures of its own split. That of training holds every caption as
            a query as well.
    """

    name: str
    licence: str
    splits: DatasetDict
    truth: dict[str, Retrieval]
    has_specs: bool


def open_source(source: str, profile: Profile, folder: Path) -> Collection:
    """The collection of a data source, with its pictures in `folder/images`; `save` writes the rest.

    Args:
        source: as `profiles.data_source` gives it. What has to be fetched is kept in `profiles.downloads()`.
    """
    place, options = with_options(source)
    if source == SHOP:
        return from_catalogue(profile, folder)
    if place.partition(":")[0] == "figures":
        return from_folder(figures.gather(source, downloads() / "figures"), profile, folder, name=source)
    if place.startswith("hub:") or place.endswith(".parquet"):
        fetched = hub.gather(place, options, profile, downloads() / "hub")
        name = place.removeprefix("hub:")
        return from_folder(fetched, profile, folder, name=Path(name).name if os.path.isabs(name) else name)
    known = {"image": "file_name", "text": "text", "id": "image_id"}
    if unknown := sorted(options.keys() - known):
        raise DataError(place, [f"there is no option {unknown[0]!r}; there are {', '.join(known)}"])
    return from_folder(place, profile, folder, {known[name]: column for name, column in options.items()})


def paths(dataset: Dataset) -> list[str]:
    """Where the pictures lie, one absolute path a row, without decoding any."""
    return [image["path"] for image in dataset.cast_column("image", Image(decode=False))["image"]]


def near_duplicates(
    splits: Mapping[str, Dataset], max_distance: int = LOOKS_ALIKE
) -> list[tuple[str, str, str, str, int]]:
    """Pictures of different splits that look alike: (split, image id, other split, image id, distance).

    Args:
        splits: name -> dataset with the columns image and image_id.
        max_distance: bits of 512 (`pictures.fingerprint`). Copies in another size and quality differ in about
            4, seldom in more than 10. The shop's splits share no scene, only look: within 10 there are but
            variants of a family, and from about 15 on pictures that have little but the backdrop in common.
    Returns: the closest first.
    """
    marks = {}
    for name, split in splits.items():
        seen = in_threads(lambda path: fingerprint(load_picture(path)[0]), paths(split), f"reading {name}")
        marks[name] = np.stack(list(seen))
    names, ids = list(splits), {name: split["image_id"][:] for name, split in splits.items()}
    found = [
        (a, ids[a][i], b, ids[b][j], distance)
        for k, a in enumerate(names)
        for b in names[k + 1 :]
        for i, j, distance in close_pairs(marks[a], marks[b], max_distance).tolist()
    ]
    return sorted(found, key=lambda pair: pair[-1])


def from_catalogue(profile: Profile, folder: Path) -> Collection:
    """Draw the shop into `folder/images`, on all cores; the same profile gives the same pictures."""
    sizes = (profile.n_train, profile.n_validation, profile.n_test)
    asked = (profile.n_queries, profile.n_queries_validation, profile.n_queries_train)
    stock = shop.build(*sizes, *asked, profile.seed)
    pictures = [picture for split in SPLITS for picture in stock.pictures[split]]
    files = {p.image_id: str(_images(folder) / f"{p.image_id}.png") for p in pictures}
    jobs = [(p.scene.to_json(), profile.image_size, p.seed, files[p.image_id]) for p in pictures]
    cores = min(8, os.cpu_count() or 1)
    print(
        f"Drawing {len(jobs):,} pictures, {profile.image_size} pixels a side, on {cores} cores.", flush=True
    )
    with ProcessPoolExecutor(cores) as pool:  # Pillow's drawing holds Python's lock, so no threads
        for _ in text_bar(pool.map(_draw, jobs, chunksize=16), "drawing", len(jobs)):
            pass
    splits, truth = DatasetDict(), {}
    for split in SPLITS:
        splits[split] = _dataset(
            dict(image=files[p.image_id], image_id=p.image_id, text=p.caption, spec=p.scene.to_json(),
                 stated=p.stated.to_json(), family=p.family)
            for p in stock.pictures[split]
        )  # fmt: skip
        queries = {query.query_id: query.text for query in stock.queries[split]}
        truth[split] = Retrieval(queries, _corpus(splits[split]), stock.qrels[split], stock.slices[split])
    return Collection(SHOP, "that of this project, whose code draws them", splits, truth, has_specs=True)


def _draw(job: tuple[str, int, int, str]) -> None:
    scene, size, seed, file = job
    draw(Scene.from_json(scene), size, seed).save(file)


def from_folder(
    source: Path | str,
    profile: Profile,
    folder: Path,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Collection:
    """Take over a folder of pictures with metadata (data/README.md); the pictures go to `folder/images`.

    Rows with equal text, or with pictures that are equal or look alike, stay in one split. Every text is a
    query of its split, answered by its own picture and by those with the same text or the same pixels.
    The profile's sizes are limits; where rows are more, chance decides which stay (the seed repeats it).

    Args:
        source, columns: as in `folder.read_folder`.
        name: of the collection, else the folder's.
    Raises: DataError with all that is wrong; nothing has been written then.
    """
    rows = read_folder(source, columns)
    parts = split_rows(rows, profile, Path(source))
    taken = [row for split in SPLITS for row in parts[split]]
    near = _training_negatives(parts)
    targets = {row.path: _images(folder) / f"{row.number:06d}" for row in taken}
    for number, path in enumerate(dict.fromkeys(path for paths in near.values() for path in paths)):
        targets.setdefault(path, _images(folder) / f"negative-{number:06d}")
    stored = in_threads(lambda job: str(store_picture(*job)), list(targets.items()), "copying pictures")
    files = dict(zip(targets, stored, strict=True))
    splits = DatasetDict()
    for split in SPLITS:
        splits[split] = _dataset(
            row.extra
            | {"image": files[row.path], "image_id": row.image_id, "text": row.text}
            | (
                {"negatives": _relative(files[p] for p in near.get(row.image_id, ()))}
                if row.negatives
                else {}
            )
            for row in parts[split]
        )
    truth = {split: _pair_truth(parts[split], _corpus(splits[split]), split) for split in SPLITS}
    licences = {row.extra.get(key, "") for row in taken for key in ("licence", "license")} - {""}
    counts = ", ".join(f"{len(parts[split]):,} {split}" for split in SPLITS)
    print(f"{len(rows):,} rows: {counts}; {len(rows) - len(taken):,} more than the profile takes.")
    licence = ", ".join(sorted(licences)) or "not stated; see the columns of each row"
    return Collection(name or Path(source).resolve().name, licence, splits, truth, has_specs=False)


def _training_negatives(parts: Mapping[str, Sequence[Row]]) -> dict[str, list[Path]]:
    """Near misses of the training rows, without what training must not see: pictures of other splits."""
    apart = {row.content for split in SPLITS[1:] for row in parts[split]}
    own = {row.content: row.path for row in parts["train"]}
    return {
        row.image_id: [own.get(content, path) for path, content in row.negatives
                       if content not in apart and content != row.content]
        for row in parts["train"]
    }  # fmt: skip


def _relative(files: Iterable[str]) -> str:
    return json.dumps([f"images/{Path(file).name}" for file in dict.fromkeys(files)])


def _pair_truth(rows: Sequence[Row], corpus: dict[str, str], split: str) -> Retrieval:
    """A query for each text. A class is asked for once; in training by up to PER_CLASS of its pictures."""
    same: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for key in {("pixels", row.content), *(("text", plain(text)) for text in row.texts)}:
            same.setdefault(key, []).append(row.image_id)
    median = np.median([len(text.split()) for row in rows for text in row.texts])
    truth, asked = Retrieval({}, corpus, {}, {}), Counter()
    for row in rows:
        for number, text in enumerate(row.texts):
            asked[text] += 1
            if row.is_class and asked[text] > (PER_CLASS if split == "train" else 1):
                continue
            query = f"q-{row.image_id}" + (f"#{number}" if number else "")
            truth.queries[query] = text
            answers = {*same["text", plain(text)], *same["pixels", row.content]}
            truth.qrels[query] = dict.fromkeys(sorted(answers), 1)
            name = "short text" if len(text.split()) <= median else "long text"
            truth.slices.setdefault(name, []).append(query)
    return truth


def save(collection: Collection, folder: Path) -> None:
    """Write a collection to `folder`; pictures that are not in `folder/images` are copied there."""
    images = _images(folder)
    for name, split in collection.splits.items():
        names = []
        for i, path in enumerate(map(Path, paths(split))):
            names.append(path.name if path.parent == images else f"{name}-{i:06d}{path.suffix}")
            if path.parent != images:
                shutil.copyfile(path, images / names[-1])
        table = split.remove_columns("image").add_column("file_name", [f"images/{n}" for n in names])
        pq.write_table(table.with_format("arrow")[:], images.parent / f"{name}.parquet")
    about = {"name": collection.name, "licence": collection.licence, "has_specs": collection.has_specs}
    kept = ("queries", "qrels", "slices")  # the corpus is the split
    about["truth"] = {s: {name: getattr(t, name) for name in kept} for s, t in collection.truth.items()}
    (images.parent / "collection.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    (images.parent / "README.md").write_text("\n".join(_card(collection)), encoding="utf-8")


def load(folder: Path) -> Collection:
    """Read what `save` wrote, wherever the folder lies now; a DataError names pictures that are gone."""
    folder = Path(folder).resolve()
    about = json.loads((folder / "collection.json").read_text(encoding="utf-8"))
    there, gone, splits = {f"images/{name}" for name in os.listdir(folder / "images")}, [], DatasetDict()
    for split in SPLITS:
        rows = pq.read_table(folder / f"{split}.parquet").to_pylist()
        gone += [row["file_name"] for row in rows if row["file_name"] not in there]
        splits[split] = _dataset({"image": str(folder / row.pop("file_name")), **row} for row in rows)
    if gone:
        raise DataError(folder, [f"{name} is gone; make the dataset again" for name in gone])
    about["truth"] = {
        split: Retrieval(corpus=_corpus(splits[split]), **kept) for split, kept in about["truth"].items()
    }
    return Collection(splits=splits, **about)


def _images(folder: Path) -> Path:
    images = Path(folder).resolve() / "images"
    images.mkdir(parents=True, exist_ok=True)
    return images


def _dataset(rows: Iterable[Mapping[str, str]]) -> Dataset:
    """A dataset in memory, in no cache, that refers to its pictures; what a row lacks is ""."""
    rows = list(rows)
    columns = dict.fromkeys([*SCHEMA, *(column for row in rows for column in row)])
    features = Features({column: Image() if column == "image" else Value("string") for column in columns})
    return Dataset.from_dict({c: [row.get(c, "") for row in rows] for c in columns}, features=features)


def _corpus(split: Dataset) -> dict[str, str]:
    return dict(zip(split["image_id"], paths(split), strict=True))


def _card(collection: Collection) -> Iterator[str]:
    yield f"# {collection.name}\n\nLicence: {collection.licence}\n"
    yield "| split | pictures | queries |\n|---|---|---|"
    for name, split in collection.splits.items():
        yield f"| {name} | {len(split):,} | {len(collection.truth[name].queries):,} |"
    for name, truth in collection.truth.items():
        slices = ", ".join(f"{slice_} ({len(queries):,})" for slice_, queries in truth.slices.items())
        yield f"\nSlices of the {name} queries: {slices}."
    others = [column for column in collection.splits["train"].column_names if column not in SCHEMA]
    yield f"\nColumns: {', '.join([*SCHEMA, *others])}."
    for column in others:
        values = sorted({value for split in collection.splits.values() for value in split[column] if value})
        if 0 < len(values) <= 20:
            yield f"\n{column}: {', '.join(values)}."
