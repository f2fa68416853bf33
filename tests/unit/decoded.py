"""The rows of lines as they are decoded at once."""

from __future__ import annotations

from contextlib import suppress

from phift.data import chat
from phift.data.lines import Lines


def decoded_lines(block: bytes) -> list[chat.Conversation] | None:
    """Return the rows, their columns being known; None where they need a closer look."""
    lines = Lines()
    for line in block.splitlines():
        with suppress(chat.InvalidRow):
            lines.learn(chat.columns(line).keys())
    decoded = lines.decode(block)
    return None if decoded is None else decoded.rows
