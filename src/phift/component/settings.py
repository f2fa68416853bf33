"""What the component trains with: the values of its inputs, typed, and what they must be like together.

A rule is written once, for the check, which says it before a GPU is paid for, and for the component, which refuses such
a job when its machine has started. What is covered: switches that exclude each other, numbers out of range, settings
that have no effect or an unexpected one. What is not: whether it fits into memory (`phift.check.memory`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from phift.component.finetune_config import as_object
from phift.component.inputs import known_inputs
from phift.errors import ParameterError

_AS: Mapping[str, Callable[[Any], Any]] = {
    "bool": lambda value: str(value).lower() == "true",
    "int": int,
    "float": float,
    "str": lambda value: "" if value is None else str(value),
}


@dataclass(frozen=True)
class Settings:
    """The inputs that say how to train, under the component's own names.

    - **deepspeed**: the user's own configuration file; empty where there is none.
    - **precision**: in bits.
    """

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
    precision: int
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
    deepspeed: str
    deepspeed_stage: int

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Settings:
        """Take values by name; one that is not given, or that cannot be read, counts as the component's default."""
        known = known_inputs()

        def value(name: str, kind: str) -> Any:
            try:  # the registry's component, which a value was held against, may have options that the table has not
                return _AS[kind](replace(known[name], options=()).read(values.get(name)))
            except ValueError:
                return _AS[kind](known[name].default)

        return cls(**{field.name: value(field.name, str(field.type)) for field in fields(cls)})

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Settings:
        """Read every input as it comes over the wire; raises `phift.errors.ParameterError` as the component refuses."""
        known = known_inputs()
        if unknown := sorted(set(texts) - set(known)):
            raise ParameterError(f"The component has no input {', '.join(unknown)}.", fix="check the spelling")
        for name, text in texts.items():
            try:
                known[name].parse(text)
            except ValueError as error:
                words = str(error).removeprefix("it must be ")
                fault = f"no {words[2:]}" if words.startswith("a ") else f"not {words}"
                what = f"{name} is {text!r}, which is {fault}."
                raise ParameterError(what, where=name, fix=f"give {words}") from None
        settings = cls.of(texts)
        for rule in RULES:
            if rule.refusal and rule.broken(settings):
                raise ParameterError(rule.refusal.format(settings), where="parameters", fix=rule.fix)
        return settings

    @property
    def evaluates(self) -> bool:
        """Whether the validation split is looked at during training."""
        return self.evaluation_strategy != "disable"

    @property
    def evaluation_share(self) -> float:
        """After which share of an epoch it is evaluated; 0 where it is not from 0 to 1: ``eval_steps`` says when."""
        return self.evaluation_steps_interval if 0 < self.evaluation_steps_interval <= 1 else 0.0

    @property
    def lora_scale(self) -> float:
        """What LoRA multiplies its weights by, and so a step's effect on the model: alpha / r; 1 without LoRA."""
        return self.lora_alpha / self.lora_r if self.apply_lora and self.lora_r else 1.0


FINETUNE = "Azure/azureml-assets, finetune_acft_hf_nlp/src/finetune/finetune.py, 2026-07-23"
_TRAINER = "azureml-acft-contrib-hf-nlp 0.0.91, its trainer; Azure/azureml-assets pull request 4228"
_TORCH = "torch 2.13.0, torch.optim.AdamW and DataLoader"
_ADAM = "Kingma and Ba, Adam, section 2.1, 2015: a step moves a weight by at most about the learning rate"
# Three times the highest that a Phi model's publisher advises: learning_rate_max 2e-4 at 128/8, Phi-3.5-mini-instruct.
_HIGH = 0.01
_TRANSFORMERS = "transformers 5.23.0, TrainingArguments and set_seed"


@dataclass(frozen=True)
class Rule:
    """A demand on settings that each are allowed.

    - **names**: the inputs that it is about; it is not made of a component that lacks one of them.
    - **broken**: whether settings break it.
    - **why**, **fix**: what is said of it.
    - **refusal**: what the component says, with ``{0}`` for the settings; empty where it goes on, and training fails
      or is not what was meant.
    """

    names: tuple[str, ...]
    broken: Callable[[Settings], bool]
    why: str
    fix: str
    refusal: str = ""
    code: str = "PARAMETER_CONFLICT"
    severity: Literal["error", "warning", "note"] = "error"
    source: str = ""


