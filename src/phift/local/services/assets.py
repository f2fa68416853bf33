"""Assets of the workspace: data and registered models, and what a step of one's own is made of.

Code, environments and components are kept as they are sent, and never executed: what an uploaded component's command
may be, and what runs in its place, is in `phift.local.services.jobs`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict

import yaml

from phift import plain_yaml
from phift.local.model import files
from phift.local.names import ACCOUNT
from phift.local.services.route import Route, in_one_step
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire import (
    Call,
    Reply,
    check_name,
    created,
    existing,
    listed,
    not_found,
    resource,
    section,
    user_error,
    view,
)

_URI = {"data": "dataUri", "models": "modelUri"}
_TYPE = {"data": "dataType", "models": "modelType"}
# What each kind's versions show unless they were sent with something else.
_NOTHING: Json = {"description": None, "tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False}
_NEWER: Json = {"autoDeleteSetting": None, "intellectualProperty": None}
# Recorded of code (azure-sdk-assets 0f205ad0, test_code, 2026-03-27); that the other parts are the same is inferred.
_OF_PARTS = {**_NOTHING, "provisioningState": "Succeeded"}
_STANDARD: dict[str, Json] = {
    "data": {**_NOTHING, **_NEWER, "stage": None},
    "models": {**_NOTHING, **_NEWER, "provisioningState": "Succeeded"},
    "codes": _OF_PARTS,
    "components": _OF_PARTS,
    "environments": {**_OF_PARTS, "environmentType": "UserCreated"},
}
_LONGEST_MANIFEST = 250_000  # bytes of an MLmodel file and of its flavors; the loader takes seconds for much more
# What may change on a version of a step's parts; the rest is what it is.
_CHANGEABLE = ("description", "tags", "isArchived", "properties")


class _Properties(TypedDict, total=False):
    description: str | None
    tags: Json | None
    properties: Json | None
    isArchived: bool | None
    isAnonymous: bool | None
    stage: str | None
    jobName: str | None
    flavors: Json | None
    dataType: str | None
    dataUri: str | None
    modelType: str | None
    modelUri: str | None
    codeUri: str | None
    componentSpec: Json | None


class _Version(TypedDict, total=False):
    properties: _Properties | None


def next_version(versions: Iterable[str]) -> int:
    """Return the number behind those of an asset's versions that are numbers."""
    return max((int(version) for version in versions if version.isdigit()), default=0) + 1


def _kind(call: Call) -> str:
    return call.path.removeprefix("/").split("/")[8].lower()


def _key(call: Call) -> str:
    """Return the key of the version that is asked for, or of the container where none is."""
    return f"{_kind(call)}/{call['name']}" + (f"/versions/{call['version']}" if call["version"] else "")


def _existing(site: Site, call: Call) -> Document:
    # 404 for a container's versions as well and not an empty list, unlike a registry: recorded traffic of the SDK's own
    # tests (azure-sdk-assets, test_model, test_crud_file, 2026-03). That data's are the same is inferred.
    kind, version = _kind(call).removesuffix("s"), call["version"]
    missing = not_found(kind, f"{call['name']}:{version}") if version else not_found(f"{kind} container", call["name"])
    return existing(site, _key(call), missing)


def _visible(call: Call) -> Callable[[Document], bool]:
    """Leave archived ones out unless the caller asks for them."""
    wanted = view(call)
    return lambda document: bool(document.body["properties"].get("isArchived")) in wanted


def _containers(site: Site, call: Call) -> Reply:
    return listed(site, call, _kind(call), _show_container, wanted=_visible(call))


@in_one_step
def _put_container(site: Site, call: Call) -> Reply:
    found, sent = _existing(site, call), section(call.json(_Version), "properties")
    changed = {key: sent[key] for key in ("tags", "description", "isArchived") if key in sent}
    document = site.documents.put(found.key, {"properties": {**found.body["properties"], **changed}})
    return Reply(_show_container(site, document))


