"""A model behind stdin and stdout: ``python -m phift.local.work.scorer MODEL_FOLDER``.

One JSON object a line. The first line out is ``{"ready": true}``, or ``{"error": {"message": …}}`` and exit code 1.
A request is ``{"id": …, "conversations": [[{"role", "content"}, …], …], "parameters": {…}}``; with ``stop``, ``seed``
and ``tools`` as OpenAI's API has them, where they are asked for. The reply is ``{"id", "texts", "finish", "usage"}``,
each a list with an element a conversation, or ``{"id", "error": {"message", "param", "status"}}``; where a request with
one conversation asks for a ``stream``, ``{"id", "piece": "text"}`` come before it, as soon as they are made.
``{"id": …, "cancel": true}`` takes a request back. End of stdin ends the process once all is answered. Greedy unless
``do_sample`` is true. What people write is neither logged nor kept.

What waits while the model works is answered together afterwards, where it is to be sampled in the same way.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO
from weakref import WeakValueDictionary

from phift.component.finetune_config import FILE_NAME, FinetuneConfig
from phift.component.machine import SMALL
from phift.component.preprocessing import without_system
from phift.errors import ParameterError, PhiftError
from phift.local.question import Sampling, check_question
from phift.local.work.engine import process
from phift.local.work.engine.models import MlflowModel

_log = logging.getLogger(__name__)

_BATCH = 64  # conversations generated at once
_BATCH_TOKENS = 64 * 512  # of their prompts, with the padding; both bound memory, not the request
_MODEL = "the deployment's model"
_HALF = "\ufffd"  # what a character is decoded to whose tokens are not all there


class Asked:
    """A request until it is answered, or taken back.

    - **say**: sends what is said to whoever asked.
    - **wanted**: whether somebody waits for the answer still.
    """

    def __init__(self, request: Mapping[str, Any], say: Callable[[dict[str, Any]], object]) -> None:
        self.request, self._say = request, say
        self.wanted = True
        self.turns: list[Turn] = []
        self._started = time.perf_counter()

    def read(self) -> Sampling:
        """Check how it is to be sampled, for `Turn` too; raises `phift.errors.ParameterError`."""
        sampling = Sampling.read(self.request.get("parameters") or {})
        self.how = sampling.how
        self.seed: int | None = self.request.get("seed")
        self.stop: Sequence[str] = self.request.get("stop") or ()
        self.streams = bool(self.request.get("stream"))
        return sampling

    def piece(self, text: str) -> None:
        """Send a piece of the answer."""
        if self.wanted:
            self._say({"id": self.request.get("id"), "piece": text})

    def look(self) -> None:
        """Send the answer once all of its turns are made."""
        if not self.wanted or not all(turn.finish for turn in self.turns):
            return
        identity, milliseconds = self.request.get("id"), 1000 * (time.perf_counter() - self._started)
        _log.info("request %s: %d conversations, %.0f ms", identity, len(self.turns), milliseconds)
        usage = [{"prompt": len(turn.prompt), "completion": len(turn.tokens)} for turn in self.turns]
        finish = [turn.finish for turn in self.turns]
        self._say({"id": identity, "texts": [turn.text for turn in self.turns], "finish": finish, "usage": usage})
        self.wanted, self.turns = False, []  # which know this, and would be garbage with it

    def fail(self, error: Exception) -> None:
        """Send what is wrong, once."""
        if not self.wanted:
            return
        self.wanted, identity = False, self.request.get("id")
        if isinstance(error, PhiftError):
            _log.warning("request %s refused: %s", identity, error.what)
            told: dict[str, Any] = {
                "message": process.failure(error),
                **({"param": error.where} if error.where == "tools" else {}),
            }
        else:
            kind = type(error).__name__  # what else it says may quote the user
            _log.error("request %s failed: %s", identity, kind)
            told = {"message": f"The model failed: {kind}.", "status": 500}
        self._say({"id": identity, "error": told})


@dataclass(eq=False)
class Turn:
    """The next turn of one conversation, while the model makes it.

    - **prompt**: the tokens before it. **most**: how many tokens it may have.
    """

    asked: Asked
    prompt: list[int]
    most: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str = ""

    def take(self, token: int, ends: frozenset[int], decode: Callable[[list[int]], str]) -> None:
        """Take the next token; `finish` then tells whether it was the last one, and why."""
        self.tokens.append(token)
        if not self.asked.wanted:
            self.finish = "cancelled"
        elif token in ends:
            self.finish = "stop"
        elif len(self.tokens) >= self.most:
            self.finish = "length"
        if self.finish or self.asked.streams or self.asked.stop:
            self._read(decode(self.tokens))
        if self.finish:
            self.asked.look()

    def _read(self, text: str) -> None:
        """Find out how much of the text is certain: what may become a text to stop at is held back."""
        stops = self.asked.stop
        if found := [at for stop in stops if (at := text.find(stop)) >= 0]:
            self.finish, text = "stop", text[: min(found)]
        elif not self.finish:
            text = text.rstrip(_HALF)
            text = text[: max(0, len(text) - max((len(stop) - 1 for stop in stops), default=0))]
        if len(text) > len(self.text):
            if self.asked.streams:
                self.asked.piece(text[len(self.text) :])
            self.text = text


class Scorer:
    """A loaded model that answers conversations."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        parts = MlflowModel.open(folder)
        self._system = not (folder / FILE_NAME).is_file() or FinetuneConfig.load(folder).system_role_supported
        (self._tokenizer,) = process.limited(_tokenizers(parts.tokenizer), _MODEL)
        # An uploaded model is data: no code of its own, no pickle.
        self._model = (
            AutoModelForCausalLM.from_pretrained(
                parts.weights, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
            )
            .eval()
            .to("cuda" if torch.cuda.is_available() else "cpu")
        )
        # A step of a small model is over before a second thread has begun: with one alone, tokens took a tenth less on
        # an idle machine, and half on a busy one (2 cores, the stand-in, 2026-11-30).
        torch.set_num_threads(process.threads() if self._model.num_parameters() > SMALL else 1)
        ends = self._model.generation_config.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))
        config = self._model.config
        self._room = config.max_position_embeddings
        # Beyond it, a model whose positions are scaled reads all of a batch in another way.
        self.room_together = getattr(config, "original_max_position_embeddings", None) or self._room

    def answer(self, conversations: Any, parameters: Any) -> list[str]:
        """Return the next turn of every conversation."""
        said: list[dict[str, Any]] = []
        asked = Asked({"conversations": conversations, "parameters": parameters}, said.append)
        waiting = deque(self.turns(asked))
        while waiting:
            self.make(together(waiting, self.room_together))
        return list(said[0]["texts"])

    def turns(self, asked: Asked) -> list[Turn]:
        """Return what a request asks the model to make; raises `phift.errors.PhiftError` for what it cannot."""
        sampling, conversations, tools = asked.read(), asked.request.get("conversations"), asked.request.get("tools")
        if not isinstance(conversations, list) or not conversations:
            raise ParameterError("conversations is not a non-empty list.", fix="send a list of conversations")
        if tools and not re.search(r"\btools\b", self._tokenizer.get_chat_template(None, tools)):
            raise ParameterError("The model's chat template takes no tools.", where="tools", fix="leave them out")
        for prompt in process.limited(self._prompts(conversations, tools), _MODEL):
            room = self._room - len(prompt)
            if room < 1:
                what = f"The conversation has {len(prompt)} tokens, and the model takes {self._room}."
                raise ParameterError(what, where="conversations", fix="send less")
            asked.turns.append(Turn(asked, prompt, min(sampling.max_new_tokens, room)))
        return asked.turns

    def _prompts(self, conversations: list[Any], tools: Any) -> Iterator[list[int]]:
        for messages in conversations:
            # A conversation with tools has roles of its own, which the template knows.
            asked = messages if tools else check_question(messages)
            told = asked if self._system else without_system(asked)
            prompt = self._tokenizer.apply_chat_template(
                list(told), tools=tools or None, tokenize=False, add_generation_prompt=True
            )
            yield self._tokenizer(prompt, add_special_tokens=False)["input_ids"]

    def make(self, batch: Sequence[Turn]) -> None:
        """Make turns that are sampled in the same way, and send the answer to each request as soon as it is whole."""
        import torch

        inputs = self._tokenizer.pad({"input_ids": [turn.prompt for turn in batch]}, return_tensors="pt")
        inputs = inputs.to(self._model.device)
        if batch[0].asked.seed is not None:
            torch.manual_seed(batch[0].asked.seed)

        def take(tokens: Any, _scores: Any, **_more: Any) -> Any:
            """Give each turn its next token, as transformers asks after each one what is to be stopped."""
            for turn, token in zip(batch, tokens[:, -1].tolist(), strict=True):
                if not turn.finish:
                    turn.take(token, self._ends, self._decode)
            return torch.tensor([bool(turn.finish) for turn in batch], device=tokens.device)

        with torch.inference_mode():  # an eighth faster than without gradients only
            self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max(turn.most for turn in batch),
                stopping_criteria=[take],
                **batch[0].asked.how,
            )

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def together(waiting: deque[Turn], room: int) -> list[Turn]:
    """Take out of the queue the first turn, and those that can be made with it: all but those with a seed."""
    first = waiting.popleft()
    batch, longest, most = [first], len(first.prompt), first.most
    for turn in tuple(waiting) if first.asked.seed is None else ():
        new = max(longest, len(turn.prompt)), max(most, turn.most)
        fits = sum(new) <= room and len(batch) < _BATCH and (len(batch) + 1) * new[0] <= _BATCH_TOKENS
        if fits and turn.asked.seed is None and turn.asked.how == first.asked.how:
            waiting.remove(turn)
            batch.append(turn)
            longest, most = new
    return batch


