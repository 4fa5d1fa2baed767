"""Models and data sets by their ids on the Hub: the libraries' own requests, answered by a stand-in.

What is asked, is asked by processes that have the stand-in's address from their start, as a learner's have
the Hub's. The series (slow) runs the notebooks on a model and a data set of the Hub, and publishes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Done, run_smoke
from hub_server import StandInHub, below
from huggingface_hub import ModelCard
from standins import SIGLIP, hub_siglip
from test_hub import a_repository, picture, pictures

from mmhelpers import data
from mmhelpers.evaluation import METRICS

FLICKR, SERIES = "jxie/flickr8k", ("01", "02", "03", "04", "07")
IDS = {"retriever": "owner/search", "reranker": "owner/search-reranker"}
PUBLISHED = "owner/search-data"
TOKENS = {"owner": StandInHub.token, "other": StandInHub.other_token, "wrong": "hf_" + "wr0ng" * 6, "": ""}
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"

# A process that answers (what, id, token) with what went wrong, or how long vectors or how many pictures are.
VISITOR = """
import json, os, sys
import datasets
from pathlib import Path
from mmhelpers.course.profiles import PROFILES, with_options
from huggingface_hub import HfApi
from mmhelpers.data import hub, read_folder
from mmhelpers.data.hub_errors import refusal
from mmhelpers.models import encoders

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # five seconds after several shards
for what, name, token in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    try:
        if what == "model":
            said = encoders.load(name, device="cpu").encode(["a red mug"]).shape[1]
        elif what == "push":
            said = HfApi().create_repo(name, private=True) and 0
        else:
            said = len(read_folder(hub.gather(*with_options(name), PROFILES["smoke"], Path(sys.argv[2]))))
    except Exception as error:
        said = refusal(error, "repository") if what == "push" else f"{type(error).__name__}: {error}"
    print("ANSWER", json.dumps(said), flush=True)
"""

# Somebody who has nothing but the ids: the snippets of the cards, with their own texts and pictures.
OUTSIDER = """
import json, re, sys
from huggingface_hub import ModelCard

texts, pictures, ids = json.loads(sys.argv[1])
for repo_id in ids:
    snippet = re.search("```python\\n(.*?)```", ModelCard.load(repo_id).text, re.S)[1]
    snippet = re.sub("texts, pictures = .*", "", snippet).replace("print(", "result = (")
    names = {"texts": texts, "pictures": pictures}
    exec(snippet, names)
    print("ANSWER", json.dumps(names["result"].tolist()))
"""


def answers(program: str, environment: dict[str, str], *arguments: str) -> tuple[list, str]:
    """What a program says behind ANSWER, and all that it says."""
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return [json.loads(line) for line in re.findall("^ANSWER (.*)", done.stdout, re.M)], said


@pytest.fixture(scope="module")
def stocked(hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> StandInHub:
    """The Hub with a model and several data sets."""
    root = tmp_path_factory.mktemp("stock")
    hub.add(SIGLIP, hub_siglip(root / "siglip"))
    for name in ("owner/private", "company/gated"):
        hub.add(name, root / "siglip", private="private" in name, gated="gated" in name)
    captions = {f"caption_{c}": [f"picture {i} in words {c}" for i in range(60)] for c in range(5)}
    hub.add(FLICKR, a_repository(root / "a", {"image": pictures(60), **captions}, card="{}"), "dataset")
    plain = a_repository(root / "b", {"image": pictures(4), "title": list("abcd")})
    hub.add("some/plain", plain, "dataset")
    hub.add("owner/private", plain, "dataset", private=True)
    hub.add("company/gated", plain, "dataset", gated=True)
    (root / "c" / "train").mkdir(parents=True)  # an ImageFolder, and the same in an archive
    for number in range(3):
        picture(number).save(root / "c" / "train" / f"{number}.png")
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"text {number}"}) for number in range(3)]
    (root / "c" / "train" / "metadata.jsonl").write_text("\n".join(lines))
    (root / "d").mkdir()
    shutil.make_archive(str(root / "d" / "train"), "zip", root / "c" / "train")
    for name in ("c", "d"):
        (root / name / "README.md").write_text("---\nlicense: mit\n---\n")
        hub.add(f"some/folder-{name}", root / name, "dataset")
    return hub


def test_what_is_answered_to_whom(stocked: StandInHub, tmp_path: Path) -> None:
    asked = [
        ("model", SIGLIP, "", 32),
        ("model", "owner/private", "owner", 32),
        ("model", "nobody/nothing", "", f"no such model, or it is private.*{LOG_IN}"),
        ("model", f"{SIGLIP}@nope", "", "no such revision; write owner/name@branch"),
        ("model", "no id//at all", "", "not an id such as owner/name"),
        (
            "model",
            "company/gated",
            "other",
            f"is gated: ask for access on its page on the Hub, then {LOG_IN}",
        ),
        ("push", "owner/new", "other", f"refuses the token .status 403.; {LOG_IN}"),
        ("push", "owner/new", "wrong", f"refuses the token .status 401.; {LOG_IN}"),
        ("data", "hub:some/folder-c", "", 3),
        ("data", "hub:some/folder-d", "", 3),
        ("data", "hub:flickr8k", "", "states no licence; ask its authors"),
        ("data", "hub:some/plain@nope?text=title", "", "no such revision"),
        ("data", "hub:owner/private?text=title", "", f"no such data set, or it is private.*{LOG_IN}"),
        ("data", "hub:owner/private?text=title", "wrong", f"refuses the token.*{LOG_IN}"),
        ("data", "hub:owner/private?text=title", "owner", 4),
        ("data", "hub:company/gated?text=title", "other", "it is gated: ask for access"),
        ("data", "hub:company/gated?text=title", "owner", 4),
    ]
    question = json.dumps([(what, name, TOKENS[token]) for what, name, token, _ in asked])
    environment = stocked.environment(tmp_path / "cache")
    found, said = answers(VISITOR, environment, question, str(tmp_path / "downloads"))
    for (what, name, token, expected), answer in zip(asked, found, strict=True):
        right = answer == expected if isinstance(expected, int) else re.search(expected, str(answer))
        assert right, f"{what} {name} for {token!r}: {answer}"
    with StandInHub(tmp_path / "nothing") as gone:
        pass
    question = json.dumps([("model", SIGLIP, ""), ("data", "hub:some/plain", "")])
    environment = gone.environment(tmp_path / "cache")
    [cached, unreached], more = answers(VISITOR, environment, question, str(tmp_path / "downloads"))
    assert cached == 32 and "cannot be reached (ConnectError); check the network" in unreached
    assert not [name for name, token in TOKENS.items() if token and token in said + more], "it was printed"


@pytest.fixture(scope="module")
def series(stocked: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The notebooks on a model and a data set of the Hub, published under a name of the owner's."""
    folder = tmp_path_factory.mktemp("series")
    settings = {"MM_BASE_MODEL": SIGLIP, "MM_DATA": "hub:flickr8k?licence=as told",
                "MM_DOWNLOADS": str(folder / "downloads"), "MM_PUSH_AS": IDS["retriever"]}  # fmt: skip
    environment = stocked.environment(folder / "cache", stocked.token)
    done = run_smoke(folder, *SERIES, **environment, **settings)
    assert done.status == 0, done.said
    return done


