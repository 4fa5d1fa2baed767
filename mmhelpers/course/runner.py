"""Run the notebooks headless, in order, with progress; go on where a run stopped.

    python -m mmhelpers.course.runner run [--profile smoke] [--data SOURCE] [--only 02 03]
    python -m mmhelpers.course.runner commit-outputs     (executed laptop notebooks -> notebooks/)
    python -m mmhelpers.course.runner table              (scoreboard -> README.md)

Under build/<profile>/<data>/ each notebook leaves its executed copy and an HTML page, and state.json keeps
what each finished notebook was made of. A notebook runs again when its code, the package, the profile, the
data, or an artefact that it read or wrote has changed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from mmhelpers.course import artifacts, profiles, publish
from mmhelpers.course.artifacts import NotApplicable, Workspace, write_atomically
from mmhelpers.course.progress import Progress
from mmhelpers.evaluation import text_table

PACKAGE = Path(__file__).resolve().parents[1]
NOT_RESULTS = ("runner.py", "publish.py", "hosted.py")  # a change here cannot change what a notebook computes


class NotebookFailed(RuntimeError):
    """A cell raised, or the kernel died; the message is the report for the terminal."""


class _ThisPython(AsyncKernelManager):
    """A kernel in the Python that runs us, whatever kernels are registered on this machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        kernel = ["-m", "ipykernel_launcher", "--log-level=ERROR", "-f", "{connection_file}"]
        argv = [sys.executable, "-Xfrozen_modules=off", *kernel]  # else the debugger warns at every start
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


