"""The course's address in the badges and set-up cells of all notebooks, and in the README.

    python scripts/badges.py                      # bring everything in line with pyproject.toml
    python scripts/badges.py --repo owner/name    # this is a fork: write its address everywhere

Address and version stand in pyproject.toml and nowhere else. A notebook's set-up cell asks for the tag
v<version>, and takes the default branch where there is no such tag yet: so raise the version with the first
change after a release. Outputs stay as they are, and a finished run stays finished.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a file, Python looks beside it only

from mmhelpers.course import publish  # noqa: E402
from mmhelpers.course.artifacts import write_atomically  # noqa: E402

PLACEHOLDER = "OWNER/REPOSITORY"
BRANCH = "main"  # what the badges open
COLAB = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{name}.ipynb)"
)
KAGGLE = (
    "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
    "(https://kaggle.com/kernels/welcome?src=https://github.com/{repository}/blob/{branch}/notebooks/{name}.ipynb)"
)
SET_UP = """\
# Set-up. On your own machine this only imports. Colab and Kaggle fetch the course in this notebook's version,
# install what is missing, and say OK or what to do: two minutes.
import os
import subprocess
import sys

DRIVE = ""  # Colab: a folder of your Google Drive that keeps what you make, such as "image-search"
REPOSITORY, VERSION = "@repository@", "@version@"  # kept by: make badges

if "KAGGLE_KERNEL_RUN_TYPE" in os.environ or "google.colab" in sys.modules:
    if REPOSITORY.startswith("OWNER/"):
        raise SystemExit("Put the course's owner/name on GitHub into REPOSITORY above, and run again.")
    git = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth=1"]
    for tag in ([f"--branch=v{VERSION}"], []):  # not released yet: the default branch
        if not os.path.isdir("course") and "MM_CHAIN" not in os.environ:  # MM_CHAIN: another notebook runs us
            url = f"https://github.com/{REPOSITORY}"
            subprocess.run([*git, *tag, url, "course"], capture_output=bool(tag))
    sys.path.insert(0, os.path.abspath("course"))
from mmhelpers.course import hosts  # not found? See README.md, "Two commands"; hosted, see what git says above

hosts.set_up(VERSION, DRIVE)"""


@dataclass(frozen=True)
class Course:
    """What pyproject.toml says of the course: "owner/name" on GitHub, and the version."""

    repository: str
    version: str

    @classmethod
    def read(cls, root: Path) -> Course:
        """From the pyproject.toml of a checkout.

        Raises:
            ValueError: it has no address of the shape https://github.com/owner/name.
        """
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return cls(owner_name(project["urls"]["Repository"]), project["version"])

    def badges(self, name: str) -> str:
        """The badges of a notebook, as one line of Markdown; `name` is the notebook's, without .ipynb."""
        line = f"{COLAB} {KAGGLE}"
        return line.format(repository=self.repository, branch=BRANCH, name=name)

    @property
    def set_up(self) -> str:
        """The source of the set-up cell."""
        return SET_UP.replace("@repository@", self.repository).replace("@version@", self.version)


