from __future__ import annotations

from phift.local.model import catalog, quota


def test_every_size_has_a_quota() -> None:
    assert {row["family"] for row in quota.sizes()} <= catalog.table("quota")["limits"].keys()
    assert set(catalog.table("quota")["without_reserve"]) <= catalog.table("quota")["limits"].keys()


def test_retired_sizes_are_not_offered() -> None:
    assert quota.size("STANDARD_NC24ads_a100_v4") is not None
    assert quota.size("Standard_NC24rs_v3") is None


def test_the_models_sizes_are_known_or_retired() -> None:
    for model in catalog.models():
        allowed = (
            model["tags"].get("finetune_compute_allow_list")
            or (model["systemMetadata"]["supportedComputes"]["finetuneComputes"])
        )
        assert all(quota.size(name) for name in allowed), model["name"]
