"""What rows have besides their conversation: columns and keys by name, how many rows have each, what they mean.

The component takes `messages` and `tools` and nothing else, so whatever else a row has is without effect, however much
its author meant by it. All of it is gathered here, from every row, so that it can be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from phift.check.findings import Finding
from phift.data.formats import missing
from phift.errors import visible

MOST_NAMES = 50
"""Names that are gathered, besides those that mean something; of more it is told that there are."""

LONGEST_NAME = 1000
"""Characters of a name that are gathered."""

ALL = 1 << 62
"""As many rows as there are, where they are not counted."""

_MOST_SHOWN = 20
_LONGEST_SHOWN = 40

_SHOWN = "what they show is not learnt, and what is said of it is learnt without it"
_MARKED = "where it marks answers as bad, they are learnt like the others"
_RATED = "answers that are rated low are learnt like the others"
_OF_MESSAGES = (_SHOWN, _MARKED, _RATED)

_MEANINGS: Mapping[str, str] = {
    name: meaning
    for meaning, names in {
        _SHOWN: (
            *("image", "images", "image_url", "image_path", "img", "picture", "pictures"),
            *("audio", "audios", "audio_path", "video", "videos", "video_path"),
        ),
        _MARKED: (
            "label",
            "labels",
            "kto_tag",
            "is_good",
            "thumbs",
            "toxic",
            "harmful",
            "unsafe",
            "is_safe",
            "flagged",
        ),
        _RATED: ("score", "scores", "rating", "ratings", "reward", "rewards", "rank", "quality", "votes", "upvotes"),
        "which of two answers is the better one is not learnt": ("chosen", "rejected", "preferred", "preference"),
        "rows that are meant for validation or test are learnt like the others": ("split", "fold"),
        "the answers are learnt without what they rest on": (
            *("context", "contexts", "document", "documents", "passage", "history", "tools", "functions"),
        ),
        "the answers are learnt without it": (
            *("system", "system_prompt", "system_message", "system_instruction", "developer"),
        ),
        "what it says is to be learnt, or not, has no effect": ("loss", "loss_scale", "loss_mask", "mask"),
    }.items()
    for name in names
}
"""What it means that a column is left out; the first few hold for keys of messages too."""

MEANT = frozenset(_MEANINGS)


def _letters(name: str) -> str:
    """Return what ``systemPrompt``, ``System Prompt`` and ``system_prompt`` have in common."""
    return re.sub(r"[\W_]", "", name).lower()


_BY_LETTERS = {_letters(name): meaning for name, meaning in _MEANINGS.items()}


def has(name: str, value: object) -> bool:
    """Tell whether a row has something under a name; an empty list is something unless it would have a meaning."""
    if value is None or (isinstance(value, str) and not value) or missing(value):
        return False
    if name in MEANT and isinstance(value, str | list | dict):
        return bool(value) and value not in ("[]", "{}")
    return True


@dataclass
class Names:
    """Names, and how many rows have each.

    - **more**: there are others, which are too many; then only of those that mean something all rows are counted.
    """

    rows: dict[str, int] = field(default_factory=dict)
    more: bool = False

    def add(self, name: object, rows: int) -> None:
        """Count rows with a name; with none of them, it is noted."""
        if type(name) is not str or name not in self.rows:
            name = str(name)[:LONGEST_NAME]  # in Python it can be anything
            if len(self.rows) >= MOST_NAMES and name not in self.rows and name not in MEANT:
                self.more = True
                return
        self.rows[name] = self.rows.get(name, 0) + rows

    def update(self, other: Names) -> None:
        """Count what another one has counted."""
        for name, rows in other.rows.items():
            self.add(name, rows)
        self.more |= other.more

    def shown(self, all_rows: int) -> str:
        """List them for a text, with their rows where those are counted and not all."""
        names = sorted(self.rows)
        told = (
            f"{_short(name)}{'' if self.more else _share(self.rows[name], all_rows)}" for name in names[:_MOST_SHOWN]
        )
        return ", ".join(told) + " and more" * (self.more or len(names) > _MOST_SHOWN)


def _meaning(name: str) -> str | None:
    return _BY_LETTERS.get(_letters(name))


def _short(name: str) -> str:
    return visible(name[:_LONGEST_SHOWN], lines=False) + "…" * (len(name) > _LONGEST_SHOWN)


def _share(rows: int, all_rows: int) -> str:
    return "" if rows >= all_rows else f" ({rows} of {all_rows} rows)" if rows else " (empty)"


@dataclass(kw_only=True)
class Seen:
    """What rows have besides their conversation.

    - **columns**: those that are left out.
    - **keys**: of messages and their parts, besides those that a message has.
    - **remarks**: what was done about what they mean.
    """

    columns: Names = field(default_factory=Names)
    keys: Names = field(default_factory=Names)
    remarks: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, some: Iterable[Seen]) -> Seen:
        """Return what several have together."""
        whole = cls()
        for one in some:
            whole.columns.update(one.columns)
            whole.keys.update(one.keys)
            for remark, rows in one.remarks.items():
                whole.remark(remark, rows)
        return whole

    def remark(self, remark: str, rows: int = 1) -> None:
        """Count rows that something is to be said of."""
        self.remarks[remark] = self.remarks.get(remark, 0) + rows

    def findings(self, place: str, rows: int) -> Iterator[Finding]:
        """Yield what is to be said of a source of so many rows."""
        if self.columns.rows:
            message = f"Columns left out: {self.columns.shown(rows)}."
            yield Finding("DATA_COLUMNS_LEFT_OUT", "note", place, message)
        if self.keys.rows:
            keys = self.keys.shown(rows)
            message = f"Messages have other keys, for which only the model's chat template could have a use: {keys}."
            yield Finding("DATA_MESSAGE_KEYS", "note", place, message)
        lost: dict[str, Names] = {}
        meant = {name: count for name, count in self.keys.rows.items() if _meaning(name) in _OF_MESSAGES}
        for name, count in (meant | self.columns.rows).items():
            if count and (meaning := _meaning(name)):
                lost.setdefault(meaning, Names()).add(name, count)
        for meaning, names in lost.items():
            message = f"Without effect: {names.shown(rows)}; {meaning}."
            fix = "take out the rows that should not be learnt so, or the column if it means something else"
            yield Finding("DATA_MEANING_LEFT_OUT", "warning", place, message, fix)
        for remark, count in sorted(self.remarks.items()):
            yield Finding("DATA_WEIGHTS", "warning", place, f"{remark}: {count} of {rows} rows.")