def _range(
    name: str,
    least: int,
    fix: str,
    *,
    most: float = math.inf,
    below: float = math.inf,
    refused: bool = False,
    only_with: str = "",
    source: str = "",
) -> Rule:
    """Return the rule that a number is in its range; with **only_with**, just while that switch is on."""
    words = f"at least {least}" if most == math.inf else f"from {least} to {most}"
    words = words if below == math.inf else f"from {least} to below {below}"

    def broken(settings: Settings) -> bool:
        value = getattr(settings, name)
        return not (least <= value <= most and value < below) and (not only_with or getattr(settings, only_with))

    refusal = f"{name} is not {words}." if refused else ""
    return Rule((name,), broken, f"it must be {words}", fix, refusal, "PARAMETER_RANGE", source=source)


RULES = (
    Rule(
        ("apply_deepspeed", "auto_find_batch_size"),
        lambda s: s.apply_deepspeed and s.auto_find_batch_size,
        "DeepSpeed does not work with a searched batch size",
        "turn auto_find_batch_size off and set per_device_train_batch_size to 1, or turn apply_deepspeed off",
        "DeepSpeed cannot be coupled with auto_find_batch_size.",
        source=FINETUNE,
    ),
    Rule(
        ("apply_early_stopping", "evaluation_strategy"),
        lambda s: s.apply_early_stopping and not s.evaluates,
        "early stopping looks at evaluations, and there are none",
        "set evaluation_strategy to epoch or steps",
        "apply_early_stopping needs evaluations, and evaluation_strategy is 'disable'.",
        source=_TRAINER,
    ),
    Rule(
        ("evaluation_strategy", "eval_steps"),
        lambda s: s.evaluation_strategy == "steps" and s.eval_steps < 1 and not s.evaluation_share,
        "nothing says how often to evaluate",
        "set eval_steps to at least 1, or evaluation_steps_interval to a fraction of an epoch",
        "evaluation_strategy is 'steps', but neither eval_steps nor evaluation_steps_interval says how many.",
        source=FINETUNE,
    ),
    Rule(
        ("logging_strategy", "logging_steps"),
        lambda s: s.logging_strategy == "steps" and s.logging_steps < 1,
        "nothing says how often to log",
        "set logging_steps to at least 1, or logging_strategy to epoch",
        "logging_strategy is 'steps', but logging_steps is below 1.",
    ),
    Rule(
        ("metric_for_best_model",),
        lambda s: s.evaluates and s.metric_for_best_model != "loss",
        "the component computes no metric but the loss, so no model is the best",
        "set it to loss",
        "metric_for_best_model is {0.metric_for_best_model!r}, which the component never computes.",
        source=_TRAINER,
    ),
    Rule(
        ("learning_rate",),
        lambda s: s.learning_rate <= 0,
        "it must be above 0",
        "try 5e-6, as the Phi models do",
        "learning_rate is not above 0.",
        "PARAMETER_RANGE",
        source=FINETUNE,
    ),
    Rule(
        ("learning_rate",),
        lambda s: s.learning_rate >= 1,
        "a step moves each weight by about as much, and they are much smaller than 1",
        "try 5e-6, as the Phi models do",
        code="PARAMETER_RANGE",
        source=_ADAM,
    ),
    Rule(
        ("learning_rate",),
        lambda s: not s.apply_lora and _HIGH <= s.learning_rate < 1,
        "that is far above what models are fine-tuned with, and what they know is lost",
        "try 5e-6, as the Phi models do",
        code="PARAMETER_RATE_HIGH",
        severity="warning",
        source=_ADAM,
    ),
    Rule(
        ("learning_rate", "lora_alpha", "lora_r"),
        lambda s: s.apply_lora and s.learning_rate < 1 and s.learning_rate * s.lora_scale >= _HIGH,
        "LoRA multiplies a step's effect by lora_alpha / lora_r, which is far above what Phi models are tuned with",
        "lower it: the Phi models have 5e-6 with 128 and 8, which weighs as much as 8e-5 with 16 and 16",
        code="PARAMETER_RATE_HIGH",
        severity="warning",
        source=_ADAM,
    ),
    Rule(
        ("max_seq_length",),
        lambda s: s.max_seq_length < 1 and s.max_seq_length != -1,
        "it must be -1 or at least 1",
        "-1 is the model's limit",
        "max_seq_length is neither -1 nor positive.",
        "PARAMETER_RANGE",
    ),
    _range("seed", 0, "try 42", most=2**32 - 1, source=_TRANSFORMERS),
    _range("adam_beta1", 0, "try 0.9", below=1, source=_TORCH),
    _range("adam_beta2", 0, "try 0.999", below=1, source=_TORCH),
    _range("adam_epsilon", 0, "try 1e-8", source=_TORCH),
    _range("weight_decay", 0, "0 turns it off", source=_TORCH),
    _range("warmup_steps", 0, "0 turns it off", refused=True, source=_TRANSFORMERS),
    _range("gradient_accumulation_steps", 1, "set it to 1", refused=True),
    _range("dataloader_num_workers", 0, "set it to 0", source=_TORCH),
    _range("lora_r", 1, "try 8", refused=True, only_with="apply_lora"),
    _range("lora_alpha", 1, "try 128", only_with="apply_lora"),
    _range("lora_dropout", 0, "try 0", below=1, refused=True),
    _range("early_stopping_patience", 1, "try 1", refused=True, only_with="apply_early_stopping"),
    Rule(
        ("save_total_limit",),
        lambda s: s.save_total_limit < 1 and s.evaluates,
        "every checkpoint is kept, one at each evaluation, and the disk or the bill may fill",
        "set save_total_limit to 1; the best checkpoint is always kept beside the last",
        code="PARAMETER_KEEPS_ALL",
        severity="warning",
        source=FINETUNE,
    ),
)


