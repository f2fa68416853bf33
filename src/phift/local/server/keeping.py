"""What a server sees to while it serves: that its folder stays its own, and that others find it there."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from phift.local.state.folder import Folder, write_private
from phift.local.state.served import note_process, noted_process

logger = logging.getLogger(__name__)


class Kept:
    """A served folder as it is at first.

    What clients read is written anew where somebody deletes or changes it; not the secret: who deletes it wants that.

    - **mended**: what these files hold.
    """

    def __init__(self, place: Folder, mended: Mapping[Path, bytes]) -> None:
        self._place = place
        self._vital = {path: _which(path) for path in (place.root, place.database)}
        self._mended: dict[Path, tuple[tuple[int, ...] | None, bytes]]
        self._mended = {path: ((), content) for path, content in mended.items()}

    def lost(self) -> Path | None:
        """Return what is no longer where it was and without which nothing can be served; mends what can be mended."""
        for path, which in self._vital.items():
            if _which(path) != which:
                return path
        for path, (state, content) in self._mended.items():
            now = _state(path)  # before it is read: what happens after that is seen at the next look
            if now != state:
                with suppress(OSError):  # there is no room or no right just now; the next look tries it again
                    if _content(path) != content:
                        logger.warning("%s was deleted or changed, and is written anew", path)
                        write_private(path, content)
                    else:
                        self._mended[path] = now, content
        with suppress(OSError):
            if noted_process(self._place) != os.getpid():
                note_process(self._place, os.getpid())
        return None


def _which(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _state(path: Path) -> tuple[int, ...] | None:
    with suppress(OSError):
        found = path.lstat()
        return found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return None


def _content(path: Path) -> bytes | None:
    with suppress(OSError):
        return path.read_bytes() if path.is_file() else None
    return None
