"""What the columns of a row mean: each of the usual chat formats, turned into a conversation.

A format is recognised by its columns, and this order decides when they fit several:

===================  ========================================================================================
messages             ``messages``: a list of ``{role, content}``; ``tools``
sharegpt             ``conversations``: a list of ``{from, value}``; ``system``, ``tools``
alpaca               ``instruction``, ``output``; ``input``, ``system``, ``history``: a list of [user, assistant]
prompt_completion    ``prompt``, ``completion`` (or ``response``), texts or lists of messages; ``system``, ``tools``
question_answer      ``question``, ``answer``; ``system``
ultrachat            ``data``: a list of texts, the user's and the assistant's in turn
===================  ========================================================================================

Lists may be JSON text, as in CSV; None and NaN are what a missing cell is. Whether the conversation can be trained
on is not decided here but in `phift.data.chat`. No reason given here quotes a cell.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from phift.data.chat import InvalidRow

if TYPE_CHECKING:
    from phift.config.data import Format


class _Columns(NamedTuple):
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_FORMATS: Mapping[Format, _Columns] = {
    "messages": _Columns(("messages",), ("tools",)),
    "sharegpt": _Columns(("conversations",), ("system", "tools")),
    "alpaca": _Columns(("instruction", "output"), ("input", "system", "history")),
    "prompt_completion": _Columns(("prompt", "completion"), ("system", "tools")),
    "question_answer": _Columns(("question", "answer"), ("system",)),
    "ultrachat": _Columns(("data",)),
}
_ALIASES = {"completion": "response"}

# What sets of chats call the speakers; None is an assistant that calls a function, the call being the text.
_ROLES: Mapping[str, str | None] = {
    "system": "system",
    "developer": "system",
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "function_call": None,
}

_MOST_NAMES = 20  # columns that a text names
_LONGEST_NAME = 40  # characters of each


class UnknownFormat(InvalidRow):
    """Columns that are none of the formats; ``columns`` are those there are."""

    def __init__(self, text: str, columns: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.columns = tuple(columns)


@dataclass(frozen=True)
class Layout:
    """How the rows of one source become conversations.

    - **columns**: the format's columns, each with the source's own name for it.
    """

    format: Format
    columns: Mapping[str, str]

    @property
    def used(self) -> frozenset[str]:
        """The source's columns that are read, whether or not a row has them all."""
        return frozenset(self.columns.values())

    def convert(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row as ``{"messages": [...]}``, with ``tools`` if it has any; raises `InvalidRow`."""
        cells = _Cells(values, self.columns)
        try:
            row = {"messages": _CONVERT[self.format](cells)}
            tools = cells.listed("tools")
        except RecursionError:
            raise InvalidRow("it is nested too deeply") from None
        if tools is not None:
            row["tools"] = tools
        return row


def recognise(
    columns: Collection[str],
    format: Format | None = None,  # noqa: A002 - the configuration's own word
    mapping: Mapping[str, str] = MappingProxyType({}),
) -> Layout:
    """Return what the columns mean; raises `UnknownFormat`.

    - **columns**: the names in the source; blanks around them do not count.
    - **format**: left out, the first that fits.
    - **mapping**: the source's own names for the format's columns.
    """
    own: dict[str, str] = {}
    for name in columns:
        own.setdefault(str(name).strip(), name)
    mapping = {name: theirs.strip() for name, theirs in _known_names(mapping, format, own).items()}
    for name in mapping.values():
        if name not in own:
            raise UnknownFormat(f"there is no column {_shown(name)}{_near(name, own)}; {_there_are(own)}", own)
    candidates = [format] if format else [known for known in _FORMATS if mapping.keys() <= set(_names(known))]
    for candidate in candidates:
        found = _found(candidate, own, mapping)
        if own.keys() >= {found.get(name) for name in _FORMATS[candidate].required}:
            return Layout(candidate, {standard: own.get(name, name) for standard, name in found.items()})
    raise UnknownFormat(_nothing_fits(own, mapping, candidates, format), own)


def _names(known: Format) -> tuple[str, ...]:
    return _FORMATS[known].required + _FORMATS[known].optional


def _found(known: Format, own: Collection[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return which column stands for which of a format's.

    An optional one keeps its name although it was not seen: later rows may have it. A column that the mapping uses
    stands for nothing else.
    """
    found = dict(mapping)
    for name in _names(known):
        alias = _ALIASES.get(name, name)
        theirs = alias if name not in own and alias in own else name
        if name not in mapping and theirs not in mapping.values():
            found[name] = theirs
    return found


def _known_names(mapping: Mapping[str, str], known: Format | None, own: Iterable[str]) -> dict[str, str]:
    """Return the mapping under the formats' first names, if one format has all of them."""
    standard = {alias: name for name, alias in _ALIASES.items()}
    renamed = {standard.get(name, name): theirs for name, theirs in mapping.items()}
    formats = [known] if known else list(_FORMATS)
    names = {name for each in formats for name in _names(each)}
    for name in renamed:
        if name not in names:
            whose = f"the format {known} has no" if known else "no format has a"
            raise UnknownFormat(f"{whose} column {_shown(name)}{_near(name, names)}", own)
    if not any(renamed.keys() <= set(_names(each)) for each in formats):
        raise UnknownFormat(f"no format has all of the columns {_listed_names(renamed)}", own)
    return renamed


def _nothing_fits(
    own: Collection[str], mapping: Mapping[str, str], candidates: Sequence[Format], known: Format | None
) -> str:
    if known:
        found = _found(known, own, mapping)
        missing = [name for name in _FORMATS[known].required if found.get(name) not in own]
        return f"the format {known} wants {_listed_names(missing)}; {_there_are(own)}"
    wanted = "; ".join(f"{_listed_names(_FORMATS[each].required)} ({each})" for each in candidates)
    return f"{_there_are(own)}, and no format has those; wanted are: {wanted}"


def _there_are(own: Iterable[str]) -> str:
    return f"its columns are: {_listed_names(own)}"


def _listed_names(names: Iterable[str]) -> str:
    shown = [_shown(name) for name in names]
    more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
    return (", ".join(shown[:_MOST_NAMES]) or "none") + more


def _shown(name: str) -> str:
    return f"`{name[:_LONGEST_NAME]}{'…' if len(name) > _LONGEST_NAME else ''}`"


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), cutoff=0.7)
    return f" (did you mean {' or '.join(map(_shown, near))}?)" if near else ""


