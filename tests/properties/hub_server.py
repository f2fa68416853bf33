"""A server on the loopback interface that answers as the Hugging Face Hub does, as far as reading a data set asks.

What was asked for is known, and how many bytes of which file were sent. It can be told to misbehave.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"main").hexdigest()  # noqa: S324 - what a commit looks like
OLDER = hashlib.sha1(b"v1").hexdigest()  # noqa: S324 - what a commit looks like


@dataclass
class Repository:
    """A data set: the files of its main branch, and of the tag ``v1``, if there is one."""

    folder: Path
    older: Path | None = None
    gated: bool = False
    token: str | None = None

    def at(self, revision: str) -> tuple[str, Path] | None:
        if revision in ("main", COMMIT):
            return COMMIT, self.folder
        if self.older and revision in ("v1", OLDER):
            return OLDER, self.older
        return None


@dataclass
class Fault:
    """What goes wrong with requests whose path has ``part`` in it, so many times.

    ``drop`` closes the connection half way through the body; ``trickle`` sends a byte of it now and then, for ever.
    """

    part: str
    what: Literal["drop", "trickle"] | int
    times: float = 1


@dataclass
class Hub:
    """The state of the server.

    - **next_page**: the host at which lists of files go on.
    - **signed**: the paths that were asked for with a token.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    latency: float = 0
    next_page: str = ""
    signed: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fresh(self) -> None:
        """Forget what was asked and what goes wrong."""
        self.faults, self.latency, self.next_page = [], 0, ""
        self.signed.clear()
        self.sent.clear()
        self.requests.clear()

    def fault(self, path: str) -> Literal["drop", "trickle"] | int | None:
        with self.lock:
            for fault in self.faults:
                if fault.part in path and fault.times > 0:
                    fault.times -= 1
                    return fault.what
        return None


class _Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def _missing(code: str) -> _Refusal:
    return _Refusal(401 if code == "RepoNotFound" else 404, code, f"{code}, says the Hub")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path))
            self.hub.signed += [self.path] if self.headers.get("Authorization") else []
        time.sleep(self.hub.latency)
        fault = self.hub.fault(path)
        try:
            if fault == "trickle":
                self._trickle()
            elif isinstance(fault, int):
                raise _Refusal(fault, "", "not now")  # noqa: TRY301 - refused as anything else is
            elif path.startswith("/api/datasets/"):
                answer = json.dumps(self._told(path.removeprefix("/api/datasets/"), sent)).encode()
                more = self.hub.next_page and "/tree/" in path
                self._send(200, answer, {"Link": f'<{self.hub.next_page}{path}>; rel="next"'} if more else {})
            else:
                self._file(path.removeprefix("/datasets/"), broken=fault == "drop")
        except _Refusal as refusal:
            headers = {"X-Error-Message": str(refusal)} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            self._send(refusal.status, b'{"error": "no"}', headers)

    def _trickle(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        with suppress(OSError):  # whoever asked has gone
            while True:
                self.wfile.write(b" ")
                time.sleep(0.2)

    do_GET = do_HEAD = do_POST = _answer  # noqa: N815 - http.server's names

    def _repository(self, path: str, verb: str) -> tuple[Repository, list[str]]:
        """Split ``owner/name/verb/revision/rest``."""
        parts = path.split("/")
        repository, rest = self.hub.repositories.get("/".join(parts[:2])), parts[2:]
        if repository is None:
            raise _missing("RepoNotFound")
        if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
            raise _missing("RepoNotFound")
        return repository, rest or [verb, "main"]

    def _told(self, path: str, sent: bytes) -> Any:
        repository, (verb, revision, *rest) = self._repository(path, "revision")
        found = repository.at(revision)
        if found is None:
            raise _missing("RevisionNotFound")
        commit, folder = found
        if verb == "revision":
            return {"id": "/".join(path.split("/")[:2]), "sha": commit, "private": False, "gated": repository.gated}
        if verb == "tree":
            return _tree(folder, "/".join(rest))
        if verb == "paths-info":
            asked = json.loads(sent)["paths"]
            return [_entry(folder, folder / name) for name in asked if (folder / name).exists()]
        raise _missing("EntryNotFound")

    def _file(self, path: str, *, broken: bool) -> None:
        repository, (_, revision, *rest) = self._repository(path, "resolve")
        found = repository.at(revision)
        if found is None:
            raise _missing("RevisionNotFound")
        if repository.gated and rest != ["README.md"]:
            raise _Refusal(403, "GatedRepo", "Access to this data set is restricted")
        file = found[1].joinpath(*rest)
        if not file.is_file():
            raise _missing("EntryNotFound")
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": found[0]}
        wanted = self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(content)}"
            content = content[int(first) : end + 1]
        count = self._send(206 if wanted else 200, content, headers, broken=broken)
        with self.hub.lock:
            self.hub.sent[rest[-1]] += count

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, broken: bool = False) -> int:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return 0
        if broken:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        return len(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


def _tree(folder: Path, path: str) -> list[dict[str, Any]]:
    if not (folder / path).is_dir():
        raise _missing("EntryNotFound")
    return [_entry(folder, file) for file in sorted((folder / path).rglob("*"))]


def _entry(folder: Path, file: Path) -> dict[str, Any]:
    name = file.relative_to(folder).as_posix()
    oid = hashlib.sha1(name.encode()).hexdigest()  # noqa: S324 - what a blob's name looks like
    if file.is_dir():
        return {"type": "directory", "oid": oid, "size": 0, "path": name}
    return {"type": "file", "oid": oid, "size": file.stat().st_size, "path": name}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
