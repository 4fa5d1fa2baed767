"""Studies: comparisons with many trainings, which take longer than a lesson may.

`make studies` runs those of the notebooks at laptop size and keeps their rows in notebooks/studies/; it goes on
where it stopped. A lesson loads them. With other pictures, models or sizes there is nothing to load, and the
lesson runs its comparisons there and then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhelpers.course import profiles
from mmhelpers.course.artifacts import Workspace, write_atomically


class StudyError(RuntimeError):
    """A study that cannot be loaded as it stands; the message says what to do."""


@dataclass(frozen=True)
class Study:
    """The rows of one comparison, in a JSON file with the settings that they were made with."""

    path: Path
    settings: dict[str, Any]
    shipped: bool  # with the course, and only to be read
    seeds: tuple[int, ...]  # of the trainings of each arm

    def rows(self) -> list[dict[str, Any]]:
        """The rows that were made with these settings; none where there are no such."""
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return stored["rows"] if stored["settings"] == self.settings else []

    def row(self, measure: Callable[[], dict[str, Any]], **key: Any) -> dict[str, Any]:
        """The row of `key`, such as arm="longer", seed=0: the stored one, else `measure()` runs and is stored.

        Raises: StudyError: the course ships this study, and has no such row for the present settings.
        """
        rows = self.rows()
        if found := [row for row in rows if key.items() <= row.items()]:
            return found[0]
        if self.shipped:
            what = ", ".join(f"{name} {value}" for name, value in key.items())
            raise StudyError(f"{self.path.name} has no row ({what}) for these settings; set RERUN = True")
        row = key | measure()
        text = ",\n".join(json.dumps(one, ensure_ascii=False) for one in [*rows, row])
        head = json.dumps(self.settings, ensure_ascii=False, sort_keys=True)
        write_atomically(self.path, f'{{"settings": {head},\n"rows": [\n{text}\n]}}\n')
        return row


def study(workspace: Workspace, name: str, settings: dict[str, Any], rerun: bool = False) -> Study:
    """Open a study of the active profile and data.

    Args: settings: all that decides its rows, of JSON's types. rerun: run it here, and keep its rows with the
        artefacts, also where the course ships the study.
    """
    profile, making = workspace.profile, int(os.environ.get("MM_STUDIES") or 0)  # seeds
    ours = (profile.name, workspace.source) == ("laptop", profiles.SHOP)
    ours = ours and profile.base_model == str(profiles.CLIP_MINI)
    settings = json.loads(json.dumps(settings | {"seed": profile.seed}))
    path = profiles.notebooks() / "studies" / f"{name}.json"
    if ours and making:
        return Study(path, settings, False, tuple(range(making)))
    if ours and path.is_file() and not rerun:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return Study(path, settings, True, tuple(sorted({row["seed"] for row in rows})))
    settings["fingerprint"] = profiles.fingerprint(profile, workspace.source)
    return Study(workspace.root / "studies" / f"{name}.json", settings, False, (profile.seed,))
