"""Hosted models: the adapters of notebook 05, as they stand there, against a server that speaks the formats
which the providers document, and is as strict about them as it can be."""

from __future__ import annotations

import ast
import base64
import contextlib
import email.parser
import email.policy
import io
import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import NormalDist
from types import ModuleType, SimpleNamespace
from typing import Any

import datasets
import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from standins import tiny_clip
from transformers import CONFIG_MAPPING

from mmhelpers import data, evaluation, hosted_embeddings
from mmhelpers.hosted_embeddings import HostedError, HostedModel, jpeg
from mmhelpers.models import encoders

ROOT = Path(__file__).resolve().parents[1]
BOOK = nbformat.read(ROOT / "notebooks" / "05_evaluation_and_visualisation.ipynb", as_version=4)
KEY = "key-that-nobody-may-see"
VARIABLES = {
    "jina": "JINA_API_KEY", "voyage": "VOYAGE_API_KEY", "cohere": "COHERE_API_KEY", "nomic": "NOMIC_API_KEY"
}  # fmt: skip
COLOURS = {
    "red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "yellow": (230, 220, 20),
    "purple": (150, 20, 150), "cyan": (20, 210, 210), "white": (250, 250, 250), "orange": (240, 130, 10),
}  # fmt: skip

every_provider = pytest.mark.parametrize("name", VARIABLES)


# The stand-in. Its models know colours: the vector of a text is the colour it names, of a picture its mean.


class Refused(Exception):
    """A request that the real service would refuse; (status, what is wrong)."""


def check(right: bool, status: int, what: str) -> None:
    if not right:
        raise Refused(status, what)


def of_text(text: str) -> list[float]:
    check(isinstance(text, str) and text != "", 422, f"not a text: {text!r}")
    named = [word for word in COLOURS if word in text]
    return [float(part) for part in (COLOURS[named[0]] if named else (1, 2, 3))]


def of_picture(content: bytes) -> list[float]:
    with Image.open(io.BytesIO(content)) as picture:
        check(picture.format == "JPEG" and picture.mode == "RGB", 422, "not a JPEG in RGB")
        return np.asarray(picture).mean(axis=(0, 1)).tolist()


def of_data_url(url: str) -> list[float]:
    start = "data:image/jpeg;base64,"
    check(url.startswith(start), 400, f"not a data URL: {url[:40]}")
    return of_picture(base64.b64decode(url[len(start) :], validate=True))


def only(body: dict, *required: str, optional: tuple[str, ...] = ()) -> None:
    check(set(required) <= set(body) <= {*required, *optional}, 422, f"fields {sorted(body)}")


def jina(body: dict) -> dict:
    only(body, "model", "input", optional=("dimensions", "normalized", "embedding_type", "task"))
    check(body["model"] == "jina-clip-v2", 400, f"Model '{body['model']}' not found")
    vectors = []
    for item in body["input"]:
        check(set(item) in ({"text"}, {"image"}), 422, f"input {sorted(item)}")
        picture = base64.b64decode(item["image"], validate=True) if "image" in item else None
        vectors.append(of_picture(picture) if picture else of_text(item["text"]))
    rows = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    usage = {"total_tokens": 4 * len(rows), "prompt_tokens": 4 * len(rows)}
    return {"model": body["model"], "object": "list", "usage": usage, "data": rows[::-1]}


def parts(body: dict, picture: str) -> Iterator[dict]:
    """Of each input its one part: a text, or a picture under this name."""
    for item in body["inputs"]:
        only(item, "content")
        [part] = item["content"]
        only(part, "type", part["type"])
        check(part["type"] in ("text", picture), 400, f"type {part['type']}")
        yield part


def voyage(body: dict) -> dict:
    only(body, "model", "inputs", optional=("input_type", "truncation", "output_encoding"))
    check(body["model"].startswith("voyage-multimodal-3"), 400, "Model is not supported")
    check(body.get("input_type") in (None, "query", "document"), 400, "input_type")
    check(0 < len(body["inputs"]) <= 1000, 400, "Batch size")
    vectors = []
    for part in parts(body, "image_base64"):
        vectors.append(of_text(part["text"]) if "text" in part else of_data_url(part["image_base64"]))
    rows = [{"object": "embedding", "embedding": v, "index": i} for i, v in enumerate(vectors)]
    usage = {"text_tokens": 4, "image_pixels": 0, "total_tokens": 4}
    return {"object": "list", "data": rows[::-1], "model": body["model"], "usage": usage}


