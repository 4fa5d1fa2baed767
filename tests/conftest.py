"""What all tests share: no network, no settings from outside, small notebooks, and the course run once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: nothing is fetched by surprise
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker and the kernels that it starts
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for provider in ("JINA", "VOYAGE", "COHERE", "CO", "NOMIC"):  # no test asks, or pays, anyone
    os.environ.pop(f"{provider}_API_KEY", None)

from mmhelpers.course import profiles  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
CODE, TEXT = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


def git(folder: Path, *words: str) -> str:
    """What git says in a folder, to somebody whose own settings do not count."""
    someone = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *someone, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The run of all notebooks, which takes longest, begins first."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Settings of the person who runs the tests do not count, and none leaks into the next test."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("MM_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def notebook(tmp_path: Path) -> Callable[..., Path]:
    """Write a notebook into tmp_path/notebooks: code cells, or (tag, code), or text that starts with #."""

    def write(name: str, *cells: str | tuple[str, str]) -> Path:
        made = []
        for cell in cells:
            tag, source = cell if isinstance(cell, tuple) else (None, cell)
            made.append(TEXT(source) if source.startswith("#") else CODE(source))
            made[-1].metadata.update({"tags": [tag]} if tag else {})
        for number, cell in enumerate(made):
            cell["id"] = f"cell-{number}"
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=made), path)
        return path

    return write


@dataclass(frozen=True)
class Done:
    status: int
    said: str
    folder: Path
    data: str = profiles.SHOP

    @property
    def build(self) -> Path:
        return self.folder / "build" / "smoke" / self.data

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts" / "smoke" / self.data

    def executed(self, name: str) -> nbformat.NotebookNode:
        return nbformat.read(self.build / f"{name}.ipynb", as_version=4)


def run_smoke(folder: Path, *only: str, **settings: str) -> Done:
    """Run the notebooks, or those whose numbers are given, in `folder` and with more in the environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MM_")}
    environment |= {"MM_ARTIFACTS": str(folder / "artifacts"), "MM_BUILD": str(folder / "build"), **settings}
    command = [sys.executable, "-m", "mmhelpers.course.runner", "--profile", "smoke"]
    command += ["--only", *only] if only else ["--all"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=ROOT, env=environment, **pipes, encoding="utf-8")
    slug = profiles.data_slug(environment.get("MM_DATA", profiles.SHOP))
    return Done(done.returncode, done.stdout, folder, slug)


@pytest.fixture(scope="session")
def course(tmp_path_factory) -> Done:
    done = run_smoke(tmp_path_factory.mktemp("course"))
    print(done.said)  # shown with every test that fails
    return done
