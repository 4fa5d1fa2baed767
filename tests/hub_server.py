"""A stand-in for the Hugging Face Hub: of its HTTP API what the libraries ask for, served from a folder.

    with StandInHub(tmp_path / "hub") as hub:
        hub.add("owner/name", folder)                       # a model; kind="dataset" for a data set
        subprocess.run(command, env={**os.environ, **hub.environment(tmp_path / "cache")})

The libraries read HF_ENDPOINT when they are imported, so what asks this Hub runs in a process of its own.
`folder` holds <kind>s/<owner>/<name>/ with repository.json (who may read it, its newest commit) and a folder
of files for each commit. All files are regular ones: neither LFS nor Xet, which large uploads take.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub.repocard import metadata_load

KINDS = {"model": "", "dataset": "datasets/"}


class Refusal(Exception):
    """An answer other than 200: status, the Hub's code for the reason, words, and further headers."""

    def __init__(self, status: int, code: str, words: str, **headers: str) -> None:
        self.status, self.body = status, {"error": words}
        self.headers = {"X-Error-Code": code, "X-Error-Message": words, **headers}


class StandInHub:
    """The server, and what a test does to it.

    Args:
        folder: where repositories are kept.

    Attributes:
        endpoint: for HF_ENDPOINT.
        token: of "owner", who may read everything and write below owner/.
        other_token: of somebody who may read and write nothing that is private or gated.
        requests: (method, path, status) of everything that was answered, in order.
    """

    token, other_token = "hf_" + "stand1n" * 5, "hf_" + "someb0dy" * 4

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.requests: list[tuple[str, str, int]] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> StandInHub:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on nobody answers; calling it twice is fine."""
        if self.server.socket.fileno() != -1:
            self.server.shutdown()
            self.server.server_close()

    def environment(self, cache: Path, token: str = "") -> dict[str, str]:
        """What a process needs to take this for the Hub, with its own, at first empty, cache."""
        return {
            "HF_ENDPOINT": self.endpoint, "HF_HOME": str(cache), "HF_TOKEN": token, "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*",
        }  # fmt: skip

    def add(self, repo_id: str, files: Path, kind: str = "model", **settings: bool) -> str:
        """A commit that holds just the files of a folder, private=True or gated=True; its 40 hex digits."""
        self.home(kind, repo_id).mkdir(parents=True, exist_ok=True)
        shutil.copytree(files, self.home(kind, repo_id) / "new")
        return self.commit(kind, repo_id, **{"private": False, "gated": False, **settings})

    def files(self, repo_id: str, kind: str = "model") -> Path:
        """The folder with a repository's newest files, to read."""
        return self.home(kind, repo_id) / self.about(kind, repo_id)["commit"]

    def home(self, kind: str, repo_id: str) -> Path:
        """Where a repository is kept, whether or not it is there."""
        return self.folder / f"{kind}s" / repo_id

    def about(self, kind: str, repo_id: str) -> dict[str, Any]:
        """Its repository.json; {} where there is none."""
        file = self.home(kind, repo_id) / "repository.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def commit(self, kind: str, repo_id: str, **settings: Any) -> str:
        """Name the folder `new` of a repository after its content and history, and make it the newest."""
        home, about = self.home(kind, repo_id), self.about(kind, repo_id)
        parts = [(path.relative_to(home / "new").as_posix(), blob(path)) for path in below(home / "new")]
        name = hashlib.sha1(repr([about.get("commit"), parts]).encode()).hexdigest()
        (home / "new").rename(home / name)
        (home / "repository.json").write_text(json.dumps({**about, **settings, "commit": name}))
        return name


def below(folder: Path) -> list[Path]:
    """All files, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def blob(path: Path) -> str:
    """The name that git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def described(path: Path, folder: Path) -> dict[str, Any]:
    """A file or folder as /tree and /paths-info list it."""
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
    return {"type": "file", "path": name, "oid": blob(path), "size": path.stat().st_size}


