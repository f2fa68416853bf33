"""How an endpoint is asked: which route, over which connections, for how long, and what a refusal says."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from requests.adapters import HTTPAdapter

from phift.errors import NotFound, ScoringError, ServiceUnreachable, WaitTimeout
from phift.serving.endpoint import Endpoint
from unit.fakes import Fakes
from unit.loopback import Reply, Request, Script
from unit.test_endpoint import endpoint_at

CALL = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
NO_ROUTE = Reply({}, 424, {"ms-azureml-model-error-statuscode": "404", "ms-azureml-model-error-reason": "Not Found"})


def completion(content: str | None = "Hello.", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": "stop"}]}


def by_path(**replies: Reply) -> Any:
    """Answer each route in its own way: ``score`` and ``openai``."""
    return lambda request: replies["openai" if request.path.endswith("/chat/completions") else "score"]


def paths(server: Script) -> list[str]:
    return [request.path for request in server.requests]


def test_tools_are_asked_of_the_openai_route(server: Script) -> None:
    server.answers(by_path(openai=Reply(completion(None, tool_calls=[CALL]))))
    reply = endpoint_at(server.url).chat("Weather?", tools=[TOOL], tool_choice="auto")
    assert [call.name for call in reply.tool_calls] == ["weather"]
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == {
        "model": "",
        "messages": [{"role": "user", "content": "Weather?"}],
        "max_tokens": 256,
        "temperature": 0,
        "tools": [TOOL],
        "tool_choice": "auto",
    }


CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "content": "21", "tool_call_id": "call-1"},
]


@pytest.mark.parametrize("missing", [NO_ROUTE, Reply({}, 404), Reply({}, 405)])
def test_without_that_route_tools_are_asked_of_the_other_one(server: Script, missing: Reply) -> None:
    server.answers(by_path(openai=missing, score=Reply([{"0": "fine"}])))
    endpoint = endpoint_at(server.url)
    assert endpoint.chat(CONVERSATION) == "fine"
    assert server.requests[1].body["input_data"]["input_string"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        CONVERSATION[2],
    ]
    assert endpoint.chat("Weather?", tools=[TOOL]) == "fine"
    assert paths(server) == ["/v1/chat/completions", "/score", "/score"]  # it is not looked for again


def test_a_server_that_takes_no_tools_is_told_of(server: Script) -> None:
    server.answers(by_path(openai=NO_ROUTE, score=Reply({}, 424)))
    with pytest.raises(ScoringError) as caught:
        endpoint_at(server.url).chat(CONVERSATION)
    assert "takes no turn of a tool" in str(caught.value.fix)


def test_a_parameter_of_the_openai_route_alone_is_named_where_there_is_none(server: Script) -> None:
    server.answers(by_path(openai=NO_ROUTE))
    with pytest.raises(ScoringError, match="takes no seed"):
        endpoint_at(server.url).chat("Hi", seed=1)
    assert paths(server) == ["/v1/chat/completions"]


def test_a_custom_container_is_asked_at_its_own_address(server: Script) -> None:
    server.answers(Reply(completion()))
    fakes = Fakes()
    fakes.workspace.online_endpoints.scoring_uri = f"{server.url}/v1/chat/completions"
    fakes.add_endpoint("phift-v")
    endpoint = Endpoint.attach("phift-v", fakes.clients)
    assert endpoint.chat("Hi") == "Hello."
    assert paths(server) == ["/v1/chat/completions"]


def test_a_server_with_the_openai_route_alone_is_asked_there(server: Script) -> None:
    server.answers(by_path(openai=Reply(completion()), score=NO_ROUTE))
    endpoint = endpoint_at(server.url)
    assert [endpoint.chat("Hi"), endpoint.chat("Hi")] == ["Hello."] * 2
    assert paths(server) == ["/score", "/v1/chat/completions", "/v1/chat/completions"]


def test_vllm_is_asked_on_its_openai_route_though_it_has_another_score(server: Script) -> None:
    refused = Reply({}, 424, {"ms-azureml-model-error-statuscode": "400", "azureml-model-deployment": "green"})
    server.answers(by_path(openai=Reply(completion()), score=refused))
    fakes = Fakes()
    endpoint = endpoint_at(server.url, fakes)
    fakes.add_deployment("blue", "phift-e", "model:1").environment = "/environments/phift-vllm/versions/1"
    green = fakes.add_deployment("green", "phift-e", "model:2")
    for _ in range(2):
        with pytest.raises(ScoringError, match="424"):
            endpoint.chat("Hi")
    assert fakes.workspace.record.count("online_deployments.list") == 1
    server.requests.clear()
    endpoint = endpoint_at(server.url, fakes)
    green.environment = "azureml:/subscriptions/s/environments/phift-vllm/versions/1"
    assert [endpoint.chat("Hi"), endpoint.chat("Hi")] == ["Hello."] * 2
    assert paths(server) == ["/score", "/v1/chat/completions", "/v1/chat/completions"]


@pytest.mark.parametrize("callers", [1, 8])
def test_each_of_several_callers_learns_that_it_is_vllm(server: Script, callers: int) -> None:
    at_once = threading.Barrier(callers)
    refused = Reply({}, 424, {"ms-azureml-model-error-statuscode": "400", "azureml-model-deployment": "green"})

    def answer(request: Request) -> Reply:
        if request.path.endswith("/chat/completions"):
            return Reply(completion())
        at_once.wait(60)
        return refused

    server.answers(answer)
    fakes = Fakes()
    endpoint = endpoint_at(server.url, fakes)
    fakes.add_deployment("green", "phift-e", "model:1").environment = "/environments/phift-vllm/versions/1"
    with ThreadPoolExecutor(callers) as pool:
        assert list(pool.map(endpoint.chat, ["Hi"] * callers)) == ["Hello."] * callers
        named = partial(endpoint.chat, deployment="green")
        assert list(pool.map(named, ["Hi"] * callers)) == ["Hello."] * callers
    assert fakes.workspace.record.count("online_deployments.list") <= callers


def test_a_look_that_failed_is_done_again(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Reply({}, 424, {"ms-azureml-model-error-statuscode": "400"})
    server.answers(by_path(openai=Reply(completion()), score=refused))
    fakes = Fakes()
    endpoint = endpoint_at(server.url, fakes)
    fakes.add_deployment("green", "phift-e", "model:1").environment = "/environments/phift-vllm/versions/1"
    with monkeypatch.context() as patched:
        patched.setattr("phift.serving.asking.listed", fails)
        with pytest.raises(ScoringError, match="424"):
            endpoint.chat("Hi")
    assert endpoint.chat("Hi") == "Hello."


def fails(*_arguments: object) -> Any:
    raise ServiceUnreachable("gone")


def test_a_missing_route_is_asked_again_where_the_traffic_moves(server: Script) -> None:
    openai, score = Reply(completion()), Reply([{"0": "fine"}])
    endpoint = endpoint_at(server.url)
    server.answers(by_path(openai=openai, score=NO_ROUTE))
    assert endpoint.chat("Hi") == "Hello."
    server.answers(by_path(openai=NO_ROUTE, score=score))
    assert [endpoint.chat("Hi"), endpoint.chat("Hi")] == ["fine"] * 2
    assert paths(server) == ["/v1/chat/completions", "/score", "/score"]
    server.answers(by_path(openai=openai, score=score))
    assert endpoint.chat("Weather?", tools=[TOOL]) == "fine"  # that the other one is missing is known still


@pytest.mark.parametrize("settings", [{"seed": 1}, {"tool_choice": "auto", "tools": [TOOL]}, {"tools": [TOOL]}])
def test_what_reaches_no_deployment_is_told_whatever_is_asked(server: Script, settings: dict[str, Any]) -> None:
    server.answers(Reply({}, 404))
    fakes = Fakes()
    endpoint = endpoint_at(server.url, fakes)
    with pytest.raises(NotFound, match="No deployment takes traffic"):
        endpoint.chat("Hi", **settings)
    server.requests.clear()
    with pytest.raises(NotFound, match="no deployment blu"):
        endpoint.chat("Hi", deployment="blu", **settings)
    fakes.add_endpoint("phift-e", tags={"phift.parked.0": "x"})
    with pytest.raises(NotFound, match="parked"):
        endpoint.chat("Hi", **settings)
    assert len(server.requests) == 2
    fakes.add_endpoint("phift-e", traffic={"blue": 100})  # so the deployment's server is what has no such route
    if "seed" in settings:
        with pytest.raises(ScoringError, match="takes no seed"):
            endpoint.chat("Hi", **settings)


def test_a_server_with_neither_route_is_refused_as_the_last_one_says(server: Script) -> None:
    server.answers(NO_ROUTE)
    with pytest.raises(ScoringError, match="424 Not Found"):
        endpoint_at(server.url).chat("Hi")
    assert paths(server) == ["/score", "/v1/chat/completions"]


def test_what_the_container_leaves_out_is_said(server: Script, caplog: pytest.LogCaptureFixture) -> None:
    server.answers(Reply({"output": "Hello."}))
    with caplog.at_level(logging.WARNING):
        assert endpoint_at(server.url).chat("Hi", repetition_penalty=1.1, top_k=5, do_sample=True) == "Hello."
    (record,) = caplog.records
    assert record.getMessage().endswith("left out: repetition_penalty")


@pytest.mark.parametrize("streams", [True, False])
def test_what_openais_route_may_leave_out_is_said(
    server: Script, caplog: pytest.LogCaptureFixture, streams: bool
) -> None:
    server.answers(by_path(openai=Reply(completion())))
    endpoint = endpoint_at(server.url)
    with caplog.at_level(logging.WARNING):
        if streams:
            assert endpoint.stream("Hi", num_beams=2, repetition_penalty=1.1).reply == "Hello."
        else:
            assert endpoint.chat("Hi", num_beams=2, repetition_penalty=1.1, seed=1) == "Hello."
    (record,) = caplog.records
    assert record.getMessage().endswith("may have left out: num_beams")


def test_parameters_that_a_refusing_server_may_not_know_are_named(server: Script) -> None:
    server.answers(Reply({}, 424, {"ms-azureml-model-error-reason": "odd"}))
    with pytest.raises(ScoringError) as caught:
        endpoint_at(server.url).chat("Hi", num_beams=2, extra_parameters={"own": 1})
    assert "may not know num_beams, own" in str(caught.value.fix)


def test_a_deployment_that_is_not_there_is_named_with_those_that_are(server: Script) -> None:
    server.answers(Reply({}, 404))
    fakes = Fakes()
    endpoint = endpoint_at(server.url, fakes)
    with pytest.raises(NotFound) as caught:
        endpoint.chat("Hi", deployment="blu")
    assert str(caught.value.fix).startswith("it has none")
    fakes.add_deployment("green", "phift-e", "model:1")
    fakes.add_deployment("blue", "phift-e", "model:1")
    with pytest.raises(NotFound, match="no deployment blu") as caught:
        endpoint.chat("Hi", deployment="blu")
    assert caught.value.fix == "there is: blue, green"
    with pytest.raises(NotFound, match="No deployment takes traffic"):
        endpoint.chat("Hi", deployment="Blue")


def test_the_deployment_that_answered_is_told(server: Script) -> None:
    server.answers(Reply([{"0": "x"}], headers={"azureml-model-deployment": "blue"}))
    assert endpoint_at(server.url).chat("Hi").deployment == "blue"


def test_an_answer_that_an_adapter_has_read_is_taken_as_it_left_it(
    server: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = HTTPAdapter.send

    def reads(adapter: HTTPAdapter, *arguments: Any, **options: Any) -> Any:
        response = send(adapter, *arguments, **options)
        response._content = response.content.replace(b"Hello", b"Bye")
        return response

    monkeypatch.setattr(HTTPAdapter, "send", reads)
    server.answers(Reply([{"0": "Hello."}]))
    assert endpoint_at(server.url).chat("Hi") == "Bye."


# ---------------------------------------------------------------- time


def slowly(*pieces: bytes, pause: float = 0.3) -> Any:
    def body(_request: Request) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            time.sleep(pause)

    return Reply(body, headers={"Content-Type": "application/json"})


def test_a_timeout_ends_a_slow_answer(server: Script) -> None:
    server.answers(slowly(b'[{"0":', *[b" "] * 30, b'"x"}]'))
    began = time.monotonic()
    with pytest.raises(WaitTimeout, match=r"within 0.5 s") as caught:
        endpoint_at(server.url).chat("Hi", timeout=0.5)
    assert time.monotonic() - began < 6  # all of it would take nine
    assert "timeout" in str(caught.value.fix)


def test_a_timeout_ends_an_answer_that_does_not_begin(server: Script) -> None:
    release = threading.Event()
    server.answers(Reply(["x"]))
    server.before = lambda: (release.wait(5), None)[1]
    with pytest.raises(WaitTimeout):
        endpoint_at(server.url).chat("Hi", timeout=0.3)
    release.set()


@pytest.mark.parametrize("timeout", [None, 60])
def test_a_model_that_is_too_slow_for_one_request_is_told_as_such(server: Script, timeout: float | None) -> None:
    release = threading.Event()
    server.answers(Reply(["x"]))
    server.before = lambda: (release.wait(5), None)[1]
    endpoint = endpoint_at(server.url)
    endpoint._client.seconds = 0.3
    with pytest.raises(WaitTimeout, match=r"within 0\.3 s; the model") as caught:
        endpoint.chat("Hi", timeout=timeout)
    assert caught.value.fix == "lower max_new_tokens"
    release.set()


def test_a_timeout_counts_the_further_tries(server: Script) -> None:
    server.answers(Reply({}, 429))
    began = time.monotonic()
    with pytest.raises(WaitTimeout, match=r"busy for all of 1\.5 s") as caught:
        endpoint_at(server.url).chat("Hi", timeout=1.5)
    assert "raise `timeout`" in str(caught.value.fix)
    assert time.monotonic() - began < 10
    assert len(server.requests) <= 3


def test_an_answer_in_time_is_one(server: Script) -> None:
    server.answers(slowly(b'[{"0": "x"}]', pause=0))
    assert endpoint_at(server.url).chat("Hi", timeout=60) == "x"


def test_an_answer_that_breaks_off_is_no_answer(server: Script) -> None:
    def body(_request: Request) -> Iterator[bytes]:
        yield b'[{"0": "'
        raise ConnectionError

    server.answers(Reply(body))
    with pytest.raises(ServiceUnreachable, match="broke off"):
        endpoint_at(server.url).chat("Hi")


# ---------------------------------------------------------------- connections


def test_as_many_connections_as_callers_are_kept(server: Script, caplog: pytest.LogCaptureFixture) -> None:
    callers = 32
    at_once = threading.Barrier(callers)
    server.answers(Reply(lambda request: [request.body["input_data"]["input_string"][0]["content"]]))
    server.keeps, server.before = True, lambda: (at_once.wait(60), None)[1]
    endpoint = endpoint_at(server.url)
    questions = [f"Question {number}?" for number in range(3 * callers)]
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(callers) as pool:
        assert list(pool.map(endpoint.chat, questions)) == questions
    server.before = lambda: None
    with ThreadPoolExecutor(callers) as pool:  # other threads
        assert list(pool.map(endpoint.chat, questions)) == questions
    assert server.connections == callers
    assert caplog.records == []
    endpoint.close()
    assert endpoint.chat("Hi") == "Hi"
    assert server.connections == callers + 1
    endpoint.close()


def test_connections_end_with_the_handle(server: Script) -> None:
    server.answers(Reply(["x"]))
    server.keeps = True
    endpoint = endpoint_at(server.url)
    endpoint.chat("Hi")
    (session,) = endpoint._client.sessions._idle
    closed: list[bool] = []
    session.close = lambda: closed.append(True)  # type: ignore[method-assign]
    del endpoint
    gc.collect()
    assert closed == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_connections_of_its_own(server: Script) -> None:
    server.answers(Reply(["x"]))
    server.keeps = True
    endpoint = endpoint_at(server.url)
    assert endpoint.chat("Hi") == "x"
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(endpoint.chat("Hi") != "x"))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert endpoint.chat("Hi") == "x"
    assert server.connections == 2
    endpoint.close()
