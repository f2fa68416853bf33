"""Programs that do nothing, at once, for tests of what is around a training.

They are ``python -m phift.local.work.instant WHICH …``.

They speak as the training engine, the scorer and the maker of the stand-in models do, and need neither torch nor
transformers. What they leave says that it is empty: no metric is logged, no weight is written, no answer is a model's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NOTE = "This is empty: the local workspace's engine is 'instant', and no model has been trained."
EMPTY = "EMPTY.txt"  # the file that says it, in every folder
_ABANDONED = 75
_MLMODEL = """\
flavors:
  transformers:
    task: llm/v1/chat
metadata:
  phift.empty: 'true'
"""


def engine(arguments: list[str]) -> None:
    """Complete every step of the job that the file describes; see `phift.local.work.engine` for the real one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    for step in job["steps"]:
        if step["status"] != "Completed":
            _send({"event": "step", "name": step["name"], "status": "Running"})
            with Path(step["log"]).open("a", encoding="utf-8") as log:
                log.write(f"{NOTE}\n")
            _send({"event": "step", "name": step["name"], "status": "Completed"})
    for name, folder in job["outputs"].items():
        _leave(Path(folder), model=name == "mlflow_model_folder")


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(_ABANDONED)


def scorer(_arguments: list[str]) -> None:
    """Answer every conversation with `NOTE`; see `phift.local.work.scorer` for the ways of the real one."""
    _send({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        _send({"id": request["id"], "texts": [NOTE] * len(request["conversations"])})


def standin(arguments: list[str]) -> None:
    """Write a folder for each model, ``FOLDER NAME [NAME…]``; see `phift.local.work.standin` for the real ones."""
    for name in arguments[1:]:
        _leave(Path(arguments[0]) / name, model=True)


def _leave(folder: Path, *, model: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EMPTY).write_text(f"{NOTE}\n", encoding="utf-8")
    if model:
        (folder / "MLmodel").write_text(_MLMODEL, encoding="utf-8")


def _send(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


PROGRAMS: Mapping[str, Callable[[list[str]], None]] = {"engine": engine, "scorer": scorer, "standin": standin}


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
