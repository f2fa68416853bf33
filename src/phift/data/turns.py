"""What a turn and a tool mean: the shapes that other APIs and older ones give them, turned into OpenAI's of today.

A turn is ``{role, content}`` or ``{from, value}``; what it says is a text, or parts of one. Parts are OpenAI's
(``text``, the ``input_text`` and ``output_text`` of its Responses, the ``{"value": ...}`` of its Assistants), others
with ``value`` or ``content`` or without a type, and plain texts. Calls are tool calls, an older ``function_call``, a
turn whose text is the call (ShareGPT), or Anthropic's parts ``tool_use`` and ``tool_result`` (API references of
OpenAI and Anthropic, 2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from numbers import Number
from types import NoneType
from typing import Any

import msgspec

from phift.data import weights
from phift.data.chat import InvalidRow

# What sets of chats call the speakers; None is an assistant that calls a function, the call being the text.
_ROLES: Mapping[str, str | None] = {
    "system": "system",
    "developer": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "model", "bot", "chatbot", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call")),
}

_KINDS = {str: "a text", list: "a list", tuple: "a list", dict: "an object", NoneType: "null"}

# Where a turn says what, the first that it has; by who says it.
_SAID: Mapping[str, tuple[str, ...]] = {
    "role": ("content", "value", "text", "parts"),
    "from": ("value", "content", "text", "parts"),
}
_TEXTS = ("text", "value", "content")  # where a part has its text
_TEXT_TYPES = frozenset({None, "text", "input_text", "output_text"})
_MEDIA = re.compile("image|audio|video|file")
_NAME = re.compile(r"[A-Za-z][\w.-]{0,39}")
_ARGUMENTS = ("arguments", "parameters", "input", "args")
_CALLS = frozenset({"tool_calls", "function_call"})
_OF_PARTS = frozenset({"type", *_TEXTS, "id", "name", "tool_use_id", *_ARGUMENTS})


def kind_of(value: Any) -> str:
    """Return what a value is, in a few words that quote nothing of it."""
    if isinstance(value, bool | Number):
        return "a truth value" if isinstance(value, bool) else "a number"
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def from_json(text: str, place: str) -> Any:
    """Return what a text of JSON holds; raises `InvalidRow`."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        # What pandas writes of a list into a CSV file.
        start, hint = text.lstrip()[:9].lower(), ""
        if start.startswith(("[{'", "['", "{'")):
            hint = ", but looks like Python's notation; write it with json.dumps"
        elif start.startswith(("human:", "user:", "system:")):  # as in Anthropic/hh-rlhf
            hint = ", but looks like a dialogue in one text; write it as a list of messages"
        raise InvalidRow(f"`{place}` is text that is not JSON{hint}") from None


def are_messages(text: str) -> bool:
    """Tell a list of messages that is written as JSON, as in CSV, from a text that somebody says."""
    if not text.lstrip().startswith("["):
        return False
    try:
        turns = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    speakers = [
        turn.get("role") or turn.get("from") if isinstance(turn, dict) and len(turn) > 1 else "" for turn in turns
    ]
    return bool(speakers) and all(str(speaker).strip().lower() in _ROLES for speaker in speakers)


def messages_of(turn: object, place: str) -> Iterator[dict[str, Any]]:
    """Yield a turn as a message; one that has the results of tools is several.

    - **place**: names the turn in a reason.

    Raises `InvalidRow` where nobody known speaks, or not in text.
    """
    if not isinstance(turn, dict):
        raise InvalidRow(f"{place} is not an object but {kind_of(turn)}")
    others = {key: value for key, value in turn.items() if value is not None}
    who, key = _read_keys(turn)
    speaker, content = others.pop(who, None), others.pop(key, None)
    if not isinstance(speaker, str):
        raise InvalidRow(f"{place} does not say who speaks, by `role` or `from`")
    if speaker not in _ROLES:
        speaker = speaker.strip().lower()
    if speaker not in _ROLES:
        raise InvalidRow(f"{place} is said by nobody known; known are {', '.join(_ROLES)}")
    role = _ROLES[speaker]
    calls = _calls_beside(others, place)
    if role is None:
        listed = from_json(content, place) if isinstance(content, str) else content
        calls += [_call(call, place) for call in (listed if isinstance(listed, list) and listed else [listed])]
        content = None
    message: dict[str, Any] = {"role": role or "assistant"}
    if isinstance(content, list) or _is_part(content):
        text, results = _read_parts(content, f"{place}.{key}", calls, role)
        yield from (result | others for result in results)
        if text is None and results and not calls:
            return
        content = text if text is not None or calls else ""
    if content is not None and not isinstance(content, str):
        raise InvalidRow(f"{place}.{key} is not a text but {kind_of(content)}")
    if content is not None:
        message["content"] = content
    if calls:
        if others.get("tool_calls"):
            raise InvalidRow(f"{place} has `tool_calls` and another call beside them")
        message["tool_calls"] = calls
    yield message | {key: value for key, value in others.items() if key not in message}


