"""The part of MLflow's REST interface that registers models: the workspace's own, as MLflow calls them.

What ``mlflow.register_model`` asks for, and ``models:/`` addresses; no aliases and no stages.
"""

from __future__ import annotations

import re
from typing import Any, TypedDict

from phift.local.names import ARTIFACT_STORE
from phift.local.services.assets import new_asset, next_version
from phift.local.services.mlflow import AT, invalid, missing, pairs, text
from phift.local.services.route import Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire import Call, Reply, WireError, check_name, existing

_STORED = re.compile(rf"azureml://.+/datastores/{ARTIFACT_STORE}/paths/(?P<path>.+)")


class _Sent(TypedDict, total=False):
    description: str | None
    run_id: str | None


def _model(site: Site, name: Any) -> Document:
    check_name("model", str(name))
    return existing(site, f"models/{name}", missing(f"Registered Model with name={name} not found"))


def _version(site: Site, call: Call) -> Document:
    name, version = call.query.get("name"), call.query.get("version")
    unknown = missing(f"Model Version (name={name}, version={version}) not found")
    return existing(site, f"models/{name}/versions/{version}", unknown)


def _create_model(site: Site, call: Call) -> Reply:
    sent = call.json(_Sent)
    name, tags = text(sent, "name"), pairs(sent.get("tags"))
    check_name("model", name)
    with site.documents.transaction():
        if site.documents.get(f"models/{name}") is not None:
            raise WireError(400, "RESOURCE_ALREADY_EXISTS", f"Registered Model (name={name}) already exists.")
        properties = {"modelType": None, "tags": tags, "description": sent.get("description")}
        document = site.documents.put(f"models/{name}", {"properties": properties})
    return Reply({"registered_model": _show_model(site, document)})


def _create_version(site: Site, call: Call) -> Reply:
    """Register a version of a model: an MLflow model, where there is such a file."""
    sent = call.json(_Sent)
    name, source, tags = text(sent, "name"), text(sent, "source"), pairs(sent.get("tags"))
    given: Json = {"modelUri": source, "modelType": "mlflow_model", "tags": tags, "jobName": sent.get("run_id")}
    _model(site, name)
    properties = new_asset(site, "models", {**given, "description": sent.get("description")})
    with site.documents.transaction():  # not before the model's file is read, for which nobody else has to wait
        model = _model(site, name)
        number = next_version(version.name for version in site.documents.walk(f"{model.key}/versions"))
        document = site.documents.put(f"{model.key}/versions/{number}", {"properties": properties})
    return Reply({"model_version": _show_version(document)})


def _address(document: Document) -> str:
    """Return where MLflow's azureml plugin reads a version: what lies among the artifacts, it asks for there."""
    uri = str(document.body["properties"]["modelUri"])
    found = _STORED.fullmatch(uri)
    return f"azureml://artifacts/{found['path']}" if found else uri


def _show_version(document: Document) -> Json:
    properties = document.body["properties"]
    _, name, _, version = document.key.split("/")
    return {
        "name": name,
        "version": version,
        "creation_timestamp": int(document.created * 1000),
        "last_updated_timestamp": int(document.modified * 1000),
        "current_stage": "None",
        "description": properties.get("description") or "",
        "source": _address(document),
        "run_id": properties.get("jobName") or "",
        "status": "READY",
        "tags": _show_tags(properties),
    }


def _show_tags(properties: Json) -> list[Json]:
    return [{"key": key, "value": str(value)} for key, value in (properties.get("tags") or {}).items()]


def _show_model(site: Site, document: Document) -> Json:
    properties = document.body["properties"]
    versions = list(site.documents.walk(f"{document.key}/versions"))
    return {
        "name": document.name,
        "creation_timestamp": int(document.created * 1000),
        "last_updated_timestamp": int(document.modified * 1000),
        "description": properties.get("description") or "",
        "latest_versions": [_show_version(version) for version in versions[-1:]],
        "tags": _show_tags(properties),
    }


def _search(site: Site, call: Call) -> Reply:
    """Find the versions of one model, newest first, or those of one run."""
    found = re.fullmatch(r"\s*(name|run_id)\s*=\s*(?:'([^']*)'|\"([^\"]*)\")\s*", call.query.get("filter", ""))
    if found is None:
        raise invalid("Versions of models are searched by name = '...' or by run_id = '...' here.")
    field, value = found[1], found[2] or found[3]
    names = [value] if field == "name" else [model.name for model in site.documents.walk("models")]
    versions = [version for name in names for version in site.documents.walk(f"models/{name}/versions")]
    shown = [_show_version(version) for version in reversed(versions)]
    return Reply({"model_versions": [version for version in shown if version[field] == value]})


ROUTES = [
    Route(f"POST {AT}/registered-models/create", _create_model),
    Route(
        f"GET {AT}/registered-models/get",
        lambda site, call: Reply({"registered_model": _show_model(site, _model(site, call.query.get("name")))}),
    ),
    Route(f"POST {AT}/model-versions/create", _create_version),
    Route(
        f"GET {AT}/model-versions/get",
        lambda site, call: Reply({"model_version": _show_version(_version(site, call))}),
    ),
    Route(
        f"GET {AT}/model-versions/get-download-uri",
        lambda site, call: Reply({"artifact_uri": _address(_version(site, call))}),
    ),
    Route(f"GET {AT}/model-versions/search", _search),
]
