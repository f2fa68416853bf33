"""What an endpoint costs: its deployments' machines, used or not, at the price that the region lists for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from phift.azure.answers import listed, text
from phift.azure.clients import Clients
from phift.check.sizes import VmSize, find_size, list_of_region, read_sizes
from phift.errors import PhiftError, azure_errors, in_a_line


@dataclass(frozen=True)
class Machines:
    """What serves a deployment.

    - **size**: VM size.
    - **count**: instances.
    """

    size: str
    count: int

    def __str__(self) -> str:
        return in_a_line(f"{self.count} x {self.size}")


def machines_of(clients: Clients, endpoint: str) -> dict[str, Machines]:
    """Return what serves each deployment of an endpoint, by the deployments' names."""
    place = f"deployments of endpoint {endpoint}"
    with azure_errors(place):
        found = listed(clients.workspace.online_deployments.list(endpoint), place)
    machines = {}
    for each in found:
        size = text(each.instance_type or "", "deployment.instance_type")
        machines[text(each.name, "deployment.name")] = Machines(size, int(each.instance_count or 0))
    return machines


@dataclass(frozen=True)
class Prices:
    """What machines cost.

    - **own**: USD an hour by VM size, which go before what the region says.
    """

    own: Mapping[str, float]
    sizes: Mapping[str, VmSize]

    @classmethod
    def of(cls, clients: Clients, own: Mapping[str, float] = MappingProxyType({})) -> Prices:
        """Return what the region says, asked once; nothing where it says nothing."""
        known = {size.lower(): price for size, price in own.items()}
        try:
            what = "the region's VM sizes"
            return cls(known, clients.once(what, lambda: read_sizes(list_of_region(clients, "list_sizes", what))))
        except PhiftError:
            return cls(known, {})

    def per_day(self, machines: Mapping[str, Machines]) -> float | None:
        """Return what machines cost a day, in USD; None where one of them has no known price."""
        total = 0.0
        for each in machines.values():
            price = self.own.get(each.size.lower(), find_size(each.size, self.sizes).price_per_hour)
            if price is None:
                return None
            total += price * each.count * 24
        return total


def cost_of(clients: Clients, name: str) -> str:
    """Return in words what is there and should not be costs, as far as the service says.

    What costs is the machines; that an endpoint without any is free is unverified on Azure.

    - **name**: the endpoint's, or ``endpoint/deployment``.
    """
    endpoint, _, deployment = name.partition("/")
    try:
        machines = machines_of(clients, endpoint)
        machines = {name: each for name, each in machines.items() if deployment in ("", name)}
        price = Prices.of(clients).per_day(machines)
    except PhiftError:
        return "costs money"
    if not machines:
        return "has no deployment, and so no machine that costs"
    which = " and ".join(map(str, machines.values()))
    return "costs money" if price is None else f"costs money: {price:,.2f} USD a day, used or not, for {which}"
