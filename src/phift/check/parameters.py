"""Fine-tuning parameters: component < model's own defaults < preset < user, each checked, each with its origin."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from phift import facts
from phift.check.compute import ComputeTarget
from phift.check.findings import Finding
from phift.component.inputs import Origin, Parameter
from phift.component.rules import rule_findings
from phift.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd

Layer = tuple[Origin, Mapping[str, Any]]

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

_LONGEST = 80  # characters of a value in a message

# Inputs of these types are written into command lines; the others name data, models and files.
_LITERALS = ("string", "integer", "number", "boolean")
_BREAKING = frozenset("'\"\\\n\r\0")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Every parameter of the component that has a value.

    - **values**: by name.
    - **dropped**: names that the model or the preset suggests and the component does not take.
    - **advice**: the range that the model advises for a parameter; ``inf`` where it gives one end only.
    - **findings**: what is wrong or worth knowing; an error finding keeps the run from being submitted.
    """

    values: Mapping[str, Parameter]
    dropped: tuple[str, ...] = ()
    advice: Mapping[str, tuple[float, float]] = field(default_factory=dict)
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

    def _repr_html_(self) -> str:
        return str(self.explain().to_html(index=False))  # escaped: a model's defaults are somebody else's text

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
    *,
    preset: Mapping[str, Any] = MappingProxyType({}),
    gpu: str | None = None,
) -> Parameters:
    """Merge and check the parameters against the component's own inputs.

    - **inputs**: the component's inputs as the registry returned them (``component.inputs`` of the SDK).
    - **model_defaults**: what the model's publisher suggests; keys that are no input of the component are dropped
      and reported. ``learning_rate_min`` and ``_max`` are such keys since 2025-02 (azureml-assets pull request 3791);
      they become advice.
    - **preset**: a named set of values, which goes before the model's.
    - **user**: the user's values; they win.
    - **gpu**: the name of the GPU, where it is known.
    """
    findings: list[Finding] = []
    advice = _advice(model_defaults, inputs, findings)
    layers: list[Layer] = [
        ("component", {name: getattr(spec, "default", None) for name, spec in inputs.items()}),
        ("model", _suggested(model_defaults, inputs, "model", advice, findings)),
        ("preset", _suggested(preset, inputs, "preset", advice, findings)),
        ("user", _checked_names(user, inputs, findings)),
        ("compute", {name: value for name, value in _compute_arguments(target).items() if name in inputs}),
    ]
    values = _merged(layers, inputs, findings)
    findings += rule_findings(values, gpu)
    findings += _against_advice(values, advice)
    dropped = tuple(sorted(name for name in {**model_defaults, **preset} if name not in inputs))
    return Parameters(values=values, dropped=dropped, advice=advice, findings=tuple(findings))


def _merged(layers: list[Layer], inputs: Mapping[str, Any], findings: list[Finding]) -> dict[str, Parameter]:
    values: dict[str, Parameter] = {}
    for origin, layer in layers:
        for name, raw in layer.items():
            value = None if raw is None else _checked_value(name, raw, inputs[name], origin, findings)
            if value is None:
                continue
            before = values.get(name)
            overrode = () if before is None else (*before.overrode, (before.origin, before.value))
            values[name] = Parameter(name, value, origin, overrode)
    return values


def _suggested(
    suggestions: Mapping[str, Any],
    inputs: Mapping[str, Any],
    origin: Origin,
    advice: Mapping[str, Any],
    findings: list[Finding],
) -> dict[str, Any]:
    """Return what of a model's or preset's suggestions may be used; the others become notes.

    A model's tags are somebody else's text: one that named a file would have this machine upload it.
    """
    taken = {}
    for name, value in suggestions.items():
        if name not in inputs:
            used = name.rpartition("_")[0] in advice and name.endswith(("_min", "_max"))
            why = "is no input of the component; it is " + ("used as advice" if used else "left out")
        elif name in _RESERVED:
            why = f"is set from `{_RESERVED[name]}`; it is left out"
        elif _kind(inputs[name]) not in _LITERALS:
            why = "is a file, which only you can name; it is left out"
        else:
            taken[name] = value
            continue
        message = f"The {origin} suggests {_key(name)}, which {why}."
        place = _suggestion(origin, name)
        findings.append(Finding(code="PARAMETER_DROPPED", severity="note", place=place, message=message))
    return taken


def _suggestion(origin: Origin, name: str) -> str:
    return f"{'model tag' if origin == 'model' else origin} {_key(name)}"


def _key(name: str) -> str:
    """Return a suggestion's name for a message; what is no name is shown as a text."""
    return name if name.isidentifier() and len(name) <= _LONGEST else _shown(name)


def _advice(
    defaults: Mapping[str, Any], inputs: Mapping[str, Any], findings: list[Finding]
) -> dict[str, tuple[float, float]]:
    """Return the ranges that ``<input>_min`` and ``<input>_max`` advise; an unreadable one becomes a finding."""
    advice = {}
    for name, spec in inputs.items():
        ends = {end: key for end in ("min", "max") if (key := f"{name}_{end}") in defaults and key not in inputs}
        if not ends or _kind(spec) not in ("integer", "number"):
            continue
        try:
            least, most = (
                _number(defaults[ends[end]], integer=False) if end in ends else open_end
                for end, open_end in (("min", -math.inf), ("max", math.inf))
            )
            if least > most:
                raise ValueError("the least is more than the most")  # noqa: TRY301 - one way out for advice of no use
        except ValueError as error:
            place = " and ".join(f"model tag {key}" for key in ends.values())
            message = f"The advised range of {name} is left out: {error}."
            findings.append(Finding(code="PARAMETER_DROPPED", severity="warning", place=place, message=message))
            continue
        advice[name] = (least, most)
    return advice


