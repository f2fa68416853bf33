from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, cast

import pytest

from phift.azure.clients import Rest
from phift.config.deployment import DeploymentConfig
from phift.errors import DeploymentFailed, PhiftError, ServiceError
from phift.jobs.job import FineTuneJob
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.resource import DeploymentEvent, OnEvent
from phift.serving.uses import this_machine
from unit.fakes import A100, Fakes, http_error
from unit.forked import in_a_forked_child

MODEL = "/subscriptions/s/workspaces/w/models/mine/versions/1"
NAME, JOB = "phift-made-up", "job"
KEY = f"phift.use.{NAME}."
MADE = {"phift.job": JOB, "phift.created": "2026-11-28T12:00:00.000000+00:00"}


def deploy(fakes: Fakes, on_event: OnEvent | None = None) -> Endpoint:
    fakes.workspace.jobs.add(JOB, "Completed")
    return deploy_model(
        fakes.clients,
        MODEL,
        name=NAME,
        size=A100,
        config=DeploymentConfig(),
        job=FineTuneJob(JOB, fakes.clients),
        on_event=on_event,
    )


def is_up(fakes: Fakes) -> bool:
    return NAME in fakes.workspace.online_endpoints.known


def tag(fakes: Fakes, key: str, state: str, **changes: Any) -> None:
    """Write the tag of somebody else's use."""
    value = {"state": state, "host": this_machine(), "pid": os.getppid(), "since": time.time(), **changes}
    fakes.rest.tags.setdefault(JOB, {})[KEY + key] = json.dumps(value)


def a_dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_block_deletes_what_it_made_and_leaves_no_tag() -> None:
    fakes = Fakes()
    with deploy(fakes) as endpoint:
        assert [json.loads(value)["state"] for value in fakes.rest.tags[JOB].values()] == ["block"]
        assert not endpoint.existed
    assert (is_up(fakes), fakes.rest.tags[JOB]) == (False, {})


def test_a_forked_child_that_leaves_its_parents_block_deletes_nothing() -> None:
    fakes = Fakes()
    with deploy(fakes) as endpoint:
        before = dict(fakes.rest.tags[JOB])

        def leaves() -> bool:
            endpoint.__exit__(SystemExit)
            return is_up(fakes) and fakes.rest.tags[JOB] == before

        assert in_a_forked_child(leaves)
    assert (is_up(fakes), fakes.rest.tags[JOB]) == (False, {})


def test_a_block_of_a_forked_child_around_its_parents_endpoint_deletes_nothing() -> None:
    fakes = Fakes()
    endpoint = deploy(fakes)
    before = dict(fakes.rest.tags[JOB])

    def block() -> bool:
        with endpoint:
            pass
        return is_up(fakes) and fakes.rest.tags[JOB] == before

    assert in_a_forked_child(block)


def test_a_forked_child_rolls_nothing_of_its_parents_back() -> None:
    fakes = Fakes()

    def fork(event: DeploymentEvent) -> None:
        if event.stage == "deployment" and (child := os.fork()) == 0:
            raise KeyboardInterrupt
        if event.stage == "deployment":
            children.append(child)

    children: list[int] = []
    parent = os.getpid()
    try:
        deploy(fakes, fork)
    except KeyboardInterrupt:
        if os.getpid() == parent:
            raise
        os._exit(0 if is_up(fakes) and fakes.rest.tags[JOB] else 1)
    assert os.waitpid(children[0], 0)[1] == 0
    assert is_up(fakes)


def test_a_forked_child_that_deletes_its_parents_endpoint_by_name_does_so() -> None:
    fakes = Fakes()
    endpoint = deploy(fakes)

    def deletes() -> bool:
        endpoint.delete()
        return not is_up(fakes)

    assert in_a_forked_child(deletes)


def test_what_was_left_up_on_purpose_stays() -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    deploy(fakes)
    with deploy(fakes, events.append) as endpoint:
        assert endpoint.existed
    assert is_up(fakes)
    assert [event.stage for event in events] == ["exists", "ready", "stays"]


def test_what_was_deployed_before_the_block_ends_with_the_block() -> None:
    fakes = Fakes()
    endpoint = deploy(fakes)
    with endpoint:
        pass
    assert not is_up(fakes)


