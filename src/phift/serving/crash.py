"""Why a deployment's container did not come up, as far as the end of its log says so: a table with sources."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A row of the table, which is in ``crashes.json``; the first row that fits counts.

    - **text**: a regular expression for the log.
    - **what**, **fix**: our sentence, and what to change next.
    - **source**, **date**: who says that it is told so, and when that was.
    """

    name: str
    text: str
    what: str
    fix: str
    source: str
    date: str


@cache
def crashes() -> tuple[Crash, ...]:
    """Return all rows."""
    text = (files(__name__.rpartition(".")[0]) / "crashes.json").read_text(encoding="utf-8")
    return tuple(Crash(**row) for row in json.loads(text))


def crash_in(log: str) -> Crash | None:
    """Return what the end of a log says, or None where nothing is known of it."""
    return next((each for each in crashes() if re.search(each.text, log)), None)
