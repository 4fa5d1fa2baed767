from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from standins import tiny_clip
from test_folder import a_folder, a_picture, write

from mmhelpers import data
from mmhelpers.course.profiles import PROFILES
from mmhelpers.data import schema, sources
from mmhelpers.data.folder import DataError
from mmhelpers.data.splits import LOOKS_ALIKE, split_rows
from mmhelpers.models import encoders
from mmhelpers.shop.spec import Scene
from mmhelpers.shop.wanted import Wanted, grade

SMOKE = PROFILES["smoke"]
TINY = replace(
    SMOKE,
    n_train=60,
    n_validation=24,
    n_test=30,
    n_queries=12,
    n_queries_validation=6,
    n_queries_train=10,
    image_size=48,
)
SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"


def contents(collection: data.Collection) -> dict:
    """Everything in a collection but where its pictures lie."""
    rows = {name: split.remove_columns("image")[:] for name, split in collection.splits.items()}
    pixels = {
        name: [np.asarray(i).tobytes() for i in split["image"]] for name, split in collection.splits.items()
    }
    truth = {name: (t.queries, list(t.corpus), t.qrels, t.slices) for name, t in collection.truth.items()}
    return {"rows": rows, "pixels": pixels, "truth": truth, "about": (collection.name, collection.licence)}


def saved(source: str, profile: data.Profile, folder: Path) -> data.Collection:
    collection = data.open_source(source, profile, folder)
    data.save(collection, folder)
    return collection


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def split_of(collection: data.Collection) -> dict[str, str]:
    return {image_id: name for name, split in collection.splits.items() for image_id in split["image_id"]}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    saved("shop", TINY, folder)
    return folder


def test_catalogue(shop: Path) -> None:
    collection = data.load(shop)
    assert [len(collection.splits[name]) for name in data.SPLITS] == [60, 24, 30]
    assert collection.has_specs and collection.splits["train"].column_names[:4] == list(schema.SCHEMA)
    assert collection.splits["test"][0]["image"].size == (48, 48)
    scenes = {row["image_id"]: Scene.from_json(row["spec"]) for row in collection.splits["test"].to_list()}
    truth = collection.truth["test"]
    assert len(truth.queries) == 12 and set(truth.corpus) == set(scenes)
    assert {q for ids in truth.slices.values() for q in ids} == set(truth.queries)
    for row in collection.splits["test"].to_list():
        assert grade(Wanted.from_json(row["stated"]), scenes[row["image_id"]]) == 3


def test_catalogue_is_the_same_again(shop: Path, tmp_path: Path) -> None:
    saved("shop", TINY, tmp_path)
    assert files(tmp_path) == files(shop)


def test_a_saved_collection_can_be_moved(shop: Path, tmp_path: Path) -> None:
    before = contents(data.load(shop))
    shutil.copytree(shop, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = data.load(tmp_path / "there")
    assert contents(moved) == before
    where = data.paths(moved.splits["train"]) + list(moved.truth["test"].corpus.values())
    assert all(Path(path).is_file() and str(tmp_path / "there") in path for path in where)


def test_save_gathers_pictures_from_elsewhere(shop: Path, tmp_path: Path) -> None:
    data.save(data.load(shop), tmp_path)
    assert len(list((tmp_path / "images").iterdir())) == 114
    assert contents(data.load(tmp_path)) == contents(data.load(shop))


def test_paths_follow_selections_and_decode_nothing(shop: Path, tmp_path: Path) -> None:
    train = data.load(shop).splits["train"]
    assert data.paths(train.select([3, 1])) == [data.paths(train)[3], data.paths(train)[1]]
    images = schema.as_dataset([{"image": str(tmp_path / "not_there.png")}])
    assert data.paths(images) == [str(tmp_path / "not_there.png")]


def test_missing_pictures_are_named(shop: Path, tmp_path: Path) -> None:
    shutil.copytree(shop, tmp_path / "shop")
    gone = Path(data.paths(data.load(tmp_path / "shop").splits["test"])[5])
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone.name} is gone"):
        data.load(tmp_path / "shop")


