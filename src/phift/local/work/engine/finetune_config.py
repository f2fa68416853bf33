"""A model's ``finetune_config.json``: its chat markers and what it asks of the fine-tuning step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phift.errors import ModelError

FILE_NAME = "finetune_config.json"


@dataclass(frozen=True)
class FinetuneConfig:
    """The keys that mean something on a CPU.

    - **response_template**, **instruction_template**: the texts that open an assistant's and a user's turn.
    - **system_role_supported**: when False, a system message moves into the first user message.
    - **chat_template**: replaces the tokenizer's own.
    - **trainer_arguments**: more of transformers' ``TrainingArguments``.
    """

    response_template: str
    instruction_template: str
    system_role_supported: bool = True
    chat_template: str | None = None
    lora_target_modules: str | list[str] = "all-linear"
    trainer_arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> FinetuneConfig:
        """Read the file of the model in ``folder``."""
        document = read(folder / FILE_NAME)
        markers = document.get("chat_special_tokens") or {}
        if not {"response_template", "instruction_template"} <= markers.keys():
            what = "Chat special tokens are not set in the model's finetune config."
            fix = "use a model for chat completion, or set chat_special_tokens through finetune_config_path"
            raise ModelError(what, where=FILE_NAME, fix=fix)
        return cls(
            response_template=_marker(markers["response_template"]),
            instruction_template=_marker(markers["instruction_template"]),
            system_role_supported=str(document.get("system_role_supported", "true")).lower() != "false",
            chat_template=document.get("finetune_chat_template"),
            lora_target_modules=document.get("lora_target_modules") or "all-linear",
            trainer_arguments=document.get("hf_trainer_args") or {},
        )


def _marker(value: str | Mapping[str, Any]) -> str:
    return value if isinstance(value, str) else str(value["content"])


def read(path: Path) -> dict[str, Any]:
    """Return the settings in ``path`` that concern chat completion; none if there is no such file."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"The finetune config is not JSON: {error}.", where=path.name, fix="mend the file") from error
    if not isinstance(document, dict):
        raise ModelError("The finetune config is not a JSON object.", where=path.name, fix="mend the file")
    if str(document.get("version")) == "2":
        document = document.get("task_specific_config", {}).get("ChatCompletion", {})
    return dict(document)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with what ``over`` says on top, key by key at every depth."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
