"""The step that prepares data, run with the phift that is installed here; `services.jobs` tells which step that is.

The step's process, ``python -m phift.local.work.preparing STEP_JSON``, speaks as the training engine's does: events on
stdout, everything else in the step's log, and the end of stdin ends it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path

from phift.data import on_cluster
from phift.local.work.engine import process


def main(file: str) -> int:
    """Prepare the data as the file says, and return the exit code."""
    step = json.loads(Path(file).read_text(encoding="utf-8"))
    events = process.own_output()
    process.log_to(Path(step["log"]))
    process.end_with_parent()
    tempfile.tempdir = step["work"]
    events.write(json.dumps({"name": step["name"], "status": "Running"}) + "\n")
    reason = ""
    try:
        on_cluster.main(step["arguments"])
    except SystemExit as ended:
        sys.stderr.write(f"{ended.code}\n")
        reason = str(ended.code)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the step's result, and is reported
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    process.flush()
    outcome: dict[str, object] = {"status": "Completed"}
    if reason:
        message = "Execution failed. User process 'python' exited with status code 1. Please check log file "
        message += "'user_logs/std_log.txt' for error details. Error: " + reason.partition("\n")[0]
        outcome = {"status": "Failed", "error": {"code": "UserError", "message": message}}
    events.write(json.dumps({"name": step["name"], **outcome}) + "\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