def test_an_inner_block_leaves_it_to_the_outer_one() -> None:
    fakes = Fakes()
    with deploy(fakes):
        with deploy(fakes):
            pass
        assert is_up(fakes)
    assert not is_up(fakes)


def test_a_block_that_ends_first_leaves_it_to_the_other_one() -> None:
    fakes = Fakes()
    first, second = deploy(fakes).__enter__(), deploy(fakes).__enter__()
    first.__exit__(None, None, None)
    assert is_up(fakes)
    second.__exit__(None, None, None)
    assert not is_up(fakes)


def test_of_two_deployments_outside_of_blocks_one_block_ends_none() -> None:
    fakes = Fakes()
    first = deploy(fakes)
    deploy(fakes)
    with first:
        pass
    assert is_up(fakes)


@pytest.mark.parametrize("state", ["block", "deploying", "arriving"])
def test_a_living_process_that_uses_it_keeps_it(state: str) -> None:
    fakes = Fakes()
    with deploy(fakes):
        tag(fakes, "other", state)
    assert is_up(fakes)


@pytest.mark.parametrize("state", ["block", "deploying", "arriving", "leaving", "left"])
def test_what_a_dead_process_used_is_deleted_with_the_next_block(state: str) -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME, tags=MADE)
    tag(fakes, "other", state, pid=a_dead_process())
    with deploy(fakes) as endpoint:
        assert endpoint.existed
    assert (is_up(fakes), fakes.rest.tags[JOB]) == (False, {})


@pytest.mark.parametrize(("age", "up"), [(3600, True), (25 * 3600, False)])
def test_a_block_on_another_machine_counts_for_a_day(age: float, up: bool) -> None:
    fakes = Fakes()
    with deploy(fakes):
        tag(fakes, "other", "block", host="another", since=time.time() - age)
    assert is_up(fakes) == up


def test_what_is_kept_stays_though_its_process_is_gone() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME, tags=MADE)
    tag(fakes, "other", "kept", pid=a_dead_process())
    with deploy(fakes):
        pass
    assert is_up(fakes)


def test_what_was_kept_of_an_endpoint_that_is_gone_is_void() -> None:
    fakes = Fakes()
    tag(fakes, "other", "kept", pid=a_dead_process())
    with deploy(fakes):
        pass
    assert (is_up(fakes), fakes.rest.tags[JOB]) == (False, {})


def test_an_endpoint_that_an_older_phift_made_stays() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    with deploy(fakes):
        pass
    assert is_up(fakes)


def test_a_tag_that_cannot_be_read_keeps_the_endpoint() -> None:
    fakes = Fakes()
    with deploy(fakes):
        fakes.rest.tags[JOB][f"{KEY}other"] = "written by somebody else"
    assert is_up(fakes)


def test_however_often_it_is_deployed_one_process_leaves_one_tag() -> None:
    fakes = Fakes()
    dead = a_dead_process()
    for number in range(3):
        tag(fakes, f"other-{number}.kept", "kept", pid=dead)
    fakes.add_endpoint(NAME, tags=MADE)
    for _ in range(5):
        deploy(fakes)
    assert [json.loads(value)["pid"] for value in fakes.rest.tags[JOB].values()] == [dead, os.getpid()]


def test_a_caller_that_gave_up_waiting_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes()
    tag(fakes, "other", "deploying", number=1)

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phift.serving.uses.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        deploy(fakes)
    assert list(fakes.rest.tags[JOB]) == [f"{KEY}other"]


@pytest.mark.parametrize("stage", ["endpoint", "deployment", "traffic", "ready"])
def test_a_program_that_ends_before_the_block_begins_leaves_nothing(stage: str) -> None:
    fakes = Fakes()

    def interrupt(event: DeploymentEvent) -> None:
        if event.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy(fakes, interrupt)
    assert not is_up(fakes)
    assert not fakes.rest.tags[JOB]


class NoTags:
    """Plain calls of a service that lets nobody write or read tags."""

    def __init__(self, calls: Any) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._calls, name)

    def post(self, *_: Any) -> Any:
        raise ServiceError("Tags are out of order.", status=403)


