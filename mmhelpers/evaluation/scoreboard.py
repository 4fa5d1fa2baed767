"""How good is a retriever or a reranker, stage by stage, and where that is written down.

Metrics and their certainty are in `metrics`, and can be had from here too. Tables and the
scoreboard need no torch; what runs a model imports it when called.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mmhelpers.evaluation.metrics import METRICS, PairedResult, Run, interval, paired_test, per_query, ranked

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from sentence_transformers.base.evaluation import BaseEvaluator

    from mmhelpers.data import Retrieval

__all__ = [
    "COLUMNS", "METRICS", "STAGES", "PairedResult", "Run", "Scoreboard", "evaluator", "interval",
    "paired_test", "per_query", "ranked", "rerank", "results_table", "search", "text_table", "transposed",
]  # fmt: skip

STAGES = ("zero-shot", "finetuned", "longer", "hard-negatives", "reranked")
COLUMNS = ("stage", "split", "slice", "metric", "value", "low", "high", "n_queries", "train_seconds", "seed")
_KEPT_ANSWERS = 10  # answers a query that the scoreboard remembers for the galleries
_REMAKE = "delete the file and run notebooks 02 to 05 again"


def search(model: SentenceTransformer, retrieval: Retrieval, k: int = 100, batch_size: int = 64) -> Run:
    """Answer every query with its k best documents, by exact search.

    Args:
        model: scores with its own similarity (cosine for CLIP).
        retrieval: images are file paths; `transposed(retrieval)` searches texts with images.
        k: answers a query; fewer where the corpus is smaller.

    Raises:
        FileNotFoundError: an image is missing (the library would read its path as a text).
        ValueError: there are no queries or no documents, k is below 1, or the scores are not numbers.
    """
    _check_question(retrieval.queries, retrieval.corpus, k)
    _check_images(retrieval)
    options = {"batch_size": batch_size, "show_progress_bar": False, "convert_to_tensor": True}
    queries = model.encode_query(list(retrieval.queries.values()), **options).float()
    documents = model.encode_document(list(retrieval.corpus.values()), **options).float()
    ids = np.array(list(retrieval.corpus))
    tie_order = np.argsort(ids)[::-1]  # a stable sort of these columns leaves ties in descending id
    run: Run = {}
    for names, block in zip(_batches(list(retrieval.queries), 256), queries.split(256), strict=True):
        scores = model.similarity(block, documents).cpu().numpy()[:, tie_order]
        if not np.isfinite(scores).all():
            raise ValueError(
                "the model's scores are not finite: train with a lower learning rate or in float32"
            )
        places = min(k, len(ids))
        worst = np.partition(scores, -places, axis=1)[:, -places]  # of the k best: only these are sorted
        for name, row, bound in zip(names, scores, worst, strict=True):
            columns = np.flatnonzero(row >= bound)
            columns = columns[np.argsort(-row[columns], kind="stable")][:places]
            run[name] = dict(zip(ids[tie_order[columns]].tolist(), row[columns].tolist(), strict=True))
    return run


def rerank(
    model: CrossEncoder, run: Run, retrieval: Retrieval, k: int = 100, batch_size: int | None = None
) -> Run:
    """Put the first k answers of each query into the order of a cross-encoder.

    Args:
        model: predicts one score for a (query text, image path) pair.
        run: the first stage. Answers below k keep their order, after the reranked ones; their new
            scores say only that.
        batch_size: pairs a forward pass; by default all pairs of one query.

    Returns:
        A run with the same answers, best first.

    Raises:
        ValueError: there is nothing to rerank, k is below 1, or the scores are not numbers.
    """
    from torch.nn import Identity

    _check_question(run, retrieval.corpus, k)
    if empty := [query for query, answers in run.items() if not answers]:
        raise ValueError(f"query {empty[0]!r} has no answers to rerank ({len(empty)} such queries)")

    reranked: Run = {}
    for query, answers in run.items():
        order = ranked(answers)
        pairs = [[retrieval.queries[query], retrieval.corpus[image]] for image in order[:k]]
        # Raw scores: the default sigmoid rounds confident answers to 1.0, and ties lose the order.
        scores = model.predict(
            pairs, batch_size=batch_size or k, activation_fn=Identity(), show_progress_bar=False
        )
        top = dict(zip(order[:k], np.asarray(scores, dtype=float).tolist(), strict=True))
        if not np.isfinite(list(top.values())).all():
            raise ValueError(f"the reranker's scores for query {query!r} are not finite")
        floor = min(top.values())
        tail = {image: floor - 1 - position for position, image in enumerate(order[k:])}
        reranked[query] = {image: top[image] for image in ranked(top)} | tail
    return reranked


def transposed(retrieval: Retrieval) -> Retrieval:
    """The same truth asked from the other side: images are the queries and texts the corpus.

    Images that are just right for no text cannot be asked for and are left out; slices are of texts, so
    there are none. With several texts an image the literature's R@k is `accuracy@k`, not `recall@k`.
    """
    qrels: dict[str, dict[str, int]] = {}
    for query, grades in retrieval.qrels.items():
        for image, grade in grades.items():
            if grade == max(grades.values()):
                qrels.setdefault(image, {})[query] = grade
    images = {image: path for image, path in retrieval.corpus.items() if image in qrels}
    return replace(retrieval, queries=images, corpus=dict(retrieval.queries), qrels=qrels, slices={})


def evaluator(
    retrieval: Retrieval, name: str, candidates: Run | None = None, k: int = 30, batch_size: int = 64
) -> BaseEvaluator:
    """An evaluator for the trainers, silent, with graded nDCG@10 as its primary metric.

    The library's InformationRetrievalEvaluator takes relevant or not; the shop's truth has grades.

    Args:
        retrieval: usually the validation truth.
        name: results are keyed `{name}_ndcg@10` and so on; in `metric_for_best_model` the trainer
            puts `eval_` before it.
        candidates: give a first-stage run to evaluate a CrossEncoder, which reranks its first k.

    Raises:
        ValueError: there are no queries or no documents, or k is below 1.
    """
    from sentence_transformers.base.evaluation import BaseEvaluator

    _check_question(retrieval.queries, retrieval.corpus, k)  # now, not when the first epoch is over

    class GradedRetrievalEvaluator(BaseEvaluator):
        def __init__(self) -> None:
            super().__init__()
            self.name, self.primary_metric = name, f"{name}_ndcg@10"

        def __call__(
            self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
        ) -> dict[str, float]:
            if candidates is None:
                run = search(model, retrieval, k=10, batch_size=batch_size)
            else:
                run = rerank(model, candidates, retrieval, k=k)
            means = per_query(run, retrieval.qrels).mean()
            metrics = {f"{name}_{metric}": float(value) for metric, value in means.items()}
            self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
            return metrics

    return GradedRetrievalEvaluator()


class Scoreboard:
    """What each stage reached, in `scoreboard.json`, a list of rows with the keys `COLUMNS`.

    Beside it, `per_query.json` keeps each query's metrics and first ten answers, so that stages can be
    compared query by query without running a model again.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.details = self.path.with_name("per_query.json")

    def rows(self) -> list[dict[str, Any]]:
        """All rows, in the order of the stages; none where nothing was measured yet."""
        rows = _read(self.path, list)
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or set(row) != set(COLUMNS) or row["stage"] not in STAGES:
                raise ValueError(f"{self.path}, row {number}: not a scoreboard row; {_REMAKE}")
        return rows

    def frame(self) -> pd.DataFrame:
        """The rows as a table, with stages as an ordered category."""
        frame = pd.DataFrame(self.rows(), columns=list(COLUMNS))
        return frame.assign(stage=pd.Categorical(frame["stage"], STAGES, ordered=True))

    def per_query(self, stage: str, split: str = "test") -> pd.DataFrame:
        """Each query's metrics at a stage, index query id; column `top` lists its first ten answers."""
        stored = _read(self.details, dict).get(split, {})
        if stage not in stored:
            raise KeyError(
                f"{self.details} has no {stage!r} on {split}; it has {', '.join(stored) or 'none'}"
            )
        return pd.DataFrame(stored[stage]).set_index("query")

    def add(
        self, stage: str, split: str, run: Run, retrieval: Retrieval, train_seconds: float = 0, seed: int = 0
    ) -> pd.DataFrame:
        """Measure a run on all slices and write it down, in place of this stage's earlier rows.

        Args:
            train_seconds: training time of this stage's model, all stages before it included.

        Returns:
            This stage on the whole split: a row a metric, with value, low, high and n_queries.
        """
        if stage not in STAGES:
            raise ValueError(f"stage {stage!r} is unknown; choose one of {', '.join(STAGES)}")
        others = [row for row in self.rows() if (row["stage"], row["split"]) != (stage, split)]
        values = per_query(run, retrieval.qrels)
        new = []
        for name, queries in {"all": list(values.index), **retrieval.slices}.items():
            for metric in METRICS if len(queries) else ():
                numbers = [round(number, 6) for number in interval(values.loc[queries, metric], seed)]
                time = round(float(train_seconds), 1)
                cells = (stage, split, name, metric, *numbers, len(queries), time, seed)
                new.append(dict(zip(COLUMNS, cells, strict=True)))
        stored = _read(self.details, dict)
        columns = {metric: values[metric].round(6).tolist() for metric in METRICS}
        top = [ranked(run.get(query, {}))[:_KEPT_ANSWERS] for query in values.index]
        stored.setdefault(split, {})[stage] = {"query": values.index.tolist(), **columns, "top": top}
        _write(self.details, json.dumps(stored, ensure_ascii=False))
        self._write_rows(others + new)
        whole = pd.DataFrame([row for row in new if row["slice"] == "all"])
        return whole.set_index("metric")[["value", "low", "high", "n_queries"]]

    def remove(self, stage: str) -> None:
        """Forget a stage that the present model does not have; an earlier model may have left it."""
        self._write_rows([row for row in self.rows() if row["stage"] != stage])
        stored = _read(self.details, dict)
        kept = {
            split: {name: found for name, found in stages.items() if name != stage}
            for split, stages in stored.items()
        }
        _write(self.details, json.dumps(kept, ensure_ascii=False))

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        rows = sorted(rows, key=lambda row: (row["split"], STAGES.index(row["stage"])))
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        _write(self.path, f"[\n{lines}\n]\n")


