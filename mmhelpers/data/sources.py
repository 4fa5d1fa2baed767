"""From a data source, drawn, yours or the Hub's, to a collection with splits and truth."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import DatasetDict

from mmhelpers.course.profiles import SHOP, Profile, downloads, with_options
from mmhelpers.data import hub
from mmhelpers.data.folder import Row, read_folder
from mmhelpers.data.images import in_threads, store_picture, text_bar
from mmhelpers.data.schema import SPLITS, Collection, Retrieval, as_dataset, corpus_of, images_folder
from mmhelpers.data.splits import plain, split_rows
from mmhelpers.shop import stock
from mmhelpers.shop.draw import draw
from mmhelpers.shop.spec import Scene

PER_CLASS = 100  # training queries of one class: each is answered by all pictures of the class


def open_source(source: str, profile: Profile, folder: Path) -> Collection:
    """The collection of a data source, with its pictures in `folder/images`; `save` writes the rest.

    Args:
        source: as `profiles.data_source` gives it. What has to be fetched is kept in `profiles.downloads()`.
    """
    place, options = with_options(source)
    if source == SHOP:
        return from_shop(profile, folder)
    if hub.handles(place):
        name = place.removeprefix("hub:")
        place, options = str(hub.gather(place, options, profile, downloads() / "hub")), {}
        return from_folder(place, profile, folder, name=Path(name).name if os.path.isabs(name) else name)
    return from_folder(place, profile, folder, options)


def from_shop(profile: Profile, folder: Path) -> Collection:
    """Draw the shop into `folder/images`, on all cores; the same profile gives the same pictures."""
    sizes = (profile.n_train, profile.n_validation, profile.n_test)
    asked = (profile.n_queries, profile.n_queries_validation, profile.n_queries_train)
    built, images = stock.build(*sizes, *asked, profile.seed), images_folder(folder)
    pictures = [picture for split in SPLITS for picture in built.pictures[split]]
    files = {p.image_id: str(images / f"{p.image_id}.png") for p in pictures}
    jobs = [(p.scene.to_json(), profile.image_size, p.seed, files[p.image_id]) for p in pictures]
    cores = min(8, os.cpu_count() or 1)
    size = f"{profile.image_size} pixels a side"
    print(f"Drawing {len(jobs):,} pictures, {size}, on {cores} cores.", flush=True)
    with ProcessPoolExecutor(cores) as pool:  # Pillow's drawing holds Python's lock, so no threads
        for _ in text_bar(pool.map(_draw, jobs, chunksize=16), "drawing", len(jobs)):
            pass
    splits, truth = DatasetDict(), {}
    for split in SPLITS:
        splits[split] = as_dataset(
            dict(image=files[p.image_id], image_id=p.image_id, text=p.caption, spec=p.scene.to_json(),
                 stated=p.stated.to_json(), family=p.family)
            for p in built.pictures[split]
        )  # fmt: skip
        queries = {query.query_id: query.text for query in built.queries[split]}
        truth[split] = Retrieval(queries, corpus_of(splits[split]), built.qrels[split], built.slices[split])
    return Collection(SHOP, "that of this project, whose code draws them", splits, truth, has_specs=True)


def _draw(job: tuple[str, int, int, str]) -> None:
    scene, size, seed, file = job
    draw(Scene.from_json(scene), size, seed).save(file)


def from_folder(
    source: Path | str, profile: Profile, folder: Path,
    options: Mapping[str, str] | None = None, name: str | None = None,
) -> Collection:  # fmt: skip
    """Take over a folder of pictures with their texts (data/README.md); the pictures go to `folder/images`.

    Pictures with equal texts, or that are equal or look alike, stay in one split. Every text is a query of
    its split, answered by its own picture and by those with the same text or the same pixels. The profile's
    sizes are limits; where rows are more, the seed decides which stay. `folder/skipped.csv` lists the rows
    that `bad=skip` leaves out.

    Args:
        source, options: as in `folder.read_folder`. name: of the collection, else the folder's.

    Raises: DataError with all that is wrong; nothing has been written then.
    """
    skipped: list[dict] = []
    rows = read_folder(source, options, skipped)
    parts = split_rows(rows, profile, Path(source))
    taken = [row for split in SPLITS for row in parts[split]]
    images = images_folder(folder)

    def stored(row: Row) -> dict[str, str]:
        file = store_picture(row.path.read_bytes(), images / f"{row.number:06d}")
        return row.extra | {"image": str(file), "image_id": row.image_id, "text": row.texts[0]}

    found = in_threads(stored, taken, "copying pictures")
    splits = DatasetDict({split: as_dataset(itertools.islice(found, len(parts[split]))) for split in SPLITS})
    truth = {split: _pair_truth(parts[split], corpus_of(splits[split]), split) for split in SPLITS}
    if skipped:
        pd.DataFrame(skipped).to_csv(Path(folder) / "skipped.csv", index=False)
    licences = {row.extra.get(key, "") for row in taken for key in ("licence", "license")} - {""}
    counts = ", ".join(f"{len(parts[split]):,} {split}" for split in SPLITS)
    print(f"{len(rows):,} pictures: {counts}; {len(rows) - len(taken):,} more than the profile takes.")
    licence = ", ".join(sorted(licences)) or "not stated; see the columns of each row"
    return Collection(name or Path(source).resolve().name, licence, splits, truth, has_specs=False)


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
