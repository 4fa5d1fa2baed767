"""What clip-mini is pretrained on: pictures of random products, and captions as people write alt text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mmhelpers.shop.draw import draw
from mmhelpers.shop.spec import BACKDROPS, PLAIN, Scene
from mmhelpers.shop.stock import generic_scene
from mmhelpers.shop.words import ADJECTIVES, GENERIC, generic_caption

SIZE, PATCH = 128, 16
VARIATION = 1.6  # how much wider than the shop (1.0) position, rotation, scale and light vary
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))


def random_scene(rng: random.Random, n_items: int = 0) -> Scene:
    """A picture of one product, three times in five, or of two; three in a picture are new to clip-mini."""
    return generic_scene(rng, n_items or rng.choice((1, 1, 1, 2, 2)))


def relatives(scene: Scene, rng: random.Random, size: int) -> list[Scene]:
    """A picture and others that differ from it in one attribute of one product, on backdrops of their own."""
    found = [scene]
    while len(found) < size:
        n = rng.randrange(len(scene.items))
        item, new = scene.items[n], generic_scene(rng, 1).items[0]
        what = rng.choice(
            ("colour", "motif", "kind") if item.pattern == PLAIN else ("colour", "pattern", "colour2", "motif")
        )
        try:
            changed = replace(item, **{what: getattr(new, what)})
        except ValueError:  # two equal colours, or a pattern without a second one
            continue
        other = replace(scene, items=(*scene.items[:n], changed, *scene.items[n + 1 :]))
        if all(other.items != there.items for there in found):
            found.append(replace(other, backdrop=rng.choice(BACKDROPS)))
    return found


def alt_text(scene: Scene, rng: random.Random, thorough: float = 0.5) -> str:
    """What somebody writes below a picture: one product with some of its attributes, two without who has which.

    `thorough` is the share of those who leave nothing out.

    Two are named as tags, or first the products and then what colours and patterns there are.
    """
    if len(scene.items) == 1:
        return generic_caption(scene, rng, full=rng.random() < thorough)

    def word(name: str, table: dict[str, list[str]] = GENERIC) -> str:
        return table[name][0] if rng.random() < 0.4 else rng.choice(table[name])

    kinds = [word(item.kind) for item in scene.items]
    colours = {c for item in scene.items for c in (item.colour, item.colour2) if c}
    patterns = {item.pattern for item in scene.items} - {PLAIN}
    motifs = {item.motif for item in scene.items} - {None}
    seen = [word(colour) for colour in sorted(colours)] + [word(p, ADJECTIVES) for p in sorted(patterns)]
    seen += [word(motif) for motif in sorted(motifs)]
    share = 1.0 if rng.random() < thorough else rng.choice((0.0, 0.5, 0.8))
    seen = [what for what in seen if rng.random() < share]
    rng.shuffle(kinds)
    rng.shuffle(seen)
    if rng.random() < 0.25:
        seen.append(word(scene.backdrop))
    if rng.random() < 0.4:
        tags = kinds + seen
        rng.shuffle(tags)
        return ", ".join(tags)
    named = rng.choice((" and ", " with ", " next to ")).join(kinds)
    return named + (rng.choice((": ", ", ", " in ")) + ", ".join(seen) if seen else "")


def draw_some(job: tuple[int, int, int, int]) -> list[tuple[np.ndarray, str]]:
    """Pictures and specs from `index` on, `group` relatives, of `n_items` products (0: one or two)."""
    seed, index, n_items, group = job
    rng = random.Random(f"pretrain-{seed}-{index}")
    scenes = relatives(random_scene(rng, n_items), rng, group)
    drawn = [draw(scene, SIZE, seed=index + n, variation=VARIATION) for n, scene in enumerate(scenes)]
    return [(np.asarray(image), scene.to_json()) for image, scene in zip(drawn, scenes, strict=True)]


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file beside its place and move it there: it is whole or not there."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as handle:
        write(handle)
    partial.replace(path)


def draw_shard(path: Path, seed: int, start: int, count: int, workers: int, n_items: int = 0, group: int = 1) -> Path:
    """Draw pictures start..start+count of a stream into `path`.npy and their specs into .json, unless they exist.

    They come in groups of relatives.
    """
    if not path.with_suffix(".json").exists():
        with Pool(workers) as pool:
            jobs = [(seed, i, n_items, group) for i in range(start, start + count, group)]
            rows = pool.map(draw_some, jobs, chunksize=64)
        images, specs = zip(*(pair for row in rows for pair in row), strict=True)
        write_whole(path.with_suffix(".npy"), lambda handle: np.save(handle, np.stack(images)))
        write_whole(path.with_suffix(".json"), lambda handle: handle.write(json.dumps(specs).encode()))
        print(f"{path.name}: {count} pictures", flush=True)
    return path


class Pictures:
    """Shards of equal size: images uint8 [n, SIZE, SIZE, 3], and scenes.

    On a CPU they are read from disk as they are asked for; a GPU holds them all.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.shards = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in paths]
        self.scenes = [Scene.from_json(s) for path in paths for s in json.loads(path.with_suffix(".json").read_bytes())]
        self.held: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.scenes)

    def pixels(self, rows: np.ndarray | range, device: str = "cpu") -> torch.Tensor:
        """Pictures as the model takes them: normalised, float [n, 3, SIZE, SIZE]."""
        size = len(self.shards[0])
        if device != "cpu" and self.held is None:
            self.held = torch.cat([torch.from_numpy(np.array(shard)).to(device) for shard in self.shards])
        if self.held is None:
            images = torch.from_numpy(np.stack([self.shards[row // size][row % size] for row in rows]))
        else:
            images = self.held[torch.as_tensor(rows, device=device)]
        return (images.permute(0, 3, 1, 2).float() / 255 - MEAN.to(device)) / STD.to(device)
