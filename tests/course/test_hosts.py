"""The first cell of the notebooks on machines that look like Colab and Kaggle."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from types import ModuleType, SimpleNamespace

import pytest
from conftest import ROOT
from IPython.core.inputtransformer2 import TransformerManager
from packaging.utils import canonicalize_name

import mmhelpers
from scripts import badges

OF_TORCH = re.compile(r"nvidia|cuda|triton")  # parts of torch's own build, of which Colab has another one


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents) -> None:
    made = ModuleType(name)
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)


def torch(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    cuda = SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus)
    cuda.get_device_name = lambda: "Tesla T4"
    module(monkeypatch, "torch", cuda=cuda, __version__="2.11.0+cu128")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch(monkeypatch, 1)


@pytest.fixture
def colab(monkeypatch):
    module(monkeypatch, "google.colab")


@pytest.fixture
def kaggle(monkeypatch):
    """Kaggle, which has Colab's modules as well."""
    module(monkeypatch, "google.colab")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")


def first_cell(monkeypatch: pytest.MonkeyPatch, installed: bool) -> list[str]:
    """Run the first cell, with or without the course installed; what pip is asked for."""
    asked = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: mmhelpers.__spec__ if installed else None)
    shell = SimpleNamespace(run_line_magic=lambda magic, line: asked.append(f"%{magic} {line}"))
    source = badges.FIRST_CELL.format(hint=badges.HINT, repository="some/fork", version="1.2")
    exec(TransformerManager().transform_cell(source), {"get_ipython": lambda: shell})
    return asked


def test_the_first_cell_installs_the_course_and_says_what_is_ready(colab, monkeypatch, capsys):
    pip = '%pip install -q "mmhelpers @ git+https://github.com/some/fork@v1.2"'
    assert first_cell(monkeypatch, installed=False) == [pip]
    assert capsys.readouterr().out.splitlines() == [
        f"OK    course {metadata.version('mmhelpers')}, libraries as it needs them",
        "OK    GPU Tesla T4",
    ]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_elsewhere_and_in_a_notebook_that_another_one_runs_it_is_silent(monkeypatch, capsys, request):
    assert first_cell(monkeypatch, installed=True) == []
    request.getfixturevalue("colab")
    monkeypatch.setenv("MM_CHAIN", "01_data_preparation")
    assert first_cell(monkeypatch, installed=True) == []
    assert capsys.readouterr().out == ""


def test_kaggle_shows_one_of_its_two_gpus(kaggle, monkeypatch, capsys):
    mmhelpers.set_up()
    said = capsys.readouterr().out
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0" and "GPU Tesla T4" in said
    torch(monkeypatch, 2)  # in use before this cell
    mmhelpers.set_up()
    assert "TO DO the course trains on one GPU, this session has several. Restart" in capsys.readouterr().out


def test_what_is_missing_is_said_with_the_menu_that_mends_it(colab, monkeypatch, capsys):
    torch(monkeypatch, 0)
    mmhelpers.set_up()
    assert "TO DO no GPU: Runtime > Change runtime type > T4 GPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "version"), [("sentence_transformers", "5.7.0"), ("numpy", "1.26.4"), ("torch", "2.1.0+cu118")]
)
def test_a_library_that_was_loaded_before_asks_for_a_restart(colab, monkeypatch, name, version):
    module(monkeypatch, name, __version__=version)
    words = f"{name.replace('_', '-')} {re.escape(version)} is loaded in this session, the course needs >="
    with pytest.raises(SystemExit, match=rf"{words}.*Restart \(Runtime > Restart session\) and run this"):
        mmhelpers.set_up()


@pytest.mark.slow
def test_on_colab_only_sentence_transformers_is_replaced(tmp_path):
    """By pip's own resolver, with all other packages of Colab's image held as they are."""
    lines = (ROOT / "tests" / "colab_pins.txt").read_text().splitlines()
    pins = dict(line.split("+")[0].split("==") for line in lines if "==" in line)
    held = {name: version for name, version in pins.items() if not OF_TORCH.match(name)}
    del held["sentence-transformers"]
    (tmp_path / "pins.txt").write_text("\n".join(f"{name}=={version}" for name, version in held.items()))
    platform = [] if sys.platform == "linux" else ["--platform", "manylinux_2_28_x86_64"]
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
            "--python-version", "3.13", "--only-binary=:all:", *platform, "--target", tmp_path / "nothing",
            "--report", tmp_path / "report.json", "-c", tmp_path / "pins.txt",
            "-r", ROOT / "requirements.txt",
        ],
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    items = json.loads((tmp_path / "report.json").read_text())["install"]
    after = {canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"] for item in items}
    before = {canonicalize_name(name): version for name, version in pins.items()}
    changed = {n for n, v in after.items() if n in before and v != before[n] and not OF_TORCH.match(n)}
    assert changed == {"sentence-transformers"}
