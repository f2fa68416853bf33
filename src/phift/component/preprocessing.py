"""What the component makes of chat data: which files and rows it takes, where it cuts them, and what it trains on.

The rules, each with its source, are in ``docs/data.md``; most are azureml-acft-contrib-hf-nlp 0.0.91, ``preprocess``
and the collator, read in 2026-07.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from phift.component.finetune_config import FinetuneConfig
from phift.errors import DataError

Row = Mapping[str, Any]

SPLITS = ("train", "validation", "test")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

COLUMNS = ("messages", "tools")
"""The columns that the component reads; it drops every other."""

LEAST_TRAINING_ROWS = 10
"""The component stops below it (finetune_acft_hf_nlp, MIN_TRAINING_SAMPLE_GENERATIVE_TASKS, 2026-07)."""

_CONTROL = re.compile(r"</?s>|<\|.+\|>")
_MOST_SPECIALS, _LONGEST = 10_000, 100  # tokens and characters of one; no tokenizer that is meant has more
_NO_LIMIT = 10**9  # transformers writes 1e30 where a tokenizer has no longest input


def kept_messages(row: Row, place: str) -> list[Any] | str:
    """Return a row's messages without their null keys, or as what the component drops the row.

    Raises `phift.errors.DataError` where the row fails the job.
    """
    if "messages" not in row:
        raise DataError("There is no column messages.", where=place, fix="rename the column that holds the chat")
    messages = row["messages"]
    if not messages:
        return "without_messages"
    if "tools" in row and not row["tools"]:
        return "without_tools"
    if not isinstance(messages, list):
        what = f"messages is of type {type(messages).__name__}, not a list."
        raise DataError(what, where=place, fix='write [{"role": …, "content": …}, …]')
    if len(messages) < 2:
        return "too_short"
    return [
        {key: value for key, value in message.items() if value is not None} if isinstance(message, dict) else message
        for message in messages
    ]


def without_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return ``messages`` with the system text in front of the first user text, for models without that role."""
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


@dataclass(frozen=True)
class Refused:
    """What became of a row that the model's chat template does not take; the reason quotes no text."""

    reason: str


def shortest(longest_input: float | None, max_seq_length: int) -> int | None:
    """Return after how many tokens the component cuts a row, or None; a limit of 0 or less is none."""
    limits = [longest_input if longest_input is not None else _NO_LIMIT, *([max_seq_length] * (max_seq_length > 0))]
    return int(min(limits)) if min(limits) < _NO_LIMIT else None