def _against_advice(values: Mapping[str, Parameter], advice: Mapping[str, tuple[float, float]]) -> Iterator[Finding]:
    for name, (least, most) in advice.items():
        parameter = values.get(name)
        if parameter is None or least <= parameter.value <= most:
            continue
        ends = {f"{name}_min": least, f"{name}_max": most}
        tags = [tag for tag, end in ends.items() if math.isfinite(end)]
        wanted = " and ".join(
            f"{word} {end:g}" for word, end in (("at least", least), ("at most", most)) if math.isfinite(end)
        )
        who = "" if parameter.origin == "user" else f" (from the {parameter.origin})"
        yield Finding(
            code="PARAMETER_ADVICE",
            severity="warning",
            place=f"parameters.{name}",
            message=f"{name} is {parameter.value:g}{who}, and the model's publisher advises {wanted}.",
            fix=f"choose {name} from that range, or know why not",
            source="model tag " + ", ".join(tags),
        )


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
    table = facts.load("chat_completion_pipeline")
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
            known = table["inputs"].get(name, {})
            if known.get("dead"):
                findings.append(
                    Finding(
                        code="PARAMETER_DEAD",
                        severity="warning",
                        place=place,
                        message=f"The component takes {name} and does nothing with it: {known['dead_because']}.",
                        fix=f"remove {name}",
                        source=f"{table['source']}, version {table['version']}, {table['date']}",
                    )
                )
    return taken


def _checked_value(name: str, raw: Any, spec: Any, origin: Origin, findings: list[Finding]) -> Any:
    """Return the value as the component wants it, or None with a finding where it cannot be."""
    try:
        return _typed(raw, spec)
    except ValueError as error:
        message = f"{name} is {_shown(raw)}, but {error}."
        if origin == "user":
            findings.append(_error("PARAMETER_VALUE", f"parameters.{name}", message, "correct the value"))
        elif origin in ("model", "preset"):
            message += f" The {origin}'s suggestion is left out."
            place = _suggestion(origin, name)
            findings.append(Finding(code="PARAMETER_DROPPED", severity="warning", place=place, message=message))
        else:
            return raw
        return None


def _kind(spec: Any) -> str:
    return str(getattr(spec, "type", "string"))


def _typed(raw: Any, spec: Any) -> Any:
    """Read a value as the input's type; raises ``ValueError`` with what it must be."""
    kind = _kind(spec)
    options = [str(option) for option in getattr(spec, "enum", None) or ()]
    if kind in ("integer", "number"):
        value: Any = _number(raw, integer=kind == "integer")
    elif kind == "boolean":
        if _text(raw) not in ("true", "false"):
            raise ValueError("it must be true or false")
        value = _text(raw) == "true"
    elif kind == "string":
        value = _text(raw)
    elif not isinstance(raw, str) or not raw:
        raise ValueError("it must be the path of a file")
    else:
        value = raw
    if options and str(value) not in options:
        raise ValueError(f"it must be one of {', '.join(options)}")
    least = getattr(spec, "min", None)
    if least is not None and kind in ("integer", "number") and value < float(least):
        raise ValueError(f"it must be at least {least}")
    # The component's command lines are single-quoted (its input descriptions, 2026-07-23); a file's name gets there.
    written = value if kind == "string" else Path(value).name if kind not in _LITERALS else ""
    if any(character in _BREAKING for character in written):
        raise ValueError("it must have no quote, backslash or line break, which break the component's command lines")
    return value


def _text(raw: Any) -> str:
    """Return the wire form of a string input; booleans in lower case, since the SDK would send ``True``.

    The component's enumerations hold ``true`` and ``false`` (azureml-assets, chat_completion/spec.yaml, 2026-07-23).
    """
    if not isinstance(raw, str | int | float):
        raise ValueError("it must be a text, a number, true or false")  # noqa: TRY004 - one error type for what does not fit
    try:
        text = str(raw)
    except ValueError:  # Python writes out no more than 4300 digits
        raise ValueError("it must be a text") from None
    return text.lower() if text in ("True", "False") else text


def _number(raw: Any, *, integer: bool) -> int | float:
    kind = "a whole number" if integer else "a number"
    if isinstance(raw, bool):
        raise ValueError(f"it must be {kind}")  # noqa: TRY004 - one error type for a value that does not fit
    try:
        value = float(raw)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"it must be {kind}") from None
    if not math.isfinite(value) or (integer and value != int(value)):
        raise ValueError(f"it must be {kind}")
    if not integer:
        return value
    if abs(value) >= 2**63:
        raise ValueError("it must be a whole number of at most 64 bits")
    return int(value) if isinstance(raw, float) else _whole(raw, value)


def _whole(raw: Any, value: float) -> int:
    """Return a whole number with all its digits, of which a float keeps 15."""
    try:
        return int(raw)
    except (TypeError, ValueError):  # a text such as 1e3
        return int(value)


def _shown(raw: Any) -> str:
    """Return a value for a message, on one line and not too long."""
    try:
        text = repr(raw)
    except ValueError:  # Python writes out no more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


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
