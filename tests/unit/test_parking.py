"""An endpoint without machines, that keeps its name, address and keys."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from azure.ai.ml.entities import ManagedOnlineDeployment

import phift
from phift import Endpoint
from phift.azure.clients import Clients
from phift.errors import Conflict, DeploymentFailed, NotFound, PhiftError
from phift.serving.deployment import deploy_model
from phift.serving.lifetime import EXPIRES
from phift.serving.parking import _entity, _kept, is_parked
from phift.serving.resource import DeploymentEvent
from phift.serving.rollout_state import STATE, State
from phift.testing import Fault, TestWorkspace
from unit import given
from unit.fakes import A100, Fakes

PHI = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"
NAME = "phift-parked"
PUT_DEPLOYMENT = "PUT onlineEndpoints/{endpoint}/deployments/{deployment}"
DELETE_DEPLOYMENT = "DELETE onlineEndpoints/{endpoint}/deployments/{deployment}"


def deploy(clients: Clients, on_event: Callable[[DeploymentEvent], None] | None = None, **config: Any) -> Endpoint:
    config = {"deployment_name": "blue", "request_timeout_ms": 90_000, "probe": {"period": 33}, **config}
    return deploy_model(clients, PHI, name=NAME, size=A100, config=config, tags={"team": "t"}, on_event=on_event)


@pytest.fixture
def endpoint(clients: Clients) -> Endpoint:
    return deploy(clients)


def deployments(clients: Clients) -> dict[str, Any]:
    return {each.name: each for each in clients.workspace.online_deployments.list(NAME)}


def what(deployment: Any) -> Any:
    """Return all of a deployment that there is to keep."""
    probes = [vars(probe) for probe in (deployment.liveness_probe, deployment.readiness_probe)]
    plain = (deployment.name, deployment.model, deployment.instance_type, deployment.instance_count, deployment.tags)
    environment = (deployment.environment, deployment.environment_variables, deployment.app_insights_enabled)
    return plain, environment, vars(deployment.request_settings), probes


def tags(clients: Clients) -> dict[str, str]:
    return dict(clients.workspace.online_endpoints.get(NAME).tags)


def add_green(clients: Clients, **changes: Any) -> None:
    settings = {"name": "green", "endpoint_name": NAME, "model": PHI, "instance_type": A100, "instance_count": 2}
    variables = {"environment_variables": {"LEVEL": "3"}, "app_insights_enabled": True}
    green = ManagedOnlineDeployment(**{**settings, **variables, **changes})
    clients.workspace.online_deployments.begin_create_or_update(green).result()


def route(clients: Clients, live: dict[str, int], mirror: dict[str, int] | None = None) -> None:
    found = clients.workspace.online_endpoints.get(NAME)
    found.traffic, found.mirror_traffic = live, mirror or {}
    clients.workspace.online_endpoints.begin_create_or_update(found).result()


def expire(clients: Clients) -> None:
    found = clients.workspace.online_endpoints.get(NAME)
    found.tags[EXPIRES] = "2026-01-01T00:00:00+00:00"
    clients.workspace.online_endpoints.begin_create_or_update(found).result()


def test_a_parked_endpoint_costs_nothing_and_comes_back_the_same(clients: Clients, endpoint: Endpoint) -> None:
    add_green(clients)
    route(clients, {"blue": 100}, {"green": 20})
    before = {name: what(each) for name, each in deployments(clients).items()}
    keys, address, tagged = clients.workspace.online_endpoints.get_keys(NAME), endpoint.scoring_uri, tags(clients)
    endpoint.park()
    assert deployments(clients) == {}
    (row,) = phift.endpoints(clients)
    assert (row.is_parked, row.price_per_day, row.machines) == (True, 0, {})
    assert "    parked" in str(phift.endpoints(clients))
    Endpoint.attach(NAME, clients).unpark()
    assert {name: what(each) for name, each in deployments(clients).items()} == before
    found = clients.workspace.online_endpoints.get(NAME)
    assert ({k: v for k, v in found.traffic.items() if v}, found.mirror_traffic) == ({"blue": 100}, {"green": 20})
    assert tags(clients) == tagged
    after = clients.workspace.online_endpoints.get_keys(NAME)
    assert (after.primary_key, found.scoring_uri) == (keys.primary_key, address)
    assert endpoint.chat("Is this a chat?")


def test_what_is_kept_fits_tags(clients: Clients, endpoint: Endpoint) -> None:
    add_green(clients, tags={f"tag-{number}": "value" * 50 for number in range(10)})
    endpoint.park()
    assert len(tags(clients)) <= 50
    assert max(map(len, tags(clients).values())) <= 256


def test_parking_twice_and_unparking_twice_does_no_harm(clients: Clients, endpoint: Endpoint) -> None:
    events: list[DeploymentEvent] = []
    again = Endpoint.attach(NAME, clients, on_event=events.append)
    endpoint.park()
    kept = tags(clients)
    again.park()
    assert tags(clients) == kept
    again.unpark()
    again.unpark()
    assert [each.stage for each in events] == ["parked", "unpark", "deployment", "ready", "exists"]
    assert list(deployments(clients)) == ["blue"]


def test_what_has_nothing_to_bring_back_is_told_so(clients: Clients, endpoint: Endpoint) -> None:
    route(clients, {})
    clients.workspace.online_deployments.begin_delete("blue", NAME).result()
    with pytest.raises(NotFound, match="not parked, and has no deployment"):
        endpoint.unpark()
    with pytest.raises(Conflict, match="nothing that could be brought back"):
        endpoint.park()
    assert not is_parked(tags(clients))


def test_what_phift_did_not_make_is_left_alone(clients: Clients) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    made = ManagedOnlineEndpoint(name=NAME, auth_mode="key")
    clients.workspace.online_endpoints.begin_create_or_update(made).result()
    add_green(clients)
    with pytest.raises(Conflict, match="phift did not make"):
        Endpoint.attach(NAME, clients).park()
    assert list(deployments(clients)) == ["green"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment_variables": {"HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"}}, "HF_TOKEN may be a secret"),
        ({"tags": {f"tag-{number}": secrets.token_urlsafe(190) for number in range(48)}}, "no room for them"),
    ],
)
def test_what_could_not_be_kept_is_refused_before_anything_is_changed(
    clients: Clients, endpoint: Endpoint, changes: dict[str, Any], said: str
) -> None:
    add_green(clients, **changes)
    with pytest.raises(Conflict, match=said):
        endpoint.park()
    assert set(deployments(clients)) == {"blue", "green"}
    assert endpoint.chat("Is it up?")


def test_a_deployment_that_failed_is_not_kept(workspace: TestWorkspace, clients: Clients, endpoint: Endpoint) -> None:
    workspace.order(Fault("operation deployment-create"))
    with pytest.raises(Exception, match="This failure was ordered"):
        add_green(clients)
    endpoint.park()
    assert deployments(clients) == {}
    endpoint.unpark()
    assert list(deployments(clients)) == ["blue"]


@pytest.mark.parametrize("phase", ["deploying", "serving", "paused", "promoted", "rolled back"])
def test_a_rollout_under_way_is_refused(clients: Clients, endpoint: Endpoint, phase: Any) -> None:
    found = clients.workspace.online_endpoints.get(NAME)
    found.tags[STATE] = State(model="m", old="blue", new="green", steps=(50, 100), soak=1, phase=phase).written()
    clients.workspace.online_endpoints.begin_create_or_update(found).result()
    over = phase in ("promoted", "rolled back")
    with nullcontext() if over else pytest.raises(Conflict, match="rollout is under way"):
        endpoint.park()
    assert bool(deployments(clients)) != over


def test_a_container_of_phifts_comes_back_with_its_model_mounted() -> None:
    fakes = Fakes()
    made = fakes.add_deployment("blue", NAME, "/subscriptions/s/models/m/versions/1")
    made.environment = "/subscriptions/s/workspaces/w/environments/phift-vllm/versions/1"
    made.environment_variables = {"SERVED_MODEL_NAME": NAME}
    back = _entity(_kept(made, NAME), NAME)
    assert (back.environment, back.model_mount_path) == (made.environment, "/models")
    assert back.environment_variables == {"SERVED_MODEL_NAME": NAME}
    made.environment = "/subscriptions/s/workspaces/w/environments/somebodys/versions/1"
    with pytest.raises(Conflict, match="where its model is mounted cannot be read"):
        _kept(made, NAME)


def test_a_parked_endpoint_says_so_when_it_is_asked(clients: Clients, endpoint: Endpoint) -> None:
    endpoint.park()
    with pytest.raises(NotFound, match=f"(?s)is parked.*phift endpoints unpark {NAME}"):
        endpoint.chat("Are you there?")


def test_deploying_brings_a_parked_endpoint_back(clients: Clients, endpoint: Endpoint) -> None:
    before = what(deployments(clients)["blue"])
    endpoint.park()
    again = deploy(clients)
    assert again.existed
    assert what(deployments(clients)["blue"])[0][:4] == before[0][:4]
    assert not is_parked(tags(clients))
    assert again.chat("Are you back?")


def test_whoever_deploys_or_rolls_out_something_else_is_told_to_bring_it_back(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    endpoint.park()
    given.job(workspace, "job")
    with pytest.raises(Conflict, match=rf"(?s)is parked.*phift endpoints unpark {NAME}"):
        deploy_model(clients, PHI, name=NAME, size=A100, job="job")
    with pytest.raises(Conflict, match=rf"(?s)is parked.*phift endpoints unpark {NAME}"):
        endpoint.rollout(PHI)
    assert is_parked(tags(clients))


@pytest.mark.parametrize("on", [PUT_DEPLOYMENT, "POST onlineEndpoints/{endpoint}/listKeys"])
def test_a_deployment_that_fails_leaves_it_parked(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint, on: str
) -> None:
    endpoint.park()
    kept = tags(clients)
    workspace.order(Fault(on, status=400, message="no"))
    with pytest.raises(DeploymentFailed):
        deploy(clients)
    assert (deployments(clients), tags(clients)) == ({}, kept)
    endpoint.unpark()
    assert endpoint.chat("Are you back?")


# What goes wrong


@pytest.mark.parametrize(
    "fault",
    [
        Fault(PUT_DEPLOYMENT, status=400, code="QuotaExceeded", message="Not enough quota"),
        Fault("operation deployment-create", code="AllocationFailed", message="Insufficient capacity"),
        Fault("operation deployment-create", code="ResourceNotReady", message="It crashed"),
        Fault("PUT onlineEndpoints/{endpoint}", status=403),
    ],
    ids=["quota", "capacity", "failed", "traffic"],
)
def test_what_cannot_be_brought_back_stays_parked(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint, fault: Fault
) -> None:
    endpoint.park()
    kept = tags(clients)
    workspace.order(fault)
    with pytest.raises(DeploymentFailed, match=f"stays parked; to try again: phift endpoints unpark {NAME}"):
        endpoint.unpark()
    assert (deployments(clients), tags(clients)) == ({}, kept)
    endpoint.unpark()
    assert endpoint.chat("Are you back?")


def test_what_cannot_be_taken_back_is_named_with_its_price(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    endpoint.park()
    workspace.order(
        Fault("PUT onlineEndpoints/{endpoint}", status=403), Fault(DELETE_DEPLOYMENT, status=409, code="ScopeLocked")
    )
    with pytest.raises(
        DeploymentFailed, match=r"still up and costs money: 88\.\d\d USD a day.*To go on: phift endpoin"
    ):
        endpoint.unpark()
    assert "half parked: blue 0 %" in str(phift.endpoints(clients))
    endpoint.unpark()
    assert endpoint.chat("Are you back?")


@pytest.mark.parametrize("state", ["there already", "failed"])
def test_what_an_unparking_that_was_killed_left_is_taken_back_too(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint, state: str
) -> None:
    endpoint.park()
    if state == "failed":
        workspace.order(Fault("operation deployment-create"))
    with nullcontext() if state == "there already" else pytest.raises(Exception, match="This failure was ordered"):
        add_green(clients, name="blue")
    assert list(deployments(clients)) == ["blue"]
    workspace.order(Fault("PUT onlineEndpoints/{endpoint}", status=403))
    with pytest.raises(DeploymentFailed, match="what was made is deleted again; the endpoint stays parked"):
        endpoint.unpark()
    assert deployments(clients) == {}


def test_a_lock_on_one_deployment_leaves_the_others_deleted_and_names_it(
    workspace: TestWorkspace, clients: Clients, endpoint: Endpoint
) -> None:
    add_green(clients)
    workspace.order(Fault(DELETE_DEPLOYMENT, status=409, code="ScopeLocked", message="The scope is locked."))
    with pytest.raises(Conflict, match=r"still up and costs money: \d+\.\d\d USD a day.*locked") as caught:
        endpoint.park()
    assert f"phift endpoints park {NAME}, or unpark {NAME}" in caught.value.__notes__[-1]
    assert len(deployments(clients)) == 1
    Endpoint.attach(NAME, clients).park()
    assert deployments(clients) == {}
    endpoint.unpark()
    assert set(deployments(clients)) == {"blue", "green"}


class Killed(BaseException):
    """What a program ends by without any clearing up."""


@pytest.mark.parametrize("then", ["park", "unpark"])
@pytest.mark.parametrize("stage", ["park", "unpark", "deployment"])
def test_what_is_killed_half_way_is_completed_by_either(
    workspace: TestWorkspace,
    clients: Clients,
    endpoint: Endpoint,
    stage: str,
    then: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A killed process clears nothing up: what its last words would do is left out."""
    add_green(clients)
    before = {name: what(each) for name, each in deployments(clients).items()}
    if stage != "park":
        endpoint.park()
    monkeypatch.setattr("phift.serving.parking._take_back", lambda *_args, **_options: "")
    operations = clients.workspace.online_deployments
    name = "begin_delete" if stage == "park" else "begin_create_or_update"
    real, count = getattr(operations, name), 0

    def kill(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count > (1 if stage == "deployment" else 0):
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(type(operations), name, lambda _self, *args, **options: kill(*args, **options))
    with pytest.raises(Killed):
        (endpoint.park if stage == "park" else endpoint.unpark)()
    monkeypatch.undo()
    other = Endpoint.attach(NAME, clients)
    getattr(other, then)()
    assert set(deployments(clients)) == (set() if then == "park" else {"blue", "green"})
    other.unpark()
    assert {name: what(each) for name, each in deployments(clients).items()} == before
    assert other.chat("Are you back?")


def test_ctrl_c_takes_back_what_was_made(workspace: TestWorkspace, clients: Clients, endpoint: Endpoint) -> None:
    add_green(clients)
    endpoint.park()

    def interrupt(event: DeploymentEvent) -> None:
        if event == DeploymentEvent("deployment", "green"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        Endpoint.attach(NAME, clients, on_event=interrupt).unpark()
    assert "stays parked" in caught.value.__notes__[-1]
    assert deployments(clients) == {}
    endpoint.unpark()
    assert set(deployments(clients)) == {"blue", "green"}


def test_tags_that_somebody_changed_are_said_to_be_damaged(clients: Clients, endpoint: Endpoint) -> None:
    endpoint.park()
    found = clients.workspace.online_endpoints.get(NAME)
    found.tags["phift.parked.0"] = found.tags["phift.parked.0"][:100]
    clients.workspace.online_endpoints.begin_create_or_update(found).result()
    with pytest.raises(Conflict, match="damaged"):
        endpoint.unpark()
    assert deploy(clients).chat("Are you back?")


def test_unparking_extends_what_has_expired(clients: Clients, endpoint: Endpoint) -> None:
    endpoint.park()
    expire(clients)
    endpoint.unpark()
    assert not phift.endpoints(clients)[0].has_expired


# Several at once


def test_the_end_of_a_block_deletes_no_parked_endpoint_but_one_that_is_back(
    workspace: TestWorkspace, clients: Clients
) -> None:
    given.job(workspace, "job")

    def made() -> Endpoint:
        return deploy_model(clients, PHI, name=NAME, size=A100, job="job")

    with made() as endpoint:
        endpoint.park()
    assert is_parked(tags(clients))
    Endpoint.attach(NAME, clients).delete()
    with made() as endpoint:
        endpoint.park()
        endpoint.unpark()
    with pytest.raises(NotFound):
        Endpoint.attach(NAME, clients)


def test_nobody_parks_what_somebody_else_uses_in_a_block(workspace: TestWorkspace, clients: Clients) -> None:
    given.job(workspace, "job")
    with deploy_model(clients, PHI, name=NAME, size=A100, job="job") as endpoint:
        with pytest.raises(Conflict, match="in a block"):
            Endpoint.attach(NAME, clients).park()
        assert endpoint.chat("Are you there?")


def test_nobody_parks_or_prunes_what_may_be_used_for_all_one_knows(workspace: TestWorkspace, clients: Clients) -> None:
    given.job(workspace, "job")

    def out_of_reach(_found: phift.Pruned) -> bool:
        workspace.order(Fault("GET mlflow/*", status=403, times=None))
        return True

    endpoint = deploy_model(clients, PHI, name=NAME, size=A100, job="job")
    expire(clients)
    done = phift.prune_endpoints(clients, confirm=out_of_reach)
    assert "may be in use: " in done.spared[NAME]
    with pytest.raises(Conflict, match=r"Whether somebody else uses the endpoint .* in a block cannot be found out"):
        endpoint.park()
    assert deployments(clients)


@pytest.mark.parametrize("is_pruned", [False, True])
def test_nobody_takes_away_what_another_run_uses_in_a_block_of_its_own(
    workspace: TestWorkspace, clients: Clients, is_pruned: bool
) -> None:
    """Two runs share an endpoint, which is the second one's since that has the traffic."""
    workspace.set_quota(A100, 1000)
    for job in ("first", "second"):
        given.job(workspace, job)
    with deploy_model(clients, PHI, name=NAME, size=A100, job="first", config={"deployment_name": "blue"}):
        better = deploy_model(clients, PHI, name=NAME, size=A100, job="second", config={"deployment_name": "green"})
        if is_pruned:
            expire(clients)
            assert "in a block" in phift.prune_endpoints(clients).spared[NAME]
        else:
            with pytest.raises(Conflict, match="in a block"):
                better.park()
        assert set(deployments(clients)) == {"blue", "green"}


def test_two_who_unpark_at_once_bring_it_back_once(workspace: TestWorkspace, clients: Clients) -> None:
    given.job(workspace, "job")
    deploy_model(clients, PHI, name=NAME, size=A100, job="job").park()
    before, errors = len(workspace.requests(f"PUT onlineEndpoints/{NAME}/deployments/*")), list[PhiftError]()

    def bring_back() -> None:
        try:
            Endpoint.attach(NAME, clients).unpark()
        except PhiftError as error:
            errors.append(error)

    threads = [threading.Thread(target=bring_back) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert len(workspace.requests(f"PUT onlineEndpoints/{NAME}/deployments/*")) == before + 1
    assert Endpoint.attach(NAME, clients).chat("Are you back?")
