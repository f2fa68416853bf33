from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from azure.ai.ml._restclient.arm_ml_service.models import Usage as RestUsage
from azure.ai.ml.entities import Usage as SdkUsage
from hypothesis import given
from hypothesis import strategies as st

from phift.check.compute import Usage, quota_findings, read_usages, same_family
from phift.check.findings import Finding
from phift.check.sizes import VmSize, find_size
from unit.fakes import A100, codes, target

FAMILY = "StandardNCADSA100v4Family"
T4 = "Standard_NC4as_T4_v3"
PROVIDER = "Microsoft.MachineLearningServices"


def wire(value: str, used: Any, limit: Any, *, localized: str = "", kind: str = "vmFamily/usages") -> dict[str, Any]:
    """Return one usage as the service sends it."""
    return {
        "id": f"/subscriptions/s/providers/{PROVIDER}/usages/{value}",
        "type": f"{PROVIDER}/{kind}",
        "currentValue": used,
        "limit": limit,
        "name": {"value": value, "localizedValue": localized or value},
        "unit": "Count",
    }


def new(*arguments: Any, **options: Any) -> Any:
    """Return what azure-ai-ml 1.35 makes of it."""
    return SdkUsage._from_rest_object(RestUsage(wire(*arguments, **options)))


def old(value: str, used: Any, limit: Any, localized: str = "") -> Any:
    """Return what azure-ai-ml 1.26.3 to 1.34.1 make of it: the names as their msrest models write them."""
    usage = SdkUsage()
    usage.__dict__.update(
        {
            "id": f"/subscriptions/s/providers/{PROVIDER}/usages/{value}",
            "aml_workspace_location": None,
            "type": f"{PROVIDER}/vmFamily/usages",
            "unit": "Count",
            "current_value": used,
            "limit": limit,
            "name": {"value": value, "localized_value": localized or value},
        }
    )
    return usage


def family(limit: int, used: int = 0, name: str = FAMILY, low_priority: bool = False) -> Usage:
    return Usage(family=name, used=used, limit=limit, low_priority=low_priority)


def total(limit: int, used: int = 0) -> Usage:
    return Usage(family="Total Cluster Dedicated Regional vCPUs", used=used, limit=limit)


def check(*usages: Usage, size: str | None = None, instances: int = 1, **where: Any) -> list[Finding]:
    return quota_findings(target(**where), find_size(size) if size else None, instances, usages)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("make", [new, old])
def test_both_spellings_of_the_sdk_are_read(make: Any) -> None:
    assert read_usages([make(FAMILY, 24, 96)]) == [Usage(family=FAMILY, used=24, limit=96)]


def test_the_new_sdk_really_hides_what_it_read() -> None:
    assert new(FAMILY, 24, 96).current_value is None


@pytest.mark.parametrize("make", [new, old])
def test_the_familys_two_quotas_are_told_apart_by_the_localized_name(make: Any) -> None:
    dedicated = make(FAMILY, 1, 96, localized="Standard NCADSA100v4 Family Cluster Dedicated vCPUs")
    low = make(FAMILY, 2, -1, localized="Standard NCADSA100v4 Family Cluster LowPriority vCPUs")
    assert [(usage.used, usage.low_priority) for usage in read_usages([dedicated, low])] == [(1, False), (2, True)]


def test_shares_of_a_workspace_or_cluster_are_not_the_familys_total() -> None:
    in_workspace = new(FAMILY, 5, 5, kind="workspaces/usages")
    in_cluster = new(FAMILY, 5, 5, kind="workspaces/computes/usages")
    other_spelling = new(FAMILY, 5, 5, kind="workspace/usages")
    by_id = wire(FAMILY, 5, 5) | {"id": "/subscriptions/s/resourceGroups/g/workspaces/w/usages/f"}
    listed = [in_workspace, in_cluster, other_spelling, by_id, new(FAMILY, 7, 96)]
    assert [usage.used for usage in read_usages(listed)] == [7]


def test_what_has_no_name_or_number_is_left_out() -> None:
    odd = [
        new(FAMILY, None, 96),
        new(FAMILY, 1, "many"),
        new("", 1, 2),
        new(FAMILY, -1, 2),
        new(FAMILY, 1, -2),
        old(FAMILY, True, 2),
        None,
        3,
        {},
        "text",
    ]
    assert read_usages(odd) == []


@pytest.mark.parametrize(
    "spelling",
    [
        "standardNCADSA100v4Family",
        "Standard NCADSA100v4 Family",
        "Standard NCADSA100v4 Family Cluster Dedicated vCPUs",
        "standard ncadsa100v4family vCPUs",
        "STANDARDNCADSA100V4",
    ],
)
def test_families_are_compared_as_azure_spells_them(spelling: str) -> None:
    assert same_family(spelling, FAMILY)
    assert not same_family(spelling, "standardNCADSH100v5Family")
    assert not same_family(spelling, "standardNCADSA100v4FamilyX")


