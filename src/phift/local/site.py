"""Everything one running local workspace consists of, handed to every route."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phift.local.clock import Clock
from phift.local.faults import Faults
from phift.local.identity import Identity
from phift.local.journal import Journal
from phift.local.state import Documents, Folder

if TYPE_CHECKING:
    from phift.local.operations import Operations
    from phift.local.scorers import Scorers
    from phift.local.storage import Storage
    from phift.local.training import Training


@dataclass(frozen=True)
class Programs:
    """The commands of the other processes; tests put small fakes here."""

    server: tuple[str, ...] = (sys.executable, "-m", "phift.local.server")
    standin: tuple[str, ...] = (sys.executable, "-m", "phift.local.standin")
    preparation: tuple[str, ...] = (sys.executable, "-m", "phift.local.preparing")
    engine: tuple[str, ...] = (sys.executable, "-m", "phift.local.engine")
    scorer: tuple[str, ...] = (sys.executable, "-m", "phift.local.scorer")


_INSTANT = (sys.executable, "-m", "phift.local.instant")

ENGINES = {
    "train": Programs(),
    "instant": Programs(standin=(*_INSTANT, "standin"), engine=(*_INSTANT, "engine"), scorer=(*_INSTANT, "scorer")),
}
"""The programs of each engine: ``train`` really trains, ``instant`` does nothing and says so in what it leaves."""


@dataclass
class Site:
    """The parts of a running local workspace.

    - **base_url**: where it is served, without a slash at the end; nothing that is stored holds it.
    """

    folder: Folder
    documents: Documents
    identity: Identity
    base_url: str
    programs: Programs
    clock: Clock
    faults: Faults = field(default_factory=Faults)
    journal: Journal = field(default_factory=Journal)
    operations: Operations = field(init=False)
    scorers: Scorers = field(init=False)
    storage: Storage = field(init=False)
    training: Training = field(init=False)

    @property
    def host(self) -> str:
        """The host and port of ``base_url``."""
        return self.base_url.removeprefix("https://")