def results_table(rows: Iterable[Mapping[str, Any]], split: str = "test") -> str:
    """Markdown table for the README: a line a stage, each value with its 95 % interval."""
    lines = [f"| stage | {' | '.join(METRICS)} | queries |", "|---" + "|---:" * (len(METRICS) + 1) + "|"]
    for stage, group in _of_split(rows, split).query("slice == 'all'").groupby("stage", observed=True):
        cells = group.set_index("metric").loc[list(METRICS)]
        values = [f"{c.value:.3f} [{c.low:.3f}, {c.high:.3f}]" for c in cells.itertuples()]
        lines.append(f"| {stage} | {' | '.join(values)} | {cells.n_queries.iloc[0]} |")
    return "\n".join(lines) + "\n"


def text_table(rows: Iterable[Mapping[str, Any]], split: str = "test") -> str:
    """The scoreboard for a terminal: all metrics of the whole split, then nDCG@10 by slice."""
    frame = _of_split(rows, split)
    if frame.empty:
        return f"nothing was measured on {split} yet\n"
    whole, ndcg = frame[frame["slice"] == "all"], frame[frame["metric"] == "ndcg@10"]
    table = whole.pivot(index="stage", columns="metric", values="value")[list(METRICS)]
    spread = ndcg[ndcg["slice"] == "all"].set_index("stage")
    table["95 % of ndcg@10"] = [f"{row.low:.3f} to {row.high:.3f}" for row in spread.itertuples()]
    table["train s"] = spread["train_seconds"].round().astype(int)
    slices = ndcg.pivot(index="stage", columns="slice", values="value")[ndcg["slice"].unique()]
    parts = [table, slices.drop(columns="all").rename_axis(columns="ndcg@10")]
    texts = [part.rename_axis(index=None).to_string(float_format="%.3f", line_width=120) for part in parts]
    return "\n\n".join(texts if len(slices.columns) > 1 else texts[:1]) + "\n"


def _of_split(rows: Iterable[Mapping[str, Any]], split: str) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return frame.assign(stage=pd.Categorical(frame["stage"], STAGES, ordered=True))[frame["split"] == split]


def _read(path: Path, kind: type) -> Any:
    if not path.exists():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {_REMAKE}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a {kind.__name__}; {_REMAKE}")
    return content


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _batches(values: list[str], size: int) -> Iterable[list[str]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _check_question(queries: Mapping[str, Any], documents: Mapping[str, str], k: int) -> None:
    for what, side in (("queries", queries), ("documents", documents)):
        if not side:
            raise ValueError(f"there are no {what}: choose a split or a slice that has some")
    if k < 1:
        raise ValueError(f"k = {k}: ask for one answer or more")


def _check_images(retrieval: Retrieval) -> None:
    # One side holds images, the other texts: the side with fewer strings that are no file is the images.
    sides = (retrieval.corpus, retrieval.queries)
    missing = min(([path for path in side.values() if not os.path.isfile(path)] for side in sides), key=len)
    if missing:
        raise FileNotFoundError(f"no image at {missing[0]} ({len(missing)} missing): make the data set again")
