"""A local workspace in this process: no server, port or TLS, and the same answers.

While one is open, ``requests`` is led to it for one host name that nobody can have, by a replacement of
``requests.adapters.HTTPAdapter.get_connection_with_tls_context``: the lowest place that all clients under the Azure ML
SDK, its blob clients included, go through. What lies above, ``urllib3``'s retries and its names for a broken
connection among it, is the real thing.
"""

from __future__ import annotations

import http.client
import io
import itertools
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import ConnectionPool
from urllib3.util.request import body_to_chunks

from phift.local.connection import IN_PROCESS, Connection
from phift.local.ground import Ground
from phift.local.model import catalog, quota
from phift.local.programs import ENGINES, make_standins
from phift.local.server.service import Service, content
from phift.local.site import site_on
from phift.local.state.clock import Clock, Speed
from phift.local.state.documents import Documents
from phift.local.state.folder import Folder
from phift.local.state.identity import Identity, read_secret

if TYPE_CHECKING:
    from requests import PreparedRequest

HOST = "in-process.phift.invalid"  # RFC 6761: no resolver may know a name in "invalid"
_THREADS = 64
_numbers = itertools.count(1)  # each workspace has a port of its own: the SDK keeps what it learned of one by its name
_pools: dict[str, ConnectionPool] = {}
_Sent = tuple[str, str, Mapping[str, str], bytes]  # method, path with query, headers by small letters, body
_changing = threading.Lock()
_real = HTTPAdapter.get_connection_with_tls_context


@contextmanager
def served_here(folder: Path, speed: Speed = "fast") -> Iterator[Connection]:
    """Serve a folder to this process, with the instant engine, until the end of the block.

    Nothing outside the process reaches it. The class ``requests.adapters.HTTPAdapter`` is changed while at least one
    block is open, for the workspaces' own host name only; any number of them may be open at once, in any threads. At
    the end all threads of a workspace have ended; what is asked then fails as for a host that is not there.
    """
    place = Folder(folder)
    place.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.bundle.touch()  # no authority of its own: there is no TLS
    clock, port = Clock(speed), next(_numbers)
    with ExitStack() as stack:
        make_standins(place.registry, [model["name"] for model in catalog.models()])
        documents = Documents(place.database, clock.now)
        stack.callback(documents.close)
        identity = Identity(read_secret(place.secret), clock.now)
        ground = Ground(place, documents, identity, f"https://{HOST}:{port}", ENGINES["instant"], clock)
        documents.put("server", {"port": port})  # the workspace is as old as this note
        quota.seed(ground)
        site = site_on(ground)
        service = Service(site)
        service.start()
        stack.callback(site.operations.reset)
        stack.callback(service.stop)
        door = _Door(service)
        stack.callback(door.close)
        stack.enter_context(_reachable(port, door))
        IN_PROCESS[place.root] = Connection(ground.base_url, place.bundle, place.root)
        stack.callback(IN_PROCESS.pop, place.root)
        yield IN_PROCESS[place.root]


@contextmanager
def _reachable(port: int, door: _Door) -> Iterator[None]:
    global _real
    with _changing:
        if not _pools:  # whoever else has changed it gets back his own
            _real = HTTPAdapter.get_connection_with_tls_context
            HTTPAdapter.get_connection_with_tls_context = _connection  # type: ignore[method-assign, assignment]
        _pools[f"{HOST}:{port}"] = _Pool(HOST, port, door=door)
    try:
        yield
    finally:
        with _changing:
            del _pools[f"{HOST}:{port}"]
            if not _pools:
                HTTPAdapter.get_connection_with_tls_context = _real  # type: ignore[method-assign]


def _connection(adapter: HTTPAdapter, request: PreparedRequest, *arguments: Any, **options: Any) -> ConnectionPool:
    pool = _pools.get(urlsplit(request.url or "").netloc.lower())
    return pool or _real(adapter, request, *arguments, **options)


class _Door:
    """Answers requests in threads of its own, so that a client's timeout is one here too."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._closing = threading.Event()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="phift-in-process")

    def close(self) -> None:
        """Answer what has been asked, without the delays that were ordered, and end the threads."""
        self._closing.set()
        self._threads.shutdown()

    def ask(self, sent: _Sent, timeout: float | None) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body; raises what a connection raises that breaks."""
        return self._threads.submit(self._answer, *sent).result(timeout)

    def _answer(
        self, method: str, address: str, headers: Mapping[str, str], sent: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(address)
        exchange = self._service.admit(method, unquote(url.path))
        slow = exchange.slow if exchange.cut != "before" else 0
        self._closing.wait(exchange.delay + (len(sent) / slow if slow else 0))
        if exchange.cut == "before":
            exchange.note(0)
            raise ConnectionResetError(104, "Connection reset by peer")
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        reply = exchange.reply(query, headers, sent)
        exchange.note(reply.status)
        if exchange.cut == "after":
            raise ConnectionResetError(104, "Connection reset by peer")
        body = b"".join(reply.stream) if reply.stream is not None else content(reply)
        kind = {} if reply.body is None and reply.stream is None else {"Content-Type": reply.media_type}
        described = {**kind, "Content-Length": str(len(body)), **reply.headers}
        if method == "HEAD":
            body = b""
        if exchange.cut == "half":
            if not body:
                raise http.client.RemoteDisconnected("Remote end closed connection without response")
            body = body[: len(body) // 2]
        return reply.status, described, body


class _Connection(HTTPConnection):
    """A connection whose other end is in this process."""

    is_closed = False
    is_connected = True

    def __init__(self, *arguments: Any, door: _Door, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._door = door

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        """Take a request; it is answered when the answer is asked for."""
        chunks = body_to_chunks(body, method, self.blocksize).chunks or ()
        named = CaseInsensitiveDict((name.lower(), value) for name, value in (headers or {}).items())
        self._sent = method, url, named, b"".join(map(bytes, chunks))
        options.pop("chunked", None)  # how a body is sent, and not how an answer is read, which the others are
        self._options = options

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        """Return the answer; raises `TimeoutError` where it takes longer than the client wants to wait."""
        status, headers, body = self._door.ask(self._sent, self.timeout)
        return HTTPResponse(
            io.BytesIO(body),
            headers,
            status,
            version=11,
            version_string="HTTP/1.1",
            reason=http.client.responses.get(status),
            request_method=self._sent[0],
            request_url=self._sent[1],
            **self._options,
        )


class _Pool(HTTPConnectionPool):
    """Connections cost nothing here, so each request has a new one."""

    ConnectionCls = _Connection

    def _get_conn(self, timeout: float | None = None) -> Any:
        return self._new_conn()

    def _put_conn(self, conn: Any) -> None:
        """Forget it."""
