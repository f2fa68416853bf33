"""A local deployment of a real model, under load: no wrong answer and no lost one."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import requests
from running import Local

pytestmark = pytest.mark.slow

NAME = "loaded"
CALLERS = 64
QUESTIONS = [f"What is element {number}? {'Think well. ' * (number % 5)}" for number in range(48)]


def _messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


class Callers:
    """Callers that ask at the same time, each over a connection of its own."""

    def __init__(self, local: Local, key: str) -> None:
        self._base, self._bundle = f"{local.connection.base_url}/inference/{NAME}", str(local.connection.ca_bundle)
        self._headers = {"Authorization": f"Bearer {key}"}
        self._own = threading.local()

    def _post(self, route: str, body: dict[str, Any]) -> requests.Response:
        if not hasattr(self._own, "session"):
            self._own.session = requests.Session()
            self._own.session.trust_env, self._own.session.verify = False, self._bundle
        session: requests.Session = self._own.session
        return session.post(f"{self._base}{route}", json=body, headers=self._headers, timeout=120)

    def ask(self, question: str, way: int) -> str:
        """Ask in one of the ways that a deployment has: MLflow's, a stream, and a whole completion."""
        asked: dict[str, Any]
        if way == 0:
            asked = {"input_data": {"input_string": _messages(question), "parameters": {"max_new_tokens": 8}}}
        else:
            asked = {"messages": _messages(question), "max_tokens": 8, "temperature": 0, "stream": way == 1}
        answer = self._post("/score" if way == 0 else "/v1/chat/completions", asked)
        assert answer.status_code == 200, answer.text
        if way == 0:
            return str(answer.json()[0]["0"])
        if way == 2:
            return str(answer.json()["choices"][0]["message"]["content"]).strip()
        *chunks, done = (line.removeprefix("data: ") for line in answer.text.split("\n\n") if line)
        assert done == "[DONE]"
        return "".join(json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks).strip()


@pytest.fixture(scope="module")
def key(workspace: Local) -> str:
    # Twice what the instance works on at once may be in flight, and no more.
    return workspace.serve(NAME, requestTimeout="PT90S", maxConcurrentRequestsPerInstance=CALLERS // 2)


@pytest.fixture(scope="module")
def alone(workspace: Local, key: str) -> dict[str, str]:
    """What is answered to each question where nobody else asks."""
    callers = Callers(workspace, key)
    return {question: callers.ask(question, 0) for question in QUESTIONS}


@pytest.mark.parametrize("many", [400, pytest.param(10_000, marks=pytest.mark.proof)])
def test_each_of_many_callers_gets_the_answer_to_its_own_question(
    workspace: Local, key: str, alone: dict[str, str], many: int
) -> None:
    assert len(set(alone.values())) > len(QUESTIONS) // 2, "a wrong answer would be seen"
    body = {"input_data": {"input_string": _messages("a")}}
    assert workspace.request("POST", f"/inference/{NAME}/score", json=body, token="").status_code == 401
    callers = Callers(workspace, key)

    def ask(number: int) -> bool:
        question = QUESTIONS[number % len(QUESTIONS)]
        return callers.ask(question, number % 3) == alone[question]

    with ThreadPoolExecutor(CALLERS) as pool:
        right = Counter(pool.map(ask, range(many)))
    assert right == {True: many}


@pytest.fixture
def client(workspace: Local, key: str) -> Iterator[openai.OpenAI]:
    base = f"{workspace.connection.base_url}/inference/{NAME}/v1"
    trusted = ssl.create_default_context(cafile=workspace.connection.ca_bundle)
    http = openai.DefaultHttpxClient(verify=trusted)
    with openai.OpenAI(base_url=base, api_key=key, max_retries=0, http_client=http) as client:
        yield client


def test_a_model_streams_its_tokens(client: openai.OpenAI) -> None:
    asked: Any = {"model": "", "messages": _messages("What is gold?"), "max_tokens": 200, "temperature": 0}
    began = time.perf_counter()
    times, text = [], ""
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        if chunk.choices and (said := chunk.choices[0].delta.content):
            times.append(time.perf_counter() - began)
            text += said
    assert chunk.usage is not None
    whole = client.chat.completions.create(**asked)
    assert (text, chunk.usage) == (whole.choices[0].message.content, whole.usage)
    assert whole.choices[0].finish_reason == ("length" if chunk.usage.completion_tokens == 200 else "stop")
    assert len(times) > 20
    assert times[0] < times[-1] / 2, "the first token leaves before the last one is made"


def test_a_model_stops_where_nobody_reads_on(workspace: Local, client: openai.OpenAI) -> None:
    def answered() -> int:
        path = f"{workspace.arm}/onlineEndpoints/{NAME}/deployments/blue/getLogs"
        return str(workspace.request("POST", path, json={}).json()["content"]).count(" conversations, ")

    before = answered()
    asked: Any = {"model": "", "messages": _messages("What is gold?"), "temperature": 0}
    with client.chat.completions.create(**asked, max_tokens=4000, stream=True) as stream:
        for _ in range(4):
            next(stream)
    # It is made after the one before it has ended.
    client.chat.completions.create(**asked, max_tokens=3)
    assert answered() == before + 1, "the one that was taken back is not answered"


def test_a_seed_a_text_to_stop_at_and_the_order_of_roles(client: openai.OpenAI) -> None:
    asked: Any = {"model": "", "messages": _messages("What is gold?"), "max_tokens": 30}
    hot = [client.chat.completions.create(**asked, seed=7, temperature=2).choices[0].message.content for _ in range(2)]
    assert hot[0] == hot[1]
    text = client.chat.completions.create(**asked, temperature=0).choices[0].message.content
    assert text
    stopped = client.chat.completions.create(**asked, temperature=0, stop=text[5:8]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text[: text.index(text[5:8])], "stop")
    asked["messages"] = [{"role": "assistant", "content": "a"}]
    with pytest.raises(openai.APIStatusError, match="The role is assistant"):
        client.chat.completions.create(**asked)
