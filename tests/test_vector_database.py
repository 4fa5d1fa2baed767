"""Notebook 08's vector database by URL: its cells, as they stand there, against a server with Qdrant's REST.

The server is a stand-in: it reads each request with the client's own models, which refuse what Qdrant's
specification does not know, and answers from a local collection.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from qdrant_client import QdrantClient, models

from mmhelpers.course import publish

VERSION = metadata.version("qdrant-client")  # client and server should be alike
NOTEBOOK = ROOT / "notebooks" / "08_efficient_serving.ipynb"


class Database(ThreadingHTTPServer):
    """Qdrant's REST interface, as far as the course uses it; `asked` holds the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.shelves, self.asked = QdrantClient(":memory:"), list[str]()
        self.lock = threading.Lock()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """The `result` of a request; KeyError for one that the specification does not have."""
        if not (found := re.fullmatch(r"/collections/([\w-]+)(/.*)?", path)):
            raise KeyError(path)
        name, rest = found[1], found[2] or ""
        match method, rest:
            case "GET", "/exists":
                return {"exists": self.shelves.collection_exists(name)}
            case "DELETE", "":
                return self.shelves.delete_collection(name)
            case "PUT", "":
                wanted = models.CreateCollection.model_validate(body)
                return self.shelves.create_collection(name, vectors_config=wanted.vectors)
            case "PUT", "/points":
                points = models.PointsList.model_validate(body).points
                return self.shelves.upsert(name, points).model_dump(mode="json")
            case "POST", "/points/count":
                exact = models.CountRequest.model_validate(body).exact
                return self.shelves.count(name, exact=exact).model_dump(mode="json")
            case "POST", "/points/query":
                asked = models.QueryRequest.model_validate(body)
                options = {"limit": asked.limit, "query_filter": asked.filter}
                return self.shelves.query_points(name, query=asked.query, **options).model_dump(mode="json")
        raise KeyError(f"{method} {path}")


class Handler(BaseHTTPRequestHandler):
    server: Database

    def serve(self) -> None:
        path = urlsplit(self.path).path
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        with self.server.lock:
            self.server.asked.append(f"{self.command} {path}")
            try:
                if path == "/":  # the client asks for the server's version
                    status, answer = 200, {"title": "qdrant - vector search engine", "version": VERSION}
                else:
                    result = self.server.answer(self.command, path, body)
                    status, answer = 200, {"result": result, "status": "ok", "time": 0.0}
            except KeyError as error:
                status, answer = 404, {"status": {"error": f"Not found: {error}"}, "time": 0.0}
        found = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    do_GET = do_PUT = do_POST = do_DELETE = serve

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def database() -> Iterator[Database]:
    with Database() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def section(space: dict[str, Any]) -> str:
    """Run the cells from the one with QDRANT_URL to the one that closes the client; what they print."""
    sources = [cell.source for cell in publish.code_cells(nbformat.read(NOTEBOOK, as_version=4))]
    first = next(n for n, source in enumerate(sources) if "QDRANT_URL" in source)
    last = next(n for n, source in enumerate(sources) if "client.close()" in source)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec("\n\n".join(sources[first : last + 1]), space)
    return said.getvalue()


def names() -> dict[str, Any]:
    """What the notebook has made before these cells: vectors, captions, exact search."""
    rng = np.random.default_rng(0)
    texts, pictures = (rng.standard_normal((n, 16)).astype(np.float32) for n in (12, 150))

    def cut(rows: np.ndarray, dims: int) -> np.ndarray:
        return rows[:, :dims] / np.linalg.norm(rows[:, :dims], axis=1, keepdims=True)

    def exact(asked: np.ndarray, rows: np.ndarray, k: int = 10) -> np.ndarray:
        return np.argsort(-(asked @ rows.T), axis=1, kind="stable")[:, :k]

    split = {"text": ["x" * (40 + n % 40) for n in range(150)], "image_id": [f"p{n}" for n in range(150)]}
    return {
        "os": os, "np": np, "AT": 8, "cut": cut, "exact": exact, "asked": cut(texts, 8),
        "vectors": {"test": (texts, pictures)},
        "collection": SimpleNamespace(has_specs=False, splits={"test": split}),
    }  # fmt: skip


def test_the_cells_do_the_same_by_url(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QDRANT_URL", raising=False)
    local = section(names())
    assert not database.asked and "local mode" in local
    assert "12 of 12 queries" in local and "12 of 12: the same among" in local and "refused:" in local

    monkeypatch.setenv("QDRANT_URL", database.address)
    for _ in range(2):  # a second run finds the first one's collection, and begins anew
        assert section(names()).splitlines()[1:] == local.splitlines()[1:]
    assert database.asked.count("PUT /collections/course-pictures") == 2
    assert database.asked.count("DELETE /collections/course-pictures") == 1
    assert database.asked.count("POST /collections/course-pictures/points/query") == 2 * 2 * 12
