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
LOOKS = 3  # calls of a removal until it begins: what there is, whose it is, and the job


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
        if isinstance(error, KeyboardInterrupt) and mine in now and first >= LOOKS:
            assert times == MOST, first  # one interruption finishes what is under way
            assert f"phift cleanup {NAME}/{mine}" in told(error), (first, told(error))
        again = attempt(lambda made=fakes: remove_endpoints_of(made.clients, name))  # type: ignore[misc]  # as above
        assert again is None or error is None or mine not in now, (first, again)
        assert there(fakes) == {others: 100}, first
        if not struck:
            return
    raise AssertionError("The chain has more calls than that.")


@pytest.mark.parametrize("strikes", [1, 2])
def test_a_refusal_or_an_interruption_at_a_shared_endpoint_leaves_nothing_unsaid(strikes: int) -> None:
    """A run has a deployment beside another run's, and an endpoint of its own."""
    for error in (http_error(403, "no right"), KeyboardInterrupt()):
        fakes = Fakes()
        deploy(fakes, "first", "default")
        deploy(fakes, "second", "green")
        fakes.add_endpoint("phift-alone", tags={"phift.job": "second"})
        fakes.workspace.record.fail("online_endpoints.begin_create_or_update", *[error] * strikes)
        caught = attempt(lambda made=fakes: remove_endpoints_of(made.clients, "second"))  # type: ignore[misc]  # as above
        assert caught is not None
        is_left = not isinstance(caught, PhiftError)
        assert ("phift-alone" in fakes.workspace.online_endpoints.known) == is_left
        assert not is_left or "phift cleanup phift-alone" in told(caught)
        assert ("green" in there(fakes)) == (strikes == 2 or not is_left)
        assert "green" not in there(fakes) or f"phift cleanup {NAME}/green" in told(caught)


def test_an_interruption_before_a_deletion_begins_finishes_it_and_a_second_one_names_it() -> None:
    for strikes in (1, 2):
        fakes = Fakes()
        for name in ("phift-a", "phift-b"):
            fakes.add_endpoint(name, tags={"phift.job": "job"})
        fakes.workspace.record.fail("online_endpoints.get", *[KeyboardInterrupt()] * strikes)
        caught = attempt(lambda made=fakes: remove_endpoints_of(made.clients, "job"))  # type: ignore[misc]  # as above
        assert isinstance(caught, KeyboardInterrupt)
        left = set(fakes.workspace.online_endpoints.known)
        assert len(left) == strikes
        assert [name for name in ("phift-a", "phift-b") if f"phift cleanup {name}" in told(caught)] == sorted(left)
