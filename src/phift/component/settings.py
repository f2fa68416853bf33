"""What the component trains with: the values of its inputs, typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

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
        """Read every input as it comes over the wire.

        Raises `phift.errors.ParameterError` for an input that there is none of, and for a text that is no value of its.
        """
        known = known_inputs()
        if unknown := sorted(set(texts) - set(known)):
            raise ParameterError(f"The component has no input {', '.join(unknown)}.", fix="check the spelling")
        for name, text in texts.items():
            try:
                known[name].parse(text)
            except ValueError as error:
                words = str(error).removeprefix("it must be ")
                fault = f"no {words[2:]}" if words.startswith("a ") else f"not {words}"
                raise ParameterError(
                    f"{name} is {text!r}, which is {fault}.", where=name, fix=f"give {words}"
                ) from None
        return cls.of(texts)

    @property
    def evaluates(self) -> bool:
        """Whether the validation split is looked at during training."""
        return self.evaluation_strategy != "disable"

    @property
    def evaluation_share(self) -> float:
        """After which share of an epoch it is evaluated; 0 where ``eval_steps`` says when.

        The component takes what is not from 0 to 1 for 0.
        """
        return self.evaluation_steps_interval if 0 < self.evaluation_steps_interval <= 1 else 0.0