class _Cells(NamedTuple):
    """The cells of one row, by the format's names for their columns."""

    values: Mapping[str, Any]
    columns: Mapping[str, str]

    def given(self, name: str) -> Any:
        """Return a cell, or None if it is missing."""
        if name not in self.columns:
            return None
        value = self.values.get(self.columns[name])
        return value if type(value) is str or not _missing(value) else None

    def required(self, name: str) -> Any:
        """Return a cell that must not be missing."""
        value = self.given(name)
        if value is None:
            raise InvalidRow(f"it has no `{self.columns[name]}`")
        return value

    def text(self, name: str) -> str:
        """Return a text that must not be missing."""
        value = self.required(name)
        if not isinstance(value, str):
            raise InvalidRow(f"`{self.columns[name]}` is not a text but {_kind(value)}")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a text, or None where it is missing or blank."""
        if self.given(name) is None:
            return None
        text = self.text(name)
        return text if text and not text.isspace() else None

    def listed(self, name: str) -> list[Any] | None:
        """Return a list, read from JSON if it is text, or None where it is missing or blank."""
        value = self.given(name)
        if isinstance(value, str):
            value = None if not value or value.isspace() else _from_json(value, self.columns[name])
        if value is None:
            return None
        value = _plain(value)
        if not isinstance(value, list):
            raise InvalidRow(f"`{self.columns[name]}` is not a list but {_kind(value)}")
        return value

    def required_list(self, name: str) -> list[Any]:
        """Return a list that must not be missing."""
        value = self.listed(name)
        if value is None:
            raise InvalidRow(f"it has no `{self.columns[name]}`")
        return value


def _missing(value: Any) -> bool:
    """Tell None, NaN and pandas' NA and NaT; NA cannot even be compared with itself."""
    if value is None or isinstance(value, list | dict):
        return value is None
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, Real) and value != value)


