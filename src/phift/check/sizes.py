"""A region's VM sizes, as either generation of the SDK gives them, with the built-in table for what the service omits.

azure-ai-ml 1.35 renamed the keys of what it reads: what older ones keep as ``v_cp_us``, ``memory_gb`` and
``estimated_vm_prices`` stands under ``vCPUs``, ``memoryGB`` and ``estimatedVMPrices`` there, and the old attribute is
still present and None. So every field is looked for under both names, and a value of the wrong kind is an unknown one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from phift import facts


@dataclass(frozen=True, kw_only=True)
class VmSize:
    """One VM size; None is what neither the service nor the table says.

    - **family**: whose vCPU quota it takes.
    - **price_per_hour**: of one dedicated Linux VM, in USD.
    - **source**: where this is known from.
    """

    name: str
    family: str | None = None
    vcpus: int | None = None
    gpus: int | None = None
    memory_gb: float | None = None
    price_per_hour: float | None = None
    source: str = ""


def read_sizes(listed: Iterable[Any]) -> dict[str, VmSize]:
    """Return what ``MLClient.compute.list_sizes()`` lists, by lower-case name; nameless entries are left out."""
    sizes: dict[str, VmSize] = {}
    for entry in listed:
        name = text_of(entry, "name")
        if name:
            sizes.setdefault(name.lower(), _size(name, entry))
    return sizes


def find_size(name: str, listed: Mapping[str, VmSize]) -> VmSize | None:
    """Return a VM size as the region lists it, gaps filled from the built-in table, or None where neither knows it."""
    found, built_in = listed.get(name.lower()), _built_in(name)
    if found is None or built_in is None:
        return found or built_in
    keys = ("family", "vcpus", "gpus", "memory_gb")
    gaps = {key: value for key in keys if getattr(found, key) is None and (value := getattr(built_in, key)) is not None}
    return replace(found, **gaps, source=f"{found.source}; {built_in.source}") if gaps else found


def _built_in(name: str) -> VmSize | None:
    entry = table_entry(name)
    if entry is None:
        return None
    return VmSize(
        name=str(entry["name"]),
        family=text_of(entry, "family"),
        vcpus=_least(count_of(entry, "vcpus"), 1),
        gpus=_least(count_of(entry, "gpus"), 0),
        memory_gb=_positive(number_of(entry, "memory_gb")),
        source=f"built-in table, {entry['date']}",
    )


def table_entry(name: str) -> dict[str, Any] | None:
    """Return the built-in table's entry for a VM size, or None; upper and lower case are the same."""
    for entry in facts.load("vm_sizes")["sizes"]:
        if str(entry["name"]).lower() == name.lower():
            return dict(entry)
    return None


def field_of(entry: Any, *names: str) -> Any:
    """Return the first of the named keys or attributes that has a value, or None."""
    for name in names:
        value = entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name, None)
        if value is not None:
            return value
    return None


def text_of(entry: Any, *names: str) -> str | None:
    """Return a field that is a text with something in it, or None."""
    value = field_of(entry, *names)
    return value.strip() or None if isinstance(value, str) else None


def number_of(entry: Any, *names: str) -> float | None:
    """Return a field that is a finite number, or None."""
    value = field_of(entry, *names)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def count_of(entry: Any, *names: str) -> int | None:
    """Return a field that is a whole number, or None."""
    number = number_of(entry, *names)
    return int(number) if number is not None and number == int(number) else None


def _size(name: str, entry: Any) -> VmSize:
    return VmSize(
        name=name,
        family=text_of(entry, "family"),
        vcpus=_least(count_of(entry, "v_cp_us", "vCPUs"), 1),
        gpus=_least(count_of(entry, "gpus"), 0),
        memory_gb=_positive(number_of(entry, "memory_gb", "memoryGB")),
        price_per_hour=_price(field_of(entry, "estimated_vm_prices", "estimatedVMPrices")),
        source="the region's VM sizes",
    )


def _least(count: int | None, least: int) -> int | None:
    """Return a count unless it makes no sense."""
    return count if count is not None and count >= least else None


def _positive(number: float | None) -> float | None:
    return number if number is not None and number > 0 else None


def _price(prices: Any) -> float | None:
    """Return the hourly price of a dedicated Linux VM; their order is not fixed, and the list may have any currency."""
    currency = text_of(prices, "billing_currency", "billingCurrency")
    unit = text_of(prices, "unit_of_measure", "unitOfMeasure")
    if (currency or "").upper() != "USD" or (unit or "").lower() != "onehour":
        return None
    values = field_of(prices, "values", "values_property")
    for value in values if isinstance(values, list | tuple) else ():
        system, tier = text_of(value, "os_type", "osType"), text_of(value, "vm_tier", "vmTier")
        if ((system or "").lower(), (tier or "").lower()) == ("linux", "standard"):
            return _positive(number_of(value, "retail_price", "retailPrice"))
    return None
