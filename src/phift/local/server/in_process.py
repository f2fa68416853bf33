"""A local workspace in this process: no server, port or TLS, and the same answers.

While one is open, ``requests`` is led to it for one host name that nobody can have, by a replacement of
``requests.adapters.HTTPAdapter.get_connection_with_tls_context``: the lowest place that all clients under the Azure ML
SDK, its blob clients included, go through. What lies above, ``urllib3``'s retries and its names for a broken
connection among it, is the real thing.
"""

from __future__ import annotations

import errno
import http.client
import io
import itertools
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import ConnectionPool
from urllib3.util.request import body_to_chunks

from phift.errors import LocalWorkspaceError
from phift.local.connection import IN_PROCESS, Connection
from phift.local.ground import remember
from phift.local.model import catalog
from phift.local.programs import ENGINES, Datastores, make_standins
from phift.local.server.service import Exchange, whole_body
from phift.local.site import Site
from phift.local.state.clock import Speed
from phift.local.state.folder import Folder

if TYPE_CHECKING:
    from requests import PreparedRequest

HOST = "in-process.phift.invalid"  # RFC 6761: no resolver may know a name in "invalid"
_numbers = itertools.count(1)  # each workspace has a port of its own: the SDK keeps what it learned of one by its name
_doors: dict[str, _Door] = {}
_Sent = tuple[str, str, Mapping[str, str], bytes]  # method, path with query, headers by small letters, body
_Answer = tuple[int, dict[str, str], "bytes | _Pieces"]  # status, headers, body
_changing = threading.RLock()  # a forgotten workspace may be collected, and closed, while it is held
_real = HTTPAdapter.get_connection_with_tls_context


@contextmanager
def served_here(folder: Path, speed: Speed = "fast", datastores: Datastores | None = None) -> Iterator[Connection]:
    """Serve a folder to this process, with the instant engine, until the end of the block.

    Nothing outside the process reaches it. The class ``requests.adapters.HTTPAdapter`` is changed while at least one
    block is open, for the workspaces' own host name only; any number of them may be open at once, in any threads. At
    the end all threads of a workspace have ended; what is asked then, or by a process that was forked meanwhile, is
    refused as where nobody listens.

    Raises `phift.errors.LocalWorkspaceError` for a folder that is served already, here or by a server.
    """
    place = Folder(folder.absolute())
    place.make()
    place.bundle.touch()  # no authority of its own: there is no TLS
    port = next(_numbers)
    where = f"{HOST}:{port}"
    with ExitStack() as stack:
        if not stack.enter_context(place.claimed()):
            what = "This local workspace is served already."
            raise LocalWorkspaceError(what, where=str(place.root), fix="stop the other one, or name another folder")
        names = [model["name"] for model in catalog.foundation_models()]
        make_standins(place.registry, [name for name in names if not (place.registry / name).is_dir()])
        site = Site(place, f"https://{where}", ENGINES["instant"], speed)
        stack.callback(site.close)
        remember(site.documents, datastores=datastores)  # the workspace's age is this note's (`services/arm.py`)
        site.start()
        stack.callback(site.operations.reset)
        stack.callback(site.training.stop)  # before: what its job sleeps for is no longer waited for then
        door = _Door(site, port)
        stack.callback(door.shut)
        stack.enter_context(_reachable(where, door))
        IN_PROCESS[place.root] = Connection(site.base_url, place.bundle, place.root)
        stack.callback(IN_PROCESS.pop, place.root)
        owner = os.getpid()
        try:
            yield IN_PROCESS[place.root]
        finally:
            if os.getpid() != owner:  # what is to be ended is the parent's
                stack.pop_all()


@contextmanager
def _reachable(where: str, door: _Door) -> Iterator[None]:
    global _real
    with _changing:
        _doors[where] = door
        # Ours may be there already: whoever patched it inside of a block, and took that back after it, has put it back.
        if HTTPAdapter.get_connection_with_tls_context is not _connection:
            _real = HTTPAdapter.get_connection_with_tls_context
            HTTPAdapter.get_connection_with_tls_context = _connection  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        with _changing:
            del _doors[where]
            if not _doors and HTTPAdapter.get_connection_with_tls_context is _connection:
                HTTPAdapter.get_connection_with_tls_context = _real  # type: ignore[method-assign]


