"""How a run of notebooks shows on the terminal."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode


class Progress:
    """A text bar over notebooks and cells; on anything but a terminal, a line a quarter."""

    def __init__(self, number: int, total: int, path: Path, cells: int) -> None:
        self.path, self.label = path, f"[{number}/{total}] {path.stem}"
        self.cells, self.cell = cells, 0
        self.began, self.quarter, self.live = time.monotonic(), 0, sys.stdout.isatty()

    def start(self, cell: NotebookNode, cell_index: int) -> None:
        """Hook of nbclient: a cell begins."""
        self.cell = cell_index
        if self.live:
            self._bar(cell_index)

    def executed(self, cell: NotebookNode, cell_index: int, execute_reply: Any) -> None:
        """Hook of nbclient: a cell has ended."""
        done = cell_index + 1
        if self.live:
            self._bar(done)
        elif (quarter := 4 * done // self.cells) > self.quarter:
            self.quarter = quarter
            print(f"    {25 * quarter:3d} %  cell {done} of {self.cells}  {self.clock()}", flush=True)

    def say(self, text: str) -> None:
        """End the bar with a sentence."""
        print(f"{chr(13) + chr(27) + '[K' if self.live else ''}{self.label}: {text}", flush=True)

    def clock(self) -> str:
        seconds = int(time.monotonic() - self.began)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def failure(self, notebook: NotebookNode, error: Exception, kept: Path) -> str:
        """What stopped a notebook: the cell, its source and the end of the traceback.

        Args:
            kept: where the copy with all that ran lies.
        """
        cell, indent = notebook.cells[self.cell], "\n    "
        lines = [line for out in cell.get("outputs", []) for line in out.get("traceback", [])]
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines) or str(error)).splitlines()
        if isinstance(error, DeadKernelError):
            trace.append("The kernel died without a word: often the system ended it for lack of memory.")
        return (
            f"\n{self.path.name}, cell {self.cell + 1} of {self.cells}:{indent}"
            f"{indent.join(cell.source.splitlines())}\n{indent}{indent.join(trace[-25:])}\n\n"
            f"What ran is kept in {kept}. The same command goes on from the last finished notebook."
        )

    def _bar(self, done: int) -> None:
        filled = 24 * done // self.cells
        bar = "#" * filled + "-" * (24 - filled)
        text = f"\r{self.label} [{bar}] cell {done} of {self.cells}  {self.clock()}\033[K"
        print(text, end="", flush=True)
