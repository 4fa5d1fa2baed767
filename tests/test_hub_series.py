"""Models and data sets by their ids on the Hub: the libraries' own requests, answered by a stand-in.

What is asked, is asked by processes that have the stand-in's address from their start, as a learner's have the
Hub's. The series (slow) runs the notebooks on a model and a data set of the Hub, and publishes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Done, run_smoke
from hub_server import StandInHub, contents
from huggingface_hub import ModelCard
from samples import a_folder, a_repository, pictures
from standins import SIGLIP, hub_siglip

from mmhelpers import data
from mmhelpers.evaluation import METRICS
from mmhelpers.models import encoders
from mmhelpers.models.reranker import load_reranker

FLICKR, SERIES = "jxie/flickr8k", ("01", "02", "03", "04", "07")
IDS = {"retriever": "owner/search", "reranker": "owner/search-reranker", "data": "owner/search-data"}
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"

# A process that answers (id, token) with what went wrong, or how many pictures there are.
VISITOR = """
import json, os, sys
import datasets
from pathlib import Path
from mmhelpers.course.profiles import PROFILES
from mmhelpers.data import hub, read_folder

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # five seconds after several shards
for name, os.environ["HF_TOKEN"] in json.loads(sys.argv[1]):
    try:
        said = len(read_folder(hub.gather(f"hub:{name}", {}, PROFILES["smoke"], Path(sys.argv[2]))))
    except Exception as error:
        said = str(error)
    print("ANSWER", json.dumps(said), flush=True)
"""

# Somebody who has nothing but the ids: the snippets of the cards, with their own texts and pictures.
OUTSIDER = """
import json, re, sys
from huggingface_hub import ModelCard

texts, pictures, ids = json.loads(sys.argv[1])
for repo_id in ids:
    snippet = re.search("```python\\n(.*?)```", ModelCard.load(repo_id).text, re.S)[1]
    names = {"texts": texts, "pictures": pictures}
    exec(re.sub("texts, pictures = .*", "", snippet).replace("print(", "result = ("), names)
    print("ANSWER", json.dumps(names["result"].tolist()))
"""


def answers(program: str, environment: dict[str, str], *arguments: object) -> tuple[list, str]:
    """What a program says behind ANSWER, and all that it says."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in re.findall("^ANSWER (.*)", done.stdout, re.M)], done.stdout + done.stderr


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInHub]:
    """The Hub with a model and several data sets."""
    root = tmp_path_factory.mktemp("stock")
    with StandInHub() as hub:
        hub.add(SIGLIP, hub_siglip(root / "siglip"))
        captions = {f"caption_{c}": [f"picture {i} in words {c}" for i in range(60)] for c in range(5)}
        hub.add(FLICKR, a_repository(root / "a", {"image": pictures(60), **captions}, card="{}"), "dataset")
        plain = a_repository(root / "b", {"image": pictures(4), "title": list("abcd")})
        hub.add("owner/private", plain, "dataset", private=True)
        hub.add("company/gated", plain, "dataset", gated=True)
        a_folder(root / "c" / "train")  # an ImageFolder, and the same in an archive
        (root / "d").mkdir()
        shutil.make_archive(str(root / "d" / "train"), "zip", root / "c" / "train")
        hub.add("some/folder", root / "c", "dataset")
        hub.add("some/archive", root / "d", "dataset")
        yield hub


def test_what_is_answered_to_whom(hub: StandInHub, tmp_path: Path) -> None:
    wrong = "hf_" + "wr0ng" * 6
    asked = [
        ("some/folder", "", 3),
        ("some/archive", "", 3),
        ("some/archive@nope", "", "no such revision"),
        ("owner/private", "", f"no such data set, or it is private.*{LOG_IN}"),
        ("owner/private", wrong, f"refuses the token.*{LOG_IN}"),
        ("owner/private", hub.token, 4),
        ("company/gated", "", f"it is gated: ask for access on its page on the Hub, then {LOG_IN}"),
    ]
    question, environment = json.dumps([row[:2] for row in asked]), hub.environment(tmp_path / "cache")
    found, printed = answers(VISITOR, environment, question, tmp_path / "downloads")
    for (name, _, expected), said in zip(asked, found, strict=True):
        assert said == expected if isinstance(expected, int) else re.search(expected, str(said)), (name, said)
    assert hub.token not in printed and wrong not in printed


@pytest.fixture(scope="module")
def series(hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The notebooks on a model and a data set of the Hub, published under a name of the owner's."""
    folder = tmp_path_factory.mktemp("series")
    settings = {"MM_BASE_MODEL": SIGLIP, "MM_DATA": f"hub:{FLICKR}", "MM_DOWNLOADS": str(folder / "downloads")}
    environment = hub.environment(folder / "cache", hub.token) | {"MM_PUSH_AS": IDS["retriever"]}
    done = run_smoke(folder, *SERIES, **environment, **settings)
    assert done.status == 0, done.said
    return done


@pytest.mark.slow
def test_all_of_it_arrives_and_no_token(series: Done, hub: StandInHub) -> None:
    truths = data.load(series.artifacts / "dataset").truth.values()
    assert all(len(truth.queries) == 5 * len(truth.corpus) for truth in truths)
    book = series.executed("07_real_models_and_publishing")
    said = "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", []))
    for part in ("retriever", "reranker", "data set"):
        assert re.search(rf"from the Hub, {part}: (first row )?identical", said), said
    for part, repo_id in IDS.items():
        there = hub.repositories["dataset" if part == "data" else "model", repo_id]
        assert there.private, "until its owner decides otherwise"
        assert there.files == contents(series.artifacts / "published" / part)
        assert not re.search(r"\.(py|bin|pkl|pt)$", "\n".join(there.files), re.M), "data, no code"
    kept = [series.said.encode(), *contents(series.artifacts).values(), *contents(series.build).values()]
    assert not [content for content in kept if hub.token.encode() in content]
    rows = json.loads((series.artifacts / "scoreboard.json").read_text("utf-8"))
    for part, stage in {"retriever": "hard-negatives", "reranker": "reranked"}.items():
        card = ModelCard(hub.repositories["model", IDS[part]].files["README.md"].decode())
        mine = [r for r in rows if (r["stage"], r["split"], r["slice"]) == (stage, "test", "all")]
        results = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert results == {row["metric"]: row["value"] for row in mine} and set(results) == set(METRICS)
        about = (card.data.license, card.data.base_model, card.data.datasets)
        assert about == ("other", SIGLIP, [IDS["data"]])
        assert "licence of the data: not stated" in card.text and "{{" not in card.text and "None" not in card.text


@pytest.mark.slow
def test_others_get_the_same_scores(series: Done, hub: StandInHub, tmp_path: Path) -> None:
    test = data.load(series.artifacts / "dataset").truth["test"]
    texts, files = list(test.queries.values())[:3], list(test.corpus.values())[:4]
    question = json.dumps([texts, files, [IDS["retriever"], IDS["reranker"]]])
    [cosines, logits], _ = answers(OUTSIDER, hub.environment(tmp_path / "cache", hub.token), question)
    retriever = encoders.load(series.artifacts / "hard_negatives", device="cpu")
    here = retriever.similarity(retriever.encode(texts), retriever.encode(files)).tolist()
    assert [pytest.approx(row, abs=1e-5) for row in here] == cosines
    reranker = load_reranker(series.artifacts / "reranker", device="cpu")
    pairs = [(text, file) for text in texts for file in files]
    assert logits == pytest.approx(reranker.predict(pairs).tolist(), abs=1e-4)
