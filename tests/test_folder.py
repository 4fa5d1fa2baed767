from __future__ import annotations

import io
import json
import os
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from mmhelpers.data import images as pictures
from mmhelpers.data.folder import DataError, read_folder


def a_picture(number: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """Soft blobs, so that pictures of different numbers look different."""
    noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def a_folder(root: Path, n: int = 3, **columns: str) -> tuple[Path, list[dict]]:
    """A good folder of `n` pictures, and its rows; `columns` are added to each."""
    (root / "images").mkdir(parents=True)
    rows = [{"file_name": f"images/{i}.png", "text": f"picture number {i}", **columns} for i in range(n)]
    for i, row in enumerate(rows):
        a_picture(i).save(root / row["file_name"])
    write(root, rows)
    return root, rows


def write(root: Path, rows: list[dict]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (root / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def problems(root: Path) -> list[str]:
    with pytest.raises(DataError) as error:
        read_folder(root)
    return error.value.problems


def the_problem(root: Path, *words: str) -> None:
    found = problems(root)
    assert len(found) == 1, found
    assert all(word in found[0] for word in words), found[0]


def test_good_folder(tmp_path: Path) -> None:
    root, rows = a_folder(tmp_path, credit="me")
    read = read_folder(root)
    assert all(r.texts == (r.text,) and not r.is_class for r in read)
    assert [(r.number, r.image_id, r.text, r.extra) for r in read] == [
        (i + 1, row["file_name"], row["text"], {"credit": "me"}) for i, row in enumerate(rows)
    ]
    assert len({r.content for r in read}) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("images/none.png", "is missing"),
        ("/etc/passwd", "absolute"),
        ("C:/pictures/a.png", "absolute"),
        ("../outside.png", "leaves the folder"),
        ("images/../../outside.png", "leaves the folder"),
        ("images\\0.png", "backslash"),
        ("images", "not a file"),
        (".", "not a file"),
        ("images/a\0.png", "file_name"),
        ("a" * 5000, "file_name"),
        ("", "file_name must be"),
        (None, "file_name must be"),
        (7, "file_name must be"),
    ],
)
def test_bad_path(tmp_path: Path, name: object, words: str) -> None:
    a_picture().save(tmp_path / "outside.png")
    root, rows = a_folder(tmp_path / "folder")
    write(root, [*rows, {"file_name": name, "text": "a picture"}])
    the_problem(root, "metadata.jsonl row 4", words)


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b\ufeff", None, 3, [], {"a": 1}, True, float("nan")])
def test_bad_text(tmp_path: Path, text: object) -> None:
    root, rows = a_folder(tmp_path)
    rows[1]["text"] = text
    write(root, rows)
    the_problem(root, "row 2 (images/1.png)", "text must say something")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"file_name": "images/0.png", "text": ', "not JSON"),
        (b'["images/0.png", "text"]', "not an object"),
        (b'"images/0.png"', "not an object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"file_name": "images/2.png", "text": "caf\xe9"}', "UTF-8"),
        (b'{"file_name": "images/2.png", "text": "half \\ud83d"}', "lone surrogate"),
        (b'{"file_name": "images/2.png"}', "text must say something"),
    ],
)
def test_bad_json_row(tmp_path: Path, line: bytes, words: str) -> None:
    root, rows = a_folder(tmp_path)
    good = [json.dumps(row).encode() for row in rows[:2]]
    (root / "metadata.jsonl").write_bytes(b"\n".join([good[0], line, good[1]]))
    the_problem(root, "metadata.jsonl row 2", words)


