"""A model's answers to all queries of a split: by exact search, and reranked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmhelpers.evaluation.metrics import Run, ranked

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from mmhelpers.data import Retrieval


def search(model: SentenceTransformer, retrieval: Retrieval, k: int = 100, batch_size: int = 64) -> Run:
    """Answer every query with its k best documents, by exact search with the model's own similarity.

    Raises: ValueError: there are no queries or no documents, or the scores are not numbers.
    """
    from sentence_transformers.util import semantic_search  # seconds, which the runner need not wait for

    if not retrieval.queries or not retrieval.corpus:
        raise ValueError("there are no queries, or no documents: choose a split or a slice that has some")
    options = {"batch_size": batch_size, "show_progress_bar": False, "convert_to_tensor": True}
    ids = list(retrieval.corpus)
    queries = model.encode_query(list(retrieval.queries.values()), **options).float()
    documents = model.encode_document(list(retrieval.corpus.values()), **options).float()
    _check_finite(queries.sum().item() + documents.sum().item(), "train slower or in float32")
    hits = semantic_search(queries, documents, top_k=k, score_function=model.similarity)
    return {
        query: {ids[hit["corpus_id"]]: hit["score"] for hit in found}
        for query, found in zip(retrieval.queries, hits, strict=True)
    }


def rerank(model: CrossEncoder, run: Run, retrieval: Retrieval, k: int = 100) -> Run:
    """Put the first k answers of each query into the order of a cross-encoder.

    Answers below k keep their order, after the reranked ones; their new scores say only that.

    Args: model: predicts one score for a (query text, image path) pair. run: the first stage.
    Raises: ValueError: a query has no answers, or the scores are not numbers.
    """
    from torch.nn import Identity

    reranked: Run = {}
    for query, answers in run.items():
        order = ranked(answers)
        pairs = [[retrieval.queries[query], retrieval.corpus[image]] for image in order[:k]]
        if not pairs:
            raise ValueError(f"query {query!r} has no answers to rerank")
        # Raw scores: the default sigmoid rounds confident answers to 1.0, and ties lose the order.
        scores = model.predict(pairs, batch_size=k, activation_fn=Identity(), show_progress_bar=False)
        top = dict(zip(order[:k], np.asarray(scores, dtype=float).tolist(), strict=True))
        _check_finite(list(top.values()), f"first seen for query {query!r}")
        floor = min(top.values())
        tail = {image: floor - 1 - position for position, image in enumerate(order[k:])}
        reranked[query] = {image: top[image] for image in ranked(top)} | tail
    return reranked


def _check_finite(scores: float | Sequence[float], advice: str) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(f"the model's scores are not finite: {advice}")
