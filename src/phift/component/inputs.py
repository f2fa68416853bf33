"""The component's inputs: what each of them takes, and how that is written on the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phift import facts

Value = str | int | float | bool

STEPS = {
    "ft_nlp_common_validation": "model_import",
    "chat_completion_model_import": "model_import",
    "chat_completion_datapreprocess": "preprocess",
    "chat_completion_finetune": "finetune",
    "ft_nlp_model_converter": "finetune",
}
"""The component's steps in their order, each with the end of the names of its inputs, ``compute_…`` and
``instance_type_…``, that say where it runs."""

# Inputs of these types are written into command lines; the others name data, models and files.
LITERALS = ("string", "integer", "number", "boolean")
_BREAKING = frozenset("'\"\\\n\r\0")


@dataclass(frozen=True)
class Input:
    """One input of the component.

    - **type**: one of `LITERALS`, else the type of an asset.
    - **options**: what may be written; empty where it may be anything.
    - **dead_because**: why nothing reads it; empty where something does.
    """

    name: str
    type: str
    default: Any = None
    options: tuple[str, ...] = ()
    least: float | None = None
    dead_because: str = ""

    @classmethod
    def of(cls, name: str, spec: Any) -> Input:
        """Take an input as the table of facts has it, or as the SDK does."""
        keys = ("type", "default", "enum", "min", "dead_because")
        said = spec if isinstance(spec, Mapping) else {key: getattr(spec, key, None) for key in keys}
        return cls(
            name=name,
            type=str(said.get("type") or "string"),
            default=said.get("default"),
            options=tuple(str(option) for option in said.get("enum") or ()),
            least=said.get("min"),
            dead_because=said.get("dead_because") or "",
        )

    @property
    def is_number(self) -> bool:
        """Whether it takes a number, whole or not."""
        return self.type in ("integer", "number")

    def read(self, raw: object) -> Value:
        """Return what somebody wrote as a value of this input; raises ``ValueError`` with what it must be."""
        if self.is_number:
            return self._number(raw)
        literal = self.type in LITERALS
        if literal and not isinstance(raw, str | int | float):
            raise ValueError("it must be a text, a number, true or false")
        if not literal and not (isinstance(raw, str) and raw):
            raise ValueError("it must be the path of a file")
        try:
            value = str(raw)
        except ValueError:  # Python writes out no more than 4300 digits
            raise ValueError("it must be a text") from None
        if literal and value in ("True", "False"):
            # The component's enumerations hold true and false (azureml-assets, chat_completion/spec.yaml, 2026-07-23);
            # the SDK would send True.
            value = value.lower()
        if self.type == "boolean" and value not in ("true", "false"):
            raise ValueError("it must be true or false")
        self._check_options(value)
        # The component's command lines are single-quoted (its input descriptions, 2026-07-23); files' names get there.
        if _BREAKING & set(value if literal else Path(value).name):
            what = "it must have no quote, backslash or line break, which break the component's command lines"
            raise ValueError(what)
        return value == "true" if self.type == "boolean" else value

    def takes(self, raw: object) -> bool:
        """Whether it can be read as a value of this input."""
        try:
            self.read(raw)
        except ValueError:
            return False
        return True

    def parse(self, text: str) -> Value:
        """Return what a text on the wire means to the component; raises ``ValueError`` with what it must be.

        It takes fewer texts than `read`, which makes of ``True`` and of ``1e3`` what is sent.
        """
        if not self.is_number:
            self._check_options(text)
            return text
        value = self._number(text)
        if self.type == "integer" and not text.strip().lstrip("+-").replace("_", "").isdecimal():
            raise ValueError("it must be a whole number")
        return value

    def _check_options(self, value: object) -> None:
        if self.options and str(value) not in self.options:
            raise ValueError(f"it must be one of {', '.join(self.options)}")

    def _number(self, raw: Any) -> int | float:
        integer = self.type == "integer"
        try:
            value: int | float = math.nan if isinstance(raw, bool) else float(raw)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value) or (integer and value != int(value)):
            raise ValueError("it must be a whole number" if integer else "it must be a number")
        if integer:
            if abs(value) >= 2**63:
                raise ValueError("it must be a whole number of at most 64 bits")
            try:  # a text or int with all its digits, of which a float keeps 15
                value = int(value if isinstance(raw, float) else raw)
            except (TypeError, ValueError):  # a text such as 1e3
                value = int(value)
        self._check_options(value)
        if self.least is not None and value < float(self.least):
            raise ValueError(f"it must be at least {self.least}")
        return value


def known_inputs() -> dict[str, Input]:
    """Return the component's inputs by name, from the dated table."""
    return {name: Input.of(name, spec) for name, spec in facts.load("chat_completion_pipeline")["inputs"].items()}
