"""Run the notebooks headless, in order, with progress; go on where a run stopped.

    python -m mmhelpers.course.runner [--profile smoke] [--data SOURCE] [--only 02 03 | --all]

Under build/<profile>/<data>/ each notebook leaves its executed copy and an HTML page, and state.json keeps
what each finished notebook was made of. A notebook runs again when its code, the package's version, the
profile, the data, an artefact that it made or one that this was made from has changed; else: make clean.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import FileSystemLoader
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from tqdm import tqdm

from mmhelpers.course import artifacts, profiles
from mmhelpers.course.artifacts import NotApplicable, write_atomically
from mmhelpers.evaluation import text_table

MAIN = ("01", "02", "03", "04", "05")  # what runs when nothing else is asked for


class NotebookFailed(RuntimeError):
    """A cell raised, or the kernel died; the message is the report for the terminal."""


class Series:
    """The notebooks, run in the active workspace, with their executed copies in a folder of `build`."""

    def __init__(self, profile: str | None = None, data: str | None = None) -> None:
        chosen, self.notebooks = profiles.active(profile), profiles.notebooks()
        build = Path(os.environ.get("MM_BUILD") or profiles.repository() / "build").resolve()
        # Kernels inherit these: a notebook that has to run an earlier one does it in the same places.
        os.environ |= {"MM_PROFILE": chosen.name, "MM_DATA": profiles.data_source(data)}
        os.environ |= {"MM_BUILD": str(build), "MM_NOTEBOOKS": str(self.notebooks)}
        os.environ |= {"MM_DOWNLOADS": str(profiles.downloads()), "MM_BASE_MODEL": chosen.base_model}
        os.environ["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))  # a kernel of this Python
        self.workspace = artifacts.workspace()
        os.environ["MM_ARTIFACTS"] = str(self.workspace.root.parents[1])
        self.build = build.joinpath(*self.workspace.root.parts[-2:])

    def select(self, only: list[str] | None, everything: bool = False) -> list[Path]:
        """The notebooks to run, in order; `only` are their numbers, without it the main job or all."""
        found = sorted(self.notebooks.glob("[0-9][0-9]_*.ipynb"))
        for name in only or MAIN[:1]:
            if not any(path.name.startswith(name) for path in found):
                there = ", ".join(path.stem for path in found) or "none"
                raise FileNotFoundError(f"no notebook {name} in {self.notebooks}; there are: {there}")
        wanted = tuple(only or MAIN)
        return [path for path in found if path.name.startswith(wanted) or (everything and not only)]

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """Fingerprint and minutes of each finished notebook; empty where nothing is, or it cannot be read."""
        return _read(self.build / "state.json", {})

    def fingerprint(self, notebook: NotebookNode) -> str:
        """16 hex digits for all that decides what a notebook computes, but for the artefacts it reads."""
        outside = profiles.fingerprint(self.workspace.profile, self.workspace.source)
        digest = hashlib.sha256(f"{outside} {metadata.version('mmhelpers')}".encode())
        for cell in notebook.cells:
            if cell.cell_type == "code" and "colab" not in cell.metadata.get("tags", []):
                digest.update(cell.source.encode() + b"\0")
        return digest.hexdigest()[:16]

    def finished(self, path: Path, notebook: NotebookNode) -> bool:
        """Whether a notebook has run as it stands now, and all that it makes is still there."""
        entry = self.state.get(path.stem, {})
        if entry.get("fingerprint") != self.fingerprint(notebook) or not (self.build / path.name).is_file():
            return False
        lost = entry["board"] and not self.workspace.scoreboard.is_file()
        return not lost and not any(map(self.workspace.problem, entry["made"]))

    def execute(self, path: Path, notebook: NotebookNode, label: str) -> str:
        """Run one notebook in a fresh kernel, keep its copy, its page and its state, and say how it went.

        Raises: NotebookFailed: a cell raised or the kernel died; what ran is kept as <name>.failed.ipynb.
        """
        failed, made_of = self.build / f"{path.stem}.failed.ipynb", self.fingerprint(notebook)
        began = time.monotonic()
        try:
            passed_over = _run_cells(path, notebook, label)
        except (CellExecutionError, DeadKernelError) as error:
            write_atomically(failed, nbformat.writes(notebook))
            advice = f"What ran is kept in {failed}. The same command goes on from the last finished notebook."
            said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours
            raise NotebookFailed(f"{path.name}: {said}\n{advice}") from error
        minutes = (time.monotonic() - began) / 60
        failed.unlink(missing_ok=True)
        made = [name for name, maker in artifacts.MADE_BY.items() if maker == path.stem]
        made = [name for name in made if self.workspace.problem(name) is None]
        entry = {"fingerprint": made_of, "minutes": round(minutes, 2), "made": made}
        entry["board"] = self.workspace.scoreboard.is_file()
        here = {"extra_loaders": [FileSystemLoader(Path(__file__).parent)], "template_file": "page.html.j2"}
        page = HTMLExporter(embed_images=True, **here).from_notebook_node(notebook)[0]
        write_atomically(self.build / f"{path.stem}.html", page)
        write_atomically(self.build / path.name, nbformat.writes(notebook))
        # The state is read anew: a notebook that was run to make an artefact has written its own entry.
        write_atomically(self.build / "state.json", json.dumps({**self.state, path.stem: entry}, indent=1))
        return f"passed over: {passed_over}" if passed_over else f"done in {minutes:.1f} minutes"


def run(job: Series, chosen: list[Path]) -> int:
    """Run what has not run yet; 0, or 1 after printing what failed."""
    books, profile = {path: nbformat.read(path, as_version=4) for path in chosen}, job.workspace.profile
    waiting, began = [path for path, book in books.items() if not job.finished(path, book)], time.monotonic()
    minutes = sum(dict(enumerate(profile.minutes, 1)).get(int(path.name[:2]), 0) for path in waiting)
    todo = f"{len(waiting)} of {len(books)} notebooks to run, about {minutes:.0f} minutes"
    print(f"profile {profile.name}, data {job.workspace.source}: {todo}", flush=True)
    for number, (path, book) in enumerate(books.items(), 1):
        label = f"[{number}/{len(books)}] {path.stem}"
        if job.finished(path, book):  # asked again: an earlier notebook may have changed the answer
            print(f"{label}: finished before, nothing to do", flush=True)
            continue
        print(f"{label}: {len(book.cells)} cells", flush=True)
        try:
            print(f"{label}: {job.execute(path, book, label)}", flush=True)
        except NotebookFailed as failure:
            print(f"{label}: failed\n{failure}", flush=True)
            return 1
    if not os.environ.get("MM_CHAIN"):
        print(f"\n{text_table(_read(job.workspace.scoreboard, []))}")
        print("minutes:", ", ".join(f"{name[:2]} {e['minutes']:.1f}" for name, e in sorted(job.state.items())))
        print(f"this run took {(time.monotonic() - began) / 60:.1f} minutes. Pages to read: {job.build}/*.html")
        print(f"models, data and scoreboard: {job.workspace.root}")
    return 0


def _run_cells(path: Path, notebook: NotebookNode, label: str) -> str:
    """Run a notebook; why it stopped by itself, having nothing to do for this model or data, else ""."""
    bar = tqdm(total=len(notebook.cells), desc=label, ascii=True, leave=False, disable=None, unit="cell")
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=None, startup_timeout=300, coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}}, on_notebook_start=_keep_signals,
        on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(cell_index + 1 - bar.n),
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )  # fmt: skip
    try:
        client.execute(env=_environment(path))
    except CellExecutionError as error:
        if error.ename == NotApplicable.__name__:
            return str(error.evalue)
        raise
    except KeyboardInterrupt:
        client.shutdown_kernel = "immediate"  # or our exit waits for the cell
        raise
    finally:
        bar.close()
    return ""


def _environment(path: Path) -> dict[str, str]:
    """What the kernel of a notebook finds in its environment."""
    return os.environ | {
        "MM_CHAIN": f"{os.environ.get('MM_CHAIN', '')} {path.stem}".strip(),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or the debugger warns at every start
        "TOKENIZERS_PARALLELISM": "false",  # or a forked worker warns in the middle of a lesson
        # glibc gives freed blocks back to the system, which clears every page of the next one: hundreds of
        # megabytes in each training step. Kept, a step on a CPU takes up to a third less time.
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_THRESHOLD_": str(2**30),
    }  # fmt: skip


def _keep_signals(notebook: NotebookNode) -> None:
    """Hook of nbclient: Ctrl-C interrupts us, as ever; nbclient would have it look like a dead kernel."""
    with contextlib.suppress(RuntimeError, NotImplementedError):  # not the main thread, or Windows
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


def _read(path: Path, empty: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return empty


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", help=f"{', '.join(profiles.PROFILES)}; default: from the machine")
    parser.add_argument("--data", help="shop, hub:<id>, a folder, or a table")
    parser.add_argument("--only", nargs="+", metavar="NN", help="numbers of notebooks, such as 02")
    parser.add_argument("--all", action="store_true", help="all notebooks, not only 01 to 05")
    options = parser.parse_args(argv)
    try:
        job = Series(options.profile, options.data)
        return run(job, job.select(options.only, options.all))
    except (ValueError, OSError, artifacts.ArtifactError) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last finished notebook", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
