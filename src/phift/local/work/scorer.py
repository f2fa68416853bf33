"""A model behind stdin and stdout: ``python -m phift.local.work.scorer MODEL_FOLDER``.

One JSON object a line. The first line out is ``{"ready": true}``, or ``{"error": {"message": …}}`` and exit code 1.
A request is ``{"id": …, "conversations": [[{"role", "content"}, …], …], "parameters": {…}}``; the reply
``{"id": …, "texts": […]}`` or ``{"id": …, "error": {"message": …}}``. End of stdin ends the process. Greedy unless
``do_sample`` is true. What people write is neither logged nor kept.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from phift.component.finetune_config import FILE_NAME, FinetuneConfig
from phift.component.preprocessing import without_system
from phift.errors import DataError, ParameterError, PhiftError
from phift.local.work.engine import process
from phift.local.work.engine.models import MlflowModel

_log = logging.getLogger(__name__)

_ROLES = ("system", "user", "assistant")
_BATCH = 32  # conversations generated at once; bounds memory, not the request


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and how many there may be."""

    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0

    @classmethod
    def read(cls, parameters: Any) -> Sampling:
        """Check what a request says."""
        if not isinstance(parameters, Mapping):
            raise ParameterError("parameters is not an object.", fix="send names and values")
        if unknown := sorted(set(parameters) - set(cls.__dataclass_fields__)):
            fix = f"use {', '.join(cls.__dataclass_fields__)}"
            raise ParameterError(f"{len(unknown)} of the parameters are unknown.", fix=fix)
        sampling = cls(**parameters)
        tokens, temperature, top_p = sampling.max_new_tokens, sampling.temperature, sampling.top_p
        for name, good, allowed in (
            ("max_new_tokens", _is_number(tokens) and isinstance(tokens, int) and tokens >= 1, "from 1"),
            ("do_sample", isinstance(sampling.do_sample, bool), "true or false"),
            ("temperature", _is_number(temperature) and temperature >= 0, "from 0"),
            ("top_p", _is_number(top_p) and 0 < top_p <= 1, "above 0 and up to 1"),
        ):
            if not good:
                raise ParameterError(f"{name} is out of range.", where=name, fix=f"send {allowed}")
        return sampling

    def arguments(self) -> dict[str, Any]:
        """Return what transformers' ``generate`` takes; a temperature of 0 is greedy."""
        if not self.do_sample or self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": float(self.temperature), "top_p": float(self.top_p), "top_k": 0}


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def check_question(messages: Any) -> list[Mapping[str, Any]]:
    """Return ``messages`` if a model can be asked for the next turn, else raise ``DataError``.

    That is: an optional system message, then user and assistant in turn, the user last, every content a text.
    """
    if not isinstance(messages, list) or not messages:
        raise DataError("A conversation is a non-empty list of messages.", fix='send [{"role": …, "content": …}]')
    expected: tuple[str, ...] = ("system", "user")
    for number, message in enumerate(messages, start=1):
        where = f"message {number}"
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise DataError("A message needs a role and a content, both text.", where=where, fix="add what is missing")
        role = message.get("role")
        if role not in _ROLES:
            raise DataError("Unknown role.", where=where, fix=f"use one of: {', '.join(_ROLES)}")
        if role not in expected:
            raise DataError(f"The role is {role}.", where=where, fix=f"here comes {' or '.join(expected)}")
        expected = ("assistant",) if role == "user" else ("user",)
    if messages[-1]["role"] != "user":
        raise DataError("The last message is not the user's.", where=f"message {len(messages)}", fix="end with a user")
    return messages


class Scorer:
    """A loaded model that answers conversations."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(process.threads())
        parts = MlflowModel.open(folder)
        config = folder / FILE_NAME
        self._system = FinetuneConfig.load(folder).system_role_supported if config.is_file() else True
        self._tokenizer = AutoTokenizer.from_pretrained(parts.tokenizer, padding_side="left", trust_remote_code=False)
        # An uploaded model is data: no code of its own, no pickle.
        self._model = AutoModelForCausalLM.from_pretrained(
            parts.weights, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        ).eval()

    def answer(self, conversations: Any, parameters: Any) -> list[str]:
        """Return the next turn of every conversation."""
        sampling = Sampling.read(parameters)
        if not isinstance(conversations, list) or not conversations:
            raise ParameterError("conversations is not a non-empty list.", fix="send a list of conversations")
        prompts = []
        for messages in map(check_question, conversations):
            asked = list(messages if self._system else without_system(messages))
            prompts.append(self._tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
        starts = range(0, len(prompts), _BATCH)
        return [text for start in starts for text in self._generate(prompts[start : start + _BATCH], sampling)]

    def _generate(self, prompts: list[str], sampling: Sampling) -> list[str]:
        inputs = self._tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        length = inputs["input_ids"].shape[1]
        room = self._model.config.max_position_embeddings - length
        if room < 1:
            what = f"The conversation has {length} tokens, and the model takes {length + room}."
            raise ParameterError(what, where="conversations", fix="send less")
        output = self._model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=min(sampling.max_new_tokens, room),
            **sampling.arguments(),
        )
        texts = self._tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
        return [text.strip() for text in texts]


def reply(scorer: Scorer, line: str) -> dict[str, Any]:
    """Return the answer to one line of a request, or what is wrong with it."""
    try:
        request = json.loads(line)
    except ValueError:
        return {"id": None, "error": {"message": "The request is not JSON."}}
    if not isinstance(request, dict):
        return {"id": None, "error": {"message": "The request is not an object."}}
    identity = request.get("id")
    started = time.perf_counter()
    try:
        parameters = request.get("parameters")
        texts = scorer.answer(request.get("conversations"), {} if parameters is None else parameters)
    except PhiftError as error:
        _log.warning("request %s refused: %s", identity, error.what)
        return {"id": identity, "error": {"message": process.failure(error)}}
    except Exception as error:  # noqa: BLE001 - one bad request must not end the process; the reply says what failed
        _log.exception("request %s failed", identity)
        return {"id": identity, "error": {"message": f"The model failed: {type(error).__name__}."}}
    _log.info("request %s: %d conversations, %.0f ms", identity, len(texts), 1000 * (time.perf_counter() - started))
    return {"id": identity, "texts": texts}


def main(folder: Path, requests: TextIO, replies: TextIO) -> int:
    """Answer every request until there are no more.

    - **replies**: sends each line at its end.
    """
    try:
        scorer = Scorer(folder)
        # The first call costs more than any after it; let no request pay for that.
        scorer.answer([[{"role": "user", "content": "?"}]], {"max_new_tokens": 1})
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reads it as the first line
        _log.exception("the model cannot be loaded")
        replies.write(json.dumps({"error": {"message": process.failure(error)}}) + "\n")
        return 1
    replies.write(json.dumps({"ready": True}) + "\n")
    for line in requests:
        replies.write(json.dumps(reply(scorer, line)) + "\n")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    process.prepare()
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # stdin is a TextIOWrapper here
    sys.exit(main(Path(sys.argv[1]), sys.stdin, process.own_output()))
