"""A second run's model on the endpoint of the first: neither takes the other's serving deployment away."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from phift.errors import Conflict, DeploymentFailed, NotFound, ServiceError
from phift.jobs.job import FineTuneJob
from phift.serving import cleanup, sharing
from phift.serving.cleanup import remove_endpoints_of
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.resource import DeploymentEvent
from phift.serving.rollout_state import STATE, State
from unit.fakes import A100, Fakes, http_error
from unit.test_endpoints_listing import priced

NAME = "prod-chat"
MODEL = "/subscriptions/s/workspaces/w/models/{}/versions/1"


def deploy(fakes: Fakes, job: str, deployment: str, events: list[DeploymentEvent] | None = None) -> Endpoint:
    """Deploy the model of a job, as its run does."""
    fakes.workspace.jobs.add(job, "Completed")
    return deploy_model(
        fakes.clients,
        MODEL.format(job),
        name=NAME,
        size=A100,
        config={"deployment_name": deployment},
        job=FineTuneJob(job, fakes.clients),
        tags={"phift.model": f"{job}:1"},
        on_event=events.append if events is not None else None,
    )


def there(fakes: Fakes) -> dict[str, int]:
    """Return the deployments with their traffic."""
    endpoint = fakes.workspace.online_endpoints.known.get(NAME)
    traffic = endpoint.traffic if endpoint else {}
    return {name: traffic.get(name, 0) for _, name in sorted(fakes.workspace.online_deployments.known)}


def owner(fakes: Fakes) -> str:
    return str(fakes.workspace.online_endpoints.known[NAME].tags["phift.job"])


def test_a_second_run_takes_the_traffic_over_and_the_first_deployment_is_told_of() -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    fakes.workspace.compute.sizes = priced(**{A100: 2.0})
    deploy(fakes, "first", "default")
    endpoint = deploy(fakes, "second", "green", events)
    assert (there(fakes), owner(fakes), endpoint.existed) == ({"default": 0, "green": 100}, "second", True)
    assert [(event.stage, event.name) for event in events] == [
        ("exists", NAME),
        ("deployment", "green"),
        ("traffic", NAME),
        ("ready", NAME),
        ("idle", "default"),
    ]
    cost = f"costs money: 48.00 USD a day, used or not, for 1 x {A100}"
    assert events[-1].detail == f"has no traffic and {cost}; delete it: phift cleanup {NAME}/default"


@pytest.mark.parametrize("name", ["first", f"{NAME}/default"])
def test_the_first_run_takes_only_its_own_away(name: str) -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    done = remove_endpoints_of(fakes.clients, name)
    assert (done.deleted, done.removed, there(fakes)) == ((), (f"{NAME}/default",), {"green": 100})
    assert "deployment prod-chat/default, whose endpoint others serve from" in str(done)


def test_the_second_run_gives_the_traffic_back() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    done = remove_endpoints_of(fakes.clients, "second")
    assert (done.removed, there(fakes), owner(fakes)) == ((f"{NAME}/green",), {"default": 100}, "first")
    assert remove_endpoints_of(fakes.clients, "first").deleted == (NAME,)
    assert there(fakes) == {}


def test_the_last_one_out_takes_the_endpoint_with_it() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    remove_endpoints_of(fakes.clients, "first")
    assert remove_endpoints_of(fakes.clients, "second").deleted == (NAME,)
    assert fakes.workspace.online_endpoints.known == {}


def test_the_end_of_the_second_block_gives_the_traffic_back() -> None:
    fakes, events = Fakes(), list[DeploymentEvent]()
    deploy(fakes, "first", "default")
    with deploy(fakes, "second", "green", events):
        assert there(fakes) == {"default": 0, "green": 100}
    assert (there(fakes), owner(fakes), fakes.rest.tags["second"]) == ({"default": 100}, "first", {})
    assert [event.stage for event in events][-3:] == ["traffic", "removed", "stays"]


def test_the_end_of_the_first_block_leaves_the_second_model_serving() -> None:
    fakes = Fakes()
    with deploy(fakes, "first", "default"):
        deploy(fakes, "second", "green")
    assert (there(fakes), owner(fakes)) == ({"green": 100}, "second")


def test_blocks_of_two_runs_in_either_order_leave_nothing() -> None:
    for first_ends_first in (True, False):
        fakes = Fakes()
        first, second = deploy(fakes, "first", "default"), deploy(fakes, "second", "green")
        for endpoint in (first, second) if first_ends_first else (second, first):
            with endpoint:
                pass
        assert fakes.workspace.online_endpoints.known == {}


def test_the_first_run_deployed_again_takes_the_traffic_back() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    deploy(fakes, "first", "default")
    assert (there(fakes), owner(fakes)) == ({"default": 100, "green": 0}, "first")


def test_what_is_left_of_a_series_is_named_with_its_price() -> None:
    fakes = Fakes()
    fakes.workspace.compute.sizes = priced(**{A100: 2.0})
    series = {"phift.series": "s"}
    for job, deployment in (("first", "default"), ("second", "green")):
        deploy(fakes, job, deployment)
        fakes.workspace.online_deployments.known[NAME, deployment].tags |= series
        fakes.workspace.online_endpoints.known[NAME].tags |= series
    (left,) = remove_endpoints_of(fakes.clients, "second").left
    assert (left.name, left.job, left.price_per_day) == (NAME, "first", 48)


def test_an_endpoint_of_another_run_whose_own_deployment_is_gone_stays() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    deploy(fakes, "first", "default")
    del fakes.workspace.online_deployments.known[NAME, "default"]
    assert remove_endpoints_of(fakes.clients, "second").removed == (f"{NAME}/green",)
    assert (owner(fakes), there(fakes)) == ("first", {})


def test_a_second_call_of_the_second_run_finds_what_is_there() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    made = fakes.workspace.record.count("online_deployments.begin_create_or_update")
    deploy(fakes, "second", "green")
    assert fakes.workspace.record.count("online_deployments.begin_create_or_update") == made
    assert there(fakes) == {"default": 0, "green": 100}


def test_a_deployment_of_the_same_name_is_not_replaced() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    with pytest.raises(Conflict, match=r"has a deployment default already, for first:1") as caught:
        deploy(fakes, "second", "default")
    assert "deployment_name" in str(caught.value)
    assert (there(fakes), owner(fakes)) == ({"default": 100}, "first")


def test_an_endpoint_that_phift_did_not_make_is_not_joined() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME, tags={"team": "payments"}, traffic={"blue": 100})
    fakes.add_deployment("blue", NAME, "theirs")
    with pytest.raises(Conflict, match="phift did not make it"):
        deploy(fakes, "second", "green")
    assert there(fakes) == {"blue": 100}


def test_an_endpoint_that_another_run_has_only_begun_is_not_joined() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME, tags={"phift.job": "first"})
    with pytest.raises(Conflict, match="of another run"):
        deploy(fakes, "second", "green")


def test_an_endpoint_whose_last_change_failed_is_not_deleted_with_others_deployments_in_it() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    fakes.workspace.online_endpoints.add(
        NAME, tags={"phift.job": "second"}, traffic={"green": 100}, provisioning_state="Failed"
    )
    with pytest.raises(Conflict, match="others' deployments are in it"):
        deploy(fakes, "second", "green")
    assert there(fakes) == {"default": 0, "green": 100}


@pytest.mark.parametrize("step", ["online_deployments.result", "online_endpoints.get_keys"])
@pytest.mark.parametrize("trouble", [http_error(500), KeyboardInterrupt()], ids=["error", "interruption"])
def test_a_second_model_that_fails_leaves_the_first_as_it_was(step: str, trouble: BaseException) -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    before = dict(fakes.workspace.online_endpoints.known[NAME].tags)
    fakes.workspace.record.fail(step, trouble)
    with pytest.raises((DeploymentFailed, KeyboardInterrupt)):
        deploy(fakes, "second", "green")
    assert there(fakes) == {"default": 100}
    assert fakes.workspace.online_endpoints.known[NAME].tags == before


def test_a_first_model_that_fails_to_take_the_traffic_back_gives_it_back() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    before = dict(fakes.workspace.online_endpoints.known[NAME].tags)
    fakes.workspace.record.fail("online_endpoints.get_keys", http_error(500))
    with pytest.raises(DeploymentFailed) as caught:
        deploy(fakes, "first", "default")
    assert "what was there stays as it was" in (caught.value.fix or "")
    assert there(fakes) == {"default": 0, "green": 100}
    assert fakes.workspace.online_endpoints.known[NAME].tags == before


@pytest.mark.parametrize("how", ["cleanup", "replaced"])
def test_what_had_the_traffic_may_end_its_answers_before_it_is_deleted(sleeps: list[float], how: str) -> None:
    fakes = Fakes()
    fakes.clients = replace(fakes.clients, poll_seconds=15)
    deploy(fakes, "first", "default")
    if how == "cleanup":
        deploy(fakes, "second", "green")
        remove_endpoints_of(fakes.clients, "second")
    else:
        deploy(fakes, "first", "green")
    assert (sleeps, len(there(fakes))) == ([30], 1)


def test_a_rollout_that_is_under_way_is_not_disturbed() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    endpoint: Any = fakes.workspace.online_endpoints.known[NAME]
    state = State(model="m", old="default", new="green", steps=(10, 100), soak=60)
    endpoint.tags[STATE] = state.written()
    deploy(fakes, "first", "default")  # which changes nothing
    with pytest.raises(Conflict, match="A rollout is under way"):
        deploy(fakes, "second", "green")
    assert there(fakes) == {"default": 100}


def in_a_rollout(fakes: Fakes, **told: Any) -> Any:
    """Return the endpoint of a first run amid the rollout of another model, ``green``."""
    deploy(fakes, "first", "default")
    fakes.add_deployment("green", NAME, "theirs")
    fakes.workspace.online_deployments.known[NAME, "green"].tags = {"phift.serves": "m", "phift.model": "m:1"}
    endpoint: Any = fakes.workspace.online_endpoints.known[NAME]
    state = State(**{"model": "m", "old": "default", "new": "green", "steps": (10, 100), "soak": 60, **told})
    endpoint.tags[STATE] = state.written()
    endpoint.traffic, endpoint.mirror_traffic = state.shares
    return endpoint


@pytest.mark.parametrize("at", [-1, 0])
def test_a_new_model_that_nobody_has_judged_goes_with_the_old_one(at: int) -> None:
    fakes = Fakes()
    in_a_rollout(fakes, phase="serving" if at == 0 else "deploying", at=at)
    assert remove_endpoints_of(fakes.clients, "first").deleted == (NAME,)
    assert there(fakes) == {}


def test_a_new_model_that_its_own_run_keeps_stays_where_the_old_one_goes() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    deploy(fakes, "first", "default")
    model = fakes.workspace.online_deployments.known[NAME, "green"].tags["phift.serves"]
    endpoint: Any = fakes.workspace.online_endpoints.known[NAME]
    state = State(model=model, old="default", new="green", steps=(10, 100), soak=60, phase="serving", at=0)
    endpoint.tags[STATE] = state.written()
    endpoint.traffic = {"default": 90, "green": 10}
    assert remove_endpoints_of(fakes.clients, "first").removed == (f"{NAME}/default",)
    found: Any = fakes.workspace.online_endpoints.known[NAME]
    assert (there(fakes), owner(fakes), STATE in found.tags) == ({"green": 100}, "second", False)


def test_a_new_model_that_is_promoted_already_stays() -> None:
    fakes = Fakes()
    in_a_rollout(fakes, phase="promoting", at=1)
    remove_endpoints_of(fakes.clients, "first")
    assert there(fakes) == {"green": 100}
    assert STATE in fakes.workspace.online_endpoints.known[NAME].tags  # what goes on with it ends it


def test_a_new_model_that_goes_while_it_is_promoted_leaves_no_rollout() -> None:
    fakes = Fakes()
    in_a_rollout(fakes, phase="promoting", at=1)
    fakes.workspace.online_deployments.known[NAME, "green"].tags["phift.job"] = "second"
    assert remove_endpoints_of(fakes.clients, "second").removed == (f"{NAME}/green",)
    assert there(fakes) == {"default": 100}
    assert STATE not in fakes.workspace.online_endpoints.known[NAME].tags
    deploy(fakes, "third", "blue")


def test_the_old_deployment_of_a_rollout_alone_is_not_taken_away() -> None:
    fakes = Fakes()
    in_a_rollout(fakes, phase="serving", at=0)
    with pytest.raises(Conflict, match="old one of a rollout that is under way") as caught:
        remove_endpoints_of(fakes.clients, f"{NAME}/default")
    assert f"phift rollout {NAME} --roll-back" in str(caught.value)
    assert there(fakes) == {"default": 90, "green": 10}


@pytest.mark.parametrize("mirror", [0, 20])
def test_a_rollout_ends_with_its_new_deployment(mirror: int) -> None:
    fakes = Fakes()
    in_a_rollout(fakes, phase="mirroring" if mirror else "serving", at=0, mirror=mirror)
    assert remove_endpoints_of(fakes.clients, f"{NAME}/green").removed == (f"{NAME}/green",)
    found: Any = fakes.workspace.online_endpoints.known[NAME]
    assert (there(fakes), found.mirror_traffic, STATE in found.tags) == ({"default": 100}, {}, False)


def test_a_deployment_that_gets_mirrored_traffic_gets_none_before_it_is_deleted() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    endpoint: Any = fakes.workspace.online_endpoints.known[NAME]
    endpoint.mirror_traffic, before = {"default": 10}, dict(endpoint.tags)
    assert remove_endpoints_of(fakes.clients, f"{NAME}/default").removed == (f"{NAME}/default",)
    found: Any = fakes.workspace.online_endpoints.known[NAME]
    assert (found.mirror_traffic, found.traffic, found.tags) == ({}, {"green": 100}, before)


def test_a_deployment_that_gets_live_traffic_is_mirrored_to_no_more() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    endpoint: Any = fakes.workspace.online_endpoints.known[NAME]
    endpoint.mirror_traffic = {"green": 10}
    deploy(fakes, "second", "green")
    assert fakes.workspace.online_endpoints.known[NAME].mirror_traffic == {}


def test_a_deployment_that_cannot_be_deleted_is_named_with_its_way_out() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    fakes.workspace.record.fail("online_deployments.begin_delete", http_error(409, "locked", "ScopeLocked"))
    with pytest.raises(ServiceError, match="deployment green of endpoint prod-chat is still up and costs") as caught:
        remove_endpoints_of(fakes.clients, "second")
    assert "phift cleanup prod-chat/green" in str(caught.value)
    assert there(fakes) == {"default": 100, "green": 0}
    assert remove_endpoints_of(fakes.clients, "second").removed == (f"{NAME}/green",)


def test_shares_that_stay_are_kept_in_proportion_and_else_go_to_those_that_had_the_traffic_before() -> None:
    for shares, before, expected in [
        ({"aaa": 20, "bbb": 10, "ccc": 70}, None, {"aaa": 67, "bbb": 33}),
        ({"ccc": 100}, {"aaa": 100}, {"aaa": 100, "bbb": 0}),
        ({"ccc": 100}, {"gone": 100}, {"aaa": 0, "bbb": 100}),
        ({"ccc": 100}, "no JSON", {"aaa": 0, "bbb": 100}),
    ]:
        fakes = Fakes()
        for name in ("aaa", "bbb", "ccc"):
            deploy(fakes, f"of-{name}", name)
        endpoint: Any = fakes.workspace.online_endpoints.known[NAME]
        endpoint.traffic = dict(shares)
        endpoint.tags["phift.previous"] = json.dumps(before) if before != "no JSON" else "{"
        remove_endpoints_of(fakes.clients, "of-ccc")
        assert there(fakes) == expected


def test_a_deployment_that_is_named_goes_without_those_that_phift_did_not_make() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    fakes.add_deployment("strange", NAME, "other")
    done = remove_endpoints_of(fakes.clients, f"{NAME}/default")
    assert (done.deleted, done.removed, there(fakes)) == ((), (f"{NAME}/default",), {"strange": 100})
    assert owner(fakes) == "first"  # so that it is still listed, and deleted by its name
    assert remove_endpoints_of(fakes.clients, NAME).deleted == (NAME,)


def test_a_deployment_that_phift_did_not_make_is_not_said_to_be_deleted() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    fakes.add_deployment("handmade", NAME, "other")
    with pytest.raises(Conflict, match=r"handmade of endpoint prod-chat is not deleted: phift did not make it") as told:
        remove_endpoints_of(fakes.clients, f"{NAME}/handmade")
    assert "in the studio" in str(told.value)
    assert there(fakes) == {"default": 100, "handmade": 0}


def test_a_run_that_joins_an_endpoint_while_another_is_deleted_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    looked = sharing.deployments

    def joined(clients: Any, name: str) -> Any:
        found = looked(clients, name)
        deploy(fakes, "second", "green")
        return found

    monkeypatch.setattr(cleanup, "deployments", joined)
    done = remove_endpoints_of(fakes.clients, "first")
    assert (done.deleted, done.removed, there(fakes)) == ((), (f"{NAME}/default",), {"green": 100})


def test_a_deployment_that_is_not_there_is_told_with_those_that_are() -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    with pytest.raises(NotFound, match=r"no deployment blue") as caught:
        remove_endpoints_of(fakes.clients, f"{NAME}/blue")
    assert "it has: default" in str(caught.value)


@pytest.mark.parametrize("interruptions", [1, 2])
def test_an_interruption_of_a_removal_begins_it_again_and_a_second_one_says_what_is_left(interruptions: int) -> None:
    fakes = Fakes()
    deploy(fakes, "first", "default")
    deploy(fakes, "second", "green")
    fakes.workspace.record.fail("online_deployments.begin_delete", *[KeyboardInterrupt()] * interruptions)
    with pytest.raises(KeyboardInterrupt) as caught:
        remove_endpoints_of(fakes.clients, f"{NAME}/default")
    said = " ".join(getattr(caught.value, "__notes__", []))
    assert ("deployment default of endpoint prod-chat is still up" in said) == (interruptions == 2)
    assert there(fakes) == ({"green": 100} if interruptions == 1 else {"default": 0, "green": 100})
