"""An answer in pieces: what each is, when it came, and what is said where it breaks off."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phift.errors import PhiftError, ScoringError
from phift.serving.scoring import Answer
from phift.serving.streaming import ReplyStream, server_sent_events, streamed
from unit.loopback import Reply, Request, Script
from unit.test_asking import NO_ROUTE, by_path, completion, paths
from unit.test_endpoint import endpoint_at

SECRET = "what the model says"


def chunk(content: str | None = None, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {"choices": [{"index": 0, "delta": {**delta, **more}, "finish_reason": finish_reason}]}


def event(data: object) -> bytes:
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


DONE = event("[DONE]")
USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}}


def stream(pieces: Iterable[bytes | float | Exception]) -> Reply:
    """Answer with an event stream: bytes are sent, numbers slept, and errors cut it off."""

    def body(_request: Request) -> Iterator[bytes]:
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                yield piece
            else:
                time.sleep(piece)

    return Reply(body, headers={"Content-Type": "text/event-stream; charset=utf-8", "azureml-model-deployment": "b"})


def test_pieces_come_as_they_are_made(server: Script) -> None:
    """The second piece is sent when the first one has been read here."""
    was_read = threading.Event()

    def said() -> Iterator[bytes | float]:
        yield from (event(chunk(role="assistant", content="")), event(chunk("Au")))
        assert was_read.wait(30)
        yield from (0.3, event(chunk(" is")), event(chunk(" gold.")), event(chunk(finish_reason="stop")))
        yield from (event(USAGE), DONE)

    server.answers(stream(said()))
    with endpoint_at(server.url).stream("What is Au?", max_new_tokens=3) as answer:
        assert next(answer) == "Au"
        assert answer.first_token_seconds is not None
        was_read.set()
        assert list(answer) == [" is", " gold."]
    assert (answer.pieces, answer.in_one_piece, answer.text) == (3, False, "Au is gold.")
    reply = answer.reply
    assert (reply, reply.finish_reason, reply.deployment) == ("Au is gold.", "stop", "b")
    assert reply.usage == USAGE["usage"]
    (request,) = server.requests
    assert request.body["stream"]
    assert request.body["max_tokens"] == 3


def test_an_answer_that_came_at_once_is_called_so_however_many_parts_it_has(server: Script) -> None:
    whole = b"".join(event(chunk(f"{number} ")) for number in range(50)) + event(chunk(finish_reason="stop")) + DONE
    server.answers(stream([0.5, whole]))
    answer = endpoint_at(server.url).stream("Count.")
    assert len(list(answer)) == answer.pieces == 50
    assert answer.in_one_piece is True
    assert answer.first_token_seconds is not None
    assert answer.first_token_seconds >= 0.5


@pytest.mark.parametrize(
    ("asked", "last", "at_once"),
    [
        (10.0, 12.0, True),
        (10.0, 12.09, True),
        (10.0, 12.2, False),
        (11.0, 12.04, True),
        (11.0, 12.06, False),
        (-48.0, 12.09, True),
        (-48.0, 12.2, False),  # a minute for further tries, and for a model that was cold
    ],
)
def test_what_comes_soon_after_the_first_piece_comes_at_once(asked: float, last: float, at_once: bool) -> None:
    arrivals = iter([(12.0, chunk("a")), ((12.0 + last) / 2, chunk("b")), (last, chunk("c")), (30.0, USAGE)])
    answer = ReplyStream(arrivals, lambda: None, asked=asked, deployment=None)
    assert answer.reply == "abc"
    assert answer.first_token_seconds == 12.0 - asked
    assert answer.in_one_piece is at_once


def test_a_deployment_without_the_route_answers_in_one_piece(server: Script) -> None:
    server.answers(by_path(openai=NO_ROUTE, score=Reply([{"0": "Hello."}])))
    endpoint = endpoint_at(server.url)
    for _ in range(2):
        answer = endpoint.stream("Hi")
        assert list(answer) == ["Hello."]
        assert (answer.in_one_piece, answer.pieces, answer.reply) == (True, 1, "Hello.")
    assert paths(server) == ["/v1/chat/completions", "/score", "/score"]


def test_a_server_that_does_not_stream_though_asked_answers_in_one_piece(server: Script) -> None:
    server.answers(Reply(completion("Hello."), headers={"Content-Type": "application/json"}))
    answer = endpoint_at(server.url).stream("Hi")
    assert list(answer) == ["Hello."]
    assert answer.in_one_piece


def test_a_call_of_a_tool_comes_in_parts(server: Script) -> None:
    def part(index: int, **call: Any) -> bytes:
        return event(chunk(tool_calls=[{"index": index, **call}]))

    server.answers(
        stream(
            [
                part(0, id="a", type="function", function={"name": "weather", "arguments": ""}),
                part(0, function={"arguments": '{"city":'}),
                part(0, function={"arguments": ' "Bern"}'}),
                part(1, id="b", function={"name": "time", "arguments": "{}"}),
                event(chunk(finish_reason="tool_calls")),
                DONE,
            ]
        )
    )
    answer = endpoint_at(server.url).stream("Weather?")
    assert list(answer) == []
    assert [(call.id, call.name, call.parsed) for call in answer.reply.tool_calls] == [
        ("a", "weather", {"city": "Bern"}),
        ("b", "time", {}),
    ]
    assert answer.reply.finish_reason == "tool_calls"


FIRST = event(chunk(SECRET))


@pytest.mark.parametrize(
    ("rest", "what"),
    [
        ([ConnectionError()], "broke off after 1 parts"),
        ([], "broke off after 1 parts"),
        ([b"data: {\n\n"], "no JSON object"),
        ([event("[1]")], "no JSON object"),
        ([event({"error": {"message": SECRET, "type": "InternalServerError", "code": 500}})], "InternalServerError"),
        ([event({"object": "error", "message": SECRET, "type": "BadRequestError"})], "BadRequestError"),
        ([b"event: error\n" + event({"message": SECRET, "code": 507})], "507"),
        ([b"event: error\n" + event(f"Error parsing {SECRET}"), DONE], "failed"),
    ],
)
def test_a_stream_that_breaks_is_our_error_and_keeps_what_came(
    server: Script, caplog: pytest.LogCaptureFixture, rest: list[bytes | float | Exception], what: str
) -> None:
    server.answers(stream([FIRST, *rest]))
    answer = endpoint_at(server.url).stream("Hi")
    with caplog.at_level(logging.DEBUG), pytest.raises(ScoringError, match=what) as caught:
        list(answer)
    assert answer.text == SECRET
    assert answer.in_one_piece is None
    told = str(caught.value) + repr(caught.value) + repr(vars(caught.value)) + repr(answer) + caplog.text
    assert SECRET not in told


@pytest.mark.parametrize("status", [401, 404, 408, 500])
def test_a_refusal_comes_when_it_is_asked(server: Script, status: int) -> None:
    server.answers(Reply({}, status))
    with pytest.raises(PhiftError):
        endpoint_at(server.url).stream("Hi")


def test_whoever_leaves_early_ends_the_answer(server: Script) -> None:
    left: list[bool] = []

    def body(_request: Request) -> Iterator[bytes]:
        try:
            for _ in range(200):
                yield FIRST
                time.sleep(0.02)
        except GeneratorExit:
            pass
        left.append(True)

    server.answers(Reply(body, headers={"Content-Type": "text/event-stream"}))
    endpoint = endpoint_at(server.url)
    with endpoint.stream("Hi") as answer:
        assert next(answer) == SECRET
    began = time.monotonic()
    while not left and time.monotonic() - began < 3:
        gc.collect()
        time.sleep(0.01)
    assert left
    assert answer.reply == SECRET
    assert answer.reply.finish_reason is None


def test_a_stream_that_was_read_keeps_its_connection(server: Script) -> None:
    server.answers(stream([FIRST, event(chunk(finish_reason="stop")), DONE]))
    server.keeps = True
    endpoint = endpoint_at(server.url)
    for _ in range(3):
        server.answers(stream([FIRST, event(chunk(finish_reason="stop")), DONE]))
        server.keeps = True
        assert endpoint.stream("Hi").reply == SECRET
    assert server.connections == 0  # since the last answer was ordered
    endpoint.close()


def test_a_stream_does_not_outlast_its_timeout(server: Script) -> None:
    server.answers(stream([FIRST, 0.1] * 100))
    began = time.monotonic()
    with pytest.raises(PhiftError, match="within 1 s"):
        list(endpoint_at(server.url).stream("Hi", timeout=1))
    assert time.monotonic() - began < 4


class Sent:
    """What a server sends, byte for byte."""

    deployment = None

    def __init__(self, *pieces: bytes) -> None:
        self.headers = {"content-type": "text/event-stream"}
        self._pieces = pieces

    def pieces(self) -> Iterator[bytes]:
        yield from self._pieces

    def close(self) -> None:
        pass


def read(*pieces: bytes) -> str:
    return streamed(cast(Answer, Sent(*pieces)), "endpoint", 0.0).reply


def test_a_part_without_an_end_is_not_read_for_ever() -> None:
    for piece in (b"x" * (1 << 20), b"data: 1\n" * (1 << 17)):
        with pytest.raises(ScoringError, match="longer than 16 MiB"):
            read(*itertools.repeat(piece, 40))
    chatter = b": beat\n\n" * (1 << 17)
    assert read(*itertools.repeat(chatter, 40), FIRST, event(chunk(finish_reason="stop")), DONE) == SECRET


WORDS = st.sampled_from(["choices", "delta", "content", "tool_calls", "function", "index", "error", "finish_reason"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
)
LINES = (
    JSON.map(lambda value: event(json.dumps(value))) | st.binary() | st.sampled_from([FIRST, DONE, b"event: error\n"])
)


@given(st.lists(LINES))
def test_whatever_is_sent_is_a_reply_or_our_error(sent: list[bytes]) -> None:
    with suppress(ScoringError):
        assert isinstance(read(*sent), str)


EVENTS = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), min_size=1)


@given(EVENTS, st.lists(st.integers(1, 12)), st.sampled_from(["\n", "\r\n"]))
def test_events_are_the_same_however_they_are_cut(said: list[str], cuts: list[int], end: str) -> None:
    whole = "".join(f": beat{end}{end}id: 1{end}data: {each}{end}{end}" for each in said).encode()
    pieces, start = [], 0
    for cut in cuts:
        pieces.append((0.0, whole[start : start + cut]))
        start += cut
    found = server_sent_events([*pieces, (1.0, whole[start:])])
    assert [data for _, _, data in found] == said


def test_data_of_several_lines_is_one_and_its_event_has_a_name() -> None:
    told = b":\n\nevent: error\ndata: a\ndata:b\n\ndata: c\n\ndata: never whole"
    assert list(server_sent_events([(2.0, told)])) == [(2.0, "error", "a\nb"), (2.0, "", "c")]
