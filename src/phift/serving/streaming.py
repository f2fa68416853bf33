"""An answer in pieces, as they come, and how they came.

Azure's MLflow server does not stream (azureml-inference-server, issue 53, open since 2024), and its vLLM container
reads the whole answer before it sends the first byte (foundation-model-serve, api_server.py, azureml-assets,
2026-07-23). So it is measured when each piece arrives, and said where all of them came at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from phift import errors
from phift.azure.answers import mapping
from phift.serving.chat import Reply, kind_of_failure, read_calls, read_reply, read_usage, text_of
from phift.serving.scoring import Answer

_AT_ONCE, _MOST_AT_ONCE = 0.05, 0.1
"""What came within this share of the time to the first piece, and within these seconds, came in one piece with it.

That time counts further tries and a cold start, too.
"""

_LONGEST_EVENT = 16 << 20
"""Bytes of one event of a stream; a part of an answer has a few hundred."""

Arrival = tuple[float, Mapping[str, Any]]
"""When a part of an answer came, by the monotonic clock, and the part: OpenAI's chunk of a chat completion."""


class _TooLong(ValueError):
    """An event of a stream goes on and on."""


class ReplyStream:
    """Yields an answer's text piece by piece, as the pieces come; a context manager, at whose end no more is read.

    - **first_token_seconds**: from the question to the first piece; None before it has come.
    - **pieces**: how many have come so far.
    - **text**: what has come so far, of an answer that broke off too.

    Raises `phift.errors.ScoringError` where the answer breaks off, is no stream, or tells of an error.
    """

    def __init__(
        self, arrivals: Iterator[Arrival], close: Callable[[], None], *, asked: float, deployment: str | None
    ) -> None:
        self.first_token_seconds: float | None = None
        self.pieces = 0
        self._arrivals, self._close = arrivals, close
        self._asked, self._last = asked, asked
        self._deployment = deployment
        self._texts: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish_reason: str | None = None
        self._usage: dict[str, int] = {}
        self._closed = self._ended = False

    def __repr__(self) -> str:
        return f"<ReplyStream {self.pieces} pieces{', ended' if self._ended else ''}>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._closed:
            raise StopIteration
        try:
            for when, chunk in self._arrivals:
                if piece := self._take(when, chunk):
                    return piece
        except BaseException:
            self.close()
            raise
        self._ended = True
        self.close()
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Read no more, which has a server that streams stop; twice does no harm."""
        self._closed = True
        self._close()

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self._texts)

    @property
    def in_one_piece(self) -> bool | None:
        """Whether the whole answer came at one moment, so that nothing was gained by streaming; None before its end."""
        if not self._ended or self.first_token_seconds is None:
            return None
        bound = min(_AT_ONCE * self.first_token_seconds, _MOST_AT_ONCE)
        return self._last - self._asked - self.first_token_seconds <= bound

    @property
    def reply(self) -> Reply:
        """The whole answer; what has not come yet is waited for. Of one that was closed before, what had come."""
        for _ in self:
            pass
        calls = read_calls({"tool_calls": [self._calls[index] for index in sorted(self._calls)]}, "endpoint")
        about: dict[str, Any] = {"finish_reason": self._finish_reason, "usage": self._usage}
        return Reply(self.text, tool_calls=calls, **about, deployment=self._deployment)

    def _take(self, when: float, chunk: Mapping[str, Any]) -> str:
        """Take in a part of the answer, and return its text."""
        self._usage |= read_usage(chunk.get("usage"))
        choices = chunk.get("choices")
        choice = mapping(choices[0]) if isinstance(choices, list) and choices else {}
        delta = mapping(choice.get("delta"))
        if isinstance(reason := choice.get("finish_reason"), str):
            self._finish_reason = errors.in_a_line(reason)
        calls = delta.get("tool_calls")
        for call in map(mapping, calls if isinstance(calls, list) else ()):
            self._take_call(call)
        text = text_of(delta.get("content")) or ""
        if text or calls:
            self.pieces += 1
            self._last = when
            if self.first_token_seconds is None:
                self.first_token_seconds = when - self._asked
        if text:
            self._texts.append(text)
        return text

    def _take_call(self, part: Mapping[str, Any]) -> None:
        """Put a part of a call to the others of it; the first one has its name."""
        index = part.get("index")
        call = self._calls.setdefault(index if isinstance(index, int) else len(self._calls), {"function": {}})
        call["id"] = call.get("id") or part.get("id")
        function = mapping(part.get("function"))
        known = call["function"]
        known["name"] = known.get("name") or function.get("name")
        known["arguments"] = f"{known.get('arguments') or ''}{function.get('arguments') or ''}"


def in_one(reply: Reply, asked: float) -> ReplyStream:
    """Return an answer that came as a whole as a stream of one piece."""
    calls = [{"index": index, **call.to_dict()} for index, call in enumerate(reply.tool_calls)]
    delta = {"content": str(reply), **({"tool_calls": calls} if calls else {})}
    chunk = {"choices": [{"delta": delta, "finish_reason": reply.finish_reason}], "usage": reply.usage}
    arrivals = iter([(time.monotonic(), chunk)])
    return ReplyStream(arrivals, lambda: None, asked=asked, deployment=reply.deployment)


def streamed(answer: Answer, place: str, asked: float) -> ReplyStream:
    """Return the stream of a server's answer; one that does not stream though it was asked to is in one piece."""
    if "text/event-stream" not in (answer.headers.get("content-type") or ""):
        with answer:
            return in_one(read_reply(answer.json(), place, answer.deployment), asked)
    return ReplyStream(_chunks(answer, place), answer.close, asked=asked, deployment=answer.deployment)


