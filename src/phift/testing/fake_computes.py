"""Clusters, VM sizes and quota of `phift.testing.fake`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from azure.ai.ml.entities import AmlCompute, Usage, VmSize
from azure.ai.ml.operations import ComputeOperations
from azure.core.polling import LROPoller

from phift import facts
from phift.testing.fake_service import Record, made_now, not_covered, not_found, poller, service_error

_LIMIT = 200


class Computes:
    """Clusters by name, and what the region has: at first the sizes of phift's table, and 200 vCPUs of each family.

    - **known**: the clusters.
    - **sizes**, **usages**: what the lists show; change them as a test needs it.
    - **created_as**: the state in which the next clusters are when their creation has ended.
    """

    def __init__(self, record: Record, owner: str, location: str) -> None:
        self._record, self._owner, self._location = record, owner, location
        self.known: dict[str, Any] = {}
        rows = [row for row in facts.load("vm_sizes")["sizes"] if row["retired_on"] is None]
        self.sizes: list[Any] = [vm_size(row) for row in rows]
        self.usages: list[Any] = [usage(family, 0, _LIMIT) for family in dict.fromkeys(row["family"] for row in rows)]
        self.created_as = "Succeeded"

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other operations."""
        return not_covered(ComputeOperations, "compute", name)

    def add(self, name: str, size: str = "Standard_NC24ads_A100_v4", **settings: Any) -> Any:
        """Store a cluster as it is, for the start of a test."""
        self.known[name] = AmlCompute(name=name, size=size, **settings)
        self.known[name]._provisioning_state = "Succeeded"
        return self.known[name]

    def get(self, name: str) -> Any:
        """Return a cluster."""
        self._record("compute.get", name)
        if name not in self.known:
            raise not_found("compute", name)
        return copy.deepcopy(self.known[name])

    def list(self, *, compute_type: str | None = None) -> Iterator[Any]:
        """Return all clusters, or those of a type."""
        self._record("compute.list")
        wanted = (compute_type or "").lower()
        return iter([copy.deepcopy(each) for each in self.known.values() if wanted in ("", each.type)])

    def list_sizes(self, *, location: str | None = None, compute_type: str | None = None) -> Iterator[Any]:
        """Return the VM sizes; both arguments are taken and make no difference."""
        self._record("compute.list_sizes")
        return iter(self.sizes)

    def list_usage(self, *, location: str | None = None) -> Iterator[Any]:
        """Return the families' quota; the argument is taken and makes no difference."""
        self._record("compute.list_usage")
        return iter(self.usages)

    def begin_create_or_update(self, compute: Any) -> LROPoller[Any]:
        """Create a cluster, or change one; its VM size never changes."""
        self._record("compute.begin_create_or_update", compute.name)
        if not isinstance(compute, AmlCompute):
            raise NotImplementedError(f"FakeMLClient covers no {type(compute).__name__}, only AmlCompute.")
        size = str(compute.size)
        if size.lower() not in {str(each.name).lower() for each in self.sizes}:
            raise service_error(400, f"The specified vmSize {size} is not supported in the region.")
        previous = self.known.get(compute.name)
        if previous and previous.size.lower() != size.lower():
            raise service_error(400, "Property vmSize of an existing compute cannot be changed.")
        made = copy.deepcopy(compute)
        # The service shows the size in upper case, however it was sent (recorded traffic of the SDK's tests, 2022-08).
        made.size, made.location, made._id = size.upper(), self._location, f"{self._owner}/computes/{compute.name}"
        made._provisioning_state, made._created_on = self.created_as, made_now().created_at.isoformat()
        self.known[compute.name] = made
        return poller(copy.deepcopy(made), self._record.ordered("compute.result"))

    def begin_update(self, compute: Any) -> LROPoller[Any]:
        """Change a cluster."""
        return self.begin_create_or_update(compute)

    def begin_delete(self, name: str, *, action: str = "Delete") -> LROPoller[Any]:
        """Delete a cluster; one that is not there is no error here."""
        self._record("compute.begin_delete", name)
        self.known.pop(name, None)
        return poller(None, self._record.ordered("compute.result"))


def usage(family: str, used: int, limit: int) -> Any:
    """Return a family's quota as azure-ai-ml 1.35 gives it: in the service's own keys."""
    found = Usage()
    name = {"value": family, "localizedValue": family}
    found.__dict__.update({"name": name, "currentValue": used, "limit": limit, "unit": "Count"})
    return found


def vm_size(row: dict[str, Any]) -> Any:
    """Return a VM size as azure-ai-ml 1.35 gives it: what it renamed is None under the old name."""
    found = VmSize(name=row["name"], family=row["family"], gpus=row["gpus"])
    found.__dict__.update({"vCPUs": row["vcpus"], "memoryGB": row["memory_gb"]})
    return found