@pytest.mark.slow
def test_the_notebooks_run_from_the_hub(series: Done, stocked: StandInHub) -> None:
    fetched = {path for _, path, status in stocked.requests if status in (200, 206)}
    assert any(SIGLIP in path for path in fetched) and any(FLICKR in path for path in fetched)
    collection = data.load(series.artifacts / "dataset")
    assert collection.licence == "as told"
    assert all(len(truth.queries) == 5 * len(truth.corpus) for truth in collection.truth.values())


@pytest.mark.slow
def test_all_of_it_arrives(series: Done, stocked: StandInHub) -> None:
    book = series.executed("07_real_models_and_publishing")
    said = "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", []))
    for part in ("retriever", "reranker", "data set"):
        assert re.search(rf"from the Hub, {part}: (first row )?identical", said), said
    for part, repo_id in {**IDS, "data": PUBLISHED}.items():
        kind = "dataset" if part == "data" else "model"
        assert stocked.about(kind, repo_id)["private"], "until its owner decides otherwise"
        there, here = stocked.files(repo_id, kind), series.artifacts / "published" / part
        names = {path.relative_to(there) for path in below(there)}
        assert names == {path.relative_to(here) for path in below(here)}
        assert all((there / name).read_bytes() == (here / name).read_bytes() for name in names)
        assert not [name for name in names if name.suffix in (".py", ".bin", ".pkl", ".pt")], "data, no code"
    for token in (stocked.token, stocked.other_token):
        assert token not in series.said
        for folder in (stocked.folder, series.artifacts, series.build):
            assert not [path for path in below(folder) if token.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "stage"), [("retriever", "hard-negatives"), ("reranker", "reranked")])
def test_a_card_carries_the_scoreboard(series: Done, stocked: StandInHub, part: str, stage: str) -> None:
    card = ModelCard.load(stocked.files(IDS[part]) / "README.md")
    rows = json.loads((series.artifacts / "scoreboard.json").read_text("utf-8"))
    mine = [r for r in rows if (r["stage"], r["split"], r["slice"]) == (stage, "test", "all")]
    mine = {row["metric"]: row["value"] for row in mine}
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == mine
    assert set(mine) == set(METRICS) and card.data.datasets == [PUBLISHED]
    assert (card.data.license, card.data.base_model) == ("other", SIGLIP)
    assert "as told" in card.text and "{{" not in card.text and "None" not in card.text


@pytest.mark.slow
def test_others_get_the_same_scores(series: Done, stocked: StandInHub, tmp_path: Path) -> None:
    from mmhelpers.models import encoders
    from mmhelpers.models.reranker import load_reranker

    test = data.load(series.artifacts / "dataset").truth["test"]
    texts, files = list(test.queries.values())[:3], list(test.corpus.values())[:4]
    environment = stocked.environment(tmp_path / "cache", stocked.token)
    question = json.dumps([texts, files, list(IDS.values())])
    [cosines, logits], _ = answers(OUTSIDER, environment, question)
    retriever = encoders.load(series.artifacts / "hard_negatives", device="cpu")
    assert cosines == retriever.similarity(retriever.encode(texts), retriever.encode(files)).tolist()
    reranker = load_reranker(series.artifacts / "reranker", device="cpu")
    pairs = [(text, file) for text in texts for file in files]
    assert logits == pytest.approx(reranker.predict(pairs).tolist(), abs=1e-6)