def test_the_regions_total_is_known_by_both_its_names() -> None:
    for name in ("Total Cluster Dedicated Regional vCPUs", "TotalDedicatedCores", "TotalLowPriorityCores"):
        assert family(1, name=name).is_total
    assert not family(1, name="Clusters").is_total
    assert not family(1).is_total


# ---------------------------------------------------------------- as recorded

# azure-powershell 689c9cc2, Get-AzMLServiceUsage.Recording.json, 2025-11-04: name, localized name, type, used, limit.
RECORDED = [
    ("TotalClusters", "Total Clusters", "totalClusters", 3, 200),
    ("TotalDedicatedCores", "Total Cluster Dedicated Regional vCPUs", "totalDedicatedCores", 20, 20),
    ("standardFSv2Family", "Standard FSv2 Family Cluster Dedicated vCPUs", "vmFamily/dedicatedCores", 16, 16),
    (
        "standardNCADSA100v4Family",
        "Standard NCADSA100v4 Family Cluster Dedicated vCPUs",
        "vmFamily/dedicatedCores",
        0,
        0,
    ),
    ("TotalLowPriorityCores", "Total Cluster Low Priority Regional vCPUs", "totalLowPriorityCores", 0, 0),
    (
        "standardNCADSA100v4Family",
        "Standard NCADSA100v4 Family Cluster LowPriority vCPUs",
        "vmFamily/lowPriorityCores",
        0,
        -1,
    ),
]


def recorded() -> list[Usage]:
    rows = []
    for value, localized, kind, used, limit in RECORDED:
        place = "/subscriptions/s" + (f"/usages/{value}" if kind.startswith("vmFamily") else "")
        body = wire(value, used, limit, localized=localized, kind=f"{kind}/usages") | {"id": place}
        rows.append(SdkUsage._from_rest_object(RestUsage(body)))
    return read_usages(rows)


def test_the_recorded_rows_are_families_and_totals_of_cores_and_no_number_of_clusters() -> None:
    told = [(usage.family, usage.used, usage.limit, usage.low_priority, usage.is_total) for usage in recorded()]
    assert told == [
        ("TotalDedicatedCores", 20, 20, False, True),
        ("standardFSv2Family", 16, 16, False, False),
        ("standardNCADSA100v4Family", 0, 0, False, False),
        ("TotalLowPriorityCores", 0, 0, True, True),
        ("standardNCADSA100v4Family", 0, -1, True, False),
    ]


def test_a_size_finds_the_recorded_row_of_its_family_and_the_total() -> None:
    assert find_size(A100).family == FAMILY  # with a capital, and the row has none
    of_region, of_family = quota_findings(target(exists=False), None, 1, recorded())
    assert "the region's dedicated total (1 node x 24 vCPUs); 20 of 20 are in use" in of_region.message
    assert "the dedicated family standardNCADSA100v4Family" in of_family.message


def test_low_priority_cores_without_a_limit_of_the_family_still_have_the_regions() -> None:
    (finding,) = quota_findings(target(low_priority=True), None, 1, recorded())
    assert "the region's low-priority total (1 node x 24 vCPUs); 0 of 0 are in use" in finding.message


# ---------------------------------------------------------------- training


def test_enough_quota_says_nothing() -> None:
    assert check(family(24), total(24)) == []


def test_a_training_that_can_never_fit_is_an_error_with_every_figure() -> None:
    (finding,) = check(family(48, used=24), nodes=3)
    assert (finding.code, finding.severity, finding.place) == ("QUOTA_TRAINING_SHORT", "error", "compute gpu-cluster")
    assert "needs 72 vCPUs" in finding.message
    assert "(3 nodes x 24 vCPUs); 24 of 48 are in use, so 48 are missing" in finding.message
    assert "a limit of 96" in finding.fix


def test_a_family_without_any_quota_is_short() -> None:
    assert codes(check(family(0))) == ["QUOTA_TRAINING_SHORT"]


def test_an_existing_clusters_running_nodes_are_in_use_and_can_be_used() -> None:
    (finding,) = check(family(24, used=24))
    assert (finding.code, finding.severity) == ("QUOTA_TRAINING_SHORT", "warning")
    assert "only if 24 of those in use are nodes of this cluster" in finding.message


def test_what_cannot_be_a_whole_node_is_somebody_elses() -> None:
    (finding,) = check(family(30, used=20))
    assert finding.severity == "error"


def test_a_clusters_own_nodes_do_not_cover_more_than_they_are() -> None:
    (enough,) = check(family(72, used=48), nodes=3)
    (short,) = check(family(71, used=48), nodes=3)
    assert (enough.severity, short.severity) == ("warning", "error")


@pytest.mark.parametrize("where", [{"exists": False}, {"kind": "serverless", "name": "serverless"}])
def test_a_new_cluster_and_serverless_have_no_nodes_yet(where: dict[str, Any]) -> None:
    (finding,) = check(family(24, used=24), **where)
    assert finding.severity == "error"


