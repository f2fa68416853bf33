from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml._restclient.arm_ml_service.models import ComputeResource
from azure.ai.ml.entities import AmlCompute, VirtualMachineCompute, VmSize

from phift.azure.clients import Clients
from phift.check.compute import (
    ComputeTarget,
    compute_target,
    ensure_cluster,
    find_cluster,
    size_findings,
    smallest_size,
)
from phift.check.models import AllowList
from phift.check.sizes import find_size, read_sizes
from phift.config.run import ComputeConfig
from phift.errors import AccessDenied, ComputeError, NotFound
from phift.testing import Fault, TestWorkspace
from unit.fakes import A100, FOUR_A100, Fakes, codes, foundation_model, target

LISTED = foundation_model(A100, FOUR_A100)
RECORDED = Path(__file__).parents[1] / "fidelity" / "recorded"
RETIRED = "Standard_NC24rs_v3"


def resolve(clients: Clients, **values: Any) -> ComputeTarget:
    config = ComputeConfig(**values)
    sizes = read_sizes(clients.workspace.compute.list_sizes())
    return compute_target(config, LISTED, find_cluster(clients, config), sizes)


def test_an_existing_cluster_tells_its_size_and_gpus(workspace: TestWorkspace, clients: Clients) -> None:
    workspace.add_compute("four", FOUR_A100, instances=2)
    found = resolve(clients, cluster="four", nodes=2)
    assert (found.kind, found.name, found.size) == ("cluster", "four", FOUR_A100)
    assert (found.gpus_per_node, found.nodes, found.exists) == (4, 2, True)
    assert found.findings == ()


@pytest.mark.parametrize("recorded", ["compute", "compute-create", "compute-update"])
def test_a_cluster_is_read_from_any_answer_that_was_recorded(recorded: str) -> None:
    # Of a PUT the counts, the state of the nodes and once the tags are null, and the size is in upper case.
    body = json.loads((RECORDED / f"{recorded}.json").read_text(encoding="utf-8"))["response"]["body"]
    fakes, name = Fakes(), body["name"]
    fakes.workspace.compute.known[name] = AmlCompute._load_from_rest(ComputeResource(body))
    sizes = read_sizes([{"name": "Standard_DS2_v2", "vCPUs": 2, "gpus": 1}])
    config = ComputeConfig(cluster=name, size="standard_ds2_V2", nodes=2, allow_unlisted=True)
    found = compute_target(config, LISTED, find_cluster(fakes.clients, config), sizes)
    states = [finding.message for finding in found.findings if finding.code == "COMPUTE_NOT_READY"]
    assert bool(states) == (recorded != "compute")
    assert {finding.code for finding in found.findings} <= {"COMPUTE_NOT_READY", "COMPUTE_SIZE_NOT_ALLOWED"}
    assert (found.vm.vcpus, found.low_priority, found.exists) == (2, False, True)


def test_serverless_needs_no_cluster(workspace: TestWorkspace, clients: Clients) -> None:
    found = resolve(clients, serverless=A100)
    assert (found.kind, found.name, found.size, found.gpus_per_node) == ("serverless", "serverless", A100, 1)
    assert found.exists
    assert not workspace.requests("* computes/*")


def test_a_missing_cluster_with_a_size_will_be_created(clients: Clients) -> None:
    found = resolve(clients, cluster="new", size=A100)
    assert (found.exists, found.size) == (False, A100)


def test_a_missing_cluster_names_near_ones(clients: Clients) -> None:
    with pytest.raises(NotFound) as caught:
        resolve(clients, cluster="gpu-clustr")
    assert caught.value.what == "There is no compute gpu-clustr in this workspace."
    assert str(caught.value.fix).startswith("did you mean gpu-cluster? Otherwise use one of gpu-cluster,")


def test_a_missing_cluster_in_an_empty_workspace_says_so(clients: Clients) -> None:
    clients.workspace.compute.begin_delete("gpu-cluster").result()
    with pytest.raises(NotFound) as caught:
        resolve(clients, cluster="any")
    assert str(caught.value.fix).startswith("use one of (there is none)")


