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
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from phift.component.finetune_config import FILE_NAME, FinetuneConfig
from phift.component.preprocessing import without_system
from phift.errors import ParameterError, PhiftError
from phift.local.work.engine import environment, failure
from phift.local.work.engine.chat import check_question
from phift.local.work.engine.mlflow_model import MlflowModel

_log = logging.getLogger(__name__)

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
        _require(_is_number(sampling.max_new_tokens, int) and sampling.max_new_tokens >= 1, "max_new_tokens", "from 1")
        _require(isinstance(sampling.do_sample, bool), "do_sample", "true or false")
        _require(_is_number(sampling.temperature, int, float) and sampling.temperature >= 0, "temperature", "from 0")
        _require(_is_number(sampling.top_p, int, float) and 0 < sampling.top_p <= 1, "top_p", "above 0 and up to 1")
        return sampling

    def arguments(self) -> dict[str, Any]:
        """Return what transformers' ``generate`` takes; a temperature of 0 is greedy."""
        if not self.do_sample or self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": float(self.temperature), "top_p": float(self.top_p), "top_k": 0}


def _is_number(value: Any, *kinds: type[int] | type[float]) -> bool:
    return not isinstance(value, bool) and isinstance(value, kinds) and math.isfinite(value)


def _require(good: bool, name: str, allowed: str) -> None:
    if not good:
        raise ParameterError(f"{name} is out of range.", where=name, fix=f"send {allowed}")


class Scorer:
    """A loaded model that answers conversations."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(environment.threads())
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
        prompts = [self._prompt(check_question(messages)) for messages in conversations]
        texts: list[str] = []
        for start in range(0, len(prompts), _BATCH):
            texts += self._generate(prompts[start : start + _BATCH], sampling)
        return texts

    def _prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        if not self._system:
            messages = without_system(messages)
        return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    def _generate(self, prompts: Sequence[str], sampling: Sampling) -> list[str]:
        inputs = self._tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False)
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
        return {"id": identity, "error": {"message": failure.one_line(error)}}
    except Exception as error:  # noqa: BLE001 - one bad request must not end the process; the reply says what failed
        _log.exception("request %s failed", identity)
        return {"id": identity, "error": {"message": f"The model failed: {type(error).__name__}."}}
    _log.info("request %s: %d conversations, %.0f ms", identity, len(texts), 1000 * (time.perf_counter() - started))
    return {"id": identity, "texts": texts}


def main(folder: Path, requests: TextIO, replies: TextIO) -> int:
    """Answer every request until there are no more."""

    def send(message: Mapping[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        scorer = Scorer(folder)
        # The first call costs more than any after it; let no request pay for that.
        scorer.answer([[{"role": "user", "content": "?"}]], {"max_new_tokens": 1})
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reads it as the first line
        _log.exception("the model cannot be loaded")
        send({"error": {"message": failure.one_line(error)}})
        return 1
    send({"ready": True})
    for line in requests:
        send(reply(scorer, line))
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    environment.prepare()
    own_output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log, not between the replies
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # stdin is a TextIOWrapper here
    sys.exit(main(Path(sys.argv[1]), sys.stdin, own_output))