def test_an_idle_cluster_takes_nothing() -> None:
    assert check(family(24, used=0)) == []


def test_a_limit_of_minus_one_is_none() -> None:
    assert check(family(-1, used=500)) == []


def test_the_regions_total_counts_too() -> None:
    (finding,) = check(family(96), total(20))
    assert finding.code == "QUOTA_TRAINING_SHORT"
    assert "the region's dedicated total" in finding.message


def test_low_priority_has_its_own_quota() -> None:
    usages = [family(0), family(-1, low_priority=True), family(10, name="TotalLowPriorityCores", low_priority=True)]
    assert codes(check(*usages)) == ["QUOTA_TRAINING_SHORT"]
    (finding,) = quota_findings(target(low_priority=True), None, 1, usages)
    assert "the region's low-priority total" in finding.message
    assert quota_findings(target(low_priority=True), None, 1, usages[:2]) == []


# ---------------------------------------------------------------- endpoint


@pytest.mark.parametrize(("instances", "cores"), [(1, 8), (4, 20), (5, 24), (10, 48), (15, 72), (35, 168)])
def test_an_endpoint_takes_a_fifth_more_rounded_up(instances: int, cores: int) -> None:
    name = "Standard NCASv3_T4 Family"
    usages = [family(24), family(cores, name=name)]
    assert check(*usages, size=T4, instances=instances) == []
    (finding,) = check(usages[0], family(cores - 1, name=name), size=T4, instances=instances)
    assert (finding.code, finding.severity) == ("QUOTA_ENDPOINT_SHORT", "error")
    assert f"needs {cores} vCPUs" in finding.message
    assert f"ceil(1.2 x {instances})" in finding.message
    assert finding.source


def test_the_large_gpus_are_exempt_from_the_reserve() -> None:
    assert check(family(96), size=A100, instances=3) == []
    (finding,) = check(family(47), size=A100, instances=2)
    assert "2 instances x 24 vCPUs, without the reserve of 20 %" in finding.message


def test_a_size_that_the_table_does_not_know_gets_the_reserve() -> None:
    sizes = {"standard_new": VmSize(name="Standard_New", family="newFamily", vcpus=10)}
    new = find_size("Standard_New", sizes)
    findings = quota_findings(target(), new, 1, [family(24), family(19, name="newFamily")])
    assert codes(findings) == ["QUOTA_ENDPOINT_SHORT"]


def test_both_short_is_reported_at_once() -> None:
    findings = check(family(10), size=A100)
    assert codes(findings) == ["QUOTA_TRAINING_SHORT", "QUOTA_ENDPOINT_SHORT"]


def test_fitting_one_after_the_other_only_is_a_note() -> None:
    (finding,) = check(family(30), size=A100)
    assert (finding.code, finding.severity) == ("QUOTA_SHORT_TOGETHER", "note")
    assert "together they need 48 vCPUs, and 0 of 30 are in use" in finding.message
    assert check(family(48), size=A100) == []


def test_two_families_share_the_regions_total() -> None:
    t4 = family(8, name="Standard NCASv3_T4 Family")
    (finding,) = check(family(24), t4, total(31), size=T4)
    assert finding.code == "QUOTA_SHORT_TOGETHER"
    assert check(family(24), t4, total(32), size=T4) == []


# ---------------------------------------------------------------- not known


@pytest.mark.parametrize(
    ("size", "sizes", "reason"),
    [
        ("Standard_New", {}, "knows the VM size"),
        ("Standard_New", {"standard_new": VmSize(name="Standard_New", vcpus=4)}, "which family"),
        ("Standard_New", {"standard_new": VmSize(name="Standard_New", family="f")}, "how many vCPUs"),
        ("Standard_NC4as_T4_v3", {}, "no row for the family"),
    ],
)
def test_what_is_not_known_is_said(size: str, sizes: dict[str, VmSize], reason: str) -> None:
    for findings in (
        quota_findings(target(size=size, sizes=sizes), None, 1, [family(99), total(99)]),
        quota_findings(target(), find_size(size, sizes), 1, [family(99), total(99)]),
    ):
        (finding,) = findings
        assert (finding.code, finding.severity) == ("QUOTA_UNKNOWN", "note")
        assert reason in finding.message


def test_no_usages_at_all_is_unknown_for_both() -> None:
    assert codes(check(size=T4)) == ["QUOTA_UNKNOWN", "QUOTA_UNKNOWN"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*wire("f", 1, 2), "value"]), inner),
)


@given(anything, anything, anything, anything)
def test_no_answer_raises(name: Any, number: Any, text: Any, whole: Any) -> None:
    entry = {"name": name, "limit": number, "currentValue": number, "id": text, "type": text}
    usages = read_usages([entry, SimpleNamespace(**entry), whole])
    assert all(isinstance(usage.limit, int) for usage in usages)
    assert quota_findings(target(), find_size(T4), 1, usages)
