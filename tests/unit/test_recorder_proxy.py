"""What passes through the recorder's proxy from clients and servers that do not behave, and what is kept of it."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from phift.cli.commands import main
from phift.errors import LocalWorkspaceError
from phift.local.recorder.compare import compare
from phift.local.recorder.exchange import begin, read
from phift.local.recorder.proxy import Proxy, running
from unit.loopback import Reply, Script, scripted_server

CHUNKED = "Transfer-Encoding: chunked"


@dataclass(frozen=True)
class Recorded:
    """A server that is recorded, and the proxy in front of it."""

    server: Script
    proxy: Proxy
    authorities: str
    file: Path

    @contextmanager
    def client(self) -> Iterator[ssl.SSLSocket]:
        place, context = urlsplit(self.proxy.address), ssl.create_default_context(cafile=self.authorities)
        with socket.create_connection(("127.0.0.1", place.port or 0), timeout=30) as plain:
            target = urlsplit(self.server.url).port
            allowed = f"Proxy-Authorization: {self.proxy.password}"
            plain.sendall(f"CONNECT localhost:{target} HTTP/1.1\r\n{allowed}\r\n\r\n".encode())
            assert b" 200 " in plain.recv(1000)
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                yield client

    def asked(self, head: str, body: str = "") -> bytes:
        """Return all that is answered to a request that is the last one of its connection."""
        with self.client() as client:
            client.sendall(f"{head}\r\nConnection: close\r\n\r\n{body}".encode())
            return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    file = tmp_path / "recording.jsonl"
    with scripted_server(tmp_path) as server, begin(file) as recording:
        server.answers(Reply({"status": "Completed"}, headers={"Content-Type": "application/json"}))
        with running(recording.write, str(tmp_path / "ca.pem")) as (proxy, variables):
            yield Recorded(server, proxy, variables["REQUESTS_CA_BUNDLE"], file)


@pytest.mark.parametrize(
    "cut", ["Content-Length: 100\r\n\r\nhalf", *(f"{CHUNKED}\r\n\r\n{text}" for text in ("", "64\r\nhalf"))]
)
def test_an_upload_that_is_cut_off_is_not_passed_on_as_a_whole_one(cut: str, recorded: Recorded) -> None:
    with recorded.client() as client:
        client.sendall(f"POST /x HTTP/1.1\r\n{cut}".encode())
        with suppress(OSError):
            client.unwrap()  # says that nothing more comes, and waits until the proxy has left
    assert recorded.server.requests == []


@pytest.mark.parametrize("coding", [CHUNKED, CHUNKED.title()])
def test_an_upload_in_chunks_is_passed_on(coding: str, recorded: Recorded) -> None:
    body = '3\r\n{"a\r\n4;x=y\r\n": 1\r\n1\r\n}\r\n0\r\nTrailer: t\r\n\r\n'
    assert b" 200 " in recorded.asked(f"POST /x HTTP/1.1\r\n{coding}", body)
    assert [each.body for each in recorded.server.requests] == [{"a": 1}]
    assert len(read(recorded.file)[1]) == 1


@pytest.mark.parametrize("depth", [100, 500, 900, 5000])
@pytest.mark.parametrize(("opened", "closed"), [('{"id":', "}"), ("[", "]")])
def test_an_answer_is_kept_and_passed_on_however_deep_it_is(
    opened: str, closed: str, depth: int, recorded: Recorded
) -> None:
    body = (opened * depth + "1" + closed * depth).encode()
    recorded.server.answers(Reply(body, headers={"Content-Type": "application/json"}))
    assert recorded.asked("GET /x HTTP/1.1").endswith(body)
    (kept,) = read(recorded.file)[1]
    assert compare([kept], [kept]) == []


def test_nothing_of_a_request_or_its_answer_is_in_the_file_that_is_no_public_word(recorded: Recorded) -> None:
    secret = "s3cret-Hunter2"
    told = {
        "Content-Type": f"application/json; {secret}",
        "ETag": secret,
        "Location": f"/subscriptions/{secret}/{secret}",
    }
    body = {
        secret: secret,
        "status": secret,
        "type": [{"code": secret}],
        "id": f"/subscriptions/{secret}/jobs/{secret}",
    }
    recorded.server.answers(Reply(body, 299, told | {"x-ms-error-code": secret, secret: secret}))
    head = f"Authorization: Bearer {secret}\r\nContent-Type: application/json\r\nstatus: {secret}\r\n{secret}: {secret}"
    sent = json.dumps(body)
    for path in (
        f"/{secret}?api-version={secret}&{secret}={secret}",
        f"/jobs/{secret}%2F{secret};{secret}",
        f"/?{secret}",
    ):
        raw = recorded.asked(f"POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {len(sent)}", sent)
        assert b" 299 " in raw
        assert secret.encode() in raw  # it was passed on
    assert len(read(recorded.file)[1]) == 3
    assert secret.lower() not in recorded.file.read_text().lower()


def test_two_record_at_once_but_not_into_one_file(recorded: Recorded, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    with begin(other) as recording, running(recording.write, str(tmp_path / "ca.pem")) as (proxy, variables):
        second = replace(recorded, proxy=proxy, authorities=variables["REQUESTS_CA_BUNDLE"])
        for each in (recorded, second):
            assert b" 200 " in each.asked("GET /x HTTP/1.1")
        with pytest.raises(LocalWorkspaceError, match="there already"), begin(recorded.file):
            pass
    assert [len(read(file)[1]) for file in (recorded.file, other)] == [1, 1]


class Full(io.StringIO):
    """A file on a disk with room for a head and a line."""

    def write(self, text: str) -> int:
        if self.tell() > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_a_program_goes_on_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, opened = tmp_path / "full.jsonl", Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: Full() if path == file else opened(path, *a, **k))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with scripted_server(tmp_path) as server:
        server.answers(Reply({"status": "Completed"}))
        program = f"import requests\nfor _ in range(3): requests.get('{server.url}/x').raise_for_status()"
        done = CliRunner().invoke(main, ["local", "record", str(file), "--", sys.executable, "-c", program])
        assert len(server.requests) == 3
    assert done.exit_code == 1
    assert "1 exchanges in" in done.output
    assert "The recording is incomplete: No space left on device" in done.output
