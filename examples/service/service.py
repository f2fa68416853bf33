"""A service that fine-tunes: submit, list, follow, cancel, deploy and chat over HTTP; phift does the work.

    PHIFT_WORKSPACE=local uvicorn --factory service:create_app --timeout-graceful-shutdown 5

It keeps nothing but the rows that it was sent: a run lives in the workspace, so that after a restart, or in another
process, everything goes on by the job's name.

Whoever reaches this service spends your money: put it behind something that knows your users.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

import phift
from phift import Clients, Endpoint, FineTuneJob, FineTuneRun, Idle, JobEvent, RunConfig, connect, errors

T = TypeVar("T")

HEARTBEAT = 15.0  # seconds after which a proxy may take a silent stream for dead
AT_ONCE = 2  # calls of the SDK: each is half work, and threads that work keep the event loop waiting
WAITING = 40  # deployments, answers and ends, of which each waits for minutes and does little
STATUS_OF = (
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.WaitTimeout, 409),  # the job has not ended yet
    (ValueError, 422),  # what was asked for cannot work, and the answer says why
)


class Asked(BaseModel):
    """What to train. There is nothing in it that names a file of this machine, or anything else that is not theirs."""

    model_config = ConfigDict(extra="forbid")

    rows: list[dict[str, Any]] = Field(min_length=1, max_length=100_000)
    model: str = "Phi-4-mini-instruct"
    parameters: dict[str, bool | int | float | str] = Field(default_factory=dict)


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, max_length=10_000)


def create_app(clients: Clients | None = None, folder: Path | None = None) -> FastAPI:
    """Return the service for a workspace: that of ``clients``, else of the variable ``PHIFT_WORKSPACE``."""
    # One for all: they share its tokens, and one poller a job.
    shared = clients or connect(workspace=os.environ.get("PHIFT_WORKSPACE"))
    _stay_responsive()
    kept = (folder or Path(os.environ.get("PHIFT_SERVICE_FOLDER", "runs"))).resolve()
    compute = os.environ.get("PHIFT_SERVICE_COMPUTE", "gpu-cluster")
    calls, waits = CapacityLimiter(AT_ONCE), CapacityLimiter(WAITING)
    deploying: dict[str, asyncio.Task[Endpoint]] = {}
    app = FastAPI(title="Fine-tuning")

    async def off(call: Callable[..., T], *given: Any, limiter: CapacityLimiter = calls) -> T:
        """Call what blocks in a thread."""
        return await to_thread.run_sync(partial(call, *given), limiter=limiter)

    @app.exception_handler(errors.PhiftError)
    async def tell(_request: Request, error: errors.PhiftError) -> JSONResponse:
        status = next((status for kind, status in STATUS_OF if isinstance(error, kind)), 502)
        return JSONResponse({"what": str(error.what), "where": error.where, "fix": error.fix}, status)

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"ok": True, "threads": threading.active_count()}

    @app.post("/runs", status_code=201)
    async def submit(asked: Asked) -> dict[str, Any]:
        job = await off(_submit, asked, compute, kept, shared)
        return {"job": job.name, "existed": job.existed}

    @app.get("/runs")
    async def runs(limit: int = 100) -> list[dict[str, Any]]:
        return [run.to_dict() for run in await off(partial(phift.runs, shared, limit=limit))]

    @app.get("/runs/{job}")
    async def run(job: str) -> dict[str, Any]:
        found = FineTuneJob(job, shared)
        return {"job": job, "status": await off(found.status), "steps": [vars(step) for step in await off(found.steps)]}

    @app.get("/runs/{job}/events")
    async def events(job: str) -> StreamingResponse:
        stream = FineTuneJob(job, shared).watch().events(idle=HEARTBEAT)
        first = await anext(stream)  # so that there is no stream of a job that there is not
        return StreamingResponse(_told(first, stream), headers=NOT_KEPT, media_type="text/event-stream")

    @app.post("/runs/{job}/cancel")
    async def cancel(job: str) -> dict[str, Any]:
        await off(FineTuneJob(job, shared).cancel, limiter=waits)
        return await run(job)

    @app.post("/runs/{job}/endpoint", status_code=202)
    async def deploy(job: str) -> dict[str, str]:
        if job not in deploying or deploying[job].done():
            attached = await off(FineTuneRun.attach, job, shared)
            await off(attached.job.raise_for_end)
            # It finds what an earlier call made, so that a second one is no second endpoint.
            if job not in deploying or deploying[job].done():
                deploying[job] = asyncio.create_task(off(attached.deploy, limiter=waits))
        return {"state": "deploying"}

    @app.get("/runs/{job}/endpoint")
    async def endpoint(job: str) -> dict[str, str]:
        if task := deploying.get(job):
            if not task.done():
                return {"state": "deploying"}
            task.result()  # raises what went wrong
        return {"state": "ready", "name": (await off(_find_endpoint, job, shared)).name}

    @app.delete("/runs/{job}/endpoint")
    async def remove(job: str) -> dict[str, Any]:
        if (task := deploying.pop(job, None)) and not task.done():
            deploying[job] = task
            raise HTTPException(409, "It is being deployed; delete it after that.")
        attached = await off(FineTuneRun.attach, job, shared)
        return {"deleted": (await off(attached.cleanup, limiter=waits)).deleted}

    @app.post("/runs/{job}/chat")
    async def chat(job: str, asked: Question) -> dict[str, str]:
        return {"answer": await off((await deployed(job)).chat, asked.question, limiter=waits)}

    async def deployed(job: str) -> Endpoint:
        """Return the endpoint of a job: what this process deployed, or another one before."""
        if (task := deploying.get(job)) and task.done():
            return task.result()
        return await off(_find_endpoint, job, shared)

    return app


def _stay_responsive() -> None:
    """Keep the event loop from waiting for what the SDK does in threads; a whole process's settings, as it is ours."""
    # Each look through all that the SDK made at its import stops every thread for a second.
    gc.freeze()
    gc.set_threshold(100_000)
    # A thread that works is interrupted after half a millisecond instead of five.
    sys.setswitchinterval(0.0005)


NOT_KEPT = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def _told(first: JobEvent, rest: AsyncGenerator[JobEvent, None]) -> AsyncIterator[str]:
    """Yield events as a browser's `EventSource` reads them, until the job has ended or the listener has left."""
    async with aclosing(rest):
        yield _line(first)
        async for event in rest:
            yield _line(event)


def _line(event: JobEvent) -> str:
    if isinstance(event, Idle):
        return ": still there\n\n"
    return f"event: {event.kind}\ndata: {json.dumps(event.to_dict())}\n\n"


def _submit(asked: Asked, compute: str, folder: Path, clients: Clients) -> FineTuneJob:
    rows = "".join(f"{json.dumps(row)}\n" for row in asked.rows).encode()
    name = hashlib.sha256(rows).hexdigest()[:16]  # the same rows are the same file, and the same run the same job
    file = folder / f"rows-{name}.jsonl"
    if not file.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = folder / f"{file.name}.{threading.get_ident()}"
        written.write_bytes(rows)
        written.replace(file)
    config = RunConfig(
        model=asked.model, data=file, compute=compute, parameters=asked.parameters, work_dir=folder / "work"
    )
    if config.parameter_files:  # what they name lies on this machine, or is somebody else's
        raise HTTPException(422, f"{', '.join(config.parameter_files)}: files cannot be given here")
    return FineTuneRun(config, clients).submit()


def _find_endpoint(job: str, clients: Clients) -> Endpoint:
    run = FineTuneRun.attach(job, clients)
    return Endpoint(clients, run.endpoint_name, run.config.deployment)
