"""Milliseconds to rerank pictures for a new query: with kept tower states, and with the towers run again.

Re-encoding reads each picture and runs the image tower for it, and the text tower once: the least that a
cross-encoder without kept states has to do. With kept states only the text tower and the fusion run.
"""

from __future__ import annotations

import itertools
from typing import Any

from sentence_transformers import CrossEncoder

from benchmarks.measure import interleaved, ratios, say, summary, timed
from benchmarks.workload import Pairs, Size, load
from mmhelpers.models.reranker import build_reranker

AGAIN, KEPT = "re-encoded", "kept states"


def measure(pairs: Pairs, size: Size) -> dict[str, Any]:
    """The rows of the table."""
    kept, again = (build_reranker(load()).eval() for _ in range(2))
    pictures = pairs.pictures[: size.candidates]
    kept[0].precompute([], pictures)
    texts = iter(pairs.texts)  # a new one each time: no state of it is kept yet
    settings = {"batch_size": len(pictures), "show_progress_bar": False}

    def milliseconds(model: CrossEncoder) -> float:
        if model is again:
            model[0].clear_cache()
        asked = list(itertools.product([next(texts)], pictures))
        return 1000 * timed(lambda: model.predict(asked, **settings))

    kinds = {AGAIN: lambda: milliseconds(again), KEPT: lambda: milliseconds(kept)}
    for run in kinds.values():  # the first call is slower
        run()
    say(f"reranking {len(pictures)} candidates, milliseconds a query")
    took = interleaved(kinds, size.queries)
    rows = [summary(name, "ms", values) for name, values in took.items()]
    rows.append(ratios(f"{AGAIN} / {KEPT}", took[AGAIN], took[KEPT]))
    return {"candidates": len(pictures), "rows": rows}
