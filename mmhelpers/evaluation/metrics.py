"""Metrics of a ranking, query by query, and how far to trust their mean.

A *run* is what a retriever answered: `{query id: {document id: score}}`. Metrics come from ir-measures. Equal
scores (in float32) are ordered by document id, descending, for every metric, as trec_eval does.

Recall, accuracy and MRR know only right and wrong: *right* is a document with the best grade that its query
has, so that a blue mug is no hit for a red one. What fits in part counts in nDCG alone, with linear gains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
import pandas as pd

Run = dict[str, dict[str, float]]

METRICS = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")
_KINDS = {
    "recall": ir_measures.R, "accuracy": ir_measures.Success, "mrr": ir_measures.RR, "ndcg": ir_measures.nDCG
}  # fmt: skip


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Document ids by score, best first; ties (in float32) by id, descending."""
    return sorted(scores, key=lambda document: (float(np.float32(scores[document])), document), reverse=True)


def per_query(run: Run, qrels: Mapping[str, Mapping[str, int]], metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Metrics of each query of `qrels`: a row each, a float column a metric; what the run lacks counts 0.

    Args: metrics: names `recall@k` (R@k), `accuracy@k` (Success@k), `mrr@k` (RR@k), `ndcg@k` (nDCG@k).
    Raises: ValueError: unknown metric, query without judgements, query without a relevant document.
    """
    parsed = {name: _parsed(name) for name in metrics}
    if stray := sorted(set(run) - set(qrels)):
        raise ValueError(f"query {stray[0]!r} of the run has no judgements (one of {len(stray)})")
    best = {query: max(grades.values(), default=0) for query, grades in qrels.items()}
    if empty := [query for query, grade in best.items() if grade <= 0]:
        raise ValueError(f"query {empty[0]!r} has no relevant document: leave it out of the qrels")
    right = {q: {d: 1 for d, grade in grades.items() if grade == best[q]} for q, grades in qrels.items()}
    # Ranks instead of scores: no provider of ir-measures sees a tie, so one rule holds for every metric.
    ranks = {query: {d: -rank for rank, d in enumerate(ranked(found))} for query, found in run.items()}
    values = pd.DataFrame(0.0, index=pd.Index(qrels, name="query"), columns=list(metrics))
    for truth, graded in ((qrels, True), (right, False)):
        names = {measure: name for name, measure in parsed.items() if name.startswith("ndcg") == graded}
        for found in ir_measures.iter_calc(list(names), truth, ranks) if names else ():
            values.at[found.query_id, names[found.measure]] = found.value
    return values


def _parsed(metric: str) -> ir_measures.Measure:
    kind, _, k = metric.partition("@")
    if kind not in _KINDS or not k.isdigit() or int(k) < 1:
        raise ValueError(f"metric {metric!r} is unknown; use {', '.join(_KINDS)} with a cutoff: ndcg@10")
    return _KINDS[kind] @ int(k)


@dataclass(frozen=True)
class PairedResult:
    """By how much b is better than a on the same queries, and how likely chance alone did that."""

    difference: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p_value:.4f}"

    def verdict(self, better: str = "better", worse: str = "worse") -> str:
        """The result as words, with its interval."""
        span = f"95 % interval {self.low:+.3f} to {self.high:+.3f}"
        if self.low <= 0 <= self.high:
            return f"no clear difference ({self.difference:+.3f}; the {span} holds 0)"
        return f"{better if self.difference > 0 else worse} by {abs(self.difference):.3f} ({span})"


def interval(values: Sequence[float], seed: int = 0, level: float = 0.95, n: int = 2000) -> tuple[float, float, float]:
    """Mean over queries with its percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    It says how much the mean would move with other queries of the same sort, not with another training seed.
    Returns (mean, low, high); the same seed draws the same resamples, whatever the values.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"an interval needs one value a query, not an array of shape {values.shape}")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), (100, len(values)))].mean(1) for _ in range(0, n, 100)]
    low, high = np.quantile(np.concatenate(means)[:n], [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def paired_test(a: Sequence[float], b: Sequence[float], seed: int = 0, n: int = 10_000) -> PairedResult:
    """Compare two systems on the same queries, one value each in the same order: is b better than a?

    Returns the mean of b - a with its bootstrap interval, and the two-sided p-value of the sign-flip
    randomisation test (Smucker, Allan and Carterette 2007), (extreme + 1) / (n + 1).
    """
    if isinstance(a, pd.Series) and isinstance(b, pd.Series) and not a.index.equals(b.index):
        raise ValueError("a paired test needs the same queries in the same order on both sides")
    delta = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    rng, extreme = np.random.default_rng(seed), 0
    observed = abs(delta.sum()) - 1e-9  # a flip that gives the same sum counts, whatever its rounding
    for start in range(0, n, 500):
        signs = rng.choice([-1.0, 1.0], (min(500, n - start), len(delta)))
        extreme += int((np.abs(signs @ delta) >= observed).sum())
    return PairedResult(*interval(delta, seed), (extreme + 1) / (n + 1))
