"""Files of one commit of a git repository, without the rest of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmhelpers.data.folder import DataError

A_BATCH = 64  # files in one request; what was fetched before a stop is not fetched again


class Repository:
    """One commit of a git repository, whose files are fetched when they are read.

    Git itself compares everything with its hash. Where the server allows it, the commit comes alone
    (shallow) and without its files (a blob filter); else everything comes at once.

    Args:
        folder: a bare repository, made or found again. url: where from. commit: 40 hex digits.
    Raises: DataError with what git says.
    """

    def __init__(self, folder: Path, url: str, commit: str) -> None:
        self.folder, self.url, self.commit = folder, url, commit
        if not self._has_commit():
            self._start()
        listing = self._git("ls-tree", "-r", "-z", commit).decode("utf-8", "surrogateescape")
        entries = [line.split("\t", 1) for line in listing.split("\0") if line]
        regular = [(meta.split(), path) for meta, path in entries if meta.startswith("100")]  # no links
        self.files = {path: oid for (_, _, oid), path in regular}

    def read(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The contents of files, fetched in batches."""
        wanted = list(paths)
        for some in (wanted[i : i + A_BATCH] for i in range(0, len(wanted), A_BATCH)):
            oids = "\n".join(self.files[path] for path in some).encode() + b"\n"
            if (self.folder / "filtered").is_file():
                self._git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--filter=blob:none",
                          "--stdin", "origin", given=oids)  # fmt: skip
            found, start = self._git("cat-file", "--batch", given=oids), 0
            for path in some:
                line, start = found.index(b"\n", start), found.index(b"\n", start) + 1
                size = int(found[:line].rpartition(b" ")[2])
                yield path, found[start : start + size]
                start += size + 1

    def _has_commit(self) -> bool:
        ready = (self.folder / "ready").is_file()
        return ready and (self.folder / "ready").read_text() == self.commit

    def _start(self) -> None:
        alone = ("fetch", "--quiet", "--no-tags", "--depth=1", "--filter=blob:none", "origin", self.commit)
        everything = ("fetch", "--quiet", "--no-tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
        for number, command in enumerate((alone, everything)):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._git("init", "--quiet", "--bare", ".")
            self._git("remote", "add", "origin", self.url)
            try:
                self._git(*command)
            except DataError as error:
                if number or "unadvertised" not in str(error):  # the one refusal that has a way round
                    raise
            else:
                break
        self._git("cat-file", "-e", f"{self.commit}^{{commit}}")
        if command is alone:
            (self.folder / "filtered").touch()
        (self.folder / "ready").write_text(self.commit)

    def _git(self, *command: str, given: bytes = b"") -> bytes:
        settings = (
            "-c",
            "gc.auto=0",
            "-c",
            "maintenance.auto=false",
            "-c",
            "fetch.negotiationAlgorithm=noop",
        )
        other = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set where we run from a git hook
        environment = {name: value for name, value in os.environ.items() if name not in other}
        environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}  # never asks for a password
        try:
            done = subprocess.run(
                ["git", *settings, *command],
                cwd=self.folder,
                input=given,
                capture_output=True,
                env=environment,
            )
        except FileNotFoundError:
            raise DataError(self.url, ["git is not installed; the figures are fetched with it"]) from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            what = f"git {command[0]} failed: {said[-1]}"
            raise DataError(self.url, [f"{what}; run again, it goes on where it stopped"])
        return done.stdout
