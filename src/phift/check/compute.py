"""Which GPUs: a cluster, there or to be created, or serverless; are they allowed, how many a node; is there quota left.

A job's nodes take their vCPUs from the family of their VM size and from the region's total, and so do an endpoint's
instances, of which Azure sets 20 % more aside for most sizes. A cluster without a running node takes none; one with
running nodes has them in ``used`` already.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from phift.azure.answers import listed, outcome, text
from phift.azure.clients import Clients
from phift.azure.connect import clients_of
from phift.check.findings import Finding, Severity
from phift.check.models import AllowList, FoundationModel, find_model
from phift.check.sizes import VmSize, count_of, field_of, find_size, list_of_region, read_sizes, text_of
from phift.config.deployment import DeploymentConfig
from phift.config.run import ComputeConfig, RunConfig, read_section
from phift.errors import ComputeError, NotFound, azure_errors

if TYPE_CHECKING:
    from phift.azure.connect import AnyClients

_RESERVE = "Microsoft Learn, quota-allocation-online-deployment, 2023-12-07, and the endpoints' SKU list, 2023-10-18"


# Computes without a VM size, as the SDK has their types (azure-ai-ml 1.35.2, entities/_compute).
_KINDS = {
    "kubernetes": "an attached Kubernetes cluster",
    "virtualmachine": "an attached virtual machine",
    "synapsespark": "an attached Spark pool",
}
# Azure's states of computes (the SDK's ProvisioningState and ComputeInstanceState, azure-ai-ml 1.35.2): those in which
# jobs start, those that pass, and those in which none starts, with what to do. Of others, such as Unknown and Canceled,
# no source says which they are.
_READY = ("succeeded", "running", "jobrunning")
_PASSING = ("creating", "updating", "resizing", "starting", "restarting", "settingup", "usersettingup")
_WAYS_OUT = {
    "stopped": "start it: `az ml compute start --name {}`, or Start on its page in the studio",
    "stopping": "wait until it has stopped, then start it: `az ml compute start --name {}`",
    "deleting": "name another compute, or wait until it is gone and add `size:` to have it created",
    # The service's own advice, in MicrosoftDocs/azure-docs issue 85756, 2021-12-27.
    "unusable": "restart it: `az ml compute restart --name {}`; if it was never usable, delete it and create it again",
}


@dataclass(frozen=True, kw_only=True)
class ComputeTarget:
    """Where a job will train.

    - **name**: the cluster's name, or ``serverless``.
    - **gpus_per_node**: GPUs in one node; the component needs exactly this number.
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
    clients: AnyClients, compute: ComputeConfig | Mapping[str, Any] | str, model: FoundationModel | str | None = None
) -> ComputeTarget:
    """Look a compute up: its VM size, the GPUs in a node, whether it is there; and what speaks against it.

        resolve_compute(ml_client, "gpu-cluster", "Phi-4-mini-instruct").gpus_per_node

    - **compute**: as in a configuration: a cluster's name, or a mapping.
    - **model**: whose allow-list it is held against; left out, none.

    Raises `phift.errors.NotFound` where there is no such cluster and no size to create it with is given, and
    `phift.errors.ComputeError` where it has no VM size or nobody knows its GPUs. What else cannot work is an error
    finding of the returned value.
    """
    clients, config = clients_of(clients), read_section(ComputeConfig, compute, "compute")
    if not isinstance(model, FoundationModel):
        model = find_model(clients, model) if model else FoundationModel(id="", name="", version="", registry="")
    sizes = read_sizes(list_of_region(clients, "list_sizes", "the region's VM sizes"))
    return compute_target(config, model, find_cluster(clients, config), sizes)


