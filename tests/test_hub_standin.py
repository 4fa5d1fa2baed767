"""Models and data sets by their ids on the Hub: the libraries' own requests, answered by a stand-in.

test_hub.py holds rows and columns; here are layouts, revisions, tokens, and a network that fails. One process
(`learner`) has the stand-in's address from its start, as a learner's has the Hub's, and runs what tests hand
over; another (`offline`) has its cache and no network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import config
from hub_server import StandInHub
from huggingface_hub import HfApi, constants
from standins import CLIP, SIGLIP, hub_clip, hub_siglip, pictures
from test_hub import a_repository, rows_of
from test_hub import pictures as encoded
from transformers import BertConfig, BertModel, BertTokenizer

from mmhelpers import data
from mmhelpers.course.profiles import PROFILES
from mmhelpers.data import hub as sources
from mmhelpers.models import encoders
from mmhelpers.models.reranker import build_reranker, load_reranker

SMOKE = PROFILES["smoke"]
FLICKR, PAGES = "jxie/flickr8k", "tomaarsen/llamaindex-vdr-en-train-preprocessed"
TEXTS = ["a red mug", "A red mug, with yellow stripes; and a leaf on it!", "zz " * 100]
TOKENS = {"owner": StandInHub.token, "other": StandInHub.other_token, "wrong": "hf_" + "wr0ng" * 6, "": ""}
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


class Process:
    """A Python process that had the environment from its beginning; all that it says is in `log`."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log, before = log, dict(os.environ)
        os.environ.update(environment)
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (str(log),))
        self.pool.submit(os.getpid).result()
        os.environ.clear()
        os.environ.update(before)

    def __call__(self, function: Callable, *args: Any, token: str = "") -> Any:
        """What a function of this file returns there, for somebody with one of TOKENS."""
        return self.pool.submit(_run, TOKENS[token], function, args).result()

    def error(self, function: Callable, *args: Any, token: str = "") -> str:
        """The error that it raises there, as "Type: message"."""
        return self(_error, function, args, token=token)


def _begin(log: str) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # else `datasets` waits five after several shards


def _run(token: str, function: Callable, args: tuple) -> Any:
    os.environ["HF_TOKEN"] = token
    result = function(*args)
    sys.stdout.flush()
    return result


def _error(function: Callable, args: tuple) -> str:
    try:
        function(*args)
    except Exception as error:
        traceback.print_exc()  # tokens are looked for in what a notebook would show as well
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it raised nothing")


# What the processes are asked to do.


def embed(name: str, files: list[str]) -> tuple[np.ndarray, np.ndarray]:
    model = encoders.load(name, device="cpu")
    return model.encode(TEXTS), model.encode(files)


def embed_after_small_pieces(name: str, files: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The library writes a download in pieces of 10 MB, of which our models are a fraction."""
    usual, constants.DOWNLOAD_CHUNK_SIZE = constants.DOWNLOAD_CHUNK_SIZE, 1 << 15
    try:
        return embed(name, files)
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = usual


def score(name: str, files: list[str]) -> np.ndarray:
    return load_reranker(name, device="cpu").predict([(text, file) for text in TEXTS for file in files])


def publish(name: str, folder: Path, files: list[str]) -> tuple[np.ndarray, ...]:
    """Save an encoder and a reranker, upload both; what they give before."""
    encoder = encoders.load(name, device="cpu")
    reranker = build_reranker(encoder)
    with torch.no_grad():
        reranker[0].fusion.correction[-1].weight.normal_(generator=torch.Generator().manual_seed(1))
    encoder.save_pretrained(str(folder / "encoder"))
    reranker.save_pretrained(str(folder / "reranker"))
    (folder / "reranker" / "extra.py").write_text("raise SystemExit('code from the Hub ran')")
    for part in ("encoder", "reranker"):
        HfApi().create_repo(f"owner/{folder.name}-{part}", private=True)
        HfApi().upload_folder(repo_id=f"owner/{folder.name}-{part}", folder_path=folder / part)
    return *embed(str(folder / "encoder"), files), score(str(folder / "reranker"), files)


def gather(source: str, cache: Path) -> Path:
    return sources.gather(*data.with_options(source), SMOKE, cache)


def queries_and_pictures(source: str, downloads: Path, folder: Path) -> tuple[int, int]:
    os.environ["MM_DOWNLOADS"] = str(downloads)
    collection = data.open_source(source, SMOKE, folder)
    return (
        sum(len(truth.queries) for truth in collection.truth.values()),
        sum(len(split) for split in collection.splits.values()),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in pictures(tmp_path_factory.mktemp("pictures"), 4, (150, 110))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Models as the Hub has them."""
    root = tmp_path_factory.mktemp("layouts")
    both = shutil.copytree(hub_clip(root / "pickle", weights="pickle"), root / "both")
    shutil.copy(hub_clip(root / "clip") / "model.safetensors", both)
    bert = root / "bert"
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=7, **small)).save_pretrained(bert)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "mug"]
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(bert)
    foreign = shutil.copytree(root / "clip", root / "foreign")
    config = json.loads((foreign / "config.json").read_text()) | {"model_type": "foreign"}
    (foreign / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}))
    (foreign / "evil.py").write_text("raise SystemExit('code from the Hub ran')")
    shards, siglip = hub_clip(root / "shards", weights="shards"), hub_siglip(root / "siglip")
    return SimpleNamespace(clip=root / "clip", pickle=root / "pickle", both=both, bert=bert, foreign=foreign,
                           shards=shards, siglip=siglip)  # fmt: skip


