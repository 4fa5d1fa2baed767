from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from conftest import git
from test_folder import a_picture

from mmhelpers import data
from mmhelpers.course.profiles import PROFILES
from mmhelpers.data import figures
from mmhelpers.data.folder import DataError, read_folder
from mmhelpers.data.gitfiles import Repository

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"
BY = "http://creativecommons.org/licenses/by/4.0/"
BOOK = figures.BOOKS["microbiology"]


def a_figure(file: str, alt: str, caption: str | None = None) -> str:
    image = f'<media id="m" alt="{alt}">\n<image mime-type="image/jpeg" src="../../media/{file}"/>\n</media>'
    return f'<figure id="f">{image}{"" if caption is None else f"<caption>{caption}</caption>"}</figure>'


def a_module(*content: str) -> str:
    """As in the books: namespaces, metadata, paragraphs between the figures."""
    body = "<para>Some text.</para>".join(content)
    return f"""<document xmlns="http://cnx.rice.edu/cnxml" xmlns:m="http://www.w3.org/1998/Math/MathML">
<title>A title</title>
<metadata xmlns:md="http://cnx.rice.edu/mdml"><md:content-id>m1</md:content-id></metadata>
<content>{body}</content></document>"""


def parsed(*content: str) -> list[figures.Figure]:
    return figures.parse_module(a_module(*content).encode(), "modules/m1/index.cnxml", "a/book")


@dataclasses.dataclass
class Remote:
    """A repository on disk with a book's layout, in the place of GitHub's."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / f"{BOOK.repository}.git"

    def commit(self, modules: dict[str, str], pictures: dict[str, bytes], licence: str = BY) -> str:
        collection = f"""<col:collection xmlns:col="http://cnx.rice.edu/collxml">
