"""Generic pictures for pretraining clip-mini: drawn from random specs, with labels for towers and patches."""

from __future__ import annotations

import random
from collections.abc import Callable
from multiprocessing import Pool
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mmhelpers.shop import Wanted
from mmhelpers.shop import stock as shop
from mmhelpers.shop.draw import draw_with_regions
from mmhelpers.shop.spec import ALLOWED, BACKDROPS, RELATIONS, Scene

SIZE, PATCH = 96, 12
GRID = SIZE // PATCH
VARIATION = 1.6  # how much wider than the shop (1.0) position, rotation, scale and light vary
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
ITEM_WIDTHS = [len(values) for values in ALLOWED.values()]
SCENE_WIDTHS = [*ITEM_WIDTHS, *ITEM_WIDTHS, len(BACKDROPS), 1 + len(RELATIONS)]
IGNORE = -100


def targets(scene: Scene) -> list[int]:
    """The scene as class numbers: first product, second product (ignored if absent), backdrop, relation."""
    rows = [values.index(getattr(item, name)) for item in scene.items for name, values in ALLOWED.items()]
    rows += [IGNORE] * (2 * len(ITEM_WIDTHS) - len(rows))
    relation = 0 if scene.relation is None else 1 + RELATIONS.index(scene.relation)
    return [*rows, BACKDROPS.index(scene.backdrop), relation]


def stated(wanted: Wanted, scene: Scene) -> list[int]:
    """The class numbers that an open query names, IGNORE for the rest.

    A query for one of two products names none: it does not say which of them it means.
    """
    rows = [IGNORE] * len(SCENE_WIDTHS)
    if len(wanted.items) < len(scene.items):
        return rows
    known = targets(scene)
    for slot, item in enumerate(wanted.items):
        said = (len(item.kinds) == 1, item.colour, item.pattern, item.colour2, item.motif)
        for column, named in enumerate(said, slot * len(ITEM_WIDTHS)):
            rows[column] = known[column] if named else IGNORE
    return rows


def draw_one(job: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, str]:
    """Picture, patch-wise item number (0 none, 1, 2) and spec of the picture `index` of stream `seed`."""
    seed, index = job
    scene = shop.random_scene(random.Random(f"pretrain-{seed}-{index}"))
    image, regions = draw_with_regions(scene, SIZE, seed=index, variation=VARIATION)
    owner = np.zeros((GRID, GRID), np.uint8)
    best = np.full((GRID, GRID), 0.35)  # a patch belongs to an item that covers over a third of it
    for number, region in enumerate(regions, 1):
        cover = (np.asarray(region, np.float32) / 255).reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
        owner[cover > best] = number
        best = np.maximum(best, cover)
    return np.asarray(image), owner, scene.to_json()


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file beside its place and move it there: it is whole or not there."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as handle:
        write(handle)
    partial.replace(path)


def draw_shard(folder: Path, name: str, seed: int, start: int, count: int, workers: int) -> Path:
    """Draw pictures start..start+count of a stream into one file, unless it is there already."""
    path = folder / f"{name}.npz"
    if not path.exists():
        with Pool(workers) as pool:
            rows = pool.map(draw_one, [(seed, i) for i in range(start, start + count)], chunksize=64)
        images, owners, specs = (np.stack(column) for column in zip(*rows, strict=True))
        write_whole(path, lambda handle: np.savez(handle, images=images, owners=owners, specs=specs))
        print(f"{name}: {count} pictures", flush=True)
    return path


class Pictures:
    """All shards in memory: images uint8 [n, 96, 96, 3], owners uint8 [n, 8, 8], scenes, labels [n, 12]."""

    def __init__(self, paths: list[Path], exclude: set[str] = frozenset()) -> None:
        shards = [np.load(path) for path in paths]
        specs = np.concatenate([shard["specs"] for shard in shards])
        keep = np.array([spec not in exclude for spec in specs])
        self.specs = specs[keep]
        self.images = np.concatenate([shard["images"] for shard in shards])[keep]
        self.owners = np.concatenate([shard["owners"] for shard in shards])[keep]
        self.scenes = [Scene.from_json(str(spec)) for spec in self.specs]
        self.labels = np.array([targets(scene) for scene in self.scenes])

    def __len__(self) -> int:
        return len(self.scenes)

    def pixels(self, rows: np.ndarray | slice) -> torch.Tensor:
        """Pictures as the model takes them: normalised, float [n, 3, 96, 96]."""
        return (torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
