"""What the workspace itself demands: names as the service takes them, and who may read and write its storage."""

from __future__ import annotations

import re
from typing import Any

from phift.check.findings import Finding
from phift.check.sizes import text_of
from phift.config.run import RunConfig

_EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
_EXPERIMENT_SOURCE = "the service's own words, in microsoft/dstoolkit-mlops-v2 pull request 180, 2024-10-03"
# A cluster's name, when it is made; the least that all sources agree on is demanded, so the length is not.
_CLUSTER = re.compile(r"[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?")
_CLUSTER_SOURCE = "the service's own words, in augerai/a2ml issue 65, 2020-02-29"

_BY_IDENTITY = "Microsoft Learn, how-to-identity-based-service-authentication, 2022-09-23"


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


def storage_findings(workspace: Any, cluster: Any, *, serverless: bool) -> list[Finding]:
    """Say who needs which role where the workspace's datastores hold no account key (systemDatastoresAuthMode).

    Uploads then take the caller's own token, and the job's reads and writes the managed identity of its compute.

    - **workspace**: as the SDK has it; one that does not tell the mode has nothing said of it.
    - **cluster**: as `phift.check.compute.find_cluster` returns it.
    """
    # AccessKey, Identity and UserDelegationSAS are known (azure-ai-ml 1.35.2); the workspace recorded says accesskey.
    if (text_of(workspace, "system_datastores_auth_mode") or "").lower() != "identity":
        return []
    account = (text_of(workspace, "storage_account") or "").rpartition("/")[2]
    role = "Storage Blob Data Contributor on the " + (
        f"storage account {account}" if account else "workspace's storage"
    )
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
