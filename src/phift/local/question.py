"""What any model of a local workspace can be asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from phift.errors import DataError, ParameterError


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the next token is chosen, and how many there may be."""

    max_new_tokens: Annotated[int, Meta(ge=1)] = 256
    do_sample: bool = False
    temperature: Annotated[float, Meta(ge=0, le=sys.float_info.max)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0

    @classmethod
    def read(cls, parameters: Any) -> Sampling:
        """Check what a request says."""
        try:
            return msgspec.convert(parameters, cls)
        except msgspec.ValidationError as error:
            fix = f"use {', '.join(cls.__struct_fields__)}, as it says: {error}"
            raise ParameterError("The model does not take these.", where="parameters", fix=fix) from error

    @property
    def how(self) -> dict[str, Any]:
        """What transformers is told; a temperature of 0 is greedy."""
        if not (self.do_sample and self.temperature > 0):
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


def check_question(messages: Any) -> list[Mapping[str, Any]]:
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
        if role not in expected:
            what = f"The role is {role}." if role in ("system", "user", "assistant") else "Unknown role."
            raise DataError(what, where=where, fix=f"here comes {' or '.join(expected)}")
        expected = ("assistant",) if role == "user" else ("user",)
    if messages[-1]["role"] != "user":
        raise DataError("The last message is not the user's.", where=f"message {len(messages)}", fix="end with a user")
    return messages
