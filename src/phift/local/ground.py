"""What a local workspace stands on: everything that what works in it needs, and nothing that answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from phift.local.programs import Programs
from phift.local.state.clock import Clock
from phift.local.state.documents import Documents
from phift.local.state.faults import Faults
from phift.local.state.folder import Folder
from phift.local.state.identity import Identity
from phift.local.state.journal import Journal


@dataclass(frozen=True)
class Ground:
    """The folder and what is remembered in it, who may do what, and the time.

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

    @property
    def host(self) -> str:
        """The host and port of ``base_url``."""
        return self.base_url.removeprefix("https://")