<metadata xmlns:md="http://cnx.rice.edu/mdml"><md:title>A book</md:title>
<md:license url="{licence}">A licence</md:license></metadata></col:collection>"""
        files = {"collections/a.collection.xml": collection.encode()}
        files |= {f"modules/{name}/index.cnxml": text.encode() for name, text in modules.items()}
        files |= {f"media/{name}": raw for name, raw in pictures.items()}
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            git(self.folder, "init", "--quiet", "--initial-branch=main")
            git(self.folder, "config", "uploadpack.allowFilter", "true")
        for name, raw in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(raw)
        git(self.folder, "add", ".")
        git(self.folder, "commit", "--quiet", "-m", "a version")
        return git(self.folder, "rev-parse", "HEAD")

    def use(self, monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
        monkeypatch.setenv("MM_FIGURES_REMOTE", self.root.as_uri())
        monkeypatch.setitem(figures.BOOKS, BOOK.slug, dataclasses.replace(BOOK, commit=commit))


def jpeg(tmp_path: Path, number: int) -> bytes:
    a_picture(number, (120, 90)).save(tmp_path / "picture.jpg", quality=90)
    return (tmp_path / "picture.jpg").read_bytes()


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path / "remote")


@pytest.fixture
def book(tmp_path: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """Fifty figures in five modules, and what a real book has besides."""
    modules, pictures = {}, {}
    for m in range(5):
        content = [
            a_figure(
                f"Fig {i} (a).jpg",
                f"A drawing that shows the thing with number {i}",
                f"Caption {i}. (credit: P{i})",
            )
            for i in range(10 * m, 10 * m + 10)
        ]
        modules[f"m{m}"] = a_module(*content)
        pictures |= {f"Fig {i} (a).jpg": jpeg(tmp_path, i) for i in range(10 * m, 10 * m + 10)}
    again = a_figure("Fig 3 (a).jpg", "A drawing that shows the thing with number 3")
    short, gone = a_figure("short.jpg", "A cell"), a_figure("gone.jpg", "A drawing that was never added")
    broken = a_figure("broken.jpg", "A drawing whose file is damaged")
    vector = a_figure("vector.svg", "A drawing in a format of its own")
    modules["m9"] = a_module(again, short, gone, broken, vector)
    pictures |= {"unused.jpg": b"x" * 100_000, "broken.jpg": b"no picture", "vector.svg": b"<svg/>"}
    commit = remote.commit(modules, pictures | {"short.jpg": jpeg(tmp_path, 99)})
    remote.commit({"m0": a_module()}, {}, "http://creativecommons.org/licenses/by-nc-sa/4.0/")
    remote.use(monkeypatch, commit)
    return remote


def rows_of(metadata: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in metadata.read_text(encoding="utf-8").split("\n")]


def test_the_pins_are_those_of_the_table() -> None:
    assert len({book.commit for book in figures.BOOKS.values()}) == 8
    for slug, book in figures.BOOKS.items():
        assert re.fullmatch(r"[0-9a-f]{40}", book.commit) and book.repository == f"openstax/osbooks-{slug}"


def test_names_choose_books() -> None:
    assert len(figures.chosen("figures")) == 8
    assert [book.slug for book in figures.chosen("figures:medical")] == ["anatomy-physiology", "microbiology"]
    assert [book.title for book in figures.chosen("figures:us-history")] == ["U.S. History"]
    with pytest.raises(DataError, match="no 'chemistry'; choose one of medical, physics, people, anatomy"):
        figures.chosen("figures:chemistry")


def test_a_book_becomes_a_folder(book: Remote, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    metadata = figures.gather("figures:microbiology", tmp_path / "cache")
    rows = rows_of(metadata)
    assert len(rows) == 50 and len(read_folder(metadata)) == 50
    assert rows[3] == {
        "file_name": f"{next((tmp_path / 'cache').glob('micro*/')).name}/images/microbiology__Fig_3__a_.jpg",
        "image_id": "images/microbiology__Fig_3__a_.jpg",
        "text": "A drawing that shows the thing with number 3",
        "caption": "Caption 3.",
        "credit": "credit: P3",
        "source": "Microbiology",
        "source_repo": "openstax/osbooks-microbiology",
        "source_commit": figures.BOOKS["microbiology"].commit,
        "licence": "CC BY 4.0",
    }
    said = capsys.readouterr().out
    assert said.index("CC BY 4.0") < said.index("50 figures")
    for line in (
        "1 that came before",
        "1 with an alternative text below 20",
        "1 whose picture is not in",
        "1 cannot be opened (broken.jpg",
        "1 in another format",
    ):
        assert f"    {line}" in said


def test_through_the_same_checks_as_any_folder(book: Remote, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MM_DOWNLOADS", str(tmp_path / "cache"))
    collection = data.open_source("figures:microbiology", PROFILES["smoke"], tmp_path / "out")
    assert (collection.name, collection.licence) == ("figures:microbiology", "CC BY 4.0")
    test = collection.splits["test"]
    assert len(test) >= 5 and all(re.fullmatch(r"credit: P\d+", credit) for credit in test["credit"])
    assert not data.near_duplicates(collection.splits)


def objects(folder: Path) -> int:
    return sum(map(int, re.findall(r"(?:count|in-pack): (\d+)", git(folder, "count-objects", "-v"))))


def test_only_what_is_read_is_fetched(book: Remote, tmp_path: Path) -> None:
    commit = figures.BOOKS["microbiology"].commit
    repository = Repository(tmp_path / "git", f"{book.root.as_uri()}/{BOOK.repository}.git", commit)
    assert git(tmp_path / "git", "rev-list", "--count", commit) == "1", "shallow"
    before = objects(tmp_path / "git")
    assert before < 20, "a commit and its folders"
    [(path, raw)] = repository.read(["media/Fig 7 (a).jpg"])
    assert path == "media/Fig 7 (a).jpg" and raw == (book.folder / path).read_bytes()
    assert objects(tmp_path / "git") == before + 1


@pytest.mark.parametrize("less", ["no filter", "no single commits"])
def test_servers_that_allow_less(book: Remote, tmp_path: Path, monkeypatch, less: str) -> None:
    if less == "no filter":
        git(book.folder, "config", "uploadpack.allowFilter", "false")
    else:  # the first protocol gives no commit by its hash but the newest of a branch
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.version")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", "0")
    url, commit = f"{book.root.as_uri()}/{BOOK.repository}.git", figures.BOOKS["microbiology"].commit
    repository = Repository(tmp_path / "git", url, commit)
    assert (repository.folder / "filtered").exists() == (less == "no filter")
    assert objects(repository.folder) > 60, "all files came at once"
    paths = sorted(path for path in repository.files if path.startswith("media/Fig"))
    assert dict(repository.read(paths)) == {path: (book.folder / path).read_bytes() for path in paths}


def test_a_stopped_run_goes_on(book: Remote, tmp_path: Path, monkeypatch) -> None:
    stored = []

    def stop_at_twenty(*job: object) -> Path:
        if len(stored) == 20:
            raise KeyboardInterrupt
        stored.append(job)
        return keep(*job)

    keep = figures._store
    monkeypatch.setattr(figures, "_store", stop_at_twenty)
    with pytest.raises(KeyboardInterrupt):
        figures.gather("figures:microbiology", tmp_path / "cache")
    folder = next((tmp_path / "cache").glob("micro*/"))
    assert len(list((folder / "images").iterdir())) == 20 and not (folder / "metadata.jsonl").exists()
    stored[:] = [None] * 100
    monkeypatch.setattr(figures, "_store", lambda *job: stored.append(job) or keep(*job))
    rows = rows_of(figures.gather("figures:microbiology", tmp_path / "cache"))
    assert len(rows) == 50 and len(stored) == 100 + 31, "the thirty that were missing, and the broken one"
    assert not (folder / "git").exists()
    (book.folder / ".git").rename(tmp_path / "gone")
    assert rows_of(figures.gather("figures:microbiology", tmp_path / "cache")) == rows, "needs no network"


def test_another_licence_is_refused(remote: Remote, tmp_path: Path, monkeypatch) -> None:
    nc = "http://creativecommons.org/licenses/by-nc-sa/4.0/"
    remote.use(monkeypatch, remote.commit({"m1": a_module()}, {}, nc))
    with pytest.raises(DataError, match=f"its licence is {nc}, expected was CC BY 4.0"):
        figures.gather("figures:microbiology", tmp_path / "cache")


def test_a_book_without_figures(remote: Remote, tmp_path: Path, monkeypatch) -> None:
    remote.use(monkeypatch, remote.commit({"m1": a_module("<para/>")}, {}))
    with pytest.raises(DataError, match="no figure that can be used"):
        figures.gather("figures:microbiology", tmp_path / "cache")


@pytest.mark.parametrize("wrong", ["commit", "address"])
def test_what_cannot_be_fetched(book: Remote, tmp_path: Path, monkeypatch, wrong: str) -> None:
    if wrong == "commit":
        book.use(monkeypatch, "0" * 39 + "1")
    else:
        monkeypatch.setenv("MM_FIGURES_REMOTE", (tmp_path / "nowhere").as_uri())
    with pytest.raises(DataError, match="git fetch failed: .*run again"):
        figures.gather("figures:microbiology", tmp_path / "cache")


def test_no_git(book: Remote, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="git is not installed"):
        figures.gather("figures:microbiology", tmp_path / "cache")


def test_links_in_the_repository_are_not_followed(remote: Remote, tmp_path: Path, monkeypatch) -> None:
    remote.commit({}, {"x.jpg": b"x"})
    os.symlink("/etc/passwd", remote.folder / "media" / "link.jpg")
    alt = "A drawing that is a link to a secret"
    climbing = a_figure("../../../etc/passwd.jpg", "A drawing from outside of the repository")
    remote.use(monkeypatch, remote.commit({"m1": a_module(a_figure("link.jpg", alt), climbing)}, {}))
    with pytest.raises(DataError, match="no figure that can be used"):
        figures.gather("figures:microbiology", tmp_path / "cache")


@pytest.mark.parametrize(
    ("declared", "used"),
    [
        ('<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">', "&b;"),
        ('<!ENTITY a SYSTEM "file:///etc/passwd">', "&a;"),
        ('<!ENTITY % p SYSTEM "http://127.0.0.1:9/x.dtd"> %p;', ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_hostile_xml_is_refused(declared: str, used: str, encoding: str) -> None:
    text = f"<!DOCTYPE document [{declared}]>{a_module(a_figure('a.jpg', 'x', used))}"
    with pytest.raises(DataError, match="declares a document type"):
        figures.parse_module(text.encode(encoding), "modules/m1/index.cnxml", "a/book")


@pytest.mark.parametrize("raw", [b"", b"<document>", b"\xff\xfe\x00", b"<a>" * 200_000, b"<a>&b;</a>"])
def test_damaged_xml_names_the_module(raw: bytes) -> None:
    with pytest.raises(DataError, match="a/book modules/m1/index.cnxml.*\n.*cannot be parsed"):
        figures.parse_module(raw, "modules/m1/index.cnxml", "a/book")


def test_deep_nesting_is_refused() -> None:
    raw = a_module("<section>" * 20_000 + "</section>" * 20_000).encode()
    with pytest.raises(DataError, match="nested too deeply"):
        figures.parse_module(raw, "modules/m1/index.cnxml", "a/book")


def test_figures_of_a_module() -> None:
    two = "".join(a_figure(f"{i}.jpg", f"part {i}", f"Part {i}.") for i in (1, 2))
    two = two.replace("<figure", "<subfigure").replace("</figure", "</subfigure")
    images = '<image for="epub" src="../../media/1.jpg"/><image for="pdf" src="../../media/1.eps"/>'
    found = parsed(
        f"<figure>{two}<caption>Both. (credit a: X; credit b: Y (Z))</caption></figure>",
        f'<exercise><media alt="  in an\n exercise ">{images}</media></exercise>',
        '<media alt="a film"><video src="film.mp4"/></media>',
    )
    credit = "credit a: X; credit b: Y (Z)"
    assert found == [
        figures.Figure("media/1.jpg", "part 1", "Part 1. Both.", credit),
        figures.Figure("media/2.jpg", "part 2", "Part 2. Both.", credit),
        figures.Figure("media/1.jpg", "in an exercise", "", ""),
    ]


def test_mathematics_and_links_in_a_caption() -> None:
    math = (
        "<m:math><m:semantics><m:mrow><m:mo>−</m:mo><m:mn>4</m:mn><m:mtext>.0 m</m:mtext></m:mrow>"
        '<m:annotation encoding="StarMath 5.0"> size 12{ - 4 }</m:annotation></m:semantics></m:math>'
    )
    caption = f'A shift of {math} <emphasis effect="italics">left</emphasis>, as in <link target-id="x"/>.'
    assert parsed(a_figure("a.jpg", "x", caption))[0].caption == "A shift of −4.0 m left, as in ."


@pytest.mark.parametrize(
    ("given", "caption", "credit"),
    [
        ("A cell.", "A cell.", ""),
        ("A cell. (credit: NIH)", "A cell.", "credit: NIH"),
        ("A cell (Credit: NIH (lab)).", "A cell.", "Credit: NIH (lab)"),
        ("A cell. (credit: NIH).", "A cell.", "credit: NIH"),
        ("(a) One. (credit: X) (b) Two. (credit: Y)", "(a) One. (b) Two.", "credit: X; credit: Y"),
        ("A (attribution: Z) and more.", "A and more.", "attribution: Z"),
        ("A cell. (credit: never closed", "A cell.", "credit: never closed"),
        ("(credits: A; B)", "", "credits: A; B"),
        ("She is credited (by some).", "She is credited (by some).", ""),
        ("A map (creditors in red).", "A map (creditors in red).", ""),
    ],
)
def test_credits(given: str, caption: str, credit: str) -> None:
    assert figures._credited(given) == (caption, credit)


@pytest.mark.parametrize("name", ["figures-medical", "figures-people", "figures-physics"])
def test_as_the_samples(name: str, remote: Remote, tmp_path: Path, monkeypatch) -> None:
    """A book made from a sample's rows gives these rows back, and the table has the samples' commits."""
    if not (SAMPLES / name).is_dir():
        pytest.skip("the samples are not on this machine")
    lines = (SAMPLES / name / "metadata.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    for row in rows:
        book = figures.BOOKS[row["file_name"].removeprefix("images/").split("__")[0]]
        assert (row["source"], row["source_repo"]) == (book.title, book.repository)
        assert row["source_commit"] == book.commit
        assert book.subject == name.removeprefix("figures-")
        assert len(row["text"]) >= figures.MIN_ALT
    assert len({row["text"] for row in rows}) == len(rows)
    some, content, pictures = rows[:1500:15], [], {}
    for row in some:
        file = row["file_name"].split("__", 1)[1]
        caption = row["caption"] + (f" ({row['credit']})" if row["credit"] else "")
        content.append(a_figure(file, *(escape(value, {'"': "&quot;"}) for value in (row["text"], caption))))
        pictures[file] = (SAMPLES / name / row["file_name"]).read_bytes()
    remote.use(monkeypatch, remote.commit({"m1": a_module(*content)}, pictures))
    made = rows_of(figures.gather("figures:microbiology", tmp_path / "cache"))
    assert len(made) == len(some) >= 90
    equal = 0
    for mine, theirs in zip(made, some, strict=True):
        assert set(theirs) <= set(mine) and mine["text"] == theirs["text"]
        assert mine["image_id"].split("__", 1)[1] == theirs["file_name"].split("__", 1)[1]
        if re.search(r"[()]", re.sub(r"\([^()]*\)", "", theirs["credit"])):  # theirs goes on to the end
            both = [Counter(re.findall(r"\w+", row["caption"] + row["credit"])) for row in (mine, theirs)]
            assert both[0] == both[1], "no word is lost"
        else:
            assert (mine["caption"], mine["credit"]) == (theirs["caption"], theirs["credit"])
            equal += 1
    assert equal > 80
