from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from azure.ai.ml._restclient.arm_ml_service.models import VirtualMachineSize
from azure.ai.ml.entities import VmSize as SdkVmSize
from hypothesis import given
from hypothesis import strategies as st

from phift.check.sizes import VmSize, find_size, read_sizes

A100 = "Standard_NC24ads_A100_v4"
FAMILY = "standardNCADSA100v4Family"


def price(amount: Any, system: str = "Linux", tier: str = "Standard") -> dict[str, Any]:
    return {"retailPrice": amount, "osType": system, "vmTier": tier}


def prices(*values: Any, currency: str = "USD", unit: str = "OneHour") -> dict[str, Any]:
    return {"billingCurrency": currency, "unitOfMeasure": unit, "values": list(values)}


OTHERS = [price(9.9, "Windows"), price(0.7, tier="LowPriority"), price(0.5, tier="Spot")]


def wire(**changes: Any) -> dict[str, Any]:
    """Return one VM size as the service sends it."""
    body = {"name": A100, "family": FAMILY, "vCPUs": 24, "gpus": 1, "memoryGB": 220.5}
    return {**body, "estimatedVMPrices": prices(*OTHERS, price(3.67)), **changes}


def new(**changes: Any) -> Any:
    """Return what azure-ai-ml 1.35 makes of it."""
    return SdkVmSize._from_rest_object(VirtualMachineSize(wire(**changes)))


def old(**changes: Any) -> Any:
    """Return what azure-ai-ml 1.26.3 to 1.34.1 make of it: the names as their msrest models write them."""
    listed = {
        "billing_currency": "USD",
        "unit_of_measure": "OneHour",
        "values": [{"retail_price": 3.67, "os_type": "Linux", "vm_tier": "Standard"}],
    }
    values = {"name": A100, "family": FAMILY, "v_cp_us": 24, "gpus": 1, "memory_gb": 220.5}
    size = SdkVmSize()
    size.__dict__.update({**values, "estimated_vm_prices": listed, **changes})
    return size


def read(entry: Any) -> VmSize:
    return read_sizes([entry])[A100.lower()]


def test_the_new_sdk_really_hides_what_it_read() -> None:
    size = new()
    assert size.v_cp_us is None
    assert size.memory_gb is None


@pytest.mark.parametrize("entry", [new(), old()], ids=["1.35", "older"])
def test_both_spellings_of_the_sdk_say_the_same(entry: Any) -> None:
    assert read(entry) == VmSize(
        name=A100,
        family=FAMILY,
        vcpus=24,
        gpus=1,
        memory_gb=220.5,
        price_per_hour=3.67,
        source="the region's VM sizes",
    )


def test_prices_may_be_objects_too() -> None:
    value = SimpleNamespace(retail_price=3.67, os_type="Linux", vm_tier="Standard")
    listed = SimpleNamespace(billing_currency="usd", unit_of_measure="OneHour", values=[value])
    assert read(old(estimated_vm_prices=listed)).price_per_hour == 3.67


@pytest.mark.parametrize(
    "listed",
    [
        None,
        "3.67",
        prices(),
        prices(*OTHERS),
        prices(price(3.67), currency="EUR"),
        prices(price(3.67), unit="OneSecond"),
        prices(price(0)),
        prices(price(-1)),
        prices(price("3.67 USD")),
        prices(price(True)),
        prices(price(float("nan"))),
        prices(None, 7, "x"),
        {**prices(price(3.67)), "values": {"0": price(3.67)}},
        {"values": [price(3.67)]},
    ],
)
def test_a_price_that_is_not_one_of_a_linux_vm_for_an_hour_in_dollars_is_unknown(listed: Any) -> None:
    assert read(new(estimatedVMPrices=listed)).price_per_hour is None


def test_a_price_of_windows_among_those_of_linux_is_not_taken_for_one() -> None:
    # azure-powershell 689c9cc2, Get-AzMLServiceVMSize.Recording.json, 2025-11-04: Standard_D16ads_v5, in its own order.
    values = [("Windows", "Standard", 1.56), ("Linux", "LowPriority", 0.62), ("Linux", "LowPriority", 0.16)]
    values += [("Linux", "Standard", 0.82), ("Windows", "LowPriority", 0.62), ("Linux", "Standard", 1.56)]
    listed = [price(amount, system, tier) for system, tier, amount in values]
    for order in (listed, listed[::-1]):
        assert read(new(estimatedVMPrices=prices(*order))).price_per_hour == 0.82


def test_a_size_that_no_price_is_told_of_has_none() -> None:
    # Standard_DS12_v2 has none, in the same recording.
    body = wire()
    del body["estimatedVMPrices"]
    assert read(SdkVmSize._from_rest_object(VirtualMachineSize(body))).price_per_hour is None


@pytest.mark.parametrize("odd", ["24", True, float("inf"), 10**400, [24], 1.5, -3])
def test_odd_counts_are_unknown(odd: Any) -> None:
    size = read(old(v_cp_us=odd, gpus=odd))
    assert (size.vcpus, size.gpus) == (None, None)


def test_no_gpu_is_known_and_no_core_is_not() -> None:
    size = read(old(v_cp_us=0, gpus=0, memory_gb=-1))
    assert (size.vcpus, size.gpus, size.memory_gb) == (None, 0, None)


def test_nameless_entries_are_left_out_and_of_two_the_first_stays() -> None:
    listed = read_sizes([None, 3, {}, old(name=""), old(name=5), old(gpus=2), old(name=A100.upper(), gpus=4)])
    assert {name: size.gpus for name, size in listed.items()} == {A100.lower(): 2}


def test_what_the_region_does_not_say_comes_from_the_table_and_is_named() -> None:
    size = find_size(A100.upper(), read_sizes([{"name": A100, "gpus": 1, "memoryGB": 221}]))
    assert size is not None
    assert (size.vcpus, size.gpus, size.memory_gb) == (24, 1, 221)
    assert size.source.startswith("the region's VM sizes; built-in table, 20")


def test_the_region_has_the_last_word() -> None:
    size = find_size(A100, read_sizes([new(vCPUs=25)]))
    assert size is not None
    assert (size.vcpus, size.source) == (25, "the region's VM sizes")


def test_a_size_that_only_the_table_or_only_the_region_knows() -> None:
    assert getattr(find_size(A100, {}), "vcpus", None) == 24
    assert getattr(find_size("Standard_New", read_sizes([old(name="Standard_New")])), "vcpus", None) == 24
    assert find_size("Standard_New", {}) == VmSize(name="Standard_New")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*wire(), "values", "retailPrice"]), inner),
)


@given(anything, anything, anything)
def test_no_answer_raises(name: Any, cores: Any, listed: Any) -> None:
    entry = {"name": name, "vCPUs": cores, "gpus": cores, "memoryGB": cores, "estimatedVMPrices": listed}
    assert len(read_sizes([entry, SimpleNamespace(**entry), listed])) <= 2
