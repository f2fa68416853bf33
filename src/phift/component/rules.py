"""What values of parameters must be like together: the component's own demands, made before a GPU is paid for.

What is checked: switches that exclude each other, numbers out of range, settings that have no effect or an unexpected
one, and the user's own DeepSpeed and fine-tuning configuration files. What is not: whether it fits into memory
(`phift.check.memory`), and what depends on the model's architecture, such as DeepSpeed stage 3 with Phi-2, which has
no chat completion task anyway.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phift.check.findings import Finding, Severity
from phift.config.run import local_file

if TYPE_CHECKING:
    from phift.component.inputs import Parameter

    Values = Mapping[str, Parameter]

_FINETUNE = "Azure/azureml-assets, finetune_acft_hf_nlp/src/finetune/finetune.py, 2026-07-23"
_TRAINER = "azureml-acft-contrib-hf-nlp 0.0.91, its trainer; Azure/azureml-assets pull request 4228"

# Generations without bfloat16 in hardware: Kepler, Maxwell, Pascal, Volta, Turing (NVIDIA's list of CUDA GPUs, compute
# capability below 8.0, 2026-07).
_BEFORE_AMPERE = frozenset({"K80", "M60", "P40", "P100", "V100", "T4"})


def rule_findings(values: Values, gpu: str | None) -> list[Finding]:
    """Return what is wrong, or worth knowing, of values that each are allowed.

    - **values**: the resolved parameters by name; one that the component does not have is not looked at.
    - **gpu**: the GPU's name as the table of VM sizes has it; with None, nothing is said of it.
    """
    return [
        *_conflicts(values),
        *_out_of_range(values),
        *_checkpoints(values),
        *_without_effect(values),
        *_generation(values, gpu),
        *_deepspeed_file(values),
        *_finetune_config(values),
    ]


def _on(values: Values, name: str) -> bool:
    return name in values and str(values[name].value).lower() == "true"


def _is(values: Values, name: str, value: str) -> bool:
    return name in values and str(values[name].value) == value


def _number(values: Values, name: str) -> float | None:
    """Return a number, or None where there is none."""
    value = values[name].value if name in values else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _said(values: Values, *names: str) -> str:
    """Return what the parameters are, and who said so where it was not the user."""
    return " and ".join(
        f"{name} is {values[name].value}"
        + ("" if values[name].origin == "user" else f" (from the {values[name].origin})")
        for name in names
    )


def _place(values: Values, *names: str) -> str:
    """Return the configuration key of the first of the parameters that the user has set, else of the first."""
    return "parameters." + next((name for name in names if values[name].origin == "user"), names[0])


def _found(
    code: str, severity: Severity, values: Values, names: tuple[str, ...], why: str, fix: str, source: str = ""
) -> Finding:
    message = f"{_said(values, *names)}: {why}."
    return Finding(code=code, severity=severity, place=_place(values, *names), message=message, fix=fix, source=source)


def _evaluates(values: Values) -> bool:
    return "evaluation_strategy" in values and not _is(values, "evaluation_strategy", "disable")


def _fraction(values: Values) -> bool:
    """Whether evaluations are so many in an epoch; what is not from 0 to 1 counts as 0 for the component."""
    return 0 < (_number(values, "evaluation_steps_interval") or 0) <= 1


def _conflicts(values: Values) -> Iterator[Finding]:
    """Find settings that exclude each other."""
    code = "PARAMETER_CONFLICT"
    if _on(values, "apply_deepspeed") and _on(values, "auto_find_batch_size"):
        names: tuple[str, ...] = ("apply_deepspeed", "auto_find_batch_size")
        fix = "turn auto_find_batch_size off and set per_device_train_batch_size to 1, or turn apply_deepspeed off"
        yield _found(code, "error", values, names, "DeepSpeed does not work with a searched batch size", fix, _FINETUNE)
    if _on(values, "apply_early_stopping") and _is(values, "evaluation_strategy", "disable"):
        names = ("apply_early_stopping", "evaluation_strategy")
        why = "early stopping looks at evaluations, and there are none"
        yield _found(code, "error", values, names, why, "set evaluation_strategy to epoch or steps", _TRAINER)
    if (
        _is(values, "evaluation_strategy", "steps")
        and (_number(values, "eval_steps") or 0) < 1
        and not _fraction(values)
    ):
        names = ("evaluation_strategy", *(name for name in ("eval_steps",) if name in values))
        fix = "set eval_steps to at least 1, or evaluation_steps_interval to a fraction of an epoch"
        yield _found(code, "error", values, names, "nothing says how often to evaluate", fix, _FINETUNE)
    if _is(values, "logging_strategy", "steps") and (_number(values, "logging_steps") or 0) < 1:
        names = ("logging_strategy", *(name for name in ("logging_steps",) if name in values))
        fix = "set logging_steps to at least 1, or logging_strategy to epoch"
        yield _found(code, "error", values, names, "nothing says how often to log", fix)
    if _evaluates(values) and "metric_for_best_model" in values and not _is(values, "metric_for_best_model", "loss"):
        why = "the component computes no metric but the loss, so no model is the best"
        yield _found(code, "error", values, ("metric_for_best_model",), why, "set it to loss", _TRAINER)


@dataclass(frozen=True)
class _Range:
    """What a number must be; with **only_with**, just while that switch is on."""

    name: str
    words: str
    holds: Callable[[float], bool]
    fix: str
    only_with: str = ""
    source: str = ""


_TORCH = "torch 2.13.0, torch.optim.AdamW and DataLoader"
_TRANSFORMERS = "transformers 5.23.0, TrainingArguments and set_seed"
_RANGES = (
    _Range("learning_rate", "above 0", lambda value: value > 0, "try 5e-6, as the Phi models do", source=_FINETUNE),
    _Range("adam_beta1", "from 0 to below 1", lambda value: 0 <= value < 1, "try 0.9", source=_TORCH),
    _Range("adam_beta2", "from 0 to below 1", lambda value: 0 <= value < 1, "try 0.999", source=_TORCH),
    _Range("adam_epsilon", "at least 0", lambda value: value >= 0, "try 1e-8", source=_TORCH),
    _Range("weight_decay", "at least 0", lambda value: value >= 0, "0 turns it off", source=_TORCH),
    _Range("warmup_steps", "at least 0", lambda value: value >= 0, "0 turns it off", source=_TRANSFORMERS),
    _Range("gradient_accumulation_steps", "at least 1", lambda value: value >= 1, "set it to 1"),
    _Range("seed", "from 0 to 4294967295", lambda value: 0 <= value < 2**32, "try 42", source=_TRANSFORMERS),
    _Range("dataloader_num_workers", "at least 0", lambda value: value >= 0, "set it to 0", source=_TORCH),
    _Range("max_seq_length", "-1 or at least 1", lambda value: value == -1 or value >= 1, "-1 is the model's limit"),
    _Range("lora_r", "at least 1", lambda value: value >= 1, "try 8", only_with="apply_lora"),
    _Range("lora_alpha", "at least 1", lambda value: value >= 1, "try 128", only_with="apply_lora"),
    _Range("lora_dropout", "from 0 to below 1", lambda value: 0 <= value < 1, "try 0"),
    _Range(
        "early_stopping_patience", "at least 1", lambda value: value >= 1, "try 1", only_with="apply_early_stopping"
    ),
)


def _out_of_range(values: Values) -> Iterator[Finding]:
    for rule in _RANGES:
        value = _number(values, rule.name)
        if value is None or rule.holds(value) or (rule.only_with and not _on(values, rule.only_with)):
            continue
        yield _found(
            "PARAMETER_RANGE", "error", values, (rule.name,), f"it must be {rule.words}", rule.fix, rule.source
        )


def _checkpoints(values: Values) -> Iterator[Finding]:
    limit = _number(values, "save_total_limit")
    if limit is not None and limit < 1 and _evaluates(values):
        why = "every checkpoint is kept, one at each evaluation, and the disk or the bill may fill"
        fix = "set save_total_limit to 1; the best checkpoint is always kept beside the last"
        yield _found("PARAMETER_KEEPS_ALL", "warning", values, ("save_total_limit",), why, fix, _FINETUNE)


def _idle(values: Values) -> Iterator[tuple[bool, tuple[str, ...], str]]:
    """Return groups of parameters: whether nothing reads them, their names, and why."""
    lora, deepspeed = not _on(values, "apply_lora"), not _on(values, "apply_deepspeed")
    yield lora, ("lora_alpha", "lora_r", "lora_dropout"), "apply_lora is not true"
    yield deepspeed, ("deepspeed", "deepspeed_stage"), "apply_deepspeed is not true"
    yield not deepspeed and "deepspeed" in values, ("deepspeed_stage",), "the stage is that of your `deepspeed` file"
    stopping = ("early_stopping_patience", "early_stopping_threshold")
    yield not _on(values, "apply_early_stopping"), stopping, "apply_early_stopping is not true"
    steps = _is(values, "evaluation_strategy", "steps")
    yield not steps, ("eval_steps", "evaluation_steps_interval"), "evaluation_strategy is not steps"
    yield steps and _fraction(values), ("eval_steps",), "evaluation_steps_interval goes before it"
    reset = (_number(values, "evaluation_steps_interval") or 0) != 0 and not _fraction(values)
    yield steps and reset, ("evaluation_steps_interval",), "the component takes what is not from 0 to 1 for 0"
    evaluated = ("per_device_eval_batch_size", "eval_accumulation_steps", "metric_for_best_model", "save_total_limit")
    yield not _evaluates(values), evaluated, "evaluation_strategy is disable, so nothing is evaluated or kept"
    yield not _is(values, "logging_strategy", "steps"), ("logging_steps",), "logging_strategy is not steps"
    yield (_number(values, "max_steps") or 0) > 0, ("num_train_epochs",), "max_steps goes before it"
    adam = ("adam_beta1", "adam_beta2", "adam_epsilon")
    yield not _is(values, "optim", "adamw_torch"), adam, "optim is not adamw_torch"
    for step in ("model_import", "preprocess"):
        serverless = _is(values, f"compute_{step}", "serverless")
        yield not serverless, (f"instance_type_{step}",), "the step runs on the cluster"


def _without_effect(values: Values) -> Iterator[Finding]:
    """Find what the user has set and nothing reads; what others set is their matter."""
    for idle, names, why in _idle(values):
        for name in names:
            if idle and name in values and values[name].origin == "user":
                fix = f"remove {name}, or change what makes it idle"
                yield _found("PARAMETER_NO_EFFECT", "warning", values, (name,), f"it has no effect, since {why}", fix)


def _generation(values: Values, gpu: str | None) -> Iterator[Finding]:
    """Say what the GPU's generation and the precision make of bfloat16 and flash attention."""
    if gpu is None or "precision" not in values:
        return
    if _BEFORE_AMPERE & set(gpu.upper().replace("-", " ").split()):
        why = f"the {gpu} is older than Ampere: flash attention is skipped, and it has no bfloat16 in hardware"
        if _is(values, "precision", "16"):
            fix = "use a VM size with A100 or H100"
            yield _found("PARAMETER_GPU_GENERATION", "warning", values, ("precision",), why, fix, _FINETUNE)
    elif _is(values, "precision", "32"):
        why = f"the {gpu} could do flash attention and half the memory, which need precision 16"
        fix = "set precision to 16"
        yield _found("PARAMETER_NO_FLASH_ATTENTION", "note", values, ("precision",), why, fix, _FINETUNE)


