"""The step that prepares data, run with the phift that is installed here; `services.plans` tells which step that is.

The step's process, ``python -m phift.local.work.preparing STEP_JSON``, speaks as the training engine's does: events on
stdout, everything else in the step's log, and the end of stdin ends it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from phift.data import on_cluster

_ABANDONED = 75
_FAILED = (
    "Execution failed. User process 'python' exited with status code 1. "
    "Please check log file 'user_logs/std_log.txt' for error details. Error: "
)


def main(file: str) -> int:
    """Prepare the data as the file says, and return the exit code."""
    step = json.loads(Path(file).read_text(encoding="utf-8"))
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    log = os.open(step["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    tempfile.tempdir = step["work"]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    events.write(json.dumps({"name": step["name"], "status": "Running"}) + "\n")
    reason = _failure(step["arguments"])
    sys.stdout.flush()
    error = {"code": "UserError", "message": _FAILED + reason}
    ended = {"status": "Failed", "error": error} if reason else {"status": "Completed"}
    events.write(json.dumps({"name": step["name"], **ended}) + "\n")
    return 1 if reason else 0


def _failure(arguments: list[str]) -> str:
    """Run the step, and return why it failed, in a line; an empty text where it did not."""
    try:
        on_cluster.main(arguments)
    except SystemExit as ended:
        sys.stderr.write(f"{ended.code}\n")
        return str(ended.code).partition("\n")[0]
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the step's result, and is reported
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return ""


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(_ABANDONED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
