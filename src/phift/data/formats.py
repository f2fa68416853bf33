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
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from phift.data.chat import InvalidRow

if TYPE_CHECKING:
    from phift.config.data import Format


_FORMATS: Mapping[Format, tuple[str, ...]] = {
    "messages": ("messages", "tools"),
    "sharegpt": ("conversations", "system", "tools"),
    "alpaca": ("instruction", "output", "input", "system", "history"),
    "prompt_completion": ("prompt", "completion", "system", "tools"),
    "question_answer": ("question", "answer", "system"),
    "ultrachat": ("data",),
}
_OPTIONAL = frozenset({"system", "tools", "input", "history"})
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

_KINDS = {str: "a text", list: "a list", tuple: "a list", dict: "an object", NoneType: "null"}

T = TypeVar("T")

_MOST_NAMES = 20  # columns that a text names
_LONGEST_NAME = 40  # characters of each


class UnknownFormat(InvalidRow):
    """Columns that are none of the formats."""


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
        cells = _Cells(self, values)
        try:
            row, tools = {"messages": _conversation(cells)}, cells.listed("tools")
        except RecursionError:
            raise InvalidRow("it is nested too deeply") from None
        return row if tools is None else row | {"tools": tools}


def recognise(
    columns: Collection[str],
    format: Format | None = None,  # noqa: A002 - the configuration's own word
    mapping: Mapping[str, str] = MappingProxyType({}),
) -> Layout:
    """Return what the columns mean; raises `UnknownFormat`.

    - **columns**: the names in the source; blanks around them do not count, nor capitals where no other name differs by
      them only.
    - **format**: left out, the first that fits.
    - **mapping**: the source's own names for the format's columns.
    """
    own: dict[str, str] = {}
    for name in columns:
        own.setdefault(str(name).strip(), name)
    formats = [format] if format else list(_FORMATS)
    standard = {alias: name for name, alias in _ALIASES.items()}
    mapping = {standard.get(name, name): theirs.strip() for name, theirs in mapping.items()}
    names = {name for known in formats for name in _FORMATS[known]}
    for name in mapping:
        if name not in names:
            whose = f"the format {format} has no" if format else "no format has a"
            raise UnknownFormat(f"{whose} column {_shown(name)}{_near(name, names)}")
    candidates = [known for known in formats if mapping.keys() <= set(_FORMATS[known])]
    if not candidates:
        raise UnknownFormat(f"no format has all of the columns {_listed_names(mapping)}")
    there_are = f"its columns are: {_listed_names(own)}"
    counts = Counter(map(str.casefold, own))
    alike = {name.casefold(): name for name in own if counts[name.casefold()] == 1}  # but for capitals
    mapping = {
        name: theirs if theirs in own else alike.get(theirs.casefold(), theirs) for name, theirs in mapping.items()
    }
    for name in mapping.values():
        if name not in own:
            raise UnknownFormat(f"there is no column {_shown(name)}{_near(name, own)}; {there_are}")
    for known, in_capitals in [(known, False) for known in candidates] + [(known, True) for known in candidates]:
        # An optional column keeps its name although it was not seen: later rows may have it. One that the mapping uses
        # stands for nothing else.
        theirs_of = dict(mapping)
        for name in _FORMATS[known]:
            alias = _ALIASES.get(name, name)
            theirs = alias if name not in own and alias in own else name
            if theirs not in own and (in_capitals or name in _OPTIONAL):
                theirs = alike.get(name) or alike.get(alias) or name
            if name not in mapping and theirs not in mapping.values():
                theirs_of[name] = theirs
        missing = [name for name in _required(known) if theirs_of.get(name) not in own]
        if not missing:
            return Layout(known, {name: own.get(theirs, theirs) for name, theirs in theirs_of.items()})
        if format and in_capitals:
            raise UnknownFormat(f"the format {known} wants {_listed_names(missing)}; {there_are}")
    wanted = "; ".join(f"{_listed_names(_required(known))} ({known})" for known in candidates)
    raise UnknownFormat(f"{there_are}, and no format has those; wanted are: {wanted}")


def _required(known: Format) -> list[str]:
    return [name for name in _FORMATS[known] if name not in _OPTIONAL]


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
    """The cells of one row, by the format's names for their columns; a missing one is None where it may be missing."""

    layout: Layout
    values: Mapping[str, Any]

    def given(self, name: str) -> Any:
        value = self.values.get(self.layout.columns[name]) if name in self.layout.columns else None
        return value if type(value) is str or not missing(value) else None

    def text(self, name: str) -> str:
        """Return a text; a missing one has no letters."""
        return self._checked(name, self.given(name), str) or ""

    def listed(self, name: str) -> list[Any] | None:
        """Return a list, read from JSON if it is text; None where it is missing or blank."""
        value = self.given(name)
        if isinstance(value, str):
            value = None if not value or value.isspace() else _from_json(value, self.layout.columns[name])
        return self._checked(name, plain(value), list)

    def messages(self, name: str) -> list[dict[str, Any]]:
        turns = enumerate(self.listed(name) or ())
        return [_message(turn, f"{self.layout.columns[name]}[{index}]") for index, turn in turns]

    def _checked(self, name: str, value: Any, kind: type[T]) -> T | None:
        if isinstance(value, kind) or (value is None and name in _OPTIONAL):
            return value
        column = self.layout.columns[name]
        told = f"`{column}` is not {_KINDS[kind]} but {_kind(value)}"
        raise InvalidRow(f"it has no `{column}`" if value is None else told)


