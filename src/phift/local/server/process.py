"""The server process of a local workspace, ``python -m phift.local.server.process FOLDER``.

`LocalWorkspace.up` starts it.

With ``--delay 0.2`` every request waits 0.2 s before it is answered, as if the service were far away; ``--engine``,
``--speed`` and ``--datastores`` are those of `LocalWorkspace`; with ``--while-input`` it ends when its standard input
does.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import errno
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, get_args

import anyio
import anyio.to_thread
import certifi
import trustme
import uvicorn
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from phift.errors import visible
from phift.local.ground import remember
from phift.local.programs import ENGINES, TAKEN, Datastores, Programs
from phift.local.server.keeping import Kept
from phift.local.server.service import Exchange, whole_body
from phift.local.site import Site
from phift.local.state.clock import Speed
from phift.local.state.documents import Documents
from phift.local.state.faults import METHODS
from phift.local.state.folder import Folder, write_private
from phift.local.state.served import Served, note_process, noted_process
from phift.version import __version__

logger = logging.getLogger(__name__)

LIFETIME = datetime.timedelta(days=365)  # of a certificate
_HEADERS_WITHIN = 20  # seconds; for TLS as many
_SILENCE = 60  # seconds that a client may pause in the middle of a body
_MOST_CONNECTIONS = 500
_RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST and not FIN


def serve(
    folder: Path,
    programs: Programs,
    speed: Speed = "real",
    delay: float = 0,
    datastores: Datastores | None = None,
) -> int:
    """Serve a folder until SIGTERM or SIGINT; returns the exit code, `TAKEN` where another process serves it already.

    - **delay**: seconds that every request waits before it is answered.
    """
    os.umask(0o077)
    place = Folder(folder)
    place.make()
    place.root.chmod(0o700)
    with place.claimed() as ours:
        if not ours:
            logger.error("another process serves %s", folder)
            return TAKEN
        note_process(place, os.getpid())
        ensure_certificates(place.root)
        write_bundle(place.root, os.environ.get("REQUESTS_CA_BUNDLE"))
        with closing(_listen(place, datastores)) as listener:
            port = listener.getsockname()[1]
            with closing(Site(place, f"https://localhost:{port}", programs, speed)) as site:
                engine = next((name for name, known in ENGINES.items() if known == programs), None)
                started = (os.getpid(), port, time.time(), __version__, engine, speed, site.datastores, delay)
                note = Served(*started).as_bytes()
                kept = Kept(place, {place.server_file: note, place.bundle: place.bundle.read_bytes()})
                server = _Server(site, delay, kept)
                site.start()
                write_private(place.server_file, note)
                logger.info("serving %s at %s", place.root, site.base_url)
                with asyncio.Runner(loop_factory=_Loop) as runner:
                    runner.run(server.serve([_Listener(listener)]))
        # What was asked for and is not served, the most frequent first.
        unserved = sorted(site.journal.ever_unserved.items(), key=lambda item: (-item[1], item[0]))
        for what, count in unserved:
            logger.warning("requests without a route, answered 501: %d x %s", count, what)
        if not unserved:
            logger.info("every request had a route")
        if noted_process(place) == os.getpid():  # where the folder was moved, another may be served in its place
            place.forget_server()
    return 0


def _listen(place: Folder, datastores: Datastores | None) -> socket.socket:
    """Listen on the port of last time, so that addresses users have kept stay good, else on any free one.

    The folder remembers both: the port, and how storage is reached.
    """
    with closing(Documents(place.database)) as documents:
        known = documents.get("server")
        try:
            listener = socket.create_server(("127.0.0.1", known.body["port"] if known else 0), backlog=128)
        except (OSError, OverflowError):  # it is taken, or no port
            listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        remember(documents, datastores=datastores, port=listener.getsockname()[1])
    # Without it the first request of every new TLS connection waits 40 ms; accepted sockets inherit it on Linux.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def ensure_certificates(folder: Path) -> None:
    """Write ``ca.pem``, ``server.pem`` and ``server-key.pem`` unless good ones are there.

    An own authority signs one certificate for localhost, then its key is thrown away.
    """
    now = datetime.datetime.now(datetime.UTC)
    if _last_until(folder, now + datetime.timedelta(days=7)):
        return
    authority = trustme.CA(path_length=0, organization_name="phift", organization_unit_name="local workspace authority")
    server = authority.issue_cert("localhost", "127.0.0.1", common_name="localhost", not_after=now + LIFETIME)
    write_private(folder / "server-key.pem", server.private_key_pem.bytes())
    write_private(folder / "ca.pem", authority.cert_pem.bytes())
    write_private(folder / "server.pem", server.cert_chain_pems[0].bytes())


def _last_until(folder: Path, end: datetime.datetime) -> bool:
    """Tell whether the three are there and whole, belong together, and are good until then."""
    try:
        authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
        key = load_pem_private_key((folder / "server-key.pem").read_bytes(), None)
        server.verify_directly_issued_by(authority)
    except (OSError, ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return key.public_key() == server.public_key() and end < server.not_valid_after_utc


def write_bundle(folder: Path, existing: str | None) -> Path:
    """Write ``bundle.pem``: the machine's authorities and ours, so that one variable serves all connections.

    - **existing**: the value of ``REQUESTS_CA_BUNDLE``, a file or a folder; certifi's list where it is empty.
    """
    bundle, source = folder / "bundle.pem", Path(existing or certifi.where())
    # A left-over of a workspace that is gone; or already ours, and the file would grow with every start.
    if not source.exists() or (bundle.exists() and source.samefile(bundle)):
        source = Path(certifi.where())
    files = sorted(source.glob("*")) if source.is_dir() else [source]
    texts = [file.read_bytes().strip() for file in files if file.is_file()]
    authorities = [text for text in texts if b"BEGIN CERTIFICATE" in text]
    write_private(bundle, b"\n".join([*authorities, (folder / "ca.pem").read_bytes()]))
    return bundle


class _Server(uvicorn.Server):
    """Serves a site until a signal comes: brings requests to the service, cuts connections on order, writes the log.

    Signals are ours and not uvicorn's, for the order of things: the engine must be stopped while it can still reach the
    server, or it would take the silence for a failure of the job.
    """

    def __init__(self, site: Site, delay: float, kept: Kept) -> None:
        config = uvicorn.Config(
            Starlette(routes=[Route("/{path:path}", self._answer, methods=METHODS)]),
            http=_Connection,
            lifespan="off",
            access_log=False,  # ours is one line a request, without the query, where signatures travel
            log_config=None,
            ssl_certfile=str(site.folder.root / "server.pem"),
            ssl_keyfile=str(site.folder.root / "server-key.pem"),
            timeout_keep_alive=120,
            timeout_graceful_shutdown=1,  # seconds for what is open when the end comes
            server_header=False,
        )
        super().__init__(config)
        self._site, self._delay, self._kept = site, delay, kept
        # Scoring may take minutes; with threads of its own, of which most wait, it cannot hold up everything else.
        self._scoring_threads = anyio.CapacityLimiter(_MOST_CONNECTIONS)
        self._told = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn takes them when it runs, and gives them back then
            signal.signal(number, self.handle_exit)

    def handle_exit(self, *_signal: object) -> None:
        self._told.set()

    async def main_loop(self) -> None:
        """Wait for the end; wakes once a second for the ``Date`` of its answers, and not ten times, to cost little.

        The end comes too when the folder is gone: nobody could find the server again.
        """
        await self.on_tick(0)
        while not await asyncio.to_thread(self._told.wait, 1):
            await self.on_tick(0)
            if lost := self._kept.lost():
                logger.error("%s is not there any more or is another one; the server ends", lost)
                break
        await asyncio.to_thread(self._site.training.stop)

    async def _answer(self, request: Request) -> Response:
        started = time.perf_counter()
        # In the event loop and not in a thread of the pool: any number of requests wait at once, as in a network.
        await asyncio.sleep(self._delay)
        # `request.url.path` would cut the decoded path at a decoded ``#`` or ``?``.
        asked = (request.method, str(request.scope["path"]), request.query_params, request.headers)
        exchange = Exchange(self._site, *asked)
        end = _End.GONE if exchange.cut == "before" else await _take_body(request, exchange)
        await asyncio.sleep(exchange.delay)
        limiter = self._scoring_threads if exchange.path.startswith("/inference/") else None
        answer = partial(exchange.reply, gone=end is _End.GONE)
        reply = await anyio.to_thread.run_sync(answer, limiter=limiter)
        milliseconds = (time.perf_counter() - started) * 1000
        logger.info("%s %s %d %.1f ms", request.method, exchange.path[:500], reply.status, milliseconds)
        if end is not _End.WHOLE:
            reply = replace(reply, headers={**reply.headers, "Connection": "close"})
        if exchange.cut == "half":
            return _Half(whole_body(reply), reply.status, reply.headers)
        if exchange.cut:
            return _Reset()
        if reply.stream is not None:
            stream = _pieces(reply.stream, reply.close, limiter) if reply.close else reply.stream
            return StreamingResponse(stream, reply.status, reply.headers)
        return Response(reply.body, reply.status, reply.headers)


async def _pieces(
    stream: Iterator[bytes], close: Callable[[], object], limiter: anyio.CapacityLimiter | None
) -> AsyncIterator[bytes]:
    """Yield each piece as soon as it is there, and end what makes them where the client goes away before it."""
    try:
        while piece := await anyio.to_thread.run_sync(next, stream, b"", abandon_on_cancel=True, limiter=limiter):
            yield piece
    finally:
        asyncio.get_running_loop().run_in_executor(None, close)


class _End(Enum):
    """How the taking of a body has ended: with all of it, with what was wanted of it, or without its client."""

    WHOLE = 1
    PART = 2
    GONE = 3


async def _take_body(request: Request, exchange: Exchange) -> _End:
    """Hand a request's body over, once it is known that the request may be carried out."""
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        await anyio.to_thread.run_sync(exchange.admit)
    now = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(_SILENCE) as patience:
            async for chunk in request.stream():
                if not exchange.take(chunk):
                    return _End.PART
                if exchange.slow:
                    patience.reschedule(None)
                    await asyncio.sleep(len(chunk) / exchange.slow)
                if not exchange.refused:  # with one that is refused, all of it takes no longer
                    patience.reschedule(now() + _SILENCE)
    except (ClientDisconnect, TimeoutError):
        return _End.GONE
    return _End.WHOLE


