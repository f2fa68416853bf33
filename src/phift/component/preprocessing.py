"""What the component makes of chat data: which files and rows it takes, where it cuts them, and what it trains on.

The rules, each with its source, are in ``docs/data.md``; most are azureml-acft-contrib-hf-nlp 0.0.91, ``preprocess``
and the collator, read in 2026-07.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from phift.errors import DataError

Row = Mapping[str, Any]
Message = Mapping[str, Any]

SPLITS = ("train", "validation", "test")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

COLUMNS = ("messages", "tools")
"""The columns that the component reads; it drops every other."""

LEAST_TRAINING_ROWS = 10
"""The component stops below it (finetune_acft_hf_nlp, MIN_TRAINING_SAMPLE_GENERATIVE_TASKS, 2026-07)."""

_NO_LIMIT = 10**9  # transformers writes 1e30 where a tokenizer has no longest input

Dropped = Literal["without_messages", "without_tools", "too_short"]


def kept_messages(row: Row) -> list[Any] | Dropped:
    """Return a row's messages without their null keys, or why the component drops the row.

    Raises `phift.errors.DataError` where the row fails the job.
    """
    if "messages" not in row:
        raise DataError("There is no column messages.", fix="rename the column that holds the chat")
    messages = row["messages"]
    if not messages:
        return "without_messages"
    if "tools" in row and not row["tools"]:
        return "without_tools"
    if not isinstance(messages, list):
        what = f"messages is of type {type(messages).__name__}, not a list."
        raise DataError(what, fix='write [{"role": …, "content": …}, …]')
    if len(messages) < 2:
        return "too_short"
    return [
        {key: value for key, value in message.items() if value is not None} if isinstance(message, dict) else message
        for message in messages
    ]


def without_system(messages: Sequence[Message]) -> list[Message]:
    """Return ``messages`` with the system text in front of the first user text, for models without that role.

    Raises `phift.errors.DataError` where the system text has no place.
    """
    roles = [message.get("role") for message in messages]
    if "system" not in roles:
        return list(messages)
    if roles.count("system") > 1 or roles[0] != "system":
        raise DataError("A system message must be the only one and come first.", fix="merge or move it")
    if "user" not in roles:
        raise DataError("There is a system message but no user message.", fix="add a user message")
    first, *rest = messages
    user = roles.index("user") - 1
    merged = {**rest[user], "content": f"{first['content']}\n\n{rest[user]['content']}"}
    return [*rest[:user], merged, *rest[user + 1 :]]


def row_limit(model_max_length: float, max_seq_length: int) -> int | None:
    """Return after how many tokens a row is cut, or None if none is.

    - **model_max_length**: the tokenizer's longest input.
    - **max_seq_length**: the job's; 0 or less leaves the tokenizer's.
    """
    shortest = int(min(model_max_length, max_seq_length) if max_seq_length > 0 else model_max_length)
    return shortest if shortest < _NO_LIMIT else None


def trained_spans(ids: list[int], response: Sequence[int], instruction: Sequence[int]) -> list[tuple[int, int]]:
    """Return from where to where the tokens are trained on, in order and apart; cut ``ids`` first.

    That is what stands after each response marker up to the next instruction marker. Ids that hold only one of the two
    have nothing to train on. The markers go in pairs: the n-th instruction hides everything up to the n-th response,
    and one too many hides the rest. So a text that holds a marker, or a user who speaks twice, hides answers.

    - **response**, **instruction**: the tokens that open an assistant's and a user's turn.
    """
    questions = list(_starts(ids, instruction))
    answers = [start + len(response) for start in _starts(ids, response)]
    if not questions or not answers:
        return []
    if questions[0] > answers[0]:
        questions.insert(0, 0)
    hidden = list(zip([0, *questions[1:]], answers, strict=False))
    hidden.append((questions[-1] if len(questions) > len(answers) else len(ids), len(ids)))
    spans, end = [], 0
    for start, stop in hidden:
        if end < start:
            spans.append((end, start))
        end = max(end, start, stop)
    return spans


def _starts(ids: list[int], marker: Sequence[int]) -> Iterator[int]:
    """Yield where ``marker`` begins in ``ids``."""
    wanted, at = list(marker), -1
    while wanted:
        try:
            at = ids.index(wanted[0], at + 1)  # at C's speed; a row has thousands of tokens and few markers
        except ValueError:
            return
        if ids[at : at + len(wanted)] == wanted:
            yield at
