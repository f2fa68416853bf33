"""What a model answers: a text, or the tools that it calls, in each of the forms that Azure's servers give."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from phift import errors
from phift.azure.answers import mapping

Message = Mapping[str, Any]
"""One turn of a conversation: ``role``, ``content``, and what belongs to tools, as OpenAI's API has them."""

SAID_NOTHING = "said_nothing"
"""The ``code`` of a `phift.errors.ScoringError` where the model itself came to an end without a word or a call."""
UNNAMED_CALL = "unnamed_call"
"""The ``code`` of a `phift.errors.ScoringError` where the model calls a tool and does not name it."""

_ENDS = ("length", "stop")  # of a model that worked, as ``finish_reason`` tells them


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that the model asks for.

    - **id**: names the call in the message that answers it, as its ``tool_call_id``; empty where the server gives none.
    - **name**: of the tool.
    - **arguments**: as the model wrote them, which need not be JSON.
    """

    id: str
    name: str
    arguments: str = field(repr=False)

    @property
    def parsed(self) -> dict[str, Any] | None:
        """The arguments by their names; None where they are no JSON object."""
        try:
            found = json.loads(self.arguments)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in a message's ``tool_calls``."""
        named = {"id": self.id} if self.id else {}
        return {**named, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class Reply(str):
    """What a model answered: its text, which is empty where it calls tools instead of saying something.

    - **tool_calls**: the tools that it asks to call.
    - **finish_reason**: why it ended, such as ``stop``, ``length`` and ``tool_calls``; None where the server does not
      say, as MLflow's does not.
    - **usage**: tokens by what they were used for, such as ``prompt_tokens``; empty where the server does not say.
    - **deployment**: which answered; None where the service does not say.
    """

    tool_calls: tuple[ToolCall, ...]
    finish_reason: str | None
    usage: Mapping[str, int]
    deployment: str | None

    def __new__(
        cls,
        text: str = "",
        *,
        tool_calls: Sequence[ToolCall] = (),
        finish_reason: str | None = None,
        usage: Mapping[str, int] | None = None,
        deployment: str | None = None,
    ) -> Reply:
        """Make the text with what belongs to it."""
        reply = super().__new__(cls, text)
        reply.tool_calls, reply.finish_reason = tuple(tool_calls), finish_reason
        reply.usage, reply.deployment = dict(usage or {}), deployment
        return reply

    def __repr__(self) -> str:
        calls = ", ".join(errors.in_a_line(call.name) for call in self.tool_calls)
        return f"<Reply {super().__repr__()} calls {calls}>" if calls else super().__repr__()

    @property
    def message(self) -> dict[str, Any]:
        """The model's turn, as the next message of the conversation."""
        turn: dict[str, Any] = {"role": "assistant", "content": str(self)}
        if self.tool_calls:
            turn["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        return turn


def read_reply(answer: Any, place: str = "endpoint", deployment: str | None = None) -> Reply:
    """Return what a model server's answer says, in any of the three forms Azure's servers give.

    ``[{"0": text}]`` from the MLflow server (azureml-evaluate-mlflow 0.0.91), ``{"output": text}`` from the vLLM
    container, in newer versions with ``message``, ``tool_calls``, ``finish_reason`` and ``usage`` beside it
    (foundation-model-serve, azureml-assets, 2026-07-23), and OpenAI's ``choices``. A text may come in parts.

    Raises `phift.errors.ScoringError` where it neither says anything nor calls a tool; its ``code`` is `SAID_NOTHING`
    where the model did not, and not a server that failed.
    """
    message, about = _message(answer)
    said, calls = text_of(message.get("content")), read_calls(message, place)
    reason = about.get("finish_reason")
    reason = errors.in_a_line(reason) if isinstance(reason, str) else None
    if said is None and not calls:
        raise _nothing_said(answer, reason, place)
    return Reply(
        said or "", tool_calls=calls, finish_reason=reason, usage=read_usage(about.get("usage")), deployment=deployment
    )


def _message(answer: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the model's turn in an answer, and what is told about it."""
    about = mapping(answer)
    match answer:
        case {"choices": [{"message": {**message}} as choice, *_]}:
            return mapping(message), {**about, **choice}
        case {"output": output}:
            beside = {"content": output, "tool_calls": about.get("tool_calls")}
            return {**mapping(about.get("message")), **{k: v for k, v in beside.items() if v is not None}}, about
        case [{**texts}, *_]:
            said = next(iter(texts.values()), None)
            return (said if isinstance(said, dict) else {"content": said}), {}
        case [said, *_]:
            return {"content": said}, {}
    return {}, {}


def text_of(content: Any) -> str | None:
    """Return a content's text, of one that comes in parts too; None where it has none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else None
        text = text.get("value") if isinstance(text, dict) else text
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)


def read_calls(message: Mapping[str, Any], place: str) -> tuple[ToolCall, ...]:
    """Return the tools that a turn calls, a ``function_call`` of OpenAI's older form among them.

    Raises `phift.errors.ScoringError` with the ``code`` `UNNAMED_CALL` for one without a name.
    """
    listed = message.get("tool_calls")
    called = listed if isinstance(listed, list) else []
    if not called and isinstance(message.get("function_call"), dict):
        called = [{"function": message["function_call"]}]
    calls = []
    for call in map(mapping, called):
        function = mapping(call.get("function"))
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or not name:
            what = "The answer calls a tool and does not name it."
            raise errors.ScoringError(
                what, where=place, fix="look at the deployment's log", status=200, code=UNNAMED_CALL
            )
        written = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        calls.append(ToolCall(str(call.get("id") or ""), name, written))
    return tuple(calls)


def read_usage(usage: Any) -> dict[str, int]:
    """Return the counts of an answer's ``usage``."""
    return {str(key): n for key, n in mapping(usage).items() if isinstance(n, int) and not isinstance(n, bool)}


def _nothing_said(answer: Any, reason: str | None, place: str) -> errors.ScoringError:
    """Return the error for an answer without text and calls; what the server says of it may quote the user."""
    code = None
    if failed := kind_of_failure(answer):
        what, fix = f"The model server failed: {failed}.", "look at the deployment's log"
    elif reason in _ENDS:
        code = SAID_NOTHING
        what, fix = "The model ended its turn without a word.", "ask it something else"
        if reason == "length":
            what, fix = "The model used up its tokens before it said anything.", "raise max_new_tokens"
    else:
        what = "The endpoint answered without a text, as its container does when it fails inside."
        fix = "look at the deployment's log"
        if isinstance(answer, dict) and "output" in answer:
            # It hands out the turn's content alone (foundation-model-serve, api_server.py, read 2026-11-30).
            fix += "; its older versions answer so where the model calls a tool: with `tools=` their /v1 route is asked"
    return errors.ScoringError(what, where=place, fix=fix, status=200, code=code)


def kind_of_failure(answer: Any) -> str:
    """Return what kind of error an answer names, empty where it names none: its message may quote the user."""
    told = mapping(answer)
    error = told if told.get("object") == "error" else told.get("error")  # the first as older versions of vLLM have it
    if not error:
        return ""
    told = mapping(error)
    if "context length" in str(told.get("message") or error).lower():
        return "the conversation is longer than the model takes"
    kinds = [str(told[key]) for key in ("type", "code") if isinstance(told.get(key), str | int) and told[key]]
    return errors.in_a_line(" ".join(dict.fromkeys(kinds)))[:200] or "it gave no reason"
