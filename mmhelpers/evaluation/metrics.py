"""Metrics of a ranking, query by query, and how far to trust their mean.

A *run* is what a retriever answered: `{query id: {document id: score}}`, the format that ir-measures
and pytrec_eval take as it is. All metrics follow trec_eval: gains are the grades themselves
(linear), and equal scores are ordered by document id, descending, where equal means equal in float32.
(ir-measures hands RR@k to another script, which orders ties ascending; here one rule holds for every metric.)

Recall, accuracy and MRR know only right and wrong: *right* is a document with the best grade that its query
has, so that a blue mug is no hit for whoever asked for a red one. What fits in part counts in nDCG alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

Run = dict[str, dict[str, float]]

METRICS = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Document ids by score, best first; ties (in float32) by id, descending."""
    return sorted(scores, key=lambda document: (float(np.float32(scores[document])), document), reverse=True)


def per_query(
    run: Run, qrels: Mapping[str, Mapping[str, int]], metrics: Sequence[str] = METRICS
) -> pd.DataFrame:
    """Metrics of each query, equal to those of ir-measures.

    Args:
        metrics: names `recall@k` (R@k), `accuracy@k` (Success@k), `mrr@k` (RR@k), `ndcg@k` (nDCG@k). The
            first three are those of ir-measures for judgements that keep the best grade of each query.

    Returns:
        One row a query of `qrels` (index: query id), one float column a metric. A query that the run
        lacks counts 0, as in ir-measures (pytrec_eval alone would leave it out of the mean).

    Raises:
        ValueError: a metric is unknown, or a query has no relevant document, so that no ranking can
            be right.
    """
    parsed = [(name, *_parse(name)) for name in metrics]
    if stray := sorted(set(run) - set(qrels)):
        raise ValueError(f"query {stray[0]!r} of the run has no judgements (one of {len(stray)})")
    rows = []
    for query, grades in qrels.items():
        ideal = np.array(sorted((grade for grade in grades.values() if grade > 0), reverse=True), dtype=float)
        if not len(ideal):
            raise ValueError(f"query {query!r} has no relevant document: leave it out of the qrels")
        gains = np.array([max(grades.get(d, 0), 0) for d in ranked(run.get(query, {}))], dtype=float)
        rows.append({name: _METRIC[kind](gains, ideal, k) for name, kind, k in parsed})
    return pd.DataFrame(rows, index=pd.Index(qrels, name="query"), columns=list(metrics), dtype=float)


def _dcg(gains: np.ndarray) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def _recall(gains: np.ndarray, ideal: np.ndarray, k: int) -> float:
    return float((gains[:k] == ideal[0]).sum() / (ideal == ideal[0]).sum())


def _accuracy(gains: np.ndarray, ideal: np.ndarray, k: int) -> float:
    return float((gains[:k] == ideal[0]).any())


def _mrr(gains: np.ndarray, ideal: np.ndarray, k: int) -> float:
    places = np.flatnonzero(gains[:k] == ideal[0])
    return float(1 / (places[0] + 1)) if len(places) else 0.0


def _ndcg(gains: np.ndarray, ideal: np.ndarray, k: int) -> float:
    return _dcg(gains[:k]) / _dcg(ideal[:k])


_METRIC = {"recall": _recall, "accuracy": _accuracy, "mrr": _mrr, "ndcg": _ndcg}


def _parse(metric: str) -> tuple[str, int]:
    kind, _, k = metric.partition("@")
    if kind not in _METRIC or not k.isdigit() or int(k) < 1:
        raise ValueError(
            f"metric {metric!r} is unknown; use {', '.join(_METRIC)} with a cutoff, as in ndcg@10"
        )
    return kind, int(k)


@dataclass(frozen=True)
class PairedResult:
    """By how much b is better than a on the same queries, and how likely chance alone did that."""

    difference: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p_value:.4f}"


def interval(
    values: Sequence[float], seed: int = 0, level: float = 0.95, n: int = 2000
) -> tuple[float, float, float]:
    """Mean over queries with its percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    It says how much the mean would move with other queries of the same sort, not with another
    training seed.

    Returns:
        (mean, low, high); the same seed draws the same resamples, whatever the values.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"an interval needs one value a query, not an array of shape {values.shape}")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), (100, len(values)))].mean(1) for _ in range(0, n, 100)]
    low, high = np.quantile(np.concatenate(means)[:n], [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def paired_test(a: Sequence[float], b: Sequence[float], seed: int = 0, n: int = 10_000) -> PairedResult:
    """Compare two systems on the same queries: is b better than a?

    Args:
        a, b: one value a query, in the same order (two columns of `per_query` frames).

    Returns:
        Mean of b - a with its bootstrap interval, and the two-sided p-value of the sign-flip
        randomisation test (Smucker, Allan and Carterette 2007), (extreme + 1) / (n + 1).
    """
    if isinstance(a, pd.Series) and isinstance(b, pd.Series) and not a.index.equals(b.index):
        raise ValueError("a paired test needs the same queries in the same order on both sides")
    delta = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    rng = np.random.default_rng(seed)
    observed = abs(delta.sum()) - 1e-9  # a flip that gives the same sum counts, whatever its rounding
    extreme = 0
    for start in range(0, n, 500):
        signs = rng.choice([-1.0, 1.0], (min(500, n - start), len(delta)))
        extreme += int((np.abs(signs @ delta) >= observed).sum())
    return PairedResult(*interval(delta, seed), (extreme + 1) / (n + 1))
