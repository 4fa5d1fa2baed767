"""The package as pip installs it on Colab: away from a checkout, with all that the notebooks import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import NAMES, ROOT
from packaging.requirements import Requirement
from test_repository import IMPORTED_AS, MODULES, NOTEBOOKS, imports, python, read, requirements

from scripts.outputs import code_cells

KINDS = ("*.html", "*.ipynb", "*.j2", "*.json", "*.py", "*.safetensors", "*.toml", "*.txt")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: setuptools leaves a folder in the checkout, and finds it there again."""
    copy, made = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("mmhelpers", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "requirements-tools.txt", "LICENSE", "README.md"):
        shutil.copyfile(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", made, copy]
    done = subprocess.run(pip, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return next(made.glob("mmhelpers-*.whl"))


def test_everything_that_is_imported_is_declared():
    sources = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in MODULES}
    for path in NOTEBOOKS:
        sources[path] = "\n".join(python(cell.source) for cell in code_cells(read(path)))
    declared = requirements("requirements.txt").keys() | {"mmhelpers"}
    for path, source in sources.items():
        used = {name.split(".")[0] for name in imports(source)} - sys.stdlib_module_names
        assert {IMPORTED_AS.get(name, name) for name in used} <= declared, path


@pytest.mark.slow
def test_the_wheel_has_all_that_the_checkout_has(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        metadata = archive.read(next(name for name in inside if name.endswith("/METADATA"))).decode()
    room = ROOT / "mmhelpers"
    files = {path.relative_to(ROOT).as_posix() for kind in KINDS for path in room.rglob(kind)}
    files |= {f"mmhelpers/notebooks/{name}.ipynb" for name in NAMES}
    files |= {f"mmhelpers/{path.relative_to(ROOT)}" for path in ROOT.glob("notebooks/studies/*.json")}
    assert files == {name for name in inside if name.startswith("mmhelpers/") and not name.endswith(".md")}
    declared = [line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    always = {need.name for need in map(Requirement, declared) if not need.marker}
    assert always == set(requirements("requirements.txt"))


@pytest.mark.slow
def test_a_fresh_installation_runs_a_notebook_that_needs_another_one(wheel: Path, tmp_path: Path):
    """02 asks for the data set, so 01 is found in the package, and run. A real installation: minutes."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    fresh = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    home = tmp_path / "elsewhere"
    home.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str | Path) -> str:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
        done = subprocess.run([fresh, *words], cwd=home, env=clean, **options)
        assert done.returncode == 0, done.stdout
        return done.stdout

    run("-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    run("-m", "mmhelpers.course.runner", "--profile", "smoke", "--only", "02")
    executed = (home / "build" / "smoke" / "shop" / f"{NAMES[1]}.ipynb").read_text(encoding="utf-8")
    assert f"dataset is missing. Running {NAMES[0]} to make it." in executed
    assert {path.name for path in home.iterdir()} == {"artifacts", "build"}
    sources = [python(cell.source) for path in NOTEBOOKS for cell in code_cells(read(path))]
    modules = {name.split(".")[0] for source in sources for name in imports(source)}
    run("-c", f"import {', '.join(sorted(modules))}")
