"""Which GPUs: an existing cluster, a cluster to create, or serverless; are they allowed, how many a node."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

from phift import facts
from phift.checks import Finding
from phift.clients import Clients
from phift.config import ComputeConfig
from phift.errors import ComputeError, NotFound, azure_errors
from phift.models import AllowList, FoundationModel
from phift.quiet import quiet_sdk


@dataclass(frozen=True, kw_only=True)
class ComputeTarget:
    """Where a job will train.

    - **name**: the cluster's name, or ``serverless``.
    - **size**: the VM size as the service spells it.
    - **gpus_per_node**: GPUs in one node; the component needs exactly this number.
    - **nodes**: nodes the job uses.
    - **exists**: False for a cluster that `ensure_cluster` will create.
    """

    kind: Literal["cluster", "serverless"]
    name: str
    size: str
    gpus_per_node: int
    nodes: int
    exists: bool
    findings: tuple[Finding, ...] = ()


def resolve_compute(clients: Clients, config: ComputeConfig, model: FoundationModel) -> ComputeTarget:
    """Find the compute, its VM size and its GPUs, and hold it against the model's allow-list; creates nothing.

    What cannot work is an error finding of the returned value. Raises `phift.errors.NotFound` where the cluster does
    not exist and no size to create it with is given, and `phift.errors.ComputeError` where the GPU count is unknown.
    """
    findings: list[Finding] = []
    cluster = None
    if config.serverless:
        name, size = "serverless", config.serverless
    else:
        name = config.cluster or ""
        cluster = _get_cluster(clients, name, config)
        size = _cluster_size(cluster, config)
    if cluster is not None:
        findings += _cluster_findings(cluster, config)
    findings += size_findings(size, model.finetune, model.name, "fine-tuning", config.allow_unlisted, f"compute {name}")
    return ComputeTarget(
        kind="serverless" if config.serverless else "cluster",
        name=name,
        size=size,
        gpus_per_node=config.gpus_per_node or _gpus(clients, size),
        nodes=config.nodes,
        exists=bool(config.serverless) or cluster is not None,
        findings=tuple(findings),
    )


def _get_cluster(clients: Clients, name: str, config: ComputeConfig) -> Any:
    place = f"compute {name}"
    try:
        with azure_errors(place):
            return clients.workspace.compute.get(name)
    except NotFound as error:
        if config.size:
            return None
        with azure_errors("the workspace's computes"):
            names = [compute.name for compute in clients.workspace.compute.list()]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        fix = f"use one of {', '.join(sorted(names)) or '(there is none)'}, or add `size:` to have it created"
        fix = f"did you mean {near[0]}? Otherwise {fix}" if near else fix
        raise NotFound(f"There is no compute {name} in this workspace.", where="compute", fix=fix) from error


def _cluster_size(cluster: Any, config: ComputeConfig) -> str:
    size = config.size if cluster is None else getattr(cluster, "size", None)
    if not size:
        what = f"The compute {config.cluster} has no VM size; only AmlCompute clusters can run this job."
        raise ComputeError(what, where="compute", fix="name an AmlCompute cluster, or use `serverless: <VM size>`")
    return str(size)


def _cluster_findings(cluster: Any, config: ComputeConfig) -> list[Finding]:
    place = f"compute {cluster.name}"
    found = []
    state = str(getattr(cluster, "provisioning_state", "") or "")
    if state.lower() == "failed":
        reasons = "; ".join(str(error) for error in getattr(cluster, "provisioning_errors", None) or [])
        message = "The cluster is in a failed state" + (f": {reasons}." if reasons else ".")
        fix = "delete it and create it again, or name another one"
        found.append(Finding(code="COMPUTE_FAILED", severity="error", place=place, message=message, fix=fix))
    most = getattr(cluster, "max_instances", None)
    if most is not None and config.nodes > int(most):
        message = f"The job wants {config.nodes} nodes and the cluster has at most {most}."
        fix = f"lower `nodes` to {most}, or raise the cluster's max_instances"
        found.append(Finding(code="COMPUTE_TOO_FEW_NODES", severity="error", place=place, message=message, fix=fix))
    existing = str(getattr(cluster, "size", "") or "")
    if config.size and config.size.lower() != existing.lower():
        message = f"The cluster exists with size {existing}; `size: {config.size}` has no effect."
        found.append(Finding(code="COMPUTE_SIZE_IGNORED", severity="warning", place=place, message=message))
    return found


def size_findings(
    size: str, allowed: AllowList | None, model: str, purpose: str, allow_unlisted: bool, place: str
) -> list[Finding]:
    """Hold a VM size against an allow-list, or, where there is none, against what cannot work.

    - **purpose**: ``fine-tuning`` or ``inference``, for the message.
    - **allow_unlisted**: the user's own word that the size will do; the finding is then a warning.
    """
    found = []
    known = vm_size(size)
    if known and known.get("retired_on"):
        found.append(
            Finding(
                code="COMPUTE_SIZE_RETIRED",
                severity="error",
                place=place,
                message=f"The VM size {size} was retired on {known['retired_on']}.",
                fix="use a current size" + (f", such as {allowed.sizes[0]}" if allowed else ""),
                source=f"{known['source']}, {known['date']}",
            )
        )
    if allowed and not allowed.allows(size):
        found.append(
            Finding(
                code="COMPUTE_SIZE_NOT_ALLOWED",
                severity="warning" if allow_unlisted else "error",
                place=place,
                message=f"{model} does not list {size} for {purpose}; it lists {', '.join(allowed.sizes)}.",
                fix="use a listed size, or set `allow_unlisted: true`",
                source=allowed.source,
            )
        )
    if not allowed and known and known.get("unsupported"):
        message = f"The VM size {size} is too old for fine-tuning."
        found.append(Finding(code="COMPUTE_SIZE_UNSUPPORTED", severity="error", place=place, message=message))
    return found


def vm_size(name: str) -> dict[str, Any] | None:
    """Return the built-in table's entry for a VM size, or None; upper and lower case are the same."""
    for entry in facts.load("vm_sizes")["sizes"]:
        if entry["name"].lower() == name.lower():
            return dict(entry)
    return None


