"""Notebooks 01 to 05 with the oldest and with the newest libraries that requirements.txt allows.

uv resolves both sets. What differs from the environment of the tests is installed into build/versions and
found first, through PYTHONPATH. PyTorch stays the installed one: every build of it is gigabytes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT, run_smoke
from packaging.utils import canonicalize_name

pytest.importorskip("uv", reason="resolves the versions: pip install uv")

OVERLAYS = ROOT / "build" / "versions"
TORCH = re.compile(r"torch$|nvidia|cuda|triton")  # PyTorch and the parts of its builds
UNREACHABLE = re.compile(r"[Ff]ailed to fetch|error sending request|[Cc]onnection|dns error|offline")


def uv(*words: str | Path) -> str:
    """What `uv` prints; skips the test where the package registry cannot be reached."""
    command = [sys.executable, "-m", "uv", "--quiet", *map(str, words), "--python", sys.executable]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode and UNREACHABLE.search(done.stderr) and "No solution found" not in done.stderr:
        pytest.skip(f"the package registry cannot be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def resolved(resolution: str, folder: Path) -> dict[str, str]:
    """The versions that uv chooses, by name, PyTorch's left out.

    Args:
        resolution: "lowest-direct" (our lower bounds, and the newest of what those need) or "highest".
    """
    (folder / "torch.txt").write_text(f"torch=={metadata.version('torch').split('+')[0]}")
    options = ["--resolution", resolution, "--override", folder / "torch.txt"]
    said = uv("pip", "compile", ROOT / "requirements.txt", *options, "--no-header", "--no-annotate")
    pins = (line.partition(";")[0].split("==") for line in said.splitlines() if "==" in line)
    return {name: version.strip() for name, version in pins if not TORCH.match(name)}


def overlay(name: str, versions: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """A folder with the packages that the environment has in another version or lacks, and what is in it.

    It is made once for each set of versions; the previous set of the same name is deleted.
    """
    have = {canonicalize_name(one.metadata["Name"]): one.version for one in metadata.distributions()}
    differ = {package: version for package, version in versions.items() if have.get(package) != version}
    pins = "\n".join(f"{package}=={version}" for package, version in differ.items())
    folder = OVERLAYS / f"{name}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    if differ and not folder.is_dir():
        for stale in OVERLAYS.glob(f"{name}-*"):
            shutil.rmtree(stale)
        part = folder.with_suffix(".part")
        part.mkdir(parents=True)
        (part / "versions.txt").write_text(pins)
        uv("pip", "install", "--no-deps", "--target", part, "--requirement", part / "versions.txt")
        part.rename(folder)
    return folder, differ


@pytest.mark.slow
@pytest.mark.parametrize(("name", "resolution"), [("oldest", "lowest-direct"), ("newest", "highest")])
def test_the_first_notebooks_run_with(name: str, resolution: str, tmp_path: Path) -> None:
    folder, versions = overlay(name, resolved(resolution, tmp_path))
    done = run_smoke(tmp_path, "01", "02", "03", "04", "05", PYTHONPATH=str(folder))
    assert done.status == 0, f"{name}: {versions}\n{done.said}"
