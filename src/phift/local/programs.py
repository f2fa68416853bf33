"""What runs in a local workspace: the commands of its processes, or what stands for them in the one that serves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phift.local import instant

Engine = Literal["train", "instant"]
Command = tuple[str, ...]


@dataclass(frozen=True)
class Programs:
    """The commands of the other processes, or what stands for them; tests put small fakes here."""

    server: Command = (sys.executable, "-m", "phift.local.server.process")
    standin: Command | Callable[[Path, Sequence[str]], None] = (sys.executable, "-m", "phift.local.work.standin")
    preparation: Command = (sys.executable, "-m", "phift.local.work.preparing")
    engine: Command | Callable[[Path], Iterator[dict[str, str]]] = (sys.executable, "-m", "phift.local.work.engine")
    scorer: Command | type[instant.Scorer] = (sys.executable, "-m", "phift.local.work.scorer")


ENGINES: dict[Engine, Programs] = {
    "train": Programs(),
    "instant": Programs(standin=instant.make_standins, engine=instant.train, scorer=instant.Scorer),
}
"""The programs of each engine: ``train`` really trains, ``instant`` does nothing and says so in what it leaves."""
