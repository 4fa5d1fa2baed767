"""Notebook 07 with a name to publish under: what arrives on a Hub (a stand-in), and what others get of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import CODE, ROOT, Done, run_smoke
from datasets import Image, load_dataset
from hub_server import StandInHub, below
from huggingface_hub import DatasetCard, ModelCard
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from mmhelpers import data, evaluation
from mmhelpers.course import publish
from mmhelpers.evaluation import METRICS

NAME = "07_real_models_and_publishing"
IDS = {"retriever": "owner/shop-search", "reranker": "owner/shop-search-reranker"}
DATA = "owner/shop-search-data"
STAGES = {"retriever": "hard-negatives", "reranker": "reranked"}

# Run by somebody who has nothing but the ids: the cards' snippets with their own pictures, and the data.
OUTSIDER = """
import json, re, sys
from pathlib import Path
from huggingface_hub import ModelCard
from mmhelpers.course import profiles
from mmhelpers.data import hub

texts, pictures, ids, folder = json.loads(sys.argv[1])
for repo_id in ids:
    snippet = re.search("```python\\n(.*?)```", ModelCard.load(repo_id).text, re.S)[1]
    snippet = re.sub("texts, pictures = .*", "", snippet).replace("print(", "result = (")
    names = {"texts": texts, "pictures": pictures}
    exec(snippet, names)
    print("scores", json.dumps(names["result"].tolist()))
rows = hub.gather("hub:owner/shop-search-data", {}, profiles.PROFILES["smoke"], Path(folder))
print("rows", len((rows / "metadata.jsonl").read_text().splitlines()))
"""


# In front of the cells that push: what the cells above them have made, small.
MADE = """
from pathlib import Path
from types import SimpleNamespace
PUSH_AS, PRIVATE, IDS = "owner/shop", True, {"retriever": "owner/shop", "data": "owner/shop-data"}
profile, collection, home = SimpleNamespace(name="smoke"), SimpleNamespace(name="shop"), Path("home")
"""


@pytest.fixture(scope="module")
def published(course: Done, hub: StandInHub, tmp_path_factory) -> Done:
    """The course's artefacts, and notebook 07 run once more with a Hub, a token and a name."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(course.folder / "artifacts", folder / "artifacts")
    environment = hub.environment(folder / "cache", hub.token)
    done = run_smoke(folder, "07", MM_PUSH_AS=IDS["retriever"], **environment)
    assert done.status == 0, done.said
    return done