def damaged(kind: str) -> bytes:
    out = io.BytesIO()
    if kind in ("gigantic", "bomb"):
        Image.new("1", (20_000, 9_000 if kind == "gigantic" else 20_000)).save(out, "PNG")
    else:
        a_picture(1, (200, 200)).save(out, "JPEG" if kind == "truncated jpeg" else "PNG")
    cut = {"truncated jpeg": -500, "truncated png": -500, "header only": 30}.get(kind)
    other = {"text": b"not a picture", "empty": b"", "svg": b"<svg/>", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n"}
    return other.get(kind, out.getvalue()[:cut])


@pytest.mark.parametrize(
    "kind",
    ["truncated jpeg", "truncated png", "header only", "text", "empty", "svg", "eps", "gigantic", "bomb"],
)
def test_bad_picture(tmp_path: Path, kind: str) -> None:
    root, rows = a_folder(tmp_path)
    (root / rows[1]["file_name"]).write_bytes(damaged(kind))
    size = ["gigantic", "50 million"] if kind in ("gigantic", "bomb") else ["cannot be used"]
    the_problem(root, "row 2 (images/1.png)", *size)


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs the right to make links")
@pytest.mark.parametrize("place", ["file", "inside", "folder", "metadata", "broken"])
def test_links_are_refused(tmp_path: Path, place: str) -> None:
    outside, _ = a_folder(tmp_path / "outside")
    root, rows = a_folder(tmp_path / "folder")
    if place == "folder":
        (root / "more").symlink_to(outside / "images")
        write(root, [*rows, {"file_name": "more/0.png", "text": "a picture"}])
    elif place == "metadata":
        (root / "metadata.jsonl").unlink()
        (root / "metadata.jsonl").symlink_to(outside / "metadata.jsonl")
    else:
        target = {"file": outside / "images/0.png", "inside": root / "images/0.png", "broken": root / "none"}
        (root / "images/link.png").symlink_to(target[place])
        write(root, [*rows, {"file_name": "images/link.png", "text": "a picture"}])
    the_problem(root, "link")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    root, rows = a_folder(tmp_path)
    (root / rows[0]["file_name"]).unlink()
    os.mkfifo(root / rows[0]["file_name"])
    the_problem(root, "row 1", "not a file")


def test_duplicates(tmp_path: Path) -> None:
    root, rows = a_folder(tmp_path, 4)
    rows[2]["file_name"] = "./images//0.png"
    write(root, rows)
    the_problem(root, "row 3", "file_name is that of row 1")
    write(
        root, [row | {"file_name": f"images/{i}.png", "image_id": f"{i % 3}"} for i, row in enumerate(rows)]
    )
    the_problem(root, "row 4", "image_id is that of row 1")
    write(root, [rows[0], {**rows[1], "image_id": "images/0.png"}])
    the_problem(root, "row 2", "image_id is that of row 1")


@pytest.mark.parametrize("column", ["file_name", "text"])
def test_missing_column_lists_those_there(tmp_path: Path, column: str) -> None:
    root, rows = a_folder(tmp_path)
    write(root, [{("x" if key == column else key): value for key, value in row.items()} for row in rows])
    the_problem(root, f"no column {column!r}", "'x'")


def test_taken_column(tmp_path: Path) -> None:
    root, _ = a_folder(tmp_path, spec="something")
    the_problem(root, "'spec'", "rename")


@pytest.mark.parametrize("raw", [b"", b"\xef\xbb\xbf", b"\n\n", b" \r\n"])
def test_no_rows(tmp_path: Path, raw: bytes) -> None:
    root, _ = a_folder(tmp_path)
    (root / "metadata.jsonl").write_bytes(raw)
    the_problem(root, "no rows")


def test_which_metadata_file(tmp_path: Path) -> None:
    the_problem(tmp_path / "nowhere", "no such folder")
    root, _ = a_folder(tmp_path / "folder")
    (root / "metadata.csv").write_text("file_name,text\n", encoding="utf-8")
    the_problem(root, "both")
    (root / "metadata.jsonl").unlink()
    the_problem(root, "metadata.csv", "no rows")
    (root / "metadata.csv").unlink()
    the_problem(root, "there is no table")


def test_all_bad_rows_at_once(tmp_path: Path) -> None:
    root, rows = a_folder(tmp_path, 6)
    (root / "images/0.png").write_bytes(b"no")
    (root / "images/1.png").unlink()
    rows[2]["text"] = ""
    rows[3].update(file_name="../x.png", text=None)
    write(root, rows)
    with open(root / "metadata.jsonl", "ab") as out:
        out.write(b"\n{bad\n")
    assert [line.split(" (")[0].split(":")[0] for line in problems(root)] == [
        f"metadata.jsonl row {row}" for row in (1, 2, 3, 4, 4, 7)
    ]


def test_long_lists_are_cut(tmp_path: Path) -> None:
    root, _ = a_folder(tmp_path)
    write(root, [{"file_name": f"{i}.png", "text": "a"} for i in range(1234)])
    with pytest.raises(DataError) as error:
        read_folder(root)
    assert len(error.value.problems) == 1234
    assert str(error.value).count("\n") == 51 and str(error.value).endswith("and 1,184 more")


def as_csv(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "metadata.jsonl").unlink(missing_ok=True)
    (root / "metadata.csv").write_bytes(text.encode(encoding))
    return root


def test_csv_equals_jsonl(tmp_path: Path) -> None:
    root, rows = a_folder(tmp_path, credit="")
    rows[0]["text"], rows[1]["text"], rows[2]["text"] = (
        'a "red", mug',
        "two\nlines\u2028and more",
        "späte Ängste",
    )
    write(root, rows)
    from_jsonl = [(row.image_id, row.text, row.extra) for row in read_folder(root)]
    quoted = ['"' + row["text"].replace('"', '""') + '"' for row in rows]
    lines = [f"{row['file_name']},{text},\r\n" for row, text in zip(rows, quoted, strict=True)]
    as_csv(root, "file_name,text,credit\r\n\r\n" + "".join(lines), "utf-8-sig")
    assert [(row.image_id, row.text, row.extra) for row in read_folder(root)] == from_jsonl


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file_name,text\nimages/0.png,a, b\n", ["row 2", "3 cells"]),
        ("file_name,text\nimages/0.png\n", ["row 2", "1 cells"]),
        ('file_name,text\nimages/0.png,"a\n', ["row 2", "not CSV"]),
        ('file_name,text\nimages/0.png,"a"b\nimages/1.png,c\n', ["row 2", "not CSV"]),
        ("file_name,text,text\nimages/0.png,a,b\n", ["names a column twice"]),
        ("file_name,text\nimages/0.png, \n", ["row 2 (images/0.png)", "text must say"]),
        ("file_name,text\n", ["no rows"]),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, words: list[str]) -> None:
    found = problems(as_csv(a_folder(tmp_path)[0], text))
    assert any(all(word in line for word in words) for line in found), found


