from __future__ import annotations

import itertools
from typing import Any

import pytest

from phift.azure.clients import Clients
from phift.errors import ServiceUnreachable, WaitTimeout
from phift.jobs.capacity import Capacity, QueueWatch, read_capacity
from phift.jobs.events import StillQueued
from phift.jobs.job import FineTuneJob
from phift.jobs.progress import JobProgress
from phift.testing import Fault, TestWorkspace
from unit import given
from unit.fakes import Fakes
from unit.stubs import usage

FINETUNE = "chat_completion_finetune"


def look(clients: Clients, name: str = "job") -> Capacity:
    return read_capacity(clients, name, FineTuneJob(name, clients).steps)


@pytest.fixture
def waits(workspace: TestWorkspace) -> TestWorkspace:
    """A workspace with one job at work on the only node of its cluster, and one behind it."""
    workspace.add_compute("small", "Standard_NC24ads_A100_v4", instances=1)
    for name in ("first", "second"):
        given.job(workspace, name, cluster="small")
    return workspace


@pytest.mark.phift(speed="manual")
def test_a_cluster_that_works_for_others_is_named(waits: TestWorkspace) -> None:
    found = look(waits.clients, "second")
    assert found.compute == "small"
    assert found.known[0] == (
        "The cluster small (Standard_NC24ads_A100_v4, dedicated) has 1 of at most 1 nodes and wants 1; "
        "its allocation is Steady."
    )
    assert found.known[1:3] == ("Its nodes: 1 running.", "All of them work, for other jobs.")
    assert "vCPUs are in use; a node takes 24." in found.known[3]
    assert "`max_instances`" in found.fix
    assert "the job goes on" in found.fix


@pytest.mark.phift(speed="manual")
def test_a_quota_that_is_used_up_is_named(waits: TestWorkspace) -> None:
    waits.set_quota("Standard_NC24ads_A100_v4", 24)
    found = look(waits.clients, "second")
    (of_family,) = [said for said in found.known if "family" in said]
    assert "24 of 24 vCPUs are in use" in of_family
    assert "ask for more of the family" in found.fix


def cluster(**details: Any) -> dict[str, Any]:
    """Return a cluster as Resource Manager shows it, on which nothing runs."""
    kinds = ("idle", "running", "preparing", "unusable", "leaving", "preempted")
    values = {
        "vmSize": "Standard_NC24ads_A100_v4",
        "vmPriority": "Dedicated",
        "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 4},
        "currentNodeCount": 0,
        "targetNodeCount": 1,
        "nodeStateCounts": {f"{kind}NodeCount": 0 for kind in kinds},
        "allocationState": "Resizing",
        "errors": None,
    }
    return {"properties": {"computeType": "AmlCompute", "properties": {**values, **details}}}


def with_cluster(answer: Any, **inputs: str) -> Capacity:
    """Look with answers that a test gives."""
    fakes = Fakes()
    asked = {"compute_finetune": "gpu-cluster", **inputs}
    node = {"inputs": {name: {"value": value, "job_input_type": "literal"} for name, value in asked.items()}}
    fakes.rest.on({"properties": {"jobs": {"step": node}}}, "/jobs/job")
    fakes.rest.on(answer, "/computes/gpu-cluster")
    fakes.workspace.jobs.children["job"] = [(FINETUNE, "run", "Queued")]
    fakes.workspace.compute.usages = [usage("Standard NCADSA100v4 Family", 0, 48)]
    fakes.workspace.jobs.add("job", "Running")
    return look(fakes.clients)


def test_why_a_cluster_gets_no_node_is_told_in_its_own_words() -> None:
    refused = {"error": {"code": "ClusterCoreQuotaReached", "message": "The family reached core quota."}}
    found = with_cluster(cluster(errors=[refused]))
    assert "It gets no more nodes: ClusterCoreQuotaReached: The family reached core quota." in found.known
    assert "ml.azure.com, Quota" in found.fix
    no_machine = {"code": "AllocationFailed", "message": "sig=hush-hush"}
    found = with_cluster(cluster(errors=[no_machine]))
    assert "quota does not help here" in found.fix
    assert "hush-hush" not in repr(found)


def test_low_priority_machines_and_broken_nodes_are_told() -> None:
    counts = {"unusableNodeCount": 2, "preemptedNodeCount": 1, "runningNodeCount": 0}
    found = with_cluster(cluster(vmPriority="LowPriority", nodeStateCounts=counts))
    assert "low-priority" in found.known[0]
    assert "Its nodes: 2 unusable, 1 preempted." in found.known
    assert "`compute.low_priority: false`" in found.fix
    assert "make it again" in found.fix


