"""Chat completions: OpenAI's API, as vLLM's server answers it, whole and streamed.

On Azure a deployment has these routes where its container serves them, as that of the foundation models does
(azureml-assets, foundation-model-serve, 2026-07-23); an MLflow deployment has none. Here each has them. The forms of
answers, chunks and errors are those of vllm-project/vllm 006c49d4, vllm/entrypoints/openai/chat_completion. What the
container refuses comes with the endpoint's own status 424, as all that is no 200 (Microsoft Learn, "Troubleshoot online
endpoints", read 2026-11); that its body is handed on as it is, is unverified on Azure.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from phift.local.pending import ScorerFailed, ScorerTimeout
from phift.local.services import scoring
from phift.local.services.route import Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire import Call, Reply, WireError

_NEUTRAL: Json = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "response_format": {"type": "text"},
    "parallel_tool_calls": True,
}
"""What a client may send although it is not supported, as it asks for nothing."""


_DONE = b"data: [DONE]\n\n"


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool = False


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """What OpenAI's API names, and is done here; a limit that OpenAI's API has is written with the field."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    # Which model is not looked at: an endpoint has one, and Azure's own examples send any name.
    model: str = ""
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    stop: Annotated[str, Meta(min_length=1)] | list[Annotated[str, Meta(min_length=1)]] = msgspec.field(
        default_factory=list
    )
    stream: bool = False
    stream_options: _StreamOptions = msgspec.field(default_factory=_StreamOptions)
    n: Literal[1] = 1
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    tool_choice: Literal["auto", "none"] = "auto"

    def request(self) -> Json:
        """Return what the scorer is asked for; temperature and top_p are told where there is to be chance."""
        parameters = {
            "max_new_tokens": self.max_completion_tokens or self.max_tokens,
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        return {
            "conversations": [[_message(number, message) for number, message in enumerate(self.messages)]],
            "parameters": parameters,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop,
            "seed": self.seed,
            "tools": self.tools if self.tool_choice == "auto" else [],
            "stream": self.stream,
        }


def _refusal(message: str, name: str | None) -> WireError:
    """Return why the model's server refuses a request, with the name of what it does not take."""
    return WireError(400, "BadRequestError", message, more={"param": name})


def _read(call: Call) -> _Asked:
    body = call.json()
    sent = {name: value for name, value in body.items() if value is not None and _NEUTRAL.get(name) != value}
    if unknown := sorted(set(sent) - set(_Asked.__struct_fields__)):
        raise _refusal(f"Unsupported parameters: {', '.join(unknown)}", unknown[0])
    try:
        return msgspec.convert(sent, _Asked)
    except msgspec.ValidationError as error:
        said = str(error)
        found = re.search(r"\$\.(\w+)", said) or re.search(r"required field `(\w+)`", said)
        raise _refusal(said, found[1] if found else None) from error


def _message(number: int, message: Json) -> Json:
    """Return a message whose content is a text: parts that are texts are joined as vLLM joins them, in lines."""
    name = f"messages[{number}]"
    if not isinstance(message.get("role"), str):
        raise _refusal("A message needs a role, a text.", f"{name}.role")
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise _refusal("The model takes texts only, and no other parts of a message.", f"{name}.content")
        content = "\n".join(part["text"] for part in content)
    if not (isinstance(content, str) or (content is None and message.get("tool_calls"))):
        raise _refusal("A message needs a content, a text.", f"{name}.content")
    return {**message, "content": content}


def _complete(site: Site, call: Call) -> Reply:
    request: scoring.Request
    try:
        asked = _read(call)
        request = asked.request()
    except WireError as error:  # which the deployment's server says, in its turn
        asked, request = _Asked([{}]), error
    try:
        with ExitStack() as held:
            answering = held.enter_context(scoring.answering(site, call, request))
            answer = _Answer(answering, int(site.clock.now()), asked.stream_options.include_usage)
            headers = scoring.answered_by(answering.deployment)
            if not asked.stream:
                return Reply(answer.whole(), 200, headers)
            stream = _Events(answer, held.pop_all())
            return Reply(None, 200, headers, "text/event-stream; charset=utf-8", stream, stream.close)
    except WireError as error:
        status = error.headers.get("ms-azureml-model-error-statuscode")
        if status is None:  # the endpoint's own answer
            raise
        return Reply(_error(int(status), error.message, error.more.get("param")), error.status, error.headers)


def _error(status: int, message: str, name: str | None = None) -> Json:
    kind = {400: "BadRequestError", 408: "TimeoutError"}.get(status, "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": name, "code": status}}


