"""Clusters, VM sizes and quota: what there is, what is in use, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import phift.facts
from phift.local.services.operations import accepted
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire.call import (
    AT_SUBSCRIPTION,
    AT_WORKSPACE,
    LOCATION,
    SUBSCRIPTION,
    Call,
    Reply,
    Route,
    WireError,
    listed,
    not_found,
    page,
    resource,
    section,
    timestamp,
    user_error,
)

RUNNING = ("Preparing", "Running", "Finalizing", "CancelRequested")


@cache
def quota() -> Any:
    """Return the quota of this workspace's subscription, as data."""
    return json.loads((files("phift.local.model") / "quota.json").read_text(encoding="utf-8"))


@cache
def sizes() -> list[Json]:
    """Return the VM sizes that are not retired, from phift's dated facts, as the wire shows them."""
    names = {"name": "name", "family": "family", "vcpus": "vCPUs", "memory_gb": "memoryGB", "gpus": "gpus"}
    rows = [row for row in phift.facts.load("vm_sizes")["sizes"] if row["retired_on"] is None]
    return [{shown: row[known] for known, shown in names.items()} for row in rows]


def size(name: str) -> Json | None:
    """Return the VM size called ``name``, in any case."""
    return next((row for row in sizes() if row["name"].lower() == name.lower()), None)


_NODE_STATES = [f"{state}NodeCount" for state in ("idle", "running", "preparing", "unusable", "leaving", "preempted")]


def routes() -> list[Route]:
    """Return the routes of computes and of what the subscription offers."""
    compute = f"{AT_WORKSPACE}/computes"
    location = f"{AT_SUBSCRIPTION}/locations/{{location}}"
    return [
        Route("GET", compute, _list),
        Route("GET", f"{compute}/{{name}}", _get),
        Route("PUT", f"{compute}/{{name}}", _put),
        Route("DELETE", f"{compute}/{{name}}", _delete),
        Route("GET", f"{location}/vmSizes", _sizes),
        Route("GET", f"{location}/usages", _usages),
    ]


def work(site: Site) -> dict[str, Callable[[str], None]]:
    """Return what the operations on computes do."""

    def create(key: str) -> None:
        site.documents.update(key, lambda body: body.update(provisioningState="Succeeded"))

    def delete(key: str) -> None:
        site.documents.delete(key)

    return {"compute-create": create, "compute-delete": delete}


def seed(site: Site) -> None:
    """Make the cluster that every new workspace has."""
    if site.documents.get("computes/gpu-cluster") is None and site.documents.get("seeded") is None:
        add(site, "gpu-cluster", "Standard_NC24ads_A100_v4", 1)
        # A cluster that the user deletes must not come back at the next start.
        site.documents.put("seeded", {"at": timestamp(site.clock.now())})


def add(site: Site, name: str, vm_size: str, nodes: int) -> None:
    """Make a cluster at once, of a VM size that there is."""
    if size(vm_size) is None:
        raise user_error(f"The specified vmSize {vm_size} is not supported in the region {LOCATION}.")
    cluster = {
        "vmSize": vm_size.upper(),
        "vmPriority": "Dedicated",
        "scaleSettings": {"minNodeCount": 0, "maxNodeCount": nodes, "nodeIdleTimeBeforeScaleDown": "PT2M"},
    }
    site.documents.put(f"computes/{name}", {"provisioningState": "Succeeded", "properties": cluster})


def limits(site: Site) -> dict[str, int]:
    """Return how many vCPUs may be used, by family."""
    changed = site.documents.get("quota")
    return {**quota()["limits"], **(changed.body if changed else {})}


def set_limit(site: Site, family: str, vcpus: int) -> None:
    """Change how many vCPUs of a family may be used.

    - **family**: its name, or a VM size in it.
    """
    row = size(family)
    known = {name.lower(): name for name in quota()["limits"]}
    name = row["family"] if row else known.get(family.lower())
    if name is None:
        raise user_error(f"There is no VM size or family {family}; the families are {', '.join(known.values())}.")
    changed = site.documents.get("quota")
    site.documents.put("quota", {**(changed.body if changed else {}), name: vcpus})


def usage(site: Site, apart_from: str | None = None) -> dict[str, int]:
    """Return the vCPUs in use, by family: deployments, apart from one that is to change, and jobs that run."""
    used = dict.fromkeys(quota()["limits"], 0)
    for key, instance_type, instances in site.documents.instances():
        row = size(instance_type)
        if row and key != apart_from:
            used[row["family"]] += row["vCPUs"] * instances
    for run in (run for status in RUNNING for run in site.documents.in_status("runs", status)):
        job = site.documents.get(f"jobs/{run.name}")
        row = size(job.body["plan"].get("vm_size") or "") if job else None
        if row:
            used[row["family"]] += row["vCPUs"]
    return used


