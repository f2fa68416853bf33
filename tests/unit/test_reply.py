"""What a model server's answer says, in each of its forms."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from phift.errors import ScoringError
from phift.serving.chat import SAID_NOTHING, Reply, ToolCall, read_reply

CALLS = [{"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}]
CALL = ToolCall("call-1", "weather", '{"city": "Bern"}')
SECRET = "what somebody says"


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"message": {"content": None, "tool_calls": CALLS}, "finish_reason": "tool_calls"}]},
        {"output": None, "tool_calls": CALLS, "finish_reason": "tool_calls"},
        {"output": None, "message": {"content": None, "tool_calls": CALLS}, "finish_reason": "tool_calls"},
        {"output": "", "message": {"role": "assistant", "tool_calls": CALLS}, "finish_reason": "tool_calls"},
    ],
)
def test_a_reply_may_be_a_call_of_a_tool(answer: Any) -> None:
    reply = read_reply(answer)
    assert reply == ""
    assert reply.tool_calls == (CALL,)
    assert reply.finish_reason == "tool_calls"
    assert reply.message == {"role": "assistant", "content": "", "tool_calls": CALLS}


def test_arguments_are_a_text_and_a_mapping_where_they_are_json() -> None:
    assert CALL.parsed == {"city": "Bern"}
    assert ToolCall("", "weather", '{"city": ').parsed is None
    assert ToolCall("", "weather", "[1]").parsed is None
    message = {"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Zürich"}}}]}
    (call,) = read_reply({"choices": [{"message": message}]}).tool_calls
    assert (call.arguments, call.parsed) == ('{"city": "Zürich"}', {"city": "Zürich"})
    assert "Zürich" not in repr(call)


def test_the_older_form_of_a_call() -> None:
    function = {"name": "weather", "arguments": "{}"}
    reply = read_reply({"choices": [{"message": {"content": None, "function_call": function}}]})
    assert reply.tool_calls == (ToolCall("", "weather", "{}"),)


def test_what_is_told_beside_the_text() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": None}
    for answer in (
        {"choices": [{"message": {"content": "Hi"}, "finish_reason": "length"}], "usage": usage},
        {"output": "Hi", "finish_reason": "length", "usage": usage},
    ):
        reply = read_reply(answer, deployment="blue")
        assert (reply, reply.finish_reason, reply.deployment) == ("Hi", "length", "blue")
        assert reply.usage == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert read_reply([{"0": "Hi"}]).finish_reason is None
    assert read_reply([{"0": "Hi"}]).usage == {}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}],
        [{"type": "output_text", "text": {"value": "Hello."}}],
        "Hello.",
    ],
)
def test_a_text_may_come_in_parts(content: Any) -> None:
    for answer in ({"choices": [{"message": {"content": content}}]}, {"output": content}, [{"0": content}]):
        assert read_reply(answer) == "Hello."


@pytest.mark.parametrize(
    ("answer", "what", "way_out"),
    [
        ({}, "without a text", "log"),
        ({"output": None}, "without a text", "tools="),
        ({"output": None, "error": {"message": SECRET, "type": "BadRequestError", "code": 400}}, "BadRequestError", ""),
        ({"output": None, "error": {"message": f"maximum context length is 4. {SECRET}"}}, "longer than the model", ""),
        ({"error": SECRET}, "gave no reason", "log"),
        ({"choices": [{"message": {"content": None}, "finish_reason": "length"}]}, "used up", "max_new_tokens"),
        ({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}, "without a word", "something else"),
        ({"output": None, "finish_reason": "stop"}, "without a word", "something else"),
        ({"choices": [{"message": {"content": [{"type": "image_url"}]}}]}, "without a text", "log"),
        ({"choices": [{"message": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]}, "does not name", "log"),
    ],
)
def test_what_says_nothing_is_an_error_that_quotes_nobody(answer: Any, what: str, way_out: str) -> None:
    with pytest.raises(ScoringError) as caught:
        read_reply(answer)
    assert what in caught.value.what
    assert way_out in str(caught.value.fix)
    assert SECRET not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))
    assert (caught.value.code == SAID_NOTHING) == (what in ("used up", "without a word"))  # the others are a server's


def test_a_reply_is_a_text_wherever_one_goes() -> None:
    reply = Reply("Hello.", finish_reason="stop", usage={"total_tokens": 3}, tool_calls=[CALL])
    assert f"{reply}" == "Hello."
    assert json.dumps([reply]) == '["Hello."]'
    assert repr(Reply("Hello.")) == "'Hello.'"
    assert repr(reply) == "<Reply 'Hello.' calls weather>"
    back = pickle.loads(pickle.dumps(reply))  # noqa: S301 - our own
    assert (back, vars(back)) == (reply, vars(reply))
    assert type(reply.message["content"]) is str
