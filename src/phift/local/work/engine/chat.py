"""What is asked of a trained model, and how a conversation is shown without its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phift.errors import DataError

Message = Mapping[str, Any]

_ROLES = ("system", "user", "assistant")


def shape(messages: Sequence[Any]) -> str:
    """Say what the messages look like without saying what they say, for an error message."""
    said = []
    for message in messages[:8]:
        if not isinstance(message, Mapping):
            said.append(type(message).__name__)
            continue
        role, content = message.get("role"), message.get("content")
        known = role if role in _ROLES else f"unknown role ({type(role).__name__})"
        said.append(known if isinstance(content, str) else f"{known} with content of type {type(content).__name__}")
    return ", ".join(said) + (", …" if len(messages) > 8 else "")


def check_question(messages: Any) -> list[Message]:
    """Return ``messages`` if a model can be asked for the next turn, else raise ``DataError``.

    That is: an optional system message, then user and assistant in turn, the user last, every content a text.
    """
    if not isinstance(messages, list) or not messages:
        raise DataError("A conversation is a non-empty list of messages.", fix='send [{"role": …, "content": …}]')
    expected: tuple[str, ...] = ("system", "user")
    for number, message in enumerate(messages, start=1):
        where = f"message {number}"
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise DataError("A message needs a role and a content, both text.", where=where, fix="add what is missing")
        role = message.get("role")
        if role not in _ROLES:
            raise DataError("Unknown role.", where=where, fix=f"use one of: {', '.join(_ROLES)}")
        if role not in expected:
            raise DataError(f"The role is {role}.", where=where, fix=f"here comes {' or '.join(expected)}")
        expected = ("assistant",) if role == "user" else ("user",)
    if messages[-1]["role"] != "user":
        raise DataError("The last message is not the user's.", where=f"message {len(messages)}", fix="end with a user")
    return messages
