"""Data assets and registered models of the workspace: versioned, and what they point to never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from phift.local.model import references
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire.call import Call, Reply, section
from phift.local.wire.errors import not_found, user_error
from phift.local.wire.pages import listed, resource, view

_URI = {"data": "dataUri", "models": "modelUri"}
_TYPE = {"data": "dataType", "models": "modelType"}
_MADE: dict[str, Json] = {"data": {}, "models": {"provisioningState": "Succeeded"}}


def routes() -> list[Route]:
    """Return the routes of data assets and models."""
    routes = []
    for kind in _URI:
        asset = f"{AT_WORKSPACE}/{kind}"
        routes += [
            Route("GET", asset, _containers),
            Route("GET", f"{asset}/{{name}}", _container),
            Route("PUT", f"{asset}/{{name}}", _put_container),
            Route("GET", f"{asset}/{{name}}/versions", _versions),
            Route("GET", f"{asset}/{{name}}/versions/{{version}}", _version),
            Route("PUT", f"{asset}/{{name}}/versions/{{version}}", _put_version),
            Route("DELETE", f"{asset}/{{name}}/versions/{{version}}", _delete_version),
        ]
    return routes


def _kind(call: Call) -> str:
    return call.path.removeprefix("/").split("/")[8].lower()


def _key(call: Call) -> str:
    return f"{_kind(call)}/{call['name']}"


def _visible(call: Call) -> Callable[[Document], bool]:
    """Leave archived ones out unless the caller asks for them."""
    wanted = view(call)
    return lambda document: bool(document.body["properties"].get("isArchived")) in wanted


def _existing(site: Site, call: Call) -> Document:
    document = site.documents.get(_key(call))
    if document is None:
        # 404 for its versions as well and not an empty list, unlike a registry: recorded traffic of the SDK's own tests
        # (azure-sdk-assets, test_model, test_crud_file, 2026-03). That data's are the same is inferred.
        raise not_found(_kind(call), call["name"])
    return document


def _containers(site: Site, call: Call) -> Reply:
    kind = _kind(call)
    return listed(site, call, kind, lambda document: _show_container(site, kind, document), wanted=_visible(call))


def _container(site: Site, call: Call) -> Reply:
    return Reply(_show_container(site, _kind(call), _existing(site, call)))


def _put_container(site: Site, call: Call) -> Reply:
    found = _existing(site, call)
    sent = section(call.json(), "properties")
    changed = {key: sent[key] for key in ("tags", "description", "isArchived") if sent.get(key) is not None}
    document = site.documents.put(found.key, {"properties": {**found.body["properties"], **changed}})
    return Reply(_show_container(site, _kind(call), document))


def _show_container(site: Site, kind: str, document: Document) -> Json:
    versions = site.documents.names(f"{document.key}/versions")
    numbers = [int(version) for version in versions if version.isdigit()]
    properties = {
        "description": None,
        "tags": {},
        "properties": {},
        "isArchived": False,
        **document.body["properties"],
        "latestVersion": versions[-1] if versions else None,
        "nextVersion": str(max(numbers, default=0) + 1),
    }
    if kind == "models":  # each version of a model has a type of its own, and a model none
        del properties["modelType"]
        properties["provisioningState"] = "Succeeded"
    return resource(document, kind, properties)


def _versions(site: Site, call: Call) -> Reply:
    kind, parent = _kind(call), f"{_existing(site, call).key}/versions"
    newest_first = call.query.get("$orderBy", "createdtime desc").lower() == "createdtime desc"

    def show(document: Document) -> Json:
        return _show(kind, document)

    return listed(site, call, parent, show, newest_first=newest_first, wanted=_visible(call))


def _version(site: Site, call: Call) -> Reply:
    document = site.documents.get(f"{_key(call)}/versions/{call['version']}")
    if document is None:
        raise not_found(_kind(call), f"{call['name']}:{call['version']}")
    return Reply(_show(_kind(call), document))


def _delete_version(site: Site, call: Call) -> Reply:
    return Reply(None, 200 if site.documents.delete(f"{_key(call)}/versions/{call['version']}") else 204)


def _put_version(site: Site, call: Call) -> Reply:
    kind = _kind(call)
    sent = section(call.json(), "properties")
    key = f"{_key(call)}/versions/{call['version']}"
    with site.documents.transaction():
        previous = site.documents.get(key)
        properties = _update(kind, previous, sent, site) if previous else _create(kind, sent, site)
        if site.documents.get(_key(call)) is None:
            container: dict[str, Any] = {_TYPE[kind]: properties.get(_TYPE[kind])}
            site.documents.put(_key(call), {"properties": container})
        document = site.documents.put(key, {"properties": properties})
    return Reply(_show(kind, document), 200 if previous else 201)


def _create(kind: str, sent: Json, site: Site) -> Json:
    uri = sent.get(_URI[kind])
    if not isinstance(uri, str):
        raise user_error(f"The property {_URI[kind]} is missing.")
    job, uri = references.job_of(uri), references.normalized(site, uri)
    place = references.resolve(site, uri)
    properties = {"description": "", "tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False, **sent}
    properties[_URI[kind]] = uri
    if kind == "models":
        properties |= {"flavors": sent.get("flavors") or {}, "jobName": sent.get("jobName") or job}
        if properties.get("modelType") == "mlflow_model":
            file = place / "MLmodel"
            if not file.is_file():
                raise user_error(f"The model at {uri} is not an MLflow model: there is no MLmodel file.")
            properties["flavors"] = _flavors(file.read_text(encoding="utf-8"))
    return properties


def _flavors(mlmodel: str) -> Json:
    try:
        flavors = yaml.safe_load(mlmodel)["flavors"]
        return {name: {"data": {key: str(value) for key, value in data.items()}} for name, data in flavors.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise user_error("The model's MLmodel file cannot be read.") from error


def _update(kind: str, previous: Document, sent: Json, site: Site) -> Json:
    """Allow what Azure allows on an existing version: tags, description, archiving, new properties."""
    stored = previous.body["properties"]
    uri = sent.get(_URI[kind])
    if uri and references.normalized(site, str(uri)) != stored[_URI[kind]]:
        raise user_error("Asset paths cannot be updated.")
    changed = {key: sent[key] for key in ("tags", "description", "isArchived", "stage") if key in sent}
    more = {**section(sent, "properties"), **stored["properties"]}
    return {**stored, **changed, "properties": more}


def _show(kind: str, document: Document) -> Json:
    return resource(document, f"{kind}/versions", {**_MADE[kind], **document.body["properties"]})
