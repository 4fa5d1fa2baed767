"""Metrics against ir-measures, intervals and tests against scipy, the scoreboard against bad luck."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, Success, nDCG
from scipy import stats

from mmhelpers import evaluation
from mmhelpers.data import Retrieval
from mmhelpers.evaluation import Scoreboard, interval, paired_test, per_query, ranked


def Truth(queries: dict, corpus: dict, qrels: dict, slices: dict | None = None) -> Retrieval:  # noqa: N802
    return Retrieval(queries, corpus, qrels, slices or {})


def random_cases(n: int, graded: bool, ties: bool, seed: int = 0) -> tuple[dict, dict]:
    """Random judgements and answers: unjudged documents, judged zeros, short and missing runs."""
    rng = random.Random(seed)
    documents = [f"d{i}" for i in range(40)] + ["D", "é", "d-1", "d_1"]
    qrels, run = {}, {}
    for case in range(n):
        judged = rng.sample(documents, rng.randint(1, 30))
        qrels[f"q{case}"] = {d: rng.randint(0, 3 if graded else 1) for d in judged} | {judged[0]: 1}
        answers = rng.sample(documents, rng.randint(0, 40))
        levels = rng.choice([2, 5, 20])
        scores = [rng.randint(-levels, levels) / 7 if ties else rng.gauss(0, 1) for _ in answers]
        if answers:
            run[f"q{case}"] = dict(zip(answers, scores, strict=True))
    return qrels, run


def reference(measures: list, qrels: dict, run: dict) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, float]] = {str(measure): {} for measure in measures}
    for metric in ir_measures.iter_calc(measures, qrels, run):
        values[str(metric.measure)][metric.query_id] = metric.value
    return values


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("ties", [True, False])
def test_metrics_equal_ir_measures_on_a_thousand_cases(graded: bool, ties: bool) -> None:
    qrels, run = random_cases(1000, graded, ties, seed=7)
    assert len(run) < len(qrels), "some queries must be missing from the run"
    same = {
        **{f"recall@{k}": R @ k for k in (1, 5, 10)},
        **{f"accuracy@{k}": Success @ k for k in (1, 5, 10)},
        "ndcg@10": nDCG @ 10, "ndcg@5": nDCG @ 5,
    }  # fmt: skip
    ours = per_query(run, qrels, [*same, "mrr@10"])
    best = {query: max(grades.values()) for query, grades in qrels.items()}
    right = {query: {d: int(g == best[query]) for d, g in grades.items()} for query, grades in qrels.items()}
    theirs = reference([*same.values(), RR, RR @ 10], right, run)
    theirs |= reference([nDCG @ 10, nDCG @ 5], qrels, run)
    for name, measure in same.items():
        expected = [theirs[str(measure)][query] for query in ours.index]
        np.testing.assert_allclose(ours[name], expected, atol=1e-6, err_msg=name)
    # RR@10 goes through a script that orders ties ascending; trec_eval's RR, cut at 10, has our rule.
    uncut = np.array([theirs["RR"][query] for query in ours.index])
    np.testing.assert_allclose(ours["mrr@10"], np.where(uncut > 0.0999, uncut, 0), atol=1e-6)
    if not ties:
        np.testing.assert_allclose(ours["mrr@10"], [theirs["RR@10"][q] for q in ours.index], atol=1e-6)


def test_ties_are_ordered_by_id_descending_and_equal_means_equal_in_float32() -> None:
    scores = {"d1": 0.5 + 1e-9, "d3": 0.5, "d2": 0.5, "d0": 0.6}
    assert ranked(scores) == ["d0", "d3", "d2", "d1"]
    qrels = {"q": {"d1": 1}}
    assert per_query({"q": scores}, qrels)["ndcg@10"].item() == pytest.approx(
        reference([nDCG @ 10], qrels, {"q": scores})["nDCG@10"]["q"]
    )


def test_recall_is_not_accuracy_when_several_documents_are_right() -> None:
    grades = {"q": {"a": 3, "b": 3, "c": 1}}
    values = per_query({"q": {"a": 2.0, "x": 1.0}}, grades, ["recall@1", "accuracy@1"])
    assert values.loc["q"].tolist() == [0.5, 1.0]


def test_what_fits_in_part_counts_in_ndcg_alone() -> None:
    metrics = ["recall@1", "accuracy@2", "mrr@10", "ndcg@10"]
    values = per_query({"q": {"a": 2.0, "x": 1.0}}, {"q": {"a": 1, "b": 3}}, metrics).loc["q"]
    assert values.tolist()[:3] == [0.0, 0.0, 0.0]
    assert values["ndcg@10"] == pytest.approx(1 / (3 + 1 / np.log2(3)))
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


def test_interval_is_the_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).beta(0.4, 0.4, 300)
    mean, low, high = interval(values, seed=1)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=2).confidence_interval
    assert mean == pytest.approx(values.mean())
    np.testing.assert_allclose([low, high], theirs, atol=0.006)
    assert interval(values, seed=1) == (mean, low, high) != interval(values, seed=2)
    assert interval([0.5]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="one value a query"):
        interval([])


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(200):
        _, low, high = interval(rng.random(200) < 0.3, seed=seed, n=500)
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / 200 <= 0.99


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
    assert paired_test(a, a).p_value == 1.0
    assert paired_test(a, a + 0.1).p_value < 0.001
    assert f"{paired_test(a, a + 0.1)}".startswith("+0.100 [+0.100, +0.100], p = 0.0001")


def test_paired_test_wants_the_same_queries() -> None:
    values = per_query({}, {"q": {"a": 1}, "p": {"a": 1}})["ndcg@10"]
    with pytest.raises(ValueError, match="same queries"):
        paired_test(values, values[::-1])


# --- models ---------------------------------------------------------------------------------------


class TwoTowers:
    """Encodes by a table, in place of a SentenceTransformer."""

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table = table

    def encode_query(self, inputs: list[str], **_: object):  # noqa: ANN202
        import torch

        return torch.tensor([self.table[value] for value in inputs])

    encode_document = encode_query

    def similarity(self, a, b):  # noqa: ANN001, ANN202
        from sentence_transformers.util import cos_sim

        return cos_sim(a, b)


class Judge:
    """Scores by a table, in place of a CrossEncoder, and counts the pairs it was shown."""

    def __init__(self, table: dict[str, float]) -> None:
        self.table, self.seen = table, 0

    def predict(self, pairs: list[list[str]], activation_fn=None, **_: object) -> np.ndarray:  # noqa: ANN001
        import torch

        self.seen += len(pairs)
        scores = torch.tensor([self.table[Path(path).stem] for _, path in pairs])
        return activation_fn(scores).numpy()


@pytest.fixture
def truth(tmp_path: Path) -> Retrieval:
    corpus = {name: str(tmp_path / f"{name}.png") for name in ("a", "b", "c", "d")}
    for path in corpus.values():
        Path(path).touch()
    qrels = {"p": {"a": 3, "b": 1}, "q": {"c": 2, "a": 0}}
    return Truth({"p": "a mug", "q": "a hat"}, corpus, qrels, {"mugs": ["p"], "none": []})


@pytest.fixture
def towers(truth: Retrieval) -> TwoTowers:
    vectors = {"a": [2.0, 0.0], "b": [1.0, 1.0], "c": [0.0, 1.0], "d": [1.0, 1.0]}
    return TwoTowers(
        {"a mug": [1.0, 0.1], "a hat": [0.1, 1.0]} | {truth.corpus[i]: v for i, v in vectors.items()}
    )


def test_search_is_exact_by_cosine_with_ties_by_id_descending(truth: Retrieval, towers: TwoTowers) -> None:
    run = evaluation.search(towers, truth)
    assert {query: list(answers) for query, answers in run.items()} == {
        "p": ["a", "d", "b", "c"],
        "q": ["c", "d", "b", "a"],
    }
    assert run["p"]["a"] == pytest.approx(1 / np.sqrt(1.01))
    assert all(ranked(answers) == list(answers) for answers in run.values())
    cut = evaluation.search(towers, truth, k=2)
    assert {query: list(answers) for query, answers in cut.items()} == {"p": ["a", "d"], "q": ["c", "d"]}


def test_images_can_search_texts(truth: Retrieval, towers: TwoTowers) -> None:
    other = evaluation.transposed(truth)
    assert other.qrels == {"a": {"p": 3}, "c": {"q": 2}} and set(other.queries) == {"a", "c"}
    values = per_query(evaluation.search(towers, other), other.qrels, ["accuracy@1"])
    assert values["accuracy@1"].to_dict() == {"a": 1.0, "c": 1.0}


def test_a_missing_image_is_not_taken_for_a_text(truth: Retrieval, towers: TwoTowers) -> None:
    os.remove(truth.corpus["c"])
    for retrieval in (truth, evaluation.transposed(truth)):
        with pytest.raises(FileNotFoundError, match=r"c\.png \(1 missing\)"):
            evaluation.search(towers, retrieval)


def test_a_model_that_broke_is_an_error(truth: Retrieval, towers: TwoTowers) -> None:
    towers.table["a mug"] = [float("nan"), 1.0]
    with pytest.raises(ValueError, match="not finite"):
        evaluation.search(towers, truth)
    with pytest.raises(ValueError, match="not finite: first seen for query 'p'"):
        evaluation.rerank(Judge({"a": float("nan")}), {"p": {"a": 1.0}}, truth)


def test_nothing_to_search_or_to_rank_is_an_error(truth: Retrieval, towers: TwoTowers) -> None:
    judge, run = Judge(dict.fromkeys("abcd", 0.0)), {"p": {"a": 1.0}}
    for bare, what in (
        (replace(truth, queries={}), "no queries"),
        (replace(truth, corpus={}), "no documents"),
    ):
        with pytest.raises(ValueError, match=f"there are {what}: choose a split"):
            evaluation.search(towers, bare)
        with pytest.raises(ValueError, match=f"there are {what}"):
            evaluation.evaluator(bare, "validation")  # before the training, not after its first epoch
    with pytest.raises(ValueError, match="there are no queries"):
        evaluation.rerank(judge, {}, truth)
    with pytest.raises(ValueError, match="'q' has no answers to rerank"):
        evaluation.rerank(judge, run | {"q": {}}, truth)
    for k in (0, -1):
        for ask in (
            lambda k: evaluation.search(towers, truth, k=k),
            lambda k: evaluation.rerank(judge, run, truth, k=k),
            lambda k: evaluation.evaluator(truth, "validation", run, k=k),
        ):
            with pytest.raises(ValueError, match=f"k = {k}: ask for one answer or more"):
                ask(k)


def test_more_answers_than_there_are_documents_are_all_of_them(truth: Retrieval, towers: TwoTowers) -> None:
    run = evaluation.search(towers, truth, k=1000)
    assert run == evaluation.search(towers, truth, k=4) and {len(answers) for answers in run.values()} == {4}
    judge = Judge({"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0})
    assert evaluation.rerank(judge, run, truth, k=1000) == evaluation.rerank(judge, run, truth, k=4)


def test_rerank_reorders_the_top_and_keeps_the_rest(truth: Retrieval, towers: TwoTowers) -> None:
    run = evaluation.search(towers, truth)
    judge = Judge({"a": -40.0, "b": 40.0, "c": 41.0, "d": -3.0})
    new = evaluation.rerank(judge, run, truth, k=3)
    assert {query: list(answers) for query, answers in new.items()} == {
        "p": ["b", "d", "a", "c"],
        "q": ["c", "b", "d", "a"],  # 41 before 40: a sigmoid would have made them equal
    }
    assert judge.seen == 6 and new["p"]["b"] == 40.0
    assert all(ranked(answers) == list(answers) for answers in new.values())


def test_evaluators_for_the_trainers(
    truth: Retrieval, towers: TwoTowers, capfd: pytest.CaptureFixture
) -> None:
    class Card:
        def set_evaluation_metrics(self, evaluator, metrics, epoch, step) -> None:  # noqa: ANN001
            self.logged = metrics[evaluator.primary_metric]

    towers.model_card_data = card = Card()
    retriever = evaluation.evaluator(truth, "validation")
    metrics = retriever(towers, epoch=0.5, steps=10)
    expected = per_query(evaluation.search(towers, truth), truth.qrels).mean()
    assert metrics == {f"validation_{name}": pytest.approx(value) for name, value in expected.items()}
    assert retriever.primary_metric == "validation_ndcg@10" and retriever.greater_is_better
    assert card.logged == metrics["validation_ndcg@10"]
    judge = Judge({"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0})
    judge.model_card_data = card
    reranking = evaluation.evaluator(truth, "validation", candidates=evaluation.search(towers, truth))
    assert reranking(judge)["validation_recall@10"] == 1.0 and judge.seen == 8
    assert capfd.readouterr() == ("", "")


def test_the_evaluator_chooses_the_best_checkpoint_in_the_library_trainer(tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from standins import pictures, tiny_clip

    paths = [str(path) for path in pictures(tmp_path / "pictures", 4, (32, 32))]
    texts = ["a red mug", "a blue hat", "a green sock", "a pink lamp"]
    truth = Truth(dict(zip("pqrs", texts, strict=True)), dict(zip("abcd", paths, strict=True)),
                  {q: {d: 1} for q, d in zip("pqrs", "abcd", strict=True)})  # fmt: skip
    model = SentenceTransformer(str(tiny_clip(tmp_path / "clip", size=32)), device="cpu")
    arguments = Arguments(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=4, report_to="none",
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, disable_tqdm=True,
        load_best_model_at_end=True, metric_for_best_model="eval_validation_ndcg@10", use_cpu=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model, arguments, Dataset.from_dict({"text": texts, "image": paths}),
        loss=MultipleNegativesRankingLoss(model), evaluator=evaluation.evaluator(truth, "validation"),
    )  # fmt: skip
    trainer.train()
    values = [
        log["eval_validation_ndcg@10"]
        for log in trainer.state.log_history
        if "eval_validation_ndcg@10" in log
    ]
    assert len(values) >= 2 and trainer.state.best_metric == pytest.approx(max(values))


# --- scoreboard -----------------------------------------------------------------------------------


def run_of(*orders: str) -> dict[str, dict[str, float]]:
    return {q: {d: -float(i) for i, d in enumerate(order)} for q, order in zip("pq", orders, strict=True)}


def test_scoreboard_rows_details_and_replacement(truth: Retrieval, tmp_path: Path) -> None:
    board = Scoreboard(tmp_path / "deep" / "scoreboard.json")
    assert board.rows() == [] and board.frame().empty
    board.add("finetuned", "test", run_of("abcd", "cabd"), truth, train_seconds=60, seed=3)
    first = board.add("zero-shot", "test", run_of("dcba", "dbac"), truth)
    board.add("finetuned", "validation", run_of("abcd", "abcd"), truth)
    assert list(first.index) == list(evaluation.METRICS) and first.loc["ndcg@10", "n_queries"] == 2
    rows = json.loads(board.path.read_text())
    assert all(tuple(row) == evaluation.COLUMNS for row in rows)
    assert len(rows) == 3 * 2 * 5, "the empty slice has no rows"
    assert list(dict.fromkeys((row["split"], row["stage"]) for row in rows)) == [
        ("test", "zero-shot"), ("test", "finetuned"), ("validation", "finetuned"),
    ]  # fmt: skip
    best = board.frame().query("stage == 'finetuned' and metric == 'ndcg@10' and split == 'test'")
    assert best["value"].tolist() == [1.0, 1.0] and best["n_queries"].tolist() == [2, 1]
    assert best["train_seconds"].tolist() == [60.0, 60.0] and best["seed"].tolist() == [3, 3]

    board.add("finetuned", "test", run_of("dcba", "dbac"), truth, train_seconds=70)
    assert len(board.rows()) == 30
    details = board.per_query("finetuned")
    assert details.loc["p", "top"] == ["d", "c", "b", "a"] and details.loc["q", "mrr@10"] == 0.25
    assert paired_test(board.per_query("zero-shot")["ndcg@10"], details["ndcg@10"]).difference == 0
    assert {path.name for path in board.path.parent.iterdir()} == {"scoreboard.json", "per_query.json"}

    board.remove("finetuned")
    assert {row["stage"] for row in board.rows()} == {"zero-shot"} and len(board.rows()) == 10
    with pytest.raises(KeyError, match="it has zero-shot"):
        board.per_query("finetuned")
    board.remove("reranked")
    assert len(board.rows()) == 10, "what is not there is no error"


def test_scoreboard_refuses_what_it_does_not_know(truth: Retrieval, tmp_path: Path) -> None:
    board = Scoreboard(tmp_path / "scoreboard.json")
    with pytest.raises(ValueError, match="'best' is unknown; choose one of zero-shot"):
        board.add("best", "test", run_of("abcd", "cabd"), truth)
    with pytest.raises(KeyError, match="has no 'longer' on test"):
        board.per_query("longer")
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [('[{"stage": "zero', "damaged"), ("{}", "not a list"), ("\x00", "damaged"), ("[7]", "row 1"),
     ('[{"stage": "longer"}]', "row 1: not a scoreboard row")],
)  # fmt: skip
def test_a_corrupted_scoreboard_says_where_and_what_to_do(
    content: str, message: str, truth: Retrieval, tmp_path: Path
) -> None:
    board = Scoreboard(tmp_path / "scoreboard.json")
    board.path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        board.add("zero-shot", "test", run_of("abcd", "cabd"), truth)
    assert "scoreboard.json" in str(error.value) and "run notebooks" in str(error.value)
    assert board.path.read_text() == content, "what is damaged is left for a look"


def test_a_write_that_fails_leaves_the_old_scoreboard(
    truth: Retrieval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Scoreboard(tmp_path / "scoreboard.json")
    board.add("zero-shot", "test", run_of("dcba", "dbac"), truth)
    before = board.path.read_text()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        board.add("finetuned", "test", run_of("abcd", "cabd"), truth)
    assert board.path.read_text() == before
    assert {path.name for path in tmp_path.glob("*scoreboard*")} == {"scoreboard.json"}
    assert {path.name for path in tmp_path.glob("*per_query*")} == {"per_query.json"}


def test_tables(truth: Retrieval, tmp_path: Path) -> None:
    board = Scoreboard(tmp_path / "scoreboard.json")
    board.add("finetuned", "test", run_of("abcd", "cabd"), truth, train_seconds=93.4)
    board.add("zero-shot", "test", run_of("dcba", "dbac"), truth)
    lines = evaluation.results_table(board.rows()).splitlines()
    assert lines[0] == "| stage | recall@1 | mrr@10 | ndcg@10 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| zero-shot", "| finetuned"]
    assert lines[3].endswith("| 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] |")
    text = evaluation.text_table(board.rows())
    assert "zero-shot" in text and "1.000 to 1.000" in text and "93" in text and "mugs" in text
    assert max(map(len, text.splitlines())) <= 120
    assert (
        "nothing was measured" in evaluation.text_table([]) and evaluation.results_table([]).count("\n") == 2
    )


def test_tables_need_no_torch() -> None:
    code = "import sys, mmhelpers.evaluation; print({'torch', 'sentence_transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
