"""What the registry has: the foundation models, which stand-ins are made for, the user's own, and the component."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import phift.facts
from phift.local.names import REGISTRY
from phift.local.state.documents import Json
from phift.local.state.folder import Folder

logger = logging.getLogger(__name__)

ABOUT = "about.json"  # the metadata of an added model, beside the folder `MODEL`
MODEL = "model"


@cache
def table(name: str) -> Any:
    """Return one of the tables that lie beside this file."""
    return json.loads((files(__package__) / f"{name}.json").read_text(encoding="utf-8"))


def foundation_models() -> list[Json]:
    """Return the metadata of the models that every registry has."""
    return list(table("catalog")["models"])


def added_models(folder: Folder) -> list[Json]:
    """Return the metadata of the models that the user has added, by name, of each name the newest version first.

    They are read anew each time, so that a server sees at once what another process adds. What is being made or removed
    lies in folders whose names begin with a dot.
    """
    found = []
    for path in folder.added.glob(f"[!.]*/*/{ABOUT}"):
        with suppress(OSError):  # being removed just now
            try:
                each = json.loads(path.read_text(encoding="utf-8"))
                found.append(((each["name"].lower(), -int(each["version"])), each))
            except (ValueError, KeyError, TypeError, AttributeError):
                logger.warning("A model of the local registry is left out, since its metadata is damaged: %s", path)
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]


def models(folder: Folder) -> list[Json]:
    """Return the metadata of all models; those of one name lie together, the newest version first."""
    return [*foundation_models(), *added_models(folder)]


def model(folder: Folder, name: str, version: str) -> Json | None:
    """Return a model's metadata, whatever the case of its name, or None where there is none."""
    wanted = (name.lower(), version)
    return next((each for each in models(folder) if (each["name"].lower(), each["version"]) == wanted), None)


def place(folder: Folder, model: Json) -> Path:
    """Return the folder of a model's files."""
    if "added" in model:
        return folder.added / str(model["name"]) / str(model["version"]) / MODEL
    return folder.registry / str(model["name"])


def component() -> Any:
    """Return the component's inputs and outputs, from phift's dated facts."""
    return phift.facts.load("chat_completion_pipeline")


def asset_id(kind: str, name: str, version: str) -> str:
    """Return the id of an asset of the registry."""
    return f"azureml://registries/{REGISTRY}/{kind}/{name}/versions/{version}"
