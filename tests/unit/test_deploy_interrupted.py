"""A deployment beside another run's, and its removal, with a failure or an interruption at each single call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phift.errors import PhiftError
from phift.serving.cleanup import remove_endpoints_of
from unit.fakes import Fakes, http_error
from unit.stubs import Record
from unit.test_sharing import NAME, deploy, there

MOST = 60  # calls of one chain


class Trouble:
    """Fails the calls from the ``first``-th on, ``times`` of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]) -> None:
        self.error, self.first, self.times, self.calls = error, -1, 0, 0
        plain = Record.__call__

        def called(record: Record, operation: str, *names: str) -> None:
            self.calls += 1
            plain(record, operation, *names)
            if 0 <= self.first < self.calls <= self.first + self.times:
                raise self.error()

        monkeypatch.setattr(Record, "__call__", called)

    def order(self, first: int, times: int = 1) -> None:
        self.first, self.times, self.calls = first, times, 0

    @property
    def struck(self) -> bool:
        return self.calls > self.first


def told(error: BaseException) -> str:
    return "\n".join([str(error), str(getattr(error, "fix", "")), *getattr(error, "__notes__", [])])


ERRORS: dict[str, Callable[[], BaseException]] = {
    "a failure": lambda: http_error(500, "no"),
    "a refusal": lambda: http_error(403, "no right"),
    "an interruption": KeyboardInterrupt,
}


@pytest.fixture(params=ERRORS)
def trouble(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, sleeps: list[float]) -> Trouble:
    return Trouble(monkeypatch, ERRORS[request.param])


def attempt(work: Callable[[], Any]) -> BaseException | None:
    try:
        work()
    except (PhiftError, KeyboardInterrupt) as error:
        return error
    return None


@pytest.mark.parametrize("times", [1, MOST])
def test_a_deployment_beside_another_runs(trouble: Trouble, times: int) -> None:
    for first in range(MOST):
        fakes = Fakes()
        trouble.order(MOST**2)
        deploy(fakes, "first", "default")
        trouble.order(first, times)
        error = attempt(lambda made=fakes: deploy(made, "second", "green"))  # type: ignore[misc]  # mypy and defaults
        struck = trouble.struck
        trouble.order(MOST**2)
        serving = [name for name, share in there(fakes).items() if share == 100]
        assert serving in (["default"], ["green"]), first
        if error is not None:
            left = "green" in there(fakes)
            assert not left or f"{NAME}/green" in told(error) or f"endpoint {NAME}" in told(error), (first, told(error))
        assert attempt(lambda made=fakes: deploy(made, "second", "green")) is None  # type: ignore[misc]  # as above
        assert there(fakes) == {"default": 0, "green": 100}, first
        if not struck:
            return
    raise AssertionError("The chain has more calls than that.")


@pytest.mark.parametrize("times", [1, MOST])
@pytest.mark.parametrize("name", ["first", "second"])
def test_the_removal_of_one_of_two_runs(trouble: Trouble, name: str, times: int) -> None:
    for first in range(MOST):
        fakes = Fakes()
        trouble.order(MOST**2)
        deploy(fakes, "first", "default")
        deploy(fakes, "second", "green")
        trouble.order(first, times)
        error = attempt(lambda made=fakes: remove_endpoints_of(made.clients, name))  # type: ignore[misc]  # as above
        struck = trouble.struck
        trouble.order(MOST**2)
        mine, others = ("default", "green") if name == "first" else ("green", "default")
        now = there(fakes)
        assert others in now, first
        assert sum(now.values()) == 100, first
        if error is not None and mine in now and isinstance(error, PhiftError) and "deletion" in told(error):
            assert f"{NAME}/{mine}" in told(error), (first, told(error))
        again = attempt(lambda made=fakes: remove_endpoints_of(made.clients, name))  # type: ignore[misc]  # as above
        assert again is None or error is None, (first, again)
        assert there(fakes) == {others: 100}, first
        if not struck:
            return
    raise AssertionError("The chain has more calls than that.")
