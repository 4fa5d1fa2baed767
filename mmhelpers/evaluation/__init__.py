"""How good is a retriever or a reranker, stage by stage, and how far to trust that."""

from mmhelpers.evaluation.metrics import METRICS, PairedResult, Run, interval, paired_test, per_query, ranked
from mmhelpers.evaluation.scoreboard import (
    COLUMNS,
    STAGES,
    Scoreboard,
    evaluator,
    rerank,
    results_table,
    search,
    text_table,
    transposed,
)

__all__ = [
    "COLUMNS", "METRICS", "STAGES", "PairedResult", "Run", "Scoreboard", "evaluator", "interval",
    "paired_test", "per_query", "ranked", "rerank", "results_table", "search", "text_table", "transposed",
]  # fmt: skip