def cohere(body: dict) -> dict:
    only(body, "model", "input_type", "inputs", "embedding_types", optional=("output_dimension", "truncate"))
    check(body["model"] == "embed-v4.0", 404, f"model '{body['model']}' not found")
    check(body["input_type"] in ("search_document", "search_query"), 400, "input_type")
    check(0 < len(body["inputs"]) <= 96, 400, "at most 96 inputs")
    vectors = []
    for part in parts(body, "image_url"):
        if part["type"] == "image_url":
            only(part["image_url"], "url")
        vectors.append(of_text(part["text"]) if "text" in part else of_data_url(part["image_url"]["url"]))
    wanted = {kind: vectors for kind in body["embedding_types"] if kind == "float"}
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 4}}
    kind = "embeddings_by_type"
    return {"id": "0", "embeddings": wanted, "texts": [], "meta": meta, "response_type": kind}


def nomic_text(body: dict) -> dict:
    only(body, "model", "texts", "task_type", optional=("long_text_mode", "dimensionality"))
    check(body["model"] == "nomic-embed-text-v1.5", 422, "model")
    check(body["task_type"] in ("search_query", "search_document"), 422, "task_type")
    vectors = [of_text(text) for text in body["texts"]]
    return {"embeddings": vectors, "usage": {"prompt_tokens": 4, "total_tokens": 4}, "model": body["model"]}


def nomic_image(form: list[tuple[str, bytes]]) -> dict:
    pictures = [content for field_name, content in form if field_name == "images"]
    check([c for n, c in form if n != "images"] == [b"nomic-embed-vision-v1.5"], 422, "model")
    vectors = [of_picture(picture) for picture in pictures]
    return {"embeddings": vectors, "usage": {"prompt_tokens": 0, "total_tokens": 0}, "model": "vision"}


ROUTES = {
    "/jina/v1/embeddings": jina,
    "/voyage/v1/multimodalembeddings": voyage,
    "/cohere/v2/embed": cohere,
    "/nomic/v1/embedding/text": nomic_text,
    "/nomic/v1/embedding/image": nomic_image,
}


def form_of(content_type: str, raw: bytes) -> list[tuple[str, bytes]]:
    """(name, content) of each part of a multipart form."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
    names = [part.get_param("name", header="Content-Disposition") for part in message.iter_parts()]
    return list(zip(names, (part.get_payload(decode=True) for part in message.iter_parts()), strict=True))


@dataclass
class Answer:
    """What the server says instead of its own answer."""

    status: int = 200
    body: str | Callable[[dict], Any] = "{}"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    hangs_up: bool = False


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, raw))
        say = self.server.script.pop(0) if self.server.script else Answer(body=lambda answer: answer)
        time.sleep(say.seconds)
        if say.hangs_up:
            return
        status, body = say.status, say.body
        if callable(body):
            status, body = self.answer(raw, body)
        self.send_response(status)
        for name, value in {**say.headers, "Content-Length": str(len(body.encode()))}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # nobody waits any longer
            self.wfile.write(body.encode())

    def answer(self, raw: bytes, change: Callable[[dict], Any]) -> tuple[int, str]:
        kind = self.headers.get("Content-Type", "")
        try:
            check(self.command == "POST", 405, self.command)
            check(self.path in ROUTES, 404, self.path)
            given = self.headers.get("Authorization", "")
            check(given == f"Bearer {KEY}", 401, f"invalid credentials: {given}")  # some services do echo it
            files = self.path == "/nomic/v1/embedding/image"
            check(kind.startswith("multipart/form-data") if files else kind == "application/json", 415, kind)
            body = form_of(kind, raw) if files else json.loads(raw)
            return 200, json.dumps(change(ROUTES[self.path](body)))
        except Refused as refused:
            return refused.args[0], json.dumps({"detail": refused.args[1]})

    def log_message(self, *_: Any) -> None:
        pass


class Service(ThreadingHTTPServer):
    """All four providers, each under a path of its own; `script` is what it says first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, bytes]] = []
        self.script: list[Answer] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def bodies(self) -> list[Any]:
        return [json.loads(raw) for _, _, raw in self.seen]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Service() as made:
        yield made
        made.shutdown()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a retry would have waited, without waiting."""
    made: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=made.append, time=time.time))
    return made


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("colours")
    for name, rgb in COLOURS.items():
        Image.new("RGB", (40, 30), rgb).save(folder / f"{name}.png")
    return {name: str(folder / f"{name}.png") for name in COLOURS}


# The notebook's own code.


def sources(*tags: str) -> list[str]:
    return [cell.source for cell in BOOK.cells if set(tags) & set(cell.metadata.get("tags", []))]


def adapters(url: str) -> dict[str, Any]:
    """The notebook's adapters and `connect`, with other addresses than the real ones."""
    space: dict[str, Any] = {"hosted": hosted}
    for source in sources("hosted-adapter"):
        exec(source, space)
    assert set(space["ENDPOINTS"]) == set(space["PROVIDERS"]) == set(VARIABLES)
    assert all(address.startswith("https://") for address in space["ENDPOINTS"].values())
    space["ENDPOINTS"] = {name: f"{url}/{name}" for name in VARIABLES}
    return space


