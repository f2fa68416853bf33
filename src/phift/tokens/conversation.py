"""One conversation of prepared data as the model sees it, with the tokens marked that are trained on.

As text, what is trained on stands between ``⟦`` and ``⟧``, and ``✂`` is where the row is cut; in a notebook it has a
background. Without a tokenizer the roles and texts are shown, which is not what the model sees, and it is said so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

from phift.component.preprocessing import Refused
from phift.errors import DataError, DataNotFound, ModelError, visible, visible_html
from phift.tokens.count import RowTokens

_STYLES = {
    "trained": "background:#c8e6c9;color:#000",
    "read": "",
    "cut": "background:#eee;color:#888;text-decoration:line-through",
}


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A row of a prepared file.

    - **place**: ``file:line``.
    - **messages**: role and text of each turn.
    - **tokens**: each token's part of the text and whether it is trained on; empty where the model's view is not known.
    - **limit**: after how many tokens rows are cut, if they are.
    - **note**: what is missing from this view, if anything is.
    """

    place: str
    messages: tuple[tuple[str, str], ...] = field(repr=False)
    tokens: tuple[tuple[str, bool], ...] = field(default=(), repr=False)
    limit: int | None = None
    note: str = ""

    @classmethod
    def show(cls, path: Path, number: int, tokenizer: RowTokens | None, *, max_seq_length: int = -1) -> Conversation:
        """Read a row and return it as the model sees it.

        Raises `phift.errors.DataNotFound` where there is no such file or row, and `phift.errors.DataError` where the
        row is no conversation.

        - **number**: the row's line, from 1.
        - **max_seq_length**: the job's; 0 or less leaves the tokenizer's own limit.
        """
        place = f"{path}:{number}"
        try:
            with path.open("rb") as file:
                line = next((line for index, line in enumerate(file, start=1) if index == number), None)
            row = json.loads(line or "null")
        except FileNotFoundError as error:
            raise DataNotFound("There is no such file.", where=str(path), fix="prepare the data first") from error
        except (OSError, ValueError) as error:
            raise DataError("The row cannot be read.", where=place, fix="prepare the data again") from error
        if line is None:
            raise DataNotFound("There is no such row.", where=place, fix="lines are counted from 1")
        said = row.get("messages") if isinstance(row, dict) else None
        if not (isinstance(said, list) and all(isinstance(message, dict) for message in said)):
            raise DataError("The row is no conversation.", where=place, fix="prepare the data first")
        messages: tuple[tuple[str, str], ...] = ()
        for message in said:
            calls = message.get("tool_calls")
            parts = [str(message.get("content") or ""), json.dumps(calls, ensure_ascii=False) if calls else ""]
            messages += ((str(message.get("role")), "\n".join(part for part in parts if part)),)
        if tokenizer is None:
            note = "Roles and texts only: without the model's tokenizer this is not what the model sees."
            return cls(place=place, messages=messages, note=note)
        limit = tokenizer.limit(max_seq_length)
        try:
            seen = tokenizer.view(row, limit)
        except ModelError as error:
            seen = Refused(error.what.rstrip("."))
        if isinstance(seen, Refused):
            return cls(place=place, messages=messages, note=f"Roles and texts only: {seen.reason}.")
        note = "" if tokenizer.knows_markers else "It is not known which tokens are trained on."
        return cls(place=place, messages=messages, tokens=tuple(seen), limit=limit, note=note)

    def __str__(self) -> str:
        title = visible(self._title, lines=False)
        if not self.tokens:
            return "\n".join([title, *(visible(f"{role}: {text}") for role, text in self.messages)])
        cut = f"✂ cut after {self.limit:,} tokens ✂" if self.limit is not None else ""
        marks = {"trained": ("⟦", "⟧"), "read": ("", ""), "cut": (cut, "")}
        body = "".join(text.join(marks[kind]) for kind, text in self._stretches())
        return f"{title}\n{visible(body)}"

    def _repr_html_(self) -> str:
        """Show the conversation in a notebook; every text in it is escaped."""
        if not self.tokens:
            body = "".join(f"<b>{visible_html(role)}</b>: {visible_html(text)}\n" for role, text in self.messages)
        else:
            stretches = ((_STYLES[kind], kind, visible_html(text)) for kind, text in self._stretches())
            body = "".join(f'<span class="{kind}" style="{style}">{text}</span>' for style, kind, text in stretches)
        return f'<p>{visible_html(self._title)}</p><pre style="white-space:pre-wrap">{body}</pre>'

    @property
    def _title(self) -> str:
        trained = sum(mine for _, mine in self.tokens)
        counts = f", {len(self.tokens):,} tokens, {trained:,} trained on" if self.tokens else ""
        return self.place + counts + (f". {self.note}" if self.note else "")

    def _stretches(self) -> Iterator[tuple[Literal["trained", "read", "cut"], str]]:
        """Yield runs of tokens that have the same fate, with their text."""
        last = len(self.tokens) if self.limit is None else self.limit
        for trained, run in groupby(self.tokens[:last], key=lambda token: token[1]):
            yield "trained" if trained else "read", "".join(text for text, _ in run)
        if last < len(self.tokens):
            yield "cut", "".join(text for text, _ in self.tokens[last:])
