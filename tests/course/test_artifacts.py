from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from mmhelpers.course import artifacts
from mmhelpers.course.artifacts import ArtifactError, Workspace
from mmhelpers.course.profiles import PROFILES

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from mmhelpers.course.artifacts import Workspace
from mmhelpers.course.profiles import PROFILES
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with Workspace(Path(sys.argv[1]), PROFILES["smoke"], "shop").writing("dataset", made_by="01") as folder:
    (folder / "large").write_bytes(bytes(100_000))
"""


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "smoke" / "shop", PROFILES["smoke"], "shop")


def write(ws: Workspace, name: str, text: str = "one", inputs: tuple[str, ...] = (), **settings) -> str:
    made_by = artifacts.MADE_BY[name]
    with ws.writing(name, made_by=made_by, inputs=inputs, seed=0, settings=settings) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights.bin").write_text(text)
    return ws.manifest(name)["id"]


def leftovers(ws: Workspace) -> list[str]:
    return [path.name for path in ws.root.iterdir() if path.name.startswith(".")]


def test_what_is_written_is_found_and_described(ws):
    write(ws, "dataset")
    write(ws, "finetuned", inputs=("dataset",), epochs=3)
    assert (ws.require("finetuned") / "deep" / "weights.bin").read_text() == "one"
    manifest = ws.manifest("finetuned")
    assert manifest["made_by"] == "02_clip_finetuning"
    assert manifest["inputs"] == {"dataset": ws.manifest("dataset")["id"]}
    assert manifest["settings"] == {"epochs": 3} and manifest["seed"] == 0
    assert manifest["files"] == {"deep/weights.bin": 3}
    assert not leftovers(ws)


def test_identity_is_content_and_recipe(ws):
    first, *others = [write(ws, "dataset", *how) for how in ((), (), ("two",))] + [write(ws, "dataset", epochs=2)]
    assert others[0] == first and first not in others[1:]


def test_a_full_disk_leaves_the_old_artefact_and_says_what_to_do(ws):
    pytest.importorskip("resource")
    first = write(ws, "dataset")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, ws.root], capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and "File too large" in done.stderr
    assert "Nothing of the new dataset was kept. If the disk is full, make room; run again." in done.stderr
    assert ws.problem("dataset") is None and ws.manifest("dataset")["id"] == first
    assert not leftovers(ws)


def test_what_a_killed_run_left_is_dropped_and_an_error_leaves_the_old_one(ws):
    (ws.root / ".dataset.new" / "half").mkdir(parents=True)
    (ws.root / ".dataset.old").mkdir()
    first = write(ws, "dataset")
    assert not leftovers(ws) and not (ws.path("dataset") / "half").exists()
    with pytest.raises(RuntimeError, match="boom"), ws.writing("dataset", made_by="01") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError("boom")
    assert ws.problem("dataset") is None and ws.manifest("dataset")["id"] == first and not leftovers(ws)


def test_missing_and_stale(ws):
    assert ws.problem("dataset") == "missing"
    write(ws, "dataset")
    write(ws, "finetuned", inputs=("dataset",))
    write(ws, "dataset", "two")
    assert ws.problem("finetuned") == "stale: it was made from another dataset"
    other = dataclasses.replace(ws, profile=dataclasses.replace(ws.profile, n_train=170))
    assert other.problem("dataset").startswith("stale: the profile, the data or the base model")


def test_corrupt(ws):
    write(ws, "dataset")
    weights, manifest = (ws.path("dataset") / name for name in ("deep/weights.bin", "manifest.json"))
    for damage in (lambda: weights.write_text("longer"), weights.unlink):
        damage()
        assert ws.problem("dataset") == "corrupt: deep/weights.bin is gone or not as it was written"
    for broken in ('{"id": ', "[]", "{}"):
        manifest.write_text(broken)
        assert ws.problem("dataset") == "corrupt: its manifest.json cannot be read"
    write(ws, "dataset")  # writing over a corrupt one is the cure
    assert ws.problem("dataset") is None


def test_a_check_reads_no_contents(ws, monkeypatch):
    write(ws, "dataset")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("a file was read whole"))
    assert ws.problem("dataset") is None and ws.require("dataset").is_dir()


def test_require_runs_the_maker_once_and_says_why(ws, monkeypatch):
    made = []

    def run_notebook(self: Workspace, name: str, problem: str) -> None:
        made.append((name, problem))
        write(self, name, inputs={"dataset": (), "finetuned": ("dataset",)}[name])

    monkeypatch.setattr(Workspace, "_make", run_notebook)
    ws.require("dataset")
    ws.require("finetuned")
    ws.require("finetuned")
    assert made == [("dataset", "missing"), ("finetuned", "missing")]
    # What an artefact was made from is put right first; made again the same, it leaves the artefact valid.
    (ws.path("dataset") / "deep" / "weights.bin").unlink()
    ws.require("finetuned")
    assert [name for name, _ in made[2:]] == ["dataset"]


def test_require_refuses_to_run_in_circles(ws, monkeypatch):
    monkeypatch.setenv("MM_CHAIN", "03_hard_negative_mining 02_clip_finetuning")
    with pytest.raises(ArtifactError, match="02_clip_finetuning, which makes it, asks for it itself"):
        ws.require("finetuned")
    with pytest.raises(ArtifactError, match="no notebook makes 'fintuned'"):
        ws.require("fintuned")