class _Listener(socket.socket):
    """Accepts so many connections at once as can be served; more wait until others have ended."""

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._accepted: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """As a socket's; raises `OSError` where there are too many, for which asyncio looks again in a second."""
        self._accepted = [each for each in self._accepted if each.fileno() >= 0]
        if len(self._accepted) >= _MOST_CONNECTIONS:
            raise OSError(errno.EMFILE, f"There are {_MOST_CONNECTIONS} connections, and no more are served at once")
        connection, address = super().accept()
        self._accepted.append(connection)
        return connection, address


class _Loop(asyncio.SelectorEventLoop):
    """Ends connections that do not get through with TLS, sooner than after a minute."""

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        return await super().create_server(*arguments, **options, ssl_handshake_timeout=_HEADERS_WITHIN)


class _Connection(H11Protocol):
    """One connection, which the application finds in the state of its scope.

    It ends where the headers of a request do not come within some seconds of their beginning, or of the connection's.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.trailing_data[0]:  # the beginning of the next request came with this one
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._late:
            self._late.cancel()

    def _expect_headers(self) -> None:
        expected = self.cycle is None or self.cycle.response_complete
        if expected and self._late is None:
            self._late = self.loop.call_later(_HEADERS_WITHIN, self.transport.abort)
        elif self._late is not None and not expected:
            self._late.cancel()
            self._late = None


class _Reset(Response):
    """No answer: the client sees its connection reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport: asyncio.Transport = scope["state"]["transport"]
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        await _end(transport, receive)


