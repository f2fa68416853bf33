"""What an author does not want to be learnt: answers and rows with ``weight: 0``, ``train: false`` and the like.

The component trains on every answer of a row (``docs/data.md``), so a wish that it cannot follow is told as what is
wrong with the row. It can be followed where nothing after an answer is to be learnt: there the conversation ends
earlier, which changes nothing about the answers before.

The keys, as they were read on 2026-11-30: ``weight`` of OpenAI's fine-tuning API; ``train`` and ``train_detail`` of
axolotl (docs/config-reference, ``message_field_training``); ``loss`` and ``loss_scale`` of modelscope/ms-swift (pull
requests 5547, 9266), ``loss`` of hiyouga/LlamaFactory (10471); ``trainable`` of tinker-cookbook (``TrainOnWhat``).
``mask`` is 1 of what is learnt here and of what is hidden there.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from phift.data.chat import InvalidRow

OF_ROWS = frozenset({"weight", "loss_weight", "sample_weight", "train", "trainable"})
"""Columns that say of a whole row whether it is to be learnt."""

_LEARNT = frozenset({*OF_ROWS, "loss", "loss_mask", "loss_scale", "compute_loss", "training", "train_on", "learn"})
_NOT_LEARNT = frozenset({"masked", "no_loss", "ignore", "ignore_loss"})
_UNCLEAR = frozenset({"mask", "train_detail"})
_KEYS = _LEARNT | _NOT_LEARNT | _UNCLEAR
_WORDS = {"true": 1, "yes": 1, "false": 0, "no": 0}

EARLIER = "Answers within a prompt are learnt too, as the component learns every answer"
SHORTENED = "What follows the last answer that is to be learnt is left out"
WEIGHED = "Answers or rows with weights other than 0 and 1 count like the others"


def follow(messages: list[dict[str, Any]], marks: Mapping[str, Any]) -> set[str]:
    """End a conversation with its last answer that is to be learnt; return what is to be said of it.

    - **marks**: what the row has in the columns `OF_ROWS`.

    Raises `InvalidRow` where an answer before that one is not to be learnt, or none is, or not the row.
    """
    remarks = set()
    for column in sorted(marks):
        if (weight := _weight(marks[column])) is not None and weight <= 0:
            raise InvalidRow(f"the row is not to be learnt, as `{column}` says")
        if weight not in (None, 1):
            remarks.add(WEIGHED)
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    unwanted: dict[int, str] = {}
    for index in answers:
        for key in sorted(messages[index].keys() & _KEYS):
            weight = _weight(messages[index][key])
            if key in _UNCLEAR or weight is None:
                told = f"messages[{index}]: its `{key}` does not say plainly whether it is to be learnt"
                raise InvalidRow(f"{told}; write `weight`, 0 or 1")
            if (weight <= 0) != (key in _NOT_LEARNT):
                unwanted.setdefault(index, key)
            elif weight not in (0, 1):
                remarks.add(WEIGHED)
    if not unwanted:
        return remarks
    first, key = min(unwanted.items())
    last = max((index for index in answers if index not in unwanted), default=-1)
    if last < 0:
        raise InvalidRow(f"none of its answers is to be learnt, as `{key}` says")
    if first < last:
        told = "is not to be learnt, but one after it is; the component trains on all of them"
        raise InvalidRow(f"messages[{first}]: as `{key}` says, the answer {told}")
    del messages[last + 1 :]
    return remarks | {SHORTENED}


def hidden_by(part: Mapping[str, Any]) -> str | None:
    """Return the key by which a part of an answer is not, or not plainly, to be learnt; None where there is none."""
    for key in sorted(part.keys() & _KEYS):
        weight = _weight(part[key])
        if key in _UNCLEAR or weight is None or (weight <= 0) != (key in _NOT_LEARNT):
            return key
    return None


def _weight(value: object) -> Real | Decimal | int | None:
    """Return what a value says as a number; None where it says nothing clear."""
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            value = _WORDS[text] if text in _WORDS else float(text)
        except ValueError:
            return None
    return value if isinstance(value, Real | Decimal) and value == value else None
