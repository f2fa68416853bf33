"""Fine-tuning parameters: component default < model's own default < user, each checked, each with its origin."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from phift import facts
from phift.checks import Finding
from phift.compute import ComputeTarget
from phift.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd

Origin = Literal["component", "model", "user", "compute"]

# What phift sets by itself, and the configuration key the user sets it with.
_RESERVED = {
    "mlflow_model_path": "model",
    "pytorch_model_path": "model",
    "huggingface_id": "model",
    "train_file_path": "data.train",
    "validation_file_path": "data.validation",
    "test_file_path": "data.test",
    "train_mltable_path": "data.train",
    "validation_mltable_path": "data.validation",
    "test_mltable_path": "data.test",
    "compute_model_import": "compute",
    "compute_preprocess": "compute",
    "compute_finetune": "compute",
    "compute_model_evaluation": "compute",
    "instance_type_finetune": "compute.serverless",
    "num_nodes_finetune": "compute.nodes",
    "number_of_gpu_to_use_finetuning": "compute.gpus_per_node",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter's value, who set it, and what that overrode, latest last."""

    name: str
    value: Any
    origin: Origin
    overrode: tuple[tuple[Origin, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Every parameter of the component that has a value.

    - **values**: by name.
    - **dropped**: names that the model suggests and the component does not take.
    - **findings**: what is wrong or worth knowing; an error finding keeps the run from being submitted.
    """

    values: Mapping[str, Parameter]
    dropped: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def get(self, name: str, default: Any = None) -> Any:
        """Return a parameter's value, or ``default`` if the component has none."""
        parameter = self.values.get(name)
        return default if parameter is None else parameter.value

    def arguments(self) -> dict[str, Any]:
        """Return what to hand to the component: everything that is not its own default anyway."""
        return {name: p.value for name, p in sorted(self.values.items()) if p.origin != "component"}

    def explain(self) -> pd.DataFrame:
        """Return one row a parameter: name, value, origin, and what it overrode."""
        import pandas as pd

        rows = [
            (p.name, p.value, p.origin, ", ".join(f"{origin}: {value}" for origin, value in p.overrode))
            for p in sorted(self.values.values(), key=lambda p: p.name)
        ]
        return pd.DataFrame(rows, columns=["parameter", "value", "origin", "overrode"])

    def raise_for_errors(self) -> None:
        """Raise `phift.errors.ParameterError` for the first error finding."""
        for finding in self.findings:
            if finding.severity == "error":
                raise ParameterError(finding.message, where=finding.place, fix=finding.fix)


def resolve_parameters(
    inputs: Mapping[str, Any],
    model_defaults: Mapping[str, Any],
    user: Mapping[str, Any],
    target: ComputeTarget,
) -> Parameters:
    """Merge and check the parameters against the component's own inputs.

    - **inputs**: the component's inputs as the registry returned them (``component.inputs`` of the SDK).
    - **model_defaults**: what the model's publisher suggests; keys that are no input of the component are dropped
      and reported (``learning_rate_min`` and ``_max`` are such keys since 2025-02, azureml-assets pull request 3791).
    - **user**: the user's values; they win.
    """
    findings: list[Finding] = []
    dropped = tuple(sorted(name for name in model_defaults if name not in inputs))
    for name in dropped:
        message = f"The model suggests {name}, which is no input of the component; it is left out."
        findings.append(Finding(code="PARAMETER_DROPPED", severity="note", place=f"model tag {name}", message=message))
    layers: list[tuple[Origin, Mapping[str, Any]]] = [
        (
            "component",
            {name: spec.default for name, spec in inputs.items() if getattr(spec, "default", None) is not None},
        ),
        ("model", {name: value for name, value in model_defaults.items() if name in inputs}),
        ("user", _checked_names(user, inputs, findings)),
        ("compute", {name: value for name, value in _compute_arguments(target).items() if name in inputs}),
    ]
    values: dict[str, Parameter] = {}
    for origin, layer in layers:
        for name, raw in layer.items():
            value = _checked_value(name, raw, inputs[name], origin, findings)
            if value is None:
                continue
            before = values.get(name)
            overrode = () if before is None else (*before.overrode, (before.origin, before.value))
            values[name] = Parameter(name, value, origin, overrode)
    return Parameters(values=values, dropped=dropped, findings=tuple(findings))


def _compute_arguments(target: ComputeTarget) -> dict[str, Any]:
    """Return what the compute decides: where each step runs, and how many GPUs it uses."""
    steps = ("model_import", "preprocess", "finetune")  # there is no evaluation step any more
    arguments: dict[str, Any] = {f"compute_{step}": target.name for step in steps}
    if target.kind == "serverless":
        arguments["instance_type_finetune"] = target.size
    arguments["num_nodes_finetune"] = target.nodes
    arguments["number_of_gpu_to_use_finetuning"] = target.gpus_per_node
    return arguments


def _checked_names(user: Mapping[str, Any], inputs: Mapping[str, Any], findings: list[Finding]) -> dict[str, Any]:
    """Return the user's parameters that the component takes; the others become findings."""
    dead = {name for name, spec in facts.load("chat_completion_pipeline")["inputs"].items() if spec.get("dead")}
    taken = {}
    for name, value in user.items():
        place = f"parameters.{name}"
        if name in _RESERVED:
            message = f"{name} is set from `{_RESERVED[name]}`."
            fix = f"remove it, and set `{_RESERVED[name]}` instead"
            findings.append(_error("PARAMETER_RESERVED", place, message, fix))
        elif name not in inputs:
            near = difflib.get_close_matches(name, inputs, n=1, cutoff=0.6)
            fix = f"did you mean {near[0]}?" if near else "see the component's inputs in the docs"
            findings.append(_error("PARAMETER_UNKNOWN", place, f"The component has no input {name}.", fix))
        else:
            taken[name] = value
            if name in dead:
                message = f"The component takes {name} and does nothing with it."
                findings.append(Finding(code="PARAMETER_DEAD", severity="warning", place=place, message=message))
    return taken


def _checked_value(name: str, raw: Any, spec: Any, origin: Origin, findings: list[Finding]) -> Any:
    """Return the value as the component wants it, or None with a finding where it cannot be."""
    try:
        return _typed(raw, spec)
    except ValueError as error:
        message = f"{name} is {raw!r}, but {error}."
        if origin == "user":
            findings.append(_error("PARAMETER_VALUE", f"parameters.{name}", message, "correct the value"))
        elif origin == "model":
            place = f"model tag {name}"
            message += " The model's suggestion is left out."
            findings.append(Finding(code="PARAMETER_DROPPED", severity="warning", place=place, message=message))
        else:
            return raw
        return None


def _typed(raw: Any, spec: Any) -> Any:
    """Read a value as the input's type; raises ``ValueError`` with what it must be."""
    kind = str(getattr(spec, "type", "string"))
    options = [str(option) for option in getattr(spec, "enum", None) or ()]
    if kind == "integer":
        value: Any = _number(raw, integer=True)
    elif kind == "number":
        value = _number(raw, integer=False)
    elif kind == "boolean":
        if _text(raw) not in ("true", "false"):
            raise ValueError("it must be true or false")
        value = _text(raw) == "true"
    elif kind == "string":
        value = _text(raw)
    else:
        return raw  # a path to data or to a model
    if options and str(value) not in options:
        raise ValueError(f"it must be one of {', '.join(options)}")
    least = getattr(spec, "min", None)
    if least is not None and kind in ("integer", "number") and value < float(least):
        raise ValueError(f"it must be at least {least}")
    return value


def _text(raw: Any) -> str:
    """Return the wire form of a string input; booleans in lower case, since the SDK would send ``True``.

    The component's enumerations hold ``true`` and ``false`` (azureml-assets, chat_completion/spec.yaml, 2026-07-23).
    """
    text = str(raw)
    return text.lower() if text in ("True", "False") else text


def _number(raw: Any, *, integer: bool) -> int | float:
    kind = "a whole number" if integer else "a number"
    if isinstance(raw, bool):
        raise ValueError(f"it must be {kind}")  # noqa: TRY004 - one error type for a value that does not fit
    try:
        value = float(raw)
    except (TypeError, ValueError):
        raise ValueError(f"it must be {kind}") from None
    if not math.isfinite(value) or (integer and value != int(value)):
        raise ValueError(f"it must be {kind}")
    return int(value) if integer else value


def _error(code: str, place: str, message: str, fix: str) -> Finding:
    return Finding(code=code, severity="error", place=place, message=message, fix=fix)


def display_name(model: str, data: str, parameters: Parameters, target: ComputeTarget) -> str:
    """Return the job's display name: model, data set, global batch size, scheduler, DeepSpeed, LoRA, limits."""
    per_device = parameters.get("per_device_train_batch_size", 1) * parameters.get("gradient_accumulation_steps", 1)
    batch = per_device * target.gpus_per_node * target.nodes
    deepspeed = str(parameters.get("apply_deepspeed", "false")) == "true"
    lora = str(parameters.get("apply_lora", "false")) == "true"
    parts = [
        model,
        data,
        f"bs{batch}",
        str(parameters.get("lr_scheduler_type", "linear")),
        f"ds{parameters.get('deepspeed_stage', '2')}" if deepspeed else "nods",
        "lora" if lora else "nolora",
        f"save{parameters.get('save_total_limit', -1)}",
        f"seq{parameters.get('max_seq_length', -1)}",
    ]
    return "-".join(parts)