@pytest.mark.parametrize("existed", [False, True])
def test_without_tags_the_maker_deletes_and_nobody_else(existed: bool, caplog: pytest.LogCaptureFixture) -> None:
    fakes = Fakes()
    if existed:
        fakes.add_endpoint(NAME)
    fakes.clients = replace(fakes.clients, rest=cast(Rest, NoTags(fakes.rest)))
    with deploy(fakes):
        pass
    assert is_up(fakes) == existed
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_deletion_that_failed_is_done_by_the_next_block() -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("online_endpoints.begin_delete", http_error(403))
    with pytest.raises(PermissionError, match="costs money"), deploy(fakes):
        pass
    assert is_up(fakes)
    with deploy(fakes):
        pass
    assert not is_up(fakes)


def test_whoever_comes_while_it_is_deleted_waits_and_makes_it_anew() -> None:
    fakes, events, entered = Fakes(), list[DeploymentEvent](), threading.Event()
    endpoints = fakes.workspace.online_endpoints
    delete = endpoints.begin_delete
    ready: list[Endpoint] = []

    def come() -> None:
        ready.append(deploy(fakes, events.append))

    def slowly(name: str | None = None) -> Any:
        endpoints.begin_delete = delete  # type: ignore[method-assign] # only this once
        comer.start()
        while not any(event.stage == "waits" for event in events):
            time.sleep(0.001)
        entered.set()
        return delete(name)

    comer = threading.Thread(target=come)
    endpoints.begin_delete = slowly  # type: ignore[method-assign] # as a service that takes its time
    with deploy(fakes):
        pass
    comer.join(10)
    assert entered.is_set()
    assert [event.stage for event in events] == ["waits", "endpoint", "deployment", "traffic", "ready"]
    assert is_up(fakes)


def test_sixteen_threads_that_deploy_and_leave_find_it_up_and_leave_nothing() -> None:
    fakes, wrong = Fakes(), list[str]()

    def use() -> None:
        for _ in range(5):
            with deploy(fakes):
                try:
                    found = fakes.workspace.online_endpoints.get(NAME)
                    if found.traffic != {"default": 100}:
                        wrong.append(str(found.traffic))
                except Exception as error:  # noqa: BLE001 - the service's, when it is not there
                    wrong.append(repr(error))
            time.sleep(0)

    threads = [threading.Thread(target=use) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert (is_up(fakes), fakes.rest.tags[JOB]) == (False, {})


@contextmanager
def tags_that_stay(fakes: Fakes, failures: int = 100) -> Iterator[list[str]]:
    """Let as many tags as that not be taken away; gives their keys."""
    post = fakes.rest.post
    refused: list[str] = []

    def refuse(url: str, body: dict[str, Any]) -> Any:
        if url.endswith("delete-tag") and len(refused) < failures:
            refused.append(body["key"])
            raise ServiceError("Out of order.", status=503)
        return post(url, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes.rest, "post", refuse)
        yield refused


@pytest.mark.parametrize("failures", [1, 100])
def test_a_tag_that_cannot_be_taken_away_keeps_no_endpoint_up(failures: int) -> None:
    fakes = Fakes()
    endpoint = deploy(fakes)
    with tags_that_stay(fakes, failures) as refused, endpoint:
        assert refused[0].endswith(".kept")
    assert not is_up(fakes)
    with deploy(fakes) as again:  # what is left of the tags keeps nobody's
        assert not again.existed
    assert (is_up(fakes), fakes.rest.tags[JOB]) == (False, {})


def test_a_tag_that_cannot_be_taken_away_still_says_who_keeps_it() -> None:
    fakes = Fakes()
    endpoint = deploy(fakes)
    with tags_that_stay(fakes), endpoint:
        deploy(fakes)  # left up on purpose, meanwhile
    assert is_up(fakes)


@contextmanager
def interrupted_at(fakes: Fakes, number: int, moment: str) -> Iterator[list[str]]:
    """Interrupt the n-th time that a tag is written or taken away, before or after that is done; gives their keys."""
    post = fakes.rest.post
    keys: list[str] = []

    def interrupt(url: str, body: dict[str, Any]) -> Any:
        keys.append(body["key"])
        if len(keys) != number:
            return post(url, body)
        if moment == "after":
            post(url, body)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes.rest, "post", interrupt)
        yield keys


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interruption_at_any_tag_of_a_block_leaves_nothing(moment: str) -> None:
    undisturbed = Fakes()
    with interrupted_at(undisturbed, 0, moment) as keys, deploy(undisturbed):
        pass
    assert len(keys) >= 7  # arriving, deploying, kept, no longer deploying; block, no longer kept; leaving
    for number in range(1, len(keys) + 1):
        fakes = Fakes()
        with pytest.raises(KeyboardInterrupt), interrupted_at(fakes, number, moment), deploy(fakes):
            pass
        assert (number, is_up(fakes), fakes.rest.tags.get(JOB, {})) == (number, False, {})


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interruption_at_any_tag_of_a_roll_back_leaves_no_endpoint(moment: str) -> None:
    def fail(number: int, kind: type[BaseException]) -> tuple[Fakes, list[str]]:
        fakes = Fakes()
        fakes.workspace.online_deployments.outcomes = ["Failed"]
        with pytest.raises(kind), interrupted_at(fakes, number, moment) as keys:
            deploy(fakes)
        return fakes, keys

    _, keys = fail(0, DeploymentFailed)
    assert len(keys) == 4  # arriving, deploying; leaving, no longer leaving
    for number in range(1, len(keys) + 1):
        fakes, _ = fail(number, KeyboardInterrupt)
        assert (number, is_up(fakes)) == (number, False)


