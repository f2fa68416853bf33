"""Clusters, VM sizes and quota."""

from __future__ import annotations

from phift.local.model import quota
from phift.local.names import LOCATION, SUBSCRIPTION
from phift.local.services.operations import accepted
from phift.local.services.route import AT_SUBSCRIPTION, AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire.call import Call, Reply, WireError, not_found, section, timestamp, user_error
from phift.local.wire.pages import existing, listed, page, resource

_NODE_STATES = [f"{state}NodeCount" for state in ("idle", "running", "preparing", "unusable", "leaving", "preempted")]


def routes() -> list[Route]:
    """Return the routes of computes and of what the subscription offers."""
    compute = f"{AT_WORKSPACE}/computes"
    location = f"{AT_SUBSCRIPTION}/locations/{{location}}"
    # Prices and disks are left out of the sizes: there are none to tell the truth about.
    more = {"lowPriorityCapable": True, "premiumIO": True, "supportedComputeTypes": ["AmlCompute", "ComputeInstance"]}
    return [
        Route("GET", compute, lambda site, call: listed(site, call, "computes", _show)),
        Route("GET", f"{compute}/{{name}}", _get),
        Route("PUT", f"{compute}/{{name}}", _put),
        Route("DELETE", f"{compute}/{{name}}", _delete),
        Route("GET", f"{location}/vmSizes", lambda _site, _call: page([{**row, **more} for row in quota.sizes()])),
        Route("GET", f"{location}/usages", _usages),
    ]


def _get(site: Site, call: Call) -> Reply:
    return Reply(_show(existing(site, f"computes/{call['name']}", not_found("compute", call["name"]))))


def _put(site: Site, call: Call) -> Reply:
    sent = section(call.json(), "properties")
    if sent.get("computeType") != "AmlCompute":
        kind = sent.get("computeType")
        raise WireError(501, "NotImplemented", f"The local workspace has no computes of type {kind}; use AmlCompute")
    properties = section(sent, "properties")
    vm_size = str(properties.get("vmSize") or "")
    quota.check_size(vm_size)
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


def _usages(site: Site, call: Call) -> Reply:
    used = quota.usage(site)
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
        for family, limit in quota.limits(site).items()
    ]
    return page(rows)