@pytest.fixture(scope="module")
def stocked(hub: StandInHub, folders: SimpleNamespace, tmp_path_factory) -> StandInHub:
    """The Hub with models and data sets."""
    hub.add(CLIP, folders.pickle)
    hub.add(CLIP, folders.both, revision="refs/pr/15")
    hub.add(SIGLIP, folders.siglip)
    hub.add("some/shards", folders.shards)
    hub.add("some/slow", folders.shards)
    hub.add("some/bert", folders.bert)
    hub.add("some/foreign", folders.foreign)
    for name in ("owner/private", "owner/hidden"):
        hub.add(name, folders.clip, private=True)
    for name in ("company/gated", "company/closed"):
        hub.add(name, folders.clip, gated=True)
    root = tmp_path_factory.mktemp("sets")
    captions = {f"caption_{c}": [f"picture {i} in words {c}" for i in range(60)] for c in range(5)}
    hub.add(FLICKR, a_repository(root / "a", {"image": encoded(60), **captions}, card="{}"), "dataset")
    pages = encoded(50)
    near = {f"negative_{k}": [pages[(i + k + 1) % 50] for i in range(50)] for k in range(4)}
    columns = {"query": [f"question on page {i}" for i in range(50)], "image": pages, **near}
    hub.add(PAGES, a_repository(root / "b", columns), "dataset")
    plain = a_repository(root / "c", {"image": encoded(4), "title": list("abcd")})
    hub.add("some/plain", plain, "dataset")
    hub.add("owner/private", plain, "dataset", private=True)
    hub.add("company/gated", plain, "dataset", gated=True)
    return hub


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def learner(stocked: StandInHub, cache: Path, tmp_path_factory) -> Iterator[Process]:
    process = Process(stocked.environment(cache), tmp_path_factory.mktemp("log") / "learner.txt")
    yield process
    process.pool.shutdown()
    said = process.log.read_text()
    assert not [name for name, token in TOKENS.items() if token and token in said], "a token was printed"


@pytest.fixture(scope="module")
def offline(stocked: StandInHub, cache: Path, tmp_path_factory) -> Iterator[Process]:
    """With the cache of `learner`, and nobody where the Hub was."""
    with StandInHub(tmp_path_factory.mktemp("nothing")) as gone:
        pass
    process = Process(gone.environment(cache), tmp_path_factory.mktemp("log") / "offline.txt")
    yield process
    process.pool.shutdown()


