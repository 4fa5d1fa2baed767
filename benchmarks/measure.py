"""Interleaved repeats, medians with their spread, ratios within a round, peak memory, progress as text."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import psutil
import torch

from mmhelpers.models import encoders


@dataclass(frozen=True)
class Row:
    """One number of the table: the median of `values`, with `low` and `high` around it.

    The spread is from the smallest to the largest value; from eight values on, between the quartiles.
    """

    topic: str
    name: str
    unit: str
    median: float
    low: float
    high: float
    runs: int


def row(topic: str, name: str, unit: str, values: Sequence[float]) -> Row:
    """Summarise repeated measurements."""
    values = sorted(values)
    low, high = values[0], values[-1]
    if len(values) >= 8:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    numbers = (float(f"{value:.4g}") for value in (statistics.median(values), low, high))
    return Row(topic, name, unit, *numbers, len(values))


def ratios(topic: str, name: str, above: Sequence[float], below: Sequence[float]) -> Row:
    """The ratio of two variants, taken within each round, so that a slow minute of the machine cancels."""
    return row(topic, name, "times", [a / b for a, b in zip(above, below, strict=True)])


def interleaved(
    variants: Mapping[str, Callable[[], float]], rounds: int, say: Callable[[str], None] | None = None
) -> dict[str, list[float]]:
    """Run A B C A B C ...: what changes in the machine during the measurement meets all variants alike."""
    values: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        for name, run in variants.items():
            values[name].append(run())
        if say:
            done = ", ".join(f"{name} {found[-1]:.3g}" for name, found in values.items())
            say(f"round {number + 1} of {rounds}: {done}")
    return values


def timed(work: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds that `work` takes, what it has started on the GPU included."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    """Wait for the GPU; nothing on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def keep_freed_memory(keep: bool) -> None:
    """Give this process the memory that `encoders.load` gives it, or what glibc settles at by itself.

    glibc's bounds grow up to these values when large blocks come and go. Off Linux nothing happens.
    """
    if keep:
        encoders.keep_freed_memory()
    elif sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
        for name, value in ((trim_threshold, 64 << 20), (top_pad, 128 << 10), (mmap_threshold, 32 << 20)):
            mallopt(name, value)


class Progress:
    """What is going on, since when, and how long it is expected to take."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        print(f"{minutes:3d}:{seconds:02d}  {text}", flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Megabytes above what the process held at the beginning: `{"mb": ...}`, filled at the end.

    Sampled every 5 ms: resident memory of this process, and what its children hold for themselves alone.
    """
    found: dict[str, float] = {"mb": 0.0}
    process, over = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not over.wait(0.005):
            total = process.memory_info().rss
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_full_info().uss
            found["mb"] = max(found["mb"], (total - before) / 1e6)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def elsewhere(work: Callable[..., Any], *args: Any) -> Any:
    """The result of `work(*args)` in a fresh process: memory that was used before does not count."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *args).result()
