"""How far a notebook has run, for a terminal and for a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from nbformat import NotebookNode


class Progress:
    """A text bar over the cells of a notebook; on anything but a terminal, a line a quarter."""

    def __init__(self, label: str, cells: int) -> None:
        self.label, self.cells, self.cell = label, cells, 0
        self.began, self.quarter, self.live = time.monotonic(), 0, sys.stdout.isatty()

    def start(self, cell: NotebookNode, cell_index: int) -> None:
        """Hook of nbclient: a cell begins."""
        self.cell = cell_index
        if self.live:
            bar = f"[{'#' * (24 * cell_index // self.cells):-<24}] cell {cell_index} of {self.cells}"
            print(f"\r{self.label} {bar}  {self.clock()}\033[K", end="", flush=True)

    def executed(self, cell: NotebookNode, cell_index: int, execute_reply: Any) -> None:
        """Hook of nbclient: a cell has ended."""
        done = cell_index + 1
        if not self.live and (quarter := 4 * done // self.cells) > self.quarter:
            self.quarter = quarter
            print(f"    {25 * quarter:3d} %  cell {done} of {self.cells}  {self.clock()}", flush=True)

    def say(self, text: str) -> None:
        """End the bar with a sentence."""
        print(f"{chr(13) + chr(27) + '[K' if self.live else ''}{self.label}: {text}", flush=True)

    @property
    def seconds(self) -> float:
        """Since the notebook began."""
        return time.monotonic() - self.began

    def clock(self) -> str:
        """The same, as minutes:seconds."""
        return f"{int(self.seconds) // 60}:{int(self.seconds) % 60:02d}"
