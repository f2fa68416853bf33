"""Which GPUs: an existing cluster, a cluster to create, or serverless; are they allowed, how many a node."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from phift.azure.answers import listed, outcome, text
from phift.azure.clients import Clients
from phift.check.findings import Finding, Severity
from phift.check.models import AllowList, FoundationModel
from phift.check.sizes import VmSize, count_of, find_size, text_of
from phift.config.run import ComputeConfig, DeploymentConfig
from phift.errors import ComputeError, NotFound, azure_errors


@dataclass(frozen=True, kw_only=True)
class ComputeTarget:
    """Where a job will train.

    - **name**: the cluster's name, or ``serverless``.
    - **vm**: the VM size, with all that is known of it.
    - **gpus_per_node**: GPUs in one node; the component needs exactly this number.
    - **nodes**: nodes the job uses.
    - **exists**: False for a cluster that `ensure_cluster` will create.
    - **low_priority**: whether its VMs are, which have a quota of their own.
    """

    kind: Literal["cluster", "serverless"]
    name: str
    vm: VmSize
    gpus_per_node: int
    nodes: int
    exists: bool
    low_priority: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def size(self) -> str:
        """The VM size's name, as the cluster or the user spells it."""
        return self.vm.name


def find_cluster(clients: Clients, config: ComputeConfig) -> Any:
    """Return the cluster that ``config`` names as the SDK has it, or None for serverless or one to create.

    Raises `phift.errors.NotFound` where it does not exist and no size to create it with is given.
    """
    if config.serverless:
        return None
    name = config.cluster or ""
    place = f"compute {name}"
    try:
        with azure_errors(place):
            found = clients.workspace.compute.get(name)
    except NotFound as error:
        if config.size:
            return None
        with azure_errors("the workspace's computes"):
            answer = listed(clients.workspace.compute.list(), "workspace.compute.list")
        names = [text(compute.name, "compute.name") for compute in answer]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        fix = f"use one of {', '.join(sorted(names)) or '(there is none)'}, or add `size:` to have it created"
        fix = f"did you mean {near[0]}? Otherwise {fix}" if near else fix
        raise NotFound(f"There is no compute {name} in this workspace.", where="compute", fix=fix) from error
    _size_of(found)
    return found


def _size_of(cluster: Any) -> str:
    """Return a compute's VM size; one that is no cluster of VMs has none."""
    return text(getattr(cluster, "size", None) or "", "compute.size")


def resolve_compute(
    config: ComputeConfig, model: FoundationModel, cluster: Any, sizes: Mapping[str, VmSize]
) -> ComputeTarget:
    """Find the VM size and its GPUs, and hold them against the model's allow-list.

    - **cluster**: what `find_cluster` returned.
    - **sizes**: the region's VM sizes, see `phift.check.sizes.read_sizes`.

    What cannot work is an error finding of the returned value. Raises `phift.errors.ComputeError` where the compute
    has no VM size or the number of its GPUs is unknown.
    """
    name = "serverless" if config.serverless else config.cluster or ""
    if cluster is None:
        size, low_priority = config.serverless or config.size, config.low_priority
        findings: list[Finding] = []
    else:
        size, low_priority = _size_of(cluster), (text_of(cluster, "tier") or "").lower() == "low_priority"
        findings = _cluster_findings(cluster, config)
    if not size:
        what = f"The compute {config.cluster} has no VM size; only AmlCompute clusters can run this job."
        raise ComputeError(what, where="compute", fix="name an AmlCompute cluster, or use `serverless: <VM size>`")
    vm = replace(find_size(size, sizes), name=size)
    findings += size_findings(vm, model.finetune, model.name, "fine-tuning", config.allow_unlisted, f"compute {name}")
    gpus = config.gpus_per_node or vm.gpus
    if gpus is None:
        near = difflib.get_close_matches(size.lower(), sizes, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(sizes[name].name for name in near)}?" if near else ""
        what = f"Neither this region nor the built-in table knows the VM size {size}."
        raise ComputeError(what, where="compute", fix=f"check the VM size, or give `gpus_per_node`{hint}")
    if vm.gpus == 0:
        raise ComputeError(f"The VM size {size} has no GPU.", where="compute", fix="use a GPU size")
    if vm.gpus and vm.gpus != gpus:
        # The component starts one process a GPU and takes the number on trust: too few leave GPUs idle and paid for,
        # too many fail (azureml-assets pull request 1309).
        message = f"{size} has {vm.gpus} GPUs a node, and the run would use {gpus}"
        message += ", which fails." if gpus > vm.gpus else f": {vm.gpus - gpus} would be paid for and idle."
        severity: Severity = "error" if gpus > vm.gpus else "warning"
        fix = f"leave `gpus_per_node` out, or set it to {vm.gpus}"
        findings.append(Finding("COMPUTE_GPU_COUNT", severity, "compute.gpus_per_node", message, fix))
    return ComputeTarget(
        kind="serverless" if config.serverless else "cluster",
        name=name,
        vm=vm,
        gpus_per_node=gpus,
        nodes=config.nodes,
        exists=bool(config.serverless) or cluster is not None,
        low_priority=low_priority,
        findings=tuple(findings),
    )


