"""The step that prepares data, run with the phift that is installed here; `services.plans` tells which step that is.

The step's process, ``python -m phift.local.work.preparing STEP_JSON``, speaks as the training engine's does: events on
stdout, everything else in the step's log, and the end of stdin ends it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from phift.component.preprocessing import SPLITS
from phift.data import on_cluster
from phift.local.ground import Ground
from phift.local.model import files, references
from phift.local.state.documents import Document, Json

_ABANDONED = 75
_FAILED = (
    "Execution failed. User process 'python' exited with status code 1. "
    "Please check log file 'user_logs/std_log.txt' for error details. Error: "
)


def output_uris(asked: Json, child: str) -> dict[str, str]:
    """Return the address of each of the step's outputs; ``${{name}}`` in one is the step's own run.

    Microsoft Learn, "Expressions in Azure Machine Learning SDK and CLI v2", 2026-11-22.
    """
    uris = {}
    for name in (*SPLITS, on_cluster.REPORT):
        uri = asked["outputs"].get(name) or references.datastore_uri("workspaceblobstore", f"azureml/{child}/{name}")
        for expression, value in (("name", child), ("output_name", name), ("default_datastore", "workspaceblobstore")):
            uri = uri.replace(f"${{{{{expression}}}}}", value)
        uris[name] = uri
    return uris


def write_step(ground: Ground, child: Document, asked: Json, folder: Path) -> Path:
    """Write the description of the step's process and return its file."""
    places = {name: references.place(ground, uri) for name, uri in output_uris(asked, child.name).items()}
    arguments = ["--settings", asked["inputs"]["settings"]]
    for name, value in asked["inputs"].items():
        if name != "settings":
            arguments += ["--data", name, str(references.resolve(ground, value))]
    for name, place in places.items():
        arguments += [f"--{name}", str(place)]
    log = files.log_to_write(ground, child.body)
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "preparing"
    shutil.rmtree(work, ignore_errors=True)  # of an attempt that was interrupted
    work.mkdir(mode=0o700)
    file = folder / "preparation.json"
    description = {"name": on_cluster.STEP, "arguments": arguments, "log": str(log), "work": str(work)}
    file.write_text(json.dumps(description), encoding="utf-8")
    return file


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
