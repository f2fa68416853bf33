"""The files of a local workspace's state folder, and names that cannot lead out of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


class UnsafePath(ValueError):
    """A name that would leave the folder it is meant for."""


def confined(base: Path, relative: str) -> Path:
    """Return ``base / relative``, refusing every name that could lie outside ``base``."""
    parts = PurePosixPath(relative).parts
    refused = not parts or relative.startswith("/") or "\\" in relative or any(ord(char) < 32 for char in relative)
    if refused or any(part in ("..", ".") or len(part.encode()) > 255 for part in parts):
        raise UnsafePath(f"not a path inside the folder: {relative!r}")
    path = base.joinpath(*parts)
    # A symbolic link inside the folder must not lead out of it either.
    if not path.resolve().is_relative_to(base.resolve()):
        raise UnsafePath(f"not a path inside the folder: {relative!r}")
    return path


@dataclass(frozen=True)
class Folder:
    """The places of one local workspace's state folder."""

    root: Path

    @property
    def secret(self) -> Path:
        """The random bytes that tokens, keys and signatures are made from."""
        return self.root / "secret"

    @property
    def bundle(self) -> Path:
        """The machine's certificate authorities and ours, for ``REQUESTS_CA_BUNDLE``."""
        return self.root / "bundle.pem"

    @property
    def server_file(self) -> Path:
        """Who serves this folder, and where; there while a server listens."""
        return self.root / "server.json"

    @property
    def server_lock(self) -> Path:
        """Locked by the serving process as long as it lives."""
        return self.root / "server.lock"

    @property
    def log(self) -> Path:
        """What the server writes to its output."""
        return self.root / "server.log"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "state.db"

    @property
    def registry(self) -> Path:
        """The stand-in models, one folder each."""
        return self.root / "registry"

    @property
    def blobs(self) -> Path:
        """The storage account's files: ``<account>/<container>/<path>``."""
        return self.root / "blobs"

    @property
    def staging(self) -> Path:
        """Uploads that are not complete yet."""
        return self.root / "staging"

    def job(self, name: str) -> Path:
        """Return the folder of one job."""
        return confined(self.root / "jobs", name)

    def deployment(self, endpoint: str, name: str) -> Path:
        """Return the folder of one deployment."""
        return confined(self.root / "endpoints", f"{endpoint}/{name}")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in one step."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
