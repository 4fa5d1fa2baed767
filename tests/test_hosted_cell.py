"""Notebook 05's request to a hosted model, against a local stand-in that speaks the documented form."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "05_evaluation_and_visualisation.ipynb"
KEY = "a-secret-key"
COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


@pytest.fixture(scope="module")
def cell():
    """The names that the cell with the tag "hosted-request" defines."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    [found] = [cell for cell in cells if "hosted-request" in cell.metadata.get("tags", [])]
    names = {"io": io, "Image": Image, "np": np}  # imported by earlier cells
    exec(found.source, names)
    return names


@pytest.fixture
def service():
    """A stand-in of the provider: its address, the requests it got, and what it answers instead, if set."""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append((self.headers["Authorization"], body))
            rows = [embedded(index, item) for index, item in enumerate(body["input"])]
            status, answer = server.failure or (200, {"data": rows[::-1]})
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args) -> None:
            pass

    def embedded(index: int, item: dict[str, str]) -> dict:
        """Texts and pictures are colours: the one that is named, or the mean of the pixels."""
        if "text" in item:
            return {"index": index, "embedding": COLOURS[item["text"]]}
        with Image.open(io.BytesIO(base64.b64decode(item["image"], validate=True))) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= 512
            return {"index": index, "embedding": np.asarray(picture).mean(axis=(0, 1)).tolist()}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.requests, server.failure = [], None
    server.url = f"http://127.0.0.1:{server.server_port}/v1/embeddings"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_texts_and_pictures_get_vectors_in_their_order(cell, service, tmp_path):
    names = [*COLOURS] * 15  # more than one request holds
    for name, colour in COLOURS.items():
        Image.new("RGBA", (700, 400), colour).save(tmp_path / f"{name}.png")
    texts = cell["hosted_vectors"](names, KEY, service.url)
    pictures = cell["hosted_vectors"]([tmp_path / f"{name}.png" for name in names], KEY, service.url)
    assert texts.shape == (len(names), 3) and texts.dtype == np.float32
    assert np.allclose(np.linalg.norm(pictures, axis=1), 1, atol=1e-5)
    assert (texts * pictures).sum(axis=1).min() > 0.99
    assert {key for key, _ in service.requests} == {f"Bearer {KEY}"}
    assert [len(body["input"]) for _, body in service.requests] == [32, 13, 32, 13]