def note_keys(turn: object, keys: set[str]) -> None:
    """Note the keys of a turn and its parts that neither say nor call anything; null is no value."""
    if not isinstance(turn, dict):
        return
    who, said = _read_keys(turn)
    for key, value in turn.items():
        if key == said:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    keys.update(f"{key}.{name}" for name in part if name not in _OF_PARTS and part[name] is not None)
        elif value is not None and key != who and key not in _CALLS:
            keys.add(key)


def _read_keys(turn: dict[str, Any]) -> tuple[str, str]:
    """Return where a turn says who speaks, and what; no letters where it does not."""
    who = "role" if turn.get("role") is not None else "from"
    return who, next((key for key in _SAID[who] if turn.get(key) is not None), "")


def _calls_beside(others: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Take an older `function_call` out of a turn's other keys, and read tool calls that are JSON text."""
    for key in ("function_call", "tool_calls"):
        if isinstance(text := others.get(key), str):
            others[key] = from_json(text, f"{place}.{key}") if text.strip() else None
            if others[key] is None:
                del others[key]
    call = others.pop("function_call", None)
    if not call or (isinstance(call, dict) and all(value is None for value in call.values())):
        return []
    return [_call(call, f"{place}.function_call")]


def _call(call: object, place: str) -> dict[str, Any]:
    """Return a call as OpenAI's of a tool; its arguments stay text or an object."""
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        return call
    if not (isinstance(call, dict) and isinstance(call.get("name"), str)):
        raise InvalidRow(f"{place} is a function call without a name")
    arguments: Any = next((call[key] for key in _ARGUMENTS if call.get(key)), {})
    known = {"id": call["id"]} if call.get("id") else {}
    return {**known, "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _read_parts(
    content: list[Any] | dict[str, Any], place: str, calls: list[dict[str, Any]], role: str | None
) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the text of parts, None without one, and the results of tools as messages; add calls to those known."""
    texts, results = [], []
    for index, part in enumerate(content if isinstance(content, list) else [content]):
        at = f"{place}[{index}]"
        if isinstance(part, dict):
            part = {key: value for key, value in part.items() if value is not None}
            if role == "assistant" and (key := weights.hidden_by(part)):
                told = "this part of the answer is not to be learnt; the component learns whole answers"
                raise InvalidRow(f"{at}: as `{key}` says, {told}")
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_use":
            calls.append(_call(part, at))
        elif kind == "tool_result" and role in ("user", "tool"):
            results.append(_result(part, at))
        else:
            texts.append(_text_of(part, at))
    return ("".join(texts) if texts else None), results


def _is_part(content: Any) -> bool:
    """Tell one part that is not in a list from an object that is a content, as some make of a tool's result."""
    return isinstance(content, dict) and not {"type", *_TEXTS}.isdisjoint(content)


def _result(part: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a part that has the result of a tool as the message of that tool."""
    content = part.pop("content", "")
    if isinstance(content, list):
        content = "".join(_text_of(each, f"{place}.content[{index}]") for index, each in enumerate(content))
    del part["type"]
    known = {"tool_call_id": part.pop("tool_use_id")} if "tool_use_id" in part else {}
    return {"role": "tool", "content": content, **known, **part}


def _text_of(part: Any, place: str) -> str:
    """Return the text of a part; raises `InvalidRow` with the part's own type where it is no text."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise InvalidRow(f"{place} is not text but {kind_of(part)}")
    kind = part.get("type")
    media = None if kind else next((key for key in part if _MEDIA.search(str(key))), None)
    if media is None and (kind is None or (isinstance(kind, str) and kind in _TEXT_TYPES)):
        for key in _TEXTS:
            text = part.get(key)
            text = text.get("value") if isinstance(text, dict) else text
            if isinstance(text, str):
                return text
        if kind:
            raise InvalidRow(f"{place} is a text without a `text`")
    name = media or kind or next((key for key, value in part.items() if value is not None), None)
    if isinstance(name, str) and _NAME.fullmatch(name):
        raise InvalidRow(f"{place} is not text but {'an' if name[0].lower() in 'aeiou' else 'a'} {name} part")
    raise InvalidRow(f"{place} is not text but a part of no known type")


def tool_of(tool: Any) -> Any:
    """Return a tool of Anthropic's or of OpenAI's Responses as chat templates have it; another is returned as it is."""
    if not isinstance(tool, dict) or "function" in tool or not isinstance(tool.get("name"), str):
        return tool
    if "input_schema" in tool:
        tool = {"parameters" if key == "input_schema" else key: value for key, value in tool.items()}
    elif tool.get("type") != "function":
        return tool
    return wrapped({key: value for key, value in tool.items() if key not in ("type", "cache_control")})


def wrapped(function: Any) -> Any:
    """Return a function as a tool."""
    is_bare = isinstance(function, dict) and "function" not in function
    return {"type": "function", "function": function} if is_bare else function
