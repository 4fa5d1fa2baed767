"""One schema for every source of pictures with text, and how it is kept in a folder that may be moved.

images/                                             the pictures, flat
train.parquet, validation.parquet, test.parquet     file_name, image_id, text, spec, other columns
collection.json                                     name, licence, has_specs; by split: queries, relevant, slices,
                                                    families
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Image, Value

from mmhelpers.data.problems import DataError
from mmhelpers.shop.spec import Scene, differences

SPLITS = ("train", "validation", "test")
SCHEMA = ("image", "image_id", "text", "spec")


@dataclass(frozen=True)
class Retrieval:
    """The ground truth of one split."""

    queries: dict[str, str]  # query id -> text
    corpus: dict[str, str]  # image id -> path of the picture
    relevant: dict[str, set[str]]  # query id -> image ids of all right answers; every other picture is wrong
    slices: dict[str, list[str]]  # name -> query ids; "all" goes without saying
    families: dict[str, str]  # query id -> what it belongs to: queries of one family are no independent evidence

    @property
    def descriptions(self) -> list[str]:
        """The queries that describe one picture in full; where the source knows no such slice, all of them."""
        return self.slices.get("description") or list(self.queries)

    def right_answers(self, query: str) -> list[str]:
        """The right answers in a fixed order."""
        return sorted(self.relevant[query])

    def positive(self, query: str, chance: random.Random) -> str:
        """A right answer to train on: the picture that a caption was written for, else one at random."""
        right = self.right_answers(query)
        own = query.removeprefix("caption-").removeprefix("q-")  # a caption is named after its picture
        found = [name for name in (own, re.sub(r"#\d+$", "", own)) if name in right]
        return found[0] if found else chance.choice(right)


@dataclass(frozen=True)
class Collection:
    """Pictures with text and their truth.

    `splits` are train, validation and test, with the columns image (a reference to a file), image_id, text,
    spec ("" where the structured truth is unknown), and what else the source knows of a row. `truth` is by
    split, each over its own pictures; that of training holds every caption as a query as well.
    """

    name: str
    licence: str
    splits: DatasetDict
    truth: dict[str, Retrieval]
    has_specs: bool

    def swapped_twins(self, split: str) -> dict[str, list[str]]:
        """Query -> pictures of the right one's family with something of two products exchanged; {} without specs."""
        rows, truth = self.splits[split], self.truth[split]
        asked, families = truth.slices.get("swapped twin", []), {}
        for image, family, spec in zip(rows["image_id"], rows["family"], rows["spec"], strict=True) if asked else ():
            families.setdefault(family, {})[image] = Scene.from_json(spec)
        found = {}
        for query in asked:
            scenes, [own] = families[truth.families[query]], truth.relevant[query]
            found[query] = [image for image in scenes if differences(scenes[own], scenes[image]) == ["binding"]]
        return found


def paths(dataset: Dataset) -> list[str]:
    """Where the pictures lie, one absolute path a row, without decoding any."""
    return [image["path"] for image in dataset.cast_column("image", Image(decode=False))["image"]]


def save(collection: Collection, folder: Path) -> None:
    """Write a collection to `folder`; pictures that are not in `folder/images` are copied there."""
    images = images_folder(folder)
    for name, split in collection.splits.items():
        names = []
        for i, path in enumerate(map(Path, paths(split))):
            names.append(path.name if path.parent == images else f"{name}-{i:06d}{path.suffix}")
            if path.parent != images:
                shutil.copyfile(path, images / names[-1])
        table = split.remove_columns("image").add_column("file_name", [f"images/{n}" for n in names])
        pq.write_table(table.with_format("arrow")[:], images.parent / f"{name}.parquet")
    about = {"name": collection.name, "licence": collection.licence, "has_specs": collection.has_specs}
    about["truth"] = {  # the corpus is the split
        split: {"queries": t.queries, "relevant": {query: t.right_answers(query) for query in t.relevant},
                "slices": t.slices, "families": t.families}
        for split, t in collection.truth.items()
    }  # fmt: skip
    (images.parent / "collection.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def load(folder: Path) -> Collection:
    """Read what `save` wrote, wherever the folder lies now. Raises DataError that names pictures that are gone."""
    folder = Path(folder).resolve()
    about = json.loads((folder / "collection.json").read_text(encoding="utf-8"))
    there, gone, splits = {f"images/{name}" for name in os.listdir(folder / "images")}, [], DatasetDict()
    for split in SPLITS:
        rows = pq.read_table(folder / f"{split}.parquet").to_pylist()
        gone += [row["file_name"] for row in rows if row["file_name"] not in there]
        splits[split] = as_dataset({"image": str(folder / row.pop("file_name")), **row} for row in rows)
    if gone:
        raise DataError(folder, [f"{name} is gone; make the dataset again" for name in gone])
    truth = {}
    for split, kept in about["truth"].items():
        kept["relevant"] = {query: set(images) for query, images in kept["relevant"].items()}
        truth[split] = Retrieval(corpus=corpus_of(splits[split]), **kept)
    return Collection(**{**about, "splits": splits, "truth": truth})


def images_folder(folder: Path) -> Path:
    """The folder of a collection's pictures, made where it is missing."""
    images = Path(folder).resolve() / "images"
    images.mkdir(parents=True, exist_ok=True)
    return images


def as_dataset(rows: Iterable[Mapping[str, str]]) -> Dataset:
    """A dataset in memory, in no cache, that refers to its pictures; what a row lacks is ""."""
    rows = list(rows)
    columns = dict.fromkeys([*SCHEMA, *(column for row in rows for column in row)])
    features = Features({column: Image() if column == "image" else Value("string") for column in columns})
    return Dataset.from_dict({c: [row.get(c, "") for row in rows] for c in columns}, features=features)


def corpus_of(split: Dataset) -> dict[str, str]:
    """Image id -> path of the picture."""
    return dict(zip(split["image_id"], paths(split), strict=True))
