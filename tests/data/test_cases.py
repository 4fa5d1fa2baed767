"""Layouts that people in this field have, from DATA to a collection that was saved and loaded again."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from samples import encoded, picture, write

from mmhelpers import data
from mmhelpers.course.profiles import PROFILES

FILES = [f"p{number:03d}.jpg" for number in range(44)]  # MIN_ROWS is 40, and at most a tenth may be skipped


def pictures(place: Path) -> Path:
    place.mkdir()
    for number, file in enumerate(FILES):
        picture(number).save(place / file, quality=90)
    return place


def said(number: int, k: int = 0) -> str:
    return f"thing {number} café in words {k}"


def lay_out(case: str, place: Path, texts: dict[str, list[str]]) -> None:
    pairs = [(file, text) for file, of in texts.items() for text in of]
    if case in ("five-captions-csv", "other-column-names"):  # as Flickr8k has them; as anybody may
        name, *header = ("captions", "image", "caption") if case[0] == "f" else ("metadata", "filename", "title")
        with open(place / f"{name}.csv", "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([header, *pairs])
    else:
        write(place, [{"file_name": f, "text": t} for f, t in (texts.items() if case == "caption-lists" else pairs)])


def opened(source: Path | str, folder: Path) -> data.Collection:
    data.save(data.open_source(str(source), PROFILES["smoke"], folder), folder)
    return data.load(folder)


@pytest.mark.parametrize(("case", "most", "printed"), [
    ("five-captions-csv", 5, "pictures from column 'image', texts from 'caption'"),
    ("caption-lists", 5, ""), ("repeated-rows", 2, ""),
    ("other-column-names", 1, "pictures from column 'filename', texts from 'title'"),
])  # fmt: skip
def test_it_is_taken_as_it_is(tmp_path: Path, capsys, case: str, most: int, printed: str) -> None:
    fewer = most if case == "caption-lists" else 1
    texts = {file: [said(i, k) for k in range(most - i % fewer)] for i, file in enumerate(FILES)}
    lay_out(case, pictures(tmp_path / "mine"), texts)
    collection = opened(tmp_path / "mine", tmp_path / "out")
    assert printed in capsys.readouterr().out
    ids = [image for split in collection.splits.values() for image in split["image_id"]]
    assert sorted(ids) == FILES, "each picture in one split"
    asked = {file: [] for file in FILES}
    for truth in collection.truth.values():
        for query, text in truth.queries.items():
            [answer] = truth.relevant[query]  # the texts of a picture share their answer: no negatives among them
            assert answer in truth.corpus and truth.families[query] == answer
            asked[answer].append(text)
    assert asked == texts


def test_columns_that_would_both_do_are_named_by_an_option(tmp_path: Path) -> None:
    place, both = pictures(tmp_path / "mine"), r"'filename' and 'path'(?s:.*)'caption' and 'title'; .*\?text=caption"
    write(place, [{"filename": f, "path": f, "title": "a", "caption": said(i)} for i, f in enumerate(FILES)])
    for options, words in (
        ("", both),
        ("?text=headline", "no column 'headline'"),
        ("?bad=ignore", "there is bad=skip"),
    ):
        with pytest.raises(data.DataError, match=words):
            opened(f"{place}{options}", tmp_path / "out")
    assert said(0) in opened(f"{place}?image=path&text=caption", tmp_path / "out").truth["train"].queries.values()


def test_three_broken(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    place, out = pictures(tmp_path / "mine"), tmp_path / "out"
    lay_out("repeated-rows", place, {file: [said(i)] for i, file in enumerate(FILES)})
    (place / "p010.jpg").write_bytes(encoded(picture(1, (400, 400)), "JPEG")["bytes"][:2000])
    (place / "p020.jpg").write_text("<html>404</html>")
    (place / "p030.jpg").unlink()
    with pytest.raises(data.DataError) as error:
        opened(place, out)
    broken = [("p010.jpg", "11"), ("p020.jpg", "21"), ("p030.jpg", "31")]
    assert [p.split(":")[0] for p in error.value.problems] == [f"metadata.jsonl row {row} ({f})" for f, row in broken]
    assert str(error.value).endswith(f"DATA='{place}?bad=skip'") and not out.exists()
    collection = opened(f"{place}?bad=skip", out)
    assert sum(map(len, collection.splits.values())) == 41
    assert "3 of 44 rows cannot be used and are left out" in capsys.readouterr().out
    with open(out / "skipped.csv", newline="", encoding="utf-8") as lines:
        assert [(line["file"], line["row"]) for line in csv.DictReader(lines) if line["problem"]] == broken
    for file in FILES[:2]:
        (place / file).unlink()
    with pytest.raises(data.DataError, match="Of 44 rows 5 are broken, too many"):
        opened(f"{place}?bad=skip", tmp_path / "more")
