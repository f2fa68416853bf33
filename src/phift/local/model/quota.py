"""VM sizes, clusters and quota: what there is, what is in use, and what is refused."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache

import phift.facts
from phift.local.ground import Ground
from phift.local.model import catalog
from phift.local.model.runs import RUNNING, step_compute
from phift.local.names import LOCATION, SUBSCRIPTION
from phift.local.state.documents import Json
from phift.local.wire import WireError, timestamp, user_error


@cache
def sizes() -> list[Json]:
    """Return the VM sizes that are not retired, as the wire shows them.

    From phift's dated facts, and what Azure ML was recorded to tell of them besides.
    """
    return [_shown(row) for row in phift.facts.load("vm_sizes")["sizes"] if row["retired_on"] is None]


def _shown(row: Json) -> Json:
    recorded = catalog.table("sizes")
    more = {**recorded["usual"], **recorded["sizes"].get(row["name"], {})}
    prices = [
        {"retailPrice": price, "osType": system, "vmTier": tier} for system, tier, price in more.pop("prices", ())
    ]
    listed = {"billingCurrency": "USD", "unitOfMeasure": "OneHour", "values": prices}
    return {
        "name": row["name"],
        "family": row["family"],
        "vCPUs": row["vcpus"],
        "gpus": row["gpus"],
        "memoryGB": float(row["memory_gb"]),
        **more,
        **({"estimatedVMPrices": listed} if prices else {}),
    }


def size(name: str) -> Json | None:
    """Return the VM size called ``name``, in any case."""
    return next((row for row in sizes() if row["name"].lower() == name.lower()), None)


def check_size(vm_size: str) -> None:
    """Refuse a VM size that there is none of."""
    if size(vm_size) is None:
        raise user_error(f"The specified vmSize {vm_size} is not supported in the region {LOCATION}.")


def seed(ground: Ground) -> None:
    """Make the cluster that every new workspace has."""
    if ground.documents.get("computes/gpu-cluster") is None and ground.documents.get("seeded") is None:
        add(ground, "gpu-cluster", "Standard_NC24ads_A100_v4", 1)
        # A cluster that the user deletes must not come back at the next start.
        ground.documents.put("seeded", {"at": timestamp(ground.clock.now())})


def add(ground: Ground, name: str, vm_size: str, nodes: int) -> None:
    """Make a cluster at once, of a VM size that there is."""
    check_size(vm_size)
    cluster = {
        "vmSize": vm_size,
        "vmPriority": "Dedicated",
        "scaleSettings": {"minNodeCount": 0, "maxNodeCount": nodes, "nodeIdleTimeBeforeScaleDown": "PT2M"},
    }
    ground.documents.put(f"computes/{name}", {"provisioningState": "Succeeded", "properties": cluster})


def family_of(name: str) -> str:
    """Return a family as its usages spell it: by the name that its sizes have, or that phift had for it."""
    table = catalog.table("quota")
    spelled = {each: each for each in table["limits"]} | table["renamed"]
    return next((spelled[each] for each in spelled if each.lower() == name.lower()), name)


def limits(ground: Ground) -> dict[str, int]:
    """Return how many vCPUs may be used, by family."""
    changed = ground.documents.get("quota")
    own = {family_of(name): vcpus for name, vcpus in changed.body.items()} if changed else {}
    return {**catalog.table("quota")["limits"], **own}


def set_limit(ground: Ground, family: str, vcpus: int) -> None:
    """Change how many vCPUs may be used of a family, given by its name or by a VM size in it."""
    known, row = limits(ground), size(family)
    wanted = family_of(row["family"] if row else family)
    name = next((each for each in known if each.lower() == wanted.lower()), wanted if row else None)
    if name is None:
        raise user_error(f"There is no VM size or family {family}; the families are {', '.join(known)}.")
    ground.documents.put("quota", {**known, name: vcpus})


def usage(ground: Ground, apart_from: str | None = None, *, low_priority: bool = False) -> Counter[str]:
    """Return the vCPUs in use, by family: deployments, apart from one that is to change, and jobs that run.

    - **low_priority**: those of such VMs, which have a quota of their own.
    """
    used: Counter[str] = Counter()
    for key, instance_type, instances in ground.documents.instances() if not low_priority else ():
        if key != apart_from and (row := size(instance_type)):
            used[family_of(row["family"])] += row["vCPUs"] * instances
    for run in ground.documents.in_status("runs", *RUNNING):
        job = ground.documents.get(f"jobs/{run.name}")
        if job is None or (row := size(job.body["plan"].get("vm_size") or "")) is None:
            continue
        compute, _ = step_compute(job.body["plan"], "chat_completion_finetune")
        cluster = ground.documents.get(f"computes/{compute}")
        if low_priority == bool(cluster and cluster.body["properties"].get("vmPriority") == "LowPriority"):
            used[family_of(row["family"])] += row["vCPUs"]
    return used


def nodes_at_work(ground: Ground, cluster: str) -> int:
    """Return how many nodes of a cluster work for jobs: one for each that runs, for as long as it does."""
    jobs = [ground.documents.get(f"jobs/{run.name}") for run in ground.documents.in_status("runs", *RUNNING)]
    computes = [step_compute(job.body["plan"], "chat_completion_finetune")[0] for job in jobs if job]
    return sum(compute.lower() == cluster.lower() for compute in computes)


def check_quota(ground: Ground, vm_size: str, instances: int, *, apart_from: str | None = None) -> None:
    """Refuse a deployment for which the subscription has no cores left, in Azure's words.

    Azure sets 20 % more instances aside for upgrades, except for the families named in the table.
    """
    row = size(vm_size)
    if row is None:
        raise WireError(400, "BadRequest", f"The instance type {vm_size} is not supported in {LOCATION}.")
    family = family_of(row["family"])
    whole = family in catalog.table("quota")["without_reserve"]
    reserved = instances if whole else math.ceil(1.2 * instances)
    needed = reserved * row["vCPUs"]
    used, limit = usage(ground, apart_from)[family], limits(ground).get(family, 0)
    if used + needed > limit:
        message = (
            f"Not enough quota available for {vm_size} in SubscriptionId {SUBSCRIPTION}. "
            f"Current usage/limit: {used}/{limit}. Additional needed: {needed}"
        )
        raise WireError(400, "OutOfQuota", message)
