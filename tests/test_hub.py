"""Rows and columns of data sets as the Hub has them; test_hub_series.py asks a server."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import datasets
import httpx
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from huggingface_hub import DatasetCard, errors
from PIL import Image as Pillow

from mmhelpers import data
from mmhelpers.course.profiles import PROFILES, with_options
from mmhelpers.data import DataError, hub, read_folder

SMOKE = PROFILES["smoke"]
TOKEN, COMMIT = "hf_" + "s3cret" * 5, "c0ffee" * 6 + "0000"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` waits five seconds after the last of several shards, for connections that are none here."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


def picture(number: int, size: tuple[int, int] = (40, 32)) -> Pillow.Image:
    noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Pillow.fromarray(noise).resize(size, Pillow.Resampling.BICUBIC)


def encoded(image: Pillow.Image, kind: str = "PNG") -> dict:
    image.save(out := io.BytesIO(), kind)
    return {"bytes": out.getvalue(), "path": None}


def pictures(n: int) -> list[dict]:
    return [encoded(picture(number)) for number in range(n)]


def a_table(columns: dict, **features: object) -> Dataset:
    known = {name: Image() if isinstance(of[0], dict) else Value("string") for name, of in columns.items()}
    return Dataset.from_dict(columns, features=Features({**known, **features}))


def a_repository(
    root: Path, columns: dict, split: str = "train", card: str = "license: cc-by-4.0", **features: object
) -> Path:
    """A folder as the Hub has it: a card, and Parquet in shards that says which columns are pictures."""
    table = a_table(columns, **features)
    (root / "data").mkdir(parents=True, exist_ok=True)
    for number in range(2):
        table.shard(2, number).to_parquet(root / "data" / f"{split}-{number:05d}-of-00002.parquet")
    (root / "README.md").write_text(f"---\n{card}\n---\n# A set\n", encoding="utf-8")
    return root


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]


def texts_of(folder: Path) -> list[tuple[str, ...]]:
    """As the course reads them, one entry a picture, sorted."""
    return sorted(row.texts for row in read_folder(folder))


def gather(place: Path | str, tmp_path: Path, **options: str) -> Path:
    return hub.gather(str(place), options, SMOKE, tmp_path / "cache")


@pytest.fixture
def on_the_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Make a folder answer to an id; `datasets` and the card are read for real."""
    places: dict[str, Path] = {}
    load = datasets.load_dataset

    def from_disk(name: str, config: str | None, revision: str | None, streaming: bool) -> object:
        assert streaming and revision == COMMIT, "the commit that the licence stands for"
        return load(str(places[name]), config, streaming=True)

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> SimpleNamespace:
            return SimpleNamespace(card_data=DatasetCard.load(places[name] / "README.md").data, sha=COMMIT)

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    monkeypatch.setattr(hub, "HfApi", Api)
    return places.__setitem__


def test_flickr8k_has_five_captions_a_picture(on_the_hub, tmp_path: Path, monkeypatch) -> None:
    captions = {f"caption_{c}": [f"picture {i} in words {c}" for i in range(60)] for c in range(5)}
    root = a_repository(tmp_path / "hub", {"image": pictures(60), **captions}, card="{}")
    on_the_hub("jxie/flickr8k", root)
    monkeypatch.setenv("MM_DOWNLOADS", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="states no licence; ask its authors.* add licence="):
        data.open_source("hub:flickr8k", SMOKE, tmp_path / "out")
    collection = data.open_source("hub:flickr8k?licence=for research", SMOKE, tmp_path / "out")
    assert (collection.name, collection.licence) == ("flickr8k", "for research")
    assert sum(len(split) for split in collection.splits.values()) == 60
    for truth in collection.truth.values():
        assert len(truth.queries) == 5 * len(truth.corpus)
        for query, text in truth.queries.items():
            [answer] = truth.qrels[query]
            about = {truth.queries[q].split(" in ")[0] for q, found in truth.qrels.items() if answer in found}
            assert about == {text.split(" in ")[0]}
    assert set(collection.splits["test"]["source_commit"]) == {COMMIT}