def _cluster_findings(cluster: Any, config: ComputeConfig) -> list[Finding]:
    place = f"compute {config.cluster}"
    found = []
    if (text_of(cluster, "provisioning_state") or "").lower() == "failed":
        errors = getattr(cluster, "provisioning_errors", None)
        reasons = "; ".join(map(str, errors)) if isinstance(errors, list | tuple) else ""
        message = "The cluster is in a failed state" + (f": {reasons}." if reasons else ".")
        fix = "delete it and create it again, or name another one"
        found.append(Finding("COMPUTE_FAILED", "error", place, message, fix))
    most = count_of(cluster, "max_instances")
    if most is not None and config.nodes > most:
        message = f"The job wants {config.nodes} nodes and the cluster has at most {most}."
        fix = f"lower `nodes` to {most}, or raise the cluster's max_instances"
        found.append(Finding("COMPUTE_TOO_FEW_NODES", "error", place, message, fix))
    existing = _size_of(cluster)
    if config.size and config.size.lower() != existing.lower():
        message = f"The cluster exists with size {existing}; `size: {config.size}` has no effect."
        found.append(Finding("COMPUTE_SIZE_IGNORED", "warning", place, message))
    return found


def size_findings(
    vm: VmSize, allowed: AllowList | None, model: str, purpose: str, allow_unlisted: bool, place: str
) -> list[Finding]:
    """Hold a VM size against an allow-list, or, where there is none, against what cannot work.

    - **purpose**: ``fine-tuning`` or ``inference``, for the message.
    - **allow_unlisted**: the user's own word that the size will do; the finding is then a warning.
    """
    found = []
    if vm.retired_on:
        current = smallest_size(allowed) if allowed else None
        message = f"The VM size {vm.name} was retired on {vm.retired_on}."
        fix = "use a current size" + (f", such as {current}" if current else "")
        found.append(Finding("COMPUTE_SIZE_RETIRED", "error", place, message, fix, vm.table_source))
    if allowed and not allowed.allows(vm.name):
        message = f"{model} does not list {vm.name} for {purpose}; it lists {', '.join(allowed.sizes)}."
        fix = "use a listed size, or set `allow_unlisted: true`"
        severity: Severity = "warning" if allow_unlisted else "error"
        found.append(Finding("COMPUTE_SIZE_NOT_ALLOWED", severity, place, message, fix, allowed.source))
    if not allowed and vm.too_old:
        message = f"The VM size {vm.name} is too old for fine-tuning."
        found.append(Finding("COMPUTE_SIZE_UNSUPPORTED", "error", place, message))
    return found


def smallest_size(allowed: AllowList) -> str | None:
    """Return the listed size with the fewest GPUs and cores that is not retired, as far as the table knows them."""
    sizes = [find_size(name) for name in allowed.sizes]
    usable = [(vm.gpus, vm.vcpus, vm.name) for vm in sizes if vm.gpus and vm.vcpus and not vm.retired_on]
    return min(usable, key=lambda each: each[:2])[2] if usable else None


def deployment_size(model: FoundationModel, config: DeploymentConfig) -> str | None:
    """Return the VM size to deploy on: the configured one, else the smallest allowed one that the table knows."""
    return config.instance_type or (smallest_size(model.inference) if model.inference else None)


def instance_findings(model: FoundationModel, config: DeploymentConfig) -> list[Finding]:
    """Hold the deployment's VM size against the model's inference allow-list."""
    size = deployment_size(model, config)
    if size is None:
        message = f"No source says which VM sizes can serve {model.name}."
        if model.inference:
            message = f"The built-in table knows none of the sizes that can serve {model.name}, so none can be chosen."
        fix = "give `deployment.instance_type`" + (f": {', '.join(model.inference.sizes)}" if model.inference else "")
        return [Finding("DEPLOYMENT_NO_SIZE", "error", "deployment", message, fix)]
    place = "deployment.instance_type"
    return size_findings(find_size(size), model.inference, model.name, "inference", config.allow_unlisted, place)


def instance_type(model: FoundationModel, config: DeploymentConfig) -> str:
    """Return the VM size to deploy on; raises `phift.errors.ComputeError` where the allow-list does not have it."""
    for finding in instance_findings(model, config):
        if finding.severity == "error":
            raise ComputeError(finding.message, where=finding.place, fix=finding.fix)
    return str(deployment_size(model, config))


def ensure_cluster(clients: Clients, config: ComputeConfig, target: ComputeTarget) -> bool:
    """Create the cluster if it does not exist; returns whether it did create one.

    The cluster scales down to no node, so it costs nothing while idle. Raises `phift.errors.ComputeError` where it
    cannot be created, or somebody else has created it with another size since ``target`` was looked up.
    """
    if target.exists:
        return False
    # Looked up again: to create one that is there would change its settings.
    existing = find_cluster(clients, config)
    if existing is not None:
        if (size := _size_of(existing)).lower() != target.size.lower():
            what = f"Somebody has created the cluster {target.name} meanwhile, with the size {size}."
            raise ComputeError(what, where="compute", fix="run again, or give another name")
        for finding in _cluster_findings(existing, config):
            if finding.severity == "error":
                raise ComputeError(finding.message, where=finding.place, fix=finding.fix)
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
    with azure_errors(f"compute {target.name}"):
        made = outcome(clients.workspace.compute.begin_create_or_update(cluster), f"compute {target.name}")
    if text(getattr(made, "provisioning_state", None) or "", "compute.provisioning_state").lower() == "failed":
        what = f"The cluster {target.name} could not be created."
        raise ComputeError(what, where="compute", fix="look at its page in the studio for the reason, usually quota")
    return True
