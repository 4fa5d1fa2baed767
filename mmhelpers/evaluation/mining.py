"""Around the library's `mine_hard_negatives`: scores to choose margins from, and the false negatives counted.

Mining itself needs no help once `encoders.attach_image_cache` answers picture paths: the library's function
takes a dataset of (text, path) rows, and its result, paths again, goes to the trainer as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from sentence_transformers import SentenceTransformer


def score_percentiles(
    model: SentenceTransformer,
    pairs: Dataset,
    n: int = 1000,
    ranks: Sequence[int] = (1, 10, 50),
    seed: int = 0,
) -> pd.DataFrame:
    """Percentiles of the cosines of positives and of negatives near and far: margins are chosen from them.

    Candidates are all pictures of `pairs`; each that `pairs` gives for a text is its positive.

    Args:
        model: as for mining.
        pairs: first column texts, second column picture paths; more are ignored.
        n: rows to draw as queries, without repeats; fewer where there are fewer.
        ranks: which negatives to look at, 1 being the nearest.
        seed: of the draw and of the random negatives.

    Returns:
        One row each for "positive", "random negative", "negative at rank r" and, query by query,
        "positive minus rank r"; the columns are the 5th, 25th, 50th, 75th and 95th percentile.

    Raises:
        ValueError: the second column holds pictures instead of paths, or no rank is within the candidates.
    """
    names = pairs.column_names[:2]
    if not isinstance(example := pairs[0][names[1]], str):
        raise ValueError(f"column {names[1]!r} must hold paths, not {type(example).__name__}")
    texts, paths = (list(pairs[name]) for name in names)
    column = {path: index for index, path in enumerate(dict.fromkeys(paths))}
    relevant: dict[str, set[int]] = defaultdict(set)
    for text, path in zip(texts, paths, strict=True):
        relevant[text].add(column[path])
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(texts), min(n, len(texts)), replace=False)
    queries = [texts[row] for row in drawn]
    ranks = [rank for rank in ranks if rank <= len(column) - max(len(relevant[text]) for text in queries)]
    if not ranks:
        raise ValueError(f"{len(column)} pictures are too few to look at negatives of these ranks")

    scores = model.similarity(
        model.encode_query(queries, convert_to_tensor=True),
        model.encode_document(list(column), convert_to_tensor=True),
    )
    scores = scores.float().cpu().numpy()
    table = {"positive": scores[np.arange(len(drawn)), [column[paths[row]] for row in drawn]]}
    lottery = rng.random(scores.shape)
    for row, text in enumerate(queries):
        positives = list(relevant[text])
        scores[row, positives], lottery[row, positives] = -np.inf, -1
    table["random negative"] = np.take_along_axis(scores, lottery.argmax(1)[:, None], 1)[:, 0]
    nearest = -np.sort(-scores, axis=1)
    table |= {f"negative at rank {rank}": nearest[:, rank - 1] for rank in ranks}
    table |= {f"positive minus rank {rank}": table["positive"] - nearest[:, rank - 1] for rank in ranks}
    steps = (5, 25, 50, 75, 95)
    return pd.DataFrame(
        {name: np.percentile(values, steps) for name, values in table.items()},
        index=[f"{s} %" for s in steps],
    ).T


@dataclass(frozen=True)
class FalseNegatives:
    """Mined negatives that fit their query after all: `found` as (row, candidate path), out of `total`."""

    found: tuple[tuple[dict[str, Any], str], ...]
    total: int

    @property
    def count(self) -> int:
        return len(self.found)

    @property
    def rate(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate (Wilson, JASA 22, 1927), taking the negatives as independent."""
        z, n, p = 1.959964, self.total, self.rate
        middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
        return float((middle - half) / (1 + z * z / n)), float((middle + half) / (1 + z * z / n))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.rate:.1%} false negatives ({self.count:,} of {self.total:,}; {low:.1%} to {high:.1%})"


def audit(mined: Dataset, is_relevant: Callable[[dict[str, Any], str], bool]) -> FalseNegatives:
    """Count the mined negatives that are right answers.

    Args:
        mined: result of `mine_hard_negatives` in the format "triplet" or "n-tuple", or rows like it: the
            columns whose names begin with "negative" hold picture paths.
        is_relevant: told a row and one of its negatives, whether the picture fits the row's query.

    Raises:
        ValueError: there is no such column, or no row.
    """
    columns = [column for column in mined.column_names if column.startswith("negative")]
    if not columns or not len(mined):
        raise ValueError(f"no negatives to audit in {len(mined)} rows of {mined.column_names}")
    found = tuple((row, row[column]) for row in mined for column in columns if is_relevant(row, row[column]))
    return FalseNegatives(found, total=len(mined) * len(columns))
