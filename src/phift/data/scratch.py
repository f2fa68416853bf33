"""A folder that is built beside its place and moved there when it is whole."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phift.errors import DataError, PhiftError

_PREFIX = ".preparing-"
_LOCK = "lock"
_MOMENT = 60  # seconds


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder inside ``folder``, and remove it if it is still there at the end.

    Those of processes that were killed are removed too: a lock that nobody holds tells them from the others.

    Raises `phift.errors.DataError` for what the file system refuses meanwhile.
    """
    import filelock

    scratch = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        with filelock.FileLock(scratch / "taking"):
            # Named when it is held: between making a file and locking it another process could take the lock.
            (scratch / "taking").rename(scratch / _LOCK)
            yield scratch
    except PhiftError:
        raise  # some of ours are OSErrors too
    except OSError as error:
        what = f"A file could not be read or written: {error.strerror}."
        where = str(error.filename or folder)
        raise DataError(what, where=where, fix="check the permissions and the free space") from error
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    import filelock

    for left in folder.glob(f"{_PREFIX}*"):
        try:
            # Between making the folder and holding its lock there is a moment without one.
            if not (left / _LOCK).exists() and time.time() - left.stat().st_mtime < _MOMENT:
                continue
            with filelock.FileLock(left / _LOCK, timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        except (filelock.Timeout, OSError):
            continue  # somebody is at work there, or has just removed it
