"""A rollout in a workspace in this process: its steps, its gate, and what becomes of it when it is left alone."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.ai.ml.entities import Model
from click.testing import CliRunner, Result

from phift.azure.clients import Clients
from phift.cli.commands import main
from phift.errors import (
    ConfigError,
    Conflict,
    DeploymentFailed,
    NotFound,
    PhiftError,
    ScoringError,
    ServiceUnreachable,
    WaitTimeout,
)
from phift.serving import resource, sharing
from phift.serving import rollout as module
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.gate import Gate, Verdict
from phift.serving.model import another_model
from phift.serving.monitor import Traffic, read_traffic
from phift.serving.resource import DeploymentEvent, Resource
from phift.serving.rollout import Rollout
from phift.serving.rollout_ledger import Ledger
from phift.serving.rollout_state import GATE, STATE, RolloutEvent, RolloutStatus, State, read_state
from phift.serving.sharing import free_name
from phift.testing import Fault, TestWorkspace
from unit import given
from unit.fakes import A100, Fakes

REGISTRY = "azureml://registries/azureml/models"
OLD, NEW = f"{REGISTRY}/Phi-4-mini-instruct/versions/1", f"{REGISTRY}/Phi-3-mini-4k-instruct/versions/15"
OTHER = "third:1"
NAME = "rolled"
QUICK: dict[str, Any] = {"soak": 0.3, "steps": (40, 70, 100), "gate": Gate(min_requests=1, max_p95_ratio=None)}


def add_third(clients: Clients, folder: Path) -> None:
    (folder / "MLmodel").write_text("flavors: {}\n")
    third = Model(name="third", version="1", path=folder, type="mlflow_model", tags={"phift.job": "its-job"})
    clients.workspace.models.create_or_update(third)


@pytest.fixture
def endpoint(workspace: TestWorkspace, clients: Clients, tmp_path: Path) -> Endpoint:
    workspace.set_quota(A100, 1000)
    add_third(clients, tmp_path)
    config = {"deployment_name": "blue", "max_concurrent_requests": 8}
    return deploy_model(clients, OLD, name=NAME, size=A100, config=config)


@contextmanager
def load(endpoint: Endpoint) -> Iterator[list[BaseException]]:
    """Ask all the time, and gather what goes wrong."""
    over, wrong = threading.Event(), list[BaseException]()

    def ask() -> None:
        while not over.is_set():
            try:
                endpoint.chat("hello")
            except PhiftError as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        over.set()
        for thread in threads:
            thread.join()


def traffic(clients: Clients) -> dict[str, int]:
    found = clients.workspace.online_endpoints.get(NAME)
    return {name: share for name, share in found.traffic.items() if share}


def deployments(clients: Clients) -> list[str]:
    return sorted(each.name for each in clients.workspace.online_deployments.list(NAME))


def test_blue_becomes_green_in_three_steps_and_no_request_is_lost(clients: Clients, endpoint: Endpoint) -> None:
    events: list[RolloutEvent] = []
    with load(endpoint) as wrong:
        rollout = endpoint.rollout(NEW, mirror=50, on_event=events.append, **QUICK)
        status = rollout.wait(timeout=60)
    assert wrong == []
    assert status.promoted, status
    assert [(event.stage, event.share) for event in events if event.stage not in ("judged", "comparing")] == [
        ("deploying", 0),
        ("mirroring", 50),
        ("serving", 40),
        ("serving", 70),
        ("serving", 100),
        ("promoting", 100),
        ("promoted", 100),
    ]
    assert traffic(clients) == {"green": 100}
    assert deployments(clients) == ["green"]
    tags = clients.workspace.online_endpoints.get(NAME).tags
    assert tags["phift.model"] == "Phi-3-mini-4k-instruct:15"
    assert endpoint.rollout(NEW, **QUICK).wait() == rollout.status  # a second call finds it done
    back = endpoint.rollout(OLD, **QUICK)
    assert back.status.new == "blue"


def test_a_model_that_fails_is_taken_back(workspace: TestWorkspace, clients: Clients, endpoint: Endpoint) -> None:
    workspace.order(Fault("scoring green", status=500, times=None))
    with load(endpoint):
        status = endpoint.rollout(NEW, **QUICK | {"soak": 30}).wait(timeout=60)  # before its soak is over
    assert (status.phase, status.share) == ("rolled back", 0)
    assert "requests failed" in status.why
    assert traffic(clients) == {"blue": 100}
    assert deployments(clients) == ["blue"]
    workspace.clear_faults()
    with load(endpoint):
        assert endpoint.rollout(NEW, **QUICK).wait(timeout=60).promoted  # once it is mended


@pytest.mark.parametrize("gate", [Gate(min_requests=5, max_p95=0.1), Gate(min_requests=5)], ids=["absolute", "beside"])
def test_a_model_that_is_slow_is_taken_back(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint, gate: Gate
) -> None:
    workspace.order(Fault("scoring green", delay=0.25, times=None))
    with load(endpoint):
        status = endpoint.rollout(NEW, soak=20, gate=gate, steps=(50, 100)).wait(timeout=60)
    assert status.phase == "rolled back"
    assert "95 % of the requests took" in status.why
    assert deployments(clients) == ["blue"]


class Said:
    def __init__(self, verdict: str) -> None:
        self.verdict = verdict


@pytest.mark.parametrize(
    ("verdict", "undecided", "phase"),
    [("worse", "pass", "rolled back"), ("better", "pause", "promoted"), ("cannot tell", "pass", "promoted")],
)
def test_both_deployments_are_compared_before_the_new_one_gets_any_traffic(
    clients: Clients, endpoint: Endpoint, verdict: str, undecided: Any, phase: str
) -> None:
    asked: list[object] = []

    def compare(before: object, after: object) -> Said:
        asked.append((before, after))
        assert traffic(clients) == {"blue": 100}
        return Said(verdict)

    gate = Gate(min_requests=1, max_p95_ratio=None, compare=compare, undecided=undecided)
    with load(endpoint):
        status = endpoint.rollout(NEW, soak=0.2, gate=gate).wait(timeout=60)
    assert status.phase == phase
    assert asked == [((endpoint, "blue"), (endpoint, "green"))]


def test_a_model_that_answers_no_row_is_taken_back(clients: Clients, endpoint: Endpoint) -> None:
    def compare(_before: object, _after: object) -> None:
        raise ScoringError("It answers none of the rows.", where="rows")

    status = endpoint.rollout(NEW, soak=0, gate=Gate(compare=compare)).wait()
    assert (status.phase, deployments(clients)) == ("rolled back", ["blue"])
    assert "the comparison got no answers: It answers none of the rows." in status.why


def test_what_a_comparison_cannot_tell_pauses_it_where_asked(clients: Clients, endpoint: Endpoint) -> None:
    gate = Gate(min_requests=1, compare=lambda _before, _after: Said("cannot tell"), undecided="pause")
    status = endpoint.rollout(NEW, soak=0, gate=gate).wait()
    assert (status.phase, status.share) == ("paused", 0)
    assert "cannot tell" in status.why
    for _ in range(3):
        again = Rollout.attach(endpoint).wait()  # the comparison stands in no tag
        assert again.phase == "paused"
        assert "handed in again" in again.why
    assert Rollout.attach(endpoint).roll_back().phase == "rolled back"
    assert deployments(clients) == ["blue"]


def test_a_second_call_without_a_gate_goes_on_with_the_one_it_was_begun_with(
    clients: Clients, endpoint: Endpoint
) -> None:
    endpoint.rollout(NEW, **QUICK).wait()
    again = endpoint.rollout(NEW)
    assert again.gate == QUICK["gate"]
    again.wait()
    assert Gate.read(clients.workspace.online_endpoints.get(NAME).tags[GATE]) == (QUICK["gate"], False)
    again.roll_back()
    assert endpoint.rollout(OTHER).gate == Gate()


def test_an_idle_deployment_is_not_judged_and_pauses(clients: Clients, endpoint: Endpoint) -> None:
    events: list[RolloutEvent] = []
    status = endpoint.rollout(NEW, on_event=events.append, **QUICK).wait()
    assert (status.phase, status.share, status.promoted) == ("paused", 40, False)
    assert "no request came; 1 are needed" in status.why
    assert traffic(clients) == {"blue": 60, "green": 40}
    assert [event.stage for event in events][-1] == "paused"
    events.clear()
    again = endpoint.rollout(NEW, on_event=events.append, **QUICK).wait()
    assert again.phase == "paused"  # it is judged again, and still idle
    assert (events[0].stage, events[0].share) == ("serving", 40)
    with load(endpoint):
        assert endpoint.rollout(NEW, **QUICK).wait(timeout=60).promoted


def test_requests_of_an_earlier_step_do_not_count(clients: Clients, endpoint: Endpoint) -> None:
    with load(endpoint):
        rollout = endpoint.rollout(NEW, **QUICK | {"soak": 1})
        with pytest.raises(WaitTimeout):
            rollout.wait(timeout=0.5)
    for _ in range(20):
        endpoint.chat("hello", deployment="green")
    status = rollout.wait()  # the first step has its requests, the second one has none
    assert (status.phase, status.share) == ("paused", 70)
    assert "no request came" in status.why


def test_it_can_be_promoted_and_taken_back_by_hand(clients: Clients, endpoint: Endpoint) -> None:
    rollout = endpoint.rollout(NEW, **QUICK)
    assert rollout.status.phase == "deploying"
    with pytest.raises(Conflict, match="green cannot take the traffic over"):
        rollout.promote()
    rollout.wait()
    status = Rollout.attach(endpoint).promote(keep_old=True)
    assert status.promoted
    assert "The deployment blue of endpoint rolled is still up and costs money: 88.08 USD a day" in status.left
    assert traffic(clients) == {"green": 100}
    assert deployments(clients) == ["blue", "green"]
    clients.workspace.online_deployments.begin_delete("blue", NAME).wait()
    endpoint.rollout(OTHER, **QUICK).wait()
    back = Rollout.attach(endpoint)
    assert back.roll_back(keep_new=True).phase == back.roll_back().phase == "rolled back"
    with pytest.raises(Conflict, match="has ended already"):
        back.promote()
    assert traffic(clients) == {"green": 100}
    assert deployments(clients) == ["blue", "green"]


def test_another_model_is_refused_while_one_is_under_way(endpoint: Endpoint) -> None:
    endpoint.rollout(NEW, **QUICK)
    with pytest.raises(Conflict, match="A rollout of another model is under way"):
        endpoint.rollout(OTHER, **QUICK)


def test_traffic_that_somebody_else_has_changed_is_left_alone(clients: Clients, endpoint: Endpoint) -> None:
    rollout = endpoint.rollout(NEW, **QUICK)
    rollout.wait()
    endpoint.set_traffic({"blue": 30, "green": 70})
    with load(endpoint):
        status = rollout.wait()
    assert status.phase == "paused"
    assert "somebody has changed the traffic: it is blue 30 %, green 70 %, and was blue 60 %, green 40 %" in status.why
    assert "set it back to go on, or promote or roll back" in status.why
    assert traffic(clients) == {"blue": 30, "green": 70}
    endpoint.set_traffic({"blue": 60, "green": 40})
    with load(endpoint):
        assert rollout.wait(timeout=60).promoted


def test_of_two_that_go_on_one_says_that_the_other_does(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = endpoint.rollout(NEW, **QUICK | {"soak": 0.5})
    with load(endpoint) as wrong:
        results: list[object] = []

        def wait(rollout: Rollout) -> None:
            try:
                results.append(rollout.wait(timeout=60))
            except Conflict as error:
                results.append(error)

        threads = [threading.Thread(target=wait, args=(each,)) for each in (first, endpoint.rollout(NEW, **QUICK))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    status = Rollout.attach(endpoint).status
    assert traffic(clients) == {status.new if status.promoted else status.old: 100} or status.phase == "paused"
    refused = [each for each in results if isinstance(each, Conflict)]
    assert all("of this machine goes on with the rollout" in each.what for each in refused)
    if len(refused) == 2:  # each has seen the other at the same time: the next one goes on
        with load(endpoint):
            status = Rollout.attach(endpoint).wait(timeout=60)
    assert status.promoted


class Killed(BaseException):
    """The end of a process, as far as its rollout goes."""


@pytest.mark.parametrize("at", range(1, 14))
def test_it_goes_on_wherever_it_was_killed(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Each request that changes something is the last one of its process, before it is carried out or after."""
    changes = 0
    real = type(clients.workspace.online_endpoints).begin_create_or_update

    def dies(*arguments: Any, **options: Any) -> Any:
        nonlocal changes
        changes += 1
        if changes == (at + 1) // 2 and at % 2:
            raise Killed
        done = real(*arguments, **options)
        if changes == (at + 1) // 2:
            done.wait()
            raise Killed
        return done

    with load(endpoint) as wrong:
        with monkeypatch.context() as patch:
            patch.setattr(type(clients.workspace.online_endpoints), "begin_create_or_update", dies)
            with pytest.raises(Killed):
                endpoint.rollout(NEW, mirror=20, **QUICK).wait()
        status = endpoint.rollout(NEW, mirror=20, **QUICK).wait(timeout=60)
    assert status.promoted, status
    assert wrong == []
    assert deployments(clients) == ["green"]