def idle_inputs(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the inputs that nothing reads, and why."""
    if not settings.apply_lora:
        yield ("lora_alpha", "lora_r", "lora_dropout"), "apply_lora is not true"
    if not settings.apply_deepspeed:
        yield ("deepspeed", "deepspeed_stage"), "apply_deepspeed is not true"
    elif settings.deepspeed:
        yield ("deepspeed_stage",), "the stage is that of your `deepspeed` file"
    if not settings.apply_early_stopping:
        yield ("early_stopping_patience", "early_stopping_threshold"), "apply_early_stopping is not true"
    if settings.evaluation_strategy != "steps":
        yield ("eval_steps", "evaluation_steps_interval"), "evaluation_strategy is not steps"
    elif settings.evaluation_share:
        yield ("eval_steps",), "evaluation_steps_interval goes before it"
    elif settings.evaluation_steps_interval:
        yield ("evaluation_steps_interval",), "the component takes what is not from 0 to 1 for 0"
    if not settings.evaluates:
        names = ("per_device_eval_batch_size", "eval_accumulation_steps", "metric_for_best_model", "save_total_limit")
        yield names, "evaluation_strategy is disable, so nothing is evaluated or kept"
    if settings.logging_strategy != "steps":
        yield ("logging_steps",), "logging_strategy is not steps"
    if settings.max_steps > 0:
        yield ("num_train_epochs",), "max_steps goes before it"
    if settings.optim != "adamw_torch":
        yield ("adam_beta1", "adam_beta2", "adam_epsilon"), "optim is not adamw_torch"


# Generations without bfloat16 in hardware: Kepler, Maxwell, Pascal, Volta, Turing (NVIDIA's list of CUDA GPUs, compute
# capability below 8.0, 2026-07).
_BEFORE_AMPERE = frozenset({"K80", "M60", "P40", "P100", "V100", "T4"})


def gpu_rule(gpu: str) -> Rule:
    """Return what a GPU's generation, told by its name, and the precision make of bfloat16 and flash attention."""
    if _BEFORE_AMPERE & set(gpu.upper().replace("-", " ").split()):
        why = f"the {gpu} is older than Ampere: flash attention is skipped, and it has no bfloat16 in hardware"
        fix, code = "use a VM size with A100 or H100", "PARAMETER_GPU_GENERATION"
        return Rule(("precision",), lambda s: s.precision == 16, why, fix, "", code, "warning", FINETUNE)
    why = f"the {gpu} could do flash attention and half the memory, which need precision 16"
    fix, code = "set precision to 16", "PARAMETER_NO_FLASH_ATTENTION"
    return Rule(("precision",), lambda s: s.precision == 32, why, fix, "", code, "note", FINETUNE)


def deepspeed_mistake(document: object) -> tuple[str, str] | None:
    """Return why a DeepSpeed configuration of the user's own cannot be used, and what to do about it; else None."""
    zero = as_object(as_object(document).get("zero_optimization"))
    stage = zero.get("stage")
    if not isinstance(stage, int) or isinstance(stage, bool):
        fix = "give a JSON file with zero_optimization.stage 2 or 3"
        return "the file has no whole number as zero_optimization.stage", fix
    if stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        fix = "set zero_optimization.stage3_gather_16bit_weights_on_model_save to true"
        return "stage 3 would not save whole weights", fix
    return None
