"""The commands of a local workspace's processes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

Engine = Literal["train", "instant"]


@dataclass(frozen=True)
class Programs:
    """The commands of the other processes; tests put small fakes here."""

    server: tuple[str, ...] = (sys.executable, "-m", "phift.local.server.process")
    standin: tuple[str, ...] = (sys.executable, "-m", "phift.local.work.standin")
    preparation: tuple[str, ...] = (sys.executable, "-m", "phift.local.work.preparing")
    engine: tuple[str, ...] = (sys.executable, "-m", "phift.local.work.engine")
    scorer: tuple[str, ...] = (sys.executable, "-m", "phift.local.work.scorer")


_INSTANT = (sys.executable, "-m", "phift.local.work.instant")

ENGINES: dict[Engine, Programs] = {
    "train": Programs(),
    "instant": Programs(standin=(*_INSTANT, "standin"), engine=(*_INSTANT, "engine"), scorer=(*_INSTANT, "scorer")),
}
"""The programs of each engine: ``train`` really trains, ``instant`` does nothing and says so in what it leaves."""
