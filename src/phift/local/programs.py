"""What runs in a local workspace: the commands of its processes, or what stands for them in the one that serves.

The engine ``instant`` does nothing, at once, for tests of what is around a training. It stands for the training engine,
the scorer and the maker of the stand-in models, and needs neither torch nor a process. What it leaves says that it is
empty: no metric is logged, no weight is written, no answer is a model's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phift.errors import PhiftError
from phift.local.pending import Pending
from phift.local.question import Sampling, check_question

Datastores = Literal["accesskey", "identity", "keys-off"]
"""How storage is reached: by a key, by the caller's own token, or by a key that the storage account does not take.

The first two are the workspace's ``systemDatastoresAuthMode``; with the third it is ``accesskey`` still.
"""

Engine = Literal["train", "instant"]
TAKEN = 3  # the exit code of a server whose folder another process serves already
TOO_LARGE = 77  # that of a process that reads a model and wants more memory than it may have
Command = tuple[str, ...]
NOTE = "This is empty: the local workspace's engine is 'instant', and no model has been trained."
EMPTY = "EMPTY.txt"  # the file that says it, in every folder
_MLMODEL = """\
flavors:
  transformers:
    task: llm/v1/chat
metadata:
  phift.empty: 'true'
"""


def train_at_once(file: Path) -> Iterator[dict[str, str]]:
    """Complete every step of the job that a file describes; yields the events of `phift.local.work.engine`."""
    job = json.loads(file.read_text(encoding="utf-8"))
    for step in job["steps"]:
        if step["status"] != "Completed":
            yield {"event": "step", "name": step["name"], "status": "Running"}
            with Path(step["log"]).open("a", encoding="utf-8") as log:
                log.write(f"{NOTE}\n")
            yield {"event": "step", "name": step["name"], "status": "Completed"}
    for name, folder in job["outputs"].items():
        _leave(Path(folder), model=name == "mlflow_model_folder")


class InstantScorer:
    """Answers every conversation with `NOTE`; it has no tokens, so words are counted in their place."""

    def serves(self) -> bool:
        """Whether it may be asked still: it never ends."""
        return True

    def open(self, request: dict[str, Any], timeout: float) -> Pending:
        """Say a text for each conversation, at once: in words, where it is to be streamed."""
        pending, conversations = Pending(timeout), request["conversations"]
        if request.get("tools"):
            pending.say({"error": {"message": "The engine 'instant' has no model that takes tools.", "param": "tools"}})
            return pending
        try:
            most = Sampling.read(request.get("parameters") or {}).max_new_tokens
            for each in conversations:
                check_question(each)
        except PhiftError as error:
            pending.say({"error": {"message": " ".join(str(error).split())}})
            return pending
        text = NOTE
        for stop in request.get("stop") or ():
            text = text.partition(stop)[0]
        words = re.findall(r"\s*\S+", text)
        said, finish = words[:most], "length" if most < len(words) else "stop"
        if request.get("stream"):
            pending.say(*({"piece": word} for word in said))
        asked = [sum(len(message["content"].split()) for message in each) for each in conversations]
        usage = [{"prompt": prompt, "completion": len(said)} for prompt in asked]
        pending.say({"texts": ["".join(said)] * len(asked), "finish": [finish] * len(asked), "usage": usage})
        return pending

    def stop(self) -> None:
        """Do nothing."""


def make_standins(folder: Path, names: Sequence[str]) -> None:
    """Write a folder for each model; see `phift.local.work.standin` for the real ones."""
    for name in names:
        _leave(folder / name, model=True)


def _leave(folder: Path, *, model: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EMPTY).write_text(f"{NOTE}\n", encoding="utf-8")
    if model:
        (folder / "MLmodel").write_text(_MLMODEL, encoding="utf-8")


@dataclass(frozen=True)
class Programs:
    """The commands of the other processes, or what stands for them; tests put small fakes here."""

    server: Command = (sys.executable, "-m", "phift.local.server.process")
    standin: Command | Callable[[Path, Sequence[str]], None] = (sys.executable, "-m", "phift.local.work.standin")
    adding: Command = (sys.executable, "-m", "phift.local.work.adding")
    preparation: Command = (sys.executable, "-m", "phift.local.work.preparing")
    engine: Command | Callable[[Path], Iterator[dict[str, str]]] = (sys.executable, "-m", "phift.local.work.engine")
    scorer: Command | type[InstantScorer] = (sys.executable, "-m", "phift.local.work.scorer")


ENGINES: dict[Engine, Programs] = {
    "train": Programs(),
    "instant": Programs(standin=make_standins, engine=train_at_once, scorer=InstantScorer),
}
"""The programs of each engine: ``train`` really trains, ``instant`` does nothing and says so in what it leaves."""
