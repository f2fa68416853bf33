"""What the engine is asked to do: the parsed ``job.json``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from phift.errors import DataNotFound


@dataclass(frozen=True)
class Step:
    """One step of the pipeline, a child run of the job."""

    name: str
    run_id: str
    status: str
    log: Path


@dataclass(frozen=True)
class Job:
    """A job: the component's inputs as text, where results go, and the steps to run.

    - **work**: the folder for what one step hands to the next; it outlives a stopped process.
    """

    name: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, Path]
    steps: tuple[Step, ...]
    work: Path
    tracking_uri: str

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read a job from ``path``; an empty input is none."""
        document = json.loads(path.read_text(encoding="utf-8"))
        given = {name: value for name, value in document["inputs"].items() if value}
        return msgspec.convert({**document, "inputs": given}, cls, dec_hook=lambda kind, text: kind(text))

    def input_path(self, name: str) -> Path | None:
        """Return where the file or folder given as ``name`` is, None if none was given."""
        if name not in self.inputs:
            return None
        path = Path(self.inputs[name])
        if not path.exists():
            raise DataNotFound(f"The input {name} is not there.", where=str(path), fix="check the path or the asset id")
        return path

    @property
    def model(self) -> Path:
        """The imported base model: weights, tokenizer and ``finetune_config.json`` in one folder."""
        return self.work / "model"

    @property
    def data(self) -> Path:
        """The tokenised splits and ``counts.json``."""
        return self.work / "data"


def empty_folder(path: Path) -> None:
    """Make ``path`` an empty folder, whatever an interrupted run left there."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