@pytest.mark.parametrize(
    ("source", "place", "column", "card", "licence"),
    [
        ("hub:fashion", "Marqo/fashion200k", "text", "license: apache-2.0", "apache-2.0"),
        ("hub:radiology", "unsloth/Radiology_mini", "caption", "license: [cc-by-nc-4.0]", "cc-by-nc-4.0"),
        ("hub:documents", "tomaarsen/llamaindex-vdr-en-train-preprocessed", "query", "license: mit", "mit"),
        ("hub:ashraq/fashion-product-images-small@main?licence=asked", "ashraq/fashion-product-images-small",
         "productDisplayName", "license: unknown", "asked"),
        ("hub:owner/name?image=picture&text=title", "owner/name", "title",
         "license: other\nlicense_name: my-own", "my-own"),
    ],
)  # fmt: skip
def test_short_names_columns_and_licences(on_the_hub, tmp_path, source, place, column, card, licence) -> None:
    image = "picture" if "picture" in source else "image"
    columns = {"id": list("1111"), image: pictures(4), column: list("abcd"), "negative_0": pictures(4)}
    on_the_hub(place, a_repository(tmp_path / "hub", columns, card=card))
    place_, options = with_options(source)
    rows = rows_of(gather(place_, tmp_path, **options))
    assert {row["text"][0] for row in rows} == set("abcd")
    assert {(row["source"], row["licence"]) for row in rows} == {(place, licence)}


def test_fetched_once(on_the_hub, tmp_path: Path, capsys) -> None:
    root = a_repository(tmp_path / "hub", {"image": pictures(4), "text": list("abcd")})
    on_the_hub("owner/name", root)
    rows = rows_of(gather("hub:owner/name", tmp_path))
    (root / "data").rename(tmp_path / "gone")
    assert rows_of(gather("hub:owner/name", tmp_path)) == rows
    assert "fetched before" in capsys.readouterr().out


def test_a_table_on_disk_is_read_again(tmp_path: Path) -> None:
    """Changed files were once answered with the rows of before, where they lay in a folder."""
    root = a_repository(tmp_path / "hub", {"image": pictures(4), "text": list("abcd")})
    gather(root, tmp_path)
    a_repository(root, {"image": pictures(4), "text": list("efgh")})
    assert texts_of(gather(root, tmp_path)) == [("e",), ("f",), ("g",), ("h",)]


def test_wrong_columns_are_answered_with_the_list(tmp_path: Path) -> None:
    columns = {"picture": pictures(4), "words": list("abcd"), "kind": [0] * 4}
    root = a_repository(tmp_path / "hub", columns, kind=Value("int64"))
    for options, problem in (
        ({"image": "image", "text": "words"}, "has no column 'image'"),
        ({"text": "titel"}, "has no column 'titel'"),
        ({"image": "kind", "text": "words"}, "column 'kind' holds no pictures"),
        ({}, "has no column 'text'.*name one with .text="),
    ):
        with pytest.raises(DataError, match=f"{problem}.*its columns are '?picture'?, '?words"):
            gather(root, tmp_path, **options)
    for options, problem in (
        ({"img": "picture"}, "no option 'img'; there are image, text"),
        ({"text": "words", "split": "test"}, "has no split 'test'; there are train"),
        ({"text": "words", "config": "german"}, "BuilderConfig 'german' not found"),
    ):
        with pytest.raises(DataError, match=problem):
            gather(root, tmp_path, **options)
    assert not list((tmp_path / "cache").glob("[!.]*")), "nothing that looks whole"


def test_only_as_many_pictures_as_the_profile_takes(tmp_path: Path, monkeypatch) -> None:
    n = SMOKE.n_train + SMOKE.n_validation + SMOKE.n_test
    texts, listed = [f"text {i}" for i in range(n + 60)], []
    root = a_repository(tmp_path / "hub", {"image": pictures(n + 60), "text": texts})
    for name in ("scandir", "listdir"):
        usual = getattr(os, name)
        monkeypatch.setattr(os, name, lambda p=".", usual=usual: listed.append(str(p)) or usual(p))
    rows = rows_of(gather(root, tmp_path))
    assert sum(path.endswith("images") for path in listed) < 5, "once for every picture it was"
    assert len(rows) == n and {row["text"][0] for row in rows} != set(texts[:n]), "chance decides, not order"
    assert rows_of(gather(root, tmp_path)) == rows, "and the same again"


def test_texts_of_the_same_picture_lists_of_texts_and_classes(tmp_path: Path) -> None:
    images = [*pictures(2), *pictures(2), picture(9)]
    images = [image if isinstance(image, dict) else encoded(image) for image in images]
    listed = {"image": images, "captions": [["a 1", " ", "a 2"], ["b"], ["a 3"], ["b"], []]}
    root = a_repository(tmp_path / "hub", listed, "test", captions=List(Value("string")))
    [first, second] = texts_of(gather(root, tmp_path))
    assert (set(first), second) == ({"a 1", "a 2", "a 3"}, ("b",))
    label = ClassLabel(names=["red_mug", "lamp"])
    root = a_repository(tmp_path / "classes", {"image": pictures(4), "kind": [0, 1, 0, 1]}, kind=label)
    rows = read_folder(gather(root, tmp_path, text="kind"))
    assert sorted(row.text for row in rows) == ["lamp", "lamp", "red mug", "red mug"]
    assert all(row.is_class for row in rows)


