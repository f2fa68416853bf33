from __future__ import annotations

from typing import Any

import pytest

from phift.errors import Conflict, PhiftError, ServiceUnreachable
from phift.serving.cleanup import deployed_endpoints, priced
from phift.serving.price import Machines, Prices, cost_of, machines_of
from phift.serving.resource import DeploymentEvent, delete_endpoint
from unit.fakes import A100, FOUR_A100, Fakes, http_error

NAME = "phift-e"


def with_price(price: float | None = 3.5) -> Fakes:
    """Return a workspace with an endpoint of one deployment, whose size has a price an hour."""
    fakes = Fakes()
    values = [{"retailPrice": price, "osType": "Linux", "vmTier": "Standard"}]
    prices = {"billingCurrency": "USD", "unitOfMeasure": "OneHour", "values": values}
    fakes.workspace.compute.sizes = [{"name": A100, **({"estimatedVMPrices": prices} if price else {})}]
    fakes.add_endpoint(NAME)
    fakes.add_deployment("default", NAME, "m")
    return fakes


def deletion(fakes: Fakes, error: Any) -> str:
    """Return what is said of a deletion that failed."""
    fakes.workspace.record.fail("online_endpoints.begin_delete", error)
    events: list[DeploymentEvent] = []
    with pytest.raises(PhiftError) as caught:
        delete_endpoint(fakes.clients, NAME, events.append)
    return caught.value.what


def test_what_could_not_be_deleted_is_named_with_what_it_costs_a_day() -> None:
    said = deletion(with_price(), http_error(409, "(ScopeLocked) remove the lock"))
    cost = f"costs money: 84.00 USD a day, used or not, for 1 x {A100.upper()}"
    assert said.startswith(f"The endpoint {NAME} is still up and {cost}. Its deletion failed: ")
    assert "remove the lock" in said


def test_without_a_price_it_costs_money() -> None:
    assert "is still up and costs money. Its" in deletion(with_price(None), http_error(403, "no"))


@pytest.mark.parametrize("listing", ["online_deployments.list", "compute.list_sizes"])
def test_a_service_that_does_not_say_what_it_costs_hides_no_failure(listing: str) -> None:
    fakes = with_price()
    fakes.workspace.record.fail(listing, http_error(500, "later"))
    assert "is still up and costs money. Its" in deletion(fakes, http_error(403, "no"))


def test_a_service_that_does_not_answer_is_not_asked_what_it_costs(sleeps: list[float]) -> None:
    from azure.core.exceptions import ServiceRequestError

    fakes = with_price()
    fakes.workspace.record.fail("online_endpoints.begin_delete", *[ServiceRequestError("gone")] * 100)
    with pytest.raises((ServiceUnreachable, Conflict), match=r"is still up and costs money\. Its"):
        delete_endpoint(fakes.clients, NAME, lambda _event: None)
    assert not fakes.workspace.record.count("online_deployments.list")


def test_a_day_is_24_hours_of_each_machine_and_ones_own_price_counts() -> None:
    clients = with_price().clients
    machines = {"blue": Machines(A100, 2), "green": Machines(A100.upper(), 1)}
    assert Prices.of(clients).per_day(machines) == pytest.approx(3 * 24 * 3.5)
    assert Prices.of(clients, {A100.lower(): 1.0}).per_day(machines) == pytest.approx(72)
    assert Prices.of(clients).per_day({**machines, "red": Machines(FOUR_A100, 1)}) is None
    assert Prices.of(clients).per_day({}) == 0


def test_the_regions_sizes_are_asked_for_once() -> None:
    fakes = with_price()
    for _ in range(3):
        assert cost_of(fakes.clients, NAME).startswith("costs money: 84.00")
    assert fakes.workspace.record.count("compute.list_sizes") == 1
    assert machines_of(fakes.clients, NAME) == {"default": Machines(A100.upper(), 1)}


def test_an_endpoint_that_is_left_is_named_with_what_it_costs() -> None:
    fakes = with_price()
    found = deployed_endpoints(fakes.clients)
    assert [str(each) for each in priced(fakes.clients, found)] == [f"{NAME} (of job job; 84.00 USD a day)"]
    fakes.workspace.record.fail("online_deployments.list", http_error(500, "later"))
    assert [str(each) for each in priced(fakes.clients, found)] == [f"{NAME} (of job job)"]
