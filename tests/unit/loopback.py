"""A scripted HTTPS server on the loopback interface, with a certificate that clients are told to trust."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """What to answer: bytes as they are, what a function makes of the request, or anything else as JSON.

    What a function returns may be an iterator: its bytes are sent as they come, and an error of it cuts the answer off.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self, request: Request) -> bytes | Iterator[bytes]:
        body = self.body(request) if callable(self.body) else self.body
        return body if isinstance(body, bytes | Iterator) else json.dumps(body).encode()


def _nothing() -> None:
    pass


class Script:
    """What the server answers, in order, the last reply for ever, or what a function makes of it; what it was asked.

    ``before`` is called in the server's thread before each answer. With ``keeps`` a connection is kept after an answer;
    ``connections`` counts those that were made.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.replies: list[Reply | Callable[[Request], Reply]] = []
        self.requests: list[Request] = []
        self.before: Callable[[], None] = _nothing
        self.keeps, self.connections = False, 0

    def answers(self, *replies: Reply | Callable[[Request], Reply]) -> None:
        self.replies, self.requests, self.before = list(replies), [], _nothing
        self.keeps, self.connections = False, 0

    def take(self, request: Request) -> Reply:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return reply if isinstance(reply, Reply) else reply(request)


def _handler(script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            script.connections += 1

        def _answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = json.loads(sent) if sent.startswith((b"{", b"[")) else None  # a sign-in sends a form
            request = Request(self.command, self.path, dict(self.headers), asked)
            script.requests.append(request)
            script.before()
            reply = script.take(request)
            body = reply.encoded(request)
            self.send_response(reply.status)
            whole = isinstance(body, bytes)
            length = {"Content-Length": str(len(body))} if isinstance(body, bytes) else {"Transfer-Encoding": "chunked"}
            for name, value in {**length, **reply.headers}.items():
                self.send_header(name, value)
            if not script.keeps:
                self.send_header("Connection", "close")
            self.end_headers()
            try:
                for piece in [body] if isinstance(body, bytes) else body:
                    self.wfile.write(piece if whole else b"%x\r\n%s\r\n" % (len(piece), piece))
                if not whole:
                    self.wfile.write(b"0\r\n\r\n")
            except OSError:  # either end has had enough
                self.close_connection = True

        do_GET = do_POST = _answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    return Handler


@contextmanager
def scripted_server(folder: Path) -> Iterator[Script]:
    """Serve until the end of the block; ``ca.pem`` in ``folder`` is what clients must trust."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    script = Script("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(script))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    script.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
