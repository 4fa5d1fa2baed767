"""From a fresh process to the first training step, and what happens on the way. Run by bench.py.

The imports are those of notebook 02. The pictures have been drawn and, as from a second run on, preprocessed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

PARTS = ("imports", "model", "data", "first step")
AGAIN, FRESH, SYSTEM = "one more step", "first step: new memory", "first step: system time"
UNITS = {FRESH: "MB"}


def child(task: dict[str, Any]) -> dict[str, float]:
    """Seconds of each part, and of another step; the clock began in the process that started this one."""
    marks = [task["began"]]
    from benchmarks import training, workload
    from mmhelpers import data, evaluation  # noqa: F401
    from mmhelpers.models import encoders

    marks.append(time.time())
    work = workload.Workload(**(task["work"] | {"model": Path(task["work"]["model"])}))
    variant = training.Variant(training.OURS, workload.Settings(**task["settings"]), work)
    marks.append(time.time())
    encoders.attach_image_cache(variant.model, work.pictures, folder=task["cache"])
    trainer = variant.trainer(1)
    marks.append(time.time())
    process = psutil.Process()
    memory, system = process.memory_info().rss, process.cpu_times().system
    trainer.train()
    marks.append(time.time())
    more = {FRESH: (process.memory_info().rss - memory) / 1e6, SYSTEM: process.cpu_times().system - system}
    trainer = variant.trainer(1)
    began = time.time()
    trainer.train()
    more[AGAIN] = time.time() - began
    return dict(zip(PARTS, (b - a for a, b in zip(marks, marks[1:], strict=False)), strict=True)) | more


def measure(chosen: Any, work: Any, say: Callable[[str], None]) -> tuple[list[Any], dict[str, float]]:
    """Rows with seconds of each part and in all; the seconds of imports by package, largest first."""
    from benchmarks.measure import row

    runs, slow = [], Counter[str]()
    with tempfile.TemporaryDirectory() as cache:
        task = {"settings": asdict(chosen), "work": asdict(work) | {"model": str(work.model)}, "cache": cache}
        for number in range(1 if chosen.quick else 4):
            found, _ = _run(task)
            if number or chosen.quick:  # the first makes the cache and warms the disk
                runs.append(found)
                say(", ".join(f"{part} {found[part]:.1f} s" for part in PARTS))
        _, trace = ("", "") if chosen.quick else _run(task, "-X", "importtime")
    for line in trace.splitlines():  # import time: self [us] | cumulative | imported package
        cells = line.removeprefix("import time:").split("|")
        if len(cells) == 3 and cells[0].strip().isdigit():
            slow[cells[2].strip().split(".")[0]] += int(cells[0])
    kinds = {name: [run[name] for run in runs] for name in (*PARTS, FRESH, SYSTEM, AGAIN)}
    kinds["import to first step"] = [sum(run[part] for part in PARTS) for run in runs]
    rows = [row("start-up", name, UNITS.get(name, "seconds"), values) for name, values in kinds.items()]
    return rows, {name: round(value / 1e6, 2) for name, value in slow.most_common(12)}


def _run(task: dict[str, Any], *options: str) -> tuple[dict[str, float], str]:
    done = subprocess.run(
        [sys.executable, *options, "-m", "benchmarks.startup"], encoding="utf-8", capture_output=True,
        input=json.dumps(task | {"began": time.time()}),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the start-up was not measured: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


if __name__ == "__main__":
    print(json.dumps(child(json.load(sys.stdin))))
