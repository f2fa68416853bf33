"""What the columns of a row mean: each of the usual chat formats, turned into a conversation.

A format is recognised by its columns, and this order decides when they fit several:

===================  ========================================================================================
messages             ``messages``: a list of ``{role, content}``; ``tools`` or ``functions``
sharegpt             ``conversations``: a list of ``{from, value}``; ``tools`` or ``functions``
alpaca               ``instruction``, ``output``; ``input``, ``history``: a list of [user, assistant]
prompt_completion    ``prompt``, ``completion`` (or ``response``), texts or lists of messages; ``tools``, ``functions``
question_answer      ``question``, ``answer``
ultrachat            ``data``: a list of texts, the user's and the assistant's in turn
===================  ========================================================================================

All may have ``system`` or ``system_prompt``: the text of a system message, which comes first.

Lists may be JSON text, as in CSV; None and NaN are what a missing cell is. Whether the conversation can be trained
on is not decided here but in `phift.data.chat`. No reason given here quotes a cell.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from phift.data import turns
from phift.data.chat import InvalidRow
from phift.data.weights import EARLIER

if TYPE_CHECKING:
    from phift.config.data import Format


SYSTEM = ("system", "system_prompt")
"""The columns that have the system message, in every format; a row may have either."""

_FORMATS: Mapping[Format, tuple[str, ...]] = {
    "messages": ("messages", "tools", "functions", *SYSTEM),
    "sharegpt": ("conversations", "tools", "functions", *SYSTEM),
    "alpaca": ("instruction", "output", "input", "history", *SYSTEM),
    "prompt_completion": ("prompt", "completion", "tools", "functions", *SYSTEM),
    "question_answer": ("question", "answer", *SYSTEM),
    "ultrachat": ("data", *SYSTEM),
}
_OPTIONAL = frozenset({"tools", "functions", "input", "history", *SYSTEM})
_ALIASES = {"completion": "response"}

T = TypeVar("T")

# Names of columns of preference data: Hugging Face TRL's `chosen` and `rejected`, OpenAI's `preferred_output`.
_WORSE = re.compile("reject|dispreferred|non_?preferred", re.IGNORECASE)
_BETTER = re.compile("chosen|preferred|accepted", re.IGNORECASE)

_MOST_NAMES = 20  # columns that a text names
_LONGEST_NAME = 40  # characters of each


class UnknownFormat(InvalidRow):
    """Columns that are none of the formats.

    - **fix**: the way out.
    """

    def __init__(self, reason: str, fix: str = "rename them, or say what they are with `format` and `columns`") -> None:
        super().__init__(reason)
        self.fix = fix


@dataclass(frozen=True)
class Layout:
    """How the rows of one source become conversations.

    - **columns**: the format's columns, each with the source's own name for it.
    - **better**: the column of the better answers, where others are beside it that are worse: preference data.
    """

    format: Format
    columns: Mapping[str, str]
    better: str | None = None

    @property
    def used(self) -> frozenset[str]:
        """The source's columns that are read, whether or not a row has them all."""
        return frozenset(self.columns.values())

    def convert(
        self, values: Mapping[str, Any], keys: set[str] | None = None, remarks: set[str] | None = None
    ) -> dict[str, Any]:
        """Return the row as ``{"messages": [...]}``, with ``tools`` if it has any; raises `InvalidRow`.

        - **keys**: is given the keys of messages and their parts that neither say nor call anything.
        - **remarks**: is given what is to be said of it.
        """
        cells = _Cells(self, values, set() if keys is None else keys, set() if remarks is None else remarks)
        try:
            row, tools = {"messages": _conversation(cells)}, _tools(cells)
        except RecursionError:
            raise InvalidRow("it is nested too deeply") from None
        if self.better and row["messages"] and row["messages"][-1]["role"] != "assistant":
            told = f"preference data answers it, the better one in {_shown(self.better)}"
            raise InvalidRow(f"its last message is a question, and {told}; the component trains on messages alone")
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
            theirs_of = {name: own.get(theirs, theirs) for name, theirs in theirs_of.items()}
            return Layout(known, theirs_of, _better_answer(own))
        if format and in_capitals:
            raise UnknownFormat(f"the format {known} wants {_listed_names(missing)}; {there_are}")
    wanted = "; ".join(f"{_listed_names(_required(known))} ({known})" for known in candidates)
    if better := _better_answer(own):
        what = "preference data, which the component does not train on: pairs of a better and a worse answer"
        raise UnknownFormat(f"{there_are}: {what}; wanted are: {wanted}", _train_on(better, own, candidates))
    raise UnknownFormat(f"{there_are}, and no format has those; wanted are: {wanted}")


