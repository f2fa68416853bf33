"""What every part of the configuration is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, pattern=r"^[^'\\\s]+$")]
"""A resource name; the component's command lines are single-quoted, so quotes and backslashes break them."""

EndpointName = Annotated[str, Field(min_length=3, max_length=32, pattern=r"^[A-Za-z](-?[A-Za-z0-9])*$")]
"""3 to 32 characters: a letter first, then letters, digits and single dashes (Microsoft Learn, 2026-07)."""


def expanded(path: Path) -> Path:
    """Return a path with its ``~`` replaced."""
    try:
        return path.expanduser()
    except RuntimeError as error:  # ~somebody, whom this machine does not know
        raise ValueError(str(error)) from None


Folder = Annotated[Path, AfterValidator(expanded)]


class Section(BaseModel):
    """A part of the configuration: frozen, and an unknown key is a mistake instead of a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
