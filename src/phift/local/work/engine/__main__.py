"""The engine's process: ``python -m phift.local.work.engine JOB_JSON``; see the package for what it does.

- stdout carries events only, one JSON object a line; all other output goes to the running step's log.
- End of stdin, which the parent holds open, ends the process at once with code 75.
- Exit code 0: every step completed. 1: a step failed, and its event says why.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TextIO

from phift.component.inputs import STEPS
from phift.local.work.engine import environment, failure
from phift.local.work.engine.job import Job, Step

_MODULES = dict(zip(STEPS, ("validate", "model_import", "preprocess", "finetune", "convert"), strict=True))
_ABANDONED = 75


def main(path: str) -> int:
    """Run the steps that are not completed yet, in order, and return the exit code."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    environment.prepare()
    job = Job.load(Path(path))
    for step in job.steps:
        if step.status != "Completed" and not _run(step, job, events):
            return 1
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(_ABANDONED)


def _run(step: Step, job: Job, events: TextIO) -> bool:
    """Run one step and report it; False if it failed."""
    _send(events, step, "Running")
    _log_to(step.log)
    try:
        importlib.import_module(f"phift.local.work.engine.{_MODULES[step.name]}").run(job)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the step's result, and is reported
        traceback.print_exc()
        _flush()
        _send(events, step, "Failed", {"code": failure.code(error), "message": failure.one_line(error)})
        return False
    _flush()
    _send(events, step, "Completed")
    return True


def _log_to(path: Path) -> None:
    """Make ``path`` the place of everything written to stdout and stderr, by this process and its children."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _send(events: TextIO, step: Step, status: str, error: dict[str, str] | None = None) -> None:
    event: dict[str, object] = {"event": "step", "name": step.name, "status": status}
    if error:
        event["error"] = error
    events.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # stdout is a TextIOWrapper here
    sys.exit(main(sys.argv[1]))
