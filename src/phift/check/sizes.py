"""A region's VM sizes, as either generation of the SDK gives them, with the built-in table for what the service omits.

azure-ai-ml 1.35 renamed the keys of what it reads: what older ones keep as ``v_cp_us``, ``memory_gb`` and
``estimated_vm_prices`` stands under ``vCPUs``, ``memoryGB`` and ``estimatedVMPrices`` there, and the old attribute is
still present and None. So every field is looked for under both names, and a value of the wrong kind is an unknown one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from phift import facts
from phift.azure.answers import listed, text
from phift.azure.clients import Clients
from phift.errors import azure_errors

_OF_REGION = ("name", "family", "vcpus", "gpus", "memory_gb", "price_per_hour")


@dataclass(frozen=True, kw_only=True)
class VmSize:
    """One VM size; None is what neither the service nor the table says.

    - **family**: whose vCPU quota it takes.
    - **memory_gb**: of the machine, in GiB; **gpu_memory_gb**: of one GPU, in GiB.
    - **price_per_hour**: of one dedicated Linux VM, in USD.
    - **gpu**: the GPU's name; **peak_tflops_16**: its dense peak at 16 bits.
    - **retired_on**: a day in the past.
    - **too_old**: whether it is known not to work for fine-tuning.
    - **without_reserve**: whether Azure sets no instances aside at a deployment, see `phift.check.compute`.
    - **source**: where this is known from; empty where nothing is. **table_source**: the built-in table's own.
    """

    name: str
    family: str | None = None
    vcpus: int | None = None
    gpus: int | None = None
    memory_gb: float | None = None
    price_per_hour: float | None = None
    gpu: str | None = None
    gpu_memory_gb: float | None = None
    peak_tflops_16: float | None = None
    retired_on: str | None = None
    too_old: bool = False
    without_reserve: bool = False
    source: str = ""
    table_source: str = ""


def list_of_region(clients: Clients, method: Literal["list_sizes", "list_usage"], what: str) -> list[Any]:
    """Return what the SDK lists of the workspace's region."""
    # Left to itself, the SDK looks the workspace up for its region each time.
    location = text(clients.find_workspace().location, "workspace.location")
    with azure_errors(what):
        return listed(getattr(clients.workspace.compute, method)(location=location), f"workspace.compute.{method}")


def read_sizes(listed: Iterable[Any], *, in_table: bool = False) -> dict[str, VmSize]:
    """Return what ``MLClient.compute.list_sizes()`` lists, by lower-case name; nameless entries are left out.

    A number that makes no sense is unknown. The built-in table has more to say, under names of its own.
    """
    sizes: dict[str, VmSize] = {}
    for entry in listed:
        name, date = text_of(entry, "name"), field_of(entry, "date")
        if name is None or name.lower() in sizes:
            continue
        sizes[name.lower()] = VmSize(
            name=name,
            family=text_of(entry, "family"),
            vcpus=count_of(entry, "v_cp_us", "vCPUs", "vcpus", least=1),
            gpus=count_of(entry, "gpus"),
            memory_gb=number_of(entry, "memory_gb", "memoryGB", above=0),
            price_per_hour=_price(field_of(entry, "estimated_vm_prices", "estimatedVMPrices")),
            gpu=text_of(entry, "gpu"),
            gpu_memory_gb=number_of(entry, "gpu_memory_gb", above=0),
            peak_tflops_16=number_of(entry, "peak_tflops_16", above=0),
            retired_on=text_of(entry, "retired_on"),
            too_old=field_of(entry, "unsupported") is True,
            without_reserve=field_of(entry, "reservation_exempt") is True,
            source=f"built-in table, {date}" if in_table else "the region's VM sizes",
            table_source=f"{entry['source']}, {date}" if in_table else "",
        )
    return sizes


def find_size(name: str, listed: Mapping[str, VmSize] = MappingProxyType({})) -> VmSize:
    """Return a VM size as the region lists it, gaps filled from the built-in table; of an unknown one the name."""
    table = read_sizes(facts.load("vm_sizes")["sizes"], in_table=True)
    found, built_in = listed.get(name.lower()), table.get(name.lower())
    if found is None or built_in is None:
        return found or built_in or VmSize(name=name)
    known = {key: value for key in _OF_REGION if (value := getattr(found, key)) is not None}
    filled = any(key not in known and getattr(built_in, key) is not None for key in _OF_REGION)
    source = f"{found.source}; {built_in.source}" if filled else found.source
    return replace(built_in, **known, source=source)


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


def number_of(entry: Any, *names: str, above: float = -math.inf) -> float | None:
    """Return a field that is a finite number and more than ``above``, or None."""
    value = field_of(entry, *names)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if above < number < math.inf else None


def count_of(entry: Any, *names: str, least: int = 0) -> int | None:
    """Return a field that is a whole number and not below ``least``, or None."""
    number = number_of(entry, *names)
    return int(number) if number is not None and number == int(number) and number >= least else None


def _price(prices: Any) -> float | None:
    """Return the hourly price of a dedicated Linux VM; the list may have any order and any currency.

    For some sizes Linux stands there twice, the second time with the price of Windows, which is the higher one
    (azure-powershell 689c9cc2, Get-AzMLServiceVMSize.Recording.json, 2025-11-04).
    """
    currency = text_of(prices, "billing_currency", "billingCurrency")
    unit = text_of(prices, "unit_of_measure", "unitOfMeasure")
    if (currency or "").upper() != "USD" or (unit or "").lower() != "onehour":
        return None
    values = field_of(prices, "values", "values_property")
    found = []
    for value in values if isinstance(values, list | tuple) else ():
        system, tier = text_of(value, "os_type", "osType"), text_of(value, "vm_tier", "vmTier")
        if ((system or "").lower(), (tier or "").lower()) == ("linux", "standard"):
            found.append(number_of(value, "retail_price", "retailPrice", above=0))
    return min((each for each in found if each is not None), default=None)
