"""Which rows go into which split, so that what belongs together stays together; and what leaked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmhelpers.course.profiles import Profile
from mmhelpers.data.folder import Row
from mmhelpers.data.images import close_pairs, fingerprint, in_threads, load_picture
from mmhelpers.data.problems import DataError
from mmhelpers.data.schema import SPLITS, paths

LOOKS_ALIKE = 10  # of 512 bits: 19 in 20 figures, reduced and encoded at quality 60, stay this close
MIN_ROWS = {"smoke": 40, "laptop": 200, "gpu": 200}


def split_rows(rows: Sequence[Row], profile: Profile, source: Path) -> dict[str, list[Row]]:
    """Train, validation and test: about 80/10/10, with more to evaluate on where rows are few.

    A hash decides which group goes where, so that neither the order of rows nor other rows do.

    Raises: DataError for `source` where there are too few rows, or too few different ones.
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

    Args:
        splits: name -> dataset with the columns image and image_id.
        max_distance: bits of 512 (`images.fingerprint`). Copies in another size and quality differ in about
            4, seldom in more than 10; from about 15 on, pictures have little but a backdrop in common.

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


def plain(text: str) -> str:
    """A text as it is compared: case and spaces do not count."""
    return " ".join(text.casefold().split())


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """Positions of rows that belong together, if only through others between them."""
    marks = np.stack([row.fingerprint for row in rows])
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
