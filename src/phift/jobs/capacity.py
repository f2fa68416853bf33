"""What is known of where a job waits: the cluster's nodes, why it gets no more of them, and what is left of the quota.

Nothing of it is asked for unless a queue does not move, which it may for ever: a cluster that gets no machine has an
error of its own, and its jobs go on waiting (dotnet/machinelearning-modelbuilder issue 546, 2020-03-10).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from phift.azure.answers import json_object, listed, mapping
from phift.azure.clients import Clients
from phift.check.compute import Usage, read_usages, same_family
from phift.check.sizes import count_of, find_size, list_of_region, text_of
from phift.component.inputs import STEPS
from phift.data.on_cluster import STEP as PREPARATION
from phift.errors import PhiftError, redact, visible, way_out
from phift.jobs.ends import ENDED, WAITING, Step
from phift.jobs.events import StillQueued

LONG_QUEUE = 600.0
"""Seconds without a step at work after which it is looked why."""

_API = "2024-10-01-preview"
_SERVERLESS = "serverless"


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What is known of the compute that a job waits for.

    - **compute**: its name, or ``serverless``; empty where the job does not say it.
    - **known**: a sentence for each thing that is known, and for each that could not be asked.
    - **fix**: what to do about it.
    """

    compute: str
    known: tuple[str, ...]
    fix: str

    def __str__(self) -> str:
        return visible(" ".join(self.known), lines=False)


def read_capacity(clients: Clients, job: str, steps: Callable[[], Sequence[Step]]) -> Capacity:
    """Look where a job waits, and what is known of that; raises none of our errors, since the job goes on anyhow.

    - **steps**: returns the job's, of which the first one that waits counts.
    """
    compute, size, low_priority = "", "", False
    known, fixes = list[str](), list[str]()
    with _noted(known, "where the job waits"):
        compute, size = _waits_for(_resource(clients, f"jobs/{job}"), steps())
    if compute.lower() == _SERVERLESS:
        known.append("The job waits for serverless compute, of whose machines nothing is told.")
    elif compute:
        with _noted(known, f"what the cluster {compute} does"):
            cluster = mapping(_resource(clients, f"computes/{compute}").get("properties"))
            size, low_priority = text_of(cluster, "vmSize") or "", text_of(cluster, "vmPriority") == "LowPriority"
            _look_at_cluster(compute, cluster, known, fixes)
    if size:
        with _noted(known, "what is left of the quota"):
            usages = read_usages(list_of_region(clients, "list_usage", "the region's quota"))
            _look_at_quota(size, [each for each in usages if each.low_priority == low_priority], known, fixes)
    fixes.append("wait again later, since the job goes on; or cancel it, and take another VM size or region")
    return Capacity(compute=compute, known=tuple(map(redact, known)), fix=redact("; ".join(dict.fromkeys(fixes))))


