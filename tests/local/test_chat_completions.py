"""Chat completions of a local deployment, as OpenAI's own package asks for them, whole and streamed."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from running import Local

pytestmark = pytest.mark.slow

NAME = "chatting"


def _options(local: Local, key: str, name: str = NAME) -> dict[str, Any]:
    return {"base_url": f"{local.connection.base_url}/inference/{name}/v1", "api_key": key, "max_retries": 0}


@contextmanager
def _client(local: Local, key: str, name: str = NAME) -> Iterator[openai.OpenAI]:
    trusted = ssl.create_default_context(cafile=local.connection.ca_bundle)
    with openai.OpenAI(**_options(local, key, name), http_client=openai.DefaultHttpxClient(verify=trusted)) as client:
        yield client


@pytest.fixture(scope="module")
def key(local: Local) -> str:
    return local.serve(NAME)


@pytest.fixture
def client(local: Local, key: str) -> Iterator[openai.OpenAI]:
    with _client(local, key) as client:
        yield client


def _said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_an_answer_in_one_piece(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="azureai", messages=_said("abc"))
    assert answer.choices[0].message.content == "cba"
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", "Phi-4-mini-instruct")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens == 1 + 3
    assert [model.id for model in client.models.list()] == ["Phi-4-mini-instruct"]


def test_a_stream_comes_as_it_is_made(client: openai.OpenAI, tmp_path: Path) -> None:
    """The model makes the second piece once the first one has been read here."""
    word = f"wait {tmp_path / 'go'}"
    got = ""
    for chunk in client.chat.completions.create(
        model="", messages=_said(word), stream=True, stream_options={"include_usage": True}
    ):
        if not chunk.choices:
            assert chunk.usage is not None
            assert chunk.usage.completion_tokens == len(word)
            break
        got += chunk.choices[0].delta.content or ""
        if got:
            (tmp_path / "go").touch()
    assert got == word[::-1]
    assert chunk.usage is not None


def test_a_client_that_goes_away_stops_the_model_and_frees_its_place(local: Local, tmp_path: Path) -> None:
    key = local.serve("leaving", maxConcurrentRequestsPerInstance=1)  # so that two may be in flight
    with _client(local, key, "leaving") as client:
        streams = [
            client.chat.completions.create(model="", messages=_said(f"wait {tmp_path / 'go'}"), stream=True)
            for _ in range(2)
        ]
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="", messages=_said("abc"))
        for stream in streams:
            stream.close()
        path = f"{local.arm}/onlineEndpoints/leaving/deployments/blue/getLogs"
        end = time.monotonic() + 10
        while local.request("POST", path, json={}).json()["content"].count("is taken back") < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        answer = client.chat.completions.create(model="", messages=_said("abc"))
        assert answer.choices[0].message.content == "cba"


async def _stream(local: Local, key: str, word: str) -> str:
    trusted = ssl.create_default_context(cafile=local.connection.ca_bundle)
    http = openai.DefaultAsyncHttpxClient(verify=trusted)
    async with openai.AsyncOpenAI(**_options(local, key), http_client=http) as client:
        stream = await client.chat.completions.create(model="", messages=_said(word), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def test_many_at_once_each_get_their_own(local: Local, key: str) -> None:
    async def all_at_once() -> list[str]:
        return await asyncio.gather(*(_stream(local, key, f"question {number}") for number in range(8)))

    assert asyncio.run(all_at_once()) == [f"question {number}"[::-1] for number in range(8)]


def test_more_than_may_be_in_flight_are_refused_and_asked_again(local: Local) -> None:
    """Azure's limit is twice what the instances work on at once; OpenAI's client asks again."""
    key = local.serve("narrow", maxConcurrentRequestsPerInstance=1)
    trusted = ssl.create_default_context(cafile=local.connection.ca_bundle)
    refused: list[int] = []

    def note(answer: Any) -> None:
        if answer.status_code == 429:
            refused.append(1)

    http = openai.DefaultHttpxClient(verify=trusted, event_hooks={"response": [note]})
    options = {**_options(local, key, "narrow"), "max_retries": 30}

    with openai.OpenAI(**options, http_client=http) as asking, ThreadPoolExecutor(16) as pool:

        def ask(number: int) -> str | None:
            # One of them takes its time, so that others find no place.
            word = f"question {number}" if number else "sleep"
            return asking.chat.completions.create(model="", messages=_said(word)).choices[0].message.content

        answers = list(pool.map(ask, range(16)))
    assert answers == ["peels", *(f"question {number}"[::-1] for number in range(1, 16))]
    assert refused


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ({"top_k": 4}, "top_k"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": None}, "messages"),
        ({"stream_options": {"now": True}}, "stream_options"),
    ],
)
def test_what_is_not_taken_is_refused_by_name(client: openai.OpenAI, sent: dict[str, Any], name: str) -> None:
    with pytest.raises(openai.APIStatusError, match=r"424") as caught:
        client.post("/chat/completions", body={"messages": _said("abc"), **sent}, cast_to=object)
    assert caught.value.param == name
    assert caught.value.response.headers["ms-azureml-model-error-statuscode"] == "400"


def test_what_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="",
        messages=[{"role": "user", "content": [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]}],
        presence_penalty=0,
        logprobs=False,
        n=1,
        stop=None,
    )
    assert answer.choices[0].message.content == "c\nba"


def test_errors_of_the_model(client: openai.OpenAI) -> None:
    for streamed in (False, True):
        with pytest.raises(openai.APIStatusError, match="the last role must be user"):
            client.chat.completions.create(model="", messages=_said("refuse"), stream=streamed)
        with pytest.raises(openai.APIStatusError, match="ended while it worked") as caught:
            client.chat.completions.create(model="", messages=_said("die"), stream=streamed)
        assert caught.value.response.headers["ms-azureml-model-error-statuscode"] == "500"
    stream = client.chat.completions.create(model="", messages=_said("half"), stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "f"]
    with pytest.raises(openai.APIError, match="ended while it worked"):
        next(stream)


def test_who_may_ask(local: Local, key: str) -> None:
    path, body = f"/inference/{NAME}/chat/completions", {"messages": _said("abc")}
    for token in ("", "wrong"):
        assert local.request("POST", path, json=body, token=token).status_code == 401
        assert local.request("GET", f"/inference/{NAME}/v1/models", token=token).status_code == 401
    told = local.request("POST", path, json=body, token=key, headers={"azureml-model-deployment": "blue"})
    assert (told.status_code, told.headers["azureml-model-deployment"]) == (200, "blue")
    other = local.request("POST", path, json=body, token=key, headers={"azureml-model-deployment": "red"})
    assert other.status_code == 404
    token = local.serve("by-token", "AMLToken")
    with _client(local, token, "by-token") as client:
        assert client.chat.completions.create(model="", messages=_said("abc")).choices[0].message.content == "cba"


def test_a_stream_has_the_time_of_a_request(local: Local, tmp_path: Path) -> None:
    key = local.serve("hurried", requestTimeout="PT1S")
    word = f"wait {tmp_path / 'go'}"
    with _client(local, key, "hurried") as client, pytest.raises(openai.APIError, match="upstream request timeout"):
        list(client.chat.completions.create(model="", messages=_said(word), stream=True))
    (tmp_path / "go").touch()


def test_the_instant_engine_streams_in_words(instant: Local) -> None:
    key = instant.serve(NAME)
    with _client(instant, key) as client:
        whole = client.chat.completions.create(model="", messages=_said("abc"), max_tokens=3)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("This is empty:", "length")
        chunks = list(client.chat.completions.create(model="", messages=_said("abc"), stream=True, stop="local"))
        assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "This", " is", " empty:", " the", None]
        assert chunks[-1].choices[0].finish_reason == "stop"
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="", messages=_said("a"), tools=[{"type": "function"}])  # type: ignore[list-item]  # of no form
        assert caught.value.param == "tools"