def smallest_size(allowed: AllowList) -> str | None:
    """Return the listed size with the fewest GPUs and cores that is not retired, as far as the table knows them."""
    known = [entry for size in allowed.sizes if (entry := vm_size(size)) and not entry.get("retired_on")]
    usable = [entry for entry in known if entry.get("gpus") and entry.get("vcpus")]
    return min(usable, key=lambda entry: (entry["gpus"], entry["vcpus"]))["name"] if usable else None


def _gpus(clients: Clients, size: str) -> int:
    """Return the GPUs of one VM: as the service says, else as the built-in table does."""
    with azure_errors("the region's VM sizes"):
        listed = {str(entry.name).lower(): entry for entry in clients.workspace.compute.list_sizes()}
    entry = listed.get(size.lower())
    # `gpus` is spelled alike in the SDK's old and new models of a VM size, unlike its neighbours.
    gpus = getattr(entry, "gpus", None) if entry is not None else None
    if gpus is None:
        gpus = (vm_size(size) or {}).get("gpus")
    if gpus is None:
        near = difflib.get_close_matches(size.lower(), listed, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(str(listed[name].name) for name in near)}?" if near else ""
        fix = f"check the VM size, or give `gpus_per_node`{hint}"
        what = f"Neither this region nor the built-in table knows the VM size {size}."
        raise ComputeError(what, where="compute", fix=fix)
    if int(gpus) < 1:
        raise ComputeError(f"The VM size {size} has no GPU.", where="compute", fix="use a GPU size")
    return int(gpus)


def ensure_cluster(clients: Clients, config: ComputeConfig, target: ComputeTarget) -> bool:
    """Create the cluster if it does not exist; returns whether it did create one.

    The cluster scales down to no node, so it costs nothing while idle.
    """
    if target.exists:
        return False
    from azure.ai.ml.entities import AmlCompute

    cluster = AmlCompute(
        name=target.name,
        size=target.size,
        min_instances=0,
        max_instances=max(config.max_nodes, config.nodes),
        idle_time_before_scale_down=config.idle_seconds,
        tier="low_priority" if config.low_priority else "dedicated",
    )
    with quiet_sdk(), azure_errors(f"compute {target.name}"):
        made = clients.workspace.compute.begin_create_or_update(cluster).result()
    if str(getattr(made, "provisioning_state", "")).lower() == "failed":
        what = f"The cluster {target.name} could not be created."
        raise ComputeError(what, where="compute", fix="look at its page in the studio for the reason, usually quota")
    return True