def _better_answer(columns: Iterable[str]) -> str | None:
    """Return the column of the better answers of preference data, the shortest name of several; None in other data."""
    worse = {name for name in columns if _WORSE.search(name)}
    better = [name for name in columns if _BETTER.search(name) and name not in worse]
    return min(better, key=len) if worse and better else None


def _train_on(better: str, columns: Collection[str], formats: Iterable[Format]) -> str:
    """Return how to train on the better answers of preference data alone."""
    better = better[:_LONGEST_NAME]
    whole = f"`columns: {{messages: {better}}}` where it is a list of messages, the question's too"
    for known in formats:
        missing = [name for name in _required(known) if name not in columns]
        if len(missing) == 1 and len(_required(known)) > 1:
            return f"to train on the better answers alone, write `columns: {{{missing[0]}: {better}}}`, or {whole}"
    return f"to train on the better answers alone, write each with its question as a list `messages`, or {whole}"


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
    keys: set[str]
    remarks: set[str]

    def given(self, name: str) -> Any:
        value = self.values.get(self.layout.columns[name]) if name in self.layout.columns else None
        return value if type(value) is str or not missing(value) else None

    def text(self, name: str) -> str:
        """Return a text; a missing one has no letters."""
        return self._checked(name, self.given(name), str, "a text") or ""

    def listed(self, name: str, wanted: str = "a list") -> list[Any] | None:
        """Return a list, read from JSON if it is text; None where it is missing or blank."""
        value = self.given(name)
        if isinstance(value, str):
            value = None if not value or value.isspace() else turns.from_json(value, self.layout.columns[name])
        return self._checked(name, plain(value), list, wanted)

    def messages(self, name: str, wanted: str = "a list") -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        column = self.layout.columns[name]
        for index, turn in enumerate(self.listed(name, wanted) or ()):
            turns.note_keys(turn, self.keys)
            messages += turns.messages_of(turn, f"{column}[{index}]")
        return messages

    def system(self, name: str) -> str:
        """Return the text of a system message, which may be in parts, or a turn."""
        value = plain(self.given(name))
        if isinstance(value, list) and all(isinstance(part, dict) for part in value):
            value = {"content": value} if value else None
        if isinstance(value, dict):
            turn = {**value, "role": "system"}
            turns.note_keys(turn, self.keys)
            (message,) = turns.messages_of(turn, f"`{self.layout.columns[name]}`")
            value = message.get("content", value)
        return self._checked(name, value, str, "a text") or ""

    def _checked(self, name: str, value: Any, kind: type[T], wanted: str) -> T | None:
        if isinstance(value, kind) or (value is None and name in _OPTIONAL):
            return value
        column = self.layout.columns[name]
        told = f"`{column}` is not {wanted} but {turns.kind_of(value)}"
        raise InvalidRow(f"it has no `{column}`" if value is None else told)


def missing(value: Any) -> bool:
    """Tell None, NaN and pandas' NA and NaT; NA cannot even be compared with itself."""
    if value is None or isinstance(value, list | dict):
        return value is None
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, Real) and value != value)


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


def _tools(cells: _Cells) -> list[Any] | None:
    tools, functions = cells.listed("tools"), cells.listed("functions")
    if tools and functions:
        raise InvalidRow(f"it has both `{cells.layout.columns['tools']}` and `{cells.layout.columns['functions']}`")
    if functions:
        return list(map(turns.wrapped, functions))
    return tools and list(map(turns.tool_of, tools))


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def _conversation(cells: _Cells) -> list[dict[str, Any]]:
    messages = _turns(cells)
    for name in SYSTEM:
        text = cells.system(name)
        if not text or text.isspace():
            continue
        has_one = bool(messages) and messages[0]["role"] == "system"
        own = messages[0].get("content") if has_one else None
        if isinstance(own, str) and own.strip() not in ("", text.strip()):
            told = "says something else than the system message that the conversation has already; keep one of them"
            raise InvalidRow(f"`{cells.layout.columns[name]}` {told}")
        messages = [{**(messages[0] if has_one else {}), **_said("system", text)}, *messages[has_one:]]
    return messages


def _turns(cells: _Cells) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    said, columns = _said, cells.layout.columns
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
                if any(message["role"] == "assistant" for message in messages):
                    cells.remarks.add(EARLIER)
                value = cells.given(name)
                if isinstance(value, str) and not turns.are_messages(value):
                    messages.append(said(role, value))
                else:
                    messages += cells.messages(name, "a text (nor a list of messages)")
        case "question_answer":
            messages += (said("user", cells.text("question")), said("assistant", cells.text("answer")))
        case "ultrachat":
            for index, text in enumerate(cells.listed("data") or ()):
                if not isinstance(text, str):
                    raise InvalidRow(f"`{columns['data']}`[{index}] is not a text but {turns.kind_of(text)}")
                messages.append(said("assistant" if index % 2 else "user", text))
    return messages
