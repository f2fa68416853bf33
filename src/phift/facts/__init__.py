"""Dated tables: what was known of Azure's component, VM sizes and models, with source and date beside every entry.

They are the last resort, for what the service does not tell; whoever uses one says which and how old it is.

A user's own tables go before: JSON files of the same names and form in the folder that ``PHIFT_FACTS`` names. An entry
with a known ``name`` replaces the keys it gives, one with a new name is added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from phift.errors import ConfigError


def load(name: str) -> Any:
    """Return the table called ``name``; callers share one copy, so they must not change it.

    Raises `phift.errors.ConfigError` where the user's own table cannot be read.
    """
    return _load(name, os.environ.get("PHIFT_FACTS"))


@cache
def _load(name: str, folder: str | None) -> Any:
    table = json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8"))
    path = Path(folder).expanduser() / f"{name}.json" if folder else None
    if path is None or not path.exists():
        return table
    try:
        own = json.loads(path.read_text(encoding="utf-8"))
        changed = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC).date().isoformat()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("Your own table cannot be read.", where=str(path), fix="mend the JSON") from error
    if not isinstance(own, dict):
        raise ConfigError("Your own table is no JSON object.", where=str(path), fix="see the form in phift/facts")
    return {**table, **{key: _merged(table.get(key), value, path, changed) for key, value in own.items()}}


def _merged(table: Any, own: Any, path: Path, changed: str) -> Any:
    """Return a part of a table with the user's entries in it."""
    if isinstance(table, dict) and isinstance(own, dict):
        return {**table, **own}
    if not isinstance(table, list):
        return own
    if not isinstance(own, list) or not all(isinstance(entry, dict) and "name" in entry for entry in own):
        fix = "give a list of objects, each with a `name`"
        raise ConfigError("A part of your own table is not a list of named entries.", where=str(path), fix=fix)
    source = {"source": str(path), "date": changed}
    known: dict[str, Mapping[str, Any]] = {entry["name"].lower(): entry for entry in table}
    unknown = dict.fromkeys(table[0]) if table else {}
    for entry in own:
        name = str(entry["name"]).lower()
        known[name] = {**known.get(name, unknown), **source, **entry}
    return list(known.values())
