"""Metrics against ir-measures and by hand, intervals and tests against scipy."""

from __future__ import annotations

import random

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, Success, nDCG
from scipy import stats

from mmhelpers.evaluation import interval, paired_test, per_query, ranked


@pytest.mark.parametrize("ties", [True, False])
def test_metrics_equal_ir_measures_on_a_thousand_cases(ties: bool) -> None:
    """Random judgements and answers: unjudged documents, judged zeros, short and missing runs."""
    rng, qrels, run = random.Random(7), {}, {}
    documents = [f"d{i}" for i in range(40)] + ["D", "é", "d-1", "d_1"]
    for case in range(1000):
        judged = rng.sample(documents, rng.randint(1, 30))
        qrels[f"q{case}"] = {d: rng.randint(0, rng.choice([1, 3])) for d in judged} | {judged[0]: 1}
        if answers := rng.sample(documents, rng.randint(0, 40)):
            run[f"q{case}"] = {d: rng.randint(-5, 5) / 7 if ties else rng.gauss(0, 1) for d in answers}
    assert len(run) < len(qrels), "some queries must be missing from the run"
    best = {query: max(grades.values()) for query, grades in qrels.items()}
    right = {query: {d: int(g == best[query]) for d, g in grades.items()} for query, grades in qrels.items()}
    graded = {f"ndcg@{k}": nDCG @ k for k in (5, 10)}
    binary = {f"recall@{k}": R @ k for k in (1, 5, 10)} | {f"accuracy@{k}": Success @ k for k in (1, 5, 10)}
    # RR@10 goes through a script that orders ties ascending; trec_eval's RR, cut at 10, has our rule.
    binary["mrr@10"] = RR
    ours = per_query(run, qrels, [*graded, *binary])
    for measures, truth in ((graded, qrels), (binary, right)):
        for name, measure in measures.items():
            theirs = {m.query_id: m.value for m in ir_measures.iter_calc([measure], truth, run)}
            expected = np.array([theirs[query] for query in ours.index])
            if name == "mrr@10":
                expected[expected < 0.0999] = 0
            np.testing.assert_allclose(ours[name], expected, atol=1e-6, err_msg=name)


def test_metrics_by_hand() -> None:
    scores = {"d1": 0.5 + 1e-9, "d3": 0.5, "d2": 0.5, "d0": 0.6}
    assert ranked(scores) == ["d0", "d3", "d2", "d1"], "ties by id, descending; equal means equal in float32"
    metrics = ["recall@1", "accuracy@2", "mrr@10", "ndcg@10"]
    several = per_query({"q": {"a": 2.0, "x": 1.0}}, {"q": {"a": 3, "b": 3, "c": 1}}, metrics).loc["q"]
    assert several.tolist()[:3] == [0.5, 1.0, 1.0], "recall is not accuracy when several are right"
    part = per_query({"q": {"a": 2.0, "x": 1.0}}, {"q": {"a": 1, "b": 3}}, metrics).loc["q"]
    assert part.tolist()[:3] == [0.0, 0.0, 0.0], "what fits in part counts in nDCG alone"
    assert part["ndcg@10"] == pytest.approx(1 / (3 + 1 / np.log2(3)))
    below = per_query({"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1, "b": 3}}, metrics).loc["q"]
    assert below.tolist()[:3] == [0.0, 1.0, 0.5]


def test_what_cannot_be_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="'q' has no relevant document"):
        per_query({}, {"q": {"a": 0}})
    with pytest.raises(ValueError, match="'p' of the run has no judgements"):
        per_query({"p": {"a": 1.0}}, {"q": {"a": 1}})
    for metric in ("map@10", "ndcg", "recall@0", "recall@x"):
        with pytest.raises(ValueError, match="unknown"):
            per_query({}, {"q": {"a": 1}}, [metric])
    values = per_query({}, {"q": {"a": 1}, "p": {"a": 1}})["ndcg@10"]
    with pytest.raises(ValueError, match="same queries"):
        paired_test(values, values[::-1])
    with pytest.raises(ValueError, match="one value a query"):
        interval([])


def test_interval_is_the_percentile_bootstrap_and_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    values = rng.beta(0.4, 0.4, 300)
    mean, low, high = interval(values, seed=1)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=2).confidence_interval
    assert mean == pytest.approx(values.mean())
    np.testing.assert_allclose([low, high], theirs, atol=0.006)
    assert interval(values, seed=1) == (mean, low, high) != interval(values, seed=2)
    assert interval([0.5]) == (0.5, 0.5, 0.5)
    found = [interval(rng.random(200) < 0.3, seed=seed, n=500) for seed in range(200)]
    assert 0.90 <= np.mean([low <= 0.3 <= high for _, low, high in found]) <= 0.99


def test_paired_test_agrees_with_scipy_and_sees_a_difference() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(80)
    b = np.clip(a + rng.normal(0.03, 0.15, 80), 0, 1)
    ours = paired_test(a, b, seed=0)
    theirs = stats.permutation_test(
        (b - a,), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True, rng=0
    )
    assert ours.difference == pytest.approx((b - a).mean()) and ours.low < ours.difference < ours.high
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert paired_test(a, a).p_value == 1.0 and paired_test(a, a + 0.1).p_value < 0.001
    assert "no clear difference" in paired_test(a, a).verdict()
    assert paired_test(a, a + 0.1).verdict().startswith("better by 0.100")
    assert paired_test(a, a - 0.1).verdict(worse="slower").startswith("slower by 0.100")
