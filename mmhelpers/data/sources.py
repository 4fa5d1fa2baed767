"""From a data source, drawn, yours or the Hub's, to a collection with splits and truth; and what leaked."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmhelpers.course.profiles import SHOP, Profile, downloads, with_options
from mmhelpers.data import hub
from mmhelpers.data.folder import Row, read_folder
from mmhelpers.data.images import close_pairs, in_threads, load_picture, perceptual_hash, store_picture, text_bar
from mmhelpers.data.problems import DataError
from mmhelpers.data.schema import SPLITS, Collection, Retrieval, as_dataset, corpus_of, images_folder, paths
from mmhelpers.shop import stock
from mmhelpers.shop.draw import draw
from mmhelpers.shop.spec import Scene

LOOKS_ALIKE = 10  # of 512 bits: 19 in 20 figures, reduced and encoded at quality 60, stay this close
MIN_ROWS = {"smoke": 40, "laptop": 200, "gpu": 200}
PER_CLASS = 100  # training queries of one class: each is answered by all pictures of the class


def open_source(source: str, profile: Profile, folder: Path) -> Collection:
    """The collection of a `profiles.data_source`, its pictures in `folder/images`; `save` writes the rest."""
    place, options = with_options(source)
    if source == SHOP:
        return from_shop(profile, folder)
    if not hub.handles(place):
        return from_folder(place, profile, folder, options)
    gathered = hub.gather(place, options, profile, downloads() / "hub")
    return from_folder(gathered, profile, folder, name=hub.shown(place))


def from_shop(profile: Profile, folder: Path) -> Collection:
    """Draw the shop into `folder/images`, on all cores; the same profile gives the same pictures."""
    sizes = (profile.n_train, profile.n_validation, profile.n_test)
    asked = (profile.n_queries, profile.n_queries_validation, profile.n_queries_train)
    built, images = stock.build(*sizes, *asked, profile.seed), images_folder(folder)
    pictures = [picture for split in SPLITS for picture in built.pictures[split]]
    files = {p.image_id: str(images / f"{p.image_id}.png") for p in pictures}
    jobs = [(p.scene.to_json(), profile.image_size, p.seed, files[p.image_id]) for p in pictures]
    cores = min(8, os.cpu_count() or 1)
    print(f"Drawing {len(jobs):,} pictures, {profile.image_size} pixels a side, on {cores} cores.", flush=True)
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
        family = {p.image_id: p.family for p in built.pictures[split]}
        families = {query: family[min(right)] for query, right in built.relevant[split].items()}
        truth[split] = Retrieval(
            queries, corpus_of(splits[split]), built.relevant[split], built.slices[split], families
        )  # fmt: skip
    return Collection(SHOP, "that of this project, whose code draws them", splits, truth, has_specs=True)


def _draw(job: tuple[str, int, int, str]) -> None:
    scene, size, seed, file = job
    draw(Scene.from_json(scene), size, seed).save(file)


def from_folder(
    source: Path | str, profile: Profile, folder: Path, options: Mapping[str, str] | None = None, name: str = ""
) -> Collection:
    """Take over a folder of pictures with their texts (data/README.md); the pictures go to `folder/images`.

    Pictures with equal texts, or that are equal or look alike, stay in one split. Every text is a query of
    its split, answered by its own picture and by those with the same text or the same pixels. The profile's
    sizes are limits; where rows are more, the seed decides which stay. `skipped.csv` lists what `bad=skip`
    leaves out. Raises DataError with all that is wrong; nothing has been written then.
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
    unused = f"; {len(rows) - len(taken):,} more than the profile takes" if len(rows) > len(taken) else ""
    print(f"{len(rows):,} pictures: {counts}{unused}.")
    licence = ", ".join(sorted(licences)) or "not stated; see the columns of each row"
    return Collection(name or Path(source).resolve().name, licence, splits, truth, has_specs=False)


