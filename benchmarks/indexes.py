"""Search among up to a million pictures: recall, time and memory of four indexes.

python -m benchmarks.indexes           results/indexes/<machine>.json and .png, benchmarks/README.md: 5 min
python -m benchmarks.indexes --quick   a few thousand vectors; shows that all works, keeps nothing

The vectors are the shop's pictures as clip-mini sees them, cut to 64 numbers, and made neighbours of them, as
in notebook 08: from a picture, the step that leads another picture to one of its neighbours. Texts ask.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sentence_transformers.util.quantization import quantize_embeddings

from benchmarks import report, workload
from benchmarks.measure import Progress
from mmhelpers.course.artifacts import write_atomically
from mmhelpers.viz.figures import PALETTE

RESULTS = report.RESULTS / "indexes"
DIMS, K = 64, 10
Search = Callable[[np.ndarray], np.ndarray]


def vectors(folder: Path, pictures: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts and pictures of a small shop through clip-mini, (n, 64) each, of length 1."""
    settings = workload.settings("cpu", "clip-mini", quick=False)
    settings = replace(settings, pictures=pictures)
    work = workload.shop_workload(settings, workload.draw_shop(settings, folder), folder)
    model = work.load("cpu")
    return tuple(cut(model.encode(side, show_progress_bar=False)) for side in (work.texts, work.pictures))