@pytest.mark.parametrize(("encoding", "words"), [("utf-16", "UTF-16"), ("latin-1", "not UTF-8 from line 2")])
def test_csv_in_other_encodings(tmp_path: Path, encoding: str, words: str) -> None:
    root, _ = a_folder(tmp_path)
    the_problem(as_csv(root, "file_name,text\nimages/0.png,café\n", encoding), words)


def test_pictures_become_rgb_and_upright(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), "red")
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    deep = Image.fromarray(np.linspace(1000, 3000, 64).reshape(8, 8).astype(np.uint16))
    palette = red.quantize(4)
    exif = Image.Exif()
    exif[0x0112] = 6
    cases = {
        "rgb.png": (red, {}, ".png", (255, 0, 0)),
        "grey.png": (red.convert("L"), {}, None, (76, 76, 76)),
        "clear.png": (clear, {}, None, (255, 255, 255)),
        "palette.gif": (palette, {"transparency": palette.getpixel((0, 0))}, None, (255, 255, 255)),
        "print.jpg": (red.convert("CMYK"), {"quality": 100}, None, (255, 0, 0)),
        "deep.png": (deep, {}, None, (0, 0, 0)),
        "float.tif": (Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)), {}, None, (0, 0, 0)),
        "wide.png": (Image.new("RGB", (3000, 30), "red"), {}, None, (255, 0, 0)),
        "wide.jpg": (Image.new("RGB", (6000, 60), "red"), {}, None, (254, 0, 0)),
    }
    for name, (image, options, suffix, colour) in cases.items():
        image.save(tmp_path / name, **options)
        picture, kept = pictures.load_picture(tmp_path / name)
        assert (picture.mode, kept, picture.getpixel((0, 0))) == ("RGB", suffix, colour), name
        assert max(picture.size) <= pictures.LONGEST_SIDE
        stored = pictures.store_picture(tmp_path / name, tmp_path / f"{name}-stored")
        again, kept = pictures.load_picture(stored)
        assert kept == stored.suffix and again.size == picture.size
        assert np.abs(np.asarray(again, dtype=int) - np.asarray(picture)).max() <= 4, name
    a_picture(0, (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert pictures.load_picture(tmp_path / "turned.jpg")[0].size == (20, 40)
    assert pictures.load_picture(tmp_path / "deep.png")[0].getpixel((7, 7)) == (255, 255, 255)


def test_good_files_are_copied_unchanged(tmp_path: Path) -> None:
    a_picture().save(tmp_path / "a.JPG", "JPEG")
    stored = pictures.store_picture(tmp_path / "a.JPG", tmp_path / "b")
    assert stored.name == "b.jpg" and stored.read_bytes() == (tmp_path / "a.JPG").read_bytes()


def test_fingerprint_sees_shape_and_colour() -> None:
    def distance(a: Image.Image, b: Image.Image) -> int:
        return pictures.close_pairs(pictures.fingerprint(a)[None], pictures.fingerprint(b)[None], 512)[0, 2]

    one, other = a_picture(1, (200, 160)), a_picture(2, (200, 160))
    assert distance(one, one) == 0
    assert distance(one, one.resize((120, 90))) <= 10 < 60 < distance(one, other)
    mugs = [Image.new("RGB", (96, 96), "white") for _ in range(2)]
    for mug, colour in zip(mugs, ("red", "blue"), strict=True):
        mug.paste(colour, (30, 30, 66, 66))
    assert distance(*mugs) > 20


def test_close_pairs_equal_counting_bit_by_bit() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (150, 512), dtype=np.uint8)
    marks = np.packbits(bits, axis=1).view(np.uint64)
    slow = [(i, j, d) for i in range(70) for j in range(150) if (d := int((bits[i] != bits[j]).sum())) <= 245]
    assert pictures.close_pairs(marks[:70], marks, 245).tolist() == [list(pair) for pair in slow]


def test_several_texts(tmp_path: Path) -> None:
    root, rows = a_folder(tmp_path)
    rows[0] |= {"texts": ["in other words", rows[0]["text"]]}
    rows[1] |= {"texts": "a plain column"}
    write(root, rows)
    first, second, _ = read_folder(root)
    assert first.texts == ("picture number 0", "in other words"), "each once"
    assert second.texts == (second.text,)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"texts": ["good", " "]}, ["text must say something", "' '"]),
        ({"text": ["good", ""]}, ["text must say something", "''"]),
        ({"texts": [["nested"]]}, ["text must say something"]),
    ],
)
def test_bad_lists(tmp_path: Path, columns: dict, words: list[str]) -> None:
    a_picture().save(tmp_path / "outside.png")
    root, rows = a_folder(tmp_path / "folder")
    write(root, [rows[0], rows[1] | columns, rows[2]])
    the_problem(root, "row 2", *words)


