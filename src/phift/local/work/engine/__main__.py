"""The engine's process: ``python -m phift.local.work.engine JOB_JSON``; see the package for what it does.

- stdout carries events only, one JSON object a line; all other output goes to the running step's log.
- End of stdin, which the parent holds open, ends the process at once with code 75.
- Exit code 0: every step completed. 1: a step failed, and its event says why.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import traceback
from pathlib import Path

from phift.component.inputs import STEPS
from phift.errors import PhiftError
from phift.local.work.engine import process
from phift.local.work.engine.job import Job

# Imported when its turn comes: torch and transformers take seconds.
_WORK = dict(
    zip(STEPS, ("validate.run", "models.import_base", "preprocess.run", "finetune.run", "models.convert"), strict=True)
)


def main(path: str) -> int:
    """Run the steps that are not completed yet, in order, and return the exit code."""
    events = process.own_output()
    process.end_with_parent()
    process.prepare()
    job = Job.load(Path(path))
    for step in job.steps:
        if step.status == "Completed":
            continue
        event = {"event": "step", "name": step.name}
        events.write(json.dumps({**event, "status": "Running"}) + "\n")
        process.log_to(step.log)
        ended: dict[str, object] = {"status": "Completed"}
        try:
            module, _, function = _WORK[step.name].partition(".")
            getattr(importlib.import_module(f"phift.local.work.engine.{module}"), function)(job)
        except Exception as error:  # noqa: BLE001 - whatever went wrong is the step's result, and is reported
            traceback.print_exc()
            whose = "UserError" if isinstance(error, PhiftError) else "SystemError"  # what the user can mend, or not
            ended = {"status": "Failed", "error": {"code": whose, "message": process.failure(error)}}
        process.flush()
        events.write(json.dumps(event | ended) + "\n")
        if "error" in ended:
            return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # stdout is a TextIOWrapper here
    sys.exit(main(sys.argv[1]))
