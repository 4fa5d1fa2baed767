"""What notebooks hand to each other: folders under artifacts/<profile>/<data>/, whole or not there.

A folder is written beside its place and renamed into it; its manifest.json says what made it, from what and
with which seed, and names its files. What is missing, stale or incomplete is made again by its notebook.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhelpers.course import profiles
from mmhelpers.course.profiles import Profile

MADE_BY = {
    "dataset": "01_data_preparation",
    "finetuned": "02_clip_finetuning",
    "negatives": "03_hard_negative_mining",
    "hard_negatives": "03_hard_negative_mining",
    "longer": "03_hard_negative_mining",
    "reranker": "04_reranker_training",
    "evaluation": "05_evaluation_and_visualisation",
    "adapter": "06_efficient_training",
    "published": "07_real_models_and_publishing",
    "serving": "08_efficient_serving",
}
MANIFEST = "manifest.json"


class ArtifactError(RuntimeError):
    """An artefact that cannot be written, or not be made; the message says what to do."""


class NotApplicable(SystemExit):
    """Raised by a notebook that has nothing to do for this model or data: it is passed over, not failed.

    The message says why. In Jupyter "run all" stops there, without a traceback.
    """


@dataclass(frozen=True)
class Workspace:
    """The artefacts of one profile and one data source, under `root`."""

    root: Path
    profile: Profile
    source: str

    @property
    def scoreboard(self) -> Path:
        """Where the scoreboard of these artefacts is kept (read and written by `evaluation`)."""
        return self.root / "scoreboard.json"

    def path(self, name: str) -> Path:
        """Where an artefact lies, whether or not it is there."""
        return self.root / name

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The manifest, or None where it is missing or cannot be read."""
        try:
            found = json.loads((self.path(name) / MANIFEST).read_text(encoding="utf-8"))
            return found if {"id", "inputs", "files", "fingerprint"} <= found.keys() else None
        except (OSError, ValueError, AttributeError):
            return None

    def problem(self, name: str) -> str | None:
        """Why an artefact cannot be used: a sentence that starts with missing, stale or corrupt; or None.

        Files are compared by name and size; their contents are not read.
        """
        if not self.path(name).is_dir():
            return "missing"
        if (found := self.manifest(name)) is None:
            return f"corrupt: its {MANIFEST} cannot be read"
        if found["fingerprint"] != profiles.fingerprint(self.profile, self.source):
            return "stale: the profile, the data or the base model has changed since"
        for other, recorded in found["inputs"].items():
            if (self.manifest(other) or {}).get("id") != recorded:
                return f"stale: it was made from another {other}"
        for file, size in found["files"].items():
            path = self.path(name) / file
            if not path.is_file() or path.stat().st_size != size:
                return f"corrupt: {file} is gone or not as it was written"
        return None

    def require(self, name: str) -> Path:
        """The folder of an artefact that is whole and up to date; made first where it is not.

        Raises:
            ArtifactError: no notebook makes it, or the one that does is already running, or failed.
        """
        for other in (self.manifest(name) or {"inputs": ()})["inputs"]:
            if self.problem(other):  # made again it may well be the same, and what stands on it holds
                self.require(other)
        if problem := self.problem(name):
            self._make(name, problem)
            if problem := self.problem(name):
                raise ArtifactError(f"{MADE_BY[name]} ran, and {name} is still {problem}")
        _log(name)
        return self.path(name)

    def _make(self, name: str, problem: str) -> None:
        """Run the notebook that makes an artefact, and show what it says."""
        if name not in MADE_BY:
            raise ArtifactError(f"no notebook makes {name!r}; there are {', '.join(MADE_BY)}")
        maker, chain = MADE_BY[name], os.environ.get("MM_CHAIN", "").split()
        if maker in chain:
            raise ArtifactError(
                f"{name} is {problem}, and {maker}, which makes it, is running ({' > '.join(chain)}): "
                "it asks for it before it has written it"
            )
        print(f"{name} is {problem}. Running {maker} to make it.", flush=True)
        where = {"MM_PROFILE": self.profile.name, "MM_DATA": self.source, "PYTHONIOENCODING": "utf-8"}
        environment = os.environ | where | {"MM_ARTIFACTS": str(self.root.parents[1])}
        command = [sys.executable, "-u", "-m", "mmhelpers.course.runner", "--only", maker[:2]]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
        said: list[str] = []
        with subprocess.Popen(command, env=environment, errors="replace", **output) as run:
            for line in run.stdout:
                print("   ", line, end="", flush=True)
                said.append(line)
        if run.returncode:
            raise ArtifactError(f"{maker} failed, so there is no {name}:\n{''.join(said[-40:])}")

    @contextmanager
    def writing(
        self, name: str, *, made_by: str, inputs: Sequence[str] = (), seed: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Iterator[Path]:  # fmt: skip
        """A folder to fill, that becomes the artefact when the block ends well, and vanishes when not.

        Args:
            made_by: the notebook, as in MADE_BY. inputs: names of the artefacts it was made from.
            seed, settings: of the training; JSON values. They are part of the artefact's identity.

        Raises:
            ArtifactError: an input is missing. Whatever is raised, the old artefact stays as it was.
        """
        if missing := [other for other in inputs if self.manifest(other) is None]:
            raise ArtifactError(f"{name} is to be made from {', '.join(missing)}, which is not there")
        folder, old, target = self.root / f".{name}.new", self.root / f".{name}.old", self.path(name)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(parents=True)
        made = {"name": name, "made_by": made_by, "seed": seed, "settings": settings or {}}
        made["inputs"] = {other: self.manifest(other)["id"] for other in inputs}
        made["fingerprint"] = profiles.fingerprint(self.profile, self.source)
        try:
            yield folder
            write_atomically(folder / MANIFEST, json.dumps(_described(made, folder), indent=1))
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                os.rename(target, old)
            os.rename(folder, target)
        except OSError as error:
            if old.exists() and not target.exists():
                os.rename(old, target)
            error.add_note(f"Nothing of the new {name} was kept. If the disk is full, make room; run again.")
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        _log(name)


def workspace() -> Workspace:
    """The workspace of the active profile and data, under MM_ARTIFACTS or the repository's artifacts/."""
    profile, source = profiles.active(), profiles.data_source()
    root = Path(os.environ.get("MM_ARTIFACTS") or profiles.repository() / "artifacts").resolve()
    return Workspace(root / profile.name / profiles.data_slug(source), profile, source)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _described(made: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A manifest with the files and an id: made again in the same way with the same contents, it is equal."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    made["files"] = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
    for path in files:
        with open(path, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return made | {"id": digest.hexdigest()[:16]}


def _log(name: str) -> None:
    """Tell a runner, if one is listening, that this notebook has read or written an artefact."""
    if log := os.environ.get("MM_LOG"):
        with open(log, "a", encoding="utf-8") as out:
            out.write(f"{name}\n")