class _Handler(BaseHTTPRequestHandler):
    """One connection. Every `_something` answers one route with JSON, a file, or a Refusal."""

    hub: StandInHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        content = self._content()
        try:
            with self.hub.lock:
                answer = self._answer(address.path, content)
        except Refusal as refusal:
            self._send(refusal.status, refusal.headers, json.dumps(refusal.body).encode())
            return
        if isinstance(answer, tuple):
            self._send_file(*answer)
        else:
            self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    do_HEAD = do_POST = do_GET

    def _answer(self, path: str, content: bytes) -> Any:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        users = {"": "", self.hub.token: "owner", self.hub.other_token: "somebody"}
        if token not in users:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        self.user = users[token]
        api, name = "/api/(model|dataset)s/([^/]+/[^/]+)", "([^/]+/[^/]+)"
        for pattern, method in (
            ("/api/validate-yaml", lambda content: {"errors": [], "warnings": []}),
            ("/api/repos/create", self._create),
            (f"{api}(?:/revision/([^/]+))?", self._info),
            (f"{api}/tree/([^/]+)(?:/(.+))?", self._tree),
            (f"{api}/paths-info/([^/]+)", self._paths_info),
            (f"{api}/preupload/([^/]+)", self._preupload),
            (f"{api}/commit/([^/]+)", self._commit),
            (f"/(datasets/)?{name}/resolve/([^/]+)/(.+)", self._resolve),
        ):
            if found := re.fullmatch(pattern, path):
                parts = [unquote(part) if part else part for part in found.groups()]
                return method(*parts, **({"content": content} if self.command == "POST" else {}))
        raise Refusal(404, "", "Sorry, we can't find the page you are looking for.")

    def _create(self, content: bytes) -> Any:
        asked = json.loads(content)
        if not self.user:
            raise Refusal(401, "", "Invalid username or password.")
        kind, repo_id = asked.get("type", "model"), f"{asked['organization'] or self.user}/{asked['name']}"
        url = {"url": f"{self.hub.endpoint}/{KINDS[kind]}{repo_id}"}
        if repo_id.split("/")[0] != self.user:
            raise Refusal(403, "", f"You don't have the rights to create {repo_id}")
        if self.hub.about(kind, repo_id):
            refusal = Refusal(409, "", f"You already created this {kind} repo")
            refusal.body |= url  # exist_ok reads it from there
            raise refusal
        (self.hub.home(kind, repo_id) / "new").mkdir(parents=True)
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.commit(kind, repo_id, private=bool(private), gated=False)
        return url

    def _open(self, kind: str, repo_id: str, revision: str | None, what: str = "") -> Path:
        """The files of a revision, for who may see it, "read" files, or "write" some."""
        about = self.hub.about(kind, repo_id)
        # Who may not see a repository is not told whether there is one. (Of 401 without a code the libraries
        # think the same, but only with https.)
        if not about or (about["private"] and self.user != "owner"):
            words = "Repository not found" if self.user else "Invalid username or password."
            raise Refusal(404 if self.user else 401, "RepoNotFound", words)
        if what == "read" and about["gated"] and self.user != "owner":
            words = f"Access to {kind} {repo_id} is restricted and you are not in the authorized list."
            raise Refusal(403 if self.user else 401, "GatedRepo", words)
        if what == "write" and self.user != "owner":
            raise Refusal(403 if self.user else 401, "", "Forbidden: pass `create_pr=1` as a query parameter")
        commit = about["commit"] if revision in (None, "main") else revision
        folder = self.hub.home(kind, repo_id) / commit
        if not re.fullmatch("[0-9a-f]{40}", commit) or not folder.is_dir():
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return folder

    def _info(self, kind: str, repo_id: str, revision: str | None) -> Any:
        folder, about = self._open(kind, repo_id, revision), self.hub.about(kind, repo_id)
        card = folder / "README.md"
        names = [path.relative_to(folder).as_posix() for path in below(folder)]
        return {
            "_id": "0" * 24, "id": repo_id, "author": repo_id.split("/")[0], "sha": folder.name,
            "private": about["private"], "gated": "manual" if about["gated"] else False, "disabled": False,
            "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
            "downloads": 0, "likes": 0, "tags": [], "siblings": [{"rfilename": name} for name in names],
            "cardData": (metadata_load(card) if card.is_file() else None) or {},
        }  # fmt: skip

    def _tree(self, kind: str, repo_id: str, revision: str, inside: str | None) -> Any:
        folder = self._open(kind, repo_id, revision)
        start = folder / (inside or "")
        if not start.is_dir():
            words = f"{inside} does not exist on {revision}"
            raise Refusal(404, "EntryNotFound", words, **{"X-Repo-Commit": folder.name})
        recursive = self.query.get("recursive", "").lower() in ("1", "true")
        found = start.rglob("*") if recursive else start.iterdir()
        return [described(path, folder) for path in sorted(found)]

    def _paths_info(self, kind: str, repo_id: str, revision: str, content: bytes) -> Any:
        folder = self._open(kind, repo_id, revision)
        form = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(content)["paths"] if form else parse_qs(content.decode())["paths"]
        return [described(folder / name, folder) for name in asked if name and (folder / name).exists()]

    def _preupload(self, kind: str, repo_id: str, revision: str, content: bytes) -> Any:
        self._open(kind, repo_id, revision, "write")
        answer = {"uploadMode": "regular", "shouldIgnore": False}
        return {"files": [{"path": file["path"], **answer} for file in json.loads(content)["files"]]}

    def _commit(self, kind: str, repo_id: str, revision: str, content: bytes) -> Any:
        folder = self._open(kind, repo_id, revision, "write")
        new = Path(shutil.copytree(folder, folder.parent / "new"))
        for part in map(json.loads, content.splitlines()):
            if part["key"] == "file":
                path = (new / part["value"]["path"]).resolve()
                assert path.is_relative_to(new.resolve())
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(part["value"]["content"]))
        name = self.hub.commit(kind, repo_id)
        url = f"{self.hub.endpoint}/{KINDS[kind]}{repo_id}"
        return {"success": True, "commitOid": name, "commitUrl": f"{url}/commit/{name}"}

    def _resolve(self, prefix: str | None, repo_id: str, revision: str, name: str) -> Any:
        folder = self._open("dataset" if prefix else "model", repo_id, revision, "read")
        path, commit = folder / name, {"X-Repo-Commit": folder.name}
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise Refusal(404, "EntryNotFound", "Entry not found", **commit)
        return path, commit

    def _content(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = iter(lambda: self.rfile.read(int(self.rfile.readline(), 16) + 2)[:-2], b"")
        return b"".join(parts)

    def _send_file(self, path: Path, headers: dict[str, str]) -> None:
        content = path.read_bytes()
        start, end, size = 0, len(content), len(content)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}
        headers = {**headers, "ETag": f'"{blob(path)}"', "Accept-Ranges": "bytes"}
        self._send(206 if asked else 200, headers, content[start:end])

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.hub.requests.append((self.command, unquote(self.path), status))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
