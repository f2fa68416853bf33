"""What a model is asked: a conversation and how to answer it, checked before anything is sent."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Self

from phift.errors import DataError, ParameterError, in_a_line
from phift.serving.chat import Message, Reply, text_of

# Who speaks after whom: MLflow's server, the strictest, asserts it, and a model's template does too
# (azureml-evaluate-mlflow 0.0.91, ChatCompletionPredictor). That server knows no tools; a model behind it calls them in
# its text, if at all.
_NEXT: Mapping[str, tuple[str, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool call": ("tool",),
    "tool": ("tool", "assistant"),
}
_ROLES = ("system", "user", "assistant", "tool")


def check_messages(messages: str | Sequence[Message]) -> list[dict[str, Any]]:
    """Return a conversation that a model can be asked to go on with, every content a text; a text alone is a question.

    Raises `phift.errors.DataError` with the number of the message that is wrong, and never with what it says.
    """
    if isinstance(messages, str) and not isinstance(messages, Reply):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        what = f"A conversation is a list of messages, and not a {type(messages).__name__}."
        raise DataError(what, where="messages", fix='send [{"role": "user", "content": …}], or the question as a text')
    if not messages:
        raise DataError("There is no message, and so none that is the user's.", where="messages", fix="ask something")
    turns, before = [], ""
    for number, message in enumerate(messages, start=1):
        turn = _check_turn(message, f"message {number}")
        role = turn["role"]
        if role not in _NEXT[before]:
            raise _out_of_order(role, before, f"message {number}")
        before = "tool call" if "tool_calls" in turn else role
        turns.append(turn)
    if before not in ("user", "tool"):
        what = "The last message is not the user's, nor a tool's answer, so there is nothing to answer."
        raise DataError(what, where=f"message {len(turns)}", fix="end the conversation with role `user` or `tool`")
    return turns


def _check_turn(message: Any, where: str) -> dict[str, Any]:
    if isinstance(message, Reply):
        what, fix = "The message is a reply and not a turn.", "append its `.message` to the conversation"
        raise DataError(what, where=where, fix=fix)
    if not isinstance(message, Mapping):
        what = f"The message is no mapping but a {type(message).__name__}."
        raise DataError(what, where=where, fix='write {"role": …, "content": …}')
    turn, role = dict(message), message.get("role")
    if role not in _ROLES:
        what = "The message has no role." if role is None else "Nobody known speaks."
        raise DataError(what, where=where, fix=f"its role is one of {', '.join(_ROLES)}")
    content, calls = turn.get("content"), turn.pop("tool_calls", None)
    if role == "assistant" and isinstance(calls, list):
        content = "" if content is None else content
        turn |= {"tool_calls": calls} if calls else {}
    if content is None:
        fix = "give it a content, a text" + (", or `tool_calls`" if role == "assistant" else "")
        raise DataError("The message has no content.", where=where, fix=fix)
    if (text := text_of(content)) is None:
        what = f"The message's content is not a text but a {type(content).__name__}, or has parts that are none."
        raise DataError(what, where=where, fix="send text: these models neither see nor hear")
    return {**turn, "content": text}


def _out_of_order(role: str, before: str, where: str) -> DataError:
    fix = f"after {f'the {before}' if before else 'nothing'} comes {' or '.join(_NEXT[before])}"
    if role == before:
        fix += "; join the two messages into one"
    elif role == "system":
        fix = "put what the system says into one message, the first"
    elif role == "tool":
        fix += ", and a tool answers an assistant's message with `tool_calls`"
    return DataError(f"Here speaks the {role}, out of turn.", where=where, fix=fix)


def _number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_finite = is_number and abs(value) <= sys.float_info.max  # which an integer beyond it is not
        return is_finite and (low < value if above else low <= value) and value <= high

    return fits


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


@dataclass(frozen=True)
class _Parameter:
    """A setting that a server knows.

    - **takes**: its values, in words.
    - **by**: who knows it: ``all``, ``mlflow``'s server, the ``container`` with vLLM, or its ``openai`` route alone.
    - **on_vllm**: whether vLLM's OpenAI route takes it, where it is asked for it.
    """

    takes: str
    fits: Callable[[Any], bool]
    by: str = "all"
    on_vllm: bool = True


_POSITIVE, _COUNT, _YES_NO = "a number above 0", "a whole number from 1 on", "True or False"
# The container's, and what it does with others: foundation-model-serve, api_server.py (azureml-assets, 2026-07-23,
# read 2026-11-30). MLflow's server hands everything to transformers' pipeline (azureml-evaluate-mlflow 0.0.91), whose
# `generate` refuses what it does not know. vLLM's OpenAI route takes any field (vllm-project/vllm 002032ee,
# ``ChatCompletionRequest``, read 2026-11-30). What is known to none of them is a mistake.
PARAMETERS: Mapping[str, _Parameter] = {
    "max_new_tokens": _Parameter(_COUNT, _whole(1)),
    "do_sample": _Parameter(_YES_NO, _is(bool)),
    "temperature": _Parameter(_POSITIVE, _number(0, above=True)),
    "top_p": _Parameter("a number above 0, at most 1", _number(0, 1, above=True)),
    "top_k": _Parameter(_COUNT, _whole(1)),
    "length_penalty": _Parameter("a number", _number(-math.inf)),
    "skip_special_tokens": _Parameter(_YES_NO, _is(bool)),
    "repetition_penalty": _Parameter(_POSITIVE, _number(0, above=True), "mlflow"),
    "min_new_tokens": _Parameter(_COUNT, _whole(1), "mlflow", on_vllm=False),
    "min_p": _Parameter("a number from 0 to 1", _number(0, 1), "mlflow"),
    "num_beams": _Parameter(_COUNT, _whole(1), "mlflow", on_vllm=False),
    "no_repeat_ngram_size": _Parameter(_COUNT, _whole(1), "mlflow", on_vllm=False),
    "presence_penalty": _Parameter("a number from -2 to 2", _number(-2, 2), "container"),
    "frequency_penalty": _Parameter("a number from -2 to 2", _number(-2, 2), "container"),
    "stop": _Parameter("a text, or a list of texts", _is(str, list, tuple), "container"),
    "stop_token_ids": _Parameter("a list of whole numbers", _is(list, tuple), "container"),
    "ignore_eos": _Parameter(_YES_NO, _is(bool), "container"),
    "seed": _Parameter("a whole number", _whole(-(2**63)), "openai"),
    "response_format": _Parameter("a mapping", _is(dict), "openai"),
    "tool_choice": _Parameter("a text or a mapping", _is(str, dict), "openai"),
}
_OTHER_NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "max_gen_len": "max_new_tokens",
    "sample": "do_sample",
    "stop_strings": "stop",
    "stop_sequences": "stop",
}
# Without sampling a setting of it has no effect, unless it says the same.
_OF_SAMPLING = {"temperature": 0, "top_p": 1, "top_k": None}


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters to send, those without the ones that are None or say what holds anyway.

    Raises `phift.errors.ParameterError` for one that no server knows, with the one that may be meant, for a value that
    is out of its range, and for one that has no effect without ``do_sample=True``.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen.pop("stream", False):
        fix = "leave it out: `stream(messages)` yields the pieces as they come, and needs no word more"
        raise ParameterError("Whether to stream is no parameter.", where="parameter stream", fix=fix)
    for name in chosen:
        if name not in PARAMETERS:
            raise _unknown(name)
    samples = chosen.get("do_sample", False)
    if samples and chosen.get("temperature") == 0:
        fix = "leave do_sample and temperature out; that is greedy already"
        raise ParameterError("A temperature of 0 samples nothing.", where="parameter temperature", fix=fix)
    for name, neutral in _OF_SAMPLING.items() if samples is False else ():
        if name in chosen and chosen[name] == neutral and not isinstance(chosen[name], bool):
            del chosen[name]
        elif name in chosen:
            what = f"{name} has no effect without sampling: the likeliest token is taken each time."
            raise ParameterError(what, where=f"parameter {name}", fix=f"add do_sample=True, or leave {name} out")
    for name, value in chosen.items():
        if not PARAMETERS[name].fits(value):
            what = f"{name} has a value that it cannot have."
            raise ParameterError(what, where=f"parameter {name}", fix=f"give it {PARAMETERS[name].takes}")
    return chosen


def _unknown(name: str) -> ParameterError:
    near = _OTHER_NAMES.get(name) or next(iter(get_close_matches(name, PARAMETERS, 1)), None)
    if near:
        fix = f"did you mean {near}?"
    else:
        fix = f"known are {', '.join(PARAMETERS)}; a server of your own gets others by extra_parameters={{…}}"
    return ParameterError(f"No model server of Azure's knows {in_a_line(name)}.", where="parameters", fix=fix)


@dataclass(frozen=True)
class Question:
    """A conversation that is to be gone on with, and how.

    - **parameters**: as `phift.serving.endpoint.Endpoint.chat` takes them.
    - **extra**: sent as they are.
    """

    messages: Sequence[Message] = field(repr=False)
    parameters: Mapping[str, Any] = field(repr=False)
    tools: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        messages: str | Sequence[Message],
        parameters: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Self:
        """Check what is asked; raises `phift.errors.DataError` and `phift.errors.ParameterError`."""
        asked = cls(check_messages(messages), check_parameters(parameters), _check_tools(tools), extra or {})
        fix = "send texts, numbers, lists and mappings"
        parts = {"messages": asked.messages, "tools": asked.tools, "extra_parameters": dict(asked.extra)}
        for where, part in parts.items():
            if not _is_json(part):
                raise DataError("The question holds what JSON has no form for.", where=where, fix=fix)
        for name, value in asked.parameters.items():
            if not _is_json(value):
                what = f"{name} holds what JSON has no form for."
                raise ParameterError(what, where=f"parameter {name}", fix=fix)
        return asked

    @property
    def needs_openai(self) -> str:
        """What of it the OpenAI route alone takes, empty where nothing does."""
        return next((name for name in self.parameters if PARAMETERS[name].by == "openai"), "")

    @property
    def has_tools(self) -> bool:
        """Whether tools are offered or were called, which the OpenAI route alone is sure to take."""
        return bool(self.tools) or any(turn["role"] == "tool" or "tool_calls" in turn for turn in self.messages)

    @property
    def dropped_by_container(self) -> tuple[str, ...]:
        """The parameters that the container's ``/score`` leaves out without a word."""
        return tuple(name for name in self.parameters if PARAMETERS[name].by == "mlflow")

    @property
    def dropped_by_vllm(self) -> tuple[str, ...]:
        """The parameters that vLLM's OpenAI route leaves out, with no word but in its own log."""
        return tuple(name for name in self.parameters if not PARAMETERS[name].on_vllm)

    @property
    def beyond_the_common(self) -> tuple[str, ...]:
        """The parameters that not every server of this kind knows."""
        common = ("max_new_tokens", "do_sample", "temperature", "top_p")
        return tuple(name for name in (*self.parameters, *self.extra) if name not in common)

    def to_score(self) -> dict[str, Any]:
        """Return the body for ``/score``.

        A flat list of messages is the one form that the MLflow server and the vLLM container both take
        (azureml-evaluate-mlflow 0.0.91; foundation-model-serve, azureml-assets, 2026-07-23). Tools go where
        transformers' pipeline takes them (transformers 5, ``TextGenerationPipeline``); unverified on Azure.
        """
        tools = {"tools": list(self.tools)} if self.tools else {}
        settings = {**self.parameters, **tools, **self.extra}
        return {"input_data": {"input_string": list(self.messages), "parameters": settings}, "params": {}}

    def to_openai(self, *, stream: bool = False) -> dict[str, Any]:
        """Return the body for OpenAI's ``/v1/chat/completions``, as vLLM's server takes it.

        That refuses the name of a model that it does not serve, and takes an empty one for its own (vllm-project/vllm
        0052bed, ``OpenAIServing._is_model_supported``, read 2026-11-30).
        """
        settings = dict(self.parameters)
        if "max_new_tokens" in settings:
            settings["max_tokens"] = settings.pop("max_new_tokens")
        if not settings.pop("do_sample", False):
            settings["temperature"] = 0
        tools = {"tools": list(self.tools)} if self.tools else {}
        streams = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return {"model": "", "messages": list(self.messages), **settings, **tools, **streams, **self.extra}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _check_tools(tools: Sequence[Mapping[str, Any]] | None) -> Sequence[Mapping[str, Any]]:
    """Return tools as OpenAI's API has them; a function alone becomes a tool."""
    if tools is None:
        return ()
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise DataError("The tools are not a list.", where="tools", fix="send a list of OpenAI's tools")
    checked = []
    for number, tool in enumerate(tools, start=1):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            fix = 'write {"type": "function", "function": {"name": …, "description": …, "parameters": …}}'
            raise DataError("The tool has no name.", where=f"tool {number}", fix=fix)
        bare = {key: value for key, value in function.items() if key != "type"}
        checked.append(dict(tool) if "function" in tool else {"type": "function", "function": bare})
    return checked
