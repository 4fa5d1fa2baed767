"""What notebooks hand to each other: folders under artifacts/<profile>/<data>/, whole or not there.

A folder is written beside its place and swapped in with one rename; its manifest.json says what made it,
from what, with which versions and seed, and names every file with its SHA-256. Reading checks all that;
what is missing, stale or corrupt is made again by the one notebook that makes it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

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
    "serving": "08_efficient_serving",
    "published": "07_real_models_and_publishing",
}
LIBRARIES = ("torch", "transformers", "sentence-transformers", "datasets", "numpy", "pillow")
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
        """Why an artefact cannot be used: a sentence that starts with missing, stale or corrupt; or None."""
        _recover(self.path(name))
        if not self.path(name).is_dir():
            return "missing"
        if (found := self.manifest(name)) is None:
            return f"corrupt: its {MANIFEST} cannot be read"
        if found["fingerprint"] != profiles.fingerprint(self.profile, self.source):
            return "stale: the profile, the data or the base model has changed since"
        for other, recorded in found["inputs"].items():
            if (self.manifest(other) or {}).get("id") != recorded:
                return f"stale: it was made from another {other}"
        for file, expected in found["files"].items():
            path = self.path(name) / file
            if not path.is_file():
                return f"corrupt: {file} is gone"
            if path.stat().st_size != expected["size"] or _sha256(path) != expected["sha256"]:
                return f"corrupt: {file} is not as it was written"
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
        self._log(name)
        return self.path(name)

    def _make(self, name: str, problem: str) -> None:
        if name not in MADE_BY:
            raise ArtifactError(f"no notebook makes {name!r}; there are {', '.join(MADE_BY)}")
        maker, chain = MADE_BY[name], os.environ.get("MM_CHAIN", "").split()
        if maker in chain:
            raise ArtifactError(
                f"{name} is {problem}, and {maker}, which makes it, is running ({' > '.join(chain)}): "
                "it asks for it before it has written it"
            )
        print(f"{name} is {problem}. Running {maker} to make it.", flush=True)
        environment = dict(
            os.environ,
            MM_PROFILE=self.profile.name,
            MM_DATA=self.source,
            MM_ARTIFACTS=str(self.root.parents[1]),
            PYTHONIOENCODING="utf-8",
        )
        command = [sys.executable, "-u", "-m", "mmhelpers.course.runner", "run", "--only", maker[:2]]
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as run:
            last = [line for line in run.stdout if not print("   ", line, end="", flush=True)][-40:]
        if run.returncode:
            raise ArtifactError(f"{maker} failed, so there is no {name}:\n{''.join(last)}")

    @contextmanager
    def writing(
        self,
        name: str,
        *,
        made_by: str,
        inputs: Sequence[str] = (),
        seed: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Iterator[Path]:
        """A folder to fill, that becomes the artefact when the block ends well, and vanishes when not.

        Args:
            made_by: the notebook, as in MADE_BY.
            inputs: names of the artefacts it was made from.
            seed, settings: of the training; JSON values. They are part of the artefact's identity.

        Raises:
            ArtifactError: an input is missing, or the disk is full; the old artefact stays as it was.
        """
        if missing := [other for other in inputs if self.manifest(other) is None]:
            raise ArtifactError(f"{name} is to be made from {', '.join(missing)}, which is not there")
        self.root.mkdir(parents=True, exist_ok=True)
        target = self.path(name)
        _recover(target)
        folder = self.root / f".{name}.new-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
            yield folder
            manifest = {
                "name": name,
                "made_by": made_by,
                "inputs": {other: (self.manifest(other) or {}).get("id") for other in inputs},
                "seed": seed,
                "settings": settings or {},
                "fingerprint": profiles.fingerprint(self.profile, self.source),
                "files": _inventory(folder),
            }
            manifest["id"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
            manifest["made_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            manifest["versions"] = _versions()
            write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))
            _swap(folder, target)
        except BaseException as error:
            if not _disk_is_full(error):
                raise
            raise ArtifactError(_full_disk(name, folder, target)) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._log(name)

    def _log(self, name: str) -> None:
        """Tell a runner, if one is listening, that this notebook has read or written an artefact."""
        if log := os.environ.get("MM_LOG"):
            with open(log, "a", encoding="utf-8") as out:
                out.write(f"{name}\n")


def workspace() -> Workspace:
    """The workspace of the active profile and data, under MM_ARTIFACTS or the repository's artifacts/."""
    profile, source = profiles.active(), profiles.data_source()
    root = Path(os.environ.get("MM_ARTIFACTS") or profiles.repository() / "artifacts").resolve()
    return Workspace(root / profile.name / profiles.data_slug(source), profile, source)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that whoever looks finds the old one or the new one, also after a crash."""
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


def _inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file with its size and hash, flushed to the disk where it is large.

    Thousands of small pictures are not flushed one by one: that takes minutes on some disks, and a torn
    one is found by its hash.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.stat().st_size > 1 << 16:
            with open(path, "rb+") as handle:
                os.fsync(handle.fileno())
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    return files


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _swap(folder: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(folder, target)
    if hasattr(os, "O_DIRECTORY"):  # the renames themselves; Windows has no handle on a folder
        handle = os.open(target.parent, os.O_DIRECTORY)
        os.fsync(handle)
        os.close(handle)
    shutil.rmtree(old, ignore_errors=True)


def _recover(target: Path) -> None:
    """Tidy up after a run that was killed: put back a swap's old folder, drop half-written ones."""
    old = target.with_name(f".{target.name}.old")
    if old.is_dir() and not target.exists():
        os.rename(old, target)
    for leftover in target.parent.glob(f".{target.name}.new-*-*"):
        if not psutil.pid_exists(int(leftover.name.split("-")[-2])):
            shutil.rmtree(leftover, ignore_errors=True)


def _disk_is_full(error: BaseException | None) -> bool:
    """Also for the libraries that report the disk's error in their own exceptions (safetensors)."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _full_disk(name: str, folder: Path, target: Path) -> str:
    def megabytes(path: Path) -> float:
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6

    needed = max(megabytes(folder), megabytes(target))
    free = shutil.disk_usage(folder.parent).free / 1e6
    return (
        f"the disk is full: {name} needs more than {needed:.0f} MB in {folder.parent} and only "
        f"{free:.0f} MB are free beside what was written so far. Free some room, or set MM_ARTIFACTS to "
        "a folder on another disk, and run again; nothing that was there before is lost"
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
