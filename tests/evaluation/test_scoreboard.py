"""The scoreboard: added to, replaced, removed from, damaged, and shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmhelpers import evaluation
from mmhelpers.data import Retrieval
from mmhelpers.evaluation import Scoreboard, paired_test

TRUTH = Retrieval(
    {"p": "a mug", "q": "a hat"}, {name: f"{name}.png" for name in "abcd"},
    {"p": {"a"}, "q": {"c"}}, {"mugs": ["p"], "none": []}, {"p": "mugs", "q": "hats"},
)  # fmt: skip
GOOD, BAD = ({q: {d: -float(i) for i, d in enumerate(order)} for q, order in zip("pq", orders, strict=True)}
             for orders in (("abcd", "cabd"), ("dcba", "dbac")))  # fmt: skip


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard(tmp_path / "deep" / "scoreboard.json")


def test_rows_details_and_replacement(board: Scoreboard) -> None:
    assert board.rows() == [] and board.frame().empty
    board.add("finetuned", "test", GOOD, TRUTH, train_seconds=60, seed=3)
    first = board.add("zero-shot", "test", BAD, TRUTH)
    board.add("finetuned", "validation", GOOD, TRUTH)
    assert list(first.index) == list(evaluation.METRICS) and first.loc["ndcg@10", "n_queries"] == 2
    rows = json.loads(board.path.read_text())
    assert all(tuple(row) == evaluation.COLUMNS for row in rows)
    assert len(rows) == 3 * 2 * 5, "the empty slice has no rows"
    assert [row["stage"] for row in rows[::10]] == ["zero-shot", "finetuned", "finetuned"]
    best = board.frame().query("stage == 'finetuned' and metric == 'ndcg@10' and split == 'test'")
    numbers = best[["value", "n_queries", "train_seconds", "seed"]].values.tolist()
    assert numbers == [[1.0, 2, 60.0, 3], [1.0, 1, 60.0, 3]]

    board.add("finetuned", "test", BAD, TRUTH, train_seconds=70)
    for families, bounds in ((TRUTH.families, [0.625, 0.25, 1]), ({"p": "both", "q": "both"}, [0.625] * 3)):
        half = board.add("reranked", "test", GOOD | {"q": BAD["q"]}, replace(TRUTH, families=families))
        assert half.loc["mrr@10", ["value", "low", "high"]].tolist() == bounds
    board.remove("reranked")
    assert len(board.rows()) == 30
    details = board.per_query("finetuned")
    assert details.loc["p", "top"] == ["d", "c", "b", "a"] and details.loc["q", "mrr@10"] == 0.25
    assert paired_test(board.per_query("zero-shot")["ndcg@10"], details["ndcg@10"]).difference == 0
    assert {path.name for path in board.path.parent.iterdir()} == {"scoreboard.json", "per_query.json"}

    board.remove("finetuned")
    board.remove("reranked")  # what is not there is no error
    assert {row["stage"] for row in board.rows()} == {"zero-shot"} and len(board.rows()) == 10
    with pytest.raises(KeyError, match="no 'finetuned' on test; it has zero-shot"):
        board.per_query("finetuned")
    with pytest.raises(ValueError, match="'best' is unknown; choose one of zero-shot"):
        board.add("best", "test", GOOD, TRUTH)


@pytest.mark.parametrize("content", ['[{"stage": "zero', "\x00", ""])
def test_a_damaged_scoreboard_says_where_and_what_to_do(content: str, board: Scoreboard) -> None:
    board.path.parent.mkdir()
    board.path.write_text(content)
    with pytest.raises(ValueError, match="scoreboard.json is damaged.*run notebooks"):
        board.add("zero-shot", "test", GOOD, TRUTH)
    assert board.path.read_text() == content, "what is damaged is left for a look"


def test_tables(board: Scoreboard) -> None:
    board.add("finetuned", "test", GOOD, TRUTH, train_seconds=93.4)
    board.add("zero-shot", "test", BAD, TRUTH)
    lines = evaluation.results_table(board.rows()).splitlines()
    assert lines[0] == "| stage | recall@1 | recall@10 | mrr@10 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| zero-shot", "| finetuned"]
    assert lines[3].endswith("| 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] |")
    text = evaluation.text_table(board.rows())
    assert all(word in text for word in ("zero-shot", "1.000 to 1.000", "93", "mugs"))
    assert max(map(len, text.splitlines())) <= 120
    assert "nothing was measured" in evaluation.text_table([])
    assert evaluation.results_table([]).count("\n") == 2
