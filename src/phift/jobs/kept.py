"""What a job keeps of the run that submitted it: one JSON text in its properties, in as many values as it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from phift.errors import redact

# Of a run: 50 tags and 50 properties, keys of 100 characters and values of 1,000 (Microsoft Learn, "Service limits in
# Azure Machine Learning", read 2026-11-28).
LONGEST_VALUE = 1000
MOST_PROPERTIES = 40  # the service and the SDK write some of their own
_PROPERTY = "phift.record"


def write_kept(kept: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the properties that hold plain values; None where they are too long for them."""
    written = json.dumps(kept, separators=(",", ":"))
    if len(written) > LONGEST_VALUE * MOST_PROPERTIES:
        return None
    parts = [written[start : start + LONGEST_VALUE] for start in range(0, len(written), LONGEST_VALUE)]
    return {f"{_PROPERTY}.{number}": part for number, part in enumerate(parts)}


def read_kept(properties: Mapping[str, str]) -> dict[str, Any]:
    """Return what a job's properties hold; an older phift wrote less of it, or nothing."""
    parts = [properties.get(f"{_PROPERTY}.{number}", "") for number in range(len(properties))]
    with suppress(ValueError):
        kept = json.loads("".join(parts))
        if isinstance(kept, dict):
            return {str(key): cleaned(value) for key, value in kept.items()}
    return {}


def cleaned(value: Any) -> Any:
    """Return plain values without what could be a secret."""
    if isinstance(value, dict):
        return {key: cleaned(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [cleaned(entry) for entry in value]
    return redact(value) if isinstance(value, str) else value