def check_quota(site: Site, vm_size: str, instances: int, *, apart_from: str | None = None) -> None:
    """Refuse a deployment for which the subscription has no cores left, in Azure's words.

    Azure sets 20 % more instances aside for upgrades, except for the families named in the table.
    """
    row = size(vm_size)
    if row is None:
        raise WireError(400, "BadRequest", f"The instance type {vm_size} is not supported in {LOCATION}.")
    reserved = instances if row["family"] in quota()["without_reserve"] else math.ceil(1.2 * instances)
    needed = reserved * row["vCPUs"]
    used, limit = usage(site, apart_from)[row["family"]], limits(site)[row["family"]]
    if used + needed > limit:
        message = (
            f"Not enough quota available for {vm_size} in SubscriptionId {SUBSCRIPTION}. "
            f"Current usage/limit: {used}/{limit}. Additional needed: {needed}"
        )
        raise WireError(400, "OutOfQuota", message)


def _list(site: Site, call: Call) -> Reply:
    return listed(site, call, "computes", _show)


def _get(site: Site, call: Call) -> Reply:
    return Reply(_show(_found(site, call)))


def _found(site: Site, call: Call) -> Document:
    document = site.documents.get(f"computes/{call['name']}")
    if document is None:
        raise not_found("compute", call["name"])
    return document


def _put(site: Site, call: Call) -> Reply:
    sent = section(call.json(), "properties")
    if sent.get("computeType") != "AmlCompute":
        kind = sent.get("computeType")
        raise WireError(501, "NotImplemented", f"The local workspace has no computes of type {kind}; use AmlCompute")
    properties = section(sent, "properties")
    vm_size = str(properties.get("vmSize") or "")
    if size(vm_size) is None:
        raise user_error(f"The specified vmSize {vm_size} is not supported in the region {LOCATION}.")
    key = f"computes/{call['name']}"
    previous = site.documents.get(key)
    if previous and previous.body["properties"]["vmSize"].lower() != vm_size.lower():
        raise user_error("Property vmSize of an existing compute cannot be changed.")
    # The service shows the size in upper case, however it was sent (recorded traffic of the SDK's tests).
    body = {
        "provisioningState": "Creating",
        "properties": {**properties, "vmSize": vm_size.upper()},
        "tags": section(call.json(), "tags"),
        "description": sent.get("description"),
    }
    with site.documents.transaction():
        document = site.documents.put(key, body)
        operation = site.operations.begin("compute-create", key)
    return accepted(site, operation, _show(document), status=200 if previous else 201, family="compute")


def _delete(site: Site, call: Call) -> Reply:
    document = site.documents.get(f"computes/{call['name']}")
    if document is None:
        return Reply(None, 204)
    with site.documents.transaction():
        site.documents.update(document.key, lambda body: body.update(provisioningState="Deleting"))
        operation = site.operations.begin("compute-delete", document.key)
    return accepted(site, operation, family="compute")


def _show(document: Document) -> Json:
    sent = document.body["properties"]
    details = {
        "vmPriority": "Dedicated",
        "osType": "Linux",
        "allocationState": "Steady",
        "allocationStateTransitionTime": timestamp(document.modified),
        "currentNodeCount": 0,
        "targetNodeCount": 0,
        "errors": None,
        "nodeStateCounts": dict.fromkeys(_NODE_STATES, 0),
        "remoteLoginPortPublicAccess": "NotSpecified",
        "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT2M"},
        **{key: value for key, value in sent.items() if value is not None},
    }
    properties = {
        "computeType": "AmlCompute",
        "computeLocation": LOCATION,
        "description": document.body.get("description"),
        "provisioningState": document.body["provisioningState"],
        "provisioningErrors": None,
        "createdOn": timestamp(document.created),
        "modifiedOn": timestamp(document.modified),
        "isAttachedCompute": False,
        "disableLocalAuth": True,
        "properties": details,
    }
    return resource(document, "computes", properties, location=LOCATION, tags=document.body.get("tags") or {})


def _sizes(_site: Site, _call: Call) -> Reply:
    # Prices and disks are left out: there are none to tell the truth about.
    more = {"lowPriorityCapable": True, "premiumIO": True, "supportedComputeTypes": ["AmlCompute", "ComputeInstance"]}
    return Reply({"value": [{**row, **more} for row in sizes()]})


def _usages(site: Site, call: Call) -> Reply:
    used = usage(site)
    base = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.MachineLearningServices/locations/{call['location']}"
    rows = [
        {
            "id": f"{base}/usages/{family}",
            "type": "Microsoft.MachineLearningServices/vmFamily/dedicatedCores/usages",
            "unit": "Count",
            "currentValue": used[family],
            "limit": limit,
            "name": {"value": family, "localizedValue": f"{family} Cluster Dedicated vCPUs"},
        }
        for family, limit in limits(site).items()
    ]
    return page(rows)
