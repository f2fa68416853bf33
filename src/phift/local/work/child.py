"""A process of ours: it ends when its input does, and writes a JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from phift.local.state.documents import Json

logger = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that a process has for its end; this is for one that does not end by itself when its input closes."""


class Child(subprocess.Popen[bytes]):
    """A running program, spoken to through pipes; whatever else it prints goes to its log."""

    stdin: IO[bytes]
    stdout: IO[bytes]

    def __init__(self, command: tuple[str, ...], log: Path, environment: Mapping[str, str] | None = None) -> None:
        pipe = subprocess.PIPE
        with log.open("ab") as errors:
            super().__init__(command, stdin=pipe, stdout=pipe, stderr=errors, env=environment, start_new_session=True)

    def says(self) -> Iterator[Json]:
        """Yield what it says, until it says no more."""
        with self.stdout:
            for line in self.stdout:
                said = None
                with suppress(ValueError):
                    said = json.loads(line)
                if isinstance(said, dict):
                    yield said
                else:
                    logger.warning("a process wrote a line that is no JSON object")

    def stop(self) -> None:
        """Close its input, and kill it if it stays, with what it may have started itself."""
        with suppress(OSError):
            self.stdin.close()
        if self.poll() is not None:  # it may be gone for long, and somebody else have its number
            return
        try:
            self.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            logger.warning("a process did not end by itself; it is killed")
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
