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

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec


class InvalidRow(ValueError):
    """A row that cannot be trained on; its text is the reason.

    - **row**: what there is of it, where whoever raises this is the last to have it.
    """

    def __init__(self, reason: str, row: Any = None) -> None:
        super().__init__(reason)
        self.row = row


Row = bytes | Mapping[str, Any] | InvalidRow
"""A row as it is read: a line of JSON, values, or what is wrong with it."""


class Message(msgspec.Struct, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """One turn, with no more keys than these; they are written again without the null ones."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[Any] | None = None


class Conversation(msgspec.Struct, gc=False, omit_defaults=True):
    """What is written of a row; where a message has other keys too, `from_values` makes all of them mappings."""

    messages: list[Message]
    tools: list[Any] | None = None


class _AnyMessage(Message, forbid_unknown_fields=False):
    """A message with other keys too."""


MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for what is no JSON, or not what is wanted."""

_values = msgspec.json.Decoder(dict[str, Any])
_columns = msgspec.json.Decoder(dict[str, msgspec.Raw])

_NEXT: Mapping[str, tuple[str, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "tool call": ("tool",),
    "tool": ("tool", "assistant"),
}
_NAN = re.compile(rb"[:,\[]\s*(?:NaN|-?Infinity)\b")
# What a missing value becomes when it is written as text; pandas reads most of them as missing again.
_STAND_INS = frozenset(
    {"", "nan", "-nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "nat", "undefined", '""', "''"}
)
_LONGEST_STAND_IN = 16  # characters, with what is invisible around them
_INVISIBLE = " \t\r\n\u00a0\u200b\u2060\ufeff"

_PLAIN = frozenset(Message.__struct_fields__)


def check(messages: Sequence[Message]) -> tuple[int, bool]:
    """Return how many characters are said in a conversation, and whether an answer is what stands for a missing value.

    Tool calls count as the JSON they are. Raises `InvalidRow` where it cannot be trained on.
    """
    if len(messages) < 2:
        raise InvalidRow(f"it has {len(messages)} message{'' if len(messages) == 1 else 's'}; at least 2 are needed")
    characters, is_lacking = 0, False
    expected, role = _NEXT[""], ""
    for message in messages:
        content, role = message.content, message.role
        if role not in expected or not content or message.tool_calls or content.isspace():
            return _check_closely(messages)
        size = len(content)
        if size < _LONGEST_STAND_IN and role == "assistant" and _is_stand_in(content):
            is_lacking = True
        characters += size
        expected = _NEXT[role]
    return (characters, is_lacking) if role == "assistant" else _check_closely(messages)


def _is_stand_in(text: str) -> bool:
    return text.strip(_INVISIBLE).lower() in _STAND_INS


def _check_closely(messages: Sequence[Message]) -> tuple[int, bool]:
    """Do what `check` does for a conversation with tool calls, or with a mistake to be named."""
    characters, is_lacking, before, expected = 0, False, "", _NEXT[""]
    for index, message in enumerate(messages):
        role, content = message.role, message.content
        if role not in expected:
            place = f"after {before} comes" if before else "a conversation starts with"
            raise InvalidRow(f"messages[{index}]: {place} {' or '.join(expected)}, not {role}")
        if (not content or content.isspace()) and not (message.tool_calls and role == "assistant"):
            raise InvalidRow(f"messages[{index}]: the {role} message has no text")
        if message.tool_calls and role != "assistant":
            raise InvalidRow(f"messages[{index}]: only the assistant calls tools, not {role}")
        if role == "assistant" and content and not content.isspace() and _is_stand_in(content):
            is_lacking = True
        characters += len(content or "")
        if message.tool_calls:
            characters += len(encoded(message.tool_calls, f"messages[{index}].tool_calls holds what").decode())
        before = "tool call" if message.tool_calls else role
        expected = _NEXT[before]
    if messages[-1].role != "assistant":
        raise InvalidRow(f"the last message is from {messages[-1].role}, not from assistant")
    return characters, is_lacking


def drop_blank_system(messages: list[Any]) -> int:
    """Take the system messages that say nothing out of a conversation, of `Message` or mappings; return how many."""
    kept = [message for message in messages if not _is_blank_system(message)]
    dropped = len(messages) - len(kept)
    messages[:] = kept
    return dropped


def _is_blank_system(message: Any) -> bool:
    if isinstance(message, Message):
        role, content, others = message.role, message.content, message.tool_calls
    else:
        role, content = message["role"], message.get("content")
        others = message.keys() - {"role", "content"}
    return role == "system" and not others and (content is None or (isinstance(content, str) and not content.strip()))


def put_first(rows: Iterable[Conversation], texts: Iterable[str | None]) -> bool:
    """Put a system message first in each row that has a text for it; tell whether none had one already."""
    for row, text in zip(rows, texts, strict=True):
        if text and not text.isspace():
            if row.messages and row.messages[0].role == "system":
                return False
            row.messages.insert(0, Message("system", text))
    return True


def is_foreign(tool: Any) -> bool:
    """Tell tools of Anthropic's and of OpenAI's Responses, which name a function without wrapping it."""
    return isinstance(tool, dict) and "name" in tool and ("type" in tool or "input_schema" in tool)


def columns(line: bytes) -> dict[str, msgspec.Raw]:
    """Return the columns of a line of JSON, not yet decoded; raises `InvalidRow`."""
    try:
        return _columns.decode(line.removeprefix(BOM_UTF8))
    except MALFORMED as error:
        if _NAN.search(line):
            return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in _with_nan(line, error).items()}
        raise InvalidRow(_reason(error)) from None


def values_of(line: bytes) -> dict[str, Any]:
    """Return a line of JSON as plain values; raises `InvalidRow`."""
    line = line.removeprefix(BOM_UTF8)  # files that were joined have one inside, where it means nothing
    try:
        line.decode("utf-8")
        return _values.decode(line)
    except MALFORMED as error:
        if _NAN.search(line):
            return _with_nan(line, error)
        raise InvalidRow(_reason(error)) from None


def _with_nan(line: bytes, error: Exception) -> dict[str, Any]:
    """Return the values of a line that has the NaN or Infinity of Python's ``json.dumps``; raises `InvalidRow`."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidRow(_reason(error)) from None
    if not isinstance(values, dict):
        raise InvalidRow(_reason(error))
    return values


def from_values(values: Mapping[str, Any]) -> tuple[Conversation, tuple[int, bool]]:
    """Return ``messages`` and ``tools`` of plain values, with what `check` says of them; raises `InvalidRow`."""
    given, tools = values["messages"], values.get("tools")
    try:
        messages = msgspec.convert(given, list[_AnyMessage])
    except (msgspec.ValidationError, RecursionError, UnicodeEncodeError) as error:
        raise InvalidRow(_reason(error)) from None
    if tools is not None and not isinstance(tools, list):
        raise InvalidRow("`tools` is not a list")
    checked = check(messages)
    # A kind of text, such as numpy's, becomes a text.
    kept: Any = [
        {key: str(value) if isinstance(value, str) else value for key, value in message.items() if value is not None}
        for message in given
    ]
    if all(message.keys() <= _PLAIN for message in kept):
        # A Message writes its keys in one order, as rows from lines have them; a mapping keeps the source's.
        kept = [Message(**message) for message in kept]
    encoded((kept, tools), "it holds a value that")
    return Conversation(kept, tools or None), checked


def encoded(value: Any, holds: str) -> bytes:
    """Return a value as JSON; raises `InvalidRow` where JSON cannot hold it, with what **holds** it."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        # Arrow has types that JSON has not; the error's own text may quote the value.
        raise InvalidRow(f"{holds} JSON cannot hold ({type(error).__name__})") from None


def plain(conversation: Conversation) -> Conversation:
    """Return a conversation without the other keys of its messages; one that has none is returned itself."""
    turns: Any = conversation.messages
    if isinstance(turns[0], Message):
        return conversation
    messages = [Message(**{key: turn[key] for key in turn.keys() & _PLAIN}) for turn in turns]
    return Conversation(messages, conversation.tools)


def _reason(error: Exception) -> str:
    """Say what is wrong without quoting a value: msgspec quotes a role that it does not know."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start})"
    if isinstance(error, UnicodeEncodeError):  # half a surrogate pair in a role or a key
        return "it holds a value that JSON cannot hold (UnicodeEncodeError)"
    text, _, path = str(error).partition(" - at ")
    place = re.sub(r"^`\$|`$", "", path)
    if not isinstance(error, msgspec.ValidationError):
        return f"it is not JSON: {text}"
    if text.startswith("Invalid enum value"):
        text = "the role is none of system, user, assistant and tool"
    return f"messages{place}: {text}" if place else text
