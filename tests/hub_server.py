"""A stand-in for the Hugging Face Hub: of its HTTP API what the libraries ask for, kept in memory.

The libraries read HF_ENDPOINT when they are imported, so what asks it runs in a process of its own, with the
`environment` it gives. Only the newest commit can be read, and all files are regular ones: neither LFS nor Xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import RepoCard


@dataclass
class Repository:
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr([(name, blob(self.files[name])) for name in sorted(self.files)]).encode()).hexdigest()

    def listed(self) -> dict[str, dict[str, Any]]:
        """Files and folders, as /tree and /paths-info list them."""
        folders = {str(above) for name in self.files for above in PurePosixPath(name).parents} - {"."}
        listed = {name: {"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders}
        for name, content in self.files.items():
            listed[name] = {"type": "file", "path": name, "oid": blob(content), "size": len(content)}
        return listed


class StandInHub:
    """The server, and its `repositories` by kind and id. Who has the `token` may see and create everything."""

    token = "hf_" + "stand1n" * 5

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> StandInHub:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, cache: Path, token: str = "") -> dict[str, str]:
        """What a process needs to take this for the Hub, with its own, at first empty, cache."""
        return {
            "HF_ENDPOINT": self.endpoint, "HF_HOME": str(cache), "HF_TOKEN": token, "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*",
        }  # fmt: skip

    def add(self, repo_id: str, folder: Path, kind: str = "model", **settings: bool) -> None:
        """A repository with the files of a folder, private=True or gated=True."""
        self.repositories[kind, repo_id] = Repository(contents(folder), **settings)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def blob(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Refusal(Exception):
    """An answer other than 200: status, the Hub's code for the reason, and words."""


class _Handler(BaseHTTPRequestHandler):
    """One connection. What is answered is JSON, a file's content, or a Refusal."""

    hub: StandInHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.commit, headers, status = "", {"Content-Type": "application/json"}, 200
        try:
            answer = self._answer(urlsplit(self.path), self._content())
        except Refusal as refusal:
            status, code, words = refusal.args
            answer, headers = {"error": words}, {"X-Error-Code": code, "X-Error-Message": words}
        if isinstance(answer, bytes):
            self._send_file(answer)
        else:
            self._send(status, json.dumps(answer).encode(), headers)

    do_HEAD = do_POST = do_GET

    def _answer(self, address: Any, content: bytes) -> Any:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", self.hub.token):
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        self.known = bool(token)
        if address.path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if address.path == "/api/repos/create":
            return self._create(**json.loads(content))
        if found := re.fullmatch("/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", address.path):
            prefix, repo_id, revision, file = (unquote(part or "") for part in found.groups())
            files = self._open("dataset" if prefix else "model", repo_id, revision, read=True).files
            if file in files:
                return files[file]
        if found := re.fullmatch("/api/(model|dataset)s/([^/]+/[^/]+)(?:/([^/]+)/([^/]+)(?:/(.+))?)?", address.path):
            kind, repo_id, what, revision, inside = (unquote(part or "") for part in found.groups())
            repository = self._open(kind, repo_id, revision)
            if what == "tree":
                return self._tree(repository, inside, "recursive=true" in address.query.lower())
            if what == "paths-info":
                asked = json.loads(content) if content[:1] == b"{" else parse_qs(content.decode())
                return [about for name, about in repository.listed().items() if name in asked["paths"]]
            if what == "preupload":
                how = {"uploadMode": "regular", "shouldIgnore": False}
                return {"files": [{"path": file["path"], **how} for file in json.loads(content)["files"]]}
            if what == "commit":
                changes = [part["value"] for part in map(json.loads, content.splitlines()) if part["key"] == "file"]
                repository.files |= {file["path"]: base64.b64decode(file["content"]) for file in changes}
                url = f"{self.hub.endpoint}/{repo_id}/commit/{repository.commit}"
                return {"success": True, "commitOid": repository.commit, "commitUrl": url}
            return self._info(repository, repo_id)
        raise Refusal(404, "EntryNotFound", "Entry not found")

    def _create(self, name: str, organization: str, type: str = "model", **asked: Any) -> Any:
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories[type, f"{organization}/{name}"] = Repository(private=bool(private))
        return {"url": f"{self.hub.endpoint}/{'datasets/' * (type == 'dataset')}{organization}/{name}"}

    def _open(self, kind: str, repo_id: str, revision: str, read: bool = False) -> Repository:
        """A repository at a revision, for who may see it, and read its files."""
        repository = self.hub.repositories.get((kind, repo_id))
        if not repository or (repository.private and not self.known):  # strangers are not told whether there is one
            raise Refusal(404 if self.known else 401, "RepoNotFound", "Repository not found")
        if read and repository.gated and not self.known:
            words = f"Access to {kind} {repo_id} is restricted and you are not in the authorized list."
            raise Refusal(401, "GatedRepo", words)
        self.commit = repository.commit
        if revision not in ("", "main", self.commit):
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository

    def _info(self, repository: Repository, repo_id: str) -> Any:
        card = RepoCard(repository.files.get("README.md", b"").decode(), ignore_metadata_errors=True)
        return {
            "id": repo_id, "sha": repository.commit, "private": repository.private, "gated": repository.gated,
            "downloads": 0, "likes": 0, "tags": [], "lastModified": "2026-01-01T00:00:00.000Z",
            "cardData": card.data.to_dict(), "siblings": [{"rfilename": name} for name in repository.files],
        }  # fmt: skip

    def _tree(self, repository: Repository, inside: str, recursive: bool) -> Any:
        above = {name: PurePosixPath(name).parents for name in repository.listed()}
        kept = {name for name, of in above.items() if PurePosixPath(inside) in (of if recursive else of[:1])}
        if inside and not kept:
            raise Refusal(404, "EntryNotFound", f"{inside} does not exist")
        return [about for name, about in repository.listed().items() if name in kept]

    def _content(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return b"".join(iter(lambda: self.rfile.read(int(self.rfile.readline(), 16) + 2)[:-2], b""))

    def _send_file(self, content: bytes) -> None:
        headers, size = {"ETag": f'"{blob(content)}"', "Accept-Ranges": "bytes"}, len(content)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
            headers["Content-Range"], content = f"bytes {start}-{end - 1}/{size}", content[start:end]
        self._send(206 if asked else 200, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": self.commit, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
