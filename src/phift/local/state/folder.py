"""The files of a local workspace's state folder, and names that cannot lead out of it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile


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


class Folder:
    """The places of one local workspace's state folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.secret = root / "secret"  # the random bytes that tokens, keys and signatures are made from
        self.bundle = root / "bundle.pem"  # the machine's certificate authorities and ours, for `REQUESTS_CA_BUNDLE`
        self.server_file = root / "server.json"  # who serves this folder, and where; there while a server listens
        self.server_lock = root / "server.lock"  # locked by the serving process as long as it lives
        self.log = root / "server.log"  # what the server writes to its output
        self.database = root / "state.db"
        self.registry = root / "registry"  # the stand-in models, one folder each
        self.blobs = root / "blobs"  # the storage account's files: <account>/<container>/<path>
        self.staging = root / "staging"  # uploads that are not complete yet

    @contextmanager
    def claimed(self, patience: float = 1) -> Iterator[bool]:
        """Hold `server_lock` until the end of the block, and tell whether it could be had within some seconds.

        Who only looks whether it is held has it for a moment. Nobody who has died holds it, whatever process has his
        number now.
        """
        end = time.monotonic() + patience
        with self.server_lock.open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= end:
                        yield False
                        return
                    time.sleep(0.02)
            yield True

    def job(self, name: str) -> Path:
        """Return the folder of one job."""
        return confined(self.root / "jobs", name)

    def deployment(self, endpoint: str, name: str) -> Path:
        """Return the folder of one deployment."""
        return confined(self.root / "endpoints", f"{endpoint}/{name}")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in one step."""
    with NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp", delete=False) as file:
        half = Path(file.name)
        try:
            file.write(content)
            file.close()
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)  # half of one on a full disk