def said(done: Done) -> str:
    outputs = [out for cell in done.executed(NAME).cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") for out in outputs)


def test_without_a_name_nothing_leaves_the_machine(course: Done) -> None:
    text = said(course)
    assert "nothing was pushed" in text and "from the Hub" not in text
    for part in ("retriever", "reranker", "data set"):
        assert re.search(rf"from the folder, {part}: (first row )?identical", text), part
    cards = {path.parent.name for path in (course.artifacts / "published").glob("*/README.md")}
    assert cards == {"retriever", "reranker", "data"}


def test_all_of_it_arrives_and_comes_back_the_same(published: Done, hub: StandInHub) -> None:
    text = said(published)
    for part in ("retriever", "reranker", "data set"):
        assert re.search(rf"from the Hub, {part}: (first row )?identical", text), text
    for kind, repo_id in [*(("model", name) for name in IDS.values()), ("dataset", DATA)]:
        assert hub.about(kind, repo_id)["private"], "until its owner decides otherwise"
        there = hub.files(repo_id, kind)
        part = {name: part for part, name in IDS.items()}.get(repo_id, "data")
        here = published.artifacts / "published" / part
        names = {path.relative_to(there) for path in below(there)}
        assert names == {path.relative_to(here) for path in below(here)}
        assert all((there / name).read_bytes() == (here / name).read_bytes() for name in names)
        assert not [name for name in names if name.suffix in (".py", ".bin", ".pkl", ".pt")], "data, no code"


@pytest.mark.parametrize("part", IDS)
def test_a_card_carries_the_scoreboard(published: Done, hub: StandInHub, part: str) -> None:
    card = ModelCard.load(hub.files(IDS[part]) / "README.md")
    rows = json.loads((published.artifacts / "scoreboard.json").read_text(encoding="utf-8"))
    mine = [r for r in rows if (r["stage"], r["split"], r["slice"]) == (STAGES[part], "test", "all")]
    found = {result.metric_type: result for result in card.data.eval_results}
    assert set(found) == set(METRICS) and card.data.model_name == IDS[part]
    for row in mine:
        result = found[row["metric"]]
        assert result.metric_value == row["value"]
        assert f"{row['low']:.3f} to {row['high']:.3f}" in result.metric_name
        assert (result.dataset_type, result.dataset_split) == (DATA, "test")
    assert evaluation.results_table(rows).strip() in card.text
    about = card.data
    assert (about.license, about.library_name) == ("apache-2.0", "sentence-transformers")
    assert about.datasets == [DATA] and about.base_model is None, "clip-mini is on no Hub"
    for word in ("## Use", "## Limits", "## How it was made", "Drawn products only", IDS[part]):
        assert word in card.text
    assert "{{" not in card.text and "None" not in card.text


def test_the_data_set_is_whole(published: Done, hub: StandInHub) -> None:
    place = hub.files(DATA, "dataset")
    assert DatasetCard.load(place / "README.md").data.license == "apache-2.0"
    mine = data.load(published.artifacts / "dataset")
    for split, rows in mine.splits.items():
        theirs = load_dataset(str(place), split=split, streaming=True)
        theirs = list(theirs.cast_column("image", Image(decode=False)))
        assert [row["image"]["bytes"] for row in theirs] == [Path(p).read_bytes() for p in data.paths(rows)]
        assert not any("/" in row["image"]["path"] for row in theirs), "no path of a machine"
        for column in ("image_id", "text", "spec", "family"):
            assert [row[column] for row in theirs] == rows[column][:]
    truth = json.loads((place / "collection.json").read_text(encoding="utf-8"))["truth"]
    assert truth["test"]["qrels"] == mine.truth["test"].qrels


def test_others_get_the_same_scores_from_the_snippet(published: Done, hub: StandInHub, tmp_path) -> None:
    from mmhelpers.models import encoders
    from mmhelpers.models.reranker import load_reranker

    test = data.load(published.artifacts / "dataset").truth["test"]
    texts, pictures = list(test.queries.values())[:3], list(test.corpus.values())[:4]
    asked = json.dumps([texts, pictures, list(IDS.values()), str(tmp_path / "gathered")])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def outsider(token: str) -> subprocess.CompletedProcess:
        place = hub.environment(tmp_path / f"cache of {token[3:7]}", token)
        command = [sys.executable, "-c", OUTSIDER, asked]
        return subprocess.run(command, env=environment | place, capture_output=True, encoding="utf-8")

    refused = outsider(hub.other_token)
    assert refused.returncode and "404" in refused.stderr, "it is private"
    given = outsider(hub.token)
    assert given.returncode == 0, given.stderr
    cosines, logits = (json.loads(line) for line in re.findall("^scores (.*)", given.stdout, re.M))
    retriever = encoders.load(published.artifacts / "hard_negatives", device="cpu")
    expected = retriever.similarity(retriever.encode(texts), retriever.encode(pictures))
    assert cosines == expected.tolist()
    reranker = load_reranker(published.artifacts / "reranker", device="cpu")
    pairs = [(text, picture) for text in texts for picture in pictures]
    assert logits == pytest.approx(reranker.predict(pairs).tolist(), abs=1e-6)
    assert "licence apache-2.0" in given.stdout
    assert int(re.search("^rows (.*)", given.stdout, re.M)[1]) == 160, "the training split"


def test_no_token_is_left_anywhere(published: Done, hub: StandInHub) -> None:
    for token in (hub.token, hub.other_token):
        assert token not in published.said
        for folder in (hub.folder, published.artifacts, published.build):
            assert not [path for path in below(folder) if token.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "^nothing was pushed: `hf auth login` or set HF_TOKEN first, then run this cell again$"),
        (
            "hf_" + "wr0ng" * 6,
            r"the Hub refuses the token \(status 401\); log in with `hf auth login` or set HF_TOK",
        ),
        (
            StandInHub.other_token,
            r"the Hub refuses the token \(status 403\).*must be one that may write to owner/;",
        ),
        ("nobody there", "the Hub cannot be reached .ConnectError.; check the network"),
    ],
)
def test_why_nothing_was_pushed_is_said_in_a_sentence_without_the_token(
    tmp_path: Path, token: str, words: str
) -> None:
    """The notebook's own cells in a kernel: what a reader sees, with a Hub that knows two other tokens."""
    cells = publish.code_cells(nbformat.read(ROOT / "notebooks" / f"{NAME}.ipynb", as_version=4))
    push = [cell for cell in cells if "def push(" in cell.source or "commits = {" in cell.source]
    book = nbformat.v4.new_notebook(cells=[CODE(MADE), *push])
    client = NotebookClient(book, resources={"metadata": {"path": str(tmp_path)}})
    with StandInHub(tmp_path / "hub") as hub, pytest.raises(CellExecutionError):
        if token == "nobody there":
            hub.stop()
        environment = hub.environment(tmp_path / "cache", token)
        client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
    assert len(push) == 2 and not below(tmp_path / "hub"), "nothing has arrived"
    [error] = [out for cell in book.cells for out in cell.outputs if out.output_type == "error"]
    assert error.ename == "RuntimeError" and re.search(words, error.evalue), error.evalue
    assert token == "" or error.evalue.startswith("owner/shop was not pushed: ")
    shown = json.dumps([cell.outputs for cell in book.cells])
    assert "httpx" not in shown and "huggingface_hub/" not in shown, "not a page of other people's code"
    assert not token or token not in shown
