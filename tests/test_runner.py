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
import psutil
import pytest

from mmhelpers.course import artifacts, progress, publish, runner
from mmhelpers.evaluation import STAGES

COUNT = "with open('{0}.count', 'a') as out: out.write('x')"  # the kernel works in the notebooks' folder
WRITE = """from mmhelpers import artifacts
ws = artifacts.workspace()
{needs}
with ws.writing("{name}", made_by="{maker}", inputs={inputs}) as folder:
    (folder / "weights").write_text("{name}")"""
METRICS = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")


def making(name: str, *inputs: str) -> str:
    needs = "\n".join(f'ws.require("{other}")' for other in inputs)
    return WRITE.format(name=name, maker=artifacts.MADE_BY[name], needs=needs, inputs=list(inputs))


def scoreboard(*stages: str) -> list[dict]:
    common = {"split": "test", "slice": "all", "n_queries": 40, "train_seconds": 1.0, "seed": 0}
    numbers = {"value": 0.5, "low": 0.25, "high": 0.75}
    return [{"stage": s, "metric": m, **numbers, **common} for s in stages for m in METRICS]


@pytest.fixture
def course(notebook, tmp_path):
    """Three notebooks, each of which writes what the next one reads."""
    notebook("01_data_preparation", "# Data", COUNT.format("01"), making("dataset"))
    notebook("02_clip_finetuning", COUNT.format("02"), making("finetuned", "dataset"))
    rows = scoreboard(*STAGES)
    notebook(
        "03_hard_negative_mining",
        COUNT.format("03"),
        making("longer", "finetuned"),
        f"ws.scoreboard.write_text({json.dumps(rows)!r})",
    )
    return tmp_path


def command(tmp_path: Path, *more: str) -> list[str]:
    places = ["--notebooks", str(tmp_path / "notebooks"), "--build", str(tmp_path / "build")]
    return ["run", "--profile", "smoke", *places, *more]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MM_ARTIFACTS", str(tmp_path / "artifacts"))

    def run_now(*more: str) -> tuple[int, str]:
        status = runner.main(command(tmp_path, *more))
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run_now


def counts(tmp_path: Path) -> dict[str, int]:
    return {path.stem: len(path.read_text()) for path in sorted(tmp_path.glob("notebooks/*.count"))}


def test_a_run_leaves_its_results_and_what_changed_is_done_again(course, run, notebook):
    status, said = run()
    assert status == 0
    assert "profile smoke, data catalogue: 3 of 3 notebooks to run, about 1 minutes" in said
    assert "[2/3] 02_clip_finetuning: done in 0:0" in said and "100 %  cell 2 of 2" in said
    assert "reranked" in said and "0.250 to 0.750" in said and "peak memory" in said
    build = course / "build" / "smoke" / "catalogue"
    names = sorted(path.name for path in build.iterdir())
    assert [name for name in names if name.endswith(".html")] == [
        "01_data_preparation.html", "02_clip_finetuning.html", "03_hard_negative_mining.html",
    ]  # fmt: skip
    assert len(names) == 7 and "state.json" in names  # and nothing half-written
    executed = nbformat.read(build / "01_data_preparation.ipynb", as_version=4)
    assert [cell.execution_count for cell in publish.code_cells(executed)] == [1, 2]
    assert str(build) in said and str(course / "artifacts") in said

    # The same again: nothing is done twice.
    status, said = run()
    assert status == 0 and said.count("finished before, nothing to do") == 3 and "0 of 3" in said
    assert counts(course) == {"01": 1, "02": 1, "03": 1}

    # Another text: the page follows, nothing runs.
    notebook("01_data_preparation", "# New words", COUNT.format("01"), making("dataset"))
    page = build / "01_data_preparation.html"
    run("--only", "01")
    assert counts(course)["01"] == 1 and "New words" in page.read_text()
    page.unlink()
    run("--only", "01")
    assert counts(course)["01"] == 1 and page.is_file()

    # Other code: it runs; what it made is the same, so the others need not.
    notebook("01_data_preparation", COUNT.format("01"), making("dataset"), "print('new')")
    run()
    assert counts(course) == {"01": 2, "02": 1, "03": 1}

    # A damaged artefact: its notebook runs, and nobody else's.
    (course / "artifacts" / "smoke" / "catalogue" / "finetuned" / "weights").write_text("?")
    run()
    assert counts(course) == {"01": 2, "02": 2, "03": 1}

    # A lost scoreboard: the notebook that had seen all of it runs.
    (course / "artifacts" / "smoke" / "catalogue" / "scoreboard.json").unlink()
    run()
    assert counts(course) == {"01": 2, "02": 2, "03": 2}


