"""Exact search, and reranking of what it found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers.util import cos_sim

from mmhelpers import evaluation
from mmhelpers.data import Retrieval
from mmhelpers.evaluation import ranked

CORPUS = {name: f"{name}.png" for name in "abcd"}
TRUTH = Retrieval({"p": "a mug", "q": "a hat"}, CORPUS, {"p": {"a", "b"}, "q": {"c"}}, {}, {})


class TwoTowers:
    """Encodes by a table, in place of a SentenceTransformer."""

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table, self.similarity = table, cos_sim

    def encode_query(self, inputs: list[str], **_: object) -> torch.Tensor:
        return torch.tensor([self.table[value] for value in inputs])

    encode_document = encode_query


class Judge:
    """Scores by a table, in place of a CrossEncoder, and counts the pairs it was shown."""

    def __init__(self, *scores: float) -> None:
        self.table, self.seen = dict(zip("abcd", scores, strict=True)), 0

    def predict(self, pairs: list[list[str]], activation_fn: torch.nn.Module, **_: object) -> np.ndarray:
        self.seen += len(pairs)
        return activation_fn(torch.tensor([self.table[Path(path).stem] for _, path in pairs])).numpy()


def test_search_is_exact_by_cosine() -> None:
    """600 queries over 50 documents of different lengths, by brute force in float64."""
    rng = np.random.default_rng(0)
    corpus, queries = {f"d{n}": f"{n}.png" for n in range(50)}, {f"q{n}": f"text {n}" for n in range(600)}
    values = (*corpus.values(), *queries.values())
    table = {value: (rng.normal(size=4) * rng.uniform(0.1, 9)).tolist() for value in values}
    unit = {value: np.array(vector) / np.linalg.norm(vector) for value, vector in table.items()}
    for k in (7, 1000):
        run = evaluation.search(TwoTowers(table), Retrieval(queries, corpus, {}, {}, {}), k=k)
        assert list(run) == list(queries)
        for query, text in queries.items():
            expected = {name: float(unit[text] @ unit[path]) for name, path in corpus.items()}
            assert list(run[query]) == sorted(expected, key=expected.get, reverse=True)[:k]
            assert run[query] == pytest.approx({name: expected[name] for name in run[query]}, abs=1e-5)


def test_rerank_reorders_the_top_and_keeps_the_rest() -> None:
    run = {q: dict(zip(order, (0.9, 0.7, 0.7, 0.1), strict=True)) for q, order in {"p": "adbc", "q": "cdba"}.items()}
    judge = Judge(-40.0, 40.0, 41.0, -3.0)
    new = evaluation.rerank(judge, run, TRUTH, k=3)
    assert all(ranked(answers) == list(answers) for answers in new.values())
    # 41 before 40: a sigmoid would have made them equal.
    assert {query: "".join(answers) for query, answers in new.items()} == {"p": "bdac", "q": "cbda"}
    assert judge.seen == 6 and new["p"]["b"] == 40.0
    assert evaluation.rerank(judge, run, TRUTH, k=1000) == evaluation.rerank(judge, run, TRUTH, k=4)


def test_what_cannot_be_searched_is_an_error() -> None:
    towers = TwoTowers(dict.fromkeys((*TRUTH.queries.values(), *CORPUS.values()), [1.0, 0.0]))
    for bare in (replace(TRUTH, queries={}), replace(TRUTH, corpus={})):
        with pytest.raises(ValueError, match="there are no queries, or no documents"):
            evaluation.search(towers, bare)
    with pytest.raises(ValueError, match="'q' has no answers to rerank"):
        evaluation.rerank(Judge(0.0, 0.0, 0.0, 0.0), {"p": {"a": 1.0}, "q": {}}, TRUTH)
    with pytest.raises(ValueError, match="not finite: first seen for query 'p'"):
        evaluation.rerank(Judge(float("nan"), 0.0, 0.0, 0.0), {"p": {"a": 1.0}}, TRUTH)
    towers.table["a mug"] = [float("inf"), 1.0]
    with pytest.raises(ValueError, match="not finite"):
        evaluation.search(towers, TRUTH)
