"""Folders and tables as they are read: what is taken, and what is said of rows that cannot be used."""

from __future__ import annotations

import csv
import json
import os
import struct
from pathlib import Path

import pytest
from samples import a_folder, encoded, picture, write

from mmhelpers.data import DataError, read_folder

IN = "file_name must lead into the folder"
SAY = "text must say something"


def problems(source: Path) -> list[str]:
    with pytest.raises(DataError) as error:
        read_folder(source)
    return error.value.problems


def the_problem(source: Path, *words: str) -> None:
    found = problems(source)
    assert len(found) == 1 and all(word in found[0] for word in words), found


@pytest.mark.parametrize("table", ["metadata.jsonl", "commas.csv", "semicolons.csv", "my.tsv"])
def test_a_table_in_any_form(tmp_path: Path, table: str) -> None:
    root, rows = a_folder(tmp_path, credit="me")
    rows[0]["text"], rows[1]["text"] = 'a "red", old; mug', "two\nlines\u2028and a\ttab: späte Ängste"
    write(root, rows)
    if table != "metadata.jsonl":
        (root / "metadata.jsonl").unlink()
        with open(root / table, "w", newline="", encoding="utf-8-sig") as out:
            writer = csv.DictWriter(out, rows[0], delimiter={"s": ";", "m": "\t"}.get(table[0], ","))
            writer.writeheader()
            out.write("\r\n")
            writer.writerows(rows)
    read = read_folder(root)
    expected = [(row["file_name"], (row["text"],), {"credit": "me"}, False) for row in rows]
    assert [(row.image_id, row.texts, row.extra, row.is_class) for row in read] == expected
    assert [row.number for row in read] == ([1, 2, 3] if table == "metadata.jsonl" else [3, 4, 5])
    assert len({row.content for row in read}) == 3