def test_other_errors_are_not_taken_for_a_missing_cluster(workspace: TestWorkspace, clients: Clients) -> None:
    workspace.order(Fault("GET computes/*", status=403))
    with pytest.raises(AccessDenied):
        resolve(clients, cluster="gpu-cluster", size=A100)


def test_a_compute_without_a_size_is_refused() -> None:
    fakes = Fakes()
    fakes.workspace.compute.known["vm"] = VirtualMachineCompute(name="vm", resource_id="r")
    with pytest.raises(ComputeError, match="only AmlCompute clusters"):
        resolve(fakes.clients, cluster="vm")


def test_a_failed_cluster_is_an_error_finding_with_its_reasons() -> None:
    fakes = Fakes()
    cluster = fakes.workspace.compute.add("gpu-cluster")
    cluster._provisioning_state, cluster._provisioning_errors = "Failed", ["no quota"]
    (finding,) = resolve(fakes.clients, cluster="gpu-cluster").findings
    assert (finding.code, finding.severity) == ("COMPUTE_FAILED", "error")
    assert finding.message == "The cluster is in a failed state: no quota."


def test_more_nodes_than_the_cluster_has_is_an_error_finding(workspace: TestWorkspace, clients: Clients) -> None:
    workspace.add_compute("gpu-cluster", A100, instances=2)
    assert resolve(clients, cluster="gpu-cluster", nodes=2).findings == ()
    (finding,) = resolve(clients, cluster="gpu-cluster", nodes=3).findings
    assert (finding.code, finding.severity) == ("COMPUTE_TOO_FEW_NODES", "error")


def test_a_size_for_a_cluster_that_exists_is_a_warning(clients: Clients) -> None:
    (finding,) = resolve(clients, cluster="gpu-cluster", size=FOUR_A100).findings
    assert (finding.code, finding.severity) == ("COMPUTE_SIZE_IGNORED", "warning")
    assert resolve(clients, cluster="gpu-cluster", size=A100.lower()).findings == ()


@pytest.mark.parametrize(("allow_unlisted", "severity"), [(False, "error"), (True, "warning")])
def test_an_unlisted_size_is_an_error_unless_allowed(clients: Clients, allow_unlisted: bool, severity: str) -> None:
    found = resolve(clients, serverless="Standard_ND40rs_v2", allow_unlisted=allow_unlisted)
    (finding,) = found.findings
    assert (finding.code, finding.severity) == ("COMPUTE_SIZE_NOT_ALLOWED", severity)
    assert (finding.place, finding.source) == ("compute serverless", "made up")
    assert A100 in finding.message


def test_a_retired_size_is_an_error_even_if_listed() -> None:
    (finding,) = size_findings(find_size(RETIRED), AllowList((RETIRED,), "made up"), "m", "fine-tuning", False, "p")
    assert (finding.code, finding.severity) == ("COMPUTE_SIZE_RETIRED", "error")
    assert "2025-03-31" in finding.message
    assert finding.source


def test_a_retired_size_without_an_allow_list_suggests_none() -> None:
    (finding,) = size_findings(find_size(RETIRED), None, "m", "fine-tuning", False, "p")
    assert finding.fix == "use a current size"


def test_without_an_allow_list_a_size_that_is_too_old_is_an_error() -> None:
    found = size_findings(find_size("standard_nc6"), None, "m", "fine-tuning", False, "p")
    assert codes(found) == ["COMPUTE_SIZE_RETIRED", "COMPUTE_SIZE_UNSUPPORTED"]


def test_without_an_allow_list_a_current_size_is_fine() -> None:
    assert size_findings(find_size(A100), None, "m", "fine-tuning", False, "p") == []


def test_the_built_in_table_knows_gpus_that_the_service_leaves_out() -> None:
    fakes = Fakes()
    fakes.workspace.compute.sizes = [VmSize(name=FOUR_A100)]
    assert resolve(fakes.clients, serverless=FOUR_A100).gpus_per_node == 4


def test_the_services_gpu_count_goes_before_the_tables() -> None:
    fakes = Fakes()
    fakes.workspace.compute.sizes = [VmSize(name=FOUR_A100, gpus=2)]
    assert resolve(fakes.clients, serverless=FOUR_A100.lower()).gpus_per_node == 2