def test_a_deployment_that_does_not_come_up_is_taken_back(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    workspace.order(Fault("operation deployment-create", status=400, code="ResourceNotReady", message="It crashed."))
    with pytest.raises(DeploymentFailed, match=r"did not come up, and is taken back: .*It crashed") as caught:
        endpoint.rollout(NEW, **QUICK).wait()
    assert "inference-server" in caught.value.log_tail
    status = Rollout.attach(endpoint).status
    assert status.phase == "rolled back"
    assert "It crashed" in status.why
    assert deployments(clients) == ["blue"]
    workspace.set_quota(A100, 24)
    with pytest.raises(DeploymentFailed, match="quota"):
        endpoint.rollout(NEW, **QUICK).wait()
    assert deployments(clients) == ["blue"]


def test_a_deployment_that_failed_goes_though_the_old_one_was_to_be_kept(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    workspace.order(Fault("operation deployment-create", status=400, code="ResourceNotReady", message="It crashed."))
    with pytest.raises(DeploymentFailed, match="is taken back"):
        endpoint.rollout(NEW, keep_old=True, **QUICK).wait()
    assert deployments(clients) == ["blue"]
    gates = Gate(compare=lambda _before, _after: Said("worse")), QUICK["gate"]
    workspace.clear_faults()
    workspace.order(Fault("scoring green", status=500, times=None))
    for gate in gates:
        with load(endpoint):
            status = endpoint.rollout(NEW, keep_old=True, **QUICK | {"soak": 30, "gate": gate}).wait(timeout=60)
        assert (status.phase, status.left, deployments(clients)) == ("rolled back", "", ["blue"])


def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Ctrl-C come while a rollout waits."""

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "time", SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=interrupt))


def test_an_interruption_leaves_it_and_says_how_to_go_on(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = endpoint.rollout(NEW, **QUICK | {"soak": 60})
    stopped(monkeypatch)
    with pytest.raises(KeyboardInterrupt) as caught:
        rollout.wait()
    said = "\n".join(caught.value.__notes__)
    assert "green gets 40 % of the traffic" in said
    assert "rolled/green costs money: 88.08 USD a day" in said
    assert f"phift rollout {NAME} --resume" in said
    assert traffic(clients) == {"blue": 60, "green": 40}


def shared(workspace: TestWorkspace, clients: Clients, folder: Path) -> Endpoint:
    """Return a second run's endpoint handle beside a first run's deployment, which had the traffic before."""
    workspace.set_quota(A100, 1000)
    add_third(clients, folder)
    for job, deployment, model in (("first", "default", NEW), ("second", "blue", OLD)):
        given.job(workspace, job)
        config = {"deployment_name": deployment}
        found = deploy_model(clients, model, name=NAME, size=A100, job=job, config=config)
    return found


def test_the_end_of_a_block_in_a_rollout_leaves_nothing_of_either_model(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(monkeypatch)
    with pytest.raises(KeyboardInterrupt) as caught, endpoint:
        endpoint.rollout(NEW, **QUICK | {"soak": 60}).wait()
    assert list(clients.workspace.online_endpoints.list()) == []
    assert "end of the block has ended the rollout" in caught.value.__notes__[-1]


@pytest.mark.parametrize("mirror", [0, 20])
def test_the_end_of_a_block_in_a_rollout_gives_the_traffic_back(
    workspace: TestWorkspace, clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: int
) -> None:
    endpoint = shared(workspace, clients, tmp_path)
    stopped(monkeypatch)
    with pytest.raises(KeyboardInterrupt), endpoint:
        endpoint.rollout(OTHER, **QUICK | {"soak": 60, "mirror": mirror}).wait()
    assert (deployments(clients), traffic(clients)) == (["default"], {"default": 100})
    found = clients.workspace.online_endpoints.get(NAME)
    assert (found.tags["phift.job"], STATE in found.tags, found.mirror_traffic or {}) == ("first", False, {})


def test_a_rollout_that_was_interrupted_as_it_began_ends_with_its_block(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any, **more: Any) -> None:
        write(*given, **more)
        raise KeyboardInterrupt

    write = Ledger.write
    monkeypatch.setattr(Ledger, "write", interrupted)
    with pytest.raises(KeyboardInterrupt), endpoint:
        endpoint.rollout(NEW, **QUICK)
    assert list(clients.workspace.online_endpoints.list()) == []


@pytest.mark.parametrize("keep_old", [False, True])
def test_the_end_of_a_block_deletes_what_its_rollout_has_promoted(
    clients: Clients, endpoint: Endpoint, keep_old: bool
) -> None:
    with endpoint:
        endpoint.rollout(NEW, **QUICK).wait()
        status = Rollout.attach(endpoint).promote(keep_old=keep_old)
    assert status.promoted
    assert list(clients.workspace.online_endpoints.list()) == []


def test_the_end_of_a_block_deletes_what_its_rollout_has_left_up(clients: Clients, endpoint: Endpoint) -> None:
    with endpoint:
        rollout = endpoint.rollout(NEW, **QUICK)
        rollout.wait()
        rollout.roll_back(keep_new=True)
    assert list(clients.workspace.online_endpoints.list()) == []


def test_the_end_of_a_block_gives_the_traffic_of_what_was_promoted_back(
    workspace: TestWorkspace, clients: Clients, tmp_path: Path
) -> None:
    with shared(workspace, clients, tmp_path) as endpoint:
        rollout = endpoint.rollout(OTHER, **QUICK)
        rollout.wait()
        rollout.promote()
    assert (deployments(clients), traffic(clients)) == (["default"], {"default": 100})


def test_what_another_run_keeps_stays_after_the_block_that_rolled_it_out(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    given.job(workspace, "its-job")
    with endpoint:
        rollout = endpoint.rollout(OTHER, **QUICK)
        rollout.wait()
        rollout.promote()
        third = clients.workspace.models.get("third", "1").id
        deploy_model(clients, third, name=NAME, size=A100, job="its-job", config={"deployment_name": "green"})
    assert (deployments(clients), traffic(clients)) == (["green"], {"green": 100})


def test_what_another_run_keeps_stays_after_a_block_that_ends_in_its_rollout(
    workspace: TestWorkspace, clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = shared(workspace, clients, tmp_path)
    stopped(monkeypatch)
    with pytest.raises(KeyboardInterrupt), endpoint:
        endpoint.rollout(NEW, deployment="default", **QUICK | {"soak": 60}).wait()
    assert (deployments(clients), traffic(clients)) == (["default"], {"default": 100})


def test_what_another_run_keeps_stays_after_its_rollout_is_taken_back(
    workspace: TestWorkspace, clients: Clients, tmp_path: Path
) -> None:
    endpoint = shared(workspace, clients, tmp_path)
    workspace.order(Fault("scoring default", status=500, times=None))
    with load(endpoint):
        status = endpoint.rollout(NEW, deployment="default", **QUICK | {"soak": 30}).wait(timeout=60)
    assert (status.phase, traffic(clients)) == ("rolled back", {"blue": 100})
    assert deployments(clients) == ["blue", "default"]
    assert "The deployment default of endpoint rolled is still up" in status.left


def test_what_another_run_may_need_for_all_one_knows_stays_after_a_block_that_says_what_it_costs(
    workspace: TestWorkspace,
    clients: Clients,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def unreadable(*_given: Any, **_more: Any) -> bool:
        raise ServiceUnreachable("Nobody answers.", where="run its-job")

    endpoint = shared(workspace, clients, tmp_path)
    monkeypatch.setattr(sharing, "is_used", unreadable)
    stopped(monkeypatch)
    with pytest.raises(KeyboardInterrupt), endpoint:
        endpoint.rollout(OTHER, **QUICK | {"mirror": 20, "soak": 60}).wait()
    assert (deployments(clients), traffic(clients)) == (["default", "green"], {"default": 100})
    assert "The deployment green of endpoint rolled is still up and costs money: 88.08 USD a day" in caplog.text
    assert "cannot be found out: Nobody answers. Delete it: phift cleanup rolled/green" in caplog.text


def test_the_end_of_a_block_leaves_somebody_elses_rollout_and_says_what_it_costs(
    workspace: TestWorkspace, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[DeploymentEvent] = []
    workspace.set_quota(A100, 1000)
    config = {"deployment_name": "blue"}
    with deploy_model(clients, OLD, name=NAME, size=A100, config=config, on_event=events.append):
        Endpoint.attach(NAME, clients).rollout(NEW, **QUICK).wait()
    assert (deployments(clients), traffic(clients)) == (["blue", "green"], {"blue": 60, "green": 40})
    assert (events[-1].stage, events[-1].name) == ("stays", NAME)
    assert "costs money: 176.16 USD a day" in events[-1].detail
    assert "phift cleanup rolled" in caplog.text


def test_what_could_not_be_deleted_is_named_and_a_second_call_completes_it(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    locked: dict[str, Any] = {"status": 409, "code": "ScopeLocked", "message": "The scope is locked."}
    workspace.order(Fault("DELETE onlineEndpoints/*/deployments/blue", **locked))
    with load(endpoint) as wrong:
        with pytest.raises(Conflict, match="The deployment blue of endpoint rolled is still up and costs money"):
            endpoint.rollout(NEW, **QUICK).wait(timeout=60)
        assert traffic(clients) == {"green": 100}
        assert endpoint.rollout(NEW, **QUICK).wait(timeout=60).promoted
    assert wrong == []
    assert deployments(clients) == ["green"]


def test_metrics_that_do_not_come_for_a_while_are_waited_for(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, False] * 20)

    def read(*arguments: Any) -> dict[str, Traffic]:
        if next(answers, False):
            raise ServiceUnreachable("No answer.", where="metrics")
        return read_traffic(*arguments)

    monkeypatch.setattr(module, "read_traffic", read)
    with load(endpoint):
        assert endpoint.rollout(NEW, **QUICK).wait(timeout=60).promoted


def test_between_two_looks_at_metrics_that_do_not_come_there_is_a_pause(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = 0

    def read(*_arguments: Any) -> dict[str, Traffic]:
        nonlocal failed
        failed += 1
        raise ServiceUnreachable("No answer.", where="metrics")

    endpoint.rollout(NEW, **QUICK).wait()
    monkeypatch.setattr(module, "read_traffic", read)
    slow = Endpoint.attach(NAME, replace(clients, poll_seconds=0.5))
    with pytest.raises(WaitTimeout):
        Rollout.attach(slow).wait(timeout=3)
    assert 3 <= failed <= 8


def test_the_time_that_is_given_counts_while_the_new_deployment_is_made(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = endpoint.rollout(NEW, **QUICK)
    began = time.monotonic()
    with pytest.raises(WaitTimeout) as caught:
        rollout.wait(timeout=0)
    assert time.monotonic() - began < 20
    assert "costs money" in "".join(caught.value.__notes__)


def test_a_deployment_that_came_up_after_the_time_that_was_given_is_not_said_to_be_on_its_way(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = endpoint.rollout(NEW, **QUICK | {"soak": 60})
    with pytest.raises(WaitTimeout) as caught:
        rollout.wait(timeout=0)
    assert "may come up all the same" in "".join(caught.value.__notes__)
    resource.deployment(clients, NAME, "green").settled()
    stopped(monkeypatch)
    with pytest.raises(KeyboardInterrupt) as interruption:
        rollout.wait()
    told = "".join(interruption.value.__notes__)
    assert "may come up" not in told
    assert "Beside the old deployment rolled/green costs money: 88.08 USD a day" in told


def test_a_rollout_that_somebody_has_just_begun_is_not_overwritten(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*given: Any) -> str:
        monkeypatch.setattr(module, "free_name", free_name)
        endpoint.rollout(OTHER, **QUICK)
        return free_name(*given)

    monkeypatch.setattr(module, "free_name", late)
    with pytest.raises(Conflict, match="Another rollout has just been begun"):
        endpoint.rollout(NEW, **QUICK)
    assert endpoint.rollout(OTHER).status.phase == "deploying"


def test_a_deployment_that_comes_up_after_its_rollout_was_taken_back_is_deleted(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = endpoint.rollout(NEW, **QUICK)
    put = Resource.put

    def late(self: Any, wanted: Any, **more: Any) -> Any:
        if getattr(wanted, "name", "") == "green":
            monkeypatch.setattr(Resource, "put", put)
            Rollout.attach(endpoint).roll_back()
        return put(self, wanted, **more)

    monkeypatch.setattr(Resource, "put", late)
    with pytest.raises(Conflict, match="goes on with the rollout"):
        rollout.wait()
    assert (deployments(clients), traffic(clients)) == (["blue"], {"blue": 100})


def test_a_plan_that_cannot_be_is_refused_before_anything_is_sent(workspace: TestWorkspace, endpoint: Endpoint) -> None:
    before = len(workspace.requests())
    for wrong, said in (
        ({"steps": ()}, "steps"),
        ({"steps": (10, 50)}, "grow up to 100"),
        ({"steps": (50, 10, 100)}, "grow up to 100"),
        ({"steps": (0, 100)}, "grow up to 100"),
        ({"soak": -1}, "soak"),
        ({"soak": float("nan")}, "soak"),
        ({"mirror": 51}, "mirrored share is 51"),
    ):
        with pytest.raises(ConfigError, match=said):
            endpoint.rollout(NEW, **QUICK | wrong)
    for gate in ({"max_error_rate": 1.0}, {"max_p95": 0.0}, {"max_p95_ratio": 0.5}, {"min_requests": 0}):
        with pytest.raises(ConfigError, match=next(iter(gate))):
            Gate(**gate)
    with pytest.raises(ConfigError, match="undecided"):
        Gate(undecided="fail")  # type: ignore[arg-type]
    assert len(workspace.requests()) == before


def test_it_begins_only_where_one_deployment_has_all_the_traffic(clients: Clients, endpoint: Endpoint) -> None:
    with pytest.raises(Conflict, match="serves this model already"):
        endpoint.rollout(OLD)
    with pytest.raises(NotFound):
        Rollout.attach(endpoint)
    endpoint.rollout(NEW, **QUICK).wait()
    Rollout.attach(endpoint).roll_back(keep_new=True)
    endpoint.set_traffic({"blue": 50, "green": 50})
    with pytest.raises(Conflict, match="one deployment has all the traffic"):
        endpoint.rollout(OTHER)
    endpoint.set_traffic({"blue": 100}, mirror={"green": 10})
    with pytest.raises(Conflict, match="none is mirrored"):
        endpoint.rollout(OTHER)
    endpoint.set_traffic({"blue": 100})
    with pytest.raises(Conflict, match="has a deployment green already"):
        endpoint.rollout(OTHER, deployment="green")
    assert endpoint.rollout(OTHER).status.new == "green-2"


def test_what_another_deployment_could_not_be_given_is_refused_before_it_begins(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, made = clients.workspace.online_deployments.get, {"environment": "/workspaces/w/environments/own/versions/1"}

    def other(*names: Any, **more: Any) -> Any:
        found = get(*names, **more)
        vars(found).update(made)
        return found

    monkeypatch.setattr(clients.workspace.online_deployments, "get", other)
    with pytest.raises(Conflict, match=r"where its model is mounted cannot be read(?s:.*)set_traffic"):
        endpoint.rollout(NEW, **QUICK)
    made = {"code_configuration": "score.py"}
    with pytest.raises(Conflict, match="has a code_configuration"):
        endpoint.rollout(NEW, **QUICK)
    assert STATE not in clients.workspace.online_endpoints.get(NAME).tags


def test_beside_a_container_of_phifts_the_new_model_is_mounted_where_it_looks_for_it() -> None:
    old = Fakes().add_deployment("blue", NAME, OLD)
    old.environment, old.environment_variables = (
        "/workspaces/w/environments/phift-vllm/versions/1",
        {"MAX_NUM_SEQS": "8"},
    )
    new = another_model(old, "green", NEW, {})
    assert (new.environment, new.environment_variables) == (old.environment, {"MAX_NUM_SEQS": "8"})
    assert new.model_mount_path == "/models"


def test_traffic_that_azure_would_refuse_is_refused_before(workspace: TestWorkspace, endpoint: Endpoint) -> None:
    endpoint.rollout(NEW, **QUICK).wait()
    puts = len(workspace.requests("PUT *"))
    refused: list[tuple[dict[str, int], dict[str, int], str]] = [
        ({"blue": 90}, {}, "sum to 90"),
        ({"blue": 100, "red": 0}, {}, "no deployment red"),
        ({"blue": -1}, {}, "share of blue"),
        ({"blue": 100}, {"blue": 10}, "not both"),
        ({"blue": 100}, {"green": 60}, "mirrored share is 60"),
        ({}, {"blue": 10, "green": 10}, "one deployment at most"),
    ]
    for live, mirror, said in refused:
        with pytest.raises(ConfigError, match=said):
            endpoint.set_traffic(live, mirror=mirror)
    assert len(workspace.requests("PUT *")) == puts


def told(requests: int, errors: int = 0, p95: float | None = 0.5) -> Traffic:
    return Traffic(requests=requests, errors=errors, p95_seconds=p95)


@pytest.mark.parametrize(
    ("new", "old", "outcome", "said"),
    [
        (None, told(1000), "not judged", "no request came"),
        (told(49), None, "not judged", "49 requests came; 50 are needed"),
        (told(49, 2), None, "fail", "2 of 49"),  # the one that is missing cannot mend it
        (told(49, 1), None, "not judged", "49 requests"),
        (told(50, 1), None, "pass", "2.0% failed"),
        (told(100, 3), None, "fail", "3 of 100 requests failed, 3.0%"),
        (told(100), told(100, 0, 0.2), "fail", "more than 2 times"),
        (told(100, 0, 0.29), told(100, 0, 0.1), "fail", "more than 2 times"),
        (told(100, 0, 0.05), told(100, 0, 0.001), "pass", "0.05 s"),  # nobody notices
        (told(100), told(10, 0, 0.1), "pass", "0.5 s"),  # too few to be measured against
        (told(100, 0, 1.5), None, "fail", "1 s may be"),
        (told(100, 0, None), None, "pass", "100 requests"),
    ],
)
def test_what_the_gate_says(new: Traffic | None, old: Traffic | None, outcome: str, said: str) -> None:
    verdict = Gate(max_p95=1.0).judge(new, old)
    assert verdict.outcome == outcome
    assert said in verdict.reason


def test_a_gate_is_read_as_it_was_written() -> None:
    gate = Gate(max_error_rate=0.1, max_p95=3.5, min_requests=7, undecided="pause")
    assert Gate.read(gate.written()) == (gate, False)
    assert Gate.read(Gate(compare=lambda _a, _b: None).written()) == (Gate(), True)
    for wrong in ("", "{}", "[2]", '[1,2,3,4,5,"pass",false]'):
        with pytest.raises(ConfigError):
            Gate.read(wrong)
    assert Gate().judge_answers(None, None) == Verdict("pass", "no comparison was asked for")


def test_its_state_fits_into_a_tag_and_is_read_as_it_was_written() -> None:
    state = State(
        model="0" * 12,
        old="b" * 32,
        new="g" * 32,
        steps=(1, 5, 10, 25, 50, 100),
        soak=600.0,
        mirror=10,
        phase="serving",
        at=2,
        since=1764530000.1,
        until=1764530600.1,
        first=1764520000.1,
        before=(12, 3),
        compared=True,
        kept=True,
        actor="0" * 12 + ".123456.abcdef",
    )
    assert len(state.written()) <= 256
    assert read_state({"phift.rollout": state.written()}, NAME) == state
    assert read_state({}, NAME) is None
    for wrong in ("", "{}", state.written().replace("[1,", "[2,"), state.written().replace("serving", "other")):
        with pytest.raises(Conflict, match="another version of phift"):
            read_state({"phift.rollout": wrong}, NAME)


def test_too_long_a_plan_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match="fewer steps"):
        endpoint.rollout(NEW, steps=tuple(range(1, 101)))


def test_status_and_events_are_plain_values() -> None:
    status = RolloutStatus(
        endpoint=NAME, phase="paused", old="blue", new="green", share=10, mirrored=0, steps=(10, 100), why="idle"
    )
    assert status.to_dict()["steps"] == [10, 100]
    assert str(status) == "rolled: paused; green gets 10 % of the traffic, beside blue; idle"
    event = RolloutEvent(endpoint=NAME, deployment="green", stage="serving", share=10)
    assert str(event) == "rolled: serving 10 % green"
    assert event.to_dict() | {"time": ""} == {
        "event": "rollout",
        "endpoint": NAME,
        "deployment": "green",
        "stage": "serving",
        "share": 10,
        "text": "",
        "time": "",
    }


def test_the_examples_of_the_document_run(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    document = (Path(__file__).parents[2] / "docs" / "rolling-out.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    names: dict[str, Any] = {"ml_client": clients}
    example = first.replace('"elements"', f'"{NAME}"').replace("elements:2", OTHER)
    example = example.replace("soak=600", "soak=0.5").replace("min_requests=50", "min_requests=1")
    with load(endpoint):
        exec(example, names)  # noqa: S102 - our own words
    assert "promoted; green gets 100 % of the traffic" in capsys.readouterr().out
    tags = clients.workspace.online_endpoints.get(NAME).tags
    assert (tags["phift.model"], tags["phift.job"]) == ("third:1", "its-job")
    exec(second, names)  # noqa: S102 - our own words
    assert isinstance(names["gate"], Gate)


def command(clients: Clients, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    monkeypatch.setattr("phift.connect", lambda **_options: clients)
    return CliRunner().invoke(main, ["rollout", NAME, *words])


def test_the_command_says_how_it_ended(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("--steps", "50,100", "--soak", "0.3s", "--min-requests", "1")
    paused = command(clients, monkeypatch, OTHER, *quick, "--json")
    assert paused.exit_code == 3, paused.output
    told = json.loads(paused.stdout)
    assert (told["phase"], told["share"], told["promoted"]) == ("paused", 50, False)
    assert "serving 50 % green" in paused.stderr
    status = command(clients, monkeypatch, "--status")
    assert (status.exit_code, "paused" in status.stdout) == (0, True)
    workspace.order(Fault("scoring green", status=500, times=None))
    with load(endpoint):
        assert command(clients, monkeypatch, "--resume").exit_code == 1
    workspace.clear_faults()
    with load(endpoint):
        done = command(clients, monkeypatch, OTHER, *quick)
    assert (done.exit_code, "promoted" in done.stdout) == (0, True), done.output
    assert command(clients, monkeypatch, OLD, *quick).exit_code == 3
    assert command(clients, monkeypatch, "--roll-back").exit_code == 0
    assert command(clients, monkeypatch, OLD, *quick, "--keep-old").exit_code == 3
    assert command(clients, monkeypatch, "--promote").exit_code == 0
    late = command(clients, monkeypatch, "--roll-back")
    assert (late.exit_code, "has ended already: it is promoted" in late.output) == (1, True)
    for wrong in ((), (OLD, "--resume"), (OLD, "--steps", "ten"), (OLD, "--soak", "10d")):
        assert command(clients, monkeypatch, *wrong).exit_code == 2
    for words in (("--resume", "--max-p95", "9"), ("--roll-back", "--keep-old"), ("--status", "--rows", __file__)):
        refused = command(clients, monkeypatch, *words)
        assert (refused.exit_code, f"{words[1]} does not count with {words[0]}" in refused.output) == (2, True)
    assert command(clients, monkeypatch, OLD, "--steps", "50").exit_code == 1


def test_the_command_compares_with_rows(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    assert command(clients, monkeypatch, OTHER, "--rows", str(rows)).exit_code == 1  # before anything is deployed
    assert deployments(clients) == ["blue"]
    rows.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    given: list[object] = []

    def compare(_before: object, _after: object, **options: Any) -> Said:
        given.append(options["rows"])
        return Said("cannot tell" if len(given) == 1 else "worse")

    monkeypatch.setattr("phift.compare_models", compare, raising=False)
    first = command(clients, monkeypatch, OTHER, "--rows", str(rows), "--undecided", "pause", "--max-p95", "9")
    assert (first.exit_code, "cannot tell" in first.stdout) == (3, True)
    second = command(clients, monkeypatch, "--resume", "--rows", str(rows))
    assert (second.exit_code, "worse" in second.stdout) == (1, True)
    assert given == [rows, rows]
    tag = clients.workspace.online_endpoints.get(NAME).tags["phift.rollout.gate"]
    assert Gate.read(tag)[0] == Gate(max_p95=9.0, undecided="pause")  # as it was begun


def test_the_same_command_without_its_options_keeps_the_gate_under_way(
    clients: Clients, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = ("--steps", "50,100", "--soak", "0.3s", "--max-error-rate", "0.001", "--min-requests", "1000")
    assert command(clients, monkeypatch, OTHER, *strict).exit_code == 3
    assert command(clients, monkeypatch, OTHER).exit_code == 3
    tag = clients.workspace.online_endpoints.get(NAME).tags["phift.rollout.gate"]
    assert Gate.read(tag)[0] == Gate(max_error_rate=0.001, min_requests=1000)
