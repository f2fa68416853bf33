"""Silence for what the SDK prints by itself: the library never prints."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
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


_lock = threading.Lock()
_inside: Counter[int] = Counter()  # how often each thread is inside `quiet_sdk`
_restore = ExitStack()


@contextmanager
def quiet_sdk() -> Iterator[None]:
    """Keep back the dots of the SDK's poller threads and the blank lines it writes after uploads.

    What other threads print meanwhile goes through. The streams belong to the whole process, so they are changed by
    the first thread that comes in and restored by the last that goes out.
    """
    here = threading.get_ident()
    with _lock:
        if not _inside:
            _restore.enter_context(redirect_stdout(_Filtered(sys.stdout, _from_a_poller)))
            _restore.enter_context(redirect_stderr(_Filtered(sys.stderr, _after_an_upload)))
        _inside[here] += 1
    try:
        yield
    finally:
        with _lock:
            _inside[here] -= 1
            if not _inside[here]:
                del _inside[here]
            if not _inside:
                _restore.close()


def _from_a_poller(_text: str, _begins_line: bool) -> bool:
    return threading.current_thread().name.startswith("LROPoller(")


def _after_an_upload(text: str, begins_line: bool) -> bool:
    # `print` writes a line's end by itself, so a blank text is only a blank line where a line begins.
    return begins_line and threading.get_ident() in _inside and text.strip() in ("", _RESET)
