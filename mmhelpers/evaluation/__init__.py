"""How good is a retriever or a reranker, stage by stage, and how far to trust that."""

from mmhelpers.course.stages import STAGES
from mmhelpers.evaluation.metrics import METRICS, PairedResult, Run, interval, paired_test, per_query, ranked
from mmhelpers.evaluation.scoreboard import COLUMNS, Scoreboard, results_table, text_table
from mmhelpers.evaluation.search import rerank, search

__all__ = [
    "COLUMNS", "METRICS", "STAGES", "PairedResult", "Run", "Scoreboard", "interval", "paired_test",
    "per_query", "ranked", "rerank", "results_table", "search", "text_table",
]  # fmt: skip
