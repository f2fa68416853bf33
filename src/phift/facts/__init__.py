"""Dated tables: what was known of Azure's component, VM sizes and models, with source and date beside every entry.

They are the last resort, for what the service does not tell; whoever uses one says which and how old it is.

A user's own tables go before: JSON files of the same names and form in the folder that ``PHIFT_FACTS`` names. An entry
with a known ``name`` replaces the keys it gives, one with a new name is added.

Every table says on which day it was last held against its sources, ``read_on``, and for how many days that is good,
``good_for_days``; one without them does not age. After that it is old, whatever the dates of its sources are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from phift.errors import ConfigError


@dataclass(frozen=True)
class Age:
    """How old a table is.

    - **read_on**: when it was last held against its sources; where a user's own entries were changed later, when.
    - **good_for**: how many days that is good; 0 for one that does not age.
    - **sources**: the days or months of the oldest and the newest source.
    """

    table: str
    read_on: date
    good_for: int
    sources: tuple[str, str]

    def days(self, today: date) -> int:
        """Return its age in days."""
        return (today - self.read_on).days

    def old(self, today: date) -> bool:
        """Whether it is older than it is good for."""
        return bool(self.good_for) and self.days(today) > self.good_for


def ages() -> list[Age]:
    """Return how old each table is; raises as `age` does."""
    return [age(each.name[:-5]) for each in sorted(files(__name__).iterdir(), key=str) if each.name.endswith(".json")]


def age(name: str) -> Age:
    """Return how old a table is.

    Raises `phift.errors.ConfigError` where the user's own one cannot be read, or tells no day or number of days.
    """
    table, own = load(name), _own(name, os.environ.get("PHIFT_FACTS"))
    dates = sorted(re.findall(r'"\w*date": "([\d-]+)"', json.dumps(table))) or [table["read_on"]]
    try:
        read_on = date.fromisoformat(table.get("read_on", dates[-1]))
        read_on = max(read_on, _changed(own)) if own else read_on
        good_for = int(table.get("good_for_days", 0))
    except (OSError, ValueError, TypeError, OverflowError) as error:
        what, fix = "The age of your own table cannot be read.", "write read_on as 2026-11-22, good_for_days as 120"
        raise ConfigError(what, where=str(own), fix=fix) from error
    return Age(name, read_on, good_for, (dates[0], dates[-1]))


def load(name: str) -> Any:
    """Return the table called ``name``; callers share one copy, so they must not change it.

    Raises `phift.errors.ConfigError` where the user's own table cannot be read.
    """
    return _load(name, os.environ.get("PHIFT_FACTS"))


@cache
def _load(name: str, folder: str | None) -> Any:
    table = json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8"))
    if (path := _own(name, folder)) is None:
        return table
    try:
        own, changed = json.loads(path.read_text(encoding="utf-8")), _changed(path).isoformat()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("Your own table cannot be read.", where=str(path), fix="mend the JSON") from error
    if not isinstance(own, dict):
        raise ConfigError("Your own table is no JSON object.", where=str(path), fix="see the form in phift/facts")
    return {**table, **{key: _merged(table.get(key), value, path, changed) for key, value in own.items()}}


def _own(name: str, folder: str | None) -> Path | None:
    """Return the file of a user's own table, if there is one."""
    path = Path(folder).expanduser() / f"{name}.json" if folder else None
    return path if path and path.exists() else None


def _changed(path: Path) -> date:
    return datetime.fromtimestamp(path.stat().st_mtime, tz=UTC).date()


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
