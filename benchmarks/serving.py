"""Encoding, mining, reranking, search, and the time until a model is good."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives, semantic_search
from transformers import TrainerCallback

from benchmarks.measure import (
    Row,
    elsewhere,
    interleaved,
    keep_freed_memory,
    peak_memory,
    ratios,
    row,
    timed,
)
from benchmarks.training import OURS, PLAIN, Variant
from benchmarks.workload import Settings, Workload
from mmhelpers import data, evaluation
from mmhelpers.models import encoders
from mmhelpers.models.reranker import build_reranker

PATHS, CACHE = "paths, decoded each time", "image cache"
Say = Callable[[str], None]


def encoding(chosen: Settings, work: Workload, say: Say) -> list[Row]:
    """Texts and pictures a second through `encode`, the latter from paths and from the cache."""
    n = 32 if chosen.quick else 512
    texts, pictures = work.texts[:n], work.pictures[:n]
    plain, ours = work.load(chosen.device), work.load(chosen.device)
    began = time.perf_counter()
    encoders.attach_image_cache(ours, pictures)
    made = len(pictures) / (time.perf_counter() - began)

    def per_second(model: Any, inputs: Sequence[str]) -> float:
        work = lambda: model.encode(list(inputs), batch_size=64, show_progress_bar=False)  # noqa: E731
        return len(inputs) / timed(work, chosen.device)

    kinds = {
        "texts": lambda: per_second(ours, texts),
        f"pictures, {PATHS}": lambda: per_second(plain, pictures),
        f"pictures, {CACHE}": lambda: per_second(ours, pictures),
    }
    for run in kinds.values():  # the first call is slower
        run()
    speeds = interleaved(kinds, chosen.rounds, say)
    rows = [row("encoding", name, "per second", values) for name, values in speeds.items()]
    rows.append(row("encoding", "making the image cache, once", "per second", [made]))
    above, below = (speeds[f"pictures, {kind}"] for kind in (CACHE, PATHS))
    return [*rows, ratios("encoding", f"{CACHE} / paths", above, below)]


def mine(model: Any, pairs: Dataset, corpus: Sequence[str], candidates: int = 100) -> Dataset:
    """The library's miner with the arguments of notebook 03, silent."""
    with contextlib.redirect_stderr(io.StringIO()):
        return mine_hard_negatives(
            pairs, model, corpus=list(corpus), num_negatives=5, range_max=min(candidates, len(corpus) - 2),
            output_format="n-tuple", output_scores=True, batch_size=128, verbose=False,
        )  # fmt: skip


def mining(chosen: Settings, work: Workload, say: Say) -> list[Row]:
    """Seconds of `mine_hard_negatives` on paths, with and without the cache, and its peak memory."""
    n = 48 if chosen.quick else 1000
    pairs = work.rows().select(range(n))
    corpus = work.pictures[:n]
    plain, ours = work.load(chosen.device), work.load(chosen.device)
    encoders.attach_image_cache(ours, corpus)
    topic = f"mining, {n:,} texts x {n:,} pictures"
    kinds = {
        PATHS: lambda: timed(lambda: mine(plain, pairs, corpus), chosen.device),
        CACHE: lambda: timed(lambda: mine(ours, pairs, corpus), chosen.device),
    }
    seconds = interleaved(kinds, min(3, chosen.rounds), say)
    rows = [row(topic, name, "seconds", values) for name, values in seconds.items()]
    rows.append(ratios(topic, f"paths / {CACHE}", seconds[PATHS], seconds[CACHE]))
    for name in (CACHE,) if chosen.quick else (PATHS, CACHE):
        peak = elsewhere(_peak, name, chosen, work, n)
        rows.append(row(topic, f"{name}, peak memory", "MB", [peak]))
    return rows


def _peak(name: str, chosen: Settings, work: Workload, n: int) -> float:
    """What `mining` runs in a process of its own: megabytes above those with the model loaded."""
    model = work.load(chosen.device)
    with peak_memory() as found:
        if name == CACHE:
            encoders.attach_image_cache(model, work.pictures[:n])
        mine(model, work.rows().select(range(n)), work.pictures[:n])
    return found["mb"]