def test_a_cluster_that_may_have_no_node_is_told() -> None:
    found = with_cluster(cluster(scaleSettings={"maxNodeCount": 0}))
    assert "--max-instances 1" in found.fix


def test_of_serverless_compute_the_quota_is_told() -> None:
    sizes = {"compute_finetune": "serverless", "instance_type_finetune": "Standard_NC24ads_A100_v4"}
    found = with_cluster(ServiceUnreachable("nobody asks"), **sizes)
    assert found.known == (
        "The job waits for serverless compute, of whose machines nothing is told.",
        "Of the family Standard NCADSA100v4 Family, 0 of 48 vCPUs are in use; a node takes 24.",
    )


def test_what_cannot_be_asked_is_told_and_the_rest_too() -> None:
    found = with_cluster(ServiceUnreachable("No answer."))
    assert found.known == ("It cannot be asked what the cluster gpu-cluster does: No answer.",)
    fakes = Fakes()
    fakes.rest.on(ServiceUnreachable("No answer."), "/jobs/job")
    fakes.workspace.jobs.add("job", "Running")
    assert look(fakes.clients).known == ("It cannot be asked where the job waits: No answer.",)


@pytest.mark.parametrize(
    "answer", [{}, {"properties": None}, {"properties": {"properties": []}}, [1], cluster(errors=5)]
)
def test_a_cluster_with_gaps_ends_nothing(answer: Any) -> None:
    assert with_cluster(answer).fix


# ---------------------------------------------------------------- while following


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a minute pass between two looks at the clock."""
    ticks = itertools.count(0, 60)
    monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))


@pytest.mark.usefixtures("minutes", "sleeps")
def test_a_queue_that_does_not_move_is_told_once_and_nothing_is_asked_before() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = [(FINETUNE, "run", "Queued")]
    fakes.rest.on(cluster(), "/computes/gpu-cluster")
    fakes.workspace.jobs.add("job", *["Running"] * 20, "Completed")
    asked_before: list[int] = []
    events = []
    for event in FineTuneJob("job", fakes.clients).follow():
        events.append(event)
        asked_before.append(sum("/jobs/job" in address for address in fakes.rest.addresses))
    told = [number for number, event in enumerate(events) if isinstance(event, StillQueued)]
    assert len(told) == 1
    assert asked_before[told[0] - 1] == 0
    event = events[told[0]]
    assert isinstance(event, StillQueued)
    assert event.seconds >= 600
    assert event.fix
    assert event.to_dict()["event"] == "queued"
    progress = JobProgress("job")
    progress.take(event)
    assert event.fix in progress.waits


def test_a_queue_that_has_moved_is_told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    queue, asked = QueueWatch(), list[int]()

    def ask() -> Capacity:
        asked.append(1)
        return Capacity(compute="c", known=("known",), fix="fix")

    def at(seconds: float, *steps: str) -> int:
        now[0] = seconds
        return len(queue.look("job", "Running", steps, ask))

    assert [at(0, "Queued"), at(599, "Queued"), at(600, "Queued"), at(5000, "Queued")] == [0, 0, 1, 0]
    assert at(5001, "Running") == 0
    assert [at(5002, "Completed", "Queued"), at(5700, "Completed", "Queued")] == [0, 1]
    assert at(9999, "Completed", "Running", "NotStarted") == 0
    assert len(asked) == 2


@pytest.mark.usefixtures("sleeps")
@pytest.mark.phift(speed="manual")
def test_a_wait_that_the_queue_ends_says_what_is_known(waits: TestWorkspace) -> None:
    with pytest.raises(WaitTimeout, match="No node works on the job") as caught:
        FineTuneJob("second", waits.clients).wait(queue_timeout=-1)
    assert "All of them work, for other jobs." in caught.value.what
    assert "`max_instances`" in str(caught.value.fix)


@pytest.mark.usefixtures("sleeps")
@pytest.mark.phift(speed="manual")
def test_what_the_service_refuses_meanwhile_does_not_hide_that(waits: TestWorkspace) -> None:
    waits.order(Fault("GET computes/{name}", status=403, times=None))
    with pytest.raises(WaitTimeout, match="It cannot be asked what the cluster small does"):
        FineTuneJob("second", waits.clients).wait(queue_timeout=-1)