def _connection(adapter: HTTPAdapter, request: PreparedRequest, *arguments: Any, **options: Any) -> ConnectionPool:
    door = _doors.get(urlsplit(request.url or "").netloc.lower())
    return door or _real(adapter, request, *arguments, **options)


class _Door(HTTPConnectionPool):
    """Connections to a workspace in this process, which cost nothing: each request has a new one.

    Each is answered in a thread of its own, so that a client's timeout is one here too; none of a pool's: however many
    requests are delayed, the next one is answered, and a program that ends does not wait for them.
    """

    def __init__(self, site: Site, port: int) -> None:
        super().__init__(HOST, port)
        self._site = site
        self._process = os.getpid()
        self._closing = threading.Event()
        self._change = threading.RLock()
        self._threads: set[threading.Thread] = set()

    def _get_conn(self, timeout: float | None = None) -> Any:
        return _Connection(self)

    def _put_conn(self, conn: Any) -> None:
        """Forget it."""

    def shut(self) -> None:
        """Answer what has been asked, without the delays that were ordered, and nothing more."""
        with self._change:
            self._closing.set()
        for thread in self._threads:
            thread.join()

    def ask(self, sent: _Sent, timeout: float | None) -> _Answer:
        """Return the answer; raises what a connection raises that breaks."""
        answer: Future[_Answer] = Future()

        def work() -> None:
            try:
                answer.set_result(self._answer(*sent))
            except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for the answer
                answer.set_exception(error)

        refusal = ConnectionRefusedError(errno.ECONNREFUSED, "The workspace is closed, or in another process")
        if os.getpid() != self._process:  # a forked child has none of the threads
            raise refusal
        with self._change:
            if self._closing.is_set():
                raise refusal
            thread = threading.Thread(target=work, name="phift-in-process", daemon=True)
            thread.start()
            self._threads = {each for each in self._threads if each.is_alive()} | {thread}
        return answer.result(timeout)

    def _answer(self, method: str, address: str, headers: Mapping[str, str], sent: bytes) -> _Answer:
        url = urlsplit(address)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        exchange = Exchange(self._site, method, unquote(url.path), query, headers)
        taking = len(sent) / exchange.slow if exchange.slow and exchange.cut != "before" else 0
        self._closing.wait(exchange.delay + taking)
        exchange.admit()
        exchange.take(sent)
        reply = exchange.reply()
        if exchange.cut in ("before", "after"):
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        if reply.stream and reply.close and not exchange.cut:
            return reply.status, dict(reply.headers), _Pieces(reply.stream, reply.close)
        body = whole_body(reply)
        described = {"Content-Length": str(len(body)), **reply.headers}
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

    def __init__(self, door: _Door) -> None:
        super().__init__(door.host, door.port)
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
        kind = _Streamed if isinstance(body, _Pieces) else HTTPResponse
        return kind(
            io.BytesIO(body) if isinstance(body, bytes) else body,
            headers,
            status,
            version=11,
            version_string="HTTP/1.1",
            reason=http.client.responses.get(status),
            request_method=self._sent[0],
            request_url=self._sent[1],
            **self._options,
        )


class _Pieces(io.RawIOBase):
    """The body of an answer that is made while it is read."""

    def __init__(self, stream: Iterator[bytes], close: Callable[[], object]) -> None:
        self.stream, self._close = stream, close
        self._left = b""

    def readable(self) -> bool:
        """As it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for the next piece, where none is left."""
        self._left = self._left or next(self.stream, b"")
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)

    def read1(self, size: int = 2**16) -> bytes:
        """Return what there is of a piece, as a buffered reader does; clients read what comes so."""
        return self.read(size) or b""

    def close(self) -> None:
        """End what makes it."""
        self._close()
        super().close()


class _Streamed(HTTPResponse):
    """An answer that is read in the pieces in which it is made, as one in chunks is."""

    def stream(self, amt: int | None = 2**16, decode_content: bool | None = None) -> Generator[bytes, None, None]:
        """Yield each piece as soon as it is there."""
        body = cast(_Pieces, self._fp)
        with closing(body):
            yield from body.stream