def test_rows_that_cannot_be_used_are_named(tmp_path: Path, capsys) -> None:
    images = [*pictures(3), {"bytes": b"no picture", "path": None}, None]
    images[1] = encoded(picture(1).convert("CMYK"), "JPEG")
    root = a_repository(tmp_path / "hub", {"image": images, "text": ["a", "b", None, "d", "e"]})
    folder = gather(root, tmp_path)
    assert texts_of(folder) == [("a",), ("b",)]
    assert sorted(path.suffix for path in (folder / "images").iterdir()) == [".jpg", ".png"]
    said = capsys.readouterr().out
    assert "3 rows cannot be used" in said and "it has no text" in said and "it has no picture" in said
    root = a_repository(tmp_path / "none", {"image": images[3:], "text": ["d", "e"]})
    with pytest.raises(DataError, match="no row of it can be used; row 1"):
        gather(root, tmp_path)


@pytest.mark.parametrize("form", ["file", "folder", "Dataset", "DatasetDict"])
def test_parquet_and_save_to_disk(form: str, tmp_path: Path, monkeypatch) -> None:
    """As DATA, without "hub:"; a Parquet file may hold the bytes without saying that they are pictures."""
    monkeypatch.setenv("MM_DOWNLOADS", str(tmp_path / "cache"))
    columns, place = {"img": pictures(60), "title": [f"t {i}" for i in range(60)]}, tmp_path / "mine"
    if form == "file":
        place, columns["img"] = tmp_path / "mine.parquet", [image["bytes"] for image in columns["img"]]
        Dataset.from_dict(columns).to_parquet(place)
    elif form == "folder":
        a_table(columns).to_parquet(place / "table.parquet")
    else:
        table = a_table(columns)
        (table if form == "Dataset" else DatasetDict(train=table)).save_to_disk(str(place))
    collection = data.open_source(f"{place}?image=img&text=title", SMOKE, tmp_path / "out")
    assert collection.licence == "not stated"
    assert set(collection.splits["test"]["source"]) == {place.name}, "not where it lies"
    assert sum(len(split) for split in collection.splits.values()) == 60


def test_paths_in_a_table_stay_in_its_folder(tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    picture(1).save(tmp_path / "in" / "a.png")
    picture(2).save(tmp_path / "secret.png")
    paths = ["a.png", "../secret.png", str(tmp_path / "secret.png"), "https://example.org/a.png"]
    Dataset.from_dict({"image": paths, "text": list("abcd")}).to_parquet(tmp_path / "in" / "my.parquet")
    assert texts_of(gather(tmp_path / "in" / "my.parquet", tmp_path)) == [("a",)]
    assert capsys.readouterr().out.count("outside of the data set") == 2


def test_the_hub_may_not_name_files_of_this_disk(on_the_hub, tmp_path: Path) -> None:
    picture(2).save(tmp_path / "secret.png")
    secret = {"bytes": None, "path": str(tmp_path / "secret.png")}
    kinds = {"bytes": Value("binary"), "path": Value("string")}
    on_the_hub(
        "owner/name", a_repository(tmp_path / "a", {"image": [secret] * 2, "text": ["a", "b"]}, image=kinds)
    )
    with pytest.raises(DataError, match="names a file outside of the data set"):
        gather("hub:owner/name", tmp_path)


def answer(status: int) -> httpx.Response:
    request = httpx.Request("GET", "https://hub", headers={"authorization": f"Bearer {TOKEN}"})
    return httpx.Response(status, request=request)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.GatedRepoError("gated", response=answer(403)), "is gated: ask for access"),
        (errors.RepositoryNotFoundError("none", response=answer(401)), "no such data set, or it is private"),
        (errors.RevisionNotFoundError("none", response=answer(404)), "no such revision"),
        (errors.HfHubHTTPError(f"Invalid {TOKEN}", response=answer(401)), "refuses the token"),
        (errors.HfHubHTTPError("Too many", response=answer(429)), "asks to slow down"),
        (errors.OfflineModeIsEnabled("offline"), "cannot be reached"),
        (httpx.ReadTimeout("slow"), "cannot be reached"),
        (errors.HFValidationError("id"), "it is not an id such as owner/name"),
        (ValueError(f"something else with {TOKEN}\nand more"), "ValueError: something else with hf_...$"),
    ],
)
def test_what_the_hub_may_answer(tmp_path: Path, monkeypatch, error: Exception, words: str) -> None:
    def dataset_info(self: object, name: str, revision: str | None) -> None:
        raise error

    monkeypatch.setattr(hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(DataError, match=words) as caught:
        gather("hub:owner/name", tmp_path)
    assert TOKEN not in str(caught.value) and caught.value.__suppress_context__
