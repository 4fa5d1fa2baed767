"""How fast the course trains, reranks and searches, beside other ways to do the same. `make bench`.

python -m benchmarks.bench             results/<machine>.json and the tables of README.md: 7 min on two cores
python -m benchmarks.bench --quick     half a minute: shows that all works; its numbers mean nothing
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched; read when the libraries are imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # of no use in short batches, and workers warn of it

import datasets  # noqa: E402
import transformers  # noqa: E402

from benchmarks import indexes, report, reranking, training, workload  # noqa: E402
from benchmarks.measure import say  # noqa: E402

datasets.disable_progress_bars()
transformers.utils.logging.disable_progress_bar()
for expected in (".*pin_memory.*", ".*`optimizer.step\\(\\)` has been overridden.*"):
    warnings.filterwarnings("ignore", message=expected)


def run(size: workload.Size) -> dict[str, Any]:
    """Measure all three tables; the result is what the JSON file holds."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = workload.draw_shop(size, Path(folder))
        found = report.machine()
        for topic in (training, reranking, indexes):
            found[topic.__name__.rpartition(".")[2]] = topic.measure(pairs, size)
    say("done")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy sizes; prints, and keeps nothing")
    parser.add_argument("--out", type=Path, help="folder for the result instead of benchmarks/results")
    chosen = parser.parse_args()
    found = run(workload.QUICK if chosen.quick else workload.FULL)
    print("\n" + report.tables(found))
    if chosen.out or not chosen.quick:
        report.write(found, chosen.out or report.RESULTS)
    if not (chosen.quick or chosen.out):
        report.PAGE.write_text(report.page(), encoding="utf-8")


if __name__ == "__main__":
    main()
