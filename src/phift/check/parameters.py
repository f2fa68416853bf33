"""Fine-tuning parameters: component < model's own defaults < preset < user, each checked, each with its origin."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from phift import facts
from phift.check.compute import ComputeTarget
from phift.check.findings import Finding, Severity
from phift.component.finetune_config import FinetuneConfig, chat_settings
from phift.component.inputs import LITERALS, STEPS, Input, known_inputs
from phift.component.settings import FINETUNE, RULES, Settings, deepspeed_mistake, gpu_rule, idle_inputs
from phift.config.run import local_file
from phift.errors import redact, visible, visible_table

if TYPE_CHECKING:
    import pandas as pd

Origin = Literal["component", "model", "preset", "user", "compute"]

# What phift sets by itself, and the configuration key the user sets it with.
_RESERVED = {
    **dict.fromkeys(("mlflow_model_path", "pytorch_model_path", "huggingface_id"), "model"),
    **dict.fromkeys(("train_file_path", "train_mltable_path"), "data.train"),
    **dict.fromkeys(("validation_file_path", "validation_mltable_path"), "data.validation"),
    **dict.fromkeys(("test_file_path", "test_mltable_path"), "data.test"),
    **dict.fromkeys(("compute_model_import", "compute_preprocess", "compute_finetune"), "compute"),
    "compute_model_evaluation": "compute",
    "instance_type_finetune": "compute.serverless",
    "num_nodes_finetune": "compute.nodes",
    "number_of_gpu_to_use_finetuning": "compute.gpus_per_node",
}

_EXPLAINED = ["parameter", "value", "origin", "overrode"]

_LONGEST = 80  # characters of a value in a message


@dataclass(frozen=True)
class Parameter:
    """One parameter's value, who set it, and what that overrode, latest last."""

    name: str
    value: Any
    origin: Origin
    overrode: tuple[tuple[Origin, Any], ...] = ()

    @property
    def who(self) -> str:
        """Who set it, in brackets behind its value; empty for the user."""
        return "" if self.origin == "user" else f" (from the {self.origin})"


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Every parameter of the component that has a value.

    - **advice**: the range that the model advises for a parameter; ``inf`` where it gives one end only.
    - **findings**: what is wrong or worth knowing; an error finding keeps the run from being submitted.
    """

    values: Mapping[str, Parameter]
    advice: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    def get(self, name: str, default: Any = None) -> Any:
        """Return a parameter's value, or ``default`` if the component has none."""
        return self[name] if name in self.values else default

    @cached_property
    def settings(self) -> Settings:
        """What is trained with, typed; what the component has no value for counts as its usual default."""
        return Settings.of({name: parameter.value for name, parameter in self.values.items()})

    def arguments(self) -> dict[str, Any]:
        """Return what to hand to the component: everything that is not its own default anyway."""
        return {name: p.value for name, p in sorted(self.values.items()) if p.origin != "component"}

    def explain(self) -> pd.DataFrame:
        """Return one row a parameter: name, value, origin, and what it overrode.

        What pandas prints of it is rounded, 1e-08 to 0.0; printed or shown themselves, the parameters are as they are.
        """
        import pandas as pd

        return pd.DataFrame(self._rows(), columns=_EXPLAINED)

    def _rows(self) -> list[tuple[str, Any, Origin, str]]:
        return [
            (p.name, p.value, p.origin, ", ".join(f"{origin}: {value}" for origin, value in p.overrode))
            for p in sorted(self.values.values(), key=lambda p: p.name)
        ]

    def __str__(self) -> str:
        rows = [_EXPLAINED, *([visible(str(cell), lines=False) for cell in row] for row in self._rows())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def _repr_html_(self) -> str:
        return visible_table(_EXPLAINED, self._rows())


def resolve_parameters(
    inputs: Mapping[str, Any],
    model_defaults: Mapping[str, Any],
    user: Mapping[str, Any],
    target: ComputeTarget,
    *,
    preset: Mapping[str, Any] = MappingProxyType({}),
) -> Parameters:
    """Merge and check the parameters against the component's own inputs.

    - **inputs**: the component's inputs as the registry returned them (``component.inputs`` of the SDK).
    - **model_defaults**: what the model's publisher suggests; keys that are no input of the component are dropped
      and reported. ``learning_rate_min`` and ``_max`` are such keys since 2025-02 (azureml-assets pull request 3791);
      they become advice.
    - **preset**: a named set of values, which goes before the model's.
    - **user**: the user's values; they win.
    """
    known = {name: Input.of(name, spec) for name, spec in inputs.items()}
    advice, of_advice = _advice(model_defaults, known)
    from_model, of_model = _suggested("model", model_defaults, known, advice)
    from_preset, of_preset = _suggested("preset", preset, known, advice)
    from_user, of_user = _wanted(user, known)

    def ours(values: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in values.items() if name in known and value is not None}
        return {name: known[name].read(value) if known[name].takes(value) else value for name, value in given.items()}

    # What the compute decides: where each step runs, and how many GPUs it uses.
    compute: dict[str, Any] = {
        **{f"compute_{step}": target.name for step in STEPS.values()},
        "instance_type_finetune": target.size if target.kind == "serverless" else None,
        "num_nodes_finetune": target.nodes,
        "number_of_gpu_to_use_finetuning": target.gpus_per_node,
    }
    layers: dict[Origin, Mapping[str, Any]] = {
        "component": ours({name: _clean(each.default) for name, each in known.items()}),  # shown, and not sent
        "model": from_model,
        "preset": from_preset,
        "user": from_user,
        "compute": ours(compute),
    }
    values: dict[str, Parameter] = {}
    for origin, layer in layers.items():
        for name, value in layer.items():
            before = values.get(name)
            overrode = () if before is None else (*before.overrode, (before.origin, before.value))
            values[name] = Parameter(name, value, origin, overrode)
    resolved = Parameters(values=values, advice=advice)
    of_values = (*_rule_findings(resolved, target), *_file_findings(resolved), *_against_advice(resolved))
    return replace(resolved, findings=(*of_advice, *of_model, *of_preset, *of_user, *of_values))


def _clean(default: Any) -> Any:
    return redact(default) if isinstance(default, str) else default


def _advice(
    defaults: Mapping[str, Any], known: Mapping[str, Input]
) -> tuple[dict[str, tuple[float, float]], list[Finding]]:
    """Return the ranges that ``<input>_min`` and ``<input>_max`` advise; an unreadable one becomes a finding."""
    advice, findings = {}, []
    for name, each in known.items():
        ends = {end: key for end in ("min", "max") if (key := f"{name}_{end}") in defaults and key not in known}
        if not ends or not each.is_number:
            continue
        number = Input(name, "number")
        try:
            least = float(number.read(defaults[ends["min"]])) if "min" in ends else -math.inf
            most = float(number.read(defaults[ends["max"]])) if "max" in ends else math.inf
            if least > most:
                raise ValueError("the least is more than the most")  # noqa: TRY301 - one way out for advice of no use
        except ValueError as error:
            place = " and ".join(f"model tag {key}" for key in ends.values())
            message = f"The advised range of {name} is left out: {error}."
            findings.append(Finding("PARAMETER_DROPPED", "warning", place, message))
        else:
            advice[name] = (least, most)
    return advice, findings


def _suggested(
    origin: Origin, values: Mapping[str, Any], known: Mapping[str, Input], advised: Container[str]
) -> tuple[dict[str, Any], list[Finding]]:
    """Return what a model or a preset suggests as the component takes it, and what of it is left out.

    A model's tags are somebody else's text: one that named a file would have this machine upload it.
    """
    taken: dict[str, Any] = {}
    notes, warnings = [], []
    for name, raw in values.items():
        # What is no name is shown as a text.
        shown = name if name.isidentifier() and len(name) <= _LONGEST else _shown(name)
        why, place = "", f"{'model tag' if origin == 'model' else origin} {shown}"
        if name not in known:
            used = name.rpartition("_")[0] in advised and name.endswith(("_min", "_max"))
            why = "is no input of the component; it is " + ("used as advice" if used else "left out")
        elif name in _RESERVED:
            why = f"is set from `{_RESERVED[name]}`; it is left out"
        elif known[name].type not in LITERALS:
            why = "is a file, which only you can name; it is left out"
        if why:
            message = f"The {origin} suggests {shown}, which {why}."
            notes.append(Finding("PARAMETER_DROPPED", "note", place, message))
        elif raw is not None:
            try:
                taken[name] = known[name].read(raw)
            except ValueError as error:
                message = f"{name} is {_shown(raw)}, but {error}. The {origin}'s suggestion is left out."
                warnings.append(Finding("PARAMETER_DROPPED", "warning", place, message))
    return taken, [*notes, *warnings]


def _wanted(values: Mapping[str, Any], known: Mapping[str, Input]) -> tuple[dict[str, Any], list[Finding]]:
    """Return the user's values as the component takes them, and what is wrong with the others."""
    table, described = facts.load("chat_completion_pipeline"), known_inputs()
    taken: dict[str, Any] = {}
    findings = []
    for name, raw in values.items():
        place = f"parameters.{name}"
        if key := _RESERVED.get(name):
            fix = f"remove it, and set `{key}` instead"
            findings.append(Finding("PARAMETER_RESERVED", "error", place, f"{name} is set from `{key}`.", fix))
            continue
        if name not in known:
            findings.append(_unknown(name, values, known))
            continue
        if name in described and (dead := described[name].dead_because):
            message = f"The component takes {name} and does nothing with it: {dead}."
            findings.append(
                Finding("PARAMETER_DEAD", "warning", place, message, f"remove {name}", _of_component(table))
            )
        if name == "batch_size":
            message = "batch_size is how many rows are tokenized at once; no training reads it."
            fix = "the rows that one GPU trains on at once are per_device_train_batch_size"
            findings.append(Finding("PARAMETER_NAME", "warning", place, message, fix, _of_component(table)))
        try:
            taken[name] = known[name].read(raw)
        except ValueError as error:
            message = f"{name} is {_shown(raw)}, but {error}."
            findings.append(Finding("PARAMETER_VALUE", "error", place, message, "correct the value"))
    return taken, findings


def _of_component(table: Mapping[str, Any]) -> str:
    return f"{table['source']}, version {table['version']}, {table['date']}"


def _unknown(name: str, values: Mapping[str, Any], known: Mapping[str, Input]) -> Finding:
    """Refuse a name that the component has not, with its own name for it where another library's is known.

    None is taken for another: what one name means differs from library to library, and a run is paid for.
    """
    table = facts.load("parameter_names")
    entry: Mapping[str, Any] = next((each for each in table["names"] if each["name"] == name.lower()), {})
    message, fix, meant = f"The component has no input {name}.", "see the component's inputs in the docs", None
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        fix = f"did you mean {near[0]}?"
    if entry:
        meant = entry["input"] if entry["input"] in known else None
        fix = f"write {meant} in its place" if meant else "leave it out"
        fix = f"remove it: {meant} is set too" if meant in values else fix
        fix = f"{fix}; {entry['note']}" if entry.get("note") else fix
    source = table["sources"].get(entry.get("source"), "")
    source = f"{source}, {table['read_on']}" if source else ""
    return Finding("PARAMETER_UNKNOWN", "error", f"parameters.{name}", message, fix, source)


def _shown(raw: object) -> str:
    """Return a value for a message, on one line and not too long."""
    try:
        text = repr(raw)
    except ValueError:  # Python writes out no more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _rule_findings(parameters: Parameters, target: ComputeTarget) -> Iterator[Finding]:
    """Say which of the component's rules the values break, and what the user has set and nothing reads."""
    values, known, settings = parameters.values, known_inputs(), parameters.settings
    readable = {name for name, each in values.items() if name in known and known[name].takes(each.value)}
    for rule in (*RULES, *((gpu_rule(target.vm.gpu),) if target.vm.gpu else ())):
        if readable >= set(rule.names) and rule.broken(settings):
            about = [values[name] for name in rule.names]
            yield _broken(about, rule.why, rule.fix, rule.code, rule.severity, rule.source)
    idle = list(idle_inputs(settings))
    if target.kind != "serverless":
        idle.append((("instance_type_model_import", "instance_type_preprocess"), "the step runs on the cluster"))
    for names, why in idle:
        for name in names:
            # What others set is their matter.
            if name in values and values[name].origin == "user":
                why_idle, fix = f"it has no effect, since {why}", f"remove {name}, or change what makes it idle"
                yield _broken([values[name]], why_idle, fix, "PARAMETER_NO_EFFECT", "warning")


def _broken(
    about: list[Parameter], why: str, fix: str, code: str, severity: Severity = "error", source: str = ""
) -> Finding:
    """Say what the parameters are, who said so where it was not the user, and what is wrong with that."""
    first = next((each for each in about if each.origin == "user"), about[0])
    said = " and ".join(f"{each.name} is {each.value}{each.who}" for each in about)
    return Finding(code, severity, f"parameters.{first.name}", f"{said}: {why}.", fix, source)


def _file_findings(parameters: Parameters) -> Iterator[Finding]:
    """Hold the user's own DeepSpeed and fine-tuning configuration files against the parameters."""
    values, settings = parameters.values, parameters.settings
    deepspeed, own, precision = (values.get(key) for key in ("deepspeed", "finetune_config_path", "precision"))
    if deepspeed and settings.apply_deepspeed:
        document, why = _own_file(deepspeed.value)
        mistake = (why, "give a JSON file with zero_optimization.stage 2 or 3") if why else None
        if mistake := mistake if document is None else deepspeed_mistake(document):
            yield _broken([deepspeed], *mistake, "PARAMETER_FILE", source=FINETUNE)
    if not own:
        return
    document, why = _own_file(own.value)
    if why:
        yield _broken([own], why, "give a JSON file with an object", "PARAMETER_FILE", source=FINETUNE)
    config = FinetuneConfig.of(chat_settings(document or {}))
    if config.flash_attention and precision and settings.precision == 32:
        why = "the file turns flash attention on, which does not work in 32 bits"
        yield _broken([own, precision], why, "set precision to 16", "PARAMETER_CONFLICT", source=FINETUNE)
    if replaced := sorted(name for name in config.trainer_arguments if name in values):
        why = f"its hf_trainer_args go before the parameters {', '.join(replaced)}"
        fix = "remove them from the file, or know that your `parameters` do not count there"
        yield _broken([own], why, fix, "PARAMETER_REPLACED", "warning", FINETUNE)


def _own_file(text: str) -> tuple[dict[str, Any] | None, str]:
    """Read the JSON object in the user's own file, or say what is wrong; what lies in the cloud is not looked at."""
    path = local_file(text)
    if path is None:
        return None, ""
    try:
        if not path.is_file():
            return None, "there is no such file"
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return None, f"the file cannot be read as JSON ({type(error).__name__})"
    return (content, "") if isinstance(content, dict) else (None, "the file holds no JSON object")


def _against_advice(parameters: Parameters) -> Iterator[Finding]:
    """Hold values against what the model's publisher advises, the learning rate with what LoRA makes of it.

    A rate is advised for the publisher's own lora_alpha and lora_r; with others, the same rate weighs more or less.
    """
    settings, theirs = parameters.settings, _of_publisher(parameters)
    both = settings.apply_lora and theirs.apply_lora and settings.lora_scale > 0 and theirs.lora_scale > 0
    factor = settings.lora_scale / theirs.lora_scale if both else 1.0
    lora = f"with lora_alpha / lora_r = {settings.lora_alpha} / {settings.lora_r} it weighs as much as {{:g}} with the "
    lora += f"publisher's {theirs.lora_alpha} / {theirs.lora_r}"
    for name, parameter in parameters.values.items():
        place, about = f"parameters.{name}", f"{name} is {parameter.value}{parameter.who}"
        scale = factor if name == "learning_rate" and not isinstance(parameter.value, str) else 1.0
        weighs = lora.format(parameter.value * scale) if scale != 1 else ""
        least, most = parameters.advice.get(name, (-math.inf, math.inf))
        if name in parameters.advice and not least <= parameter.value * scale <= most:
            ends = (("min", "at least", least), ("max", "at most", most))
            source = "model tag " + ", ".join(f"{name}_{tag}" for tag, _, end in ends if math.isfinite(end))
            wanted = " and ".join(f"{word} {end / scale:g}" for _, word, end in ends if math.isfinite(end))
            message = f"{about}, and the model's publisher advises {wanted}{'; ' * bool(weighs)}{weighs}."
            fix = f"choose {name} from that range, or know why not"
            yield Finding("PARAMETER_ADVICE", "warning", place, message, fix, source)
        elif parameter.origin == "model" and not 0.25 < scale < 4:
            fix = (
                f"set it to {parameter.value / scale:g}, which weighs as much as the model's, or to one you have tried"
            )
            yield Finding("PARAMETER_ADVICE", "warning", place, f"{about}; {weighs}.", fix)


def _of_publisher(parameters: Parameters) -> Settings:
    """Return what would be trained with, had nobody said anything but the model and the component."""
    said: dict[str, Any] = {}
    for name, each in parameters.values.items():
        layers = (*each.overrode, (each.origin, each.value))
        for origin, value in layers:
            if origin in ("component", "model"):
                said[name] = value
    return Settings.of(said)


def display_name(model: str, data: str, parameters: Parameters, target: ComputeTarget) -> str:
    """Return the job's display name: model, data set, global batch size, scheduler, DeepSpeed, LoRA, limits."""
    settings, gpus = parameters.settings, target.gpus_per_node * target.nodes
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * gpus
    deepspeed = f"ds{settings.deepspeed_stage}" if settings.apply_deepspeed else "nods"
    lora = "lora" if settings.apply_lora else "nolora"
    limits = f"save{settings.save_total_limit}-seq{settings.max_seq_length}"
    return f"{model}-{data}-bs{batch}-{settings.lr_scheduler_type}-{deepspeed}-{lora}-{limits}"
