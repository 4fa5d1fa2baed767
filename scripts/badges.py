"""The course's address and version in the first cell and the badges of all notebooks, and in the README.

    python -m scripts.badges                      # bring everything in line with pyproject.toml
    python -m scripts.badges --repo owner/name    # this is a fork: write its address everywhere

Address and version stand in pyproject.toml and nowhere else. Without an address there are no badges. pip
installs the tag v<version> on Colab and Kaggle: raise the version with the first change after a release.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mmhelpers.course.artifacts import write_atomically
from scripts.outputs import METADATA, code_cells

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "OWNER/REPOSITORY"
BADGES = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb) "
    "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
    "(https://kaggle.com/kernels/welcome?src=https://github.com/{repository}/blob/main/notebooks/{name}.ipynb)"
)
FIRST_CELL = """\
import importlib.util

if importlib.util.find_spec("mmhelpers") is None:  # on Colab and Kaggle; in a checkout it is there already
{hint}    %pip install -q "mmhelpers @ git+https://github.com/{repository}@v{version}"
import mmhelpers

mmhelpers.set_up()"""
HINT = "    # Put the course's owner/name on GitHub in place of OWNER/REPOSITORY (or, in a fork: make badges).\n"


def course(root: Path) -> tuple[str, str]:
    """What pyproject.toml says: "owner/name" on GitHub, and the version."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return owner_name(project["urls"]["Repository"]), project["version"]


def owner_name(address: str) -> str:
    """owner/name of a repository on GitHub, from just that or from its address; else a ValueError."""
    shape = r"(?:https://github\.com/|git@github\.com:)?([\w-]+/[\w.-]+?)(?:\.git)?/?"
    if not (found := re.fullmatch(shape, address.strip())):
        raise ValueError(f"{address!r} is no repository: write REPO=owner/name, as in github.com/owner/name")
    return found.group(1)


def badges(repository: str, name: str) -> str:
    """The badges of a notebook as one line of Markdown; "" where there is no address yet."""
    return "" if repository == PLACEHOLDER else BADGES.format(repository=repository, name=name)


def with_address(notebook: NotebookNode, name: str, repository: str, version: str) -> NotebookNode:
    """A notebook with badges below its title, the first code cell and metadata made anew.

    Raises: ValueError where it does not begin with a title and, as its first code, a cell tagged "colab".
    """
    book = nbformat.from_dict(notebook)
    book.metadata = nbformat.from_dict(METADATA)
    title, _, text = book.cells[0].source.partition("\n")
    cell = next(iter(code_cells(book)), None)
    if not title.startswith("# ") or cell is None or "colab" not in cell.metadata.get("tags", []):
        raise ValueError(f"{name}.ipynb needs a title, as in # 01 · Data, and a first code cell tagged colab")
    text = re.sub(r"(?m)^\[!\[Open in Colab\].*\n+", "", text.strip("\n") + "\n").strip("\n")
    book.cells[0].source = "\n\n".join(filter(None, (title, badges(repository, name), text)))
    hint = HINT if repository == PLACEHOLDER else ""
    cell.source = FIRST_CELL.format(hint=hint, repository=repository, version=version)
    return book


def refresh(root: Path, repository: str | None = None) -> list[Path]:
    """Write address and version into pyproject.toml, all notebooks and the README; the files that changed.

    Args: repository: the new owner/name; without one, that of pyproject.toml.
    """
    old, version = course(root)
    new = owner_name(repository) if repository else old
    row = r"(?m)^(\| \[[^]]+\]\(notebooks/(\w+)\.ipynb\))(?:<br>\[!\[[^|]*)?(?= \|)"  # of the README's table
    texts = {}
    for path in (root / "pyproject.toml", root / "README.md", *sorted((root / "notebooks").glob("*.ipynb"))):
        before = path.read_text(encoding="utf-8")
        after = re.sub(rf"(github\.com[/:]){re.escape(old)}(?![\w-])", rf"\g<1>{new}", before)
        if path.suffix == ".md":
            after = re.sub(row, lambda m: "<br>".join(filter(None, (m[1], badges(new, m[2])))), after)
        if path.suffix == ".ipynb":
            book = with_address(nbformat.reads(before, as_version=4), path.stem, new, version)
            after = nbformat.writes(book) + "\n"
        if after != before:
            texts[path] = after
    for path, text in texts.items():  # only now: an error above leaves everything as it was
        write_atomically(path, text)
    return list(texts)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", metavar="owner/name", help="the new address; default: pyproject.toml's")
    try:
        changed = refresh(ROOT, parser.parse_args(argv).repo or None)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    repository, version = course(ROOT)
    print(f"{repository}, version {version}: {len(changed)} files changed")
    tag = f"Colab and Kaggle install the tag, so push it: git tag v{version} && git push --tags"
    unknown = "This is the placeholder, which Colab and Kaggle cannot open: make badges REPO=owner/name"
    print(unknown if repository == PLACEHOLDER else tag)
    return 0


if __name__ == "__main__":
    sys.exit(main())