def compute_target(
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
        kind = _KINDS.get((text_of(cluster, "type") or "").lower(), "of another kind")
        what = f"The compute {config.cluster} is {kind} and has no VM size; only AmlCompute clusters can run this job."
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


def preparation_findings(clients: Clients, config: RunConfig) -> list[Finding]:
    """Say what is wrong with the compute of ``data.prepare_on``; the training's own is judged as that.

    A Kubernetes cluster or a machine without a VM size can run the step; a Spark pool runs Spark only (Microsoft Learn,
    azureml-core, SynapseCompute, read 2026-11-30).

    Names of computes are the same in any case (MicrosoftDocs/azure-docs, resource-name-rules.md, 2020).
    """
    name, place = config.data.prepare_on, "data.prepare_on"
    if not name or name.lower() == (config.compute.cluster or "").lower():
        return []
    try:
        with azure_errors(f"compute {name}"):
            compute = clients.workspace.compute.get(name)
    except NotFound:
        message = f"There is no compute {name} to prepare the data on."
        fix = "name a cluster that is there, or make one: `az ml compute create --type amlcompute`"
        return [Finding("COMPUTE_PREPARE_MISSING", "error", place, message, fix)]
    kind = (text_of(compute, "type") or "").lower()
    if kind == "synapsespark":
        message = f"The compute {name} is {_KINDS[kind]}, which runs nothing but Spark."
        return [Finding("COMPUTE_PREPARE_KIND", "error", place, message, "name a cluster")]
    return _state_findings(compute, name, place)


def _state_findings(compute: Any, name: str, place: str) -> list[Finding]:
    """Say whether a job starts on a compute as it is now."""
    states = (text_of(compute, "provisioning_state"), text_of(compute, "state"))
    state = next((each for each in states if each and each.lower() not in _READY), "")
    if not state:
        return []
    if "failed" in state.lower():
        errors = getattr(compute, "provisioning_errors", None)
        reasons = "; ".join(map(str, errors)) if isinstance(errors, list | tuple) else ""
        message = "The cluster is in a failed state" + (f": {reasons}." if reasons else ".")
        return [
            Finding("COMPUTE_FAILED", "error", place, message, "delete it and create it again, or name another one")
        ]
    severity: Severity = "warning"
    message, fix = f"The compute is {state}; whether a job starts on it is not known.", "look at its page in the studio"
    if state.lower() in _PASSING:
        severity, message, fix = "note", f"The compute is {state}; a job waits until that is over.", ""
    elif way_out := _WAYS_OUT.get(state.lower()):
        severity, message, fix = "error", f"The compute is {state}, and no job starts on it.", way_out.format(name)
    return [Finding("COMPUTE_NOT_READY", severity, place, message, fix)]


def _cluster_findings(cluster: Any, config: ComputeConfig) -> list[Finding]:
    place = f"compute {config.cluster}"
    found = _state_findings(cluster, config.cluster or "", place)
    if is_instance := (text_of(cluster, "type") or "").lower() == "computeinstance":
        message = "It is a compute instance: one machine of one user, which costs money until it is stopped."
        fix = "name a cluster, which scales down to no node when the job is over"
        found.append(Finding("COMPUTE_INSTANCE", "warning", place, message, fix))
    most = 1 if is_instance else count_of(cluster, "max_instances")
    if most is not None and config.nodes > most:
        message = (
            f"The job wants {config.nodes} nodes and the {'instance' if is_instance else 'cluster'} has at most {most}."
        )
        fix = f"lower `nodes` to {most}, or " + (
            "name a cluster" if is_instance else "raise the cluster's max_instances"
        )
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


def ensure_cluster(
    clients: Clients, config: ComputeConfig, target: ComputeTarget, tags: Mapping[str, str] = MappingProxyType({})
) -> bool:
    """Create the cluster, with tags, if it does not exist; returns whether it did create one.

    One that is there is left as it is, with its identity, its subnet and its tags. The cluster scales down to no node,
    so it costs nothing while idle. Raises `phift.errors.ComputeError` where it cannot be created, or somebody else has
    created it with another size since ``target`` was looked up.
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
        tags=dict(tags),
    )
    with azure_errors(f"compute {target.name}"):
        made = outcome(clients.workspace.compute.begin_create_or_update(cluster), f"compute {target.name}")
    if text(getattr(made, "provisioning_state", None) or "", "compute.provisioning_state").lower() == "failed":
        what = f"The cluster {target.name} could not be created."
        raise ComputeError(what, where="compute", fix="look at its page in the studio for the reason, usually quota")
    return True


_NO_CORES_OF_A_REGION = re.compile("/(workspaces?|computes|totalclusters)/")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The vCPUs of one family, or of the whole region, in one subscription.

    - **family**: as the service writes it; compare with `same_family`.
    - **limit**: -1 where there is none.
    - **low_priority**: whether this is the separate quota of low-priority VMs.
    """

    family: str
    used: int
    limit: int
    low_priority: bool = False

    @property
    def is_total(self) -> bool:
        """Whether this is the region's total, ``TotalDedicatedCores`` or ``Total Cluster Dedicated Regional vCPUs``."""
        name = _plain(self.family)
        return name.startswith("total") and ("dedicated" in name or "lowpriority" in name)

    def lacks(self, vcpus: int) -> int:
        """Return how many vCPUs are missing for so many more; 0 if they fit."""
        return 0 if self.limit < 0 else max(0, self.used + vcpus - self.limit)


@dataclass(frozen=True)
class _Need:
    """What one part of the run takes: ``count`` machines of a VM size, and ``counted``, how its vCPUs came about."""

    what: Literal["training", "endpoint"]
    place: str
    vm: VmSize
    count: int
    counted: str
    low_priority: bool = False
    has_nodes: bool = False  # of an existing cluster: such as run are both in use and there to be used
    source: str = ""

    @property
    def vcpus(self) -> int:
        return self.count * (self.vm.vcpus or 0)

    def limits(self, usages: Sequence[Usage]) -> list[Usage]:
        """Return the limits that this has to keep: its family's and the region's."""
        of_kind = [usage for usage in usages if usage.low_priority == self.low_priority]
        return [usage for usage in of_kind if usage.is_total or same_family(usage.family, self.vm.family or "")]

    def short(self, usage: Usage) -> Finding:
        """Say what is missing."""
        missing, whose, node = usage.lacks(self.vcpus), _whose(usage), self.vm.vcpus or 1
        message = (
            f"The {self.what} needs {self.vcpus} vCPUs of {whose} ({self.counted}); "
            f"{usage.used} of {usage.limit} are in use, so {missing} are missing."
        )
        fix = f"ask for a limit of {usage.limit + missing} for {whose} in this region (studio, Quota), "
        fix += "free what holds it, or use fewer or other machines"
        # At most as many of the vCPUs in use may be this cluster's own running nodes.
        own = min(self.vcpus, usage.used // node * node) if self.has_nodes else 0
        if may_fit := not usage.lacks(self.vcpus - own):
            message += f" It fits only if {own} of those in use are nodes of this cluster that are still up."
        code = "QUOTA_TRAINING_SHORT" if self.what == "training" else "QUOTA_ENDPOINT_SHORT"
        return Finding(code, "warning" if may_fit else "error", self.place, message, fix, self.source)


def read_usages(listed: Iterable[Any]) -> list[Usage]:
    """Return the families' and the region's vCPUs of what ``MLClient.compute.list_usage()`` lists.

    The same answer repeats a family for each workspace and each cluster; those are shares of it and are left out, and
    so are the number of clusters (``totalClusters`` in azure-powershell 689c9cc2, Get-AzMLServiceUsage.Recording.json,
    2025-11-04) and what has no numbers.
    """
    usages = []
    for entry in listed:
        name = field_of(entry, "name")  # a dict: with localizedValue in the SDK 1.35, with localized_value before
        localized = text_of(name, "localized_value", "localizedValue")
        family = text_of(name, "value") or localized
        used, limit = count_of(entry, "current_value", "currentValue"), count_of(entry, "limit", least=-1)
        kind = f"{text_of(entry, 'id')}/{text_of(entry, 'type')}".lower()
        if family is None or used is None or limit is None or _NO_CORES_OF_A_REGION.search(kind):
            continue
        # Both quotas of a family may go by the same value; the words to tell them by are then in the localized name.
        low_priority = "lowpriority" in _plain(f"{family}{localized}{kind}")
        usages.append(Usage(family=family, used=used, limit=limit, low_priority=low_priority))
    return usages


def same_family(one: str, other: str) -> bool:
    """Whether two spellings name one VM family: Azure's own differ in case, spaces and what they append."""
    appended = r"(family)?(cluster(dedicated|lowpriority))?(vcpus)?$"
    return re.sub(appended, "", _plain(one)) == re.sub(appended, "", _plain(other))


def _plain(name: str) -> str:
    return re.sub(r"[\s_]", "", name.lower())


def quota_findings(
    target: ComputeTarget, deployment: VmSize | None, instances: int, usages: Sequence[Usage]
) -> list[Finding]:
    """Hold what the training and the endpoint take against what is left; each alone, since one follows the other.

    - **deployment**: the endpoint's VM size; None leaves the endpoint out.
    """
    nodes, exists = target.nodes, target.kind == "cluster" and target.exists
    counted = f"{nodes} node{'s' * (nodes > 1)} x {target.vm.vcpus} vCPUs"
    needs = [_Need("training", f"compute {target.name}", target.vm, nodes, counted, target.low_priority, exists)]
    if deployment:
        exempt = deployment.without_reserve
        count = instances if exempt else -(-6 * instances // 5)  # ceil(1.2 n), exactly
        counted = f"{count} instance{'s' * (count > 1)} x {deployment.vcpus} vCPUs"
        counted = f"{counted}, without the reserve of 20 %" if exempt else f"ceil(1.2 x {instances}) = {counted}"
        needs.append(_Need("endpoint", "deployment", deployment, count, counted, source=_RESERVE))
    findings: list[Finding] = []
    for need in needs:
        vm, limits, unknown = need.vm, need.limits(usages), ""
        if vm == VmSize(name=vm.name):
            unknown = f"neither the region nor the built-in table knows the VM size {vm.name}"
        elif not vm.family:
            unknown = f"no source says which family the VM size {vm.name} belongs to"
        elif not vm.vcpus:
            unknown = f"no source says how many vCPUs the VM size {vm.name} has"
        else:
            findings += [need.short(usage) for usage in limits if usage.lacks(need.vcpus)]
            if all(usage.is_total for usage in limits):
                unknown = f"the region's usages have no row for the family {vm.family}"
        if unknown:
            part = "the endpoint" if need.what == "endpoint" else need.what
            message = f"Whether the quota suffices for {part} is not known: {unknown}."
            findings.append(Finding("QUOTA_UNKNOWN", "note", "quota", message, "look at the studio's Quota page"))
    if len(needs) < 2 or findings:
        return findings
    # Each fits alone; when another job trains beside the endpoint, both have to.
    training, endpoint = needs
    both = training.vcpus + endpoint.vcpus
    fix = "let the cluster scale down before deploying; do not train beside the endpoint"
    for usage in training.limits(usages):
        if usage in endpoint.limits(usages) and usage.lacks(both):
            message = f"Training and endpoint fit {_whose(usage)} one after the other, not at once: together they need "
            message += f"{both} vCPUs, and {usage.used} of {usage.limit} are in use."
            findings.append(Finding("QUOTA_SHORT_TOGETHER", "note", "deployment", message, fix))
    return findings


def _whose(usage: Usage) -> str:
    kind = "low-priority" if usage.low_priority else "dedicated"
    return f"the region's {kind} total" if usage.is_total else f"the {kind} family {usage.family}"