def test_a_label_is_a_class(tmp_path: Path) -> None:
    root, rows = a_folder(tmp_path)
    write(root, [{"file_name": row["file_name"], "label": "a mug"} for row in rows])
    read = read_folder(root)
    assert all(row.is_class and row.text == "a mug" and row.extra == {"label": "a mug"} for row in read)
    write(root, [row | {"label": "a mug"} for row in rows])
    assert not any(row.is_class for row in read_folder(root)), "a text says more"


def test_a_table_with_other_names(tmp_path: Path) -> None:
    root, rows = a_folder(tmp_path)
    expected = [(row["file_name"], row["text"]) for row in rows]
    lines = ["picture,title,spec", *(f"{name},{text},x" for name, text in expected)]
    (root / "my table.csv").write_text("\n".join(lines), encoding="utf-8")
    columns = {"image": "picture", "text": "title"}
    (root / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match="'spec', a name that is taken"):
        read_folder(root / "my table.csv", columns)
    lines[0] = "picture,title,credit"
    (root / "my table.csv").write_text("\n".join(lines), encoding="utf-8")
    read = read_folder(root / "my table.csv", columns)
    assert [(row.image_id, row.text) for row in read] == expected and read[0].extra == {"credit": "x"}
    with pytest.raises(DataError, match="no column 'titel'; its columns are 'picture', 'title', 'credit'"):
        read_folder(root / "my table.csv", {"image": "picture", "text": "titel"})


@pytest.mark.parametrize("above", ["", "train"])
def test_an_image_folder(tmp_path: Path, above: str) -> None:
    for number, name in enumerate(["red_mug", "red_mug", "lamp"]):
        (tmp_path / above / name).mkdir(parents=True, exist_ok=True)
        a_picture(number).save(tmp_path / above / name / f"{number}.png")
    read = sorted(read_folder(tmp_path), key=lambda row: row.path.name)
    assert [row.text for row in read] == ["red mug", "red mug", "lamp"] and all(row.is_class for row in read)
    assert [row.image_id for row in read] == [str(PurePosixPath(above, f)) for f in
                                              ("red_mug/0.png", "red_mug/1.png", "lamp/2.png")]  # fmt: skip
    (tmp_path / above / "lamp" / "2.png").write_bytes(b"no picture")
    the_problem(tmp_path, "(" + str(PurePosixPath(above, "lamp/2.png")) + ")", "cannot be used")