@dataclass(frozen=True, kw_only=True)
class ChatTokenizer:
    """A model's tokenizer with its chat template and markers.

    - **tokenizer**: transformers' own, whose chat template is used.
    - **source**: which one it is, for display.
    - **response**, **instruction**: the tokens that open an assistant's and a user's turn; empty where not known.
    - **system_role_supported**: when False, the component moves a system message into the first user message.
    - **digest**: of all that decides which tokens a row becomes and which are trained on; empty where nobody made one.
    """

    tokenizer: Any = field(repr=False)
    source: str = ""
    response: tuple[int, ...] = ()
    instruction: tuple[int, ...] = ()
    system_role_supported: bool = True
    digest: str = ""

    @classmethod
    def of(cls, tokenizer: Any, config: FinetuneConfig, source: str = "", digest: str = "") -> ChatTokenizer:
        """Let a model's finetune config say what its tokenizer does; the tokenizer is changed."""
        if config.chat_template:
            tokenizer.chat_template = config.chat_template
        if tokenizer.is_fast:
            # What a training run left in tokenizer.json would cut and pad here too.
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        return cls(
            tokenizer=tokenizer,
            source=source,
            response=tuple(tokenizer.encode(config.response_template, add_special_tokens=False)),
            instruction=tuple(tokenizer.encode(config.instruction_template, add_special_tokens=False)),
            system_role_supported=config.system_role_supported,
            digest=digest,
        )

    @property
    def knows_markers(self) -> bool:
        """Whether it can be said which tokens are trained on."""
        return bool(self.response and self.instruction)

    @property
    def specials(self) -> tuple[str, ...]:
        """Its special tokens, and what is written like one; each is itself wherever a text has it."""
        added = self.tokenizer.added_tokens_decoder.values()
        named = [token.content for token in added if token.special or _CONTROL.fullmatch(token.content)]
        return tuple(text for text in named if text.strip() and len(text) <= _LONGEST)[:_MOST_SPECIALS]

    def limit(self, max_seq_length: int) -> int | None:
        """Return after how many tokens the component cuts a row, or None; 0 or less leaves the tokenizer's own."""
        return shortest(self.tokenizer.model_max_length, max_seq_length)

    def render(self, row: Row) -> str | Refused:
        """Return the text that the chat template makes of a row, or why there is none."""
        try:
            messages = row["messages"] if self.system_role_supported else without_system(row["messages"])
            text = str(self.tokenizer.apply_chat_template(list(messages), tools=row.get("tools"), tokenize=False))
            text.encode()  # half a surrogate pair cannot be tokenised
        except MemoryError:
            raise
        except DataError as error:
            return Refused(f"{error.what[0].lower()}{error.what[1:].rstrip('.')}")
        except Exception as error:  # noqa: BLE001 - a template is a program: it may raise anything
            return Refused(f"the model's chat template does not take it ({type(error).__name__})")
        return text

    def encode_batch(self, rows: Sequence[Row]) -> list[list[int] | Refused]:
        """Return each row's tokens, not cut, or why the template refuses it; hundreds at a time keep all cores busy."""
        rendered = [self.render(row) for row in rows]
        texts = [text for text in rendered if isinstance(text, str)]
        left: Iterator[list[int]] = iter(())
        if self.tokenizer.is_fast:
            # Without transformers' own tensors and masks, and without offsets.
            encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            left = (each.ids for each in encoded)
        elif texts:
            left = iter(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
        return [next(left) if isinstance(text, str) else text for text in rendered]

    def count(self, rows: Sequence[Row], limit: int | None) -> list[tuple[int, int] | Refused]:
        """Return each row's tokens before the cut, and of those after it the ones that are trained on."""
        # The cut comes first: it may go through a marker.
        return [
            ids if isinstance(ids, Refused) else (len(ids), sum(end - start for start, end in self.spans(ids[:limit])))
            for ids in self.encode_batch(rows)
        ]

    def view(self, row: Row, limit: int | None) -> list[tuple[str, bool]] | Refused:
        """Return each token's part of a row's text and whether it is trained on, all of them although it is cut."""
        text = self.render(row)
        if isinstance(text, Refused):
            return text
        pieces = self.pieces(text)
        trained = self.trained([token for token, _ in pieces][:limit])
        trained += [False] * (len(pieces) - len(trained))
        return [(piece, mine) for (_, piece), mine in zip(pieces, trained, strict=True)]

    def pieces(self, text: str) -> list[tuple[int, str]]:
        """Return the tokens of a text, each with its part of it.

        The parts joined are the text; of a character that takes several tokens, the first one has it. A tokenizer in
        Python does not know the parts, so its tokens are decoded one by one.
        """
        if not self.tokenizer.is_fast:
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            return [(token, self.tokenizer.decode([token])) for token in ids]
        encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        found, start = [], 0
        for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            found.append((token, text[start : max(start, end)]))
            start = max(start, end)
        if found and start < len(text):
            found[-1] = (found[-1][0], found[-1][1] + text[start:])
        return found

    def spans(self, ids: list[int]) -> list[tuple[int, int]]:
        """Return from where to where the tokens are trained on, in order and apart; cut ``ids`` first.

        That is what stands after each response marker up to the next instruction marker. Ids that hold only one of the
        two have nothing to train on. The markers go in pairs: the n-th instruction hides everything up to the n-th
        response, and one too many hides the rest. So a text that holds a marker, or a user who speaks twice, hides
        answers.
        """
        questions = list(_starts(ids, self.instruction))
        answers = [start + len(self.response) for start in _starts(ids, self.response)]
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

    def trained(self, ids: list[int]) -> list[bool]:
        """Return for each token whether it is trained on; cut ``ids`` first."""
        mask = [False] * len(ids)
        for start, end in self.spans(ids):
            mask[start:end] = [True] * (end - start)
        return mask


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
