"""Clusters, VM sizes and quota."""

from __future__ import annotations

import pytest
from azure.ai.ml.entities import AmlCompute
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.polling import LROPoller

from contract.targets import CLUSTER_SIZE, OTHER_SIZE, Target
from phift.check.compute import read_usages
from phift.check.sizes import read_sizes


def cluster(name: str, size: str = CLUSTER_SIZE, most: int = 1) -> AmlCompute:
    return AmlCompute(name=name, size=size, min_instances=0, max_instances=most, idle_time_before_scale_down=120)


def test_a_cluster_is_created_found_and_listed(target: Target) -> None:
    name, computes = target.fresh("cluster"), target.workspace.compute
    poller = computes.begin_create_or_update(cluster(name, most=2))
    assert isinstance(poller, LROPoller)
    made = poller.result()
    assert poller.done()
    assert (made.name, made.type, made.provisioning_state) == (name, "amlcompute", "Succeeded")
    found = computes.get(name)
    # Recorded traffic of the SDK's tests (azure-sdk-assets 003b900b, test_aml_compute_create_and_delete, 2024-12-18): a
    # size comes back in the case in which it was sent. In 2022 and 2023 it came back in upper case.
    assert (found.size, found.min_instances, found.max_instances) == (CLUSTER_SIZE, 0, 2)
    assert name in [each.name for each in computes.list()]


def test_the_same_cluster_again_is_the_same(target: Target) -> None:
    name, computes = target.fresh("cluster"), target.workspace.compute
    first = computes.begin_create_or_update(cluster(name)).result()
    again = computes.begin_create_or_update(cluster(name)).result()
    assert (again.id, again.size, again.max_instances) == (first.id, first.size, first.max_instances)


def test_the_number_of_nodes_of_a_cluster_may_change(target: Target) -> None:
    name, computes = target.fresh("cluster"), target.workspace.compute
    made = computes.begin_create_or_update(cluster(name)).result()
    made.max_instances = 3
    computes.begin_update(made).result()
    assert computes.get(name).max_instances == 3


def test_the_size_of_a_cluster_never_changes(target: Target) -> None:
    name, computes = target.fresh("cluster"), target.workspace.compute
    computes.begin_create_or_update(cluster(name)).result()
    with pytest.raises(HttpResponseError) as caught:
        computes.begin_create_or_update(cluster(name, OTHER_SIZE)).result()
    assert caught.value.status_code == 400
    assert computes.get(name).size == CLUSTER_SIZE


def test_an_unknown_size_is_refused(target: Target) -> None:
    name, computes = target.fresh("cluster"), target.workspace.compute
    with pytest.raises(HttpResponseError) as caught:
        computes.begin_create_or_update(cluster(name, "Standard_Nope_v9")).result()
    assert caught.value.status_code == 400


def test_a_deleted_cluster_is_gone(target: Target) -> None:
    name, computes = target.fresh("cluster"), target.workspace.compute
    computes.begin_create_or_update(cluster(name)).result()
    poller = computes.begin_delete(name)
    poller.wait()
    assert poller.status() == "Succeeded"
    with pytest.raises(ResourceNotFoundError) as caught:
        computes.get(name)
    assert caught.value.status_code == 404
    assert name not in [each.name for each in computes.list()]


def test_a_missing_cluster_is_not_found(target: Target) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        target.workspace.compute.get("ct-no-such-cluster")
    assert caught.value.status_code == 404


def test_sizes_have_values_under_a_name_of_either_sdk(target: Target) -> None:
    # Older SDKs call it v_cp_us and memory_gb, 1.35 vCPUs and memoryGB; phift reads both.
    sizes = read_sizes(target.workspace.compute.list_sizes())
    size = sizes[CLUSTER_SIZE.lower()]
    assert (size.vcpus, size.gpus, size.memory_gb) == (4, 0, 28)
    assert size.family
    assert any((each.gpus or 0) > 0 for each in sizes.values())


def test_usage_has_values_under_a_name_of_either_sdk(target: Target) -> None:
    # Older SDKs give name.value and current_value, 1.35 a dictionary and currentValue; phift reads both.
    usages = read_usages(target.workspace.compute.list_usage())
    assert usages
    assert all(usage.family and usage.used >= 0 for usage in usages)
    assert any(usage.limit > 0 for usage in usages)
