"""Which fields each version of the API knows of a pipeline job, read from the models that were generated of it.

Up to 1.30 azure-ai-ml has the models of every version side by side, as the newer one has a single set for all:
``.versions/1.26.3/bin/python tests/fidelity/job_models.py`` writes the local workspace's table of them.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from phift.local.services import job_fields

Objects = dict[str, dict[str, dict[str, str]]]
Kinds = dict[str, dict[str, Any]]
_ROOTS = ("JobBase", "JobBaseData", "PipelineJob")


def objects(models: ModuleType) -> tuple[Objects, Kinds]:
    """Return the fields of a pipeline job and of all objects in it, and which value of which field tells them apart.

    - **models**: of the generator that leaves ``_attribute_map`` in its classes.
    """
    found: Objects = {}
    kinds: Kinds = {}
    left = [name for name in _ROOTS if hasattr(models, name)]
    while left:
        name = left.pop()
        cls = getattr(models, name)
        title = _ROOTS[0] if name in _ROOTS[:2] else name
        if title in found:
            continue
        found[title] = {}
        for attribute in cls._attribute_map.values():
            how, inner = _kind(models, attribute["type"])
            deeper = inner and not inner.startswith("JobBase") and inner != "SystemData"
            found[title][attribute["key"]] = {how: inner} if deeper else {}
            left += [inner] if deeper else []
        for attribute, subclasses in vars(cls).get("_subtype_map", {}).items():
            kinds[title] = {"by": cls._attribute_map[attribute]["key"], "of": subclasses}
            left += subclasses.values()
    found[_ROOTS[0]]["properties"] = {"is": "PipelineJob"}
    return found, kinds


def _kind(models: ModuleType, text: str) -> tuple[str, str]:
    name = text.strip("{}[]")
    known = hasattr(getattr(models, name, None), "_attribute_map")
    return ("each" if text.startswith("{") else "is"), (name if known else "")


def by_version() -> Iterator[tuple[str, ModuleType]]:
    """Yield the versions of which this azure-ai-ml has models of their own, and these."""
    package = importlib.import_module("azure.ai.ml._restclient")
    for each in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        if re.fullmatch(r"v\d{4}(_\d\d){2}(_preview)?", each.name):
            models = importlib.import_module(f"{package.__name__}.{each.name}.models")
            if hasattr(models, "PipelineJob"):
                yield each.name[1:].replace("_", "-"), models


def table() -> dict[str, Any]:
    """Return the whole table: of each field what is in it, and in which versions it is, if not in all of its object."""
    merged: Objects = {}
    kinds: Kinds = {}
    known: dict[tuple[str, str], list[str]] = {}
    for version, models in by_version():
        found, told = objects(models)
        kinds |= told
        for name, fields in found.items():
            merged[name] = {**merged.get(name, {}), **fields}
            for field in ("", *fields):
                known.setdefault((name, field), []).append(version)
    for (name, field), some in known.items():
        if field and some != known[name, ""]:
            merged[name][field] = {**merged[name][field], "in": " ".join(some)}
    versions = " ".join(known.get((_ROOTS[0], ""), ()))
    return {"versions": versions, "kinds": dict(sorted(kinds.items())), "objects": dict(sorted(merged.items()))}


if __name__ == "__main__":
    from importlib.metadata import version

    source = f"azure-ai-ml {version('azure-ai-ml')}, azure/ai/ml/_restclient/v*/models"
    text = json.dumps({"source": source, **table()}, indent=1)
    short = re.sub(r"\n {4,}|\n {3}(?=[}])", " ", text)  # a line for each object
    Path(job_fields.__file__).with_suffix(".json").write_text(f"{short}\n", encoding="utf-8")
