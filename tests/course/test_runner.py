"""The runner on small notebooks that take a second each; the course itself runs in test_notebooks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from mmhelpers.course import artifacts, runner
from mmhelpers.evaluation import METRICS, STAGES

COUNT = "with open('{0}.count', 'a') as out: out.write('x')"  # the kernel works in the notebooks' folder
WRITE = """from mmhelpers.course import artifacts
ws = artifacts.workspace()
{needs}
with ws.writing("{name}", made_by="{maker}", inputs={inputs}) as folder:
    (folder / "weights").write_text("{name}")"""


def making(name: str, *inputs: str) -> str:
    needs = "\n".join(f'ws.require("{other}")' for other in inputs)
    return WRITE.format(name=name, maker=artifacts.MADE_BY[name], needs=needs, inputs=list(inputs))


def scoreboard(*stages: str) -> list[dict]:
    common = {"split": "test", "slice": "all", "n_queries": 40, "train_seconds": 1.0, "seed": 0}
    numbers = {"value": 0.5, "low": 0.25, "high": 0.75}
    return [{"stage": s, "metric": m, **numbers, **common} for s in stages for m in METRICS]


@pytest.fixture
def course(notebook, tmp_path) -> Path:
    """Three notebooks, each of which writes what the next one reads; the folder of what they leave."""
    notebook("01_data_preparation", "# Data", COUNT.format("01"), making("dataset"))
    notebook("02_clip_finetuning", COUNT.format("02"), making("finetuned", "dataset"))
    rows = f"ws.scoreboard.write_text({json.dumps(scoreboard(*STAGES))!r})"
    notebook("03_hard_negative_mining", COUNT.format("03"), making("negatives", "finetuned"), rows)
    return tmp_path / "build" / "smoke" / "shop"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    for name in ("artifacts", "build", "notebooks"):
        monkeypatch.setenv(f"MM_{name.upper()}", str(tmp_path / name))

    def run_now(*more: str) -> tuple[int, str]:
        status = runner.main(["--profile", "smoke", *more])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run_now


def counts(build: Path) -> str:
    """How often each of the three notebooks has run, as in "111"."""
    folder = build.parents[2] / "notebooks"
    files = (folder / f"{number}.count" for number in ("01", "02", "03"))
    return "".join(str(len(path.read_text())) if path.exists() else "0" for path in files)


def test_a_run_leaves_its_results_and_what_changed_is_done_again(course, run, notebook):
    status, said = run()
    assert status == 0 and counts(course) == "111"
    assert "profile smoke, data shop: 3 of 3 notebooks to run, about 1 minutes" in said
    assert "[2/3] 02_clip_finetuning: done in 0." in said
    assert "reranked" in said and "0.250 to 0.750" in said
    stems = ["01_data_preparation", "02_clip_finetuning", "03_hard_negative_mining"]
    kept = [f"{stem}.{kind}" for stem in stems for kind in ("html", "ipynb")]
    assert sorted(path.name for path in course.iterdir()) == [*kept, "state.json"]
    executed = nbformat.read(course / "01_data_preparation.ipynb", as_version=4)
    assert [cell.execution_count for cell in executed.cells if cell.cell_type == "code"] == [1, 2]
    state = {path: path.stat().st_mtime_ns for path in course.iterdir()}

    # The same again, and with another text: nothing is done twice.
    notebook("01_data_preparation", "# New words", COUNT.format("01"), making("dataset"))
    status, said = run()
    assert status == 0 and said.count("finished before, nothing to do") == 3 and "0 of 3" in said
    assert counts(course) == "111" and state == {path: path.stat().st_mtime_ns for path in course.iterdir()}

    # Other code: it runs; what it made is the same, so the others need not.
    notebook("01_data_preparation", COUNT.format("01"), making("dataset"), "print('new')")
    run()
    assert counts(course) == "211"

    # A damaged artefact: its notebook runs, and no other.
    home = course.parents[2] / "artifacts" / "smoke" / "shop"
    (home / "finetuned" / "weights").write_text("?")
    run()
    assert counts(course) == "221"

    # A lost scoreboard: all that may have written to it run.
    (home / "scoreboard.json").unlink()
    run()
    assert counts(course) == "332"


def test_another_release_of_the_package_counts(monkeypatch, notebook, run):
    book = nbformat.read(notebook("01_a", "1"), as_version=4)
    first = runner.Series("smoke").fingerprint(book)
    monkeypatch.setattr(runner.metadata, "version", lambda name: "99")
    assert runner.Series("smoke").fingerprint(book) != first


def test_without_numbers_it_runs_the_main_job(notebook, run, tmp_path):
    names = [f"{number:02}_lesson" for number in range(1, 9)]
    for name in names:
        notebook(name, "1")
    job = runner.Series("smoke")
    assert [path.stem for path in job.select(None)] == names[:5]
    assert [path.stem for path in job.select(None, everything=True)] == names
    assert [path.stem for path in job.select(["07", "03"])] == [names[2], names[6]]


def test_a_notebook_opened_first_has_the_earlier_ones_run(course, run):
    status, said = run("--only", "03")
    assert status == 0 and "[1/1] 03_hard_negative_mining: done" in said
    executed = nbformat.read(course / "03_hard_negative_mining.ipynb", as_version=4)
    told = "".join(out.get("text", "") for cell in executed.cells for out in cell.get("outputs", []))
    assert "finetuned is missing. Running 02_clip_finetuning to make it." in told
    assert counts(course) == "111"
    status, said = run()
    assert said.count("finished before") == 3, "what was run to make an artefact has been run"
    assert counts(course) == "111"


def test_a_failing_cell_is_shown_and_the_run_goes_on_from_there(course, run, notebook):
    notebook("02_clip_finetuning", COUNT.format("02"), "# Text", "learning_rate = 1\nlearning_rate / 0")
    status, said = run("--only", "03")
    assert status == 1 and "02_clip_finetuning failed, as it says above, so there is no finetuned" in said
    status, said = run("--only", "01", "02")
    assert status == 1
    assert "02_clip_finetuning.ipynb: " in said and "learning_rate / 0" in said
    assert "ZeroDivisionError: division by zero" in said
    assert (course / "02_clip_finetuning.failed.ipynb").is_file()
    assert not (course / "02_clip_finetuning.ipynb").exists()
    notebook("02_clip_finetuning", COUNT.format("02"), making("finetuned", "dataset"))
    assert run()[0] == 0 and counts(course) == "132"
    assert not (course / "02_clip_finetuning.failed.ipynb").exists()


def test_a_notebook_with_nothing_to_do_is_passed_over(course, run, notebook):
    stops = "raise artifacts.NotApplicable('one tower')"
    notebook("02_clip_finetuning", COUNT.format("02"), making("finetuned", "dataset"), stops, "1 / 0")
    status, said = run("--only", "01", "02")
    assert status == 0 and "[2/2] 02_clip_finetuning: passed over: one tower" in said
    assert (course / "02_clip_finetuning.html").is_file()
    status, said = run("--only", "01", "02")
    assert said.count("finished before, nothing to do") == 2 and counts(course) == "110"
    notebook("02_clip_finetuning", "raise SystemExit('no GPU')")
    status, said = run("--only", "02")
    assert status == 1 and "SystemExit" in said and "no GPU" in said, "any other end is a failure"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os\nos._exit(9)", "Kernel died"),
        (
            "from mmhelpers.course import artifacts\nartifacts.workspace().require('dataset')",
            "01_data_preparation, which makes it, asks for it itself",
        ),
    ],
)
def test_what_stopped_a_notebook_is_said(notebook, run, code, words):
    notebook("01_data_preparation", code)
    status, said = run()
    assert status == 1 and re.search(words, said)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_a_stopped_run_goes_on_from_the_last_finished_notebook(course, run, notebook, how):
    slow = "\n    open('started', 'w').close(); import time; time.sleep(60)"  # inside `writing`
    notebook("02_clip_finetuning", COUNT.format("02"), making("finetuned", "dataset") + slow)
    command = [sys.executable, "-m", "mmhelpers.course.runner", "--profile", "smoke"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
    started, deadline = course.parents[2] / "notebooks" / "started", time.monotonic() + 120
    while not started.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, how)
    said = process.communicate(timeout=30)[1]
    if how == signal.SIGINT:
        assert process.returncode == 130 and "interrupted; the same command goes on" in said
    notebook("02_clip_finetuning", COUNT.format("02"), making("finetuned", "dataset"))
    assert run()[0] == 0 and counts(course) == "121"
    assert not list((course.parents[2] / "artifacts").rglob(".*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--profile", "latpop"), "'latpop' is unknown; choose one of smoke, laptop, gpu"),
        (("--data", "nowhere"), "DATA 'nowhere': there is no such file or folder"),
        (("--only", "07"), "no notebook 07 in .*; there are: 01_data_preparation, 02_clip_finetuning"),
    ],
)
def test_wrong_choices_are_refused_in_a_sentence(course, run, more, message):
    status, said = run(*more)
    assert status == 2 and re.search(message, said) and "Traceback" not in said


def test_pages_need_no_network_and_fold_solutions(notebook, run, tmp_path):
    picture = "from PIL import Image\nImage.new('RGB', (8, 8), 'red')"
    notebook(
        "01_data_preparation", "# Title\n\n[a link](https://example.org) and $x^2$",
        ("solution", "answer = 42"), picture,
        "from IPython.display import HTML\nHTML('<iframe srcdoc=\"<b>map</b>\"></iframe>')",
    )  # fmt: skip
    assert run()[0] == 0
    page = (tmp_path / "build" / "smoke" / "shop" / "01_data_preparation.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "<script" not in page and "@import" not in page and "cdnjs" not in page
    assert re.search(r"<details><summary>Solution</summary>.{0,900}answer", page, re.DOTALL)
    assert "data:image/png;base64" in page and 'srcdoc="&lt;b&gt;map' in page
