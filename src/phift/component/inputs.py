"""The component's inputs: a value of one, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Origin = Literal["component", "model", "preset", "user", "compute"]


@dataclass(frozen=True)
class Parameter:
    """One parameter's value, who set it, and what that overrode, latest last."""

    name: str
    value: Any
    origin: Origin
    overrode: tuple[tuple[Origin, Any], ...] = ()
