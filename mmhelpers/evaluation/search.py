"""A model's answers to all queries of a split: by exact search, and reranked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmhelpers.evaluation.metrics import Run, per_query, ranked

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from sentence_transformers.base.evaluation import BaseEvaluator

    from mmhelpers.data import Retrieval


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
        _check_finite(scores, "train with a lower learning rate or in float32")
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
        _check_finite(list(top.values()), f"first seen for query {query!r}")
        floor = min(top.values())
        tail = {image: floor - 1 - position for position, image in enumerate(order[k:])}
        reranked[query] = {image: top[image] for image in ranked(top)} | tail
    return reranked


def transposed(retrieval: Retrieval) -> Retrieval:
    """The same truth asked from the other side: images are the queries and texts the corpus.

    Images that are a right answer to no text cannot be asked for and are left out; slices are of texts, so
    there are none. With several texts an image the literature's R@k is `accuracy@k`, not `recall@k`.
    """
    qrels: dict[str, dict[str, int]] = {}
    for query in retrieval.qrels:
        for image in retrieval.right_answers(query):
            qrels.setdefault(image, {})[query] = retrieval.qrels[query][image]
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


def _batches(values: list[str], size: int) -> Iterable[list[str]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _check_question(queries: Mapping[str, Any], documents: Mapping[str, str], k: int) -> None:
    for what, side in (("queries", queries), ("documents", documents)):
        if not side:
            raise ValueError(f"there are no {what}: choose a split or a slice that has some")
    if k < 1:
        raise ValueError(f"k = {k}: ask for one answer or more")


def _check_finite(scores: Any, advice: str) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(f"the model's scores are not finite: {advice}")


def _check_images(retrieval: Retrieval) -> None:
    """The side whose first entry is a file holds the images, and then all of it must."""
    for side in (retrieval.corpus, retrieval.queries):
        missing = [path for path in side.values() if not os.path.isfile(path)]
        if len(missing) < len(side):
            break
    if missing:
        what = f"no image at {missing[0]} ({len(missing)} missing): make the data set again"
        raise FileNotFoundError(what)
