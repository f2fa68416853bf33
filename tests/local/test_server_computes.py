"""Clusters and usages on the wire, where the order of answers or what is stored decides how they look."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from running import Local

from phift.local import LocalCredential
from phift.local.names import WORKSPACE_ID
from phift.local.services import arm
from phift.local.wire import section
from phift.testing import TestWorkspace

SIZE = "standard_nc24ADS_A100_v4"
FAMILY = "standardNCADSA100v4Family"


def put(local: Local, name: str, **properties: Any) -> Any:
    body = {"computeType": "AmlCompute", "disableLocalAuth": False, "properties": {"vmSize": SIZE, **properties}}
    answer = local.request("PUT", f"{local.arm}/computes/{name}", json={"properties": body})
    assert answer.status_code == 201
    return answer.json()


def get(local: Local, name: str) -> Any:
    return local.request("GET", f"{local.arm}/computes/{name}").json()


def test_a_size_is_in_upper_case_in_the_answer_of_a_put_and_later_as_it_was_sent(local: Local) -> None:
    for _ in range(2):
        accepted = put(local, "spelled")["properties"]["properties"]
        assert (accepted["vmSize"], accepted["currentNodeCount"], accepted["allocationState"]) == (
            SIZE.upper(),
            None,
            None,
        )
        shown = get(local, "spelled")["properties"]["properties"]
        assert (shown["vmSize"], shown["currentNodeCount"], shown["allocationState"]) == (SIZE, 0, "Steady")
    listed = local.request("GET", f"{local.arm}/computes").json()["value"]
    assert {each["name"]: each["properties"]["properties"]["vmSize"] for each in listed}["spelled"] == SIZE


def test_only_a_cluster_that_is_there_has_a_place_in_the_answer_of_a_put(local: Local) -> None:
    first, again = put(local, "placed"), put(local, "placed")
    assert (first["tags"], first["properties"]["resourceId"]) == (None, None)
    assert "computeLocation" not in first["properties"]
    assert again["tags"] == {}
    assert again["properties"]["resourceId"].endswith("/Microsoft.BatchAI/workspaces/local/clusters/placed")
    assert again["properties"]["computeLocation"] == first["location"]


def test_the_sdk_changes_what_it_has_read_by_an_update_only(local: Local) -> None:
    # azure-ai-ml 1.35.2 takes `enableNodePublicIp` for a network, and then wants the name of one to create or update.
    put(local, "grows", scaleSettings={"minNodeCount": 0, "maxNodeCount": 1})
    computes = local.client.compute
    found = computes.get("grows")
    found.max_instances = 4
    with pytest.raises(AttributeError, match="no attribute 'lower'"):
        computes.begin_create_or_update(found)
    assert computes.begin_update(found).result().max_instances == 4


def test_a_password_is_told_to_nobody(local: Local) -> None:
    account = {"adminUserName": "me", "adminUserPassword": "made-up-password"}
    accepted, shown = put(local, "guarded", userAccountCredentials=account), get(local, "guarded")
    for answer in (accepted, shown):
        told = answer["properties"]["properties"]["userAccountCredentials"]
        assert told == {"adminUserName": "me", "adminUserPassword": None}


def test_a_missing_cluster_is_answered_without_a_body(local: Local) -> None:
    answer = local.request("GET", f"{local.arm}/computes/nothing")
    assert (answer.status_code, answer.content, answer.headers["x-ms-response-type"]) == (404, b"", "standard")
    assert "Content-Type" not in answer.headers


def test_usages_count_clusters_and_have_totals_and_both_tiers(local: Local) -> None:
    base = f"/subscriptions/{local.connection.subscription_id}"
    place = f"{base}/providers/Microsoft.MachineLearningServices/locations/westus2"
    rows = local.request("GET", f"{place}/usages").json()["value"]
    clusters = len(local.request("GET", f"{local.arm}/computes").json()["value"])
    kinds = {each["name"]["value"]: (each["currentValue"], each["limit"], each["id"]) for each in rows[:2]}
    of_families = [each for each in rows if "/vmFamily/" in each["type"]]
    dedicated, low = of_families[: len(of_families) // 2], of_families[len(of_families) // 2 :]
    assert kinds["TotalClusters"] == (clusters, 200, base)
    assert kinds["TotalDedicatedCores"] == (0, sum(each["limit"] for each in dedicated), base)
    assert [each["name"]["value"] for each in dedicated] == [each["name"]["value"] for each in low]
    assert [each["id"] for each in dedicated] == [each["id"] for each in low]
    assert {each["limit"] for each in low} == {-1}
    assert [each["name"]["localizedValue"] for each in (*dedicated[:2], *low[:2])] == [
        "Standard  NCASv3_T4  Family Cluster Dedicated vCPUs",
        "Standard NCADSA100v4 Family Cluster Dedicated vCPUs",
        "Standard  NCASv3_T4  Family Cluster LowPriority vCPUs",
        "Standard NCADSA100v4 Family Cluster LowPriority vCPUs",
    ]
    assert dedicated[0]["id"] == f"{base}/usages/Standard_NCASv3_T4_Family"
    sizes = local.request("GET", f"{place}/vmSizes").json()["value"]
    assert {each["family"] for each in sizes if each["name"].lower() == SIZE.lower()} == {"StandardNCADSA100v4Family"}


def test_of_two_sizes_at_once_a_cluster_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(body: Any, name: str) -> Any:
        time.sleep(0.01)
        return section(body, name)

    monkeypatch.setattr(arm, "section", slow)
    with TestWorkspace() as workspace:
        token = LocalCredential(workspace.connection).get_token("https://management.azure.com/.default").token

        def put(size: str) -> int:
            return requests.put(
                f"{workspace.connection.base_url}{WORKSPACE_ID}/computes/at-once?api-version=2023-10-01",
                json={"properties": {"computeType": "AmlCompute", "properties": {"vmSize": size}}},
                headers={"Authorization": f"Bearer {token}"},
                timeout=30,
            ).status_code

        sizes = ["Standard_NC24ads_A100_v4", "Standard_ND96asr_v4"] * 4
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(put, sizes))
    assert len({size for size, status in zip(sizes, statuses, strict=True) if status == 201}) == 1
    assert set(statuses) == {201, 400}