def cut(rows: np.ndarray) -> np.ndarray:
    """The first 64 numbers of each row, of length 1 again."""
    rows = rows[:, :DIMS]
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def crowd(real: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """The pictures and made neighbours, `size` rows in all."""
    flat = faiss.IndexFlatIP(DIMS)
    flat.add(real)
    near = flat.search(real, 6)[1]
    start, other = rng.integers(len(real), size=(2, size - len(real)))
    step = real[near[other, rng.integers(1, 6, len(start))]] - real[other]
    return np.vstack([real, cut(real[start] + step)])


def built(name: str, rows: np.ndarray, middle: np.ndarray, rng: np.random.Generator) -> Any:
    """An index with all rows; training on one core (its steps are tiny), filling on all."""
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    if name == "binary":
        index = faiss.IndexBinaryFlat(DIMS)
        index.add(quantize_embeddings(rows - middle, "ubinary"))
        return index
    cells = int(2 ** round(np.log2(len(rows) ** 0.5)))
    kind = {"exact": "Flat", "HNSW": "HNSW24,Flat", "IVF-PQ": f"IVF{cells},PQ{DIMS // 4}"}[name]
    index = faiss.index_factory(DIMS, kind, faiss.METRIC_INNER_PRODUCT)
    if name == "IVF-PQ":
        index.do_polysemous_training = False  # for another search, and ten times as long as the rest
    faiss.omp_set_num_threads(1)
    index.train(rows[rng.permutation(len(rows))[: max(40 * cells, 10_000)]])
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    index.add(rows)
    return index


def searches(name: str, index: Any, rows: np.ndarray, middle: np.ndarray) -> Iterator[tuple[int, Search]]:
    """The searches of an index by the value of its knob; IVF-PQ and binary put candidates in exact order."""

    def rescored(found: np.ndarray, queries: np.ndarray) -> np.ndarray:
        scores = np.einsum("qd,qnd->qn", queries, rows[found])
        scores[found < 0] = -np.inf  # fewer were found than asked for
        return np.take_along_axis(found, np.argsort(-scores, axis=1)[:, :K], axis=1)

    def bits(queries: np.ndarray) -> np.ndarray:
        return quantize_embeddings(queries - middle, "ubinary")

    if name == "exact":
        yield 0, lambda queries: index.search(queries, K)[1]
    for effort in (20, 80, 320, 1280) if name == "HNSW" else ():
        index.hnsw.efSearch = effort
        yield effort, lambda queries: index.search(queries, K)[1]
    for probes in (2, 8, 32, 128) if name == "IVF-PQ" else ():
        index.nprobe = probes
        yield probes, lambda queries: rescored(index.search(queries, 20 * K)[1], queries)
    for wide in (40, 160, 640, 2560, 10240) if name == "binary" else ():
        few = min(wide, len(rows))
        yield wide, lambda queries, k=few: rescored(index.search(bits(queries), k)[1], queries)


def measure(sizes: tuple[int, ...], pictures: int) -> list[dict[str, Any]]:
    """A row for each size, index and knob."""
    say, rng, found = Progress(), np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        say(f"drawing {pictures:,} pictures and embedding them")
        texts, real = vectors(Path(folder), pictures)
    middles = texts.mean(axis=0), real.mean(axis=0)
    queries = texts[:500]
    for size in sizes:
        rows = crowd(real, size, rng)
        for name in ("exact", "HNSW", "IVF-PQ", "binary"):
            began = time.perf_counter()
            index = built(name, rows, middles[1], rng)
            seconds = time.perf_counter() - began
            plain = faiss.serialize_index_binary if name == "binary" else faiss.serialize_index
            megabytes = plain(index).nbytes / 1e6
            say(f"{size:,} vectors: {name} built in {seconds:.1f} s, {megabytes:,.1f} MB")
            for knob, search in searches(name, index, rows, middles[0]):
                faiss.omp_set_num_threads(os.cpu_count() or 1)
                answers = search(queries)
                if name == "exact":
                    right = answers
                same = np.mean([len(set(a) & set(b)) / K for a, b in zip(answers, right, strict=True)])
                row = {"size": size, "index": name, "knob": knob, "recall": round(float(same), 4)}
                row |= {"ms": p50(search, queries), "megabytes": round(megabytes, 3)}
                found.append(row | {"build_seconds": round(seconds, 1)})
            del index
    say("done")
    return found


def p50(search: Search, queries: np.ndarray, n: int = 40) -> float:
    """Median milliseconds of one query at a time, on one core."""
    faiss.omp_set_num_threads(1)
    taken = []
    for number in range(min(n + 1, len(queries))):
        began = time.perf_counter()
        search(queries[number : number + 1])
        taken.append(1000 * (time.perf_counter() - began))
    return float(f"{np.median(taken[1:]):.3g}")


def best(found: dict[str, Any]) -> list[dict[str, Any]]:
    """For each size and index the fastest setting with a recall of 0.9, else the one with the highest."""
    chosen = []
    for size in dict.fromkeys(row["size"] for row in found["rows"]):
        for name in dict.fromkeys(row["index"] for row in found["rows"]):
            rows = [row for row in found["rows"] if (row["size"], row["index"]) == (size, name)]
            good = [row for row in rows if row["recall"] >= 0.9]
            chosen.append(min(good, key=lambda r: r["ms"]) if good else max(rows, key=lambda r: r["recall"]))
    return chosen


def draw(found: dict[str, Any]) -> Figure:
    """Recall against time at the largest size; time and memory against the size."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    plt.close(figure)
    largest = max(row["size"] for row in found["rows"])
    for name, colour, marker in zip(("exact", "HNSW", "IVF-PQ", "binary"), PALETTE, "osD^", strict=False):
        style = {"color": colour, "marker": marker, "label": name}
        rows = [row for row in found["rows"] if (row["size"], row["index"]) == (largest, name)]
        left.plot([row["ms"] for row in rows], [row["recall"] for row in rows], **style)
        line = [row for row in best(found) if row["index"] == name]
        for axes, key in ((middle, "ms"), (right, "megabytes")):
            axes.plot([row["size"] for row in line], [row[key] for row in line], **style)
    fast = {row["index"]: row for row in best(found) if row["size"] == largest}
    smallest = min(row["size"] for row in found["rows"])
    small = {row["index"]: row for row in best(found) if row["size"] == smallest}
    times = fast["exact"]["ms"] / fast["HNSW"]["ms"]
    grown = {name: fast[name]["ms"] / small[name]["ms"] for name in fast}
    left.set(xlabel="ms a query (p50, one core)", ylabel="recall@10", xscale="log")
    middle.set(xlabel="vectors", ylabel="ms a query, at recall 0.9 or the best", xscale="log", yscale="log")
    right.set(xlabel="vectors", ylabel="MB in memory", xscale="log", yscale="log")
    titles = (f"{largest:,} vectors: HNSW finds {fast['HNSW']['recall']:.0%},\n{times:.0f} times as fast",
              f"{largest // smallest} times the vectors: exact search takes\n"
              f"{grown['exact']:.0f}, HNSW {grown['HNSW']:.0f}, IVF-PQ {grown['IVF-PQ']:.0f} times as long",
              "A few bytes a vector: IVF-PQ and binary\n(exact vectors may lie on a disk)")  # fmt: skip
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, lw=0.6)
    left.legend(frameon=False)
    return figure


def details(found: dict[str, Any]) -> str:
    """A table for the benchmark's page: every index at every size, at a recall of 0.9 or its best."""
    head = ["vectors", "index", "recall@10", "ms a query (p50)", "MB", "built in seconds"]
    lines = [[f"{row['size']:,}", row["index"], f"{row['recall']:.1%}", f"{row['ms']:.3g}",
              f"{row['megabytes']:,.1f}", f"{row['build_seconds']:.1f}"] for row in best(found)]  # fmt: skip
    said = f"{found['device']}, {DIMS} numbers a vector, queries on one core; all of it measured"
    return f"{said}\n\n{report.table(head, lines)}"


def stored() -> list[dict[str, Any]]:
    """The results that lie in benchmarks/results/indexes."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def page() -> str:
    """benchmarks/README.md as it should be."""
    runs = [f"{details(found)}\n![recall, time and memory](results/indexes/{report.slug(found)}.png)"
            for found in stored()]  # fmt: skip
    return report.with_block("indexes", "\n\n".join(runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few thousand vectors; keeps nothing")
    quick = parser.parse_args().quick
    sizes, pictures = ((1_000, 4_000), 64) if quick else ((10_000, 100_000, 1_000_000), 1600)
    about = {"device": f"{os.cpu_count()}-core CPU", "model": "clip-mini"}
    found = {**about, "rows": measure(sizes, pictures)}
    print(details(found))
    if not quick:
        name = RESULTS / report.slug(found)
        write_atomically(name.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
        draw(found).savefig(name.with_suffix(".png"), dpi=100)
        write_atomically(report.PAGE, page())


if __name__ == "__main__":
    main()
