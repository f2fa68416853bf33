"""The ASGI application: brings requests to the service, cuts connections on order, writes the request log."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from phift.local.server.service import LARGEST_BODY, Exchange, Service, content
from phift.local.site import Site
from phift.local.wire.call import Reply

logger = logging.getLogger(__name__)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
_SCORING_THREADS = 40
_LEAVING = 0.05  # seconds for what has been written to leave
_RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST and not FIN


def create_app(site: Site, delay: float = 0) -> Starlette:
    """Return the application that serves ``site``, with its background work tied to the application's life.

    - **delay**: seconds that every request waits before anything is done for it.
    """
    service = Service(site)
    scoring_threads = anyio.CapacityLimiter(_SCORING_THREADS)

    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        await run_in_threadpool(service.stop)

    async def answer(request: Request) -> Response:
        started = time.perf_counter()
        if delay:
            # In the event loop and not in a thread of the pool: any number of requests wait at once, as in a network.
            await asyncio.sleep(delay)
        # `request.url.path` would cut the decoded path at a decoded ``#`` or ``?``.
        exchange = service.admit(request.method, str(request.scope["path"]))
        response = await _respond(exchange, request, scoring_threads)
        milliseconds = (time.perf_counter() - started) * 1000
        logger.info("%s %s %d %.1f ms", request.method, exchange.path, response.status_code, milliseconds)
        return response

    return Starlette(routes=[StarletteRoute("/{path:path}", answer, methods=METHODS)], lifespan=life)


async def _respond(exchange: Exchange, request: Request, scoring_threads: anyio.CapacityLimiter) -> Response:
    """Answer a request, or do to it what has been ordered."""
    reply = Reply()
    if exchange.cut == "before":
        await asyncio.sleep(exchange.delay)
    else:
        reply = await _reply(exchange, request, scoring_threads)
    exchange.note(reply.status)
    if exchange.cut in ("before", "after"):
        return Reset(request)
    response = Response(content(reply), reply.status, reply.headers, None if reply.body is None else reply.media_type)
    if reply.stream is not None:
        response = StreamingResponse(reply.stream, reply.status, reply.headers, reply.media_type)
    return Half(request, response) if exchange.cut else response


async def _reply(exchange: Exchange, request: Request, scoring_threads: anyio.CapacityLimiter) -> Reply:
    chunks: list[bytes] = []
    size = 0
    try:
        # All of the body is taken in any case: to a client, an answer in the middle of its upload is a broken pipe.
        # Of one that is too large it is enough to refuse it.
        async for chunk in request.stream():
            size += len(chunk)
            chunks.append(chunk)
            if size > LARGEST_BODY:
                break
            if exchange.slow:
                await asyncio.sleep(len(chunk) / exchange.slow)
    except ClientDisconnect:
        # Nobody is left to read it; the number is the one that proxies log for this.
        return Reply(None, 499)
    await asyncio.sleep(exchange.delay)
    # Scoring may take minutes; with threads of its own it cannot hold up everything else.
    limiter = scoring_threads if exchange.path.startswith("/inference/") else None
    body = b"".join(chunks)
    return await anyio.to_thread.run_sync(exchange.reply, request.query_params, request.headers, body, limiter=limiter)


def configure_logging() -> None:
    """Send this process's log to its output; only the server process calls this."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("uvicorn.error", "azure"):
        logging.getLogger(name).setLevel(logging.WARNING)


class Connection(H11Protocol):
    """One connection; an application knows it by the client's address."""

    transports: ClassVar[dict[tuple[str, int], asyncio.Transport]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Note the connection."""
        super().connection_made(transport)
        if self.client:
            self.transports[self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self.client:
            self.transports.pop(self.client, None)
        super().connection_lost(exc)


class Reset(Response):
    """No answer: the client sees its connection reset."""

    def __init__(self, request: Request) -> None:
        super().__init__(status_code=499)  # what proxies log where nobody got an answer
        self._client = request.client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reset the connection."""
        if self._client:
            await _end(self._client, reset=True)


class Half(Response):
    """An answer that breaks off in the middle of its body; one without a body is no answer at all."""

    def __init__(self, request: Request, whole: Response) -> None:
        super().__init__(status_code=whole.status_code)
        self._whole = whole
        self._client = request.client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head of the answer, which promises all of it, and half of the body."""
        if not self._client:
            return
        if isinstance(self._whole, StreamingResponse):
            chunks = [chunk async for chunk in self._whole.body_iterator]
            body = b"".join(chunk.encode() if isinstance(chunk, str) else bytes(chunk) for chunk in chunks)
        else:
            body = bytes(self._whole.body)
        if body and scope["method"] != "HEAD":
            headers = [(name, value) for name, value in self._whole.raw_headers if name != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await asyncio.sleep(_LEAVING)
        await _end(self._client, reset=False)


async def _end(client: tuple[str, int], *, reset: bool) -> None:
    """End a connection at once.

    - **reset**: the client sees "connection reset"; otherwise it gets what has been sent, and then the end.
    """
    transport = Connection.transports.get(client)
    if transport is None:
        return
    if reset:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
    while Connection.transports.get(client) is transport:  # until uvicorn knows, or it would answer by itself
        await asyncio.sleep(0.001)
