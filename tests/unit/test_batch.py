"""Many conversations at once: in order, bounded, patient, and one failure is one."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from phift import ChatProgress, EventPrinter
from phift import Reply as Said
from phift.errors import (
    AuthenticationError,
    DataError,
    ParameterError,
    PhiftError,
    ScoringError,
    ServiceUnreachable,
    Throttled,
    WaitTimeout,
)
from unit.loopback import Reply, Request, Script
from unit.test_endpoint import endpoint_at


def question(request: Request) -> str:
    return str(request.body["input_data"]["input_string"][-1]["content"])


ECHO = Reply(lambda request: [question(request)])


class Deployment:
    """Takes so many at once, refuses others with 429, and keeps count."""

    def __init__(self, most: int, seconds: float = 0.01) -> None:
        self.most, self.seconds = most, seconds
        self.inside = self.highest = 0
        self.statuses: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __call__(self, _request: Request) -> Reply:
        with self._lock:
            self.inside += 1
            self.highest = max(self.highest, self.inside)
            busy = self.inside > self.most
            self.statuses[429 if busy else 200] += 1
        if not busy:
            time.sleep(self.seconds)
        with self._lock:
            self.inside -= 1
        return Reply({}, 429) if busy else ECHO


def test_answers_come_in_the_order_of_the_questions(server: Script) -> None:
    deployment = Deployment(100)
    server.answers(deployment)
    questions = [f"Question {number}?" for number in range(60)]
    told: list[ChatProgress] = []
    answers = endpoint_at(server.url).chat_many(iter(questions), concurrency=5, on_progress=told.append)
    assert answers == questions
    assert 1 < deployment.highest <= 5
    assert [each.done for each in told] == list(range(1, 61))
    assert {(each.total, each.failed, each.endpoint) for each in told} == {(60, 0, "phift-e")}


def test_one_failure_is_one(server: Script) -> None:
    server.answers(lambda request: Reply({}, 424) if question(request) == "bad" else ECHO)
    first, second, third, fourth = endpoint_at(server.url).chat_many(["a", "bad", [{"role": "user"}], "b"])
    assert (first, fourth) == ("a", "b")
    assert isinstance(second, ScoringError)
    assert isinstance(third, DataError)
    assert third.where == "conversation 3, message 1"


def test_what_refuses_one_for_all_is_asked_once(server: Script) -> None:
    server.answers(Reply({}, 401))
    answers = endpoint_at(server.url).chat_many(["?"] * 50, concurrency=2)
    assert {type(answer) for answer in answers} == {AuthenticationError}
    assert len(server.requests) <= 3


def cut_off(_request: Request) -> Iterator[bytes]:
    raise ConnectionError
    yield b""


def test_a_broken_connection_costs_one_answer(server: Script) -> None:
    server.answers(lambda request: Reply(cut_off) if question(request) == "3" else ECHO)
    questions = [f"{number}" for number in range(20)]
    answers = endpoint_at(server.url).chat_many(questions, concurrency=2)
    assert isinstance(answers[3], ServiceUnreachable)
    assert [*answers[:3], *answers[4:]] == [*questions[:3], *questions[4:]]


def test_an_endpoint_that_is_gone_is_not_asked_for_each(server: Script) -> None:
    server.answers(Reply(cut_off))
    answers = endpoint_at(server.url).chat_many(["?"] * 50, concurrency=2)
    assert {type(answer) for answer in answers} == {ServiceUnreachable}
    assert len(server.requests) <= 10


def test_a_broken_connection_in_ten_ends_nothing(server: Script) -> None:
    server.answers(lambda request: Reply(cut_off) if question(request).endswith("3") else ECHO)
    answers = endpoint_at(server.url).chat_many([f"{number}" for number in range(100)], concurrency=4)
    assert sum(isinstance(answer, ServiceUnreachable) for answer in answers) == 10


def test_a_busy_deployment_is_asked_with_fewer_at_once(server: Script) -> None:
    deployment = Deployment(2, seconds=0.02)
    server.answers(deployment)
    questions = [f"Question {number}?" for number in range(120)]
    assert endpoint_at(server.url).chat_many(questions, concurrency=16) == questions
    assert deployment.statuses[200] == 120
    assert deployment.statuses[429] < 240  # each question is refused twice at most, on average


def test_a_deployment_that_is_busy_for_good_is_given_up(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.serving.batch._LONGEST_WITHOUT_ANSWER", 0.1)
    server.answers(Reply({}, 429))
    answers = endpoint_at(server.url).chat_many(["a", "b"], concurrency=2)
    assert [type(answer) for answer in answers] == [Throttled, Throttled]


def test_what_waits_behind_a_busy_deployment_is_given_up_with_it(
    server: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phift.serving.batch._LONGEST_WITHOUT_ANSWER", 0.1)
    server.answers(Reply({}, 429))
    answers = endpoint_at(server.url).chat_many(["?"] * 40, concurrency=4)
    assert {type(answer) for answer in answers} == {Throttled}
    assert len(server.requests) < 40


def test_an_endpoint_that_hangs_is_not_waited_for_with_each(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.serving.batch._LONGEST_WITHOUT_ANSWER", 0.3)
    release = threading.Event()
    server.answers(ECHO)
    server.before = lambda: (release.wait(20), None)[1]
    answers = endpoint_at(server.url).chat_many(["?"] * 40, concurrency=2, timeout=0.25)
    release.set()
    assert {type(answer) for answer in answers} == {WaitTimeout}
    assert len(server.requests) <= 6


def test_one_question_that_takes_too_long_ends_nothing(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.serving.batch._LONGEST_WITHOUT_ANSWER", 0.2)
    release = threading.Event()

    def answer(request: Request) -> Reply:
        if question(request) == "long":
            release.wait(20)
        return ECHO

    server.answers(answer)
    first, *others = endpoint_at(server.url).chat_many(["long", "a", "b"], concurrency=1, timeout=0.4)
    release.set()
    assert (type(first), others) == (WaitTimeout, ["a", "b"])


def test_an_interruption_ends_it_at_once_and_asks_no_further_one(server: Script) -> None:
    release = threading.Event()
    server.answers(ECHO)
    server.before = lambda: (release.wait(20), None)[1]
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        endpoint_at(server.url).chat_many([f"{number}" for number in range(30)], concurrency=3)
    assert time.monotonic() - began < 5
    release.set()
    time.sleep(0.3)
    assert len(server.requests) <= 3


def test_settings_are_checked_before_anything_is_sent(server: Script) -> None:
    server.answers(ECHO)
    endpoint = endpoint_at(server.url)
    wrong: list[dict[str, Any]] = [{"concurrency": 0}, {"concurrency": True}, {"max_tokens": 5}, {"stream": True}]
    for settings in wrong:
        with pytest.raises(ParameterError):
            endpoint.chat_many(["a"], **settings)
    with pytest.raises(DataError):
        endpoint.chat_many("a")
    assert server.requests == []
    assert endpoint.chat_many([]) == []


def test_settings_go_with_each(server: Script) -> None:
    server.answers(ECHO)
    answers = endpoint_at(server.url).chat_many(["a", "b"], max_new_tokens=5, deployment="blue", timeout=30)
    assert all(isinstance(answer, Said) for answer in answers)
    for request in server.requests:
        assert request.body["input_data"]["parameters"]["max_new_tokens"] == 5
        assert request.headers["azureml-model-deployment"] == "blue"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_is_shown(server: Script, terminal: bool) -> None:
    server.answers(lambda request: Reply({}, 424) if question(request) == "bad" else ECHO)
    out = io.StringIO()
    printer = EventPrinter(Console(file=out, force_terminal=terminal, width=120))
    endpoint_at(server.url).chat_many(["a", "bad", "b"], concurrency=1, on_progress=printer)
    assert "asking phift-e" in out.getvalue()
    if terminal:
        assert "3 of 3 conversations, 1 failed" in out.getvalue()
        assert out.getvalue().endswith(("\x1b[?25h", "\n"))


def test_a_handler_that_fails_costs_no_answer(server: Script, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_progress: ChatProgress) -> None:
        raise PhiftError("odd")

    server.answers(ECHO)
    assert endpoint_at(server.url).chat_many(["a", "b"], on_progress=fails) == ["a", "b"]
    assert len(caplog.records) == 1
