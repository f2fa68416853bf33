"""A proxy on this machine's own address that passes a program's requests on to Azure and takes note of them.

It is an ordinary proxy for https, named to the program by ``HTTPS_PROXY``, so that all addresses stay as they are. It
opens connections to Azure ML, Resource Manager, blob storage and scoring addresses, with certificates of an authority
that lives in its memory and is trusted by the program alone. Every other connection, a sign-in's among them, passes
unopened. Tokens are passed on; what is kept of a request is an `Exchange`, which has no room for one.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import secrets
import socket
import ssl
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import trustme
from requests.utils import get_environ_proxies, select_proxy

from phift.local.names import RECORDER
from phift.local.recorder.exchange import Exchange, redacted
from phift.local.trust import trust

logger = logging.getLogger(__name__)

# Resource Manager, Azure ML, its blobs and its endpoints, in the three clouds (azure-ai-ml 1.35.2,
# _azure_environments.py; scoring addresses: recordings of azure-sdk-for-python, 2025-02-25); and local workspaces.
OPENED = re.compile(
    r"localhost|127\.0\.0\.1"
    r"|management\.(azure\.com|usgovcloudapi\.net|chinacloudapi\.cn)"
    r"|[\w.-]+\.(api\.azureml\.ms|api\.ml\.azure\.(us|cn)|inference\.ml\.azure\.(com|us|cn))"
    r"|[\w-]+\.blob\.core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)",
    re.IGNORECASE,
)
_LOCAL = ("localhost", "127.0.0.1")
# Between two neighbours only (RFC 9110, 7.6.1), or made anew; an encoding would hide the answer.
_NOT_PASSED_ON = frozenset(
    ("accept-encoding", "connection", "content-length", "expect", "keep-alive", "proxy-authenticate", "te", "trailer")
).union(("proxy-authorization", "proxy-connection", "transfer-encoding", "upgrade"))
_NO_JSON = b"-"  # stands for a body that nobody looks into
_PIECE = 64 * 1024
_PATIENCE = (30, 600)  # seconds to connect, and between two pieces of an answer


class Proxy(ThreadingHTTPServer):
    """The proxy; `running` starts one.

    - **note**: is handed every exchange.
    - **authorities**: the file of those whom it trusts itself.
    """

    daemon_threads = True  # a connection that a program's child keeps open does not keep this one

    def __init__(self, note: Callable[[Exchange], object], authorities: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self._note, self._noting = note, threading.Lock()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.authority = trustme.CA(organization_name="phift", organization_unit_name="recorder, of one program")
        self.authorities = authorities
        user = f"{RECORDER}:{secrets.token_urlsafe(16)}"  # nobody else on this machine is served
        self.address = f"http://{user}@127.0.0.1:{self.server_port}"
        self.password = f"Basic {b64encode(user.encode()).decode()}"
        self.unreachable: dict[str, str] = {}

    def note(self, exchange: Exchange) -> None:
        """Hand on an exchange, one at a time."""
        with self._noting:
            self._note(exchange)

    def context(self, host: str) -> ssl.SSLContext:
        """Return what speaks TLS in the name of a host."""
        with self._noting:
            if host not in self._contexts:
                made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self.authority.issue_cert(host).configure_cert(made)
                self._contexts[host] = made
            return self._contexts[host]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that one of both sides has left."""
        logger.debug("a connection broke", exc_info=True)


@contextmanager
def running(note: Callable[[Exchange], object], authorities: str | None) -> Iterator[tuple[Proxy, dict[str, str]]]:
    """Run a proxy until the end of the block; yields it, and the variables of a program that is to use it."""
    with Proxy(note, authorities) as proxy, tempfile.TemporaryDirectory(prefix="phift-recorder-") as folder:
        own = Path(folder) / "ca.pem"
        own.write_bytes(proxy.authority.cert_pem.bytes())
        threading.Thread(target=proxy.serve_forever, args=(0.1,), daemon=True).start()
        try:
            names = {"HTTPS_PROXY": proxy.address, "https_proxy": proxy.address, "NO_PROXY": "", "no_proxy": ""}
            yield proxy, {**names, "REQUESTS_CA_BUNDLE": str(trust(own))}
        finally:
            proxy.shutdown()


