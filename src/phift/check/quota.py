"""Quota: are there vCPUs left for the training and for the endpoint, before either is asked for.

A job's nodes take their vCPUs from the family of their VM size and from the region's total, and so do an endpoint's
instances, of which Azure sets 20 % more aside for most sizes. A cluster without a running node takes none; one with
running nodes has them in ``used`` already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from phift.check.compute import ComputeTarget
from phift.check.findings import Finding, Severity
from phift.check.sizes import VmSize, count_of, field_of, text_of

RESERVE_SOURCE = (
    "Microsoft Learn, quota-allocation-online-deployment, 2023-12-07, and the endpoints' SKU list, 2023-10-18"
)


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
    """What one part of the run takes: ``count`` machines of a VM size, and ``counted``, how they came about."""

    what: Literal["training", "endpoint"]
    place: str
    vm: VmSize
    count: int
    counted: str
    low_priority: bool = False
    has_nodes: bool = False  # of an existing cluster: such as run are both in use and there to be used
    remark: str = ""
    source: str = ""

    @property
    def vcpus(self) -> int:
        return self.count * (self.vm.vcpus or 0)

    def limits(self, usages: Sequence[Usage]) -> list[Usage]:
        """Return the limits that this has to keep: its family's and the region's."""
        family = self.vm.family or ""
        same = [usage for usage in usages if usage.low_priority == self.low_priority]
        return [usage for usage in same if usage.is_total or same_family(usage.family, family)]

    def short(self, usage: Usage) -> Finding:
        """Say what is missing."""
        missing, whose, node = usage.lacks(self.vcpus), _whose(usage), self.vm.vcpus or 1
        message = (
            f"The {self.what} needs {self.vcpus} vCPUs of {whose} ({self.counted} x {node} vCPUs{self.remark}); "
            f"{usage.used} of {usage.limit} are in use, so {missing} are missing."
        )
        fix = f"ask for a limit of {usage.limit + missing} for {whose} in this region (studio, Quota), "
        fix += "free what holds it, or use fewer or other machines"
        severity: Severity = "error"
        # At most as many of the vCPUs in use may be this cluster's own running nodes.
        own = min(self.vcpus, usage.used // node * node) if self.has_nodes else 0
        if not usage.lacks(self.vcpus - own):
            severity = "warning"
            message += f" It fits only if {own} of those in use are nodes of this cluster that are still up."
        code = "QUOTA_TRAINING_SHORT" if self.what == "training" else "QUOTA_ENDPOINT_SHORT"
        return Finding(code, severity, self.place, message, fix, self.source)


def read_usages(listed: Iterable[Any]) -> list[Usage]:
    """Return the families' and the region's vCPUs of what ``MLClient.compute.list_usage()`` lists.

    The same answer repeats a family for each workspace and each cluster; those are shares of it and are left out, and
    so is what has no numbers.
    """
    usages = []
    for entry in listed:
        name = field_of(entry, "name")  # a dict: with localizedValue in the SDK 1.35, with localized_value before
        localized = text_of(name, "localized_value", "localizedValue")
        family = text_of(name, "value") or localized
        used, limit = count_of(entry, "current_value", "currentValue"), count_of(entry, "limit", least=-1)
        kind = f"{text_of(entry, 'id')}/{text_of(entry, 'type')}".lower()
        if family is None or used is None or limit is None or re.search(r"/(workspaces?|computes)/", kind):
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
    - **usages**: see `read_usages`.
    """
    nodes, exists = target.nodes, target.kind == "cluster" and target.exists
    counted = f"{nodes} node{'s' * (nodes > 1)}"
    needs = [_Need("training", f"compute {target.name}", target.vm, nodes, counted, target.low_priority, exists)]
    if deployment:
        exempt = deployment.without_reserve
        count = instances if exempt else -(-6 * instances // 5)  # ceil(1.2 n), exactly
        counted = ("" if exempt else f"ceil(1.2 x {instances}) = ") + f"{count} instance{'s' * (count > 1)}"
        remark = ", without the reserve of 20 %" if exempt else ""
        needs.append(_Need("endpoint", "deployment", deployment, count, counted, remark=remark, source=RESERVE_SOURCE))
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
