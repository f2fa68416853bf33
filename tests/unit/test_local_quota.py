from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from phift.check.compute import same_family
from phift.local.ground import Ground
from phift.local.model import catalog, quota
from phift.local.state.documents import Documents

A100, H100 = "Standard_NC24ads_A100_v4", "Standard_ND96isr_H100_v5"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with closing(Documents(tmp_path / "state.db")) as documents:
        yield cast(Ground, SimpleNamespace(documents=documents))


def test_every_size_has_a_quota() -> None:
    families = catalog.table("quota")["limits"].keys()
    assert {quota.family_of(row["family"]) for row in quota.sizes()} == set(families)
    assert set(catalog.table("quota")["without_reserve"]) <= families
    assert all(same_family(quota.family_of(row["family"]), row["family"]) for row in quota.sizes())


def test_what_is_told_of_a_size_was_recorded_of_it() -> None:
    assert catalog.table("sizes")["sizes"].keys() == {row["name"] for row in quota.sizes()}
    for row in quota.sizes():
        assert row["maxResourceVolumeMB"] > 0
        values = row.get("estimatedVMPrices", {"values": []})["values"]
        told = {(value["osType"], value["vmTier"]): value["retailPrice"] for value in values}
        assert len(told) == len(values) in (0, 4), row["name"]
        assert not told or told["Linux", "LowPriority"] < told["Linux", "Standard"] < told["Windows", "Standard"]


def test_retired_sizes_are_not_offered() -> None:
    assert quota.size("STANDARD_NC24ads_a100_v4") is not None
    assert quota.size("Standard_NC24rs_v3") is None


def test_the_models_sizes_are_known_or_retired() -> None:
    for model in catalog.foundation_models():
        allowed = (
            model["tags"].get("finetune_compute_allow_list")
            or (model["systemMetadata"]["supportedComputes"]["finetuneComputes"])
        )
        assert all(quota.size(name) for name in allowed), model["name"]


@pytest.mark.parametrize("name", [H100, "standardNDSH100v5Family", "standardndsh100v5family", "STANDARDNDV5H100FAMILY"])
def test_a_limit_is_set_by_a_size_or_any_name_of_its_family(ground: Ground, name: str) -> None:
    quota.set_limit(ground, name, 96)
    assert quota.limits(ground) == {**catalog.table("quota")["limits"], "standardNDv5H100Family": 96}


def test_limits_that_were_set_under_earlier_names_still_hold(ground: Ground) -> None:
    ground.documents.put("quota", {"StandardNCADSA100v4Family": 7, "standardNDSH100v5Family": 8, "ownFamily": 9})
    own = {"standardNCADSA100v4Family": 7, "standardNDv5H100Family": 8, "ownFamily": 9}
    assert quota.limits(ground) == {**catalog.table("quota")["limits"], **own}
    quota.set_limit(ground, "OWNfamily", 10)
    assert quota.limits(ground)["ownFamily"] == 10


def test_a_job_on_low_priority_vms_takes_of_their_quota_only(ground: Ground) -> None:
    jobs = {"cheap": "LowPriority", "dear": "Dedicated", "gone": None}
    for name, priority in jobs.items():
        compute: dict[str, Any] = {"compute_finetune": name, "instance_type_finetune": ""}
        ground.documents.put(f"jobs/{name}", {"plan": {"inputs": compute, "vm_size": A100.upper()}})
        ground.documents.put(f"runs/{name}", {"status": "Running"})
        if priority:
            ground.documents.put(f"computes/{name}", {"properties": {"vmSize": A100, "vmPriority": priority}})
    assert quota.usage(ground) == {"standardNCADSA100v4Family": 48}
    assert quota.usage(ground, low_priority=True) == {"standardNCADSA100v4Family": 24}
