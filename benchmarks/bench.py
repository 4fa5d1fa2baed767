"""How fast the course trains, encodes, mines and reranks, next to other ways to do the same. `make bench`.

python -m benchmarks.bench                                   clip-mini on the CPU: 14 minutes on two cores
python -m benchmarks.bench --device cuda --model clip-b32    CLIP ViT-B/32, random weights, on a GPU
python -m benchmarks.bench --quick                           a minute: shows that all works, no results
python -m benchmarks.bench --table                           README.md anew from the results
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
import torch  # noqa: E402
import transformers  # noqa: E402

from benchmarks import report, serving, startup, training, workload  # noqa: E402
from benchmarks.measure import Progress, Row, row  # noqa: E402

datasets.disable_progress_bars()  # here, so that processes of their own are silent too
transformers.utils.logging.disable_progress_bar()
for silent in (".*pin_memory.*", ".*`optimizer.step\\(\\)` has been overridden.*"):
    warnings.filterwarnings("ignore", message=silent)


def run(chosen: workload.Settings, only: list[str], folder: Path) -> dict[str, Any]:
    """Measure everything, or the topics in `only`; the result is what the JSON file holds."""
    say, rows = Progress(), list[Row]()
    for part in ("shop", "photos"):
        (folder / part).mkdir()
    say("drawing a small shop and photos (0.7 min)")
    shop = workload.draw_shop(chosen, folder / "shop")
    work = workload.shop_workload(chosen, shop, folder / "shop")
    photos = workload.photo_workload(chosen, folder / "photos")
    losses, profiles, slow = {}, [], {}

    def throughput(which: workload.Workload) -> list[Row]:
        found, losses[which.name] = training.throughput(chosen, which, say, max(peak))
        profiles.append(training.profile(chosen, which, say))
        return found

    def start_up() -> list[Row]:
        found, by_package = startup.measure(chosen, work, say)
        slow.update(by_package)
        return found

    topics = {
        "training": ("training on the shop (2.5 min)", lambda: throughput(work)),
        "photos": ("training on photos (2 min)", lambda: throughput(photos)),
        "batches": ("training with small and large batches (1 min)",
                    lambda: training.by_batch_size(chosen, work, say)),
        "memory": ("peak memory, each in a process (1.5 min)", lambda: training.memory(chosen, work, say)),
        "encoding": ("encoding (0.5 min)", lambda: serving.encoding(chosen, work, say)),
        "mining": ("mining (1 min)", lambda: serving.mining(chosen, work, say)),
        "reranking": ("reranking (0.5 min)", lambda: serving.reranking(chosen, work, say)),
        "pictures": ("search and mining over up to 100,000 pictures (0.5 min)",
                     lambda: serving.by_pictures(chosen, work, say)),
        "quality": ("training until it is good (2 min)", lambda: serving.until_good(chosen, work, shop, say)),
        "start-up": ("start-up (0.7 min)", start_up),
    }  # fmt: skip
    if chosen.model != "clip-mini":
        del topics["quality"]  # from random weights that would take hours
    peak = training.matmul_peak(chosen)
    rows.append(row("machine", "matmul peak, 2,048 x 2,048", "GFLOP/s", [value / 1e9 for value in peak]))
    say(f"matmul peak {max(peak) / 1e9:.0f} GFLOP/s in {chosen.dtype}")
    for name, (what, measure) in topics.items():
        if not only or name in only:
            say(what)
            rows += measure()
    say("done")
    return report.result(chosen, rows, losses, profiles, slow, say.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=("clip-mini", "clip-b32"), default="clip-mini")
    parser.add_argument("--quick", action="store_true", help="small sizes; the numbers mean nothing")
    parser.add_argument("--only", nargs="+", default=[], metavar="TOPIC", help="print these, keep no results")
    parser.add_argument("--out", type=Path, help="folder for the results instead of benchmarks/results")
    parser.add_argument("--table", action="store_true", help="only write the tables from the results")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("this PyTorch sees no GPU; leave out --device cuda")
    kept = not (chosen.quick or chosen.only)
    if not chosen.table:
        settings = workload.settings(chosen.device, chosen.model, chosen.quick)
        with tempfile.TemporaryDirectory() as folder:
            found = run(settings, chosen.only, Path(folder))
        print("\n" + report.details(found))
        if chosen.out or kept:
            report.write(found, chosen.out or report.RESULTS)
    if chosen.table or (kept and not chosen.out):
        for path, text in report.pages().items():
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