class _Half(Response):
    """An answer that breaks off in the middle of its body; one without a body is no answer at all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.body and scope["method"] != "HEAD":
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})
            await asyncio.sleep(0.05)  # for what has been written to leave
        await _end(scope["state"]["transport"], receive)


async def _end(transport: asyncio.Transport, receive: Receive) -> None:
    transport.abort()
    while (await receive())["type"] != "http.disconnect":  # until uvicorn knows, or it would answer by itself
        pass


def main(programs: Programs | None = None) -> None:
    """Run the server for the folder on the command line.

    - **programs**: the commands of the other processes, for tests.
    """
    parser = argparse.ArgumentParser("python -m phift.local.server.process", description="Serve a local workspace.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--datastores", choices=get_args(Datastores))
    parser.add_argument("--delay", type=float, default=0, help="seconds that every request waits")
    parser.add_argument("--engine", choices=ENGINES, default="train")
    parser.add_argument("--speed", choices=get_args(Speed), default="real")
    parser.add_argument("--while-input", action="store_true", help="end when the standard input does")
    arguments = parser.parse_args()
    shown = logging.StreamHandler()
    shown.setFormatter(_Visible("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[shown])
    logging.Formatter.converter = time.gmtime
    for name in ("uvicorn.error", "azure"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if arguments.while_input:
        threading.Thread(target=_end_with_input, daemon=True).start()
    programs = programs or ENGINES[arguments.engine]
    sys.exit(serve(arguments.folder, programs, arguments.speed, arguments.delay, arguments.datastores))


class _Visible(logging.Formatter):
    """Shows what is in requests, and would end a line or be for a terminal, as it is: the log is read in one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return visible(super().formatMessage(record), lines=False)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return visible(super().formatException(ei))


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