@pytest.fixture
def connect(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], HostedModel | None]:
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, KEY)
    return adapters(service.url)["connect"]


@every_provider
def test_texts_and_pictures_come_back_in_order(name: str, connect, service: Service, paths) -> None:
    model = connect(name)
    texts = [f"a {word} mug" for word in COLOURS] * 6  # 48: two requests
    found = model.encode_query(texts, batch_size=64)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [COLOURS[text.split()[1]] for text in texts])
    pictures = model.encode_document(list(paths.values()), batch_size=3, convert_to_tensor=True)
    np.testing.assert_allclose(pictures.numpy(), list(COLOURS.values()), atol=2)  # JPEG
    assert [command for command, _, _ in service.seen] == ["POST"] * 5
    assert model.encode("blue sky").tolist() == list(COLOURS["blue"]), "a single text, a single vector"


@pytest.mark.parametrize(
    ("name", "field_name", "roles"),
    [
        ("voyage", "input_type", ["query", "document"]),
        ("cohere", "input_type", ["search_query", "search_document"]),
        ("nomic", "task_type", ["search_query", "search_document"]),
    ],
)
def test_the_role_is_told(name: str, field_name: str, roles: list[str], connect, service: Service) -> None:
    model = connect(name)
    model.encode_query(["red"])
    model.encode_document(["red"])
    assert [body[field_name] for body in service.bodies()] == roles


def test_pictures_travel_as_small_jpegs_without_transparency(tmp_path: Path) -> None:
    Image.new("RGBA", (1500, 700), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    with Image.open(io.BytesIO(jpeg(tmp_path / "clear.png"))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (512, 239))
        assert picture.getpixel((9, 9)) == (255, 255, 255)


@every_provider
def test_a_busy_provider_is_asked_again_after_the_time_it_names(name, connect, service, waits) -> None:
    service.script = [Answer(429, '{"detail": "slow down"}', {"Retry-After": "7"}), Answer(503)]
    assert connect(name).encode(["red"]).tolist() == [list(COLOURS["red"])]
    assert len(service.seen) == 3 and len(set(service.seen)) == 1, "the same request each time"
    assert waits == [7, 2], "what it said, then the usual pause"


def test_nobody_is_waited_for_all_day(connect, service, waits) -> None:
    service.script = [Answer(429, "quota", {"Retry-After": "3600"})]
    with pytest.raises(HostedError, match="jina: HTTP 429, too many requests, try again in 3600 s: quota"):
        connect("jina").encode(["red"])
    assert len(service.seen) == 1 and waits == []


@every_provider
def test_trouble_at_their_end_is_tried_five_times_with_growing_pauses(name, connect, service, waits) -> None:
    service.script = [Answer(500, "oh dear")] * 9
    with pytest.raises(HostedError, match=f"{name}: HTTP 500, Internal Server Error: oh dear"):
        connect(name).encode(["red"])
    assert len(service.seen) == 5 and waits == [2, 4, 8]


@every_provider
def test_a_wrong_key_is_named_and_not_shown(name, connect, service, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLES[name], wrong := "wrong-key-1234")
    with pytest.raises(HostedError, match=f"{name}: HTTP 401, key not accepted") as caught:
        connect(name).encode(["red"])
    assert "invalid credentials: Bearer <key>" in str(caught.value) and wrong not in str(caught.value)
    assert len(service.seen) == 1, "a refusal is final"
    assert wrong not in repr(connect(name))


@pytest.mark.parametrize(
    ("name", "status"), [("jina", 400), ("voyage", 400), ("cohere", 404), ("nomic", 422)]
)
def test_what_the_provider_says_reaches_the_reader(name, status, connect, service, monkeypatch) -> None:
    model = connect(name)
    write = model._request

    def old_model(items: list, role: str) -> tuple[str, dict]:
        path, request = write(items, role)
        return path, {"json": request["json"] | {"model": "last-years"}}

    monkeypatch.setattr(model, "_request", old_model)
    with pytest.raises(HostedError, match=rf"{name}: HTTP {status}, .*[mM]odel"):
        model.encode(["red"])


@every_provider
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<html>maintenance</html>", "an answer of unknown form .*maintenance"),
        ('{"data": [', "an answer of unknown form"),
        ('{"data": [{"index": 0}], "embeddings": "none"}', "an answer of unknown form"),
        ('{"data": [], "embeddings": {"float": []}}', "(an answer of unknown form|vectors of shape)"),
        ('{"message": "soon"}', "an answer of unknown form .*soon"),
        ("null", "an answer of unknown form"),
    ],
)
def test_nonsense_is_an_error_and_no_vector(name, body, message, connect, service) -> None:
    service.script = [Answer(200, body)]
    with pytest.raises(HostedError, match=f"{name}: {message}"):
        connect(name).encode(["red", "blue"])


