"""The gate of a rollout: whether what a new deployment has answered is good enough to go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from phift.errors import ConfigError, ScoringError
from phift.serving.monitor import Traffic

Outcome = Literal["pass", "fail", "not judged"]
_NOTICEABLE = 0.1  # seconds by which a p95 is longer that is too long beside another one; the number is ours
_NOTHING = Traffic(requests=0, errors=0, p95_seconds=None)


@dataclass(frozen=True)
class Verdict:
    """What a gate says.

    - **outcome**: ``pass``, ``fail``, or ``not judged`` where there is too little to judge by.
    - **reason**: why, in words.
    """

    outcome: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a new deployment must do at each step of a rollout.

    - **max_error_rate**: the share of its requests that may fail, 0 to 1.
    - **max_p95**: seconds that 95 % of its requests may take; None for any.
    - **max_p95_ratio**: how many times as long as with the old deployment, since the rollout began, where that one has
      answered enough and the difference is a tenth of a second at least; None for any.
    - **min_requests**: fewer are too few to judge by, and the rollout pauses.
    - **compare**: called once with both deployments before the new one gets any traffic, as
      `phift.compare_models` is: ``partial(compare_models, rows="test.jsonl")``. What it returns
      has a ``verdict``: ``worse`` fails, ``better`` passes.
    - **undecided**: what any other verdict does, such as ``cannot tell``: ``pass``, or ``pause``.
    """

    max_error_rate: float = 0.02
    max_p95: float | None = None
    max_p95_ratio: float | None = 2.0
    min_requests: int = 50
    compare: Callable[[Any, Any], Any] | None = None
    undecided: Literal["pass", "pause"] = "pass"

    def __post_init__(self) -> None:
        wrong = (
            (not 0 <= self.max_error_rate < 1, "`max_error_rate` is a share, 0 to less than 1."),
            (self.max_p95 is not None and not self.max_p95 > 0, "`max_p95` is a number of seconds above 0."),
            (self.max_p95_ratio is not None and not self.max_p95_ratio >= 1, "`max_p95_ratio` is at least 1."),
            (self.min_requests < 1, "`min_requests` is at least 1: an idle deployment is not judged."),
            (self.undecided not in ("pass", "pause"), "`undecided` is pass or pause."),
        )
        for is_wrong, what in wrong:
            if is_wrong:
                raise ConfigError(what, where="gate", fix="see `phift.Gate`")

    def judge(self, new: Traffic | None, old: Traffic | None) -> Verdict:
        """Judge what the new deployment has answered, beside the old one; None is none."""
        new = new or _NOTHING
        # Those that are missing could all be good, and it would be too many.
        if new.errors > self.max_error_rate * max(new.requests, self.min_requests):
            share = f"{new.errors} of {new.requests} requests failed, {new.error_rate:.1%}"
            return Verdict("fail", f"{share}; {self.max_error_rate:.1%} may")
        if new.requests < self.min_requests:
            came = f"{new.requests} requests came" if new.requests else "no request came"
            return Verdict("not judged", f"{came}; {self.min_requests} are needed to judge")
        said = f"{new.requests} requests, {new.error_rate:.1%} failed"
        if new.p95_seconds is None:
            return Verdict("pass", said)
        took = f"95 % of the requests took {new.p95_seconds:.3g} s at most"
        if self.max_p95 is not None and new.p95_seconds > self.max_p95:
            return Verdict("fail", f"{took}; {self.max_p95:g} s may be")
        if self.max_p95_ratio is not None and old and old.p95_seconds and old.requests >= self.min_requests:
            longer = new.p95_seconds - old.p95_seconds
            if longer >= _NOTICEABLE and new.p95_seconds > self.max_p95_ratio * old.p95_seconds:
                beside = f"the old deployment's {old.p95_seconds:.3g} s"
                return Verdict("fail", f"{took}, more than {self.max_p95_ratio:g} times {beside}")
        return Verdict("pass", f"{said}, {took}")

    def judge_answers(self, before: object, after: object) -> Verdict:
        """Have both deployments compared; without a comparison it passes, and without answers it fails."""
        if self.compare is None:
            return Verdict("pass", "no comparison was asked for")
        try:
            found = self.compare(before, after)
        except ScoringError as error:
            return Verdict("fail", f"the comparison got no answers: {error.what}")
        verdict = str(getattr(found, "verdict", found))
        said = f"the comparison says: {verdict}"
        if verdict in ("worse", "better"):
            return Verdict("fail" if verdict == "worse" else "pass", said)
        return Verdict("pass" if self.undecided == "pass" else "not judged", said)

    def written(self, *, compares: bool = False) -> str:
        """Return it as a tag has it; of the comparison only that there is one.

        - **compares**: whether there is one though it has not been handed in again.
        """
        numbers = [self.max_error_rate, self.max_p95, self.max_p95_ratio, self.min_requests]
        return json.dumps([1, *numbers, self.undecided, compares or self.compare is not None], separators=(",", ":"))

    @classmethod
    def read(cls, tag: str) -> tuple[Gate, bool]:
        """Return a gate of a tag, and whether its comparison is to be handed in again.

        Raises `phift.errors.ConfigError` for what no gate has written.
        """
        told: Any = None
        with suppress(ValueError):
            told = json.loads(tag)
        match told:
            case [1, errors, p95, ratio, int(least), "pass" | "pause" as undecided, compares]:
                gate = cls(max_error_rate=errors, max_p95=p95, max_p95_ratio=ratio, min_requests=least)
                return replace(gate, undecided=undecided), bool(compares)
        what = "The endpoint's tag with the gate of its rollout cannot be read."
        raise ConfigError(what, where="gate", fix="give the gate again")