def _own_file(values: Values, name: str) -> tuple[Mapping[str, Any] | None, str]:
    """Read the JSON object in the user's own file, or say what is wrong; what lies in the cloud is not looked at."""
    path = local_file(str(values[name].value))
    if path is None:
        return None, ""
    try:
        if not path.is_file():
            return None, "there is no such file"
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return None, f"the file cannot be read as JSON ({type(error).__name__})"
    return (content, "") if isinstance(content, dict) else (None, "the file holds no JSON object")


def _deepspeed_file(values: Values) -> Iterator[Finding]:
    if "deepspeed" not in values or not _on(values, "apply_deepspeed"):
        return
    config, why = _own_file(values, "deepspeed")
    fix = "give a JSON file with zero_optimization.stage 2 or 3"
    if config is not None:
        zero = _object(config.get("zero_optimization"))
        stage = zero.get("stage")
        if not isinstance(stage, int) or isinstance(stage, bool):
            why = "the file has no whole number as zero_optimization.stage"
        elif stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
            why = "stage 3 would not save whole weights"
            fix = "set zero_optimization.stage3_gather_16bit_weights_on_model_save to true"
    if why:
        yield _found("PARAMETER_FILE", "error", values, ("deepspeed",), why, fix, _FINETUNE)


def _finetune_config(values: Values) -> Iterator[Finding]:
    """Hold the user's own fine-tuning configuration against the parameters, some of which it silently replaces."""
    if "finetune_config_path" not in values:
        return
    names = ("finetune_config_path",)
    config, why = _own_file(values, names[0])
    if config is None:
        if why:
            yield _found("PARAMETER_FILE", "error", values, names, why, "give a JSON file with an object", _FINETUNE)
        return
    if config.get("version") == "2":
        config = _object(_object(config.get("task_specific_config")).get("ChatCompletion"))
    if _object(config.get("load_model_kwargs")).get("use_flash_attention_2") is True and _is(values, "precision", "32"):
        why = "the file turns flash attention on, which does not work in 32 bits"
        both = (*names, "precision")
        yield _found("PARAMETER_CONFLICT", "error", values, both, why, "set precision to 16", _FINETUNE)
    replaced = sorted(name for name in _object(config.get("hf_trainer_args")) if name in values)
    if replaced:
        why = f"its hf_trainer_args go before the parameters {', '.join(replaced)}"
        fix = "remove them from the file, or know that your `parameters` do not count there"
        yield _found("PARAMETER_REPLACED", "warning", values, names, why, fix, _FINETUNE)


def _object(value: Any) -> Mapping[str, Any]:
    """Return a JSON object as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}
