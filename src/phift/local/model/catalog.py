"""What the registry has: the foundation models, which stand-ins are made for, and the fine-tuning component."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import phift.facts
from phift.local.names import REGISTRY
from phift.local.state.documents import Json


@cache
def table(name: str) -> Any:
    """Return one of the tables that lie beside this file."""
    return json.loads((files(__package__) / f"{name}.json").read_text(encoding="utf-8"))


def models() -> list[Json]:
    """Return the models' metadata."""
    return list(table("catalog")["models"])


def model(name: str, version: str) -> Json | None:
    """Return a model's metadata, whatever the case of its name, or None where there is none."""
    return next((each for each in models() if (each["name"].lower(), each["version"]) == (name.lower(), version)), None)


def component() -> Any:
    """Return the component's inputs and outputs, from phift's dated facts."""
    return phift.facts.load("chat_completion_pipeline")


def asset_id(kind: str, name: str, version: str) -> str:
    """Return the id of an asset of the registry."""
    return f"azureml://registries/{REGISTRY}/{kind}/{name}/versions/{version}"