def missing(value: Any) -> bool:
    """Tell None, NaN and pandas' NA and NaT; NA cannot even be compared with itself."""
    if value is None or isinstance(value, list | dict):
        return value is None
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, Real) and value != value)


def _kind(value: Any) -> str:
    if isinstance(value, bool | Real):
        return "a truth value" if isinstance(value, bool) else "a number"
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def _from_json(text: str, place: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        # What pandas writes of a list into a CSV file.
        python = text.lstrip().startswith(("[{'", "['", "{'"))
        hint = ", but looks like Python's notation; write it with json.dumps" if python else ""
        raise InvalidRow(f"`{place}` is text that is not JSON{hint}") from None


def plain(value: Any) -> Any:
    """Return lists, dicts and numbers of Python's own for those of numpy, pandas and Arrow, at any depth."""
    if type(value) in (str, int, float, bool, NoneType):
        return value
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    to_list = getattr(value, "tolist", None)  # numpy arrays and scalars, pandas columns and Arrow arrays all have it
    return plain(to_list()) if to_list else value


def _message(turn: object, place: str) -> dict[str, Any]:
    """Return a turn, which is ``{role, content}`` or ``{from, value}``, as a message."""
    if not isinstance(turn, dict):
        raise InvalidRow(f"{place} is not an object but {_kind(turn)}")
    others = {key: value for key, value in turn.items() if value is not None}
    who, said = ("role", "content") if "role" in others else ("from", "value")
    speaker, content = others.pop(who, None), others.pop(said, None)
    if not isinstance(speaker, str):
        raise InvalidRow(f"{place} does not say who speaks, by `role` or `from`")
    if speaker not in _ROLES:
        speaker = speaker.strip().lower()
    if speaker not in _ROLES:
        raise InvalidRow(f"{place} is said by nobody known; known are {', '.join(_ROLES)}")
    role = _ROLES[speaker]
    message: dict[str, Any] = {"role": role or "assistant"}
    if role is None:  # a ShareGPT function call, one or several as JSON
        calls = _from_json(content, place) if isinstance(content, str) else content
        calls = calls if isinstance(calls, list) else [calls]
        if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
            raise InvalidRow(f"{place} is a function call without a name")
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments") or {}}}
            for call in calls
        ]
    elif isinstance(content, list):  # parts, as OpenAI's clients write a text
        for index, part in enumerate(content):
            if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
                raise InvalidRow(f"{place}: part {index} of its content is not text but an image, a sound or the like")
        message["content"] = "".join(part["text"] for part in content)
    elif content is not None:
        message["content"] = content
    return message | {key: value for key, value in others.items() if key not in message}


def _conversation(cells: _Cells) -> list[dict[str, Any]]:
    def said(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text}

    system, columns = cells.text("system"), cells.layout.columns
    messages = [said("system", system)] if system.strip() else []
    match cells.layout.format:
        case "messages":
            messages += cells.messages("messages")
        case "sharegpt":
            messages += cells.messages("conversations")
        case "alpaca":
            for index, pair in enumerate(cells.listed("history") or ()):
                if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
                    raise InvalidRow(f"`{columns['history']}`[{index}] is not a pair of texts")
                messages += map(said, ("user", "assistant"), pair)
            instruction, more = cells.text("instruction"), cells.text("input")
            messages.append(said("user", f"{instruction}\n\n{more}" if more.strip() else instruction))
            messages.append(said("assistant", cells.text("output")))
        case "prompt_completion":
            # One text or a list of messages: TRL has both.
            for name, role in (("prompt", "user"), ("completion", "assistant")):
                value = cells.given(name)
                messages += [said(role, value)] if isinstance(value, str) else cells.messages(name)
        case "question_answer":
            messages += (said("user", cells.text("question")), said("assistant", cells.text("answer")))
        case "ultrachat":
            for index, text in enumerate(cells.listed("data") or ()):
                if not isinstance(text, str):
                    raise InvalidRow(f"`{columns['data']}`[{index}] is not a text but {_kind(text)}")
                messages.append(said("assistant" if index % 2 else "user", text))
    return messages
