"""What is asked is checked before anything is sent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from phift.errors import DataError, ParameterError
from phift.serving.chat import Reply, ToolCall
from phift.serving.question import PARAMETERS, Question, check_messages, check_parameters

SECRET = "what somebody says"


def turn(role: str, content: Any = SECRET, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


USER, ASSISTANT, SYSTEM, TOOL = map(turn, ("user", "assistant", "system", "tool"))
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [SYSTEM, USER, ASSISTANT, USER],
        [USER, CALL, TOOL],
        [USER, {**CALL, "content": None}, TOOL, TOOL],
        [USER, CALL, TOOL, ASSISTANT, USER],
        [USER, ASSISTANT, TOOL],  # a call that was made in the text
        [USER, {"role": "assistant", "tool_calls": []}, TOOL],
        (USER,),
    ],
)
def test_a_conversation_that_can_be_gone_on_with(messages: list[dict[str, Any]]) -> None:
    checked = check_messages(messages)
    assert [message["role"] for message in checked] == [message["role"] for message in messages]
    assert all(isinstance(message["content"], str) for message in checked)
    assert [message.get("tool_calls") or None for message in checked] == [
        message.get("tool_calls") or None for message in messages
    ]


def test_a_text_is_a_question_and_parts_are_one_text() -> None:
    assert check_messages(SECRET) == [USER]
    parts = [{"type": "text", "text": "what somebody "}, {"type": "text", "text": "says"}]
    assert check_messages([turn("user", parts)]) == [USER]


@pytest.mark.parametrize(
    ("messages", "what", "where", "way_out"),
    [
        ([], "no message", "messages", "ask something"),
        (USER, "list of messages", "messages", "as a text"),
        (7, "not a int", "messages", "as a text"),
        (Reply("x"), "not a Reply", "messages", "as a text"),
        ([SECRET], "no mapping but a str", "message 1", '"role"'),
        ([Reply("x")], "a reply", "message 1", ".message"),
        ([{"content": SECRET}], "no role", "message 1", "user, assistant"),
        ([USER, turn("bot")], "Nobody known", "message 2", "user, assistant"),
        ([{"role": "user"}], "no content", "message 1", "a text"),
        ([turn("user", None)], "no content", "message 1", "a text"),
        ([USER, {"role": "assistant"}, USER], "no content", "message 2", "tool_calls"),
        ([turn("user", 7)], "not a text but a int", "message 1", "send text"),
        ([turn("user", [{"type": "image_url", "image_url": SECRET}])], "a list", "message 1", "neither see"),
        ([ASSISTANT, USER], "the assistant, out of turn", "message 1", "after nothing comes system or user"),
        ([USER, USER], "the user, out of turn", "message 2", "join the two"),
        ([USER, ASSISTANT, SYSTEM, USER], "the system", "message 3", "the first"),
        ([USER, TOOL], "the tool", "message 2", "tool_calls"),
        ([USER, CALL, USER], "the user", "message 3", "comes tool"),
        ([USER, ASSISTANT], "not the user's", "message 2", "`user` or `tool`"),
        ([SYSTEM], "not the user's", "message 1", "`user` or `tool`"),
    ],
)
def test_a_mistake_is_refused_with_its_number_and_a_way_out(messages: Any, what: str, where: str, way_out: str) -> None:
    with pytest.raises(DataError) as caught:
        check_messages(messages)
    error = caught.value
    assert what in error.what
    assert error.where == where
    assert way_out in str(error.fix)
    assert SECRET not in str(error) + repr(error)


def test_what_json_has_no_form_for_is_refused() -> None:
    for odd in (float("nan"), object(), {1, 2}):
        with pytest.raises(DataError, match="JSON"):
            Question.of([turn("user", SECRET, name=odd)], {})
        for settings in ({"response_format": {"type": odd}}, {"stop": [odd]}, {"tool_choice": {"function": odd}}):
            with pytest.raises(ParameterError, match="JSON") as caught:
                Question.of(SECRET, settings)
            assert caught.value.where == f"parameter {next(iter(settings))}"
        with pytest.raises(DataError, match="JSON") as refused:
            Question.of(SECRET, {}, extra={"own": odd})
        assert refused.value.where == "extra_parameters"


def test_what_is_asked_is_in_no_repr() -> None:
    assert SECRET not in repr(Question.of(SECRET, {"stop": [SECRET]}, extra={"own": SECRET}))


def test_the_table_of_parameters_is_what_is_checked() -> None:
    document = (Path(__file__).parents[2] / "docs" / "chatting.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \| (.+) \| (\w+) \|$", document, flags=re.MULTILINE)
    assert documented == [(name, each.takes, each.by) for name, each in PARAMETERS.items()]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_tokens", "max_new_tokens"),
        ("max_completion_tokens", "max_new_tokens"),
        ("temprature", "temperature"),
        ("topp", "top_p"),
        ("stop_sequences", "stop"),
    ],
)
def test_a_parameter_that_is_not_known_is_named_with_the_one_that_may_be_meant(name: str, meant: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check_parameters({name: 1})
    assert name in caught.value.what
    assert caught.value.fix == f"did you mean {meant}?"


def test_a_parameter_like_no_other_is_named_with_all_that_are_known() -> None:
    with pytest.raises(ParameterError, match="knows zzz") as caught:
        check_parameters({"zzz": 1})
    assert "max_new_tokens" in str(caught.value.fix)
    assert "extra_parameters" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("do_sample", "yes"),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", float("inf")),
        pytest.param("temperature", 10**400, id="beyond a float"),
        pytest.param("length_penalty", -(10**400), id="below a float"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", 0),
        ("presence_penalty", 3),
        ("stop", 7),
        ("response_format", "json"),
    ],
)
def test_a_value_out_of_its_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=f"{name} has a value") as caught:
        check_parameters({"do_sample": True, name: value})
    assert caught.value.where == f"parameter {name}"


def test_what_a_server_leaves_out_is_known_of_each() -> None:
    every = dict.fromkeys(PARAMETERS)
    asked = Question([], every)
    assert asked.dropped_by_vllm == ("min_new_tokens", "num_beams", "no_repeat_ngram_size")
    assert asked.dropped_by_container == ("repetition_penalty", "min_new_tokens", "min_p", *asked.dropped_by_vllm[1:])


@pytest.mark.parametrize("setting", [{"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 5}])
def test_a_setting_of_sampling_without_it_is_refused(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ParameterError, match=f"{name} has no effect without sampling") as caught:
        check_parameters(setting)
    assert "do_sample=True" in str(caught.value.fix)
    assert check_parameters({"do_sample": True, **setting}) == {"do_sample": True, **setting}


def test_what_says_nothing_is_left_out() -> None:
    assert check_parameters({"temperature": 0, "top_p": 1.0, "seed": None, "stream": False}) == {}


def test_a_temperature_of_nothing_is_no_sampling() -> None:
    with pytest.raises(ParameterError, match="samples nothing"):
        check_parameters({"do_sample": True, "temperature": 0})


def test_stream_is_refused_with_the_way_to_it() -> None:
    with pytest.raises(ParameterError) as caught:
        check_parameters({"stream": True})
    assert caught.value.fix == "leave it out: `stream(messages)` yields the pieces as they come, and needs no word more"


def test_the_two_forms_of_a_question() -> None:
    tool = {"name": "weather", "parameters": {"type": "object"}}
    settings = {"max_new_tokens": 5, "do_sample": False}
    question = Question.of(SECRET, settings, [tool], {"own": 1})
    offered = [{"type": "function", "function": tool}]
    assert question.to_score() == {
        "input_data": {"input_string": [USER], "parameters": {**settings, "tools": offered, "own": 1}},
        "params": {},
    }
    asked = {"model": "", "messages": [USER], "max_tokens": 5, "temperature": 0, "tools": offered, "own": 1}
    assert question.to_openai() == asked
    assert question.to_openai(stream=True) == {
        **asked,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sampled = Question.of(SECRET, {"do_sample": True, "temperature": 0.5}).to_openai()
    assert sampled == {"model": "", "messages": [USER], "temperature": 0.5}
    assert SECRET not in repr(question)


@pytest.mark.parametrize("tools", ["weather", {"name": "weather"}, [7], [{"function": {}}], [{"name": 7}]])
def test_tools_without_a_name_are_refused(tools: Any) -> None:
    with pytest.raises(DataError):
        Question.of("Hi", {}, tools)


def test_a_reply_goes_on_as_a_turn() -> None:
    call = ToolCall("call-1", "weather", '{"city": "Bern"}')
    asked = check_messages([USER, Reply("", tool_calls=[call]).message, turn("tool", "21", tool_call_id="call-1")])
    assert asked[1] == {"role": "assistant", "content": "", "tool_calls": [call.to_dict()]}