def _show_container(site: Site, document: Document) -> Json:
    kind = document.key.partition("/")[0]
    versions = [version.name for version in site.documents.walk(f"{document.key}/versions")]
    properties = {
        "description": None,
        "tags": {},
        "properties": {},
        "isArchived": False,
        **document.body["properties"],
        "latestVersion": versions[-1] if versions else None,
        "nextVersion": str(next_version(versions)),
    }
    if kind == "models":  # each version of a model has a type of its own, and a model none
        del properties["modelType"]
        properties["provisioningState"] = "Succeeded"
    return resource(document, kind, properties)


def _versions(site: Site, call: Call) -> Reply:
    if _kind(call) in _URI:
        newest_first = call.query.get("$orderBy", "createdtime desc").lower() == "createdtime desc"
        parent = f"{_existing(site, call).key}/versions"
        return listed(site, call, parent, _show, newest_first=newest_first, wanted=_visible(call))
    if "hash" in call.query:  # of a code's content, whatever name and version it is asked under
        same = site.documents.get(f"code-hashes/{call.query['hash']}")
        code = site.documents.get(same.body["key"]) if same else None
        return Reply({"value": [_show(site, code)] if code else []})
    return listed(site, call, f"{_key(call)}/versions", _show)


def _put_version(site: Site, call: Call) -> Reply:
    """Make a version; on one that is there, change what Azure lets be changed."""
    kind, key, sent = _kind(call), _key(call), section(call.json(_Version), "properties")
    for named in (call["name"], call["version"]):
        check_name(kind, named)
    # Before anybody has to wait for it: a model's file takes seconds to read.
    made = new_asset(site, kind, sent) if kind in _URI and site.documents.get(key) is None else None
    with site.documents.transaction():
        previous = site.documents.get(key)
        stored = previous.body["properties"] if previous else None
        if kind not in _URI:
            properties = _part(site, call, sent, stored)
        elif stored is not None:  # which somebody else may have made meanwhile
            properties = _changed(site, kind, sent, stored)
        else:  # or deleted
            properties = made or new_asset(site, kind, sent)
        document = site.documents.put(key, {"properties": properties})
        container = key.partition("/versions/")[0]
        if kind in _URI and site.documents.get(container) is None:
            site.documents.put(container, {"properties": {_TYPE[kind]: properties.get(_TYPE[kind])}})
        content = section(sent, "properties").get("hash_sha256")
        if content and kind == "codes":
            site.documents.put(f"code-hashes/{content}", {"key": key})
    return Reply(_show(site, document)) if previous else created(site, call, _show(site, document))


def _delete_version(site: Site, call: Call) -> Reply:
    return Reply(None, 200 if site.documents.delete(_key(call)) else 204)


def _changed(site: Site, kind: str, sent: Json, stored: Json) -> Json:
    """Return the properties of a version of data or of a model that is there, with what Azure lets be changed."""
    uri = sent.get(_URI[kind])
    if uri and files.normalized(site, str(uri))[0] != stored[_URI[kind]]:
        raise user_error("Asset paths cannot be updated.")
    changed: Json = {key: sent[key] for key in ("tags", "description", "isArchived", "stage") if key in sent}
    return {**stored, **changed, "properties": {**section(sent, "properties"), **section(stored, "properties")}}


def new_asset(site: Site, kind: str, sent: Json) -> Json:
    """Return the properties of a new version of data or of a model; an MLflow model's file is read, which takes long.

    Raises a user error where nothing is stored at its address.
    """
    uri = sent.get(_URI[kind])
    if not isinstance(uri, str):
        raise user_error(f"The property {_URI[kind]} is missing.")
    uri, job = files.normalized(site, uri)
    place = files.resolve(site, uri)
    properties = {**sent, _URI[kind]: uri}
    if kind == "models":
        properties |= {"flavors": sent.get("flavors") or {}, "jobName": sent.get("jobName") or job}
    if kind == "models" and properties.get("modelType") == "mlflow_model":
        file = place / "MLmodel"
        if not file.is_file():
            raise user_error(f"The model at {uri} is not an MLflow model: there is no MLmodel file.")
        properties["flavors"] = _flavors(file)
    return properties