def test_a_given_gpu_count_is_taken_for_a_size_that_nobody_knows(clients: Clients) -> None:
    found = resolve(clients, serverless="Standard_New", gpus_per_node=8, allow_unlisted=True)
    assert (found.gpus_per_node, codes(found.findings)) == (8, ["COMPUTE_SIZE_NOT_ALLOWED"])


@pytest.mark.parametrize(("given", "severity", "says"), [(8, "error", "fails"), (1, "warning", "3 would be paid for")])
def test_another_gpu_count_than_the_size_has_is_a_finding(
    clients: Clients, given: int, severity: str, says: str
) -> None:
    found = resolve(clients, serverless=FOUR_A100, gpus_per_node=given)
    (finding,) = found.findings
    assert (found.gpus_per_node, finding.code, finding.severity) == (given, "COMPUTE_GPU_COUNT", severity)
    assert says in finding.message
    assert resolve(clients, serverless=FOUR_A100, gpus_per_node=4).findings == ()


def test_an_unknown_size_names_near_ones(clients: Clients) -> None:
    with pytest.raises(ComputeError, match="knows the VM size Standard_NC24ads_A10_v4") as caught:
        resolve(clients, serverless="Standard_NC24ads_A10_v4")
    assert f"did you mean {A100}" in str(caught.value.fix)


def test_an_unknown_size_like_no_other_gets_no_guess(clients: Clients) -> None:
    with pytest.raises(ComputeError) as caught:
        resolve(clients, serverless="zzz")
    assert caught.value.fix == "check the VM size, or give `gpus_per_node`"


def test_a_size_without_a_gpu_is_refused(clients: Clients) -> None:
    with pytest.raises(ComputeError, match="has no GPU"):
        resolve(clients, serverless="Standard_D12_v2")


def test_the_smallest_size_is_current_and_has_a_gpu() -> None:
    sizes = ("Standard_NC6s_v3", FOUR_A100, "Standard_D12_v2", A100, "Standard_Unknown")
    assert smallest_size(AllowList(sizes, "made up")) == A100
    assert smallest_size(AllowList(("Standard_NC6s_v3", "Standard_Unknown"), "made up")) is None


def test_an_existing_cluster_is_left_alone(workspace: TestWorkspace, clients: Clients) -> None:
    assert ensure_cluster(clients, ComputeConfig(cluster="gpu-cluster"), target()) is False
    assert not workspace.requests("* computes*")


@pytest.mark.parametrize("size", [A100.upper(), FOUR_A100])
def test_a_cluster_that_somebody_creates_meanwhile_is_left_alone(
    workspace: TestWorkspace, clients: Clients, size: str
) -> None:
    config = ComputeConfig(cluster="new", size=A100)
    wanted = resolve(clients, cluster="new", size=A100)
    workspace.add_compute("new", size, instances=9)
    if size == FOUR_A100:
        with pytest.raises(ComputeError, match=f"meanwhile, with the size {size}"):
            ensure_cluster(clients, config, wanted)
    else:
        assert not ensure_cluster(clients, config, wanted)
    assert clients.workspace.compute.get("new").max_instances == 9


def create(clients: Clients, **changes: Any) -> Any:
    config = ComputeConfig(cluster="new", size=A100, **changes)
    assert ensure_cluster(clients, config, target(name="new", exists=False)) is True
    return clients.workspace.compute.get("new")


def test_a_new_cluster_scales_to_nothing(clients: Clients) -> None:
    made = create(clients, nodes=2, idle_seconds=60)
    assert (made.size, made.min_instances, made.max_instances, made.tier) == (A100, 0, 2, "dedicated")
    assert made.idle_time_before_scale_down == 60


def test_a_low_priority_cluster_is_made_only_when_asked_for(clients: Clients) -> None:
    made = create(clients, max_nodes=4, low_priority=True)
    assert (made.tier, made.max_instances) == ("low_priority", 4)


def test_a_cluster_that_cannot_be_created_is_an_error() -> None:
    fakes = Fakes()
    fakes.workspace.compute.created_as = "Failed"
    with pytest.raises(ComputeError, match="could not be created"):
        create(fakes.clients)
