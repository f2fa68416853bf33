from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from azure.ai.ml.entities import ManagedOnlineEndpoint

from phift.azure.clients import Clients
from phift.errors import AccessDenied, Conflict, PhiftError, ServiceError, WaitTimeout
from phift.serving.resource import DeploymentEvent, delete_endpoint, endpoint
from phift.testing import Fault, TestWorkspace
from unit.fakes import Fakes, http_error

NAME = "phift-e"
DELETE = f"DELETE onlineEndpoints/{NAME}"


def begin(clients: Clients) -> Any:
    """Begin to make the endpoint."""
    wanted = ManagedOnlineEndpoint(name=NAME, auth_mode="key")
    return clients.workspace.online_endpoints.begin_create_or_update(wanted)


def is_up(clients: Clients) -> bool:
    return NAME in [each.name for each in clients.workspace.online_endpoints.list()]


def deletion(clients: Clients) -> list[str]:
    """Delete the endpoint and return the stages that were told."""
    events: list[DeploymentEvent] = []
    delete_endpoint(clients, NAME, events.append)
    return [event.stage for event in events]


def test_a_deletion_that_left_the_endpoint_says_that_it_costs() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.workspace.online_endpoints.undeletable = True
    with pytest.raises(Conflict, match="still up and has no deployment") as caught:
        deletion(fakes.clients)
    assert caught.value.fix == f"delete it: phift cleanup {NAME}, or in the studio"


LOCKED: dict[str, Any] = {
    "status": 409,
    "code": "ScopeLocked",
    "message": "The scope is locked. Remove the lock and try again.",
}


@pytest.mark.parametrize(("error", "kind"), [({"status": 403}, AccessDenied), (LOCKED, Conflict)], ids=["403", "lock"])
def test_a_deletion_that_is_refused_says_that_the_endpoint_costs(
    workspace: TestWorkspace, clients: Clients, error: Any, kind: type[PhiftError]
) -> None:
    begin(clients).result()
    workspace.order(Fault(DELETE, **error))
    with pytest.raises(
        kind, match=f"^The endpoint {NAME} is still up and has no deployment, .* Its deletion failed: "
    ) as caught:
        deletion(clients)
    assert f"phift cleanup {NAME}" in str(caught.value)
    assert len(workspace.requests(DELETE)) == 1


def test_a_deletion_that_fails_half_way_says_that_the_endpoint_costs(
    workspace: TestWorkspace, clients: Clients
) -> None:
    begin(clients).result()
    workspace.order(Fault("operation endpoint-delete", status=500, message="try later"))
    with pytest.raises(ServiceError, match=r"machine that costs.*try later"):
        deletion(clients)


def test_a_deletion_whose_answer_was_lost_is_done(
    workspace: TestWorkspace, clients: Clients, sleeps: list[float]
) -> None:
    workspace.order(Fault(DELETE, status=500, times=None))  # of what is not there
    assert deletion(clients) == ["delete", "deleted"]


def test_a_deletion_waits_until_another_change_is_done(
    workspace: TestWorkspace, clients: Clients, sleeps: list[float]
) -> None:
    begin(clients).result()
    workspace.order(Fault(DELETE, status=409, message=f"{NAME} is Updating; wait until that is done.", times=2))
    assert deletion(clients) == ["delete", "deleted"]
    assert not is_up(clients)


def test_a_deletion_waits_no_longer_than_an_operation_lasts(
    sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes()
    stuck = fakes.add_endpoint(NAME)
    stuck._provisioning_state = "Updating"
    monkeypatch.setattr("phift.serving.resource._LONGEST_OPERATION", -1.0)
    busy = http_error(409, f"{NAME} is Updating; wait until that is done.")
    fakes.workspace.record.fail("online_endpoints.begin_delete", *[busy] * 100)
    with pytest.raises(Conflict, match="still up"):
        deletion(fakes.clients)
    assert fakes.workspace.record.count("online_endpoints.begin_delete") == 1


def put(clients: Clients) -> None:
    made, answered = endpoint(clients, NAME).put(ManagedOnlineEndpoint(name=NAME, auth_mode="key"))
    assert (made.name, answered) == (NAME, True)


PUT = f"PUT onlineEndpoints/{NAME}"


def test_a_change_that_is_refused_because_of_another_one_is_tried_again(
    workspace: TestWorkspace, clients: Clients, sleeps: list[float]
) -> None:
    said = "Cannot create a deployment in endpoint x because it is in Updating provisioning state."
    workspace.order(Fault(PUT, status=409, message=said))
    put(clients)
    assert [each.status for each in workspace.requests(PUT)] == [409, 201]


def test_a_conflict_that_will_not_pass_is_told_at_once(workspace: TestWorkspace, clients: Clients) -> None:
    workspace.order(Fault(PUT, **LOCKED))
    with pytest.raises(Conflict, match="locked"):
        put(clients)


@pytest.mark.parametrize(("code", "tries"), [("AnotherOperationInProgress", 2), ("ResourceGroupBeingDeleted", 1)])
def test_another_operation_is_waited_for_and_a_group_that_goes_is_not(
    workspace: TestWorkspace, clients: Clients, sleeps: list[float], code: str, tries: int
) -> None:
    said = "The resource group 'g' is in deprovisioning state and cannot perform this operation."
    workspace.order(Fault(PUT, status=409, code=code, message=said if tries == 1 else "Wait."))
    with nullcontext() if tries == 2 else pytest.raises(Conflict, match="being deleted"):
        put(clients)
    assert len(workspace.requests(PUT)) == tries


def test_a_change_is_not_tried_for_ever(sleeps: list[float]) -> None:
    fakes = Fakes()
    error = http_error(409, "Another operation is in progress.")
    fakes.workspace.record.fail("online_endpoints.begin_create_or_update", *[error] * 100)
    with pytest.raises(Conflict):
        put(fakes.clients)
    assert len(sleeps) == 39


def test_what_is_under_way_is_waited_for(sleeps: list[float]) -> None:
    fakes = Fakes()
    endpoints = fakes.workspace.online_endpoints
    endpoints.add(NAME, provisioning_state="Failed")
    endpoints.states[NAME] = ["Deleting", "UPDATING"]
    found = endpoint(fakes.clients, NAME).settled()
    assert found is not None
    assert found.provisioning_state == "Failed"
    assert sleeps == [0, 0]


@pytest.mark.phift(speed="manual")
def test_an_operation_without_end_is_given_up(
    workspace: TestWorkspace, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    making = begin(clients)
    monkeypatch.setattr("phift.serving.resource._LONGEST_OPERATION", -1.0)
    with pytest.raises(WaitTimeout, match="under way for an hour"):
        endpoint(clients, NAME).settled()
    workspace.advance(50)  # the SDK's poller asks from a thread of its own, which the test must not leave behind
    making.result()


def test_what_is_not_there_is_settled(clients: Clients) -> None:
    assert endpoint(clients, "none").settled() is None