def _flavors(file: Path) -> Json:
    """Return the flavors that an MLmodel file tells, or raise the error for one that nobody can read or show."""
    try:
        with file.open("rb") as opened:
            text = opened.read(_LONGEST_MANIFEST + 1)
        _limit([text])
        flavors = plain_yaml.load(text)["flavors"]
        # Piece by piece: a few aliases in YAML stand for more than memory holds.
        _limit(part.encode() for part in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(flavors))
        return {
            str(name): {"data": {str(key): str(value) for key, value in data.items()}} for name, data in flavors.items()
        }
    # Also what the loader lets through of a scalar: an impossible date, 5000 digits.
    except (OSError, yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise user_error("The model's MLmodel file cannot be read.") from error


def _limit(parts: Iterable[bytes]) -> None:
    left = _LONGEST_MANIFEST
    for part in parts:
        left -= len(part)
        if left < 0:
            raise ValueError(f"longer than {_LONGEST_MANIFEST} bytes")


def _part(site: Site, call: Call, sent: Json, stored: Json | None) -> Json:
    """Return the properties of a version of what a step is made of."""
    if "codeUri" in sent:  # the next server may have another port
        sent["codeUri"] = str(sent["codeUri"]).removeprefix(site.base_url)
    if "properties" in sent:  # the SDK sends the version of its hash as a number
        sent["properties"] = {name: str(value) for name, value in section(sent, "properties").items()}
    for name, value in (stored or {}).items():
        if name not in _CHANGEABLE and sent.get(name, value) != value:
            raise user_error(f"{call['name']}:{call['version']} exists, and its {name} cannot be changed.")
    return {**(stored or {}), **sent}


def _upload(site: Site, call: Call) -> Reply:
    """Return a container of its own for the files of a code asset, with the right to write there."""
    container = f"code-{uuid.uuid4()}"
    place = f"{site.base_url}/{ACCOUNT}/{container}"
    credential = {"credentialType": "SAS", "sasUri": f"{place}?{site.identity.sas(f'{ACCOUNT}/{container}', 'rwl')}"}
    reference = {"blobUri": place, "storageAccountArmId": None, "credential": credential}
    kind = "TemporaryBlobReference"
    return Reply({"pendingUploadId": container, "pendingUploadType": kind, "blobReferenceForConsumption": reference})


def _show(site: Site, document: Document) -> Json:
    kind = document.key.partition("/")[0]
    properties = {**_STANDARD[kind], **document.body["properties"]}
    if kind == "models":  # an anonymous one is ``Logged``: azure-sdk-assets, recordings of 2026-03
        properties["stage"] = properties.get("stage") or ("Logged" if properties["isAnonymous"] else "Development")
    elif kind == "data":  # which the service spells in another way than a model's
        properties["dataUri"] = properties["dataUri"].replace("/resourceGroups/", "/resourcegroups/")
    if str(properties.get("codeUri", "")).startswith("/"):
        properties["codeUri"] = site.base_url + properties["codeUri"]
    return resource(document, f"{kind}/versions", properties)


ROUTES = []
for _each in _STANDARD:
    _one, _one_version = f"{_each}/{{name}}", f"{_each}/{{name}}/versions/{{version}}"
    if _each in _URI:
        ROUTES += [
            Route(f"GET {_each}", _containers),
            Route(f"GET {_one}", lambda site, call: Reply(_show_container(site, _existing(site, call)))),
            Route(f"PUT {_one}", _put_container),
            Route(f"DELETE {_one_version}", _delete_version),
        ]
    ROUTES += [
        Route(f"GET {_one}/versions", _versions),
        Route(f"GET {_one_version}", lambda site, call: Reply(_show(site, _existing(site, call)))),
        Route(f"PUT {_one_version}", _put_version),
    ]
ROUTES.append(Route("POST codes/{name}/versions/{version}/startPendingUpload", _upload))
