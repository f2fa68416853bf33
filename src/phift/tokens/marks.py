"""What of a chat template stands in the texts: special tokens, and templates that have been applied already.

A tokenizer makes a token of its own name wherever a text has it. So an answer that says ``<|endoftext|>`` teaches the
model to end there, before its own mark, and a text that says ``<|user|>`` begins a turn.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# How a user's and an assistant's turn begin: the model cards of Phi-3, Phi-4 and Phi-4-mini (huggingface.co/microsoft),
# of Llama 2 and 3, Mistral, Zephyr, Gemma and Qwen; tatsu-lab/stanford_alpaca, train.py, and lm-sys/FastChat,
# conversation.py. Read 2026-11-30.
_TEMPLATES = {
    "Phi": ("<|user|>", "<|assistant|>"),
    "ChatML or Phi-4": ("<|im_start|>user", "<|im_start|>assistant"),
    "Llama 2 or Mistral": ("[INST]", "[/INST]"),
    "Llama 3": ("<|start_header_id|>user", "<|start_header_id|>assistant"),
    "Gemma": ("<start_of_turn>user", "<start_of_turn>model"),
    "Alpaca": ("### Instruction:", "### Response:"),
    "Vicuna": ("### Human:", "### Assistant:"),
}
_BEGINS = {
    "Phi": "<|system|>",
    "ChatML or Phi-4": "<|im_start|>system",
    "Llama 2 or Mistral": "<<SYS>>",
    "Llama 3": "<|begin_of_text|>",
    "Alpaca": "Below is an instruction that describes a task",
}
_BEFORE = re.compile(r"<s>|<bos>|<\|endoftext\|>")  # what may stand before a template

# Of Phi's tokenizers, for where there is none to ask (their model cards).
PHI = (
    "<|endoftext|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|im_start|>",
    "<|im_sep|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<unk>",
)

_ROLES = ("system", "user", "assistant", "tool")

# What a model says itself, so that it belongs into its answers.
_SAID = frozenset({"<think>", "</think>", "<|tool_call|>", "<|/tool_call|>"})


@dataclass(frozen=True, kw_only=True)
class Marked:
    """Counted rows that have something in a text.

    - **names**: how many rows have which, most first.
    - **roles**: whose texts.
    - **line**: the first of the rows.
    """

    rows: int
    names: Mapping[str, int]
    roles: tuple[str, ...]
    line: int


class Marks:
    """Looks at the texts of rows, and counts those with special tokens and those with a whole template.

    - **specials**: the special tokens to look for.
    """

    def __init__(self, specials: Sequence[str]) -> None:
        self._specials = _any_of(specials)
        self._any = _any_of({*specials, *(mark for turns in _TEMPLATES.values() for mark in turns), *_BEGINS.values()})
        self._tokens, self._templates = _Tally(), _Tally()

    def look(self, line: int, row: Mapping[str, Any]) -> None:
        """Look at a row; one with a template in it is not counted for the special tokens that this has."""
        tokens: dict[str, set[str]] = {}
        templates: dict[str, set[str]] = {}
        for message in row["messages"]:
            calls, role = message.get("tool_calls"), message.get("role")
            role = role if role in _ROLES else "another role"
            text = str(message.get("content") or "") + (json.dumps(calls, ensure_ascii=False) if calls else "")
            if self._any.search(text):
                for name in _templates_in(text):
                    templates.setdefault(name, set()).add(role)
                found = {match[0] for match in self._specials.finditer(text)}
                for token in found - (_SAID if role == "assistant" else set()):
                    tokens.setdefault(token, set()).add(role)
        if templates:
            self._templates.add(line, templates)
        elif tokens:
            self._tokens.add(line, tokens)

    @property
    def tokens(self) -> Marked | None:
        """The rows with special tokens, if there are any."""
        return self._tokens.told()

    @property
    def templates(self) -> Marked | None:
        """The rows to which a template has been applied already, if there are any."""
        return self._templates.told()


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern for any of some texts; each is tried only where its first two characters stand.

    With 300 special tokens that is 88 MB of text a second, and one after the other 9 (AMD EPYC, 2026-11-30).
    """
    ends: dict[str, list[str]] = {}
    for text in sorted(texts, key=len, reverse=True):
        ends.setdefault(text[:2], []).append(re.escape(text[2:]))
    groups = (f"{re.escape(begin)}(?:{'|'.join(some)})" for begin, some in ends.items())
    return re.compile("|".join(groups) or "(?!)")


def _templates_in(text: str) -> list[str]:
    """Return the templates that a text begins with, or of which it has the marks of a user and of an assistant."""
    begun = text.lstrip()
    if before := _BEFORE.match(begun):
        begun = begun[before.end() :].lstrip()
    return [
        name
        for name, turns in _TEMPLATES.items()
        if all(mark in text for mark in turns) or begun.startswith((*turns, _BEGINS.get(name, turns[0])))
    ]


class _Tally:
    def __init__(self) -> None:
        self.rows, self.line = 0, 0
        self.names: Counter[str] = Counter()
        self.roles: dict[str, None] = {}

    def add(self, line: int, found: Mapping[str, Iterable[str]]) -> None:
        self.line = self.line or line
        self.rows += 1
        self.names.update(found.keys())
        self.roles.update(dict.fromkeys(role for roles in found.values() for role in sorted(roles)))

    def told(self) -> Marked | None:
        names = dict(self.names.most_common())
        return Marked(rows=self.rows, names=names, roles=tuple(self.roles), line=self.line) if self.rows else None
