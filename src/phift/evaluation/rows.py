"""Held-out rows: a question, and the answer that is held against a model's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from phift.data import chat
from phift.data.chat import InvalidRow
from phift.data.held_out import near_training
from phift.data.prepared import PreparedDataset
from phift.data.sources import Progress
from phift.errors import DataError, DataNotFound
from phift.serving.chat import Message

Rows: TypeAlias = str | Path | PreparedDataset | Iterable[Mapping[str, Any]]
"""Chat rows as ``{"messages": [...]}``: a JSONL file or its path, values, or prepared data, of which it is the test
split."""

_MOST_PROBLEMS = 20


@dataclass(frozen=True, kw_only=True)
class HeldOutRow:
    """A question with the answer that is held against a model's.

    - **number**: the row's line, from 1.
    - **prompt**: the conversation up to the last answer.
    - **reference**: that answer; of calls of tools what `said` makes of them.
    - **tools**: what the model may call.
    - **calls**: whether that answer calls some.
    """

    number: int
    prompt: tuple[Message, ...]
    reference: str
    tools: tuple[Any, ...] = ()
    calls: bool = False

    @property
    def question(self) -> str:
        """What the user said last, on one line."""
        said_last = (turn.get("content") for turn in reversed(self.prompt) if turn.get("role") == "user")
        return " ".join(str(next(said_last, "")).split())


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The rows to compare by.

    - **near**: rows that were left out, since they say nearly what a training row says; None where the training data is
      not known.
    - **given**: how many rows there were.
    """

    rows: tuple[HeldOutRow, ...]
    near: int | None
    given: int


def said(content: str | None, tool_calls: Any = None) -> str:
    """Return what an answer says as one text: calls of tools are JSON, with sorted keys and without their ids."""
    if not tool_calls:
        return content or ""
    calls = [call.get("function", call) for call in tool_calls]
    plain = (f'{{"arguments":{_arguments(call.get("arguments"))},"name":{_json(call.get("name"))}}}' for call in calls)
    written = f"[{','.join(plain)}]"
    return f"{content}\n{written}" if content else written


def _arguments(given: Any) -> str:
    """Return the arguments of a call as JSON; OpenAI's are a text of it, and one that cannot be read stays a text."""
    if isinstance(given, str):
        with suppress(msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return _json(msgspec.json.decode(given))
    return _json(given)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def read_rows(
    rows: Rows,
    *,
    train: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    tell: Callable[[Progress], None] = lambda _: None,
) -> HeldOut:
    """Return the rows to compare by, in their order.

    - **train**: the prepared file of the rows that were trained on; prepared data brings its own. Rows that are near
      one of these are left out, see `phift.data.near`.
    - **limit**: so many at most, drawn with the seed.
    - **tell**: called with how far the search for near rows has come.

    Raises `phift.errors.DataError` for rows that are none, or where none is left.
    """
    place = "rows"
    if isinstance(rows, PreparedDataset):
        train, rows = train or rows.train, rows.test
    if isinstance(rows, str | Path):
        path = Path(rows)
        place = str(path)
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise DataNotFound(f"It cannot be read: {error.strerror}.", where=place, fix="check the path") from None
        found = _read(((number, line) for number, line in enumerate(lines, 1) if line.strip()), place)
    else:
        found = _read(enumerate(rows, 1), place)
    near = near_training((line for _, line in found), train, tell) if train else None
    left = [row for (row, _), is_near in zip(found, near or [False] * len(found), strict=True) if not is_near]
    if not left:
        what = "All of the rows say nearly what a training row says." if found else "There are no rows."
        raise DataError(what, where=place, fix="give rows that were not trained on")
    if limit is not None and limit < len(left):
        chosen = random.Random(seed).sample(range(len(left)), limit)  # noqa: S311 - a choice, no secret
        left = [left[index] for index in sorted(chosen)]
    return HeldOut(rows=tuple(left), near=None if near is None else sum(near), given=len(found))


def _read(rows: Iterable[tuple[int, Any]], place: str) -> list[tuple[HeldOutRow, bytes]]:
    """Return each row, and its line as prepared data has it."""
    found: list[tuple[HeldOutRow, bytes]] = []
    problems: list[tuple[str, str]] = []
    for number, row in rows:
        try:
            found.append(_of(number, chat.values_of(row) if isinstance(row, bytes) else row))
        except InvalidRow as error:
            problems.append((f"{place}:{number}", str(error)))
    if problems:
        where, reason = problems[0]
        what = f"{len(problems)} of {len(found) + len(problems)} rows are no conversations. The first: {reason}"
        fix = 'write each as {"messages": [...]} with an answer last; `phift prepare` makes such files of other ones'
        raise DataError(what, where=where, fix=fix, problems=tuple(problems[:_MOST_PROBLEMS]), refused=len(problems))
    return found


def _of(number: int, row: Any) -> tuple[HeldOutRow, bytes]:
    if not isinstance(row, Mapping) or "messages" not in row:
        raise InvalidRow("it has no `messages`")
    conversation, _ = chat.from_values(row)
    line = msgspec.json.encode(conversation)
    plain = msgspec.json.decode(line)
    *prompt, answer = plain["messages"]
    reference = said(answer.get("content"), answer.get("tool_calls"))
    tools, calls = tuple(plain.get("tools") or ()), bool(answer.get("tool_calls"))
    return HeldOutRow(number=number, prompt=tuple(prompt), reference=reference, tools=tools, calls=calls), line
