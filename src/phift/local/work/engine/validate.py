"""Step 1: the inputs are there, readable and fit together, before anything is computed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import fields

from phift.component.inputs import known_inputs
from phift.component.preprocessing import SPLITS, SUFFIXES
from phift.component.settings import Settings, deepspeed_mistake
from phift.errors import DataError, ModelError, ParameterError
from phift.local.work.engine.job import Job

_log = logging.getLogger(__name__)


def run(job: Job) -> None:
    """Check the files, every literal, and what the component's own code demands of them together."""
    if tables := [f"{split}_mltable_path" for split in SPLITS if f"{split}_mltable_path" in job.inputs]:
        raise DataError("The local workspace reads no MLTable.", where=tables[0], fix="give a JSONL or parquet file")
    if "train_file_path" not in job.inputs:
        raise DataError("There is no training data.", where="train_file_path", fix="give train_file_path")
    for split in SPLITS:
        name = f"{split}_file_path"
        if not (path := job.input_path(name)):
            continue
        if not path.is_file():
            raise DataError(f"{name} is not a file.", where=str(path), fix="give one file")
        if path.suffix not in SUFFIXES:
            what = f"{name} ends in {path.suffix or 'nothing'!r}."
            raise DataError(what, where=path.name, fix=f"use one of: {', '.join(SUFFIXES)}")
        if set(path.name) & set("'\\"):
            what = f"The name of {name} has a quote or backslash, which breaks the component's command line."
            raise DataError(what, where=path.name, fix="rename the file")
        if not path.stat().st_size:
            raise DataError(f"{name} is empty.", where=path.name, fix="give at least ten training rows")
    if not job.input_path("mlflow_model_path"):
        other = next((name for name in ("pytorch_model_path", "huggingface_id") if name in job.inputs), None)
        what = f"The local workspace takes no {other}." if other else "There is no model."
        raise ModelError(what, where=other or "mlflow_model_path", fix="give mlflow_model_path")
    settings = Settings.parse(job.inputs)
    # A configuration of the user's own is not used here, but would be on Azure.
    if settings.apply_deepspeed and (path := job.input_path("deepspeed")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            document = None
        if mistake := deepspeed_mistake(document):
            what, fix = f"The DeepSpeed configuration cannot be used: {mistake[0]}.", mistake[1]
            raise ParameterError(what, where="deepspeed", fix=fix)
    for name in not_applied(job.inputs):
        _log.info("not applied here: %s", name)
    _log.info("%d inputs are valid", len(job.inputs))


def not_applied(inputs: Mapping[str, str]) -> list[str]:
    """Return the given inputs that differ from the component's default and mean nothing on the CPU of one machine.

    Those choose machines, GPU software, or what only Azure has.
    """
    used = {field.name for field in fields(Settings)} - {"apply_deepspeed", "deepspeed", "deepspeed_stage"}
    used |= {"task_name", "huggingface_id", "number_of_gpu_to_use_finetuning"}
    return [
        name
        for name, known in known_inputs().items()
        if name in inputs and inputs[name] != str(known.default) and name not in used and not name.endswith("_path")
    ]