def test_texts_beside_the_pictures_and_folders_named_after_classes(tmp_path: Path) -> None:
    names = ["red_mug/0", "red_mug/1", "lamp/2", "lamp/3"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(i).save(tmp_path / f"{name}.png")
    read = {row.image_id: row.texts for row in read_folder(tmp_path) if row.is_class}
    assert read == {f"{name}.png": ("red mug" if name[0] == "r" else "lamp",) for name in names}
    for name in names:
        (tmp_path / f"{name}.txt").write_bytes(b"\xef\xbb\xbfone\n line\n")
    assert {(row.texts, row.is_class) for row in read_folder(tmp_path)} == {(("one line",), False)}
    (tmp_path / "lamp/2.txt").unlink()
    (tmp_path / "lamp/3.txt").write_bytes(b"caf\xe9")
    (tmp_path / "red_mug/1.txt").write_bytes(b" \n")
    expected = ("1 (lamp/2.png): there is no 2.txt", "2 (lamp/3.png): there is no 3.txt", f"4 (red_mug/1.png): {SAY}")
    assert all(f"row {words}" in line for words, line in zip(expected, problems(tmp_path), strict=True))


@pytest.mark.parametrize(("row", "words"), [
    *(({"file_name": name}, IN) for name in ("/etc/passwd", "C:/a.png", "images/../../outside.png", "images\\0.png")),
    ({"file_name": "images/none.png"}, "is missing"), ({"file_name": 7}, "file_name must be"),
    ({"file_name": "./images//0.png"}, "is that of row 1"), ({"image_id": "images/0.png"}, "is that of row 1"),
    ({"file_name": "a" * 5000}, "file_name"), ({"text": ""}, f"(images/1.png): {SAY}, not ''"),
    ({"text": "\u200b\ufeff \t"}, SAY), ({"text": 3}, f"{SAY}, not 3"),
    ({"text": ["good", " "]}, f"(images/1.png): {SAY}, not ' '"), (b'{"file_name": "images/1.png"}', SAY),
    (b'{"file_name": "images/1.png", "text": ', "not JSON"), (b"[" * 100_000, "not JSON"),
    (b'["images/1.png", "text"]', "no object"), (b'{"file_name": "images/1.png", "text": "caf\xe9"}', "UTF-8"),
    (b'{"file_name": "images/1.png", "text": "half \\ud83d"}', "lone surrogate"),
])  # fmt: skip
def test_a_bad_row_is_named(tmp_path: Path, row: dict | bytes, words: str) -> None:
    root, rows = a_folder(tmp_path / "folder")
    picture().save(tmp_path / "outside.png")
    lines = [json.dumps(good).encode() for good in rows]
    lines[1] = row if isinstance(row, bytes) else json.dumps(rows[1] | row).encode()
    (root / "metadata.jsonl").write_bytes(b"\n".join(lines))
    the_problem(root, "metadata.jsonl row 2", words)


@pytest.mark.parametrize(("content", "words"), [
    (b"file_name,text\nimages/0.png,a, b\n", "a.csv row 2: has 3 cells"),
    (b'file_name,text\nimages/0.png,"a"b\nimages/1.png,c\n', "a.csv row 2: is not CSV"),
    (b"file_name,text\nimages/0.png, \n", f"a.csv row 2 (images/0.png): {SAY}"),
    (b"file_name,text,text\nimages/0.png,a,b\n", "names a column twice"), (b"\xef\xbb\xbffile_name,text\n", "no rows"),
    ("file_name,text\nimages/0.png,café\n".encode("utf-16"), "UTF-16"),
    ("file_name;text\nimages/0.png;café\n".encode("cp1252"), "is not UTF-8 from line 2 on; save it as UTF-8"),
    (b"file,words\nimages/0.png,a\n", "no column 'text' for the texts; name one with ?text="),
    (b"picture,text\nimages/0.png,a\n", "no column 'file_name' for the pictures; name one with ?image="),
    (b"file_name,text,spec\nimages/0.png,a,b\n", "'spec', a name that is taken"),
])  # fmt: skip
def test_a_bad_table(tmp_path: Path, content: bytes, words: str) -> None:
    root, _ = a_folder(tmp_path)
    (root / "metadata.jsonl").rename(root / "a.csv")
    (root / "a.csv").write_bytes(content)
    assert words in problems(root)[0]


def test_which_table(tmp_path: Path) -> None:
    the_problem(tmp_path / "nowhere", "no such folder")
    root, _ = a_folder(tmp_path / "folder")
    (root / "metadata.csv").write_text("file_name,text\n", encoding="utf-8")
    the_problem(root, "both metadata.csv and metadata.jsonl")
    for table in root.glob("metadata.*"):
        table.unlink()
    the_problem(root, "there is no table")


GIF = encoded(picture(), "GIF")["bytes"]


@pytest.mark.parametrize(("content", "words"), [
    (encoded(picture(1, (200, 200)), "JPEG")["bytes"][:-500], "truncated"), (b"<html>404</html>", "cannot identify"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot identify"),  # no Ghostscript
    (GIF[:6] + struct.pack("<HH", 9_000, 9_000) + GIF[10:], "the limit is 50 million"),
    (GIF[:6] + b"\xff" * 4 + GIF[10:], "bomb"),
])  # fmt: skip
def test_a_bad_picture_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    root, rows = a_folder(tmp_path)
    (root / rows[1]["file_name"]).write_bytes(content)
    the_problem(root, "row 2 (images/1.png)", "cannot be used", words)


@pytest.mark.skipif(os.name == "nt", reason="needs the right to make links")
@pytest.mark.parametrize("place", ["file", "inside", "folder", "metadata", "pipe"])
def test_links_are_refused_and_pipes_not_waited_for(tmp_path: Path, place: str) -> None:
    outside, _ = a_folder(tmp_path / "outside")
    root, rows = a_folder(tmp_path / "folder")
    name = "more/0.png" if place == "folder" else "images/link.png"
    write(root, [*rows, {"file_name": name, "text": "a picture"}])
    link = {"folder": root / "more", "metadata": root / "metadata.jsonl"}.get(place, root / name)
    link.unlink(missing_ok=True)
    if place == "pipe":
        os.mkfifo(link)
    else:
        inside = {"folder": "images", "metadata": "metadata.jsonl"}.get(place, "images/0.png")
        link.symlink_to((root if place == "inside" else outside) / inside)
    where = "jsonl is" if place == "metadata" else f"row 4 ({name})"
    the_problem(root, "missing" if place == "pipe" else "link", where)


def test_all_bad_rows_are_told_at_once_up_to_fifty(tmp_path: Path) -> None:
    root, rows = a_folder(tmp_path, 4)
    (root / "images/0.png").write_bytes(b"no")
    rows[1]["text"] = ""
    rows[2].update(file_name="../x.png", text=None)
    write(root, [*rows, "not an object"])
    found = [line.split(" (")[0].split(":")[0] for line in problems(root)]
    assert found == [f"metadata.jsonl row {row}" for row in (1, 2, 3, 3, 5)]
    write(root, [{"file_name": f"{i}.png", "text": "a"} for i in range(1234)])
    with pytest.raises(DataError, match="1,234 problems(?s:.*)and 1,184 more$") as error:
        read_folder(root)
    assert len(error.value.problems) == 1234 and str(error.value).count("\n") == 51
