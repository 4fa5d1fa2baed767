from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
import torch
from conftest import NAMES, ROOT

from mmhelpers.course import profiles
from mmhelpers.course.profiles import PROFILES, fingerprint

SMOKE = PROFILES["smoke"]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures; the working directory is the one above it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "My Pictures"
    folder.mkdir()
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n')
    (folder / "a.png").write_bytes(b"1234")
    return folder


def test_the_machine_chooses_and_the_environment_overrides(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for fast, dtype in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(profiles, "bfloat16_cpu", lambda fast=fast: fast)
        assert profiles.active().name == "laptop" and profiles.active().dtype == dtype
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert profiles.active().name == "gpu"
    monkeypatch.setenv("MM_PROFILE", "smoke")
    assert profiles.active().name == "smoke" and profiles.active("laptop").name == "laptop"
    monkeypatch.setenv("MM_PROFILE", "")  # as make leaves it
    assert profiles.active().name == "gpu"


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_a_t4_trains_in_float16_and_newer_cards_in_bfloat16(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    profile = PROFILES["gpu"]
    assert (profile.device, profile.dtype, profile.fp16) == ("cuda", dtype, dtype == "float16")


def test_base_model_is_a_folder_or_a_hub_id(monkeypatch, pictures):
    monkeypatch.setenv("MM_BASE_MODEL", "google/siglip-base-patch16-224")
    assert profiles.active("smoke").base_model == "google/siglip-base-patch16-224"
    assert profiles.active("smoke").base_name == "google/siglip-base-patch16-224"
    monkeypatch.setenv("MM_BASE_MODEL", str(pictures))
    assert profiles.active("smoke").base_model == str(pictures)
    assert profiles.active("smoke").base_name == pictures.name, "no path of this machine"


def test_data_is_the_shop_a_place_on_disk_or_an_id(monkeypatch, pictures):
    assert profiles.data_source() == profiles.SHOP == "shop"
    monkeypatch.setenv("MM_DATA", str(pictures))
    assert profiles.data_source() == profiles.data_source("My Pictures") == str(pictures)
    table = pictures / "table.csv"
    table.write_text("image,text\n")
    assert profiles.data_source("My Pictures/table.csv?text=title") == f"{table}?text=title"
    assert profiles.data_source("hub:owner/name@main?text=a") == "hub:owner/name@main?text=a"
    assert profiles.with_options(f"{table}?text=a%26b&id=c") == (str(table), {"text": "a&b", "id": "c"})


@pytest.mark.parametrize(
    ("source", "slug"),
    [
        ("shop", "shop"),
        ("/a/My Pictures", "my-pictures"),
        ("/a/table.csv?text=title", "table-csv-text-title"),
        ("hub:owner/name", "hub-owner-name"),
        ("hub:owner/name@main?text=caption", "hub-owner-name-main-text-caption"),
    ],
)
def test_a_source_has_a_folder_of_its_own(source, slug):
    assert profiles.data_slug(source) == slug


def test_fingerprint_follows_what_decides_results(pictures, tmp_path):
    first = fingerprint(SMOKE, str(pictures))
    assert first == fingerprint(dataclasses.replace(SMOKE, minutes=[9]), str(pictures))
    (pictures / ".DS_Store").write_text("noise")
    moved = pictures.rename(tmp_path / "moved")
    assert first == fingerprint(SMOKE, str(moved))
    others = [
        fingerprint(dataclasses.replace(SMOKE, seed=1), str(moved)),
        fingerprint(dataclasses.replace(SMOKE, base_model="a/b"), str(moved)),
        fingerprint(SMOKE, f"{moved}?text=title"),
        fingerprint(SMOKE, "shop"),
        fingerprint(SMOKE, "hub:a/b"),
        fingerprint(SMOKE, "hub:a/b?text=title"),
    ]
    (moved / "b.png").write_bytes(b"12")
    others.append(fingerprint(SMOKE, str(moved)))
    (moved / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "b"}\n')
    others.append(fingerprint(SMOKE, str(moved)))
    assert len({first, *others}) == 9


def test_a_base_model_counts_by_its_files_which_are_not_read(tmp_path, monkeypatch):
    """Weights of gigabytes would be read into memory at every check."""
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1" * 1000)
    profile = dataclasses.replace(SMOKE, base_model=str(tmp_path))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read whole into memory"))
    monkeypatch.setattr(Path, "open", lambda *args: pytest.fail("read"))
    first = fingerprint(profile, "shop")
    assert fingerprint(profile, "shop") == first
    os.utime(weights, ns=(1, 1))
    assert fingerprint(profile, "shop") != first


def test_minutes_are_told_for_every_notebook():
    assert all(len(profile.minutes) == len(NAMES) for profile in PROFILES.values())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| \[(\d\d) .*\| (\d+) \|$", readme, re.MULTILINE)
    assert [number for number, _ in told] == [name[:2] for name in NAMES]
    for number, minutes in told:
        assert abs(PROFILES["laptop"].minutes[int(number) - 1] - int(minutes)) <= 0.5, number