def _tokenizers(folder: Path) -> Iterator[Any]:
    from transformers import AutoTokenizer

    yield AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)


def _listen(lines: Iterable[str], say: Callable[[dict[str, Any]], object], arrived: SimpleQueue[Asked | None]) -> None:
    """Read what is asked, also while the model works; None at its end."""
    known: WeakValueDictionary[Any, Asked] = WeakValueDictionary()
    for line in lines:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            request = {}
        if request.get("cancel"):
            if found := known.get(request.get("id")):
                found.wanted = False
        else:
            asked = known[request.get("id")] = Asked(request, say)
            arrived.put(asked)
    arrived.put(None)


def main(folder: Path, requests: TextIO, replies: TextIO) -> int:
    """Answer every request until there are no more, each in a line that is sent at its end."""

    def say(what: dict[str, Any]) -> None:
        replies.write(json.dumps(what) + "\n")

    try:
        scorer = Scorer(folder)
        # The first call costs more than any after it; let no request pay for that.
        scorer.answer([[{"role": "user", "content": "?"}]], {"max_new_tokens": 1})
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reads it as the first line
        _log.exception("the model cannot be loaded")
        say({"error": {"message": process.failure(error)}})
        return 1
    say({"ready": True})
    arrived: SimpleQueue[Asked | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests, say, arrived), daemon=True).start()
    waiting: deque[Turn] = deque()
    more = True
    while more or waiting:
        while more and (not waiting or not arrived.empty()):
            asked = arrived.get()
            more = asked is not None
            if asked is not None:
                waiting += _begin(scorer, asked)
        waiting = deque(turn for turn in waiting if turn.asked.wanted)
        if waiting:
            batch = together(waiting, scorer.room_together)
            try:
                scorer.make(batch)
            except Exception as error:  # noqa: BLE001 - it must not end the process; the replies say what failed
                for turn in batch:
                    turn.asked.fail(error)
    return 0


def _begin(scorer: Scorer, asked: Asked) -> list[Turn]:
    try:
        return scorer.turns(asked)
    except Exception as error:  # noqa: BLE001 - one bad request must not end the process; the reply says what failed
        asked.fail(error)
        return []


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    process.prepare()
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # stdin is a TextIOWrapper here
    sys.exit(main(Path(sys.argv[1]), sys.stdin, process.own_output()))
