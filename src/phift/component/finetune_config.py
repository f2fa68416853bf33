"""A model's ``finetune_config.json``: its chat markers and what it asks of the fine-tuning step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phift.errors import ModelError

FILE_NAME = "finetune_config.json"

_LARGEST = 10_000_000  # bytes; the models' own have some thousands
_DEEPEST = 50  # objects in objects; the models' own have four


@dataclass(frozen=True)
class FinetuneConfig:
    """What the file says, as far as it concerns chat completion.

    - **response_template**, **instruction_template**: the texts that open an assistant's and a user's turn; empty where
      it does not say.
    - **system_role_supported**: when False, a system message moves into the first user message.
    - **chat_template**: replaces the tokenizer's own.
    - **trainer_arguments**: more of transformers' ``TrainingArguments``; they go before the job's settings.
    - **flash_attention**: whether the model is to be loaded with it, which does not work in 32 bits.
    """

    response_template: str = ""
    instruction_template: str = ""
    system_role_supported: bool = True
    chat_template: str | None = None
    lora_target_modules: str | list[str] = "all-linear"
    trainer_arguments: Mapping[str, Any] = field(default_factory=dict)
    flash_attention: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> FinetuneConfig:
        """Take the settings that `chat_settings` returns."""
        markers, loading = as_object(document.get("chat_special_tokens")), as_object(document.get("load_model_kwargs"))

        def marker(key: str) -> str:
            value = markers.get(key)
            value = value.get("content") if isinstance(value, dict) else value
            return value if isinstance(value, str) else ""

        return cls(
            response_template=marker("response_template"),
            instruction_template=marker("instruction_template"),
            system_role_supported=str(document.get("system_role_supported", "true")).lower() != "false",
            chat_template=document.get("finetune_chat_template") or None,
            lora_target_modules=document.get("lora_target_modules") or "all-linear",
            trainer_arguments=as_object(document.get("hf_trainer_args")),
            # The first is transformers' name for it since 4.36, the second the older one.
            flash_attention=loading.get("attn_implementation") == "flash_attention_2"
            or loading.get("use_flash_attention_2") is True,
        )

    @classmethod
    def load(cls, folder: Path) -> FinetuneConfig:
        """Read the file of the model in ``folder``; raises `phift.errors.ModelError` where it is none for chat."""
        config = cls.of(read(folder / FILE_NAME))
        if not config.has_markers:
            what = "Chat special tokens are not set in the model's finetune config."
            fix = "use a model for chat completion, or set chat_special_tokens through finetune_config_path"
            raise ModelError(what, where=FILE_NAME, fix=fix)
        return config

    @property
    def has_markers(self) -> bool:
        """Whether it says what opens a turn, and with it what is trained on."""
        return bool(self.response_template and self.instruction_template)


def read(path: Path) -> dict[str, Any]:
    """Return the settings in a file that concern chat completion; none if there is no such file."""
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LARGEST))  # a longer one ends within a value
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError("The finetune config cannot be read as JSON.", where=str(path), fix="mend the file") from error
    if _depth(document) > _DEEPEST:
        raise ModelError("The finetune config is nested too deeply.", where=str(path), fix="mend the file")
    if not isinstance(document, dict):
        raise ModelError("The finetune config is not a JSON object.", where=str(path), fix="mend the file")
    return chat_settings(document)


def _depth(document: object) -> int:
    """Return how many lists and objects lie in each other, without one of Python's frames for each."""
    depth, level = 0, [document]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def chat_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a finetune config says of chat completion; the second version of the file has several tasks."""
    if str(document.get("version")) == "2":
        return as_object(as_object(document.get("task_specific_config")).get("ChatCompletion"))
    return dict(document)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with what ``over`` says on top, key by key at every depth."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def as_object(value: object) -> dict[str, Any]:
    """Return a JSON object as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}
