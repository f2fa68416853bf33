"""Everything one running local workspace consists of, handed to every route."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phift.local.state.clock import Clock
from phift.local.state.documents import Documents, Folder
from phift.local.state.faults import Faults
from phift.local.state.identity import Identity
from phift.local.state.journal import Journal

if TYPE_CHECKING:
    from phift.local.services.operations import Operations
    from phift.local.work.scorers import Scorers
    from phift.local.work.training import Training


@dataclass(frozen=True)
class Programs:
    """The commands of the other processes; tests put small fakes here."""

    server: tuple[str, ...] = (sys.executable, "-m", "phift.local.server.process")
    standin: tuple[str, ...] = (sys.executable, "-m", "phift.local.work.standin")
    preparation: tuple[str, ...] = (sys.executable, "-m", "phift.local.work.preparing")
    engine: tuple[str, ...] = (sys.executable, "-m", "phift.local.work.engine")
    scorer: tuple[str, ...] = (sys.executable, "-m", "phift.local.work.scorer")


_INSTANT = (sys.executable, "-m", "phift.local.work.instant")

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
    training: Training = field(init=False)

    @property
    def host(self) -> str:
        """The host and port of ``base_url``."""
        return self.base_url.removeprefix("https://")
