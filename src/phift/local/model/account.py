"""A storage account outside of the local workspace: where it is, its key, and what the datastores hand out of it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from phift import errors

Secrets = Literal["Sas", "AccountKey"]

_URL = re.compile(r"https://(?:localhost|127\.0\.0\.1)(?::\d+)?/[a-z0-9]{3,24}")
_FILE = "storage.json"


@dataclass(frozen=True)
class StorageAccount:
    """A storage account on this machine, such as Microsoft's emulator azurite serves.

    - **url**: its address, with its name as the path: ``https://127.0.0.1:10000/devstoreaccount1``.
    - **key**: its key in base64; it is never part of this object's repr.
    - **ca**: the file of the authorities to trust for it, where the machine's are not enough.
    - **secrets**: what a datastore hands out: ``Sas``, a signature for one container, or ``AccountKey``, the key.

    Raises `phift.errors.LocalWorkspaceError` for another form of address, another machine, or a key that is none.
    """

    url: str
    key: str = field(repr=False)
    ca: Path | None = None
    secrets: Secrets = "Sas"

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url):
            what = f"{self.url!r} is not the address of a storage account on this machine."
            raise errors.LocalWorkspaceError(what, where="StorageAccount", fix="https://127.0.0.1:<port>/<account>")
        if self.secrets not in get_args(Secrets):
            what = f"A datastore does not hand out {self.secrets!r}."
            raise errors.LocalWorkspaceError(what, where="StorageAccount", fix=" or ".join(get_args(Secrets)))
        try:
            base64.b64decode(self.key, validate=True)
        except ValueError:
            what = "The storage account's key is not base64."
            raise errors.LocalWorkspaceError(
                what, where="StorageAccount", fix="give the key as azurite has it"
            ) from None

    @property
    def name(self) -> str:
        """The account's name."""
        return urlsplit(self.url).path.strip("/")

    def save(self, folder: Path) -> None:
        """Keep the account in a workspace's folder, where its server looks for it."""
        from phift.local.server.certificates import write_private

        kept = {**asdict(self), "ca": str(self.ca.absolute()) if self.ca else None}
        write_private(folder / _FILE, json.dumps(kept).encode())

    @classmethod
    def of(cls, folder: Path) -> StorageAccount | None:
        """Return the account that a workspace's folder was given, or None."""
        file = folder / _FILE
        if not file.exists():
            return None
        kept = json.loads(file.read_text(encoding="utf-8"))
        return cls(**{**kept, "ca": Path(kept["ca"]) if kept["ca"] else None})