@dataclass(frozen=True)
class Run:
    """A run of the notebooks in one folder, in one workspace, with its outputs under `build`."""

    workspace: Workspace
    notebooks: Path
    build: Path

    @classmethod
    def open(cls, profile: str | None, data: str | None, notebooks: Path | None, build: Path | None) -> Run:
        """From the command line, and the environment for what it leaves out.

        Also sets the environment that the kernels inherit, so that a notebook which has to run an earlier
        one does it in the same places.
        """
        home = profiles.repository()
        chosen = profiles.active(profile)
        notebooks = (notebooks or Path(os.environ.get("MM_NOTEBOOKS") or home / "notebooks")).resolve()
        build = (build or Path(os.environ.get("MM_BUILD") or home / "build")).resolve()
        os.environ["MM_PROFILE"], os.environ["MM_DATA"] = chosen.name, profiles.data_source(data)
        os.environ["MM_NOTEBOOKS"], os.environ["MM_BUILD"] = str(notebooks), str(build)
        if os.environ.get("MM_BASE_MODEL"):
            os.environ["MM_BASE_MODEL"] = chosen.base_model
        workspace = artifacts.workspace()
        os.environ["MM_ARTIFACTS"] = str(workspace.root.parents[1])
        return cls(workspace, notebooks, build / workspace.root.parent.name / workspace.root.name)

    def select(self, only: list[str] | None) -> list[Path]:
        """The notebooks to run, in order; `only` are numbers or beginnings of names."""
        found = sorted(self.notebooks.glob("[0-9][0-9]_*.ipynb"))
        chosen = [p for p in found if only is None or any(p.name.startswith(start) for start in only)]
        if not chosen:
            there = ", ".join(path.stem for path in found) or "none"
            raise FileNotFoundError(f"no such notebook in {self.notebooks}; there are: {there}")
        return chosen

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """What is known of the finished notebooks; empty where nothing is, or it cannot be read."""
        try:
            return json.loads((self.build / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def fingerprint(self, notebook: NotebookNode) -> str:
        """16 hex digits for all that decides what a notebook computes, but for the artefacts it reads."""
        digest = hashlib.sha256(profiles.fingerprint(self.workspace.profile, self.workspace.source).encode())
        for cell in publish.code_cells(notebook):
            if not publish.is_set_up(cell):  # another address of the course is no reason to run again
                digest.update(cell.source.encode() + b"\0")
        for path in sorted(PACKAGE.rglob("*.py")):
            if path.name not in NOT_RESULTS:
                digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def finished(self, path: Path, notebook: NotebookNode) -> bool:
        """Whether a notebook has run as it stands now and everything it made is still there and whole."""
        entry = self.state.get(path.stem)
        if not entry or entry["fingerprint"] != self.fingerprint(notebook) or not self.copy(path).is_file():
            return False
        ids = {name: (self.workspace.manifest(name) or {}).get("id") for name in entry["artifacts"]}
        whole = ids == entry["artifacts"] and not any(map(self.workspace.problem, ids))
        return whole and set(entry["stages"]) <= {row["stage"] for row in self.rows()}

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the scoreboard; none where it is missing or cannot be read."""
        try:
            return json.loads(self.workspace.scoreboard.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []

    def copy(self, path: Path) -> Path:
        """Where the executed copy of a notebook lies."""
        return self.build / path.name

    def execute(self, path: Path, notebook: NotebookNode, progress: Progress) -> str | None:
        """Run one notebook in a fresh kernel, and keep its copy, its page and its state.

        Returns:
            Why it stopped by itself, having nothing to do for this model or data; else None.

        Raises:
            NotebookFailed: a cell raised or the kernel died; what ran is kept as <name>.failed.ipynb.
        """
        self.build.mkdir(parents=True, exist_ok=True)
        log, failed = self.build / f".{path.stem}.log", self.build / f"{path.stem}.failed.ipynb"
        log.unlink(missing_ok=True)
        started, fingerprint, before = time.monotonic(), self.fingerprint(notebook), self.rows()
        passed_over = None
        client = NotebookClient(
            notebook,
            kernel_manager_class=_ThisPython,
            timeout=None,
            startup_timeout=300,  # a laptop that is busy with something else
            coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
            on_notebook_start=_keep_signals,
            on_cell_start=progress.start,
            on_cell_executed=progress.executed,
        )
        try:
            client.execute(env=self._environment(path, log))
        except (CellExecutionError, DeadKernelError) as error:
            if getattr(error, "ename", None) != NotApplicable.__name__:
                write_atomically(failed, nbformat.writes(notebook))
                raise NotebookFailed(progress.failure(notebook, error, failed)) from error
            passed_over = str(error.evalue)
        except KeyboardInterrupt:
            client.shutdown_kernel = "immediate"  # or our exit waits for the cell
            raise
        used = set(log.read_text(encoding="utf-8").split()) if log.is_file() else set()
        log.unlink(missing_ok=True)
        failed.unlink(missing_ok=True)
        self.publish(path, notebook)
        entry = {
            "fingerprint": fingerprint,
            "artifacts": {name: (self.workspace.manifest(name) or {}).get("id") for name in sorted(used)},
            "stages": self._stages(path, before),
            "minutes": round((time.monotonic() - started) / 60, 2),
            "peak_mb": _peak_megabytes(),
        }
        # Read again just before: a notebook that was run to make an artefact has written its own entry.
        write_atomically(self.build / "state.json", json.dumps({**self.state, path.stem: entry}, indent=1))
        return passed_over

    def publish(self, path: Path, notebook: NotebookNode) -> None:
        """Write the executed copy and the HTML page."""
        page = publish.html(notebook, path.stem, path.parent)
        write_atomically(self.copy(path).with_suffix(".html"), page)
        write_atomically(self.copy(path), nbformat.writes(notebook))

    def refresh(self, path: Path, notebook: NotebookNode) -> None:
        """Bring text that was edited since into the outputs of a finished notebook."""
        executed = nbformat.read(self.copy(path), as_version=4)
        texts = [[cell.source for cell in book.cells] for book in (notebook, executed)]
        if texts[0] != texts[1] or not self.copy(path).with_suffix(".html").is_file():
            self.publish(path, publish.with_outputs(notebook, executed))

    def _stages(self, path: Path, before: list[dict[str, Any]]) -> list[str]:
        """The stages of the scoreboard that a notebook has written: now, or earlier and just the same."""
        now = self.rows()
        earlier = self.state.get(path.stem, {}).get("stages", [])
        return sorted({row["stage"] for row in now if row not in before or row["stage"] in earlier})

    def _environment(self, path: Path, log: Path) -> dict[str, str]:
        return dict(
            os.environ,
            MM_CHAIN=f"{os.environ.get('MM_CHAIN', '')} {path.stem}".strip(),
            MM_LOG=str(log),
            MPLBACKEND="module://matplotlib_inline.backend_inline",
            TOKENIZERS_PARALLELISM="false",  # or a forked worker warns in the middle of a lesson
        )


def _keep_signals(notebook: NotebookNode) -> None:
    """Hook of nbclient: Ctrl-C interrupts us, as ever; nbclient would have it look like a dead kernel."""
    with contextlib.suppress(RuntimeError):  # not the main thread, or Windows: it has taken no signals
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


def run(job: Run, only: list[str] | None = None) -> int:
    """Run what has not run yet; 0, or 1 after printing what failed."""
    chosen = [(path, nbformat.read(path, as_version=4)) for path in job.select(only)]
    workspace, began = job.workspace, time.monotonic()
    waiting = [path for path, notebook in chosen if not job.finished(path, notebook)]
    expected = sum(dict(enumerate(workspace.profile.minutes, 1)).get(int(p.name[:2]), 0) for p in waiting)
    todo = f"{len(waiting)} of {len(chosen)} notebooks to run, about {expected:.0f} minutes"
    print(f"profile {workspace.profile.name}, data {workspace.source}: {todo}", flush=True)
    for number, (path, notebook) in enumerate(chosen, 1):
        progress = Progress(number, len(chosen), path, len(notebook.cells))
        if job.finished(path, notebook):  # asked again: an earlier notebook may have changed the answer
            job.refresh(path, notebook)
            progress.say("finished before, nothing to do")
            continue
        if not progress.live:
            progress.say(f"{len(notebook.cells)} cells")
        try:
            passed_over = job.execute(path, notebook, progress)
        except NotebookFailed as failure:
            progress.say(f"failed after {progress.clock()}")
            print(failure, flush=True)
            return 1
        progress.say(f"passed over: {passed_over}" if passed_over else f"done in {progress.clock()}")
    if not os.environ.get("MM_CHAIN"):
        _summary(job, time.monotonic() - began)
    return 0


def _summary(job: Run, seconds: float) -> None:
    state = job.state
    minutes = [f"{name[:2]} {entry['minutes']:.1f}" for name, entry in sorted(state.items())]
    print(f"\n{text_table(job.rows())}\nminutes: {', '.join(minutes)}")
    if peak := max((entry["peak_mb"] or 0 for entry in state.values()), default=0):
        print(f"peak memory: {peak / 1000:.1f} GB")
    print(f"this run took {seconds / 60:.1f} minutes. Pages to read: {job.build}{os.sep}*.html")
    print(f"models, data and scoreboard: {job.workspace.root}")


def _peak_megabytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return int(peak / (1e6 if sys.platform == "darwin" else 1e3))


def _commit_outputs() -> None:
    job, root = Run.open("laptop", profiles.SHOP, None, None), profiles.repository()
    for path in job.select(None):
        if not job.finished(path, nbformat.read(path, as_version=4)):
            raise ValueError(f"{path.name} has not run as it stands now; run the laptop profile first")
    publish.commit_outputs(job.build, job.notebooks, job.workspace.scoreboard, root)


def _table() -> None:
    root = profiles.repository()
    rows = json.loads((root / "notebooks" / "scoreboard.json").read_text(encoding="utf-8"))
    text = publish.results_block((root / "README.md").read_text(encoding="utf-8"), rows)
    write_atomically(root / "README.md", text)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mmhelpers.course.runner", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="run the notebooks that have not run yet")
    command.add_argument("--profile", help=f"{', '.join(profiles.PROFILES)}; default: from the machine")
    command.add_argument("--data", help=f"{profiles.SHOP}, figures, hub:<id>, a folder, or a table")
    command.add_argument("--only", nargs="+", metavar="NN", help="numbers of notebooks, such as 02")
    command.add_argument("--notebooks", type=Path, help="folder of the notebooks")
    command.add_argument("--build", type=Path, help="folder for executed copies")
    commands.add_parser("commit-outputs", help="copy executed laptop notebooks back into notebooks/")
    commands.add_parser("table", help="write the results table of README.md")
    options = parser.parse_args(argv)
    try:
        if options.command == "run":
            job = Run.open(options.profile, options.data, options.notebooks, options.build)
            return run(job, options.only)
        _commit_outputs() if options.command == "commit-outputs" else _table()
    except (ValueError, OSError, artifacts.ArtifactError) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last finished notebook", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