class _Answer:
    """How an answer is written.

    - **counted**: whether a stream ends with what it has taken.
    - **broken**: the error that ended a stream.
    """

    def __init__(self, answering: scoring.Answering, now: int, counted: bool) -> None:
        model, self.first, self.pending = _model(answering.deployment), answering.first, answering.pending
        self._common = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": now, "model": model}
        self._counted = counted
        self.broken: WireError | None = None

    def whole(self) -> Json:
        """Return an answer in one piece."""
        message = {"role": "assistant", "content": self.first["texts"][0]}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.first["finish"][0]}
        return {**self._common, "object": "chat.completion", "choices": [choice], "usage": _usage(self.first)}

    def events(self) -> Iterator[bytes]:
        """Yield the chunks of a stream, each as soon as the model has made it; an error ends one that has begun."""
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            for said in chain([self.first], self.pending):
                if "piece" in said:
                    yield self._chunk({"content": said["piece"]})
                elif "error" in said:
                    yield self._break(500, str(said["error"].get("message")))
                else:
                    yield self._chunk({}, said["finish"][0])
                    if self._counted:
                        chunk = {**self._common, "object": "chat.completion.chunk", "choices": []}
                        yield _event({**chunk, "usage": _usage(said)})
        except ScorerTimeout:
            yield self._break(408, scoring.TOO_LATE)
        except ScorerFailed as error:
            yield self._break(500, str(error))
        yield _DONE

    def _break(self, status: int, message: str) -> bytes:
        self.broken = WireError(status, "Broken", message)
        return _event(_error(status, message))

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._common, "object": "chat.completion.chunk", "choices": [choice]}
        return _event({**chunk, "usage": None} if self._counted else chunk)


def _event(said: Json) -> bytes:
    return f"data: {json.dumps(said)}\n\n".encode()


def _usage(reply: Json) -> Json:
    prompt, completion = reply["usage"][0]["prompt"], reply["usage"][0]["completion"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _model(deployment: Document) -> str:
    """Return the name that a deployment's model has: as a model, or that of the job that made it."""
    reference = str(deployment.body["properties"]["model"]).removeprefix("azureml:")
    found = re.search(r"(?:^|/(?:models|jobs)/)([^/:]+)", reference)
    return found[1] if found else reference


class _Events(Iterator[bytes]):
    """A stream, and what is held for it until it is closed, which may be done at any time and by any thread."""

    def __init__(self, answer: _Answer, held: ExitStack) -> None:
        self._answer, self._held = answer, held
        self._events = answer.events()
        self._closing = threading.Lock()

    def __next__(self) -> bytes:
        try:
            event = next(self._events)
        except BaseException:
            self.close()
            raise
        if event == _DONE:  # whoever reads it may ask again at once
            self.close()
        return event

    def close(self) -> None:
        """Let the model stop where nobody reads on, and count the answer; twice does no harm."""
        if self._closing.acquire(blocking=False):
            self._answer.pending.close()
            broken = self._answer.broken
            self._held.__exit__(type(broken) if broken else None, broken, None)


def _models(site: Site, call: Call) -> Reply:
    deployment = scoring.chosen(site, call)
    model = {"id": _model(deployment), "object": "model", "created": int(deployment.created), "owned_by": "vllm"}
    return Reply({"object": "list", "data": [model]}, 200, scoring.answered_by(deployment))


_AT = "/inference/{endpoint}"
ROUTES = [
    Route(f"POST {_AT}/v1/chat/completions", _complete, scoring.authorize),
    Route(f"POST {_AT}/chat/completions", _complete, scoring.authorize),
    Route(f"GET {_AT}/v1/models", _models, scoring.authorize),
]
