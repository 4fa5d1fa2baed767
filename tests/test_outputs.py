"""What `make outputs` commits."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from scripts import outputs


def executed(*shown: dict) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("x", id="a", execution_count=1)
    cell.outputs = [nbformat.from_dict(out) for out in shown]
    cell.metadata.update({"execution": {"t": "now"}, "tags": ["colab"], "jupyter": {"source_hidden": True}})
    book = nbformat.v4.new_notebook(cells=[cell])
    book.metadata.update({"widgets": {"a": 1}, "language_info": {"name": "python", "version": "3.11.7"}})
    return book


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def data(shown: dict) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": shown}


def test_committed_notebooks_are_the_same_wherever_they_ran(tmp_path):
    book = executed(
        stream(f"saved {tmp_path}/artifacts/x\n"), stream("UserWarning\n", "stderr"),
        data({"text/plain": "HBox()", outputs.WIDGET: {"model_id": "1"}}),
        data({"image/png": "a/tmp/b", "text/plain": "<Figure at 0x7f2a3b4c5d6e>"}),
    )  # fmt: skip
    current = executed()
    current.cells.insert(0, nbformat.v4.new_markdown_cell("new words", id="b"))
    clean = outputs.committed(current, book, tmp_path)
    assert clean.cells[0].source == "new words" and clean.cells[1].execution_count == 1
    assert [out.output_type for out in clean.cells[1].outputs] == ["stream", "display_data"]
    assert clean.cells[1].outputs[0].text == "saved ./artifacts/x\n"
    assert clean.cells[1].outputs[1].data == {"image/png": "a/tmp/b", "text/plain": "<Figure>"}
    assert clean.cells[1].metadata == {"tags": ["colab"], "jupyter": {"source_hidden": True}}
    assert clean.metadata == outputs.METADATA
    nbformat.validate(clean)
    assert outputs.committed(clean, clean, tmp_path) == clean


def test_a_path_of_this_machine_is_not_committed(tmp_path):
    for out in (stream("in '/tmp/tmpab12/x.png'"), stream(str(Path.home() / "models")),
                data({"text/html": "<a href='/home/ada/pictures'>"})):  # fmt: skip
        with pytest.raises(ValueError, match="cell 0 shows a path of this machine"):
            outputs.committed(executed(), executed(out), tmp_path / "repository")


def test_all_or_nothing_is_committed(tmp_path):
    root, build, artifacts = (tmp_path / name for name in ("root", "build", "artifacts"))
    for folder in (root / "notebooks", build, artifacts / "evaluation"):
        folder.mkdir(parents=True)
    (root / "README.md").write_text(f"# Title\n\n{outputs.START}\nold\n{outputs.END}\n\nmore\n")
    numbers = {"value": 0.5, "low": 0.25, "high": 0.75, "split": "test", "slice": "all"}
    rows = [{"stage": "finetuned", "metric": m} | numbers for m in ("recall@1", "recall@10", "mrr@10")]
    (artifacts / "scoreboard.json").write_text(json.dumps(rows))
    (artifacts / "evaluation" / "before_after.png").write_bytes(b"picture")
    for name, out in {"01_a": stream("one"), "02_b": stream("in /tmp/x/y")}.items():
        nbformat.write(executed(), root / "notebooks" / f"{name}.ipynb")
        nbformat.write(executed(out), build / f"{name}.ipynb")
    with pytest.raises(ValueError, match="02_b.ipynb: cell 0 shows a path"):
        outputs.commit(root, build, artifacts)
    assert "old" in (root / "README.md").read_text()
    assert nbformat.read(root / "notebooks" / "01_a.ipynb", 4).cells[0].outputs == []

    nbformat.write(executed(stream("two")), build / "02_b.ipynb")
    outputs.commit(root, build, artifacts)
    assert nbformat.read(root / "notebooks" / "02_b.ipynb", 4).cells[0].outputs[0].text == "two"
    assert (root / "notebooks" / "images" / "before_after.png").read_bytes() == b"picture"
    readme = (root / "README.md").read_text()
    assert readme.startswith("# Title") and readme.endswith("more\n") and "old" not in readme
    assert "| finetuned | 0.500 [0.250, 0.750] |" in readme
    assert json.loads((root / "notebooks" / "scoreboard.json").read_text()) == rows
    with pytest.raises(ValueError, match="lacks the markers"):
        outputs.with_table("# Title", rows)