def test_a_notebook_opened_first_has_the_earlier_ones_run(course, run):
    status, said = run("--only", "03")
    assert status == 0 and "[1/1] 03_hard_negative_mining: done" in said
    executed = nbformat.read(course / "build/smoke/catalogue/03_hard_negative_mining.ipynb", as_version=4)
    told = "".join(out.get("text", "") for cell in publish.code_cells(executed) for out in cell.outputs)
    assert "finetuned is missing. Running 02_clip_finetuning to make it." in told
    assert counts(course) == {"01": 1, "02": 1, "03": 1}
    status, said = run()
    assert said.count("finished before") == 3, "what was run to make an artefact has been run"
    assert counts(course) == {"01": 1, "02": 1, "03": 1}


def test_a_failing_cell_is_shown_and_the_run_goes_on_from_there(course, run, notebook):
    notebook("02_clip_finetuning", COUNT.format("02"), "# Text", "learning_rate = 1\nlearning_rate / 0")
    status, said = run("--only", "03")
    assert status == 1 and "02_clip_finetuning failed, so there is no finetuned" in said
    assert "ZeroDivisionError" in said, "a failure behind a failure is shown too"
    status, said = run("--only", "01", "02")
    assert status == 1
    assert "02_clip_finetuning.ipynb, cell 3 of 3:\n    learning_rate = 1\n    learning_rate / 0" in said
    assert "ZeroDivisionError: division by zero" in said and "\x1b" not in said
    build = course / "build" / "smoke" / "catalogue"
    assert (build / "02_clip_finetuning.failed.ipynb").is_file()
    assert not (build / "02_clip_finetuning.ipynb").exists()
    notebook("02_clip_finetuning", COUNT.format("02"), making("finetuned", "dataset"))
    status, said = run()
    assert status == 0 and counts(course) == {"01": 1, "02": 3, "03": 2}
    assert not (build / "02_clip_finetuning.failed.ipynb").exists()


def test_a_notebook_with_nothing_to_do_is_passed_over(course, run, notebook):
    stops = "raise artifacts.NotApplicable('one tower')"
    notebook("02_clip_finetuning", COUNT.format("02"), making("finetuned", "dataset"), stops, "1 / 0")
    status, said = run("--only", "01", "02")
    assert status == 0 and "[2/2] 02_clip_finetuning: passed over: one tower" in said
    assert (course / "build/smoke/catalogue/02_clip_finetuning.html").is_file()
    status, said = run("--only", "01", "02")
    assert said.count("finished before, nothing to do") == 2 and counts(course) == {"01": 1, "02": 1}
    notebook("02_clip_finetuning", "raise SystemExit('no GPU')")
    status, said = run("--only", "02")
    assert status == 1 and "SystemExit" in said and "no GPU" in said, "any other end is a failure"


def test_a_dead_kernel_is_reported(notebook, run):
    notebook("01_data_preparation", "import os\nos._exit(9)")
    status, said = run()
    assert status == 1 and "The kernel died" in said and "memory" in said and "os._exit(9)" in said