@contextmanager
def _noted(known: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except PhiftError as error:
        known.append(f"It cannot be asked {what}: {error.what}")


def _resource(clients: Clients, path: str) -> dict[str, Any]:
    """Return the properties of a resource of the workspace, of which the SDK leaves out what is needed here."""
    client = clients.workspace
    group = f"subscriptions/{client.subscription_id}/resourceGroups/{client.resource_group_name}"
    workspace = f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{client.workspace_name}"
    url = f"{clients.rest.resource_manager}/{workspace}/{quote(path)}"
    answer = json_object(clients.rest.get(url, {"api-version": _API}), path)
    return json_object(answer.get("properties"), f"{path}, properties")


def _waits_for(job: dict[str, Any], steps: Sequence[Step]) -> tuple[str, str]:
    """Return the compute of the step that waits and, where that is serverless, its VM size; by default training's."""
    nodes = [mapping(node) for node in mapping(job.get("jobs")).values()]
    waiting = next((step.name for step in steps if step.status in WAITING), "")
    if waiting == PREPARATION:
        other = next((node for node in nodes if node.get("computeId")), {})
        return str(other.get("computeId") or "").rpartition("/")[2], ""
    suffix = STEPS.get(waiting, "finetune")
    inputs = next((found for node in nodes if f"compute_{suffix}" in (found := mapping(node.get("inputs")))), {})
    values = [mapping(inputs.get(f"{name}_{suffix}")).get("value") for name in ("compute", "instance_type")]
    compute, size = (str(value or "") for value in values)
    return compute, size if compute.lower() == _SERVERLESS else ""


def _look_at_cluster(name: str, cluster: Mapping[str, Any], known: list[str], fixes: list[str]) -> None:
    """Say how many nodes a cluster has and wants, what they do, and why it gets no more.

    The fields are as recorded 2024-12-18 (azure-sdk-assets 003b900b, test_aml_compute_create_and_delete); the form of
    an error in ``errors`` is the REST specification's ErrorResponse.
    """
    scale, counts = mapping(cluster.get("scaleSettings")), mapping(cluster.get("nodeStateCounts"))
    now, wanted, most = (
        count_of(cluster, "currentNodeCount"),
        count_of(cluster, "targetNodeCount"),
        count_of(scale, "maxNodeCount"),
    )
    of_kind = "low-priority" if text_of(cluster, "vmPriority") == "LowPriority" else "dedicated"
    state = text_of(cluster, "allocationState") or "unknown"
    size = text_of(cluster, "vmSize")
    nodes = f"has {_number(now)} of at most {_number(most)} nodes and wants {_number(wanted)}"
    known.append(f"The cluster {name} ({size}, {of_kind}) {nodes}; its allocation is {state}.")
    doing = {key.removesuffix("NodeCount"): count_of(counts, key) for key in counts}
    if any(doing.values()):
        known.append(f"Its nodes: {', '.join(f'{count} {what}' for what, count in doing.items() if count)}.")
    for error in listed(cluster.get("errors") or (), "cluster.errors"):
        said = mapping(mapping(error).get("error") or error)
        told = f"{text_of(said, 'code') or ''}: {text_of(said, 'message') or 'no reason given'}".removeprefix(": ")
        known.append(f"It gets no more nodes: {told}")
        fixes.append(way_out(told) or "look at the cluster's page in the studio")
    if most == 0:
        fixes.append(f"let it have nodes: `az ml compute update --name {name} --max-instances 1`")
    elif most is not None and doing.get("running") == most:
        known.append("All of them work, for other jobs.")
        fixes.append("wait until one of them ends, or raise the cluster's `max_instances`")
    if doing.get("unusable"):
        fixes.append("delete the cluster and make it again where its nodes stay unusable")
    if of_kind == "low-priority":
        fixes.append(
            "take dedicated machines (`compute.low_priority: false`): low-priority ones come when some are left"
        )


def _number(count: int | None) -> str:
    return "an unknown number" if count is None else str(count)


def _look_at_quota(size: str, usages: Sequence[Usage], known: list[str], fixes: list[str]) -> None:
    """Say how many vCPUs are left of a VM size's family and of the region's total."""
    vm = find_size(size)
    for usage in usages:
        whose = "the region's total" if usage.is_total else f"the family {usage.family}"
        if usage.limit < 0 or not (usage.is_total or (vm.family and same_family(usage.family, vm.family))):
            continue
        known.append(f"Of {whose}, {usage.used} of {usage.limit} vCPUs are in use; a node takes {_number(vm.vcpus)}.")
        if usage.lacks(vm.vcpus or 1):
            fixes.append(f"ask for more of {whose} (studio, Quota), or free what holds it: clusters and endpoints")


class QueueWatch:
    """Tells, once, of a job none of whose steps is worked on for long, with what is known of why."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told = False

    def look(self, job: str, status: str, steps: Iterable[str], ask: Callable[[], Capacity]) -> list[StillQueued]:
        """Take note of the statuses of a job and of its steps now, and return an event if one is due."""
        now, left = time.monotonic(), [each for each in (list(steps) or [status]) if each not in ENDED]
        if status in ENDED or not left or any(each not in WAITING for each in left):
            self._since, self._told = None, False
            return []
        self._since = now if self._since is None else self._since
        if self._told or now - self._since < LONG_QUEUE:
            return []
        self._told = True
        found = ask()
        return [StillQueued(job=job, status=status, seconds=now - self._since, known=found.known, fix=found.fix)]