def _pair_truth(rows: Sequence[Row], corpus: dict[str, str], split: str) -> Retrieval:
    """A query for each text. A class is asked for once; in training by up to PER_CLASS of its pictures."""
    same: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for key in {("pixels", row.content), *(("text", plain(text)) for text in row.texts)}:
            same.setdefault(key, []).append(row.image_id)
    median = np.median([len(text.split()) for row in rows for text in row.texts])
    truth, asked = Retrieval({}, corpus, {}, {}, {}), Counter()
    for row in rows:
        for number, text in enumerate(row.texts):
            asked[text] += 1
            if row.is_class and asked[text] > (PER_CLASS if split == "train" else 1):
                continue
            query = f"q-{row.image_id}" + (f"#{number}" if number else "")
            truth.queries[query] = text
            answers = {*same["text", plain(text)], *same["pixels", row.content]}
            truth.relevant[query] = answers
            truth.families[query] = min(answers)
            name = "short text" if len(text.split()) <= median else "long text"
            truth.slices.setdefault(name, []).append(query)
    return truth


def split_rows(rows: Sequence[Row], profile: Profile, source: Path) -> dict[str, list[Row]]:
    """Train, validation and test: about 80/10/10, with more to evaluate on where rows are few.

    A hash decides which group goes where, so that neither the order of rows nor other rows do.
    """
    n, needed = len(rows), MIN_ROWS[profile.name]
    if n < needed:
        raise DataError(source, [f"it has {n} rows, the profile {profile.name} needs {needed}; add some"])
    n_test = min(profile.n_test, max(n // 10, min(150, n // 4)))
    n_validation = min(profile.n_validation, max(n // 10, min(100, n // 6)))
    room = {"test": n_test, "validation": n_validation, "train": profile.n_train}

    def chance(group: list[int]) -> bytes:
        return hashlib.sha256(f"{profile.seed} {min(rows[i].image_id for i in group)}".encode()).digest()

    groups = sorted(_groups(rows), key=chance)
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    for group in groups:
        if split := next((s for s, size in room.items() if len(parts[s]) + len(group) <= size), None):
            parts[split] += group
    if empty := [split for split in SPLITS if not parts[split]]:
        what = f"its {n} rows are {len(groups)} different ones (texts equal, or pictures that look alike)"
        raise DataError(source, [f"{what}, too few to fill {', '.join(empty)}; add others"])
    return {split: [rows[i] for i in sorted(parts[split])] for split in SPLITS}


def near_duplicates(
    splits: Mapping[str, Dataset], max_distance: int = LOOKS_ALIKE
) -> list[tuple[str, str, str, str, int]]:
    """Pictures of different splits that look alike: (split, image id, other split, image id, distance).

    The distance is in bits of 512 (`images.perceptual_hash`), the closest come first. Copies in another size and
    quality differ in about 4, seldom in more than 10; from 15 on, pictures have little in common.
    """
    marks = {}
    for name, split in splits.items():
        seen = in_threads(lambda path: perceptual_hash(load_picture(path)), paths(split), f"reading {name}")
        marks[name] = np.stack(list(seen))
    names, ids = list(splits), {name: split["image_id"][:] for name, split in splits.items()}
    found = [
        (a, ids[a][i], b, ids[b][j], distance)
        for k, a in enumerate(names)
        for b in names[k + 1 :]
        for i, j, distance in close_pairs(marks[a], marks[b], max_distance).tolist()
    ]
    return sorted(found, key=lambda pair: pair[-1])


def plain(text: str) -> str:
    """A text as it is compared: case and spaces do not count."""
    return " ".join(text.casefold().split())


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """Positions of rows that belong together, if only through others between them."""
    marks = np.stack([row.perceptual_hash for row in rows])
    first: dict[tuple[str, str], int] = {}
    links = [(first.setdefault(key, i), i) for i, row in enumerate(rows) for key in _keys(row)]
    left, right = np.concatenate([close_pairs(marks, marks, LOOKS_ALIKE)[:, :2], np.array(links)]).T
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(rows), len(rows)))
    groups: dict[int, list[int]] = {}
    for i, label in enumerate(connected_components(graph, directed=False)[1]):
        groups.setdefault(label, []).append(i)
    return list(groups.values())


def _keys(row: Row) -> list[tuple[str, str]]:
    """What binds a row to others: its pixels, and its texts unless they name a class."""
    return [("pixels", row.content), *(("text", plain(text)) for text in row.texts if not row.is_class)]
