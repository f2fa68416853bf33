"""What a local workspace stands on: everything that what works in it needs, and nothing that answers."""

from __future__ import annotations

from dataclasses import dataclass

from phift.local.programs import Datastores, Programs
from phift.local.state.clock import Clock, Speed
from phift.local.state.documents import Documents
from phift.local.state.faults import Faults, Journal
from phift.local.state.folder import Folder
from phift.local.state.identity import Identity, read_secret
from phift.local.state.traffic import Traffic


@dataclass(eq=False)
class Ground:
    """The folder and what is remembered in it, who may do what, and the time.

    - **base_url**: where it is served, without a slash at the end; nothing that is stored holds it.
    """

    folder: Folder
    base_url: str
    programs: Programs
    speed: Speed = "real"

    def __post_init__(self) -> None:
        self.clock = Clock(self.speed)
        self.documents = Documents(self.folder.database, self.clock.now)
        self.identity = Identity(read_secret(self.folder.secret), self.clock.now)
        self.faults, self.journal = Faults(), Journal()
        self.traffic = Traffic(self.documents, self.clock.now)

    @property
    def datastores(self) -> Datastores:
        """How storage is reached, as the folder remembers it."""
        server = self.documents.get("server")
        told: Datastores = server.body.get("datastores", "accesskey") if server else "accesskey"
        return told


def remember(documents: Documents, **told: object) -> None:
    """Write down how a folder is served: its ``port``, 0 for any, and its ``datastores``; None where it was before."""
    known = documents.get("server")
    new = {name: value for name, value in told.items() if value is not None}
    documents.put("server", {"port": 0, **(known.body if known else {}), **new})
