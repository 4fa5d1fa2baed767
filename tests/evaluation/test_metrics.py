"""Metrics against ir-measures and by hand, intervals and tests against scipy."""

from __future__ import annotations

import random

import ir_measures
import numpy as np
import pandas as pd
import pytest
from ir_measures import RR, R, Success, nDCG
from scipy import stats

from mmhelpers.evaluation import interval, paired_test, per_query, ranked


@pytest.mark.parametrize("ties", [True, False])
def test_metrics_equal_ir_measures_on_a_thousand_cases(ties: bool) -> None:
    """Random truths and answers: unknown documents, one or many right ones, short and missing runs."""
    rng, relevant, run = random.Random(7), {}, {}
    documents = [f"d{i}" for i in range(40)] + ["D", "é", "d-1", "d_1"]
    for case in range(1000):
        relevant[f"q{case}"] = set(rng.sample(documents, rng.choice([1, 1, 5, 30])))
        if answers := rng.sample(documents, rng.randint(0, 40)):
            run[f"q{case}"] = {d: rng.randint(-5, 5) / 7 if ties else rng.gauss(0, 1) for d in answers}
    assert len(run) < len(relevant), "some queries must be missing from the run"
    measures = {f"recall@{k}": R @ k for k in (1, 5, 10)} | {f"accuracy@{k}": Success @ k for k in (1, 5, 10)}
    # RR@10 goes through a script that orders ties ascending; trec_eval's RR, cut at 10, has our rule.
    measures |= {f"ndcg@{k}": nDCG @ k for k in (5, 10)} | {"mrr@10": RR}
    ours, truth = per_query(run, relevant, list(measures)), {q: dict.fromkeys(d, 1) for q, d in relevant.items()}
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
    found = per_query({"q": {"x": 3.0, "a": 2.0, "y": 1.0}}, {"q": {"a", "b"}, "p": ["a"]}, metrics)
    assert found.loc["q"].tolist() == pytest.approx([0, 1, 1 / 2, 1 / np.log2(3) / (1 + 1 / np.log2(3))])
    assert found.loc["p"].tolist() == [0, 0, 0, 0], "what the run lacks counts 0"
    first = per_query({"q": {"a": 2.0, "x": 1.0}}, {"q": {"a", "b"}}, metrics).loc["q"]
    assert first.tolist()[:3] == [0.5, 1.0, 1.0], "recall is not accuracy when several are right"


def test_what_cannot_be_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="'q' has no relevant document"):
        per_query({}, {"q": set()})
    with pytest.raises(ValueError, match="'p' of the run has no judgements"):
        per_query({"p": {"a": 1.0}}, {"q": {"a"}})
    for metric in ("map@10", "ndcg", "recall@0", "recall@x"):
        with pytest.raises(ValueError, match="unknown"):
            per_query({}, {}, [metric])
    values = per_query({}, {"q": {"a"}, "p": {"a"}})["ndcg@10"]
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
    b = np.clip((a := rng.random(80)) + rng.normal(0.03, 0.15, 80), 0, 1)
    ours = paired_test(a, b, seed=0)
    theirs = stats.permutation_test((b - a,), np.mean, permutation_type="samples", rng=0)
    assert ours.difference == pytest.approx((b - a).mean()) and ours.low < ours.difference < ours.high
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert paired_test(a, a).p_value == 1.0 and paired_test(a, a + 0.1).p_value < 0.001
    assert "no clear difference" in paired_test(a, a).verdict()
    assert paired_test(a, a + 0.1).verdict().startswith("better by 0.100")
    assert paired_test(a, a - 0.1).verdict(worse="slower").startswith("slower by 0.100")


def test_queries_of_one_family_count_as_one() -> None:
    """Copies of a query are no evidence: with families, all is as for one of each; without, it looks surer."""
    rng = np.random.default_rng(0)
    a = pd.Series(rng.random(40), [f"q{number:02d}" for number in range(40)])
    b = (a + rng.normal(0.05, 0.2, 40)).clip(0, 1)
    alone = dict(zip(a.index, a.index, strict=True))
    assert interval(a, 1, alone) == pytest.approx(interval(a, 1)) == interval(a, 1, {})
    assert paired_test(a, b, 1, alone) == paired_test(a, b, 1)
    families = {f"{query}-{k}": query for query in a.index for k in range(5)}
    many_a, many_b = (pd.Series(np.repeat(v.values, 5), list(families)) for v in (a, b))
    together, apart = paired_test(many_a, many_b, 1, families), paired_test(many_a, many_b, 1)
    assert vars(together) == pytest.approx(vars(paired_test(a, b, 1))) and apart.p_value < together.p_value
    assert 2 < (together.high - together.low) / (apart.high - apart.low) < 2.5, "the root of 5 is 2.24"
    assert interval(many_a, 1, families) == pytest.approx(interval(a, 1))
    shuffled = many_a[:-3].sample(frac=1, random_state=0)  # and the last family is smaller
    assert interval(shuffled, 1, families) == pytest.approx(found := interval(many_a[:-3], 1, families))
    assert found[0] == pytest.approx(shuffled.mean()) and found[1:] != interval(a, 1)[1:]
    # Three families, all better: of 8 ways to flip them 2 are as extreme, however many queries they hold.
    three = {query: query[1] for query in many_a.index[:150]}
    assert paired_test(many_a[:150], many_a[:150] + 0.1, 0, three).p_value == pytest.approx(0.25, abs=0.02)