def _kind(value: Any) -> str:
    if isinstance(value, bool | Real):
        return "a truth value" if isinstance(value, bool) else "a number"
    kinds = {str: "a text", list: "a list", tuple: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _from_json(text: str, place: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        # What pandas writes of a list into a CSV file.
        python = text.lstrip().startswith(("[{'", "['", "{'"))
        hint = ", but looks like Python's notation; write it with json.dumps" if python else ""
        raise InvalidRow(f"`{place}` is text that is not JSON{hint}") from None


def _plain(value: Any) -> Any:
    """Return lists, dicts and numbers of Python's own for those of numpy, pandas and Arrow."""
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    plain = getattr(value, "tolist", None)  # numpy arrays and scalars, pandas columns and Arrow arrays all have it
    return _plain(plain()) if plain else value


def _messages(turns: list[Any], place: str) -> list[dict[str, Any]]:
    return [_message(turn, f"{place}[{index}]") for index, turn in enumerate(turns)]


def _message(turn: Any, place: str) -> dict[str, Any]:
    """Return a turn, which is ``{role, content}`` or ``{from, value}``, as a message."""
    if not isinstance(turn, dict):
        raise InvalidRow(f"{place} is not an object but {_kind(turn)}")
    others = {key: value for key, value in turn.items() if value is not None}
    speaker, said = ("role", "content") if "role" in others else ("from", "value")
    role = _role(others.pop(speaker, None), place)
    content = others.pop(said, None)
    message: dict[str, Any] = {"role": role or "assistant"}
    if role is None:
        message["tool_calls"] = _calls(content, place)
    elif content is not None:
        message["content"] = _joined(content, place) if isinstance(content, list) else content
    return message | {key: value for key, value in others.items() if key not in message}


def _role(speaker: Any, place: str) -> str | None:
    if not isinstance(speaker, str):
        raise InvalidRow(f"{place} does not say who speaks, by `role` or `from`")
    role = _ROLES.get(speaker, "")
    if role == "":
        role = _ROLES.get(speaker.strip().lower(), "")
    if role == "":
        raise InvalidRow(f"{place} is said by nobody known; known are {', '.join(_ROLES)}")
    return role


def _joined(parts: list[Any], place: str) -> str:
    """Return a text given in parts, as OpenAI's clients write it."""
    for index, part in enumerate(parts):
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise InvalidRow(f"{place}: part {index} of its content is not text but an image, a sound or the like")
    return "".join(part["text"] for part in parts)


def _calls(value: Any, place: str) -> list[dict[str, Any]]:
    """Return a ShareGPT function call, one or several as JSON, as tool calls."""
    calls = _from_json(value, place) if isinstance(value, str) else value
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise InvalidRow(f"{place} is a function call without a name")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments") or {}}}
        for call in calls
    ]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _system(cells: _Cells) -> list[dict[str, Any]]:
    text = cells.optional_text("system")
    return [{"role": "system", "content": text}] if text else []


def _from_messages(cells: _Cells) -> list[dict[str, Any]]:
    return _messages(cells.required_list("messages"), cells.columns["messages"])


def _from_sharegpt(cells: _Cells) -> list[dict[str, Any]]:
    turns = cells.required_list("conversations")
    return _system(cells) + _messages(turns, cells.columns["conversations"])


def _from_alpaca(cells: _Cells) -> list[dict[str, Any]]:
    messages = _system(cells)
    for index, pair in enumerate(cells.listed("history") or ()):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise InvalidRow(f"`{cells.columns['history']}`[{index}] is not a pair of texts")
        messages += (_user(pair[0]), _assistant(pair[1]))
    instruction, more = cells.text("instruction"), cells.optional_text("input")
    messages.append(_user(f"{instruction}\n\n{more}" if more else instruction))
    messages.append(_assistant(cells.text("output")))
    return messages


def _from_prompt_completion(cells: _Cells) -> list[dict[str, Any]]:
    return [*_system(cells), *_said(cells, "prompt", _user), *_said(cells, "completion", _assistant)]


def _said(cells: _Cells, name: str, speaker: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages of a cell that is one text or a list of messages, as TRL has both."""
    value = cells.required(name)
    if isinstance(value, str):
        return [speaker(value)]
    return _messages(cells.required_list(name), cells.columns[name])


def _from_question_answer(cells: _Cells) -> list[dict[str, Any]]:
    return [*_system(cells), _user(cells.text("question")), _assistant(cells.text("answer"))]


def _from_ultrachat(cells: _Cells) -> list[dict[str, Any]]:
    texts = cells.required_list("data")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRow(f"`{cells.columns['data']}`[{index}] is not a text but {_kind(text)}")
    return [_assistant(text) if index % 2 else _user(text) for index, text in enumerate(texts)]


_CONVERT: Mapping[Format, Callable[[_Cells], list[dict[str, Any]]]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "alpaca": _from_alpaca,
    "prompt_completion": _from_prompt_completion,
    "question_answer": _from_question_answer,
    "ultrachat": _from_ultrachat,
}
