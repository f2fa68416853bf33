"""A conversation as the model gets it: the chat template's text, its tokens, and those that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from phift.component.finetune_config import FinetuneConfig
from phift.component.preprocessing import Row, row_limit, trained_spans, without_system
from phift.errors import DataError


@dataclass(frozen=True)
class Refused:
    """What became of a row that the model's chat template does not take; the reason quotes no text."""

    reason: str


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
        response, instruction = (
            tuple(tokenizer.encode(marker, add_special_tokens=False)) if marker else ()
            for marker in (config.response_template, config.instruction_template)
        )
        return cls(
            tokenizer=tokenizer,
            source=source,
            response=response,
            instruction=instruction,
            system_role_supported=config.system_role_supported,
            digest=digest,
        )

    @property
    def knows_markers(self) -> bool:
        """Whether it can be said which tokens are trained on."""
        return bool(self.response and self.instruction)

    def limit(self, max_seq_length: int) -> int | None:
        """Return after how many tokens the component cuts a row, or None if it cuts none."""
        return row_limit(self.tokenizer.model_max_length, max_seq_length)

    def text(self, row: Row) -> str:
        """Return the text that the chat template makes of a row.

        Raises `phift.errors.DataError` for a system message that has no place, and whatever the template raises, which
        may quote the conversation.
        """
        messages = list(row["messages"])
        if not self.system_role_supported:
            messages = without_system(messages)
        text = str(self.tokenizer.apply_chat_template(messages, tools=row.get("tools"), tokenize=False))
        text.encode()  # half a surrogate pair cannot be tokenised
        return text

    def render(self, row: Row) -> str | Refused:
        """Return the text of a row, or why there is none."""
        try:
            return self.text(row)
        except DataError as error:
            return Refused(f"{error.what[0].lower()}{error.what[1:].rstrip('.')}")
        except Exception as error:  # noqa: BLE001 - a template is a program: it may raise anything
            return Refused(f"the model's chat template does not take it ({type(error).__name__})")

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self._encode([text])[0]

    def encode_batch(self, rows: Sequence[Row]) -> list[list[int] | Refused]:
        """Return each row's tokens, not cut, or why the template refuses it.

        Hundreds of rows at a time keep all cores busy.
        """
        texts = [self.render(row) for row in rows]
        encoded = iter(self._encode([text for text in texts if isinstance(text, str)]))
        return [next(encoded) if isinstance(text, str) else text for text in texts]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self.tokenizer.is_fast:
            # Without transformers' own tensors and masks, and without offsets.
            backend = self.tokenizer.backend_tokenizer
            return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
        return list(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])

    def pieces(self, text: str) -> list[tuple[int, str]]:
        """Return the tokens of a text, each with its part of it.

        The parts joined are the text; of a character that takes several tokens, the first one has it. A tokenizer in
        Python does not know the parts, so its tokens are decoded one by one.
        """
        if not self.tokenizer.is_fast:
            return [(token, self.tokenizer.decode([token])) for token in self.encode(text)]
        encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        found, start = [], 0
        for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            found.append((token, text[start : max(start, end)]))
            start = max(start, end)
        if found and start < len(text):
            found[-1] = (found[-1][0], found[-1][1] + text[start:])
        return found

    def spans(self, ids: list[int]) -> list[tuple[int, int]]:
        """Return from where to where the tokens are trained on, in order and apart; cut ``ids`` first."""
        return trained_spans(ids, self.response, self.instruction)

    def trained(self, ids: list[int]) -> list[bool]:
        """Return for each token whether it is trained on; cut ``ids`` first."""
        mask = [False] * len(ids)
        for start, end in self.spans(ids):
            mask[start:end] = [True] * (end - start)
        return mask
