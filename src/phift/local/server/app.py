"""The ASGI application: brings requests to the service, shapes answers and what breaks, writes the request log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from phift.local.server import connections
from phift.local.server.service import LARGEST_BODY, Exchange, Service, content
from phift.local.site import Site
from phift.local.wire.call import Reply

logger = logging.getLogger(__name__)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
_SCORING_THREADS = 40


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
        return connections.Reset(request)
    response = _response(reply)
    return connections.Half(request, response) if exchange.cut else response


async def _reply(exchange: Exchange, request: Request, scoring_threads: anyio.CapacityLimiter) -> Reply:
    try:
        # All of the body is taken in any case: to a client, an answer in the middle of its upload is a broken pipe.
        body = await _body(request, exchange.slow)
    except ClientDisconnect:
        # Nobody is left to read it; the number is the one that proxies log for this.
        return Reply(None, 499)
    await asyncio.sleep(exchange.delay)
    # Scoring may take minutes; with threads of its own it cannot hold up everything else.
    limiter = scoring_threads if exchange.path.startswith("/inference/") else None
    return await anyio.to_thread.run_sync(exchange.reply, request.query_params, request.headers, body, limiter=limiter)


async def _body(request: Request, slow: int) -> bytes:
    """Return the body; of one that is too large, enough to refuse it."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        chunks.append(chunk)
        if size > LARGEST_BODY:
            break
        if slow:
            await asyncio.sleep(len(chunk) / slow)
    return b"".join(chunks)


def _response(reply: Reply) -> Response:
    if reply.stream is not None:
        return StreamingResponse(reply.stream, reply.status, reply.headers, reply.media_type)
    return Response(content(reply), reply.status, reply.headers, None if reply.body is None else reply.media_type)


def configure_logging() -> None:
    """Send this process's log to its output; only the server process calls this."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("uvicorn.error", "azure"):
        logging.getLogger(name).setLevel(logging.WARNING)
