"""Processes that train one model together, one a GPU: each takes its share of every batch, the first one writes.

They find each other as accelerate's do, by ``RANK``, ``WORLD_SIZE`` and ``MASTER_PORT``; `worker` is one of them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack

import msgspec

from phift.errors import ModelError
from phift.local.work.engine.job import Job

_JOB = "workers.json"
FAILURE = "workers-failure.json"
_WORKER = "phift.local.work.engine.worker"


def first() -> bool:
    """Return whether this process is the one that writes: the first, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """Return in how many processes it is trained."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def run(job: Job, processes: int, environment: Mapping[str, str]) -> None:
    """Train in ``processes``; raises what one of them raised, and then none is left."""
    file, failure = job.work / _JOB, job.work / FAILURE
    file.write_bytes(msgspec.json.encode(job, enc_hook=str))
    failure.unlink(missing_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", _WORKER, str(file)]
    with ExitStack() as stack:
        running = []
        for rank in range(processes):
            own = {**together, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            worker = stack.enter_context(
                subprocess.Popen(  # noqa: S603 - our own program
                    command, stdin=subprocess.PIPE, env={**os.environ, **environment, **own}
                )
            )
            stack.callback(worker.kill)
            running.append(worker)
        while any(worker.poll() is None for worker in running):
            if any(worker.poll() for worker in running):
                break  # the others wait for it, for ever
            time.sleep(0.1)
        codes = [worker.poll() for worker in running]
    if failure.exists():
        raise ModelError(**json.loads(failure.read_text(encoding="utf-8")))
    if any(codes):
        raise RuntimeError(f"a process of the training ended with {next(code for code in codes if code)}")