def owner_name(address: str) -> str:
    """owner/name of a repository on GitHub, from just that or from its address.

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(
        r"(?:https://github\.com/|git@github\.com:)?([\w-]+/[\w.-]+?)(?:\.git)?/?", address.strip()
    )
    if not found:
        raise ValueError(
            f"{address!r} is no repository: write REPO=owner/name, as in https://github.com/owner/name "
            "(Colab and Kaggle open notebooks from GitHub)"
        )
    return found.group(1)


def with_address(pyproject: str, repository: str) -> str:
    """The text of pyproject.toml with another address of the course."""
    line = r'^Repository = "[^"\n]*"'
    if not re.search(line, pyproject, re.MULTILINE):
        raise ValueError('pyproject.toml lacks a line such as: Repository = "https://github.com/owner/name"')
    address = f'Repository = "https://github.com/{repository}"'
    return re.sub(line, lambda _: address, pyproject, count=1, flags=re.MULTILINE)


def with_set_up(notebook: NotebookNode, name: str, course: Course) -> NotebookNode:
    """A notebook with its badges, set-up cell and metadata new; everything else is as it was.

    Badges stand below the title. A notebook without a set-up cell gets one before its first code cell.

    Raises:
        ValueError: the notebook does not begin with a title.
    """
    result = nbformat.from_dict(notebook)
    result.metadata = nbformat.from_dict(publish.METADATA)
    title, _, text = result.cells[0].source.partition("\n")
    if result.cells[0].cell_type != "markdown" or not title.startswith("# "):
        raise ValueError(f"{name}.ipynb does not begin with a title, as in: # 01 · Data preparation")
    text = publish.BADGES.sub("", text.strip("\n") + "\n").strip("\n")
    result.cells[0].source = f"{title}\n\n{course.badges(name)}\n\n{text}".rstrip("\n")
    code = publish.code_cells(result)
    if cell := next(filter(publish.is_set_up, code), None):
        cell.source = course.set_up
    else:
        new = nbformat.v4.new_code_cell(course.set_up, id="set-up", metadata={"tags": ["colab"]})
        result.cells.insert(result.cells.index(code[0]) if code else 1, new)
    return result


def with_links(readme: str, old: str, course: Course) -> str:
    """The README with the course's address, and badges in every line of its table of notebooks."""
    readme = re.sub(rf"(github\.com[/:]){re.escape(old)}(?![\w-])", rf"\g<1>{course.repository}", readme)
    row = re.compile(
        r"^(\| \[[^\]]+\]\(notebooks/(\w+)\.ipynb\))(?:<br>\[!\[Open in Colab\][^|]*?)?( \|)", re.M
    )
    return row.sub(lambda found: f"{found[1]}<br>{course.badges(found[2])}{found[3]}", readme)


def refresh(root: Path, repository: str | None = None) -> list[Path]:
    """Write address and version into pyproject.toml, all notebooks and the README.

    Args:
        repository: the new owner/name; without one, that of pyproject.toml.

    Returns:
        The files that have changed.

    Raises:
        ValueError: the address is none, or a file is not of the shape that this needs.
    """
    old = Course.read(root)
    course = Course(owner_name(repository) if repository else old.repository, old.version)
    texts = {root / "pyproject.toml": None, root / "README.md": None}
    texts |= dict.fromkeys(sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")))
    for path in texts:
        before = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            texts[path] = with_address(before, course.repository)
        elif path.suffix == ".md":
            texts[path] = with_links(before, old.repository, course)
        else:
            book = with_set_up(nbformat.reads(before, as_version=4), path.stem, course)
            texts[path] = nbformat.writes(book) + "\n"
    changed = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:  # only now: an error above leaves everything as it was
        write_atomically(path, texts[path])
    return changed


def moved_on(root: Path) -> str | None:
    """Why the tag of this version is not the course that lies here: a sentence, or None.

    Without the tag, or outside a git checkout, there is nothing to say.
    """
    tag = f"v{Course.read(root).version}"
    git = ["git", "-C", str(root)]
    if subprocess.run(
        [*git, "rev-parse", "-q", "--verify", f"{tag}^{{commit}}"], capture_output=True
    ).returncode:
        return None
    packed = ("mmhelpers", "requirements.txt", "constraints.txt")
    if not subprocess.run([*git, "diff", "--quiet", tag, "--", *packed], capture_output=True).returncode:
        return None
    return (
        f"The package has changed since {tag}, and learners on Colab get {tag}: raise the version in "
        "pyproject.toml, then: make badges"
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repo", metavar="owner/name", help="the new address; default: that of pyproject.toml"
    )
    options = parser.parse_args(argv)
    try:
        changed = refresh(ROOT, options.repo or None)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    course = Course.read(ROOT)
    print(f"{course.repository}, version {course.version}: {len(changed)} files changed")
    if course.repository == PLACEHOLDER:
        print("This is the placeholder, which Colab and Kaggle refuse: make badges REPO=owner/name")
    if sentence := moved_on(ROOT):
        print(sentence)
    return 0


if __name__ == "__main__":
    sys.exit(main())
