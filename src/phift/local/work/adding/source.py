"""Where a model comes from, and what its files' headers say, before anything of it is read into memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phift.errors import ModelError

CONFIG = "config.json"
_LONGEST_TEXT = 10_000_000  # bytes of a JSON file


@dataclass(frozen=True)
class Source:
    """A model that is to be read.

    - **weights**, **tokenizer**: folders, often the same.
    - **gguf**: the name of the file in it, or empty.
    - **files**: those that hold the weights.
    - **shapes**: of the tensors, by name; empty for GGUF, whose names are others. **tensors**: how many there are.
    - **values**: how many numbers there are. **dtype**: of most of them. **size**: bytes of them in the files.
    """

    where: str
    weights: Path
    tokenizer: Path
    gguf: str
    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    tensors: int
    values: int
    dtype: str
    size: int
    license: str = ""

    @property
    def loading(self) -> dict[str, Any]:
        """What transformers is to be told besides the folder."""
        return {"gguf_file": self.gguf} if self.gguf else {}


def read_json(path: Path) -> dict[str, Any]:
    """Return an object from a JSON file of moderate length."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LONGEST_TEXT))
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ModelError("The file cannot be read as a JSON object.", where=str(path), fix="copy or save it anew")
    return document
