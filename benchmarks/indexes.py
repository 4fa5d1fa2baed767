"""Search among a million vectors: how many of the exact top 10 each index finds, in what time and memory.

The vectors are the shop's pictures as clip-mini sees them, cut to 64 numbers, and made neighbours of them as
in notebook 08: from a picture, the step that leads another picture to one of its neighbours. Captions ask.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

if sys.platform == "darwin":  # PyTorch and faiss bring one OpenMP each, and macOS stops a process with two
    os.environ["KMP_DUPLICATE_LIB_OK"] = "TRUE"

import faiss  # noqa: E402
import numpy as np  # noqa: E402
from sentence_transformers.util.quantization import quantize_embeddings  # noqa: E402

from benchmarks.measure import now, say, timed  # noqa: E402
from benchmarks.workload import Pairs, Size, load  # noqa: E402

DIMS, K, QUERIES = 64, 10, 500
SETTINGS = {
    "exact": ("", (0,)), "HNSW": ("efSearch", (20, 80, 320, 1280)), "IVF-PQ": ("nprobe", (2, 8, 32, 128)),
    "binary": ("candidates", (40, 160, 640, 2560, 10240)),
}  # fmt: skip
CORES = os.cpu_count() or 1
Search = Callable[[np.ndarray], np.ndarray]


def cut(rows: np.ndarray) -> np.ndarray:
    """The first 64 numbers of each row, of length 1 again."""
    rows = rows[:, :DIMS]
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def crowd(real: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """The vectors of pictures and made neighbours of them, (n, 64)."""
    flat = faiss.IndexFlatIP(DIMS)
    flat.add(real)
    near = flat.search(real, 6)[1]
    start, other = rng.integers(len(real), size=(2, n - len(real)))
    step = real[near[other, rng.integers(1, 6, len(start))]] - real[other]
    return np.vstack([real, cut(real[start] + step)])


def bits(rows: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """One bit a number: above the mean of its side (texts or pictures) or not."""
    return quantize_embeddings(rows - middle, "ubinary")


def build(name: str, rows: np.ndarray, middle: np.ndarray, rng: np.random.Generator) -> Any:
    """An index with all rows; trained on one core (its steps are tiny), filled on all."""
    faiss.omp_set_num_threads(CORES)
    if name == "binary":
        index = faiss.IndexBinaryFlat(DIMS)
        index.add(bits(rows, middle))
        return index
    cells = int(2 ** round(np.log2(len(rows) ** 0.5)))
    kind = {"exact": "Flat", "HNSW": "HNSW24,Flat", "IVF-PQ": f"IVF{cells},PQ{DIMS // 4}"}[name]
    index = faiss.index_factory(DIMS, kind, faiss.METRIC_INNER_PRODUCT)
    if name == "IVF-PQ":
        index.do_polysemous_training = False  # for another search, and takes ten times as long as the rest
    faiss.omp_set_num_threads(1)
    index.train(rows[rng.permutation(len(rows))[: max(40 * cells, 10_000)]])
    faiss.omp_set_num_threads(CORES)
    index.add(rows)
    return index


def searches(name: str, index: Any, rows: np.ndarray, middle: np.ndarray) -> Iterator[tuple[int, Search]]:
    """Searches for the top 10, by setting; IVF-PQ and binary rescore their candidates exactly."""

    def rescored(found: np.ndarray, queries: np.ndarray) -> np.ndarray:
        scores = np.einsum("qd,qnd->qn", queries, rows[found])
        scores[found < 0] = -np.inf  # fewer were found than asked for
        return np.take_along_axis(found, np.argsort(-scores, axis=1)[:, :K], axis=1)

    def by_bits(queries: np.ndarray) -> np.ndarray:
        found = index.search(bits(queries, middle), min(value, len(rows)))[1]
        return rescored(found, queries)

    kinds = {"IVF-PQ": lambda queries: rescored(index.search(queries, 20 * K)[1], queries), "binary": by_bits}
    for value in SETTINGS[name][1]:
        if name == "HNSW":
            index.hnsw.efSearch = value
        elif name == "IVF-PQ":
            index.nprobe = value
        yield value, kinds.get(name, lambda queries: index.search(queries, K)[1])


def milliseconds(search: Search, queries: np.ndarray, n: int = 40) -> float:
    """The median time of one query at a time, on one core."""
    faiss.omp_set_num_threads(1)
    took = [1000 * timed(lambda one=one: search(one)) for one in np.split(queries, len(queries))[: n + 1]]
    return float(f"{np.median(took[1:]):.3g}")  # the first call is slower


def measure(pairs: Pairs, size: Size) -> dict[str, Any]:
    """A row for each index and setting."""
    model, rng, measured = load(), np.random.default_rng(0), []
    texts, real = (cut(model.encode(side, show_progress_bar=False)) for side in (pairs.texts, pairs.pictures))
    queries, rows = texts[:QUERIES], crowd(real, size.vectors, rng)
    say(f"search among {len(rows):,} vectors")
    for name, (knob, _) in SETTINGS.items():
        began = now()
        index = build(name, rows, real.mean(axis=0), rng)
        seconds = now() - began
        serialize = faiss.serialize_index_binary if name == "binary" else faiss.serialize_index
        about = {"index": name, "megabytes": round(serialize(index).nbytes / 1e6, 3)}
        about["build_seconds"] = round(seconds, 1)
        say(f"{name}: built in {seconds:.1f} s, {about['megabytes']:,.1f} MB")
        for value, search in searches(name, index, rows, texts.mean(axis=0)):
            faiss.omp_set_num_threads(CORES)
            found = search(queries)
            if name == "exact":
                right = found
            same = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, right, strict=True)])
            setting = f"{knob} {value:,}" if knob else ""
            row = {**about, "setting": setting, "recall": round(float(same), 4)}
            measured.append(row | {"ms": milliseconds(search, queries)})
    return {"vectors": len(rows), "dims": DIMS, "rows": measured}