@pytest.mark.parametrize("in_block", [False, True])
def test_interruptions_before_and_after_a_deletion_keep_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, in_block: bool
) -> None:
    fakes, stages = Fakes(), ["delete" if in_block else "deployment"]
    get, delete = fakes.rest.get, fakes.workspace.online_endpoints.begin_delete

    def interrupt(event: DeploymentEvent) -> None:
        if event.stage in stages:
            stages.remove(event.stage)
            monkeypatch.setattr(fakes.workspace.online_endpoints, "begin_delete", delete_and_interrupt_what_follows)
            raise KeyboardInterrupt

    def delete_and_interrupt_what_follows(name: str) -> Any:
        monkeypatch.setattr(fakes.rest, "get", interrupted)
        return delete(name)

    def interrupted(*_: Any) -> Any:
        monkeypatch.setattr(fakes.rest, "get", get)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), deploy(fakes, interrupt):
        pass
    assert not is_up(fakes)
    monkeypatch.undo()
    events: list[DeploymentEvent] = []
    threading.Thread(target=deploy, args=(fakes, events.append), daemon=True).start()
    while not events:
        time.sleep(0.001)
    assert events[0].stage != "waits"


@pytest.mark.parametrize("ends", [True, False])
def test_a_tag_that_stayed_counts_for_no_later_use_of_the_process(ends: bool) -> None:
    """Nor where the endpoint stayed up, since somebody else used it, or could not be deleted."""
    fakes = Fakes()
    endpoint = deploy(fakes)
    if ends:
        tag(fakes, "other", "block")
    else:
        fakes.workspace.record.fail("online_endpoints.begin_delete", http_error(403))
    with nullcontext() if ends else pytest.raises(PhiftError), tags_that_stay(fakes), endpoint:
        pass
    assert is_up(fakes)
    fakes.rest.tags[JOB].pop(f"{KEY}other", None)
    with deploy(fakes):
        pass
    assert not is_up(fakes)


def test_a_deployment_that_fails_leaves_what_somebody_else_uses() -> None:
    fakes = Fakes()

    def another(event: DeploymentEvent) -> None:
        if event.stage == "deployment":
            tag(fakes, "other", "block")
            fakes.workspace.record.fail("online_deployments.begin_create_or_update", http_error(400, "no"))

    with pytest.raises(DeploymentFailed, match="stays up and costs money: somebody else uses it"):
        deploy(fakes, another)
    assert is_up(fakes)
    assert list(fakes.rest.tags[JOB]) == [f"{KEY}other"]