@pytest.mark.parametrize(
    ("name", "folder", "token"),
    [
        (f"{CLIP}@refs/pr/15", "clip", ""),
        (SIGLIP, "siglip", ""),
        ("some/shards", "shards", ""),
        ("owner/private", "clip", "owner"),
        ("company/gated", "clip", "owner"),
    ],
)
def test_a_model_by_its_id_is_that_of_its_folder(
    learner: Process, offline: Process, folders, files, name: str, folder: str, token: str
) -> None:
    """So it is without a network afterwards, a private one too."""
    expected = embed(str(getattr(folders, folder)), files)
    for found in (learner(embed, name, files, token=token), offline(embed, name, files)):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        ("nobody/nothing", "", f"no such model, or it is private.*{LOG_IN}"),
        ("nobody/nothing", "owner", "no such model, or it is private"),
        ("some/shards@nope", "", "no such revision; write owner/name@branch"),
        ("no id at//all", "", "no id such as owner/name"),
        ("owner/hidden", "", f"no such model, or it is private.*{LOG_IN}"),
        ("owner/hidden", "other", "no such model, or it is private"),
        ("owner/hidden", "wrong", f"refuses the token .*{LOG_IN}"),
        ("company/closed", "", f"is gated: ask for access on its page on the Hub, then {LOG_IN}"),
        ("company/closed", "other", "is gated: ask for access"),
        (CLIP, "", rf"without \*.safetensors.* then load {CLIP}@refs/pr/"),
        ("some/bert", "", f"BertModel is not a dual encoder.*for example {CLIP[:-2]}"),
        ("some/foreign", "", "code of its own, which is never run"),
    ],
)
def test_what_cannot_be_had_is_said_with_what_to_do(learner: Process, name, token, words) -> None:
    said = learner.error(encoders.load, name, token=token)
    assert re.fullmatch(f"EncoderError: {name}: .*{words}.*", said), said


def test_a_reranker_that_is_none(learner: Process) -> None:
    said = learner.error(load_reranker, "nobody/nothing")
    assert re.fullmatch("EncoderError: nobody/nothing: neither a folder nor a reranker.*no such.*", said), (
        said
    )
    said = learner.error(load_reranker, "some/shards")
    assert said.startswith("FileNotFoundError: ") and "no reranker was saved" in said


def test_too_many_requests(learner: Process, stocked: StandInHub, files) -> None:
    """The first question is answered with a sentence; a file is asked for again when the Hub says so."""
    stocked.limit(1)
    said = learner.error(encoders.load, "some/slow")
    assert re.fullmatch("EncoderError: some/slow: .*asks to slow down .status 429.; wait some.*", said), said
    stocked.limit(1, ending="-00002-of-00009.safetensors", retry_after=1)
    assert learner(embed, "some/slow", files) and not any(stocked.limits.values()), "it has happened"
    stocked.limit(1000)
    assert learner(embed, "some/slow", files), "what is in the cache does not need the Hub"
    stocked.limit(0)


def test_a_download_that_breaks_off_goes_on_where_it_was(
    learner: Process, stocked: StandInHub, folders, files
) -> None:
    stocked.add("some/large", folders.siglip)
    stocked.requests.clear()
    stocked.cut(2, ending="model.safetensors")
    found = learner(embed_after_small_pieces, "some/large", files)
    asked = [range_ for method, path, _, range_ in stocked.requests if method == "GET" and "/cdn/" in path]
    assert asked[0] == "" and len(asked) == 3
    first, second = (int(re.fullmatch(r"bytes=(\d+)-", range_)[1]) for range_ in asked[1:])
    assert 0 < first < second
    for one, other in zip(found, embed(str(folders.siglip), files), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_published_models_come_back_as_they_were(
    learner: Process, offline: Process, stocked: StandInHub, files, tmp_path: Path
) -> None:
    for kind, name in (("clip", f"{CLIP}@refs/pr/15"), ("siglip", SIGLIP)):
        folder = tmp_path / kind
        *embeddings, scores = learner(publish, name, folder, files, token="owner")
        uploaded = stocked.files(f"owner/{kind}-reranker")
        for path in (folder / "reranker").rglob("*"):
            if path.is_file():
                assert (uploaded / path.relative_to(folder / "reranker")).read_bytes() == path.read_bytes()
        shutil.rmtree(folder)
        found = learner(embed, f"owner/{kind}-encoder", files, token="owner")
        for one, other in zip(found, embeddings, strict=True):
            np.testing.assert_array_equal(one, other)
        assert np.ptp(scores) > 0.1
        pinned = f"owner/{kind}-reranker@{uploaded.name}"
        np.testing.assert_array_equal(learner(score, pinned, files, token="owner"), scores)
        np.testing.assert_array_equal(learner(score, pinned.split("@")[0], files, token="owner"), scores)
        np.testing.assert_array_equal(offline(score, f"owner/{kind}-reranker", files), scores)


def test_flickr8k_and_pages_with_near_misses(
    learner: Process, offline: Process, stocked, tmp_path: Path
) -> None:
    downloads, source = tmp_path / "downloads", "hub:flickr8k?licence=as told"
    assert learner(queries_and_pictures, source, downloads, tmp_path / "a") == (300, 60)
    assert offline(queries_and_pictures, source, downloads, tmp_path / "b") == (300, 60)
    rows = rows_of(learner(gather, "hub:documents", tmp_path))
    assert len(rows) == 50 and all(len(row["negatives"]) == 4 for row in rows)
    assert {row["source_commit"] for row in rows} == {stocked.files(PAGES, "dataset").name}


def test_a_private_and_a_gated_data_set(learner: Process, tmp_path: Path) -> None:
    for name in ("owner/private", "company/gated"):
        source = f"hub:{name}?text=title"
        assert len(rows_of(learner(gather, source, tmp_path / "owner", token="owner"))) == 4
    for name, token, words in (
        ("owner/private", "", f"no such data set, or it is private.*{LOG_IN}"),
        ("owner/private", "other", "no such data set, or it is private"),
        ("owner/private", "wrong", f"refuses the token.*{LOG_IN}"),
        ("company/gated", "", f"it is gated: ask for access.*{LOG_IN}"),
        ("company/gated", "other", "it is gated: ask for access"),
    ):
        said = learner.error(gather, f"hub:{name}?text=title", tmp_path / "no", token=token)
        assert re.search(f"(?s)^DataError: .*{name}.*{words}", said), said


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hub:nobody/nothing", "no such data set"),
        ("hub:some/plain@nope", "no such revision"),
        ("hub:flickr8k", "states no licence; ask its authors"),
        (
            "hub:some/plain?text=titel",
            r"has no column 'titel'.*its columns are image \(Image\), title \(string\)",
        ),
        ("hub:some/plain?text=title&split=test", "has no split 'test'; there are train"),
    ],
)
def test_data_sets_that_cannot_be_had(learner: Process, source: str, words: str, tmp_path: Path) -> None:
    said = learner.error(gather, source, tmp_path)
    assert re.search(f"(?s)^DataError: .*{words}", said), said
    assert not list(tmp_path.glob("[!.]*"))