@every_provider
def test_too_few_vectors_are_an_error(name, connect, service) -> None:
    def fewer(answer: dict) -> dict:
        rows = answer["data"] if "data" in answer else answer["embeddings"]
        (rows["float"] if isinstance(rows, dict) else rows).pop()
        return answer

    service.script = [Answer(body=fewer)]
    with pytest.raises(HostedError, match=rf"{name}: vectors of shape \(2, 3\) for 3 items"):
        connect(name).encode(["red", "blue", "green"])


def test_a_lost_connection_is_tried_again_and_a_dead_one_named(connect, service, waits, monkeypatch) -> None:
    service.script = [Answer(hangs_up=True)]
    assert connect("cohere").encode(["red"]).shape == (1, 3)
    assert len(service.seen) == 2
    monkeypatch.setattr(hosted_embeddings, "TIMEOUT", (0.2, 0.2))
    service.script = [Answer(seconds=0.6)] * 9
    with pytest.raises(HostedError, match="cohere: no answer from .*[tT]imed? ?out"):
        connect("cohere").encode(["red"])
    assert len(service.seen) == 7
    nobody = adapters("http://127.0.0.1:9")["connect"]("voyage")
    with pytest.raises(HostedError, match="voyage: no answer from http://127.0.0.1:9/voyage") as caught:
        nobody.encode(["red"])
    assert KEY not in str(caught.value)


def test_a_redirection_is_not_followed(connect, service) -> None:
    service.script = [Answer(302, "moved", {"Location": f"{service.url}/elsewhere"})]
    with pytest.raises(HostedError, match="nomic: HTTP 302"):
        connect("nomic").encode(["red"])
    assert len(service.seen) == 1


def test_texts_and_pictures_are_not_mixed_and_a_misspelt_path_is_not_sent(connect, service, paths) -> None:
    with pytest.raises(ValueError, match="a path that names no file"):
        connect("jina").encode([paths["red"], paths["blue"] + "x"])
    assert service.seen == []


def test_keys_come_from_the_environment_or_the_hosts_secrets(service, monkeypatch) -> None:
    connect = adapters(service.url)["connect"]
    assert [connect(name) for name in VARIABLES] == [None] * 4
    monkeypatch.setenv("CO_API_KEY", f" {KEY}\n")  # as it is pasted
    assert connect("cohere").encode(["red"]).shape == (1, 3)
    for broken in ("two words", "line\nbreak", "kéy"):
        monkeypatch.setenv("CO_API_KEY", broken)
        with pytest.raises(HostedError, match="characters that no key has") as caught:
            connect("cohere")
        assert broken not in str(caught.value)

    def get(name: str) -> str:
        if name != "JINA_API_KEY":
            raise LookupError(name)
        return KEY

    for module in ("google", "google.colab", "google.colab.userdata"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    sys.modules["google.colab.userdata"].get = get
    assert connect("jina").encode(["red"]).shape == (1, 3) and connect("nomic") is None
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setitem(sys.modules, "kaggle_secrets", kaggle := ModuleType("kaggle_secrets"))
    kaggle.UserSecretsClient = lambda: SimpleNamespace(get_secret=get)
    assert connect("jina").encode(["red"]).shape == (1, 3) and connect("nomic") is None


# The section as a whole.


def run_cell(source: str, space: dict[str, Any]) -> Any:
    """Run a cell as a notebook does; its last value."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), space)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), space) if last else None


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"), size=32)


@pytest.fixture
def section(clip: Path, paths: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Run the section over a collection of coloured pictures; the variables it leaves, with "table"."""
    queries = {f"q{n}": f"something {word}, number {n}" for n, word in enumerate(list(COLOURS) * 8)}
    qrels = {query: {text.split()[1].strip(","): 1} for query, text in queries.items()}
    test = data.Retrieval(queries, paths, qrels, {})
    pictures = datasets.Dataset.from_dict({"image": list(paths.values())})
    pictures = pictures.cast_column("image", datasets.Image())
    helpers = [node for cell in BOOK.cells if cell.cell_type == "code" for node in _functions(cell.source)]
    rng = np.random.default_rng(0)

    def run(url: str) -> dict[str, Any]:
        space: dict[str, Any] = {
            "profile": SimpleNamespace(seed=0, base_model=str(clip), device="cpu"),
            "retriever": encoders.load(clip, device="cpu"), "test": test, "n_queries": len(queries),
            "collection": SimpleNamespace(splits={"test": pictures}), "ws": SimpleNamespace(root=tmp_path),
            "values": {stage: rng.random(64) for stage in ("zero-shot", "hard-negatives")},
            "z": NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8),
            "data": data, "encoders": encoders, "evaluation": evaluation, "hosted": hosted, "np": np,
            "pd": pd, "plt": plt, "plots": plots, "random": random,
        }  # fmt: skip
        exec(compile(ast.Module(helpers, []), "<helpers>", "exec"), space)
        for source in sources("hosted", "hosted-adapter"):
            value = run_cell(source, space)
            if "ENDPOINTS = {" in source:
                space["ENDPOINTS"] = {name: f"{url}/{name}" for name in VARIABLES}
            space["table"] = value if isinstance(value, pd.DataFrame) else space.get("table")
        return space

    before = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield run
    plt.close("all")
    plt.switch_backend(before)


