"""Kept tower states of texts and pictures, so that a frozen tower reads each of them once."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Hashable

from PIL import Image
from torch import Tensor

Picture = str | os.PathLike | Image.Image
# Token or patch states (length, dim) and the embedding (dim,), all normalised, in the towers' shared space.
State = tuple[Tensor, Tensor]


class StateCache:
    """Tower states by key; when they outgrow `limit` bytes, the ones unused for longest go first."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._states: OrderedDict[Hashable, State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, key: Hashable) -> State | None:
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def put(self, key: Hashable, state: State) -> None:
        self._states[key] = state
        self.bytes += sum(part.nbytes for part in state)
        while self.bytes > self.limit:
            self.bytes -= sum(part.nbytes for part in self._states.popitem(last=False)[1])

    def clear(self) -> None:
        self._states.clear()
        self.bytes = 0


def picture_key(picture: Picture) -> Hashable:
    """What tells a picture from others: its pixels, or its path with time and size."""
    if isinstance(picture, Image.Image):
        return picture.mode, picture.size, hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
    path = os.fspath(picture)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"image {path!r} is not a file; pairs are (text, image path or PIL image)")
    status = os.stat(path)
    return path, status.st_mtime_ns, status.st_size  # a picture drawn anew is not the old one
