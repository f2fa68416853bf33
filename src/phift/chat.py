"""A row of chat data: what a conversation must look like before it is worth a GPU.

The component checks less, and later: a row that the model's chat template cannot take fails the whole job, after the
cluster has started (Azure/azureml-assets, finetune_acft_hf_nlp, 2026-07). So the rules here are those that every
Phi template shares:

- ``messages`` is a list of at least two messages, each with a role and a text that is not blank;
- one ``system`` message at most, and only first; then ``user`` and ``assistant`` in turn, ``assistant`` last;
- an assistant's message may call tools instead of, or besides, saying something; ``tool`` messages answer it.

No reason given here quotes the conversation: it may end in a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

KEPT = ("messages", "tools")
"""The columns that the component reads; it drops every other."""


class InvalidRow(ValueError):
    """A row that cannot be trained on; its text is the reason."""


class MissingMessages(InvalidRow):
    """A row without ``messages``; ``columns`` are those it has."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__("it has no `messages`")
        self.columns = tuple(columns)


class Row(NamedTuple):
    """A checked row.

    - **line**: the row as one line of JSON, newline included.
    - **digest**: equal for equal conversations, whatever their formatting, and only within one process.
    - **ignored**: the columns left out.
    - **characters**: of what is said, tool calls as the JSON they are.
    """

    line: bytes
    digest: int
    ignored: tuple[str, ...]
    characters: int


class Message(msgspec.Struct):
    """One turn; keys that are not named here are kept when the row is written, unless they are null."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[Any] | None = None


# Two steps, so that the messages can be written as they came: the outer one finds where they start and end.
_columns = msgspec.json.Decoder(dict[str, msgspec.Raw])
_messages = msgspec.json.Decoder(list[Message])
_plain_messages = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_encoder = msgspec.json.Encoder()

_TURNS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "tool call": ("tool",),
    "tool": ("tool", "assistant"),
}


def check(messages: Sequence[Message]) -> str | None:
    """Return why a conversation cannot be trained on, or None if it can."""
    if len(messages) < 2:
        return f"it has {len(messages)} message{'' if len(messages) == 1 else 's'}; at least 2 are needed"
    before = ""
    for index, message in enumerate(messages):
        role, content = message.role, message.content
        if role not in _TURNS[before]:
            return f"messages[{index}]: {_wrong_turn(before, role)}"
        if (not content or content.isspace()) and not (message.tool_calls and role == "assistant"):
            return f"messages[{index}]: the {role} message has no text"
        if message.tool_calls and role != "assistant":
            return f"messages[{index}]: only the assistant calls tools, not {role}"
        before = "tool call" if message.tool_calls else role
    if messages[-1].role != "assistant":
        return f"the last message is from {messages[-1].role}, not from assistant"
    return None


def _wrong_turn(before: str, role: str) -> str:
    expected = " or ".join(_TURNS[before])
    place = f"after {before} comes" if before else "a conversation starts with"
    return f"{place} {expected}, not {role}"


def from_json(line: bytes) -> Row:
    """Check one line of JSON; raises `InvalidRow`."""
    if not line.isascii():
        _check_encoding(line)
    try:
        columns = _columns.decode(line)
        raw = columns["messages"]
        messages = _messages.decode(raw)
    except KeyError:
        raise MissingMessages(tuple(columns)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRow(_reason(error)) from None
    reason = check(messages)
    if reason:
        raise InvalidRow(reason)
    text = bytes(raw)
    if b"null" in text:
        text = _without_nulls(text)
    if len(columns) == 1:
        return Row(b'{"messages":' + text + b"}\n", _digest(messages), (), _characters(messages))
    ignored = tuple(column for column in columns if column not in KEPT)
    line = _line(text, bytes(columns.get("tools", b"null")))
    return Row(line, _digest(messages), ignored, _characters(messages))


def from_values(values: Mapping[str, Any]) -> Row:
    """Check a row of plain values, as Parquet and Hugging Face data sets give it; raises `InvalidRow`."""
    if "messages" not in values:
        raise MissingMessages(tuple(values))
    given = values["messages"]
    try:
        messages = msgspec.convert(given, list[Message])
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidRow(_reason(error)) from None
    reason = check(messages)
    if reason:
        raise InvalidRow(reason)
    kept = [{key: value for key, value in message.items() if value is not None} for message in given]
    try:
        line = _line(_encoder.encode(kept), _encoder.encode(values.get("tools")))
    except (TypeError, ValueError, RecursionError) as error:
        # Arrow has types that JSON has not; the error's own text may quote the value.
        raise InvalidRow(f"it holds a value that JSON cannot hold ({type(error).__name__})") from None
    ignored = tuple(column for column in values if column not in KEPT)
    return Row(line, _digest(messages), ignored, _characters(messages))


def _check_encoding(line: bytes) -> None:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRow(f"it is not UTF-8 (byte {error.start})") from None


def _line(messages: bytes, tools: bytes) -> bytes:
    if tools == b"null":
        return b'{"messages":' + messages + b"}\n"
    if not tools.startswith(b"["):
        raise InvalidRow("`tools` is not a list")
    return b'{"messages":' + messages + b',"tools":' + tools + b"}\n"


def _without_nulls(messages: bytes) -> bytes:
    kept = [
        {key: value for key, value in message.items() if bytes(value) != b"null"}
        for message in _plain_messages.decode(messages)
    ]
    return _encoder.encode(kept)


def _digest(messages: Sequence[Message]) -> int:
    """Hash what is said and by whom; Python's own hash is fast, and it never leaves the process."""
    parts: list[Any] = []
    for message in messages:
        parts += (message.role, message.content or "", message.tool_calls and _encoder.encode(message.tool_calls))
    return hash(tuple(parts))


def _characters(messages: Sequence[Message]) -> int:
    count = 0
    for message in messages:
        count += len(message.content or "")
        if message.tool_calls:
            count += len(_encoder.encode(message.tool_calls).decode())
    return count


def _reason(error: Exception) -> str:
    """Say what is wrong without quoting a value: msgspec quotes a role that it does not know."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text, _, path = str(error).partition(" - at ")
    place = re.sub(r"^`\$|`$", "", path)
    if not isinstance(error, msgspec.ValidationError):
        return f"it is not JSON: {text}"
    if text.startswith("Invalid enum value"):
        text = "the role is none of system, user, assistant and tool"
    return f"messages{place}: {text}" if place else text
