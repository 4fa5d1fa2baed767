"""Metrics of a ranking, query by query, and how far to trust their mean.

A *run* is what a retriever answered: `{query id: {document id: score}}`. Metrics come from ir-measures. Equal
scores (in float32) are ordered by document id, descending, for every metric, as trec_eval does.

A document is right or wrong. Queries of one family (variants of one product) are no independent evidence:
where families are given, intervals and tests resample whole families.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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


def per_query(run: Run, relevant: Mapping[str, Collection[str]], metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Metrics of each query of `relevant`: a row each, a float column a metric; what the run lacks counts 0.

    Args: metrics: names `recall@k` (R@k), `accuracy@k` (Success@k), `mrr@k` (RR@k), `ndcg@k` (nDCG@k).
    Raises: ValueError: unknown metric, query without judgements, query without a relevant document.
    """
    parsed = {name: _parsed(name) for name in metrics}
    if stray := sorted(set(run) - set(relevant)):
        raise ValueError(f"query {stray[0]!r} of the run has no judgements (one of {len(stray)})")
    if empty := [query for query, right in relevant.items() if not right]:
        raise ValueError(f"query {empty[0]!r} has no relevant document: leave it out")
    truth = {query: dict.fromkeys(right, 1) for query, right in relevant.items()}
    # Ranks instead of scores: no provider of ir-measures sees a tie, so one rule holds for every metric.
    ranks = {query: {d: -rank for rank, d in enumerate(ranked(found))} for query, found in run.items()}
    values = pd.DataFrame(0.0, index=pd.Index(relevant, name="query"), columns=list(metrics))
    names = {measure: name for name, measure in parsed.items()}
    for found in ir_measures.iter_calc(list(names), truth, ranks):
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


def interval(
    values: Sequence[float], seed: int = 0, families: Mapping[str, str] | None = None, n: int = 2000
) -> tuple[float, float, float]:
    """Mean over queries with its 95 % percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    It says how much the mean would move with other queries of the same sort, not with another training seed.

    Args: values: one a query. families: query -> family, for a Series of values by query; whole families are
        drawn then (cluster bootstrap; Davison and Hinkley 1997, ch. 3.8). n: resamples.
    Returns: (mean, low, high); the same seed draws the same resamples, whatever the values.
    """
    sums, sizes = _by_family(values, families)
    rng, means = np.random.default_rng(seed), []
    for _ in range(0, n, 100):
        drawn = rng.integers(0, len(sums), (100, len(sums)))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means)[:n], [0.025, 0.975])
    return float(sums.sum() / sizes.sum()), float(low), float(high)


def _by_family(values: Sequence[float], families: Mapping[str, str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each family; without families every query is one of its own."""
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"an interval needs one value a query, not an array of shape {numbers.shape}")
    if not families:
        return numbers, np.ones(len(numbers))
    if not isinstance(values, pd.Series):
        raise ValueError("families are looked up by query: give the values as a Series with queries as its index")
    labels = np.unique([families.get(query, query) for query in values.index], return_inverse=True)[1]
    return np.bincount(labels, numbers), np.bincount(labels).astype(float)


def paired_test(
    a: Sequence[float], b: Sequence[float], seed: int = 0, families: Mapping[str, str] | None = None, n: int = 10_000
) -> PairedResult:
    """Compare two systems on the same queries, one value each in the same order: is b better than a?

    Returns the mean of b - a with its bootstrap interval, and the two-sided p-value of the sign-flip
    randomisation test (Smucker, Allan and Carterette 2007), (extreme + 1) / (n + 1). With `families` (see
    `interval`) whole families are drawn and flipped.
    """
    if isinstance(a, pd.Series) and isinstance(b, pd.Series) and not a.index.equals(b.index):
        raise ValueError("a paired test needs the same queries in the same order on both sides")
    delta = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    delta = pd.Series(delta, a.index) if families else delta
    sums, _ = _by_family(delta, families)
    rng, extreme = np.random.default_rng(seed), 0
    observed = abs(sums.sum()) - 1e-9  # a flip that gives the same sum counts, whatever its rounding
    for start in range(0, n, 500):
        signs = rng.choice([-1.0, 1.0], (min(500, n - start), len(sums)))
        extreme += int((np.abs(signs @ sums) >= observed).sum())
    return PairedResult(*interval(delta, seed, families), (extreme + 1) / (n + 1))