def reranking(chosen: Settings, work: Workload, say: Say) -> list[Row]:
    """Milliseconds to rerank pictures for a new query: towers run again, or states kept.

    "Re-encoded" reads each picture's file and runs the image tower for it, and the text tower once: what a
    cross-encoder without kept states must do at the least. "Kept states" runs the text tower and the fusion.
    """
    depths = (5, 10) if chosen.quick else (10, 100, 1000)
    deep = 10 if chosen.quick else 100
    reranker = build_reranker(work.load(chosen.device))[0]
    reranker.eval()
    reranker.precompute([], work.pictures[: max(depths)], show_progress_bar=False)
    kept = reranker.images

    def milliseconds(text: str, k: int, again: bool) -> float:
        reranker.texts.clear()
        reranker.images = type(kept)(kept.limit) if again else kept
        return 1000 * timed(lambda: reranker.scores(text, work.pictures[:k], batch_size=k), chosen.device)

    def at(k: int, again: bool, texts: Iterator[str]) -> Callable[[], float]:
        return lambda: milliseconds(next(texts), k, again)

    queries = iter(work.texts)
    kinds = {"pairs re-encoded": at(deep, True, queries), "kept states": at(deep, False, queries)}
    for run in kinds.values():
        run()
    topic = f"reranking {deep} candidates"
    took = interleaved(kinds, 3 if chosen.quick else 20)
    rows = [row(topic, name, "ms a query (p50)", values) for name, values in took.items()]
    rows.append(ratios(topic, "re-encoded / kept states", took["pairs re-encoded"], took["kept states"]))
    say(f"{rows[0].median:.0f} ms re-encoded, {rows[1].median:.1f} ms with kept states")
    growth = {f"{k} candidates": at(k, False, queries) for k in depths if k <= len(work.pictures)}
    took = interleaved(growth, 3 if chosen.quick else 10)
    return rows + [row("growth: candidates", name, "ms a query (p50)", found) for name, found in took.items()]


def by_pictures(chosen: Settings, work: Workload, say: Say) -> list[Row]:
    """Search and mining over 1,000 to 100,000 pictures, whose vectors are drawn at random.

    Encoding grows in proportion and is measured above; what may not is the rest. The miner is the library's,
    with a model that looks vectors up.
    """
    sizes = (100, 500) if chosen.quick else (1_000, 10_000, 100_000)
    model = work.load(chosen.device)
    dim, n = model.get_embedding_dimension(), 50 if chosen.quick else 1000
    rng = np.random.default_rng(0)

    def vectors(count: int) -> np.ndarray:
        found = rng.standard_normal((count, dim), dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    queries = vectors(n)
    rows = []
    for size in sizes:
        pictures = vectors(size)
        on_device = torch.from_numpy(pictures).to(chosen.device)
        one = [torch.from_numpy(queries[i : i + 1]).to(chosen.device) for i in range(20)]

        def search(query: torch.Tensor, corpus: torch.Tensor = on_device) -> float:
            options = {"top_k": 100, "corpus_chunk_size": len(corpus)}
            return 1000 * timed(lambda: semantic_search(query, corpus, **options), chosen.device)

        search(one[0])
        rows.append(row("growth: pictures", f"exact search, {size:,}", "ms a query (p50)", map(search, one)))
        names = [f"{i}.png" for i in range(size)]
        pairs = Dataset.from_dict({"text": [f"text {i}" for i in range(n)],
                                   "image": [names[i % size] for i in range(n)]})  # fmt: skip
        model.encode_document = lambda *_, found=pictures, **__: found
        model.encode_query = lambda *_, **__: queries
        took = [timed(lambda p=pairs, c=names: mine(model, p, c)) for _ in range(1 if chosen.quick else 3)]
        rows.append(row("growth: pictures", f"mining for {n:,} texts, {size:,}", "seconds", took))
        say(f"{size:,} pictures: search {rows[-2].median:.2g} ms, mining {rows[-1].median:.2g} s")
    return rows


class _Until(TrainerCallback):
    """Ends the training when validation is good enough, and remembers when that was."""

    def __init__(self, target: float) -> None:
        self.target, self.value, self.steps = target, 0.0, 0

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.value, self.steps = metrics["eval_validation_ndcg@10"], state.global_step
        control.should_training_stop = self.value >= self.target


def until_good(chosen: Settings, work: Workload, shop: data.Collection, say: Say) -> list[Row]:
    """Seconds of training until validation nDCG@10 is good, evaluations and making the cache included."""
    target, limit = (0.2, 4) if chosen.quick else (0.7, 60)
    validation = shop.truth["validation"]
    topic = f"time to nDCG@10 of {target} (validation)"
    reached: dict[str, _Until] = {}

    def run(name: str) -> float:
        variant, until = Variant(name, chosen, work), _Until(target)
        keep_freed_memory(variant.keeps_memory)
        began = time.perf_counter()
        if name == OURS:
            every = [path for part in (work.pictures, validation.corpus.values()) for path in part]
            encoders.attach_image_cache(variant.model, every)
        changes = {"eval_strategy": "steps", "eval_steps": 2 if chosen.quick else 4, "warmup_steps": 5}
        changes |= {"lr_scheduler_type": "constant_with_warmup"}
        trainer = variant.trainer(limit, evaluator=evaluation.evaluator(validation, "validation"), **changes)
        trainer.add_callback(until)
        trainer.train()
        reached[name] = until
        if until.value < target and not chosen.quick:
            raise RuntimeError(f"{name} reached only {until.value:.3f} in {limit} steps")
        return time.perf_counter() - began

    kinds = {name: (lambda name=name: run(name)) for name in (PLAIN, OURS)}
    seconds = interleaved(kinds, 1 if chosen.quick else 2, say)
    rows = [row(topic, f"{n}, {reached[n].steps} steps", "seconds", values) for n, values in seconds.items()]
    return [*rows, ratios(topic, f"{PLAIN} / {OURS}", seconds[PLAIN], seconds[OURS])]