def test_a_notebook_that_asks_for_its_own_artefact_is_told(notebook, run):
    asks = "from mmhelpers import artifacts\nartifacts.workspace().require('dataset')"
    notebook("01_data_preparation", asks)
    status, said = run()
    assert status == 1 and "01_data_preparation, which makes it, is running" in said


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_goes_on_from_the_last_finished_notebook(course, run, notebook):
    slow = "\n    open('started', 'w').close(); import time; time.sleep(60)"  # inside `writing`
    slow = making("finetuned", "dataset") + slow
    notebook("02_clip_finetuning", COUNT.format("02"), slow)
    process = subprocess.Popen(
        [sys.executable, "-m", "mmhelpers.course.runner", *command(course)], stdout=subprocess.DEVNULL
    )
    started, deadline = course / "notebooks" / "started", time.monotonic() + 300
    while not started.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert started.exists()
    root = course / "artifacts" / "smoke" / "catalogue"
    (half,) = root.glob(".finetuned.new-*")  # it was killed in the middle of writing
    kernel = int(half.name.split("-")[1])
    while psutil.pid_exists(kernel) and time.monotonic() < deadline:
        time.sleep(0.1)  # an orphaned kernel ends itself; it looks for its parent once a second

    notebook("02_clip_finetuning", COUNT.format("02"), making("finetuned", "dataset"))
    status, _ = run()
    assert status == 0 and counts(course) == {"01": 1, "02": 2, "03": 1}
    assert not list(root.glob(".*")) and not list((course / "build").rglob(".*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--profile", "latpop"), "'latpop' is unknown; choose one of smoke, laptop, gpu"),
        (("--data", "nowhere"), "DATA 'nowhere' is not a folder"),
        (("--only", "07"), "no such notebook in .*; there are: 01_data_preparation, 02_clip_finetuning"),
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
    page = (tmp_path / "build" / "smoke" / "catalogue" / "01_data_preparation.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "<script" not in page and "@import" not in page and "cdnjs" not in page
    assert re.search(r"<details><summary>Solution</summary>.{0,900}answer", page, re.DOTALL)
    assert "data:image/png;base64" in page and 'srcdoc="&lt;b&gt;map' in page


def test_the_bar_on_a_terminal(monkeypatch, capsys):
    bar = progress.Progress(2, 5, Path("02_clip_finetuning.ipynb"), 8)
    bar.live = True
    bar.start(None, 3)
    bar.executed(None, 3, None)
    bar.say("done")
    shown = capsys.readouterr().out
    assert "\r[2/5] 02_clip_finetuning [############------------] cell 4 of 8  0:00" in shown
    assert shown.endswith("02_clip_finetuning: done\n")


def executed_notebook(*outputs: dict) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("x", execution_count=1, outputs=[nbformat.from_dict(o) for o in outputs])
    cell.metadata.update({"execution": {"t": "now"}, "tags": ["colab"], "jupyter": {"source_hidden": True}})
    book = nbformat.v4.new_notebook(cells=[cell])
    book.metadata.update({"widgets": {"a": 1}, "language_info": {"name": "python", "version": "3.11.7"}})
    return book


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def test_committed_notebooks_are_the_same_wherever_they_ran(tmp_path):
    widget = {publish.WIDGET: {"model_id": "1"}, "text/plain": "HBox()"}
    picture = {"image/png": "a/tmp/b", "text/plain": "<Figure at 0x7f2a3b4c5d6e>"}
    book = executed_notebook(
        stream(f"saved {tmp_path}/artifacts/x\n"),
        stream("UserWarning\n", "stderr"),
        {"output_type": "display_data", "metadata": {}, "data": widget},
        {"output_type": "display_data", "metadata": {}, "data": picture},
    )
    clean = publish.normalised(book, tmp_path)
    assert [out.output_type for out in clean.cells[0].outputs] == ["stream", "display_data"]
    assert clean.cells[0].outputs[0].text == "saved ./artifacts/x\n"
    assert clean.cells[0].outputs[1].data == {"image/png": "a/tmp/b", "text/plain": "<Figure>"}
    assert clean.cells[0].metadata == {"tags": ["colab"], "jupyter": {"source_hidden": True}}
    assert clean.metadata.kernelspec.name == "python3" and "widgets" not in clean.metadata
    assert clean.metadata.language_info == {"name": "python"}
    nbformat.validate(clean)
    assert book.cells[0].metadata["execution"], "the copy under build/ stays as it was"


@pytest.mark.parametrize("shown", ["/tmp/tmpab12/x.png", "/home/ada/pictures", str(Path.home() / "models")])
def test_a_path_of_this_machine_is_not_committed(shown, tmp_path):
    with pytest.raises(ValueError, match="cell 0 shows a path of this machine"):
        publish.normalised(executed_notebook(stream(f"in '{shown}'")), tmp_path / "repository")


def test_the_readme_gets_its_table():
    readme = f"# Title\n\n{publish.START}\nold\n{publish.END}\n\nmore\n"
    made = publish.results_block(readme, scoreboard("zero-shot", "finetuned"))
    assert made.startswith("# Title") and made.endswith("more\n") and "old" not in made
    assert "| finetuned |" in made
    assert publish.results_block(made, scoreboard("zero-shot", "finetuned")) == made
    with pytest.raises(ValueError, match="lacks the markers"):
        publish.results_block("# Title", [])


def test_outputs_follow_their_code():
    old, new = executed_notebook(stream("one")), executed_notebook()
    new.cells.insert(0, nbformat.v4.new_markdown_cell("new text"))
    merged = publish.with_outputs(new, old)
    assert merged.cells[1].outputs[0].text == "one" and merged.cells[0].source == "new text"
