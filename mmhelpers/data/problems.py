"""What is wrong with somebody's data, told all at once, by file and row."""

from __future__ import annotations

from pathlib import Path

N_LISTED = 50
MOST_SKIPPED = 0.1  # of the rows; where more are broken, something else is wrong


class DataError(ValueError):
    """Data that cannot be used; `problems` has a line for each thing that is wrong."""

    def __init__(self, where: Path | str, problems: list[str], advice: str = "") -> None:
        self.problems = problems
        count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}"
        more = [f"and {len(problems) - N_LISTED:,} more"] if len(problems) > N_LISTED else []
        lines = [f"{count} in {where}, so it was not used:", *problems[:N_LISTED], *more]
        super().__init__("\n  ".join(lines) + (f"\n{advice}" if advice else ""))


class Report:
    """Problems by row; row 0 is the table, or the folder, as a whole.

    Args:
        place: the table, or the folder where there is none. source: what was given as DATA.
        skip: rows with problems are left out instead of refused.
    """

    def __init__(self, place: Path, source: Path | str = "", skip: bool = False) -> None:
        self.place, self.source, self.skip = place, source or place, skip
        self.found: list[tuple[int, object, str]] = []  # row, file, what is wrong

    def add(self, row: int, what: str, name: object = None) -> None:
        self.found.append((row, name, what))

    @property
    def bad(self) -> set[int]:
        """The rows with problems."""
        return {row for row, _, _ in self.found}

    def stop_if_whole(self) -> None:
        """Raise if the table itself cannot be used: every row would only repeat the problem."""
        if 0 in self.bad:
            self._stop()

    def stop_if_any(self, n_rows: int) -> None:
        """Raise with everything that was found in a table of `n_rows`, unless it may be skipped."""
        few = 0 not in self.bad and len(self.bad) <= MOST_SKIPPED * n_rows
        if self.found and not (self.skip and few):
            refused = f"Of {n_rows:,} rows {len(self.bad):,} are broken, too many to go on without them."
            offered = f"To go on without these rows: DATA='{self.source}?bad=skip'" if few else ""
            self._stop(refused if self.skip else offered)
        if self.found:
            print(f"{len(self.bad):,} of {n_rows:,} rows cannot be used and are left out.", flush=True)

    def _stop(self, advice: str = "") -> None:
        lines = []
        for row, name, what in sorted(self.found, key=lambda found: found[0]):
            where = [self.place.name, *([f"row {row}"] if row else []), *([f"({name})"] if name else [])]
            lines.append(f"{' '.join(where)}: {what}")
        raise DataError(self.place.parent if self.place.is_file() else self.place, lines, advice)