def test_nothing_is_written_elsewhere(shop: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from mmhelpers import data
collection = data.load(Path({str(shop)!r}))
data.save(collection, Path({str(tmp_path / "copy")!r}))
collection.splits["train"].filter(lambda row: True).map(lambda row: {{"n": len(row["text"])}})
data.near_duplicates(collection.splits)
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    root = str(Path(data.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | {"PYTHONPATH": root}, cwd=root)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_near_duplicates_across_splits(shop: Path, tmp_path: Path) -> None:
    splits = data.load(shop).splits
    assert not data.near_duplicates(splits, 0)
    copy = splits["train"][7]["image"].resize((40, 40))
    copy.save(tmp_path / "copy.png")
    splits["test"] = schema.as_dataset([{"image": str(tmp_path / "copy.png"), "image_id": "copy"}])
    first = data.near_duplicates(splits)[0]
    assert first[:4] == ("train", "train-000007", "test", "copy") and first[4] <= LOOKS_ALIKE


def test_folder_round_trip(tmp_path: Path) -> None:
    source, rows = a_folder(tmp_path / "my pictures", 60, credit="somebody", license="CC BY 4.0", year=1999)
    before = files(source)
    made = saved(str(source), SMOKE, tmp_path / "out")
    collection = data.load(tmp_path / "out")
    assert contents(collection) == contents(made) and files(source) == before
    assert (collection.name, collection.licence) == ("my pictures", "CC BY 4.0") and not collection.has_specs
    assert [len(collection.splits[name]) for name in data.SPLITS] == [35, 10, 15]
    for split in collection.splits.values():
        assert (
            set(split["credit"]) == {"somebody"}
            and set(split["year"]) == {"1999"}
            and set(split["spec"]) == {""}
        )
    texts = {row["file_name"]: row["text"] for row in rows}
    for name in data.SPLITS:
        truth = collection.truth[name]
        assert truth.corpus == dict(
            zip(collection.splits[name]["image_id"], data.paths(collection.splits[name]), strict=True)
        )
        assert truth.queries == {f"q-{image_id}": texts[image_id] for image_id in truth.corpus}
        assert truth.qrels == {f"q-{image_id}": {image_id: 1} for image_id in truth.corpus}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| test | 15 | 15 |" in card and "credit: somebody" in card and "CC BY 4.0" in card


def test_folder_is_the_same_again_whatever_the_order_of_rows(tmp_path: Path) -> None:
    source, rows = a_folder(tmp_path / "source", 60)
    once = saved(str(source), SMOKE, tmp_path / "once")
    again = saved(str(source), SMOKE, tmp_path / "again")
    other = saved(str(source), replace(SMOKE, seed=1), tmp_path / "other")
    assert files(tmp_path / "once") == files(tmp_path / "again")
    assert split_of(once) == split_of(again) != split_of(other)
    write(source, rows[::-1])
    assert split_of(data.from_folder(source, SMOKE, tmp_path / "reversed")) == split_of(once)


def test_csv_gives_the_same_collection(tmp_path: Path) -> None:
    source, rows = a_folder(tmp_path / "source", 50)
    from_jsonl = contents(data.from_folder(source, SMOKE, tmp_path / "a"))
    (source / "metadata.jsonl").unlink()
    lines = ["file_name,text", *(f"{row['file_name']},{row['text']}" for row in rows)]
    (source / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    assert contents(data.from_folder(source, SMOKE, tmp_path / "b")) == from_jsonl


def test_what_belongs_together_stays_together(tmp_path: Path) -> None:
    source, rows = a_folder(tmp_path / "source", 90)
    for i in range(0, 90, 3):  # i and i + 1 look alike, i + 1 and i + 2 say the same
        a_picture(i, (80, 64)).save(source / rows[i]["file_name"])
        a_picture(i, (40, 32)).save(source / rows[i + 1]["file_name"])
        rows[i + 2]["text"] = f"  {rows[i + 1]['text'].upper()} "
    write(source, rows)
    collection = data.from_folder(source, SMOKE, tmp_path / "out")
    where = split_of(collection)
    assert len(where) == 90 and set(where.values()) == set(data.SPLITS)
    for i in range(0, 90, 3):
        assert len({where[row["file_name"]] for row in rows[i : i + 3]}) == 1
    assert not data.near_duplicates(collection.splits)


def test_same_text_or_same_pixels_answer_a_query(tmp_path: Path) -> None:
    source, rows = a_folder(tmp_path / "source", 80)
    for i in range(0, 80, 4):  # i, i + 1: one text; i + 2, i + 3: one picture, in two formats
        rows[i + 1]["text"] = rows[i]["text"]
        rows[i + 3]["file_name"] = f"images/{i + 3}.bmp"
        a_picture(i + 2).save(source / rows[i + 3]["file_name"])
    write(source, rows)
    ids = [row["file_name"] for row in rows]
    qrels = data.from_folder(source, SMOKE, tmp_path / "out").truth["test"].qrels
    assert qrels
    for query, answers in qrels.items():
        i = ids.index(query.removeprefix("q-"))
        assert sorted(answers) == sorted(ids[i - i % 2 : i - i % 2 + 2])


def test_several_texts_are_several_queries(tmp_path: Path) -> None:
    source, rows = a_folder(tmp_path / "source", 60)
    for i, row in enumerate(rows):
        row["texts"] = [f"picture {i} in other words", *(["in words of two"] if i in (7, 8) else [])]
    write(source, rows)
    collection = data.from_folder(source, SMOKE, tmp_path / "out")
    where = split_of(collection)
    assert where["images/7.png"] == where["images/8.png"], "they share a text"
    for split, truth in collection.truth.items():
        shared = 1 if split == where["images/7.png"] else 0
        assert len(truth.queries) == 2 * len(truth.corpus) + 2 * shared
        for image_id in truth.corpus:
            second = f"q-{image_id}#1"
            assert truth.queries[second] == f"picture {image_id[7:-4]} in other words"
            assert truth.qrels[second] == {image_id: 1}
    both = collection.truth[where["images/7.png"]].qrels["q-images/8.png#2"]
    assert both == {"images/7.png": 1, "images/8.png": 1}


def test_classes_are_asked_for_once_and_cross_the_splits(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "PER_CLASS", 10)
    for i in range(80):
        (tmp_path / "source" / f"class_{i % 3}").mkdir(parents=True, exist_ok=True)
        a_picture(i).save(tmp_path / "source" / f"class_{i % 3}" / f"{i}.png")
    collection = data.open_source(str(tmp_path / "source"), SMOKE, tmp_path / "out")
    for split, truth in collection.truth.items():
        labels = dict(zip(truth.corpus, collection.splits[split]["text"], strict=True))
        assert set(labels.values()) == {f"class {k}" for k in range(3)}
        asked = Counter(truth.queries.values())
        assert set(asked) == set(labels.values())
        if split == "train":
            assert set(asked.values()) == {min(10, n) for n in Counter(labels.values()).values()}
        else:
            assert set(asked.values()) == {1}
        for query, text in truth.queries.items():
            assert set(truth.qrels[query]) == {image for image, label in labels.items() if label == text}


def test_a_table_with_options(tmp_path: Path) -> None:
    source, rows = a_folder(tmp_path / "source", 50)
    from_jsonl = contents(data.from_folder(source, SMOKE, tmp_path / "a", name="my.csv"))
    (source / "metadata.jsonl").unlink()
    lines = ["where,what", *(f"{row['file_name']},{row['text']}" for row in rows)]
    (source / "my.csv").write_text("\n".join(lines), encoding="utf-8")
    opened = data.open_source(f"{source}/my.csv?image=where&text=what", SMOKE, tmp_path / "b")
    assert contents(opened) == from_jsonl
    with pytest.raises(DataError, match="no option 'img'; there are image, text, id"):
        data.open_source(f"{source}/my.csv?img=where&text=what", SMOKE, tmp_path / "c")


def test_profile_sizes_are_limits(tmp_path: Path) -> None:
    source, _ = a_folder(tmp_path / "source", 100)
    profile = replace(SMOKE, n_train=20, n_validation=8, n_test=9)
    collection = data.from_folder(source, profile, tmp_path / "out")
    assert [len(collection.splits[name]) for name in data.SPLITS] == [20, 8, 9]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 37


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(40, (24, 6, 10)), (200, (117, 33, 50)), (765, (515, 100, 150)), (2000, (1600, 200, 200))],
)
def test_split_sizes(n: int, sizes: tuple[int, ...]) -> None:
    marks = np.random.default_rng(0).integers(0, 2**63, (n, 8), dtype=np.uint64)
    rows = [data.Row(i, Path(), f"{i}", (f"{i}",), {}, marks[i], f"{i}") for i in range(n)]
    profile = PROFILES["laptop" if n >= 200 else "smoke"]
    parts = split_rows(rows, profile, Path("source"))
    assert tuple(len(parts[name]) for name in data.SPLITS) == sizes


@pytest.mark.parametrize(("profile", "n"), [("smoke", 39), ("laptop", 60)])
def test_too_few_rows(tmp_path: Path, profile: str, n: int) -> None:
    source, _ = a_folder(tmp_path / "source", n)
    with pytest.raises(
        DataError, match=f"has {n} rows, the profile {profile} needs {data.MIN_ROWS[profile]}"
    ):
        data.open_source(str(source), PROFILES[profile], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_different_rows(tmp_path: Path) -> None:
    source, rows = a_folder(tmp_path / "source", 45)
    write(source, [row | {"text": "a screenshot"} for row in rows])
    with pytest.raises(DataError, match="45 rows are 1 different ones.*too few to fill validation, test"):
        data.from_folder(source, SMOKE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_rows_leave_nothing_behind(tmp_path: Path) -> None:
    source, rows = a_folder(tmp_path / "source", 45)
    (source / rows[3]["file_name"]).write_bytes(b"no picture")
    rows[8]["text"] = " "
    write(source, rows)
    with pytest.raises(DataError, match="2 problems") as error:
        data.from_folder(source, SMOKE, tmp_path / "out")
    assert [line.split(" (")[0] for line in error.value.problems] == [
        f"metadata.jsonl row {n}" for n in (4, 9)
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["figures-medical", "screenshots"])
def test_real_samples(tmp_path: Path, name: str) -> None:
    if not (SAMPLES / name).is_dir():
        pytest.skip("the samples are not on this machine")
    lines = (SAMPLES / name / "metadata.jsonl").read_text(encoding="utf-8").split("\n")
    rows = {row["file_name"]: row for row in map(json.loads, filter(None, lines))}
    collection = saved(str(SAMPLES / name), SMOKE, tmp_path)
    assert [len(collection.splits[s]) for s in data.SPLITS] == [
        SMOKE.n_train,
        SMOKE.n_validation,
        SMOKE.n_test,
    ]
    assert not data.near_duplicates(collection.splits)
    for row in data.load(tmp_path).splits["test"]:
        given = rows[row["image_id"]]
        assert all(row[column] == given[column] for column in given if column != "file_name")
        with Image.open(SAMPLES / name / row["image_id"]) as image:
            assert image.size == row["image"].size


def test_data_card_gives_the_sizes_of_the_profiles() -> None:
    card = (Path(__file__).resolve().parents[1] / "data" / "README.md").read_text(encoding="utf-8")
    for p in PROFILES.values():
        assert f"| {p.name} | {p.n_train:,} | {p.n_validation:,} | {p.n_test:,} | {p.image_size} px |" in card
    assert all(str(number) in card for number in data.MIN_ROWS.values())


def odd_pictures() -> dict[str, tuple[Image.Image, dict, Image.Image]]:
    """File name -> the picture in an unusual form, how to save it, and what a person sees, as RGB."""
    seen = [a_picture(number, (120, 90)) for number in range(900, 910)]
    grey = [picture.convert("L") for picture in seen]
    wide = [ImageOps.autocontrast(picture) for picture in grey]
    half = Image.new("L", (120, 90), 255)
    half.paste(0, (0, 0, 60, 90))  # the left half is transparent

    def on_white(picture: Image.Image) -> Image.Image:
        return Image.composite(picture.convert("RGB"), Image.new("RGB", picture.size, "white"), half)

    grey_and_alpha, clear = grey[1].convert("LA"), seen[2].copy()
    grey_and_alpha.putalpha(half)
    clear.putalpha(half)
    palette = seen[3].quantize(255)
    hole = palette.getpixel((60, 45))
    holes = Image.fromarray(np.where(np.asarray(palette) == hole, 0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    on_its_side = seen[4].transpose(Image.Transpose.ROTATE_90)
    deep = Image.fromarray(np.asarray(wide[5]).astype(np.uint16) * 12 + 1000)
    film = {"save_all": True, "append_images": [seen[0], seen[1]]}
    return {
        "print.jpg": (seen[0].convert("CMYK"), {"quality": 100, "subsampling": 0}, seen[0]),
        "grey-alpha.png": (grey_and_alpha, {}, on_white(grey[1])),
        "alpha.webp": (clear, {"lossless": True}, on_white(seen[2])),
        "palette.png": (
            palette,
            {"transparency": hole},
            Image.composite(palette.convert("RGB"), Image.new("RGB", palette.size, "white"), holes),
        ),
        "turned.jpg": (on_its_side, {"exif": exif, "quality": 100, "subsampling": 0}, seen[4]),
        "deep.png": (deep, {}, wide[5].convert("RGB")),
        "animated.gif": (seen[6], film, seen[6].quantize(256).convert("RGB")),
        "animated.webp": (seen[7], {**film, "lossless": True}, seen[7]),
        "two-colours.png": (seen[8].convert("1"), {}, seen[8].convert("1").convert("RGB")),
        "deep.tif": (deep.rotate(180), {}, wide[5].rotate(180).convert("RGB")),
    }


def test_odd_pictures_reach_the_model_as_a_person_sees_them(tmp_path: Path) -> None:
    """From a folder through the checks, the copy and the image cache to an embedding."""
    root, rows = a_folder(tmp_path / "folder", 50)
    odd = odd_pictures()
    for name, (picture, options, _) in odd.items():
        picture.save(root / "images" / name, **options)
        rows.append({"file_name": f"images/{name}", "text": f"an odd picture called {name}"})
    write(root, rows)
    saved(str(root), SMOKE, tmp_path / "made")
    collection = data.load(tmp_path / "made")
    where = {i: path for truth in collection.truth.values() for i, path in truth.corpus.items()}
    assert len(where) == 60
    model = encoders.load(tiny_clip(tmp_path / "clip"), device="cpu")
    paths = list(where.values())
    uncached = model.encode(paths)
    cache = encoders.attach_image_cache(model, paths, tmp_path / "cache")
    np.testing.assert_allclose(model.encode(paths), uncached, atol=1e-5)
    for name, (_, _, seen) in odd.items():
        expected = model.processor.image_processor(seen, return_tensors="pt")["pixel_values"][0]
        difference = (cache.pixels([where[f"images/{name}"]])[0] - expected).abs().mean()
        assert difference < 0.08, f"{name}: {difference:.3f} of a standard deviation"
