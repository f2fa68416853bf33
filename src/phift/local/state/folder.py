"""The files of a local workspace's state folder, and names that cannot lead out of it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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
        self.server_lock = root / "server.lock"  # locked by the serving process as long as it lives; holds its number
        self.start_lock = root / "start.lock"  # locked by the process that starts, stops or deletes it all
        self.ignored = root / ".gitignore"  # made with the folder
        self.log = root / "server.log"  # what the server writes to its output
        self.database = root / "state.db"
        self.registry = root / "registry"  # of models: a folder for each stand-in, and
        self.added = self.registry / "added"  # the user's own models: <name>/<version>
        self.blobs = root / "blobs"  # the storage account's files: <account>/<container>/<path>
        self.staging = root / "staging"  # uploads that are not complete yet

    def make(self) -> None:
        """Make the folder where there is none, and keep it out of Git, should it lie in a project: it has secrets."""
        if not self.root.is_dir():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(OSError):
                self.ignored.write_text("*\n", encoding="utf-8")

    @contextmanager
    def claimed(self, patience: float = 1) -> Iterator[bool]:
        """Claim the folder until the end of the block, and tell whether it could be had within some seconds.

        Nobody who has died holds it, whatever process has his number now. The folder itself is locked, since a file in
        it can be deleted and made anew; and `server_lock`, at which alone phift of before 2026-12 looks, and which does
        where a file system locks no folders (NFS: flock(2) of Linux, 2026-11).
        """
        with self._held(fcntl.LOCK_EX, patience) as ours:
            if ours:
                self.forget_server()  # what one who has died left there names somebody else now
                if self.server_lock.is_file():
                    os.truncate(self.server_lock, 0)
            yield ours

    def is_free(self, patience: float = 0) -> bool:
        """Tell whether nobody has claimed the folder, or whoever has leaves it within some seconds."""
        if not self.root.is_dir():
            return True
        with suppress(FileNotFoundError), self._held(fcntl.LOCK_SH, patience) as free:  # shared by all that look
            return free
        return True

    @contextmanager
    def _held(self, kind: int, patience: float) -> Iterator[bool]:
        end = time.monotonic() + patience
        with ExitStack() as held:
            locks = [os.open(self.root, os.O_RDONLY)]  # which makes none where it has just been deleted
            held.callback(os.close, locks[0])
            if kind == fcntl.LOCK_EX or self.server_lock.exists():
                locks.append(held.enter_context(_opened(self.server_lock)))
            while not all(_locked(lock, kind) for lock in locks):
                if time.monotonic() >= end:
                    yield False
                    return
                time.sleep(0.02)
            yield True

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Wait until no other process starts, stops or deletes it, and hold them off until the end of the block.

        The folder is made where there is none, as where whoever was waited for has deleted it.
        """
        while True:
            self.make()
            with _opened(self.start_lock) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if _lies_at(self.start_lock, lock):
                    yield
                    return

    def forget_server(self) -> None:
        """Delete the note of who serves."""
        with suppress(IsADirectoryError, PermissionError):  # a folder in its place is set aside by who writes it
            self.server_file.unlink(missing_ok=True)

    def marks(self) -> int:
        """Return by how many of three signs this is a local workspace's folder."""
        return sum(os.path.lexists(path) for path in (self.secret, self.database, self.server_lock))

    def check(self) -> None:
        """Raise `NotADirectoryError` where something else, or a link to nothing, is in the place of one of its folders.

        A link to a folder on another disk is good.
        """
        for folder in (self.registry, self.blobs, self.staging, self.root / "jobs", self.root / "endpoints"):
            if os.path.lexists(folder) and not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))

    def job(self, name: str) -> Path:
        """Return the folder of one job."""
        return confined(self.root / "jobs", name)

    def deployment(self, endpoint: str, name: str) -> Path:
        """Return the folder of one deployment."""
        return confined(self.root / "endpoints", f"{endpoint}/{name}")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file that is to be locked, for which a folder in its place is as good.

    A link that leads nowhere is deleted.
    """
    if path.is_dir():
        descriptor = os.open(path, os.O_RDONLY)
    else:
        if path.is_symlink() and not path.exists():
            path.unlink(missing_ok=True)
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            path.chmod(0o600)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lies_at(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EBADF:  # a folder, where the file system locks files only
            raise
    return True


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in one step: there is never half of it, whatever dies meanwhile.

    A folder that lies in its place is set aside. A power cut too leaves the whole old one or the whole new one.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp", delete=False) as file:
        half = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            if path.is_dir() and not path.is_symlink():
                path.rename(path.with_name(f"{path.name}.{time.time_ns()}.aside"))
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)  # half of one on a full disk
