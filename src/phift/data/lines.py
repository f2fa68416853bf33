"""Whole lines of JSON decoded at once, the fast way; one that is not plain makes all of them wait for a closer look."""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import msgspec

from phift.data import chat, weights
from phift.data.chat import MALFORMED, Conversation
from phift.data.formats import SYSTEM, recognise
from phift.data.seen import LONGEST_NAME, MEANT, MOST_NAMES, Names

_CONVERSATION = frozenset(Conversation.__struct_fields__)
_OPEN, _CLOSE, _RETURN = b"{}\r"
_NOTHING = tuple(map(msgspec.Raw, (b"null", b'""')))
_NOTHING_MEANT = (*_NOTHING, *map(msgspec.Raw, (b"[]", b"{}", b'"[]"', b'"{}"')))
_LEARNT = tuple(map(msgspec.Raw, (b"null", b"1", b"1.0", b"true")))
_PLAIN = {"functions": _NOTHING_MEANT, **dict.fromkeys(weights.OF_ROWS, _LEARNT)}  # what needs no closer look
_USED = recognise(["messages"]).used


class Decoded(NamedTuple):
    """The rows of lines, not yet checked, and their columns that are left out."""

    rows: list[Conversation]
    columns: Names


class Lines:
    """Decodes lines that have no other columns than those it has been told of, so that none goes unseen."""

    def __init__(self) -> None:
        self._columns: tuple[str, ...] = ()
        self._too_many = False

    def decode(self, block: bytes) -> Decoded | None:
        """Return the rows of whole lines of JSON; None where one of them needs a closer look.

        So that each line is one row, each line's end has to be a row's end: within JSON no brace opens right after one
        has closed and a line has ended.
        """
        try:
            rows = _decoder(self._columns, self._too_many).decode_lines(block)
        except MALFORMED:
            return None
        if len(rows) != _lines_of_rows(block):
            return None
        columns = Names(more=self._too_many)
        for name, field in _fields(self._columns):
            values = list(map(attrgetter(field), rows))
            if name in SYSTEM:
                if not chat.put_first(rows, values):
                    return None
                continue
            absent = values.count(msgspec.UNSET)
            if name in _PLAIN and absent + sum(map(values.count, _PLAIN[name])) < len(values):
                return None
            if absent < len(values) and name not in _USED:
                nothing = _NOTHING_MEANT if name in MEANT else _NOTHING
                columns.add(name, len(values) - absent - sum(map(values.count, nothing)))
        if self._columns:
            rows = [Conversation(row.messages, row.tools) for row in rows]
        for row in rows:
            if row.tools is not None:
                if any(map(chat.is_foreign, row.tools)):
                    return None
                row.tools = row.tools or None
        return Decoded(rows, columns)

    def learn(self, columns: Set[str]) -> None:
        """Take note of the columns of a row that `decode` did not take."""
        if self._too_many or not (new := columns - _CONVERSATION - {*self._columns}):
            return
        known = {*self._columns, *new}
        if too_many := len(known) > MOST_NAMES:
            known = {*self._columns, *MEANT, *_USED, *weights.OF_ROWS} - _CONVERSATION
        if max(map(len, known)) > LONGEST_NAME:
            return
        with suppress(ValueError):  # msgspec takes no name with a quote or a line end in it
            _decoder(tuple(sorted(known)), too_many)
            self._columns, self._too_many = tuple(sorted(known)), too_many


@lru_cache(maxsize=32)
def _decoder(columns: tuple[str, ...], others: bool) -> msgspec.json.Decoder[Conversation]:
    """Return the decoder of rows that have these columns besides; whether others pass unseen."""
    text, raw = (str | None, None), (msgspec.Raw | msgspec.UnsetType, msgspec.UNSET)
    fields = [(field, *(text if name in SYSTEM else raw)) for name, field in _fields(columns)]
    row = msgspec.defstruct(
        "Row",
        fields,
        bases=(Conversation,),
        rename={field: name for name, field in _fields(columns)},
        gc=False,
        forbid_unknown_fields=not others,
    )
    return msgspec.json.Decoder(row)


def _fields(columns: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the columns, each with the name of its field: a column's own can be anything."""
    return [(name, f"column_{index}") for index, name in enumerate(columns)]


def _lines_of_rows(block: bytes) -> int:
    """Count the lines, or return -1 if one of them does not begin and end with a brace.

    Of long lines this takes a fifth of the time of ``bytes.count``.
    """
    count = start = 0
    while end := block.find(b"\n", start) + 1:
        last = end - 3 if block[end - 2] == _RETURN else end - 2
        if last <= start or block[start] != _OPEN or block[last] != _CLOSE:
            return -1
        count, start = count + 1, end
    return count
