"""What Resource Manager tells of the workspace: how it is found, its datastores and computes, VM sizes and quota."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TypedDict

from phift.local import names
from phift.local.model import quota
from phift.local.services import operations
from phift.local.services.route import (
    AT_GROUP,
    AT_LOCATION,
    AT_SUBSCRIPTION,
    AT_WORKSPACE,
    Route,
    anybody,
    in_one_step,
    owner,
)
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire import (
    Call,
    Reply,
    WireError,
    check_name,
    existing,
    listed,
    not_found,
    origin,
    resource,
    section,
    timestamp,
    user_error,
)
from phift.version import __version__

_SERVICES = ["api", "catalog", "history", "modelmanagement", "pipelines", "studio"]
_SERVICES += ["experimentation", "hyperdrive", "labeling"]
_NODE_STATES = [f"{state}NodeCount" for state in ("idle", "running", "preparing", "unusable", "leaving", "preempted")]


def manages(path: str) -> bool:
    """Tell whether a path is one of Azure Resource Manager's, or of Azure ML's copy of it for registries."""
    return path.lower().startswith(("/subscriptions/", "/mferp/managementfrontend/subscriptions/"))


def _token(site: Site, call: Call) -> Reply:
    """Answer as the identity endpoint of Azure's app service does; the header is the folder's secret."""
    audience = call.query.get("resource")
    if not audience:
        raise WireError(400, "BadRequest", "The query parameter 'resource' is missing.")
    token, end = site.identity.token(audience)
    return Reply({"access_token": token, "expires_on": str(end), "resource": audience, "token_type": "Bearer"})


def _server(site: Site) -> Document:
    # What has no document was there when the folder was first served: the server notes its port before it answers.
    return existing(site, "server", not_found("workspace", names.WORKSPACE))


def _show_workspace(site: Site) -> Json:
    """Return the workspace, as recorded (azure-sdk-assets 6873a4bb, test_pipeline_job_get_child_run, 2026-02-27).

    What Azure fills with a key of telemetry and with a host for notebooks is made up, in the form that it has there.
    """
    group = f"/subscriptions/{names.SUBSCRIPTION}/resourceGroups/{names.GROUP}/providers"
    guid = names.SUBSCRIPTION
    made = origin(_server(site), "workspaces")
    properties = {
        "friendlyName": names.WORKSPACE,
        "description": "A local workspace of phift: it speaks Azure ML's protocol and is not Azure.",
        "storageAccount": f"{group}/Microsoft.Storage/storageAccounts/{names.ACCOUNT_NAME}",
        "keyVault": f"{group}/Microsoft.Keyvault/vaults/none",
        "applicationInsights": f"{group}/Microsoft.insights/components/none",
        "hbiWorkspace": False,
        "tenantId": names.TENANT,
        "imageBuildCompute": None,
        "provisioningState": "Succeeded",
        "managedNetwork": {
            "changeableIsolationModes": ["AllowInternetOutbound", "AllowOnlyApprovedOutbound"],
            "isolationMode": "Disabled",
            "enableNetworkMonitor": False,
            "enableFirewallLog": False,
        },
        "allowRoleAssignmentOnRG": True,
        "v1LegacyMode": False,
        "softDeleteEnabled": False,
        "containerRegistry": f"{group}/Microsoft.ContainerRegistry/registries/none",
        "creationTime": made["createdAt"],
        "notebookInfo": {
            "resourceId": guid.replace("-", ""),
            "fqdn": f"ml-{names.WORKSPACE}-{names.LOCATION}-{guid}.{names.LOCATION}.notebooks.phift.local",
            "isPrivateLinkEnabled": False,
            "notebookPreparationError": None,
        },
        "storageHnsEnabled": False,
        "workspaceId": guid,
        "linkedModelInventoryArmId": None,
        "privateLinkCount": 0,
        "publicNetworkAccess": "Enabled",
        "ipAllowlist": [],
        "networkAcls": {"defaultAction": "Allow", "bypass": "", "ipRules": [], "resourceAccessRules": []},
        "discoveryUrl": f"{site.base_url}/discovery",
        "mlFlowTrackingUri": names.tracking_uri(site.base_url),
        "serverlessComputeSettings": None,
        "EnableSoftwareBillOfMaterials": False,
        "sdkTelemetryAppInsightsKey": guid,
        "sasGetterUri": "",
        "enableDataIsolation": False,
        "systemDatastoresAuthMode": "identity" if site.datastores == "identity" else "accesskey",
        "enableServiceSideCMKEncryption": False,
    }
    return {
        "id": names.WORKSPACE_ID,
        "name": names.WORKSPACE,
        "type": "Microsoft.MachineLearningServices/workspaces",
        "location": names.LOCATION,
        "tags": {},
        "etag": None,
        "properties": properties,
        "identity": {"type": "SystemAssigned", "principalId": names.TENANT, "tenantId": names.TENANT},
        "kind": "Default",
        "sku": {"name": "Basic", "tier": "Basic"},
        "systemData": made,
    }


def _workspaces(site: Site, _call: Call) -> Reply:
    return Reply({"value": [_show_workspace(site)]})


def _datastores(site: Site, call: Call) -> Reply:
    only_default = call.query.get("isDefault", "").lower() == "true"
    # In the order that was recorded (azure-powershell, Get-AzMLWorkspaceDatastore, 2025-11-04).
    (blobs, artifacts), (working, files) = names.DATASTORES, names.FILE_STORES
    wanted = [blobs] if only_default else [blobs, working, artifacts, files]
    return Reply({"value": [_show_datastore(site, name) for name in wanted]})


def _show_datastore(site: Site, name: str) -> Json:
    """Return a datastore, as recorded with a key (azure-sdk-assets and azure-powershell, 2025-11-04, 2026-03-27).

    One that takes the caller's own token has credentials of type ``None`` (azure-sdk-assets, test_online_deployment,
    2025-02-25).
    """
    default = name == "workspaceblobstore"
    if container := names.DATASTORES.get(name):
        kind, held = "AzureBlob", {"containerName": container}
    elif share := names.FILE_STORES.get(name):
        kind, held = "AzureFile", {"fileShareName": share}
    else:
        raise not_found("datastore", name)
    properties = {
        "datastoreType": kind,
        "description": None,
        "tags": None,
        "properties": None,
        "isDefault": default,
        "subscriptionId": names.SUBSCRIPTION if default else None,
        "resourceGroup": names.GROUP if default else None,
        # The SDK writes https://{accountName}.blob.{endpoint}: a host with port and path leads back here.
        "accountName": site.base_url.removeprefix("https://") + "/storage",
        **held,
        "endpoint": names.STORAGE_SUFFIX,
        "protocol": "https",
        "serviceDataAccessAuthIdentity": "WorkspaceSystemAssignedIdentity" if default else "None",
        "credentials": {"credentialsType": "None" if site.datastores == "identity" else "AccountKey"},
    }
    return resource(replace(_server(site), key=f"datastores/{name}"), "datastores", properties)


def _secrets(site: Site, call: Call) -> Reply:
    properties = _show_datastore(site, call["name"])["properties"]
    if site.datastores == "identity":
        raise user_error("No secrets for credentials of type None.")
    place = properties.get("containerName") or properties["fileShareName"]
    return Reply({"secretsType": "Sas", "sasToken": "?" + site.identity.sas(f"{names.ACCOUNT}/{place}", "rwdl")})


def _get_compute(site: Site, call: Call) -> Reply:
    document = site.documents.get(f"computes/{call['name']}")
    if document is None:
        # Without a body, and not called an error (recorded 2023-10-30: azure-sdk-assets 2909d3d1,
        # test_pipeline_job_validation_remote).
        return Reply(None, 404)
    return Reply(_show_compute(site, document))


class _Cluster(TypedDict, total=False):
    vmSize: str | None
    vmPriority: str | None
    scaleSettings: Json | None
    userAccountCredentials: Json | None


class _ComputeProperties(TypedDict, total=False):
    computeType: str | None
    description: str | None
    properties: _Cluster | None


class _Compute(TypedDict, total=False):
    properties: _ComputeProperties | None
    tags: Json | None


@in_one_step
def _put_compute(site: Site, call: Call) -> Reply:
    body = call.json(_Compute)
    sent = section(body, "properties")
    check_name("compute", call["name"])
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
    if account := section(properties, "userAccountCredentials"):
        properties["userAccountCredentials"] = {**account, "adminUserPassword": None}  # told to nobody, and not kept
    made = {
        "provisioningState": "Creating",
        "properties": {**properties, "vmSize": vm_size},
        "tags": section(body, "tags"),
        "description": sent.get("description"),
        "disableLocalAuth": bool(sent.get("disableLocalAuth")),
    }
    return operations.make(site, call, "compute", key, made, _show_changed if previous else _show_accepted)


def _delete_compute(site: Site, call: Call) -> Reply:
    return operations.delete(site, call, "compute", f"computes/{call['name']}")


def _show_compute(site: Site, document: Document) -> Json:
    """Return a cluster as recorded 2024-12-18 (azure-sdk-assets 003b900b, test_aml_compute_create_and_delete).

    Its size is in the case in which it was sent; in 2022 and 2023, and in what phift stored until 2026-11, in upper
    case.
    """
    at_work = quota.nodes_at_work(site, document.name)
    details = {
        "vmPriority": "Dedicated",
        "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT2M"},
        "subnet": None,
        "currentNodeCount": at_work,
        "targetNodeCount": at_work,
        "nodeStateCounts": {**dict.fromkeys(_NODE_STATES, 0), "runningNodeCount": at_work},
        "allocationState": "Steady",
        "allocationStateTransitionTime": timestamp(document.modified),
        "errors": None,
        "remoteLoginPortPublicAccess": "NotSpecified",
        "osType": "Linux",
        "virtualMachineImage": None,
        "isolatedNetwork": False,
        "enableNodePublicIp": True,
        "enableBatchPrivateLink": False,
        "propertyBag": {},
        **document.body["properties"],
    }
    properties = {
        "createdOn": timestamp(document.created),
        "modifiedOn": timestamp(document.modified),
        "disableLocalAuth": document.body.get("disableLocalAuth", True),
        "description": document.body.get("description"),
        "resourceId": None,
        "computeType": "AmlCompute",
        "computeLocation": names.LOCATION,
        "provisioningState": document.body["provisioningState"],
        "provisioningErrors": None,
        "provisioningWarnings": {},
        "isAttachedCompute": False,
        "properties": details,
    }
    return resource(document, "computes", properties, location=names.LOCATION, tags=document.body.get("tags") or {})


def _show_changed(site: Site, document: Document) -> Json:
    """Return what a PUT of a cluster that is there answers: its size in upper case, and nothing yet of its nodes."""
    shown = _show_compute(site, document)
    batch = names.WORKSPACE_ID.replace("Microsoft.MachineLearningServices", "Microsoft.BatchAI")
    shown["properties"]["resourceId"] = f"{batch}/clusters/{document.name}"
    details = shown["properties"]["properties"]
    del details["allocationStateTransitionTime"], details["propertyBag"]
    unknown = ("currentNodeCount", "targetNodeCount", "nodeStateCounts", "allocationState")
    details |= {"vmSize": details["vmSize"].upper(), **dict.fromkeys(unknown)}
    return shown


def _show_accepted(site: Site, document: Document) -> Json:
    """Return what the PUT of a new cluster answers: of it less is known still, where it lies neither."""
    shown = _show_changed(site, document)
    shown["tags"] = document.body["tags"] or None
    shown["properties"] |= {"resourceId": None, "provisioningWarnings": None}
    del shown["properties"]["computeLocation"]
    return shown


def _sizes(_site: Site, _call: Call) -> Reply:
    return Reply({"value": quota.sizes()})


def _usages(site: Site, _call: Call) -> Reply:
    """Return clusters and vCPUs in use and their limits, of the region and by family.

    Names, ids, order and the limit of clusters as recorded 2025-11-04 (azure-powershell 689c9cc2,
    Get-AzMLServiceUsage.Recording.json); there low-priority VMs have a limit in the region and none in a family too.
    What the totals may be is made up.
    """
    limits, clusters = quota.limits(site), sum(1 for _ in site.documents.walk("computes"))
    dedicated, low, total = quota.usage(site), quota.usage(site, low_priority=True), sum(limits.values())
    of_region = "Total Cluster {} Regional vCPUs".format
    rows = [
        _usage("TotalClusters", "Total Clusters", "totalClusters", clusters, 200),
        _usage("TotalDedicatedCores", of_region("Dedicated"), "totalDedicatedCores", dedicated.total(), total),
        *(_of_family(family, "dedicated", dedicated[family], limit) for family, limit in limits.items()),
        _usage("TotalLowPriorityCores", of_region("Low Priority"), "totalLowPriorityCores", low.total(), total),
        *(_of_family(family, "lowPriority", low[family], -1) for family in limits),
    ]
    return Reply({"value": rows})


def _of_family(family: str, tier: str, used: int, limit: int) -> Json:
    bare = re.sub("^standard|family$", "", family, flags=re.IGNORECASE)
    localized = f"Standard {bare} Family Cluster {tier[0].upper()}{tier[1:]} vCPUs"
    shown = _usage(family, localized, f"vmFamily/{tier}Cores", used, limit)
    return {**shown, "id": f"{shown['id']}/usages/{family.replace(' ', '_')}"}


def _usage(name: str, localized: str, kind: str, used: int, limit: int) -> Json:
    return {
        "unit": "Count",
        "currentValue": used,
        "limit": limit,
        "name": {"value": name, "localizedValue": localized},
        "type": f"Microsoft.MachineLearningServices/{kind}/usages",
        "id": f"/subscriptions/{names.SUBSCRIPTION}",
    }


def _account(site: Site, call: Call) -> Reply:
    """Answer for the workspace's storage account, which is no resource of Azure ML's."""
    _find_account(call)
    properties = {"provisioningState": "Succeeded", "allowSharedKeyAccess": site.datastores != "keys-off"}
    shown = {"id": call.path, "name": names.ACCOUNT_NAME, "type": "Microsoft.Storage/storageAccounts"}
    return Reply({**shown, "location": names.LOCATION, "kind": "StorageV2", "properties": properties})


def _permissions(_site: Site, call: Call) -> Reply:
    """Answer that whoever asks has the roles Owner and Storage Blob Data Contributor (Azure's built-in roles)."""
    _find_account(call)
    blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
    ends = ("delete", "read", "write", "move/action", "add/action")
    owns: Json = {"actions": ["*"], "notActions": [], "dataActions": [], "notDataActions": []}
    return Reply({"value": [owns, {**owns, "actions": [], "dataActions": [f"{blobs}/{end}" for end in ends]}]})


def _find_account(call: Call) -> None:
    if call["account"].lower() != names.ACCOUNT_NAME:
        raise not_found("storage account", call["account"])


_AT_ACCOUNT = (
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Storage/storageAccounts/{account}"
)
ROUTES = [
    Route("GET /health", lambda _site, _call: Reply({"status": "ok", "version": __version__}), anybody),
    Route("GET /metadata/endpoints", lambda site, _call: Reply(names.cloud_documents(site.base_url)), anybody),
    Route("GET /discovery", lambda site, _call: Reply(dict.fromkeys(_SERVICES, site.base_url)), anybody),
    Route("GET /msi/token", _token, owner),
    Route(f"GET {AT_WORKSPACE}", lambda site, _call: Reply(_show_workspace(site))),
    Route(f"GET {AT_GROUP}/workspaces", _workspaces),
    Route(f"GET {AT_SUBSCRIPTION}/workspaces", _workspaces),
    Route(f"GET {_AT_ACCOUNT}", _account),
    Route(f"GET {_AT_ACCOUNT}/providers/Microsoft.Authorization/permissions", _permissions),
    Route("GET datastores", _datastores),
    Route("GET datastores/{name}", lambda site, call: Reply(_show_datastore(site, call["name"]))),
    Route("POST datastores/{name}/listSecrets", _secrets),
    Route("GET computes", lambda site, call: listed(site, call, "computes", _show_compute)),
    Route("GET computes/{name}", _get_compute),
    Route("PUT computes/{name}", _put_compute),
    Route("DELETE computes/{name}", _delete_compute),
    Route(f"GET {AT_LOCATION}/vmSizes", _sizes),
    Route(f"GET {AT_LOCATION}/usages", _usages),
]
