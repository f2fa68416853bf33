"""A stream of a local workspace in this process: what reads it in pieces gets it in pieces."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from phift.azure.clients import Clients
from phift.local.pending import Pending, ScorerFailed
from phift.local.programs import InstantScorer
from phift.serving.deployment import deploy_model
from phift.serving.monitor import read_traffic
from phift.testing import Fault, TestWorkspace
from unit.fakes import A100

PHI = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"


class Slow:
    """A scorer that makes one piece more each time it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken_back = threading.Event()
        self.pending = Pending(60, self.taken_back.set)
        monkeypatch.setattr(InstantScorer, "open", lambda *_asked: self.pending)

    def make(self, piece: str) -> None:
        self.pending.say({"piece": piece})

    def end(self) -> None:
        self.pending.say({"texts": [""], "finish": ["stop"], "usage": [{"prompt": 1, "completion": 2}]})


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


@pytest.fixture
def asked(clients: Clients, slow: Slow) -> requests.Response:
    """A stream whose first piece has been made, and no more."""
    endpoint = deploy_model(clients, PHI, name="streaming", size=A100)
    key = clients.workspace.online_endpoints.get_keys("streaming").primary_key
    slow.make("first")
    return requests.post(
        endpoint.scoring_uri.replace("/score", "/v1/chat/completions"),
        json={"messages": [{"role": "user", "content": "a"}], "stream": True},
        headers={"Authorization": f"Bearer {key}"},
        stream=True,
        timeout=60,
    )


def said(line: bytes) -> Any:
    return json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"].get("content")


def test_each_piece_comes_when_it_is_made(asked: requests.Response, slow: Slow) -> None:
    assert asked.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    lines = (line for line in asked.iter_lines() if line)
    assert [said(next(lines)) for _ in range(2)] == ["", "first"]
    slow.make("second")
    assert said(next(lines)) == "second"
    slow.end()
    assert [said(next(lines)), next(lines)] == [None, b"data: [DONE]"]
    assert not slow.taken_back.is_set()


def test_who_reads_no_more_takes_the_rest_back(asked: requests.Response, slow: Slow) -> None:
    assert said(next(asked.iter_lines())) == ""
    asked.close()
    assert slow.taken_back.is_set()


def test_who_reads_the_body_gets_all_of_it(asked: requests.Response, slow: Slow) -> None:
    slow.end()
    assert asked.raw.read(15) == b'data: {"id": "c'
    assert asked.raw.read().endswith(b"data: [DONE]\n\n")


def test_a_stream_is_cut_in_half(workspace: TestWorkspace, request: pytest.FixtureRequest, slow: Slow) -> None:
    workspace.order(Fault("POST inference/*", cut="half"))
    slow.end()
    answer: requests.Response = request.getfixturevalue("asked")
    with pytest.raises(requests.RequestException):
        answer.content  # noqa: B018 - it is read then


def test_a_stream_that_breaks_off_says_so_and_counts_as_an_error(
    asked: requests.Response, slow: Slow, clients: Clients
) -> None:
    slow.pending.say(ScorerFailed("The process ended."))
    *_, error, done = (line for line in asked.iter_lines() if line)
    assert json.loads(error.removeprefix(b"data: "))["error"]["message"] == "The process ended."
    assert done == b"data: [DONE]"
    now = datetime.now(UTC)
    [traffic] = read_traffic(clients, "streaming", now - timedelta(minutes=5), now + timedelta(minutes=1)).values()
    assert (traffic.requests, traffic.errors) == (1, 1)


def test_a_failure_that_is_ordered_has_openais_form(
    workspace: TestWorkspace, request: pytest.FixtureRequest, slow: Slow
) -> None:
    workspace.order(Fault("scoring *", status=503, message="busy"))
    answer: requests.Response = request.getfixturevalue("asked")
    assert (answer.status_code, answer.headers["ms-azureml-model-error-statuscode"]) == (424, "503")
    assert answer.json()["error"] == {"message": "busy", "type": "InternalServerError", "param": None, "code": 503}
