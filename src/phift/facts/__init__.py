"""Dated tables: what was known of Azure's component, VM sizes and models, with source and date beside every entry.

They are the last resort, for what the service does not tell; whoever uses one says which and how old it is.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

NAMES = ("chat_completion_pipeline", "models", "vm_sizes")


@cache
def load(name: str) -> Any:
    """Return the table called ``name``; callers share one copy, so they must not change it."""
    return json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8"))
