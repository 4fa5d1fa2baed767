"""Interleaved repeats, medians with their spread, ratios within a round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.workload import DEVICE

BEGAN = time.monotonic()


def say(text: str) -> None:
    """Print what is going on, with the minutes and seconds since the start."""
    minutes, seconds = divmod(int(time.monotonic() - BEGAN), 60)
    print(f"{minutes:3d}:{seconds:02d}  {text}", flush=True)


def summary(name: str, unit: str, values: Sequence[float]) -> dict[str, Any]:
    """One row of a table: the median, and the smallest and largest value; from eight on, the quartiles."""
    values = sorted(values)
    low, high = values[0], values[-1]
    if len(values) >= 8:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    numbers = {"median": statistics.median(values), "low": low, "high": high}
    rounded = {key: float(f"{value:.4g}") for key, value in numbers.items()}
    return {"name": name, "unit": unit, **rounded, "runs": len(values)}


def ratios(name: str, above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """The row of a ratio, taken within each round: a slow minute of the machine slows both sides."""
    return summary(name, "times", [a / b for a, b in zip(above, below, strict=True)])


def interleaved(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run A B C, A B C, ...: what changes in the machine during the measurement meets all variants alike."""
    values: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        for name, run in variants.items():
            values[name].append(run())
        latest = ", ".join(f"{name} {found[-1]:.3g}" for name, found in values.items())
        say(f"round {number + 1} of {rounds}: {latest}")
    return values


def now() -> float:
    """Seconds of a clock, once the GPU has done what it was asked to."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    began = now()
    work()
    return now() - began
