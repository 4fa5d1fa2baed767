from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmhelpers.course import artifacts
from mmhelpers.course.artifacts import ArtifactError, Workspace
from mmhelpers.course.profiles import PROFILES


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "smoke" / "catalogue", PROFILES["smoke"], "catalogue")


def write(ws: Workspace, name: str, text: str = "one", inputs: tuple[str, ...] = (), **settings) -> str:
    made_by = artifacts.MADE_BY[name]
    with ws.writing(name, made_by=made_by, inputs=inputs, seed=0, settings=settings) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights.bin").write_text(text)
    return ws.manifest(name)["id"]


def leftovers(ws: Workspace) -> list[str]:
    return [path.name for path in ws.root.iterdir() if path.name.startswith(".")]


def test_workspace_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MM_PROFILE", "smoke")
    monkeypatch.setenv("MM_ARTIFACTS", str(tmp_path))
    assert artifacts.workspace().root == tmp_path.resolve() / "smoke" / "catalogue"
    assert artifacts.workspace().scoreboard.name == "scoreboard.json"


def test_what_is_written_is_found_and_described(ws):
    write(ws, "dataset")
    write(ws, "finetuned", inputs=("dataset",), epochs=3)
    assert (ws.require("finetuned") / "deep" / "weights.bin").read_text() == "one"
    manifest = ws.manifest("finetuned")
    assert manifest["made_by"] == "02_clip_finetuning"
    assert manifest["inputs"] == {"dataset": ws.manifest("dataset")["id"]}
    assert manifest["settings"] == {"epochs": 3} and manifest["seed"] == 0
    assert manifest["files"]["deep/weights.bin"]["size"] == 3
    assert manifest["versions"]["numpy"]
    assert not leftovers(ws)


def test_identity_is_content_and_recipe(ws):
    first = write(ws, "dataset")
    assert write(ws, "dataset") == first
    assert write(ws, "dataset", "two") != first
    assert write(ws, "dataset", epochs=2) != first


def test_an_error_leaves_the_old_artefact(ws):
    first = write(ws, "dataset")
    with pytest.raises(RuntimeError, match="boom"), ws.writing("dataset", made_by="01") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError("boom")
    assert ws.problem("dataset") is None and ws.manifest("dataset")["id"] == first
    assert not leftovers(ws)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O: No space left on device (28)")],
)
def test_a_full_disk_says_so_and_leaves_the_old_artefact(ws, error):
    first = write(ws, "dataset", "x" * 2_000_000)
    message = r"the disk is full: dataset needs more than 2 MB in .*catalogue .* run again; nothing"
    with pytest.raises(ArtifactError, match=message), ws.writing("dataset", made_by="01") as folder:
        (folder / "half").write_text("half")
        raise error
    assert ws.problem("dataset") is None and ws.manifest("dataset")["id"] == first
    assert not leftovers(ws)


def test_a_write_that_the_system_refuses_leaves_the_old_artefact(ws):
    pytest.importorskip("resource")
    write(ws, "dataset")
    script = (
        "import errno, resource, signal, sys\n"
        "from pathlib import Path\n"
        "from mmhelpers.course.artifacts import Workspace\n"
        "from mmhelpers.course.profiles import PROFILES\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "ws = Workspace(Path(sys.argv[1]), PROFILES['smoke'], 'catalogue')\n"
        "with ws.writing('dataset', made_by='01') as folder:\n"
        "    (folder / 'large').write_bytes(bytes(100_000))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ws.root)], capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert ws.problem("dataset") is None and not leftovers(ws)


def test_missing(ws):
    assert ws.problem("dataset") == "missing"
    with pytest.raises(ArtifactError, match="finetuned is to be made from dataset, which is not there"):
        write(ws, "finetuned", inputs=("dataset",))


def test_stale(ws):
    write(ws, "dataset")
    write(ws, "finetuned", inputs=("dataset",))
    write(ws, "dataset", "two")
    assert ws.problem("finetuned") == "stale: it was made from another dataset"
    other = dataclasses.replace(ws, profile=dataclasses.replace(ws.profile, n_train=170))
    assert other.problem("dataset").startswith("stale: the profile, the data or the base model")


def test_corrupt(ws):
    write(ws, "dataset")
    weights, manifest = (ws.path("dataset") / name for name in ("deep/weights.bin", "manifest.json"))
    weights.write_text("0ne")
    assert ws.problem("dataset") == "corrupt: deep/weights.bin is not as it was written"
    weights.unlink()
    assert ws.problem("dataset") == "corrupt: deep/weights.bin is gone"
    for broken in ('{"id": ', "[]", "{}"):
        manifest.write_text(broken)
        assert ws.problem("dataset") == "corrupt: its manifest.json cannot be read"
    write(ws, "dataset")  # writing over a corrupt one is the cure
    assert ws.problem("dataset") is None


def test_a_killed_swap_is_undone_and_a_half_written_folder_dropped(ws):
    first = write(ws, "dataset")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    half = ws.root / f".dataset.new-{ended.pid}-0a1b2c3d"
    half.mkdir()
    living = ws.root / f".dataset.new-{os.getppid()}-0a1b2c3d"
    living.mkdir()
    os.rename(ws.path("dataset"), ws.root / ".dataset.old")
    assert ws.problem("dataset") is None and ws.manifest("dataset")["id"] == first
    assert leftovers(ws) == [living.name]


def test_require_runs_the_maker_once_and_says_why(ws, monkeypatch, capsys):
    made = []

    def run_notebook(self: Workspace, name: str, problem: str) -> None:
        made.append((name, problem))
        inputs = {"dataset": (), "finetuned": ("dataset",)}[name]
        write(self, name, inputs=inputs)

    monkeypatch.setattr(Workspace, "_make", run_notebook)
    ws.require("dataset")
    ws.require("finetuned")
    ws.require("finetuned")
    assert made == [("dataset", "missing"), ("finetuned", "missing")]
    # What an artefact was made from is put right first; made again the same, it leaves the artefact valid.
    (ws.path("dataset") / "deep" / "weights.bin").unlink()
    ws.require("finetuned")
    assert made[2:] == [("dataset", "corrupt: deep/weights.bin is gone")]


def test_require_refuses_to_run_in_circles(ws, monkeypatch):
    monkeypatch.setenv("MM_CHAIN", "03_hard_negative_mining 02_clip_finetuning")
    with pytest.raises(ArtifactError, match="02_clip_finetuning, which makes it, is running"):
        ws.require("finetuned")
    with pytest.raises(ArtifactError, match="no notebook makes 'fintuned'"):
        ws.require("fintuned")


def test_text_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "state.json"
    artifacts.write_atomically(path, "{}")
    artifacts.write_atomically(path, json.dumps({"a": 1}))
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["state.json"]
