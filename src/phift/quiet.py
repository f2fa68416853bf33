"""Silence for what the SDK prints by itself: the library never prints."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

_RESET = "\x1b[39m"  # colorama's "colour off", which the SDK prints after every upload


class _Filtered:
    """A text stream that drops some writes and passes everything else on.

    - **drops**: whether to drop a write, of its text and whether it begins a line.
    """

    def __init__(self, stream: TextIO, drops: Callable[[str, bool], bool]) -> None:
        self._stream = stream
        self._drops = drops
        self._line_start = True

    def write(self, text: str) -> int:
        if self._drops(text, self._line_start):
            return len(text)
        self._line_start = text.endswith("\n")
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def quiet_sdk() -> Iterator[None]:
    """Keep back the dots of the SDK's poller threads and the blank lines it writes after uploads.

    What other threads print meanwhile goes through.
    """
    here = threading.get_ident()

    def from_a_poller(_text: str, _begins_line: bool) -> bool:
        return threading.current_thread().name.startswith("LROPoller(")

    def after_an_upload(text: str, begins_line: bool) -> bool:
        # `print` writes a line's end by itself, so a blank text is only a blank line where a line begins.
        return begins_line and threading.get_ident() == here and text.strip() in ("", _RESET)

    with redirect_stdout(_Filtered(sys.stdout, from_a_poller)), redirect_stderr(_Filtered(sys.stderr, after_an_upload)):
        yield
