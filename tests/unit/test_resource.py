from __future__ import annotations

from typing import Any

import pytest
from azure.ai.ml.entities import ManagedOnlineEndpoint

from phift.errors import AccessDenied, Conflict, PhiftError, ServiceError, WaitTimeout
from phift.serving.resource import DeploymentEvent, delete_endpoint, endpoint
from unit.fakes import Fakes, http_error

NAME = "phift-e"


def deletion(fakes: Fakes) -> list[str]:
    """Delete the endpoint and return the stages that were told."""
    events: list[DeploymentEvent] = []
    delete_endpoint(fakes.clients, NAME, events.append)
    return [event.stage for event in events]


def test_a_deletion_that_left_the_endpoint_says_that_it_costs() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.workspace.online_endpoints.undeletable = True
    with pytest.raises(Conflict, match="still up and costs money") as caught:
        deletion(fakes)
    assert caught.value.fix == f"delete it: phift cleanup {NAME}, or in the studio"


LOCKED = http_error(409, "The scope is locked. Please remove the lock and try again.", "ScopeLocked")


@pytest.mark.parametrize(("error", "kind"), [(http_error(403), AccessDenied), (LOCKED, Conflict)], ids=["403", "lock"])
def test_a_deletion_that_is_refused_says_that_the_endpoint_costs(error: Exception, kind: type[PhiftError]) -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.workspace.record.fail("online_endpoints.begin_delete", error)
    with pytest.raises(
        kind, match=f"^The endpoint {NAME} is still up and costs money. Its deletion failed: "
    ) as caught:
        deletion(fakes)
    assert f"phift cleanup {NAME}" in str(caught.value)
    assert fakes.workspace.record.count("online_endpoints.begin_delete") == 1


def test_a_deletion_that_fails_half_way_says_that_the_endpoint_costs() -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    fakes.workspace.record.fail("online_endpoints.result", http_error(500, "try later"))
    with pytest.raises(ServiceError, match=r"costs money.*try later"):
        deletion(fakes)


def test_a_deletion_whose_answer_was_lost_is_done() -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("online_endpoints.begin_delete", http_error(500))
    assert deletion(fakes) == ["delete", "deleted"]


def test_a_deletion_waits_until_another_change_is_done(sleeps: list[float]) -> None:
    fakes = Fakes()
    fakes.add_endpoint(NAME)
    busy = http_error(409, f"{NAME} is Updating; wait until that is done.")
    fakes.workspace.record.fail("online_endpoints.begin_delete", busy, busy)
    assert deletion(fakes) == ["delete", "deleted"]
    assert fakes.workspace.online_endpoints.known == {}


def make(fakes: Fakes, errors: list[Exception]) -> int:
    """Make something that is refused with these errors first; returns how often it was tried."""
    tried = []
    endpoints = fakes.workspace.online_endpoints
    begin = endpoints.begin_create_or_update

    def put(endpoint: Any) -> Any:
        tried.append(1)
        if errors:
            raise errors.pop(0)
        return begin(endpoint)

    endpoints.begin_create_or_update = put  # type: ignore[method-assign] # as a service that refuses
    resource = endpoint(fakes.clients, "none")
    made, answered = resource.put(ManagedOnlineEndpoint(name="none", auth_mode="key"))
    assert (made.name, answered) == ("none", True)
    return len(tried)


def test_a_change_that_is_refused_because_of_another_one_is_tried_again(sleeps: list[float]) -> None:
    said = "Cannot create a deployment in endpoint x because it is in Updating provisioning state."
    assert make(Fakes(), [http_error(409, said)]) == 2


def test_a_conflict_that_will_not_pass_is_told_at_once() -> None:
    with pytest.raises(Conflict, match="locked"):
        make(Fakes(), [LOCKED])


def test_a_change_is_not_tried_for_ever(sleeps: list[float]) -> None:
    with pytest.raises(Conflict):
        make(Fakes(), [http_error(409, "Another operation is in progress.")] * 100)
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


def test_an_operation_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes()
    stuck = fakes.add_endpoint(NAME)
    monkeypatch.setattr("phift.serving.resource._LONGEST_OPERATION", -1.0)
    stuck._provisioning_state = "Updating"
    with pytest.raises(WaitTimeout, match="under way for an hour"):
        endpoint(fakes.clients, NAME).settled()


def test_what_is_not_there_is_settled() -> None:
    fakes = Fakes()
    assert endpoint(fakes.clients, "none").settled() is None
