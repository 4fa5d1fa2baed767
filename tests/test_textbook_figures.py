"""scripts/textbook_figures.py, against a book's repository on this disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import git
from PIL import Image

from mmhelpers.data import read_folder
from scripts import textbook_figures as figures

BY, LATER = (f"http://creativecommons.org/licenses/{name}/4.0/" for name in ("by", "by-nc-sa"))
REPOSITORY = "openstax/osbooks-microbiology"


def a_figure(file: str, alt: str, caption: str = "") -> str:
    image = f'<media id="m" alt="{alt}">\n<image mime-type="image/jpeg" src="../../media/{file}"/>\n</media>'
    return f'<figure id="f">{image}<caption>{caption}</caption></figure>'


def a_module(*content: str) -> str:
    """As in the books: namespaces, metadata, paragraphs between the figures."""
    return f"""<document xmlns="http://cnx.rice.edu/cnxml" xmlns:m="http://www.w3.org/1998/Math/MathML">
<metadata xmlns:md="http://cnx.rice.edu/mdml"><md:content-id>m1</md:content-id></metadata>
<content>{"<para>Some text.</para>".join(content)}</content></document>"""


class Remote:
    """A repository with a book's layout, in the place of GitHub's."""

    def __init__(self, root: Path) -> None:
        self.url, self.folder = root.as_uri(), root / f"{REPOSITORY}.git"
        self.folder.mkdir(parents=True)
        git(self.folder, "init", "--quiet", "--initial-branch=main")
        git(self.folder, "config", "uploadpack.allowFilter", "true")

    def commit(self, modules: dict[str, str], pictures: dict[str, bytes], licence: str = BY) -> str:
        collection = f'<c xmlns:md="http://cnx.rice.edu/mdml"><md:license url="{licence}">L</md:license></c>'
        files = {"collections/a.collection.xml": collection.encode()}
        files |= {f"modules/{name}/index.cnxml": text.encode() for name, text in modules.items()}
        files |= {f"media/{name}": raw for name, raw in pictures.items()}
        for name, raw in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(raw)
        git(self.folder, "add", ".")
        git(self.folder, "commit", "--quiet", "-m", "a version")
        return git(self.folder, "rev-parse", "HEAD")

    def gather(self, monkeypatch: pytest.MonkeyPatch, commit: str, out: Path) -> list[dict[str, str]]:
        monkeypatch.setitem(figures.BOOKS, "microbiology", ("medical", "Microbiology", commit))
        count = figures.gather("microbiology", out, self.url)
        rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").splitlines()]
        assert len(rows) == count
        return rows


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path / "remote")


@pytest.fixture
def book(tmp_path: Path, remote: Remote) -> str:
    """The commit of a book with twelve figures, and what a real one has besides."""
    modules, pictures = {}, {"unused.jpg": b"x" * 100_000, "broken.jpg": b"no picture"}
    for i in range(12):
        Image.linear_gradient("L").rotate(30 * i).convert("RGB").save(tmp_path / "a.jpg")
        pictures[f"Fig {i} (a).jpg"] = (tmp_path / "a.jpg").read_bytes()
        shows = f"A drawing that shows thing {i}", f"Caption {i}. (credit: P{i})"
        modules[f"m{i:02d}"] = a_module(a_figure(f"Fig {i} (a).jpg", *shows))
    left_out = {"Fig 3 (a)": "A drawing that shows thing 3", "unused": "A cell",
                "gone": "A drawing that was never added", "broken": "A drawing that is damaged"}  # fmt: skip
    modules["m99"] = a_module(*(a_figure(f"{name}.jpg", text) for name, text in left_out.items()))
    commit = remote.commit(modules, pictures)
    remote.commit({"m0": a_module()}, {}, LATER)  # as the real books went on
    return commit


def test_a_book_becomes_a_folder(remote: Remote, book: str, tmp_path: Path, monkeypatch, capsys) -> None:
    rows = remote.gather(monkeypatch, book, tmp_path / "out")
    assert rows[3] == {
        "file_name": "images/microbiology__Fig_3__a_.jpg", "text": "A drawing that shows thing 3",
        "caption": "Caption 3.", "credit": "credit: P3", "source": "Microbiology", "source_repo": REPOSITORY,
        "source_commit": book, "licence": "CC BY 4.0",
    }  # fmt: skip
    assert len(rows) == 12 == len(read_folder(tmp_path / "out"))
    said = capsys.readouterr().out
    for line in ("1 that came before", "1 with an alternative text below 20", "1 whose picture is not in",
                 "1 cannot be opened (broken.jpg"):  # fmt: skip
        assert f"    {line}" in said


def test_another_licence_and_files_from_outside_are_refused(remote: Remote, tmp_path, monkeypatch) -> None:
    commit = remote.commit({"m1": a_module()}, {}, LATER)
    with pytest.raises(ValueError, match=f"its licence is {LATER}, expected was CC BY 4.0"):
        remote.gather(monkeypatch, commit, tmp_path / "out")
    os.symlink("/etc/passwd", remote.folder / "link.jpg")
    link = a_figure("../link.jpg", "A drawing that is a link to a secret")
    climbing = a_figure("../../../etc/passwd.jpg", "A drawing from outside of the repository")
    commit = remote.commit({"m1": a_module(link, climbing)}, {})
    with pytest.raises(ValueError, match="no figure that can be used"):
        remote.gather(monkeypatch, commit, tmp_path / "out")