def _chunks(answer: Answer, place: str) -> Iterator[Arrival]:
    """Yield the parts of a streamed chat completion, each with the time it came at."""
    is_whole, count = False, 0
    try:
        for when, event, data in server_sent_events(_timed(answer.pieces())):
            if data == "[DONE]":
                is_whole = True  # what may follow is read, so that the connection can be kept
                continue
            chunk = _read_chunk(event, data, place)
            count += 1
            choices = chunk.get("choices")
            is_whole |= isinstance(choices, list) and any(mapping(each).get("finish_reason") for each in choices)
            yield when, chunk
    except _TooLong:
        raise _broken(f"at a part that is longer than {_LONGEST_EVENT >> 20} MiB.", place) from None
    except errors.ServiceUnreachable as error:
        if not is_whole:
            raise _broken(f"after {count} parts. {error.what}", place) from None
    if not is_whole:
        raise _broken(f"after {count} parts, without an end of its own.", place)


def _timed(pieces: Iterable[bytes]) -> Iterator[tuple[float, bytes]]:
    for piece in pieces:
        yield time.monotonic(), piece


def server_sent_events(pieces: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, str, str]]:
    """Yield the events of a stream, each as the time it was complete at, its name and its data (HTML, section 9.2).

    Raises `ValueError` for one that is longer than 16 MiB.
    """
    rest, event, data, size = b"", "", list[str](), 0
    for when, piece in pieces:
        if (size := size + len(piece)) > _LONGEST_EVENT:
            raise _TooLong
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            text = line.removesuffix(b"\r").decode("utf-8", "replace")
            field, _, value = text.partition(":")
            if field == "data":
                data.append(value.removeprefix(" "))
            elif field == "event":
                event = value.strip()
            elif not text:
                if data:
                    yield when, event, "\n".join(data)
                event, data, size = "", [], 0


def _read_chunk(event: str, data: str, place: str) -> Mapping[str, Any]:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        chunk = {"error": "no JSON"} if event == "error" else None
    if not isinstance(chunk, dict):
        raise _broken("at a part that is no JSON object.", place)
    if failed := kind_of_failure({"error": chunk} if event == "error" and "error" not in chunk else chunk):
        fix = "look at the deployment's log; what had come is in the stream's `text`"
        raise errors.ScoringError(f"The model server failed: {failed}.", where=place, fix=fix)
    return chunk


def _broken(how: str, place: str) -> errors.ScoringError:
    """Return the error for an answer that broke off; what the model had said is in the stream and not in it."""
    fix = "ask again; what had come is in the stream's `text`"
    return errors.ScoringError(f"The answer broke off {how}", where=place, fix=fix)