def _functions(source: str) -> list[ast.FunctionDef]:
    """What the section takes from the cells before it."""
    found = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return [node for node in found if node.name in ("tidy", "verdict")]


def test_without_keys_the_section_says_what_it_would_cost(section, service, capsys) -> None:
    space = section(service.url)
    said = capsys.readouterr().out
    assert service.seen == []
    for name, variable in VARIABLES.items():
        line = next(line for line in said.splitlines() if line.startswith(name))
        assert f"not asked: no {variable}. With a key: 3 requests for 50 queries and 8 pictures," in line
    assert list(space["table"].index) == ["zero-shot", "hard-negatives"]
    assert "No hosted model was asked" in said


def test_with_keys_the_section_compares_and_leaves_out_who_fails(
    section, service, monkeypatch, capsys, waits
) -> None:
    for name, variable in VARIABLES.items():
        monkeypatch.setenv(variable, KEY if name != "voyage" else "wrong-key-1234")
    service.script = [Answer(429, "slow down", {"Retry-After": "5"})]
    space = section(service.url)
    said = capsys.readouterr().out
    assert list(space["table"].index) == ["zero-shot", "hard-negatives", "jina", "cohere", "nomic"]
    assert waits == [5]
    for name in ("jina", "cohere", "nomic"):  # the stand-in finds every colour
        assert space["table"].loc[name, "nDCG@10"] == "1.00 (1.00 to 1.00)"
        gain = 1 - space["intervals"]["hard-negatives"][0]
        assert space["table"].loc[name, "minus hard-negatives"].startswith(f"{gain:+.2f} (")
        assert f"{name:7} answered 3 requests for 50 queries and 8 pictures, 0.0 MB." in said
        assert f"{name} against your last retriever: better" in said
    assert space["table"].loc["hard-negatives", "minus hard-negatives"] == ""
    assert "voyage  left out. voyage: HTTP 401, key not accepted" in said
    assert len(service.seen) == 3 * 3 + 1 + 1, "as many as announced, the second try and the refusal"
    assert KEY not in said and "wrong-key-1234" not in said
    assert space["axes"].get_title(loc="left") == "Best on the sample: jina"


def test_open_weights_that_need_their_own_code_are_refused(clip: Path, tmp_path: Path) -> None:
    """What the notebook says of Jina CLIP and Nomic, in folders that are laid out as their repositories."""
    assert "nomic_bert" in CONFIG_MAPPING and "jina_clip" not in CONFIG_MAPPING
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    configs = {
        "jina-clip-v2": {"model_type": "jina_clip", "auto_map": {
            "AutoConfig": "jinaai/jina-clip-implementation--configuration_clip.JinaCLIPConfig",
            "AutoModel": "jinaai/jina-clip-implementation--modeling_clip.JinaCLIPModel"}},
        "nomic-embed-vision-v1.5": {"model_type": "nomic_bert", "n_inner": 2048.0, **small, "auto_map": {
            "AutoConfig": "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig",
            "AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicVisionModel"}},
    }  # fmt: skip
    reasons = {"jina-clip-v2": "code of its own, which is never run", "nomic-embed-vision-v1.5": "not a dual"}
    for name, config in configs.items():
        shutil.copytree(clip, tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        with pytest.raises(encoders.EncoderError, match=reasons[name]):
            encoders.load(tmp_path / name, device="cpu")
