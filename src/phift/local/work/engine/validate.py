"""Step 1: the inputs are there, readable and fit together, before anything is computed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from phift.errors import DataError, ModelError, ParameterError
from phift.local.work.engine.job import Job
from phift.local.work.engine.parameters import Parameters, not_applied

_log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def run(job: Job) -> None:
    """Check the files, every literal, and what the component's own code demands of them together."""
    _check_data(job)
    _check_model(job)
    parameters = Parameters.read(job.inputs)
    check_together(parameters)
    _check_deepspeed(job, parameters)
    for name in not_applied(job.inputs):
        _log.info("not applied on CPU: %s", name)
    _log.info("%d inputs are valid", len(job.inputs))


def _check_data(job: Job) -> None:
    tables = [f"{split}_mltable_path" for split in SPLITS if f"{split}_mltable_path" in job.inputs]
    if tables:
        raise DataError("The local workspace reads no MLTable.", where=tables[0], fix="give a JSONL or parquet file")
    if "train_file_path" not in job.inputs:
        raise DataError("There is no training data.", where="train_file_path", fix="give train_file_path")
    for split in SPLITS:
        name = f"{split}_file_path"
        path = job.input_path(name)
        if path is None:
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


def _check_model(job: Job) -> None:
    if job.input_path("mlflow_model_path"):
        return
    other = next((name for name in ("pytorch_model_path", "huggingface_id") if name in job.inputs), None)
    what = f"The local workspace takes no {other}." if other else "There is no model."
    raise ModelError(what, where=other or "mlflow_model_path", fix="give mlflow_model_path")


def check_together(parameters: Parameters) -> None:
    """Raise ``ParameterError`` for values that are each allowed but cannot work, as the component's own code would."""
    for wrong, what, fix in (*_refused_schedules(parameters), *_refused_numbers(parameters)):
        if wrong:
            raise ParameterError(what, where="parameters", fix=fix)


def _refused_schedules(parameters: Parameters) -> Iterator[tuple[bool, str, str]]:
    yield (
        parameters.apply_deepspeed and parameters.auto_find_batch_size,
        "DeepSpeed cannot be coupled with auto_find_batch_size.",
        "turn one of them off",
    )
    yield (
        parameters.apply_early_stopping and not parameters.evaluates,
        "apply_early_stopping needs evaluations, and evaluation_strategy is 'disable'.",
        "set evaluation_strategy to epoch or steps",
    )
    interval = 0 < parameters.evaluation_steps_interval <= 1
    yield (
        parameters.evaluation_strategy == "steps" and parameters.eval_steps < 1 and not interval,
        "evaluation_strategy is 'steps', but neither eval_steps nor evaluation_steps_interval says how many.",
        "set eval_steps to at least 1",
    )
    yield (
        parameters.logging_strategy == "steps" and parameters.logging_steps < 1,
        "logging_strategy is 'steps', but logging_steps is below 1.",
        "set logging_steps to at least 1",
    )
    yield (
        parameters.evaluates and parameters.metric_for_best_model != "loss",
        f"metric_for_best_model is {parameters.metric_for_best_model!r}, which the component never computes.",
        "set it to loss",
    )


def _refused_numbers(parameters: Parameters) -> Iterator[tuple[bool, str, str]]:
    yield parameters.learning_rate <= 0, "learning_rate is not above 0.", "try 2e-5"
    steps = parameters.gradient_accumulation_steps
    yield steps < 1, "gradient_accumulation_steps is below 1.", "set it to at least 1"
    yield parameters.warmup_steps < 0, "warmup_steps is below 0.", "set it to 0 or more"
    yield parameters.apply_lora and parameters.lora_r < 1, "lora_r is below 1.", "try 8"
    yield not 0 <= parameters.lora_dropout < 1, "lora_dropout is not from 0 up to below 1.", "try 0.0"
    length = parameters.max_seq_length
    yield length != -1 and length < 1, "max_seq_length is neither -1 nor positive.", "-1 is the model's own limit"
    stopping = parameters.apply_early_stopping
    yield stopping and parameters.early_stopping_patience < 1, "early_stopping_patience is below 1.", "set it to 1"


def _check_deepspeed(job: Job, parameters: Parameters) -> None:
    """Check a DeepSpeed configuration of the user's own, which is not used here but would be on Azure."""
    path = job.input_path("deepspeed")
    if path is None or not parameters.apply_deepspeed:
        return
    try:
        zero = json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]
        stage = zero["stage"]
    except (ValueError, KeyError, TypeError):
        what = "The DeepSpeed configuration has no zero_optimization.stage."
        raise ParameterError(what, where="deepspeed", fix="give a JSON file that sets it to 2 or 3") from None
    if not isinstance(stage, int):
        raise ParameterError("zero_optimization.stage is not an integer.", where="deepspeed", fix="set it to 2 or 3")
    if stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:
        what = "DeepSpeed stage 3 would not save whole weights."
        raise ParameterError(what, where="deepspeed", fix="set stage3_gather_16bit_weights_on_model_save to true")
