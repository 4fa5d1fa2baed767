"""What each stage reached, kept in a file, and shown as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mmhelpers.course.artifacts import write_atomically
from mmhelpers.course.stages import STAGES
from mmhelpers.evaluation.metrics import METRICS, Run, interval, per_query, ranked

if TYPE_CHECKING:
    from mmhelpers.data import Retrieval

COLUMNS = ("stage", "split", "slice", "metric", "value", "low", "high", "n_queries", "train_seconds", "seed")
_KEPT_ANSWERS = 10  # answers a query that the scoreboard remembers for the galleries


class Scoreboard:
    """What each stage reached, in `scoreboard.json`: rows with the keys `COLUMNS`.

    Beside it, `per_query.json` keeps each query's metrics and first ten answers, for paired tests.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.details = self.path.with_name("per_query.json")

    def rows(self) -> list[dict[str, Any]]:
        """All rows, in the order of the stages; none where nothing was measured yet."""
        return _read(self.path, [])

    def frame(self) -> pd.DataFrame:
        """The rows as a table, with stages as an ordered category."""
        return _frame(self.rows())

    def per_query(self, stage: str, split: str = "test") -> pd.DataFrame:
        """Each query's metrics at a stage, index query id; column `top` lists its first ten answers."""
        stored = _read(self.details, {}).get(split, {})
        if stage not in stored:
            raise KeyError(f"{self.details} has no {stage!r} on {split}; it has {', '.join(stored)}")
        return pd.DataFrame(stored[stage]).set_index("query")

    def add(
        self, stage: str, split: str, run: Run, retrieval: Retrieval, train_seconds: float = 0, seed: int = 0
    ) -> pd.DataFrame:
        """Measure a run on all slices and write it down, in place of this stage's earlier rows.

        Args: stage: one of `STAGES`. train_seconds: of its model, all stages before it included.
        Returns: this stage on the whole split: a row a metric, with value, low, high and n_queries.
        """
        if stage not in STAGES:
            raise ValueError(f"stage {stage!r} is unknown; choose one of {', '.join(STAGES)}")
        values, new = per_query(run, retrieval.relevant), []
        for name, queries in {"all": list(values.index), **retrieval.slices}.items():
            for metric in METRICS if len(queries) else ():
                bounds = interval(values.loc[queries, metric], seed, retrieval.families)
                numbers = [round(number, 6) for number in bounds]
                time = round(float(train_seconds), 1)
                cells = (stage, split, name, metric, *numbers, len(queries), time, seed)
                new.append(dict(zip(COLUMNS, cells, strict=True)))
        stored = _read(self.details, {})
        columns = {metric: values[metric].round(6).tolist() for metric in METRICS}
        top = [ranked(run.get(query, {}))[:_KEPT_ANSWERS] for query in values.index]
        stored.setdefault(split, {})[stage] = {"query": values.index.tolist(), **columns, "top": top}
        others = [row for row in self.rows() if (row["stage"], row["split"]) != (stage, split)]
        self._write(others + new, stored)
        whole = pd.DataFrame([row for row in new if row["slice"] == "all"])
        return whole.set_index("metric")[["value", "low", "high", "n_queries"]]

    def remove(self, stage: str) -> None:
        """Forget a stage that the present model does not have; an earlier model may have left it."""
        stored = _read(self.details, {})
        for stages in stored.values():
            stages.pop(stage, None)
        self._write([row for row in self.rows() if row["stage"] != stage], stored)

    def _write(self, rows: list[dict[str, Any]], details: dict[str, Any]) -> None:
        order = _stages(rows)
        rows = sorted(rows, key=lambda row: (row["split"], order.index(row["stage"])))
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        write_atomically(self.details, json.dumps(details, ensure_ascii=False))
        write_atomically(self.path, f"[\n{lines}\n]\n")


def results_table(
    rows: Iterable[Mapping[str, Any]],
    stages: Sequence[str] = tuple(STAGES),
    metrics: Sequence[str] = ("recall@1", "recall@10", "mrr@10"), split: str = "test", part: str = "all",
) -> str:  # fmt: skip
    """Markdown table of one slice: a line a stage, each value with its 95 % interval."""
    lines = [f"| stage | {' | '.join(metrics)} |", "|---" + "|---:" * len(metrics) + "|"]
    frame = _frame(rows).query("split == @split and slice == @part and stage in @stages")
    for stage, group in frame.groupby("stage", observed=True):
        cells = group.set_index("metric").loc[list(metrics)]
        values = [f"{c.value:.3f} [{c.low:.3f}, {c.high:.3f}]" for c in cells.itertuples()]
        lines.append(f"| {stage} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def text_table(rows: Iterable[Mapping[str, Any]], split: str = "test") -> str:
    """The scoreboard for a terminal: all metrics of the whole split, then recall@1 by slice."""
    frame = _frame(rows).query("split == @split")
    if frame.empty:
        return f"nothing was measured on {split} yet\n"
    whole, first = frame[frame["slice"] == "all"], frame[frame["metric"] == "recall@1"]
    table = whole.pivot(index="stage", columns="metric", values="value")[list(METRICS)]
    spread = first[first["slice"] == "all"].set_index("stage")
    table["95 % of recall@1"] = [f"{row.low:.3f} to {row.high:.3f}" for row in spread.itertuples()]
    table["train s"] = spread["train_seconds"].round().astype(int)
    slices = first.pivot(index="stage", columns="slice", values="value")[first["slice"].unique()]
    parts = [table, slices.drop(columns="all").rename_axis(columns="recall@1")]
    texts = [part.rename_axis(index=None).to_string(float_format="%.3f", line_width=120) for part in parts]
    return "\n\n".join(texts if len(slices.columns) > 1 else texts[:1]) + "\n"


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows := list(rows), columns=list(COLUMNS))
    return frame.assign(stage=pd.Categorical(frame["stage"], _stages(rows), ordered=True))


def _stages(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The course's stages in their order, then those that another notebook has added."""
    return list(dict.fromkeys([*STAGES, *(row["stage"] for row in rows)]))


def _read(path: Path, empty: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, run notebooks 02 to 05 again") from error
