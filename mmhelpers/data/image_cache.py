"""Every picture preprocessed once, where the library's collator decodes and resizes it at every step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.image_utils import load_image

from mmhelpers.data.images import in_threads


class ImageCache:
    """Pictures after a model's resize and crop, by path: one uint8 array (n, 3, height, width).

    Rescaling and normalising happen on use: a quarter of the size. `paths` are absolute, one a row of
    `array`; `settings` are those of the image processor.
    """

    def __init__(self, paths: Sequence[str], array: np.ndarray, settings: dict[str, Any]) -> None:
        self._rows = {path: row for row, path in enumerate(paths)}
        self._array, self.settings = array, settings
        mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
        self._scale, self._shift = settings["rescale_factor"] / std, -mean / std

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str | Path) and os.path.abspath(path) in self._rows

    def __deepcopy__(self, memo: dict) -> ImageCache:
        return self  # read only: copies of a model share it

    def pixels(self, paths: Iterable[str | Path]) -> torch.Tensor:
        """What the processor makes of `paths`: float32 (len(paths), 3, height, width)."""
        rows = [self._rows[os.path.abspath(path)] for path in paths]
        return torch.from_numpy(self._array[rows]).float().mul_(self._scale).add_(self._shift)


def serves(processor: Any, name: str, example: torch.Tensor) -> bool:
    """Whether the picture `name` out of a cache is what the processor makes of it: `example`."""
    row = resized(processor, name)
    if row.dtype != np.uint8 or row.shape != example.shape:
        return False
    cached = ImageCache([name], row[None], processor.to_dict()).pixels([name])[0]
    return torch.allclose(cached, example, rtol=0, atol=1e-5)


def preprocessed(processor: Any, names: list[str], folder: str | Path | None) -> np.ndarray:
    """The uint8 array of the files `names`: mapped from the file in `folder` if that holds, else made.

    Only the processor's resize and crop are used. Without a folder the array stays in memory.
    """
    first = resized(processor, names[0])
    if folder is None:
        return np.stack(list(_rows(processor, names, first.shape)))
    stamps = [(name, (stat := os.stat(name)).st_size, stat.st_mtime_ns) for name in names]
    key = hashlib.sha256(json.dumps([processor.to_dict(), stamps], sort_keys=True).encode()).hexdigest()[:16]
    target = Path(folder) / f"pixels-{key}.u8"
    whole = target.is_file() and target.stat().st_size == len(names) * first.size
    # The first picture tells whether another version of a library made the file.
    if not whole or not np.array_equal(np.fromfile(target, np.uint8, first.size), first.ravel()):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        try:
            with partial.open("wb") as file:  # written as they come: the whole never is in memory
                file.writelines(_rows(processor, names, first.shape))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        for old in set(target.parent.glob("pixels-*.u8")) - {target}:
            with contextlib.suppress(OSError):  # mapped elsewhere, on a system that then refuses
                old.unlink()
    return np.memmap(target, np.uint8, "r", shape=(len(names), *first.shape))


def resized(processor: Any, name: str) -> np.ndarray:
    """A picture after resize and crop, before rescaling and normalising: (3, height, width)."""
    try:
        picture = load_image(name)  # as the library reads a path: turned upright, RGB
    except Exception as error:
        raise OSError(f"{name}: cannot be read as a picture; replace or remove the file ({error})") from error
    settings = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    return processor(picture, **settings)["pixel_values"][0]


def _rows(processor: Any, names: list[str], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    rows = in_threads(lambda name: resized(processor, name), names, "preprocessing pictures")
    for name, row in zip(names, rows, strict=True):
        if row.shape != shape or row.dtype != np.uint8:
            raise ValueError(f"{name}: becomes {row.dtype} {row.shape}, not uint8 {shape} like others")
        yield np.ascontiguousarray(row)
