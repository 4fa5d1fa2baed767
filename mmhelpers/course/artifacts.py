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
from collections.abc import Iterable, Iterator, Sequence
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
    """Raised, with the reason, by a notebook that has nothing to do for this model or data: no failure."""


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

    def ids(self, names: Iterable[str]) -> dict[str, str | None]:
        """The identities of some artefacts as they are now."""
        return {name: (self.manifest(name) or {}).get("id") for name in sorted(names)}

    def problem(self, name: str) -> str | None:
        """Why an artefact cannot be used: it is missing, stale or corrupt (by names and sizes); or None."""
        if not self.path(name).is_dir():
            return "missing"
        if (found := self.manifest(name)) is None:
            return f"corrupt: its {MANIFEST} cannot be read"
        if found["fingerprint"] != profiles.fingerprint(self.profile, self.source):
            return "stale: the profile, the data or the base model has changed since"
        if self.ids(found["inputs"]) != found["inputs"]:
            return f"stale: it was made from another {' or '.join(found['inputs'])}"
        for file, size in found["files"].items():
            path = self.path(name) / file
            if not path.is_file() or path.stat().st_size != size:
                return f"corrupt: {file} is gone or not as it was written"
        return None

    def require(self, name: str) -> Path:
        """The folder of an artefact that is whole and up to date; made first where it is not.

        Raises: ArtifactError: no notebook makes it, or the one that does is already running, or failed.
        """
        for other in (self.manifest(name) or {"inputs": ()})["inputs"]:
            if self.problem(other):  # made again it may well be the same, and what stands on it holds
                self.require(other)
        if problem := self.problem(name):
            self._make(name, problem)
            if problem := self.problem(name):
                raise ArtifactError(f"{MADE_BY[name]} ran, and {name} is still {problem}")
        return self.path(name)

    def _make(self, name: str, problem: str) -> None:
        """Run the notebook that makes an artefact, and show what it says."""
        if name not in MADE_BY:
            raise ArtifactError(f"no notebook makes {name!r}; there are {', '.join(MADE_BY)}")
        maker, chain = MADE_BY[name], os.environ.get("MM_CHAIN", "").split()
        if maker in chain:
            raise ArtifactError(f"{name} is {problem}, and {maker}, which makes it, asks for it itself")
        print(f"{name} is {problem}. Running {maker} to make it.", flush=True)
        where = {"MM_PROFILE": self.profile.name, "MM_DATA": self.source, "PYTHONIOENCODING": "utf-8"}
        environment = os.environ | where | {"MM_ARTIFACTS": str(self.root.parents[1])}
        command = [sys.executable, "-u", "-m", "mmhelpers.course.runner", "--only", maker[:2]]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
        with subprocess.Popen(command, env=environment, errors="replace", **output) as run:
            for line in run.stdout:
                print("   ", line, end="", flush=True)
        if run.returncode:
            raise ArtifactError(f"{maker} failed, as it says above, so there is no {name}")

    @contextmanager
    def writing(
        self, name: str, *, made_by: str, inputs: Sequence[str] = (), seed: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Iterator[Path]:  # fmt: skip
        """A folder to fill, that becomes the artefact when the block ends well; else the old one stays.

        Args: inputs: the artefacts it is made from. seed, settings: of the training, part of its identity.
        """
        folder, old, target = self.root / f".{name}.new", self.root / f".{name}.old", self.path(name)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(parents=True)
        made = {"name": name, "made_by": made_by, "seed": seed, "settings": settings or {}}
        made["inputs"] = self.ids(inputs)
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
