"""Rows and columns of data sets as the Hub has them; test_hub_series.py asks a server, which refuses some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import datasets
import httpx
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, List, Value
from huggingface_hub import DatasetCard, HfApi, errors
from samples import a_repository, a_table, encoded, picture, pictures

from mmhelpers import data
from mmhelpers.course.profiles import PROFILES, with_options
from mmhelpers.data import DataError, hub, read_folder

SMOKE = PROFILES["smoke"]
BYTES = {"bytes": Value("binary"), "path": Value("string")}
TOKEN, COMMIT = "hf_" + "s3cret" * 5, "c0ffee" * 6 + "0000"


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]


def texts_of(folder: Path) -> list[tuple[str, ...]]:  # one entry a picture
    return sorted(row.texts for row in read_folder(folder))


@pytest.fixture
def gather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    # Five seconds after the last of several shards are for connections that are none here.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    monkeypatch.setenv("MM_DOWNLOADS", str(tmp_path / "cache"))
    return lambda place, **options: hub.gather(str(place), options, SMOKE, tmp_path / "cache")


@pytest.fixture
def on_the_hub(gather: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Make a folder answer to an id; `datasets` and the card are read for real."""
    places: dict[str, Path] = {}
    load = datasets.load_dataset

    def from_disk(name: str, config: str | None = None, **how: object) -> object:
        asked = how.pop("revision", "") if name in places else COMMIT
        assert how["streaming"] and asked == COMMIT, "the commit that the licence stands for"
        return load(str(places.get(name, name)), config, **how)

    def about(self: object, name: str, revision: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(card_data=DatasetCard.load(places[name] / "README.md").data, sha=COMMIT)

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    monkeypatch.setattr(HfApi, "dataset_info", about)
    return places.__setitem__


@pytest.mark.parametrize(("source", "columns", "card", "licence"), [
    ("hub:owner/name", ("image", "caption"), "license: [cc-by-nc-4.0]", "cc-by-nc-4.0"),
    ("hub:owner/name@main", ("photo", "query"), "license: mit", "mit"),
    ("hub:owner/name", ("image", "title"), "license: unknown", "not stated; ask its authors"),
    ("hub:owner/name?image=b&text=says", ("b", "says"), "license: other\nlicense_name: my-own", "my-own"),
])  # fmt: skip
def test_columns_and_licences(on_the_hub, gather, tmp_path, capsys, source, columns, card, licence) -> None:
    image, text = columns
    more = {"id": list("1111")} | ({"a": pictures(4), "title": list("1111")} if image == "b" else {})
    table = {**more, image: pictures(4), text: list("abcd")}
    on_the_hub("owner/name", a_repository(tmp_path / "hub", table, card=card))
    place, options = with_options(source)
    rows = rows_of(gather(place, **options))
    assert {row["text"][0] for row in rows} == set("abcd")
    assert {(row["source"], row["source_commit"]) for row in rows} == {("owner/name", COMMIT)}
    assert all(row["licence"].startswith(licence) for row in rows)
    assert capsys.readouterr().out.startswith(f"owner/name {COMMIT[:12]}: licence {licence}"), "first of all"


def test_fetched_once_from_the_hub_and_read_again_from_disk(on_the_hub, gather, tmp_path, capsys) -> None:
    columns = {"image": pictures(4), "text": list("abcd")}
    root = a_repository(tmp_path / "hub", columns)
    on_the_hub("owner/name", root)
    rows = rows_of(gather("hub:owner/name"))
    (root / "data").rename(tmp_path / "gone")
    assert rows_of(gather("hub:owner/name")) == rows and "fetched before" in capsys.readouterr().out
    for texts in ("abcd", "efgh"):  # on disk it may have changed
        a_table({**columns, "text": list(texts)}).to_parquet(tmp_path / "my.parquet")
        assert texts_of(gather(tmp_path / "my.parquet")) == [(text,) for text in texts]


def test_wrong_columns_are_answered_with_the_list(on_the_hub, gather, tmp_path) -> None:
    columns = {"picture": pictures(4), "words": list("abcd"), "kind": [0] * 4}
    on_the_hub("owner/name", a_repository(tmp_path / "hub", columns, kind=Value("int64")))
    there = ".*its columns are '?picture'?, '?words"
    for options, problem in (
        ({"image": "image", "text": "words"}, f"has no column 'image'{there}"),
        ({"text": "titel"}, f"has no column 'titel'{there}"),
        ({"image": "kind", "text": "words"}, f"column 'kind' holds no pictures{there}"),
        ({}, f"has no column 'text'.*name one with .text={there}"),
        ({"img": "picture"}, "no option 'img'; there are image, text"),
        ({"text": "words", "split": "test"}, "has no split 'test'; there are train"),
        ({"text": "words", "config": "german"}, "BuilderConfig 'german' not found"),
    ):
        with pytest.raises(DataError, match=problem):
            gather("hub:owner/name", **options)
    assert not list((tmp_path / "cache").glob("[!.]*")), "nothing that looks whole"


def test_only_as_many_pictures_as_the_profile_takes(gather: Callable, tmp_path: Path) -> None:
    n = SMOKE.n_train + SMOKE.n_validation + SMOKE.n_test
    a_table({"image": pictures(n + 60), "text": [str(i) for i in range(n + 60)]}).to_parquet(tmp_path / "my.parquet")
    rows = rows_of(gather(tmp_path / "my.parquet"))
    assert len(rows) == n < max(int(row["text"][0]) for row in rows), "chance decides, not order"
    assert rows_of(gather(tmp_path / "my.parquet")) == rows, "and the same again"


def test_texts_of_the_same_picture_lists_of_texts_and_classes(gather: Callable, tmp_path: Path) -> None:
    listed = {"image": [*pictures(2), *pictures(2), *pictures(3)[2:]]}
    listed["captions"] = [["a 1", " ", "a 2"], ["b"], ["a 3"], ["b"], []]
    a_table(listed, captions=List(Value("string"))).to_parquet(tmp_path / "a.parquet")
    [first, second] = texts_of(gather(tmp_path / "a.parquet"))
    assert (set(first), second) == ({"a 1", "a 2", "a 3"}, ("b",))
    a_table({"image": pictures(2), "caption_0": ["a", "b"], "caption_1": ["c", ""]}).to_parquet(tmp_path / "c.parquet")
    assert texts_of(gather(tmp_path / "c.parquet")) == [("a", "c"), ("b",)]
    table, classes = {"image": pictures(4), "kind": [0, 1, 0, 1]}, ClassLabel(names=["red_mug", "lamp"])
    a_table(table, kind=classes).to_parquet(tmp_path / "b.parquet")
    rows = read_folder(gather(tmp_path / "b.parquet", text="kind"))
    assert sorted((row.is_class, *row.texts) for row in rows) == [(True, "lamp")] * 2 + [(True, "red mug")] * 2


def test_rows_that_cannot_be_used_are_named(on_the_hub, gather, tmp_path, capsys) -> None:
    """Among them names of files: neither a table nor the Hub may name those of this disk."""
    picture().save(secret := tmp_path / "secret.png")
    images = [*pictures(3), {"bytes": b"no picture", "path": None}, None]
    images[1] = encoded(picture(1).convert("CMYK"), "JPEG")
    images += [{"bytes": None, "path": path} for path in (str(secret), "../secret.png", "https://example.org/a.png")]
    table = {"image": images, "text": ["a", "b", None, *"defgh"]}
    on_the_hub("owner/name", a_repository(tmp_path / "hub", table, image=BYTES))
    a_table(table, image=BYTES).to_parquet(tmp_path / "my.parquet")
    for place in ("hub:owner/name", tmp_path / "my.parquet"):
        folder = gather(place)
        assert texts_of(folder) == [("a",), ("b",)]
        assert sorted(path.suffix for path in (folder / "images").iterdir()) == [".jpg", ".png"]
        said = capsys.readouterr().out
        assert "6 rows cannot be used" in said and "it has no text" in said and "it holds no picture" in said
    a_table({"image": images[3:], "text": list("defgh")}, image=BYTES).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no row of it can be used; row 1"):
        gather(tmp_path / "none.parquet")


@pytest.mark.parametrize("form", ["file", "folder", "Dataset", "DatasetDict"])
def test_parquet_and_save_to_disk(gather: Callable, tmp_path: Path, form: str) -> None:
    """As DATA, without "hub:"; a Parquet file may hold the bytes without saying that they are pictures."""
    columns, place = {"img": pictures(60), "headline": [f"t {i}" for i in range(60)]}, tmp_path / "mine"
    table = a_table(columns)
    if form == "file":
        place = tmp_path / "mine.parquet"
        Dataset.from_dict({**columns, "img": [image["bytes"] for image in columns["img"]]}).to_parquet(place)
    elif form == "folder":
        table.to_parquet(place / "table.parquet")
    else:
        (table if form == "Dataset" else DatasetDict(train=table)).save_to_disk(str(place))
    collection = data.open_source(f"{place}?image=img&text=headline", SMOKE, tmp_path / "out")
    assert collection.name == place.name and "not stated" in collection.licence
    assert set(collection.splits["test"]["source"]) == {place.name}, "not where it lies"
    assert sum(map(len, collection.splits.values())) == 60


REQUEST = httpx.Request("GET", "https://hub", headers={"authorization": f"Bearer {TOKEN}"})


@pytest.mark.parametrize(("error", "words"), [
    (errors.HfHubHTTPError("Too many", response=httpx.Response(429, request=REQUEST)), "asks to slow down"),
    (errors.OfflineModeIsEnabled("offline"), "cannot be reached"), (httpx.ReadTimeout("slow"), "cannot be reached"),
    (errors.HFValidationError("id"), "it is not an id such as owner/name"),
    (OSError(f"something else with {TOKEN}\nand more"), "OSError: something else with hf_...$"),
])  # fmt: skip
def test_what_the_hub_may_answer(gather: Callable, monkeypatch, error: Exception, words: str) -> None:
    def dataset_info(self: object, name: str, revision: str | None) -> None:
        raise error

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(DataError, match=words) as caught:
        gather("hub:owner/name")
    assert TOKEN not in str(caught.value) and caught.value.__suppress_context__
