from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from mmhelpers.course import profiles
from mmhelpers.course.profiles import PROFILES, ProfileError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "My Pictures"
    folder.mkdir()
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n')
    (folder / "a.png").write_bytes(b"1234")
    return folder


def test_the_machine_chooses_and_the_environment_overrides(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert profiles.active().name == "laptop"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert profiles.active().name == "gpu"
    monkeypatch.setenv("MM_PROFILE", "smoke")
    assert profiles.active().name == "smoke"
    assert profiles.active("laptop").name == "laptop"
    monkeypatch.setenv("MM_PROFILE", "")  # as make leaves it
    assert profiles.active().name == "gpu"


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_a_t4_trains_in_float16_and_newer_cards_in_bfloat16(monkeypatch, capability, dtype):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    profile = PROFILES["gpu"]
    assert (profile.device, profile.dtype) == ("cuda", dtype)
    assert (profile.fp16, profile.bf16) == (dtype == "float16", dtype == "bfloat16")


def test_a_processor_trains_in_float32(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    profile = PROFILES["laptop"]
    assert (profile.dtype, profile.fp16, profile.bf16) == ("float32", False, False)


def test_a_wrong_profile_lists_the_right_ones(monkeypatch):
    monkeypatch.setenv("MM_PROFILE", "latpop")
    with pytest.raises(ProfileError, match="'latpop' is unknown; choose one of smoke, laptop, gpu"):
        profiles.active()


def test_the_laptop_is_as_large_as_promised():
    laptop = PROFILES["laptop"]
    assert (laptop.n_train, laptop.n_validation) == (5000, 500)
    assert laptop.n_test >= 1000 and laptop.n_queries >= 1000 and laptop.n_queries_validation >= 200
    assert sum(laptop.minutes[:5]) <= 15 and max(laptop.minutes) <= 5
    assert sum(PROFILES["smoke"].minutes) <= 4
    last = max(int(path.name[:2]) for path in (profiles.repository() / "notebooks").glob("[0-9][0-9]_*"))
    assert all(len(profile.minutes) == last for profile in PROFILES.values())


def test_base_model_is_a_folder_or_a_hub_id(monkeypatch, pictures):
    monkeypatch.setenv("MM_BASE_MODEL", "google/siglip-base-patch16-224")
    assert profiles.active("smoke").base_model == "google/siglip-base-patch16-224"
    assert profiles.active("smoke").base_name == "google/siglip-base-patch16-224"
    monkeypatch.setenv("MM_BASE_MODEL", str(pictures))
    assert profiles.active("smoke").base_model == str(pictures)
    assert profiles.active("smoke").base_name == pictures.name, "no path of this machine"
    monkeypatch.setenv("MM_BASE_MODEL", "./nowhere")
    with pytest.raises(ProfileError, match="neither a folder nor a Hub id"):
        profiles.active("smoke")


def test_data_is_the_catalogue_or_a_folder(monkeypatch, pictures, tmp_path):
    assert profiles.data_source() == "catalogue"
    monkeypatch.setenv("MM_DATA", str(pictures))
    assert profiles.data_source() == str(pictures)
    assert profiles.data_slug(str(pictures)) == "my-pictures"
    monkeypatch.chdir(tmp_path)
    assert profiles.data_source("My Pictures") == str(pictures)


def test_a_notebook_reads_a_relative_folder_from_the_repository(monkeypatch):
    monkeypatch.chdir(profiles.repository() / "tests")
    with pytest.raises(ProfileError, match="has no metadata.jsonl"):
        profiles.data_source("notebooks")  # found, though it is not below tests/


@pytest.mark.parametrize("value", ["nowhere", "catalog"])
def test_a_wrong_source_says_what_can_be_chosen(value):
    with pytest.raises(ProfileError, match=f'DATA {value!r} is not a folder.*"catalogue", or a folder'):
        profiles.data_source(value)


def test_fingerprint_follows_what_decides_results(pictures, tmp_path):
    smoke = PROFILES["smoke"]
    first = profiles.fingerprint(smoke, str(pictures))
    assert first == profiles.fingerprint(dataclasses.replace(smoke, minutes=(9,)), str(pictures))
    assert first != profiles.fingerprint(dataclasses.replace(smoke, seed=1), str(pictures))
    assert first != profiles.fingerprint(smoke, "catalogue")
    assert first != profiles.fingerprint(dataclasses.replace(smoke, base_model="a/b"), str(pictures))
    (pictures / ".DS_Store").write_text("noise")
    moved = pictures.rename(tmp_path / "moved")
    assert first == profiles.fingerprint(smoke, str(moved))
    (moved / "b.png").write_bytes(b"12")
    assert first != profiles.fingerprint(smoke, str(moved))


def test_base_model_counts_by_its_weights(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    profile = dataclasses.replace(PROFILES["smoke"], base_model=str(tmp_path))
    first = profiles.fingerprint(profile, "catalogue")
    weights.write_bytes(b"2")
    assert first != profiles.fingerprint(profile, "catalogue")


@pytest.mark.parametrize(
    ("source", "slug"),
    [
        ("figures", "figures"),
        ("figures:medical", "figures-medical"),
        ("hub:flickr8k", "hub-flickr8k"),
        ("hub:owner/name@main?text=caption", "hub-owner-name-main-text-caption"),
        ("hub:owner/name?text=" + ",".join("abcdefghijklmnopqrstuvwxyz"), None),
    ],
)
def test_sources_that_are_fetched(source, slug):
    assert profiles.data_source(source) == source
    assert profiles.data_slug(source) == slug or (slug is None and len(profiles.data_slug(source)) == 59)
    smoke = PROFILES["smoke"]
    assert profiles.fingerprint(smoke, source) != profiles.fingerprint(smoke, source + "x")


def test_a_table_and_a_copy_of_a_repository(pictures, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    table = pictures / "table.csv"
    table.write_text("image,text\n")
    assert profiles.data_source("My Pictures/table.csv?text=title") == f"{table}?text=title"
    assert profiles.data_slug(f"{table}?text=title") == "table-csv-text-title"
    assert profiles.with_options(f"{table}?text=a%26b&id=c") == (str(table), {"text": "a&b", "id": "c"})
    assert profiles.data_source("hub:My Pictures?text=title") == f"hub:{pictures}?text=title"
    assert profiles.data_slug(f"hub:{pictures}?text=title") == "hub-my-pictures-text-title"
    (pictures / "table.txt").write_text("")
    with pytest.raises(ProfileError, match="nor a table that can be read"):
        profiles.data_source("My Pictures/table.txt")
    with pytest.raises(ProfileError, match="lacks an id; write hub:owner/name"):
        profiles.data_source("hub")


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_fingerprint_follows_a_table(tmp_path, name):
    (tmp_path / name).write_bytes(b"1" * (1 << 21))
    smoke, source = PROFILES["smoke"], str(tmp_path / name)
    first = profiles.fingerprint(smoke, source)
    assert first != profiles.fingerprint(smoke, f"{source}?text=title")
    (tmp_path / name).write_bytes(b"1" * ((1 << 21) - 1) + b"2")
    assert first != profiles.fingerprint(smoke, source)


def test_folders_of_classes(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    assert not profiles.class_folders(tmp_path), "one folder is no choice of classes"
    with pytest.raises(ProfileError, match="has no metadata.jsonl"):
        profiles.data_source(str(tmp_path))
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.JPG").touch()
    assert profiles.data_source(str(tmp_path)) == str(tmp_path)


def test_the_readme_tells_the_laptops_minutes():
    page = (profiles.repository() / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| \[(\d\d) .*\| (\d+) \|$", page, re.MULTILINE)
    assert len(told) == len(list((profiles.repository() / "notebooks").glob("[0-9][0-9]_*.ipynb")))
    for number, minutes in told:
        assert abs(PROFILES["laptop"].minutes[int(number) - 1] - int(minutes)) <= 0.5, number
