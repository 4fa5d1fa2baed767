from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value, config
from huggingface_hub import DatasetCard, errors
from PIL import Image as Pillow
from test_folder import a_picture

from mmhelpers import data
from mmhelpers.course.profiles import PROFILES
from mmhelpers.data import hub
from mmhelpers.data.folder import DataError, read_folder

SMOKE = PROFILES["smoke"]
TOKEN = "hf_" + "s3cret" * 5


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` waits five seconds after the last of several shards, for connections that are none here."""
    monkeypatch.setattr(config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


def encoded(picture: Pillow.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def pictures(n: int, first: int = 0) -> list[dict]:
    return [{"bytes": encoded(a_picture(first + i)), "path": None} for i in range(n)]


def a_repository(
    root: Path, columns: dict, split: str = "train", card: str = "license: cc-by-4.0", **features: object
) -> Path:
    """A folder as the Hub has it: a card, and Parquet in shards that says which columns are pictures."""
    known = {name: Image() if isinstance(of[0], dict) else Value("string") for name, of in columns.items()}
    table = Dataset.from_dict(columns, features=Features({**known, **features}))
    (root / "data").mkdir(parents=True, exist_ok=True)
    for number in range(2):
        shard = table.shard(2, number)
        shard.to_parquet(root / "data" / f"{split}-{number:05d}-of-00002.parquet")
    (root / "README.md").write_text(f"---\n{card}\n---\n# A set\n", encoding="utf-8")
    return root


def rows_of(folder: Path) -> list[dict]:
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row.get("text", row["file_name"]))


@pytest.fixture
def on_the_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Make a folder answer to an id; `datasets` and the card are read for real."""
    places: dict[str, Path] = {}
    load = hub.load_dataset

    def from_disk(name: str, config: str | None, revision: str | None, streaming: bool) -> object:
        assert streaming and revision == "c0ffee" * 6 + "0000", "the commit that the licence stands for"
        return load(str(places[name]), config, streaming=True)

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> SimpleNamespace:
            card = DatasetCard.load(places[name] / "README.md").data
            return SimpleNamespace(card_data=card, sha="c0ffee" * 6 + "0000")

    monkeypatch.setattr(hub, "load_dataset", from_disk)
    monkeypatch.setattr(hub, "HfApi", Api)
    return places.__setitem__


def test_flickr8k_has_five_captions_a_picture(on_the_hub, tmp_path: Path, monkeypatch, capsys) -> None:
    captions = {f"caption_{c}": [f"picture {i} in words {c}" for i in range(60)] for c in range(5)}
    root = a_repository(tmp_path / "hub", {"image": pictures(60), **captions}, card="{}")
    on_the_hub("jxie/flickr8k", root)
    monkeypatch.setenv("MM_DOWNLOADS", str(tmp_path / "cache"))
    source = "hub:flickr8k?licence=for research"
    with pytest.raises(DataError, match="states no licence; ask its authors.* add licence="):
        data.open_source("hub:flickr8k", SMOKE, tmp_path / "out")
    assert not list((tmp_path).glob("cache/hub/*"))
    collection = data.open_source(source, SMOKE, tmp_path / "out")
    assert "licence for research (yours to know; the card has none)" in capsys.readouterr().out
    assert collection.name == "flickr8k" and "for research" in collection.licence
    assert sum(len(split) for split in collection.splits.values()) == 60
    for truth in collection.truth.values():
        assert len(truth.queries) == 5 * len(truth.corpus)
        assert all(len(answers) == 1 for answers in truth.qrels.values())
        for query, text in truth.queries.items():
            [answer] = truth.qrels[query]
            others = [truth.queries[q] for q, found in truth.qrels.items() if answer in found and q != query]
            assert {words.rsplit(" ", 3)[0] for words in others} == {text.rsplit(" ", 3)[0]}
    data.save(collection, tmp_path / "out")
    assert data.load(tmp_path / "out").truth["test"].queries == collection.truth["test"].queries
    row = collection.splits["test"][0]
    assert len(json.loads(row["texts"])) == 4 and row["source_commit"] == "c0ffee" * 6 + "0000"


def test_documents_keep_their_hard_negatives(on_the_hub, tmp_path: Path, monkeypatch) -> None:
    """Two queries ask for each of 50 pages; the next pages are near misses, and one of nobody's."""
    queries = [f"question {q} on page {i}" for i in range(50) for q in (1, 2)]
    pages = pictures(50)
    near = {f"negative_{k}": [pages[(i + k + 1) % 50] for i in range(50) for _ in (1, 2)] for k in range(3)}
    near["negative_3"] = [page for page in pictures(50, 500) for _ in (1, 2)]
    columns = {"query": queries, "image": [page for page in pages for _ in (1, 2)], **near}
    on_the_hub("tomaarsen/llamaindex-vdr-en-train-preprocessed", a_repository(tmp_path / "hub", columns))
    monkeypatch.setenv("MM_DOWNLOADS", str(tmp_path / "cache"))
    collection = data.open_source("hub:documents", SMOKE, tmp_path / "out")
    data.save(collection, tmp_path / "out")
    collection = data.load(tmp_path / "out")
    assert sum(len(split) for split in collection.splits.values()) == 50
    assert all(len(truth.queries) == 2 * len(truth.corpus) for truth in collection.truth.values())
    held_out = {
        image.tobytes() for name in ("validation", "test") for image in collection.splits[name]["image"]
    }
    counts = []
    for row in collection.splits["train"]:
        files = [tmp_path / "out" / name for name in json.loads(row["negatives"])]
        near = {np.asarray(Pillow.open(file)).tobytes() for file in files}
        assert len(near) == len(files), "each once"
        assert row["image"].tobytes() not in near
        assert near.isdisjoint(held_out)
        counts.append(len(files))
    assert held_out and max(counts) == 4 and min(counts) >= 1
    assert set(collection.splits["test"]["negatives"]) == {"[]"}


@pytest.mark.parametrize(
    ("source", "place", "column", "card"),
    [
        ("hub:fashion", "Marqo/fashion200k", "text", "license: apache-2.0"),
        ("hub:radiology", "unsloth/Radiology_mini", "caption", "license: [cc-by-nc-4.0]"),
        ("hub:ashraq/fashion-product-images-small@main?licence=asked", "ashraq/fashion-product-images-small",
         "productDisplayName", "license: unknown"),
        ("hub:owner/name?image=picture&text=title", "owner/name", "title",
         "license: other\nlicense_name: my-own"),
    ],
)  # fmt: skip
def test_presets_and_columns(
    on_the_hub, tmp_path: Path, source: str, place: str, column: str, card: str
) -> None:
    picture = "picture" if "picture" in source else "image"
    columns = {"id": ["1"] * 4, picture: pictures(4), column: [f"text {i}" for i in range(4)]}
    on_the_hub(place, a_repository(tmp_path / "hub", columns, card=card))
    folder = hub.gather(*hub_parts(source), SMOKE, tmp_path / "cache")
    rows = rows_of(folder)
    assert [row["text"] for row in rows] == [f"text {i}" for i in range(4)]
    assert {row["source"] for row in rows} == {place}
    licence = {"fashion": "apache-2.0", "radiology": "cc-by-nc-4.0", "owner": "my-own"}
    assert rows[0]["licence"].startswith(licence.get(source.split(":")[1].split("/")[0], "asked"))
    assert len(read_folder(folder)) == 4


def hub_parts(source: str) -> tuple[str, dict[str, str]]:
    from mmhelpers.course.profiles import with_options

    return with_options(source)


def gathered(root: Path, tmp_path: Path, **options: str) -> list[dict]:
    return rows_of(hub.gather(f"hub:{root}", options, SMOKE, tmp_path / "cache"))


def test_wrong_columns_are_answered_with_the_list(tmp_path: Path) -> None:
    columns = {"picture": pictures(4), "title": ["a", "b", "c", "d"], "other": pictures(4)}
    root = a_repository(tmp_path / "hub", columns)
    listed = r"its columns are picture \(Image\), title \(string\), other \(Image\)"
    for options, problem in (
        ({"image": "image", "text": "title"}, "has no column 'image'"),
        ({"text": "titel"}, "has no column 'titel'"),
        ({"text": "title", "negatives": "no"}, "has no column 'no'"),
        ({}, "text=... must name the column"),
        ({"image": "picture,other", "text": "title"}, "image=... must name the column"),
    ):
        with pytest.raises(DataError, match=f"(?s){problem}.*{listed}"):
            gathered(root, tmp_path, **options)
    with pytest.raises(DataError, match="no option 'img'; there are image, text"):
        gathered(root, tmp_path, img="picture")
    with pytest.raises(DataError, match="has no split 'test'; there are train"):
        gathered(root, tmp_path, text="title", split="test")
    with pytest.raises(DataError, match="config.*not found|not found.*config|BuilderConfig"):
        gathered(root, tmp_path, text="title", config="german")
    assert not list((tmp_path / "cache").glob("[!.]*")), "nothing that looks whole"


def test_only_as_many_rows_as_the_profile_takes(tmp_path: Path) -> None:
    n = SMOKE.n_train + SMOKE.n_validation + SMOKE.n_test
    texts = [f"text {i}" for i in range(n + 60)]
    root = a_repository(tmp_path / "hub", {"image": pictures(n + 60), "text": texts})
    rows = gathered(root, tmp_path)
    assert len(rows) == n and {row["text"] for row in rows} != set(texts[:n]), "chance decides, not order"
    first = next((tmp_path / "cache").iterdir())
    first.rename(tmp_path / "first")
    assert gathered(root, tmp_path) == rows, "the same again"


def test_fetched_once(tmp_path: Path, capsys) -> None:
    root = a_repository(tmp_path / "hub", {"image": pictures(4), "text": list("abcd")})
    rows = gathered(root, tmp_path)
    (root / "data").rename(tmp_path / "gone")
    assert gathered(root, tmp_path) == rows
    assert "licence cc-by-4.0; fetched before" in capsys.readouterr().out


def test_lists_of_texts_and_classes(tmp_path: Path) -> None:
    listed = {"image": pictures(4), "text": [["a 1", " ", "a 2"], ["b"], ["c"], []]}
    root = a_repository(tmp_path / "hub", listed, "test", text=List(Value("string")))
    rows = gathered(root, tmp_path)
    assert [(row["text"], row.get("texts")) for row in rows] == [("a 1", ["a 2"]), ("b", None), ("c", None)]
    label = ClassLabel(names=["red_mug", "lamp"])
    root = a_repository(tmp_path / "classes", {"image": pictures(4), "kind": [0, 1, 0, 1]}, kind=label)
    rows = gathered(root, tmp_path, text="kind")
    assert sorted(row["label"] for row in rows) == ["lamp", "lamp", "red mug", "red mug"]


def test_bad_rows_are_named_and_bad_sets_refused(tmp_path: Path, capsys) -> None:
    images = [*pictures(3), {"bytes": b"no picture", "path": None}, None]
    root = a_repository(tmp_path / "hub", {"image": images, "text": ["a", "b", None, "d", "e"]})
    assert [row["text"] for row in gathered(root, tmp_path)] == ["a", "b"]
    said = capsys.readouterr().out
    assert "3 rows cannot be used" in said and "it has no text" in said and "it has no picture" in said
    root = a_repository(tmp_path / "none", {"image": images[3:], "text": ["d", "e"]})
    with pytest.raises(DataError, match="no row of it can be used; row 1"):
        gathered(root, tmp_path)


def test_modes_of_pictures(tmp_path: Path) -> None:
    red = Pillow.new("RGB", (40, 30), "red")
    deep = Pillow.fromarray(np.linspace(1000, 3000, 1200).reshape(30, 40).astype(np.uint16))
    frames = [a_picture(1), a_picture(2)]
    given = {
        "cmyk": encoded(red.convert("CMYK"), "JPEG"),
        "deep": encoded(deep),
        "palette": encoded(red.quantize(4)),
        "animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "grey and alpha": encoded(red.convert("LA")),
        "two colours": encoded(red.convert("1")),
        "tiff": encoded(red.convert("CMYK"), "TIFF"),
    }
    images = [{"bytes": raw, "path": None} for raw in given.values()]
    root = a_repository(tmp_path / "hub", {"image": images, "text": list(given)})
    rows = gathered(root, tmp_path)
    assert [row["text"] for row in rows] == sorted(given)
    folder = next((tmp_path / "cache").iterdir())
    for row in rows:
        with Pillow.open(folder / row["file_name"]) as picture:
            assert (picture.mode, getattr(picture, "n_frames", 1)) == ("RGB", 1), row["text"]
            assert picture.size == (40, 32 if row["text"] in ("animated", "webp") else 30)


def test_a_parquet_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MM_DOWNLOADS", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    table = Dataset.from_dict(
        {"img": [p["bytes"] for p in pictures(60)], "title": [f"t {i}" for i in range(60)]}
    )
    table.to_parquet(tmp_path / "in" / "my.parquet")
    source = f"{tmp_path / 'in' / 'my.parquet'}?image=img&text=title"
    collection = data.open_source(source, SMOKE, tmp_path / "out")
    assert (collection.name, collection.licence) == ("my.parquet", "not stated")
    assert set(collection.splits["test"]["source"]) == {"my.parquet"}, "not where it lies"
    assert sum(len(split) for split in collection.splits.values()) == 60


def test_paths_in_a_table_stay_in_its_folder(tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    a_picture(1).save(tmp_path / "in" / "a.png")
    a_picture(2).save(tmp_path / "secret.png")
    paths = ["a.png", "../secret.png", str(tmp_path / "secret.png"), "https://example.org/a.png"]
    file = tmp_path / "in" / "my.parquet"
    Dataset.from_dict({"image": paths, "text": list("abcd")}).to_parquet(file)
    rows = rows_of(hub.gather(str(file), {}, SMOKE, tmp_path / "cache"))
    assert [row["text"] for row in rows] == ["a"]
    assert capsys.readouterr().out.count("outside of the data set") == 2


def test_the_hub_may_not_name_files_of_this_disk(on_the_hub, tmp_path: Path) -> None:
    a_picture(2).save(tmp_path / "secret.png")
    secret = {"bytes": None, "path": str(tmp_path / "secret.png")}
    table = Dataset.from_dict({"image": [secret] * 2, "text": ["a", "b"]}, features=Features(
        {"image": {"bytes": Value("binary"), "path": Value("string")}, "text": Value("string")}
    ))  # fmt: skip
    root = tmp_path / "hub"
    (root / "data").mkdir(parents=True)
    table.to_parquet(root / "data" / "train-00000-of-00001.parquet")
    (root / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    on_the_hub("owner/name", root)
    with pytest.raises(DataError, match="names a file outside of the data set"):
        hub.gather("hub:owner/name", {}, SMOKE, tmp_path / "cache")


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
        (httpx.ConnectError("no route"), "cannot be reached"),
        (httpx.ReadTimeout("slow"), "cannot be reached"),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "comes as a program"),
        (ValueError(f"something else with {TOKEN}\nand more"), "ValueError: something else with hf_...$"),
    ],
)
def test_what_the_hub_may_answer(tmp_path: Path, monkeypatch, error: Exception, words: str) -> None:
    class Api:
        def dataset_info(self, name: str, revision: str | None) -> None:
            raise error

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(DataError, match=words) as caught:
        hub.gather("hub:owner/name", {}, SMOKE, tmp_path / "cache")
    assert TOKEN not in str(caught.value) and caught.value.__suppress_context__


def test_without_a_network_for_real(tmp_path: Path) -> None:
    """The tests run with HF_HUB_OFFLINE."""
    with pytest.raises(DataError, match="cannot be reached"):
        hub.gather("hub:owner/name", {}, SMOKE, tmp_path / "cache")
    with pytest.raises(DataError, match="is not an id such as owner/name, nor one of flickr8k"):
        hub.gather("hub:no id//at all", {}, SMOKE, tmp_path / "cache")
