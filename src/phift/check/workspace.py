"""What the workspace itself demands: names as the service takes them, and who may read and write its storage."""

from __future__ import annotations

import re
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

from phift.azure.answers import mapping
from phift.azure.clients import Clients
from phift.check.findings import Finding
from phift.check.sizes import text_of
from phift.config.run import RunConfig
from phift.errors import AccessDenied, NotFound

_EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
_EXPERIMENT_SOURCE = "the service's own words, in microsoft/dstoolkit-mlops-v2 pull request 180, 2024-10-03"
# A cluster's name, when it is made; the least that all sources agree on is demanded, so the length is not.
_CLUSTER = re.compile(r"[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?")
_CLUSTER_SOURCE = "the service's own words, in augerai/a2ml issue 65, 2020-02-29"

_BY_IDENTITY = "Microsoft Learn, how-to-identity-based-service-authentication, 2022-09-23"
_SHARED_KEYS = "Microsoft Learn, StorageAccount.AllowSharedKeyAccess, read 2026-11-30; refused as recorded 2026-02-27"
# Gets all permissions the caller has for a resource (Azure's AzurePermissionsForResource_List, api-version 2022-04-01).
_PERMISSIONS = "Microsoft Learn, AuthorizationExtensions.GetAzurePermissionsForResources, read 2026-11-30"
_WRITES = "microsoft.storage/storageaccounts/blobservices/containers/blobs/write"


def name_findings(config: RunConfig, *, creates_cluster: bool) -> list[Finding]:
    """Hold the names that nothing has taken yet against what the service refuses, before anything is uploaded."""
    found = []
    if not _EXPERIMENT.fullmatch(config.experiment):
        better = re.sub(r"[^A-Za-z0-9_-]+", "-", config.experiment).strip("-_")[:256] or "phift"
        message = f"An experiment named {config.experiment} is refused: it has 1 to 256 letters, digits, - and _, the "
        message += "first of them a letter or a digit."
        found.append(Finding("NAME_REFUSED", "error", "experiment", message, f"try {better}", _EXPERIMENT_SOURCE))
    cluster = config.compute.cluster or ""
    if creates_cluster and not _CLUSTER.fullmatch(cluster):
        better = re.sub(r"[^A-Za-z0-9]+", "-", cluster).strip("-0123456789") or "gpu-cluster"
        message = (
            f"A cluster named {cluster} is refused: it has letters, digits and -, starts with a letter and ends with "
        )
        message += "a letter or a digit."
        found.append(Finding("NAME_REFUSED", "error", "compute.cluster", message, f"try {better}", _CLUSTER_SOURCE))
    return found


def container_findings(clients: Clients, config: RunConfig) -> list[Finding]:
    """Say of a deployment in a container of one's own that the local workspace runs none, and Azure's is unverified."""
    if config.deployment.serve != "vllm":
        return []
    place = "deployment.serve"
    if clients.is_local:
        message = "The local workspace runs no containers, so it cannot serve with vLLM."
        return [Finding("DEPLOYMENT_NO_CONTAINERS", "error", place, message, "leave `deployment.serve` out")]
    message = "The container with vLLM is made of documented facts; no deployment of it on Azure was seen."
    return [Finding("DEPLOYMENT_UNVERIFIED", "note", place, message, "deploy a small model with it first")]


def storage_findings(workspace: Any, cluster: Any, *, serverless: bool) -> list[Finding]:
    """Say who needs which role where the workspace's datastores hold no account key (systemDatastoresAuthMode).

    Uploads then take the caller's own token, and the job's reads and writes the managed identity of its compute.

    - **workspace**: as the SDK has it; one that does not tell the mode has nothing said of it.
    - **cluster**: as `phift.check.compute.find_cluster` returns it.
    """
    if _auth_mode(workspace) != "identity":
        return []
    role = _role(workspace)
    message = (
        "The workspace's datastores hold no account key: uploads and downloads take the rights of your own account."
    )
    found = [Finding("STORAGE_BY_IDENTITY", "note", "workspace", message, f"you need {role}", _BY_IDENTITY)]
    if not serverless and getattr(cluster, "identity", None) is None:
        which = "The compute has" if cluster is not None else "The cluster that will be created has"
        message = f"{which} no managed identity, and without account keys a job reads and writes its data with that."
        name = text_of(cluster, "name") or "CLUSTER"
        fix = f"give it one (`az ml compute update --name {name} --identity-type SystemAssigned`), and the identity "
        fix += role
        found.append(Finding("STORAGE_NO_IDENTITY", "warning", "compute", message, fix, _BY_IDENTITY))
    return found


def account_findings(clients: Clients) -> list[Finding]:
    """Say what the workspace's storage account refuses: its own keys, or your account's token.

    Nothing is said where you may not read the storage account. A role on a single container is not seen, nor what a
    condition of a role or a network rule forbids.
    """
    workspace = clients.find_workspace()
    account, mode = text_of(workspace, "storage_account") or "", _auth_mode(workspace)
    if not account.startswith("/"):  # else it would go on the name of the host that gets the token
        return []
    with suppress(AccessDenied, NotFound):
        if mode == "identity":
            url = f"{clients.rest.resource_manager}{account}/providers/Microsoft.Authorization/permissions"
            granted = clients.rest.get(url, {"api-version": "2022-04-01"}).get("value")
            if isinstance(granted, list) and not any(_lets_write(mapping(each)) for each in granted):
                message = "No role lets your account write blobs there, as an upload does without account keys."
                fix = f"ask for {_role(workspace)}"
                return [Finding("STORAGE_NO_ROLE", "warning", "workspace", message, fix, _PERMISSIONS)]
        elif mode in ("", "accesskey"):
            shown = clients.rest.get(f"{clients.rest.resource_manager}{account}", {"api-version": "2023-05-01"})
            if mapping(shown.get("properties")).get("allowSharedKeyAccess") is False:
                message = "The storage account takes no account keys, and the workspace's datastores hold one."
                fix = "`az ml workspace update --system-datastores-auth-mode identity`, and for yourself and the "
                fix += f"compute's managed identity {_role(workspace)}"
                return [Finding("STORAGE_KEYS_OFF", "error", "workspace", message, fix, _SHARED_KEYS)]
    return []


def _auth_mode(workspace: Any) -> str:
    # AccessKey, Identity and UserDelegationSAS are known (azure-ai-ml 1.35.2); the workspace recorded says accesskey,
    # and those of 2022 said nothing.
    return (text_of(workspace, "system_datastores_auth_mode") or "").lower()


def _role(workspace: Any) -> str:
    account = (text_of(workspace, "storage_account") or "").rpartition("/")[2]
    where = f"storage account {account}" if account else "workspace's storage"
    return f"Storage Blob Data Contributor on the {where}"


def _lets_write(granted: Any) -> bool:
    """Tell whether one of the roles that the caller has allows to write blobs."""

    def names(key: str) -> bool:
        patterns = granted.get(key)
        return (
            any(fnmatchcase(_WRITES, str(each).lower()) for each in patterns) if isinstance(patterns, list) else False
        )

    return names("dataActions") and not names("notDataActions")
