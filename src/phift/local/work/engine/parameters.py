"""The component's literal inputs, parsed and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from phift import facts
from phift.errors import ParameterError

# Inputs that choose machines or GPU software. Everything here has no meaning on the CPU of one machine.
NOT_APPLIED = (
    "apply_deepspeed",
    "apply_ort",
    "batch_size",
    "compute_finetune",
    "compute_model_evaluation",
    "compute_model_import",
    "compute_preprocess",
    "deepspeed",
    "deepspeed_stage",
    "evaluation_config",
    "evaluation_config_params",
    "instance_type_finetune",
    "instance_type_model_evaluation",
    "instance_type_model_import",
    "instance_type_preprocess",
    "merge_lora_weights",
    "num_nodes_finetune",
    "number_of_gpu_to_use_finetuning",
    "shm_size_finetune",
    "trust_remote_code",
)


@dataclass(frozen=True)
class Parameters:
    """The literals that the engine honours, under the component's own names."""

    pad_to_max_length: bool
    max_seq_length: int
    apply_lora: bool
    lora_alpha: int
    lora_r: int
    lora_dropout: float
    num_train_epochs: int
    max_steps: int
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    auto_find_batch_size: bool
    optim: str
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    gradient_accumulation_steps: int
    eval_accumulation_steps: int
    lr_scheduler_type: str
    precision: str
    seed: int
    enable_full_determinism: bool
    dataloader_num_workers: int
    ignore_mismatched_sizes: bool
    max_grad_norm: float
    evaluation_strategy: str
    evaluation_steps_interval: float
    eval_steps: int
    logging_strategy: str
    logging_steps: int
    metric_for_best_model: str
    resume_from_checkpoint: bool
    save_total_limit: int
    apply_early_stopping: bool
    early_stopping_patience: int
    early_stopping_threshold: float
    apply_deepspeed: bool

    @classmethod
    def read(cls, inputs: Mapping[str, str]) -> Parameters:
        """Parse every literal in ``inputs``; what is not given has the component's default."""
        known = facts.load("chat_completion_pipeline")["inputs"]
        if unknown := sorted(set(inputs) - set(known)):
            raise ParameterError(f"The component has no input {', '.join(unknown)}.", fix="check the spelling")
        values: dict[str, Any] = {
            name: _parse(name, str(text), spec)
            for name, spec in known.items()
            if (text := inputs.get(name, spec.get("default"))) is not None
        }
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    @property
    def evaluates(self) -> bool:
        """Whether the validation split is looked at during training."""
        return self.evaluation_strategy != "disable"


def _parse(name: str, text: str, spec: Mapping[str, Any]) -> str | int | float | bool:
    """Return what the text of a literal means, as its spec says; assets are paths and stay as they are."""
    allowed: Sequence[str] = spec.get("enum", ())
    if allowed and text not in allowed:
        raise ParameterError(f"{name} is {text!r}.", where=name, fix=f"use one of: {', '.join(allowed)}")
    if set(allowed) == {"true", "false"}:
        return text == "true"
    if spec["type"] not in ("integer", "number"):
        return text
    value = _number(name, text, spec["type"])
    if value < spec.get("min", value):
        raise ParameterError(f"{name} is {text}, less than {spec['min']}.", where=name, fix=f"at least {spec['min']}")
    return value


def _number(name: str, text: str, kind: str) -> int | float:
    try:
        value = int(text) if kind == "integer" else float(text)
    except ValueError:
        fix = "give a whole number" if kind == "integer" else "give a number"
        raise ParameterError(f"{name} is {text!r}, which is no {kind}.", where=name, fix=fix) from None
    if not math.isfinite(value):
        raise ParameterError(f"{name} is {text!r}.", where=name, fix="give a finite number")
    return value


def not_applied(inputs: Mapping[str, str]) -> list[str]:
    """Return the given inputs that differ from the component's default and mean nothing here."""
    known = facts.load("chat_completion_pipeline")["inputs"]
    return [name for name in NOT_APPLIED if name in inputs and inputs[name] != str(known[name].get("default"))]