def test_a_data_set_over_a_bad_line(learner: Process, offline: Process, stocked, tmp_path: Path) -> None:
    stocked.limit(1)
    said = learner.error(gather, "hub:some/plain?text=title", tmp_path)
    assert "DataError" in said and "asks to slow down (status 429)" in said
    stocked.limit(1, ending=".parquet", retry_after=1)
    stocked.cut(2, ending=".parquet")
    assert len(rows_of(learner(gather, "hub:some/plain?text=title", tmp_path))) == 4
    assert not any(stocked.limits.values()) and not any(stocked.cuts.values()), "both have happened"
    said = offline.error(gather, "hub:some/plain?text=title", tmp_path / "new")
    assert "DataError" in said and "cannot be reached (ConnectError); check the network" in said
    said = offline.error(encoders.load, "some/never")
    assert "EncoderError" in said and "cannot be reached (ConnectError); check the network" in said


@pytest.mark.parametrize(
    ("model", "source", "only"),
    [
        (f"{CLIP}@refs/pr/15", "hub:flickr8k?licence=as told", ("01", "02", "03", "04", "05", "07")),
        (SIGLIP, "catalogue", ("02", "03", "04")),
    ],
)
def test_the_notebooks_run_from_the_hub_and_without_it(
    stocked: StandInHub, model: str, source: str, only: tuple[str, ...], tmp_path: Path
) -> None:
    """As on a GPU, where the base model is one of the Hub: from an empty cache, and then from that."""
    import test_notebooks  # not above: it takes conftest along, which takes the Hub from our processes

    settings = {"MM_BASE_MODEL": model, "MM_DATA": source, "MM_DOWNLOADS": str(tmp_path / "downloads")}
    environment = stocked.environment(tmp_path / "cache")
    stocked.requests.clear()
    done = test_notebooks.run_smoke(tmp_path / "online", *only, **environment, **settings)
    assert done.status == 0, done.said
    asked = {path for _, path, status, _ in stocked.requests if status == 200}
    assert any(model.partition("@")[0] in path for path in asked)
    assert any(FLICKR in path for path in asked) or source == "catalogue"
    for name in test_notebooks.COURSE:
        if name[:2] in only:
            test_notebooks.test_every_cell_ran(done, name)
            test_notebooks.test_stubs_are_open_and_solutions_are_right(done, name)
    if "05" in only:
        test_notebooks.test_the_scoreboard_is_complete(done)
    stocked.requests.clear()
    offline = environment | settings | {"HF_HUB_OFFLINE": "1"}
    done = test_notebooks.run_smoke(tmp_path / "offline", "01", **offline)
    assert done.status == 0, done.said
    assert stocked.requests == []