class _Connection(BaseHTTPRequestHandler):
    """A program's connection, which begins with ``CONNECT`` and then is TLS."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy
    _host = ""

    def do_CONNECT(self) -> None:
        host, _, port = self.path.rpartition(":")
        if self.headers.get("Proxy-Authorization") != self.server.password:
            self._refuse(407, "This proxy is for the recorded program alone.")
        elif not OPENED.fullmatch(host):
            self._pass(host, int(port))
        else:
            self._accept()
            self.connection = self.server.context(host.lower()).wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self._host = self.path.removesuffix(":443")
            self.close_connection = False  # http.client asks with HTTP/1.0, where it would end now

    def _accept(self) -> None:
        self.send_response_only(200, "Connection established")
        self.end_headers()

    def _forward(self) -> None:
        if not self._host:
            self._refuse(400, "This proxy is for https alone.")
            return
        url, sent = f"https://{self._host}{self.path}", self._sent()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
        headers["Accept-Encoding"] = "identity"
        try:
            answer = self._upstream.request(
                self.command, url, data=sent, headers=headers, stream=True, allow_redirects=False, timeout=_PATIENCE
            )
        except requests.RequestException as error:
            self._unreachable(error)
            return
        with answer:
            empty = self.command == "HEAD" or answer.status_code in (204, 304)
            readable = _is_json(answer.headers) and "Content-Encoding" not in answer.headers and not empty
            body = answer.content if readable else None
            none = empty or answer.headers.get("Content-Length") == "0"
            told = (sent if not sent or _is_json(self.headers) else _NO_JSON, body or (None if none else _NO_JSON))
            # Before it is answered: what a program has seen is written.
            self.server.note(redacted(self.command, url, told[0], answer.status_code, answer.headers, told[1]))
            self._answer(answer, body, empty=empty)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _forward  # noqa: N815 - http.server's names

    @cached_property
    def _upstream(self) -> requests.Session:
        """Return the other side's session: through the proxy that this machine has, as the program would without us."""
        session = requests.Session()
        session.headers.clear()
        session.auth = lambda request: request  # else a .netrc's would take the place of the program's own
        session.trust_env = self._host.partition(":")[0] not in _LOCAL
        session.verify = self.server.authorities or True
        return session

    def _sent(self) -> bytes | None:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            length = self.headers.get("Content-Length")
            return None if length is None else self._read(int(length))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self._read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _read(self, size: int) -> bytes:
        """Read all of a body, or end the connection: half of one, passed on, would be a whole one to the other side."""
        if len(body := self.rfile.read(size)) < size:
            raise ConnectionError("a client left in the middle of its request")
        return body

    def _answer(self, answer: requests.Response, body: bytes | None, *, empty: bool) -> None:
        """Hand an answer on, in pieces where it was not read yet: a model's file does not fit into memory."""
        self.send_response_only(answer.status_code, answer.reason)
        for name, value in answer.raw.headers.items():
            if name.lower() not in _NOT_PASSED_ON - {"content-length"}:
                self.send_header(name, value)
        chunked = not empty and "Content-Length" not in answer.headers
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pieces = answer.raw.stream(_PIECE, decode_content=False) if body is None else [body]
        for piece in () if empty else filter(None, pieces):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            self.wfile.flush()
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _pass(self, host: str, port: int) -> None:
        """Let a connection through as it is."""
        try:
            other = _dial(host, port)
        except OSError as error:
            self._unreachable(error)
            return
        with other:
            self._accept()
            self.close_connection = True
            back = threading.Thread(target=_pump, args=(other, self.connection), daemon=True)
            back.start()
            _pump(self.connection, other)
            back.join()

    def _unreachable(self, error: Exception) -> None:
        host = self._host or self.path
        self.server.unreachable[host] = type(error).__name__
        self._refuse(502, f"The recorder cannot reach {host} ({type(error).__name__}).")

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": {"code": "RecorderFailed", "message": message}}).encode()
        self.send_response_only(status, message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # TLS took it out of the server's hands

    def log_message(self, *_: object) -> None:
        """Log nothing: a request's line has names and signatures."""


def _is_json(headers: Any) -> bool:
    return "json" in headers.get("Content-Type", "")


def _dial(host: str, port: int) -> socket.socket:
    """Connect, through the machine's own proxy where it has one."""
    url = f"https://{host}:{port}"
    if not (proxy := select_proxy(url, get_environ_proxies(url))):
        return socket.create_connection((host, port), timeout=_PATIENCE[0])
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    way = http.client.HTTPConnection(str(parts.hostname), parts.port or 80, timeout=_PATIENCE[0])
    way.set_tunnel(host, port, requests.adapters.HTTPAdapter().proxy_headers(proxy))
    way.connect()
    return way.sock


def _pump(one: socket.socket, other: socket.socket) -> None:
    one.settimeout(None)
    with suppress(OSError):
        while piece := one.recv(_PIECE):
            other.sendall(piece)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)
