"""The fields that a job's body may have, in each version of the API: what it has not is refused, as at Azure."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from phift.local.state.documents import Json
from phift.local.wire import invalid

# Of each field what is in it, ``is`` an object or ``each`` of a map, and ``in`` which versions it is, if not in all
# of its object; written by tests/fidelity/job_models.py.
_TABLE = json.loads((files("phift.local.services") / "job_fields.json").read_text(encoding="utf-8"))
_VERSIONS = _TABLE["versions"].split()


def refuse_unknown(body: Json, version: str) -> None:
    """Raise the error for a field of a pipeline job that the API has not in this version.

    As recorded for an output's ``assetVersion``, which 2024-01-01-preview has and 2025-01-01-preview has not
    (azure-sdk-assets 0f205ad0, test_command_job_register_output, 2026-03-27; there the reason names the place in the
    text as well). A version that is not in the table counts as the last one before it.
    """
    _check("JobBase", body, max((known for known in _VERSIONS if known <= version), default=_VERSIONS[0]))


def _check(kind: str, value: Any, version: str) -> None:
    if not kind or not isinstance(value, dict):
        return
    if told := _TABLE["kinds"].get(kind):
        kind = told["of"].get(str(value.get(told["by"])), kind)
    for name, item in value.items():
        field = _TABLE["objects"][kind].get(name)
        # What is null is in every answer here, whatever the version, and may come back.
        if field is None or (item is not None and version not in field.get("in", version).split()):
            raise invalid(f"Could not find member '{name}' on object of type '{kind}'. Path '{name}'.")
        each = "each" in field and isinstance(item, dict)
        for inner in item.values() if each else [item]:
            _check(field["each"] if each else field.get("is", ""), inner, version)
