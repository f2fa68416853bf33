"""Both models are asked each row, greedily, first the one and then the other in turn."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

from phift.azure.threads import SideBySide
from phift.errors import (
    ConfigError,
    PhiftError,
    ScoringError,
    ServiceUnreachable,
    Throttled,
    WaitTimeout,
    in_a_line,
)
from phift.evaluation.rows import HeldOutRow, said
from phift.serving.batch import ConcurrencyLimit
from phift.serving.chat import SAID_NOTHING, UNNAMED_CALL, Message
from phift.serving.endpoint import Endpoint

AnyModel: TypeAlias = Endpoint | tuple[Endpoint, str] | Callable[[Sequence[Message]], str | None]
"""What answers: an endpoint, or the deployment of this name on one, or a function of messages."""

Side = Literal["before", "after"]
SIDES: tuple[Side, Side] = ("before", "after")

_MODELS_OWN = (SAID_NOTHING, UNNAMED_CALL)  # which it says again, however often it is asked
_TOO_LONG = 408  # the status where an answer took longer than the deployment may
# Statuses of a container or a gateway that may be up again soon; a container answers so with 200, too.
_PASSING = (200, 424, 500, 502, 503, 504)
_PAUSES = (1.0, 4.0, 16.0)  # seconds before a row is asked again, beside those of each request at a busy deployment


@dataclass(frozen=True, kw_only=True)
class RowCompared:
    """Both models have been asked one more row.

    - **rows**, **total_rows**: how many they have been asked, and of how many.
    """

    kind: ClassVar[Literal["row_compared"]] = "row_compared"

    before: str
    after: str
    rows: int
    total_rows: int
    time: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {"event": self.kind, **asdict(self), "time": self.time.isoformat()}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What both models said to one row.

    - **asked_first**: which of them.
    - **failed**: why a model gave no answer to this row, which counts as an empty one.
    """

    before: str
    after: str
    asked_first: Side
    failed: Mapping[Side, str]


@dataclass(frozen=True)
class Model:
    """What is asked, and how it is called in a table."""

    name: str
    ask: Callable[[HeldOutRow], str | None] = field(repr=False)

    @classmethod
    def of(cls, model: AnyModel, max_new_tokens: int) -> Model:
        """Return whatever answers as something to ask.

        Raises `phift.errors.ConfigError` for what cannot answer.
        """
        match model:
            case Endpoint():
                return cls(model.name, partial(_ask_endpoint, model, None, max_new_tokens))
            case (Endpoint() as endpoint, str(deployment)):
                name = f"{endpoint.name}/{deployment}"
                return cls(name, partial(_ask_endpoint, endpoint, deployment, max_new_tokens))
            case _ if callable(model):
                name = getattr(model, "__name__", type(model).__name__)
                return cls(str(name), lambda row: _text(model(row.prompt)))
        fix = "give an Endpoint, an (Endpoint, deployment) pair, or a function of messages that returns a text"
        raise ConfigError("This cannot be asked.", where=f"a model, {type(model).__name__}", fix=fix)


def _text(answer: object) -> str | None:
    return None if answer is None else str(answer)


def _ask_endpoint(endpoint: Endpoint, deployment: str | None, max_new_tokens: int, row: HeldOutRow) -> str:
    reply = endpoint.chat(
        row.prompt, deployment=deployment, max_new_tokens=max_new_tokens, do_sample=False, tools=row.tools or None
    )
    return said(str(reply), [call.to_dict() for call in reply.tool_calls])


def ask_both(
    before: Model,
    after: Model,
    rows: Sequence[HeldOutRow],
    *,
    seed: int,
    concurrency: int,
    tell: Callable[[RowCompared], None],
) -> Generator[Answers, None, None]:
    """Yield what both models say to each row, in the rows' order.

    Which of them is asked first alternates from row to row, and the seed draws who begins: what changes while they are
    asked is no one's advantage. What a model answers with nothing, or is not done with in time, counts as an empty
    answer. A fault that passes is waited for, and a busy deployment asked with fewer at once; whatever else a model
    raises ends it, with the row in a note.

    - **concurrency**: rows at once.
    """
    begins = random.Random(seed).randrange(2)  # noqa: S311 - a choice, no secret
    limit = ConcurrencyLimit(concurrency, f"{before.name} and {after.name}")

    def ask(index: int) -> Answers:
        order = SIDES if (index + begins) % 2 == 0 else SIDES[::-1]
        answers: dict[Side, str] = {}
        failed: dict[Side, str] = {}
        for side in order:
            model, note = before if side == "before" else after, f"The model {side} was asked row {rows[index].number}."
            try:
                found = limit.answer(partial(_asked, model, rows[index], limit))
            except Exception as error:
                error.add_note(note)
                raise
            if isinstance(found, PhiftError):
                found.add_note(note)
                raise found
            answers[side], why = found
            if why:
                failed[side] = why
        return Answers(**answers, asked_first=order[0], failed=failed)

    def told(index: int, answers: Answers) -> Answers:
        tell(RowCompared(before=before.name, after=after.name, rows=index + 1, total_rows=len(rows)))
        return answers

    if concurrency == 1:  # in this thread, where a function that is no endpoint may want to be
        yield from (told(index, ask(index)) for index in range(len(rows)))
        return
    with SideBySide(concurrency) as side, limit:
        futures = [side.begin(ask, index) for index in range(len(rows))]
        yield from (told(index, future.result()) for index, future in enumerate(futures))


def _asked(model: Model, row: HeldOutRow, limit: ConcurrencyLimit) -> tuple[str, str]:
    """Return what a model says to a row, and why if it says nothing; again, after a pause, where a fault may pass."""
    for pause in (*_PAUSES, None):
        try:
            answer = model.ask(row)
        except Throttled:
            limit.slow_down()
        except (ScoringError, ServiceUnreachable, WaitTimeout) as error:
            if isinstance(error, ScoringError) and (error.code in _MODELS_OWN or error.status == _TOO_LONG):
                return "", in_a_line(error.what)
            if pause is None or (isinstance(error, ScoringError) and error.status not in _PASSING):
                raise
            time.sleep(pause)
        else:
            return ("", "It returned None.") if answer is None else (answer, "")
    raise AssertionError  # never: the last fault is raised
