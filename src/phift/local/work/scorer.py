"""A model behind stdin and stdout: ``python -m phift.local.work.scorer MODEL_FOLDER``.

One JSON object a line. The first line out is ``{"ready": true}``, or ``{"error": {"message": …}}`` and exit code 1.
A request is ``{"id": …, "conversations": [[{"role", "content"}, …], …], "parameters": {…}}``; the reply
``{"id": …, "texts": […]}`` or ``{"id": …, "error": {"message": …}}``. End of stdin ends the process. Greedy unless
``do_sample`` is true. What people write is neither logged nor kept.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
from msgspec import Meta

from phift.component.finetune_config import FILE_NAME, FinetuneConfig
from phift.component.preprocessing import without_system
from phift.errors import DataError, ParameterError, PhiftError
from phift.local.work.engine import process
from phift.local.work.engine.models import MlflowModel

_log = logging.getLogger(__name__)

_BATCH = 32  # conversations generated at once; bounds memory, not the request
_MODEL = "the deployment's model"


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the next token is chosen, and how many there may be."""

    max_new_tokens: Annotated[int, Meta(ge=1)] = 256
    do_sample: bool = False
    temperature: Annotated[float, Meta(ge=0, le=sys.float_info.max)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0

    @classmethod
    def read(cls, parameters: Any) -> Sampling:
        """Check what a request says."""
        try:
            return msgspec.convert(parameters, cls)
        except msgspec.ValidationError as error:
            fix = f"use {', '.join(cls.__struct_fields__)}, as it says: {error}"
            raise ParameterError("The model does not take these.", where="parameters", fix=fix) from error


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
        if role not in expected:
            what = f"The role is {role}." if role in ("system", "user", "assistant") else "Unknown role."
            raise DataError(what, where=where, fix=f"here comes {' or '.join(expected)}")
        expected = ("assistant",) if role == "user" else ("user",)
    if messages[-1]["role"] != "user":
        raise DataError("The last message is not the user's.", where=f"message {len(messages)}", fix="end with a user")
    return messages


class Scorer:
    """A loaded model that answers conversations."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(process.threads())
        parts = MlflowModel.open(folder)
        self._system = not (folder / FILE_NAME).is_file() or FinetuneConfig.load(folder).system_role_supported
        (self._tokenizer,) = process.limited(_tokenizers(parts.tokenizer), _MODEL)
        # An uploaded model is data: no code of its own, no pickle.
        self._model = AutoModelForCausalLM.from_pretrained(
            parts.weights, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        ).eval()

    def answer(self, conversations: Any, parameters: Any) -> list[str]:
        """Return the next turn of every conversation."""
        sampling = Sampling.read(parameters)
        if not isinstance(conversations, list) or not conversations:
            raise ParameterError("conversations is not a non-empty list.", fix="send a list of conversations")
        batches = list(process.limited(self._batches(conversations), _MODEL))
        how: dict[str, Any] = {"do_sample": False}
        if sampling.do_sample and sampling.temperature > 0:  # a temperature of 0 is greedy
            how = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        texts: list[str] = []
        for inputs in batches:
            length = inputs["input_ids"].shape[1]
            room = self._model.config.max_position_embeddings - length
            if room < 1:
                what = f"The conversation has {length} tokens, and the model takes {length + room}."
                raise ParameterError(what, where="conversations", fix="send less")
            output = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=min(sampling.max_new_tokens, room),
                **how,
            )
            texts += self._tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _batches(self, conversations: list[Any]) -> Iterator[Any]:
        questions = [
            messages if self._system else without_system(messages) for messages in map(check_question, conversations)
        ]
        for start in range(0, len(questions), _BATCH):
            prompts = [
                self._tokenizer.apply_chat_template(list(asked), tokenize=False, add_generation_prompt=True)
                for asked in questions[start : start + _BATCH]
            ]
            yield self._tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)


def _tokenizers(folder: Path) -> Iterator[Any]:
    from transformers import AutoTokenizer

    yield AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)


def reply(scorer: Scorer, line: str) -> dict[str, Any]:
    """Return the answer to one line of a request, or what is wrong with it."""
    try:
        request = json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        return {"id": None, "error": {"message": "The request is not a JSON object."}}
    identity, started = request.get("id"), time.perf_counter()
    try:
        texts = scorer.answer(request.get("conversations"), request.get("parameters") or {})
    except PhiftError as error:
        _log.warning("request %s refused: %s", identity, error.what)
        return {"id": identity, "error": {"message": process.failure(error)}}
    except Exception as error:  # noqa: BLE001 - one bad request must not end the process; the reply says what failed
        _log.exception("request %s failed", identity)
        return {"id": identity, "error": {"message": f"The model failed: {type(error).__name__}."}}
    _log.info("request %s: %d conversations, %.0f ms", identity, len(texts), 1000 * (time.perf_counter() - started))
    return {"id": identity, "texts": texts}


def main(folder: Path, requests: TextIO, replies: TextIO) -> int:
    """Answer every request until there are no more, each in a line that is sent at its end."""
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
