"""Assets of the workspace: data and registered models, and what a step of one's own is made of.

Code, environments and components are kept as they are sent, and never executed: what an uploaded component's command
may be, and what runs in its place, is in `phift.local.services.jobs`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import yaml

from phift.local.model import references
from phift.local.names import ACCOUNT
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire.call import Call, Reply, not_found, section, user_error
from phift.local.wire.pages import existing, listed, page, resource, view

_URI = {"data": "dataUri", "models": "modelUri"}
_TYPE = {"data": "dataType", "models": "modelType"}
# What each kind's versions show unless they were sent with something else.
_STANDARD: dict[str, Json] = {"data": {}, "models": {"provisioningState": "Succeeded"}}
_STANDARD["codes"] = {"isAnonymous": False, "isArchived": False, "provisioningState": "Succeeded"}
_STANDARD |= {
    "components": _STANDARD["codes"],
    "environments": {**_STANDARD["codes"], "environmentType": "UserCreated"},
}
# What may change on a version of a step's parts; the rest is what it is.
_CHANGEABLE = ("description", "tags", "isArchived", "properties")


def routes() -> list[Route]:
    """Return the routes of all kinds of assets."""
    routes = []
    for kind in _STANDARD:
        asset = f"{AT_WORKSPACE}/{kind}"
        one, versions = f"{asset}/{{name}}", f"{asset}/{{name}}/versions"
        if kind in _URI:
            routes += [
                Route("GET", asset, _containers),
                Route("GET", one, lambda site, call: Reply(_show_container(site, _container(site, call)))),
                Route("PUT", one, _put_container),
                Route("DELETE", f"{versions}/{{version}}", _delete_version),
            ]
        routes += [
            Route("GET", versions, _versions if kind in _URI else _versions_of_part),
            Route("GET", f"{versions}/{{version}}", _version),
            Route("PUT", f"{versions}/{{version}}", _put_version if kind in _URI else _put_part),
        ]
    return [*routes, Route("POST", f"{AT_WORKSPACE}/codes/{{name}}/versions/{{version}}/startPendingUpload", _upload)]


def _kind(call: Call) -> str:
    return call.path.removeprefix("/").split("/")[8].lower()


def _key(call: Call) -> str:
    return f"{_kind(call)}/{call['name']}"


def _visible(call: Call) -> Callable[[Document], bool]:
    """Leave archived ones out unless the caller asks for them."""
    wanted = view(call)
    return lambda document: bool(document.body["properties"].get("isArchived")) in wanted


def _container(site: Site, call: Call) -> Document:
    # 404 for its versions as well and not an empty list, unlike a registry: recorded traffic of the SDK's own tests
    # (azure-sdk-assets, test_model, test_crud_file, 2026-03). That data's are the same is inferred.
    return existing(site, _key(call), not_found(_kind(call), call["name"]))


def _containers(site: Site, call: Call) -> Reply:
    return listed(site, call, _kind(call), lambda document: _show_container(site, document), wanted=_visible(call))


def _put_container(site: Site, call: Call) -> Reply:
    found, sent = _container(site, call), section(call.json(), "properties")
    changed = {key: sent[key] for key in ("tags", "description", "isArchived") if sent.get(key) is not None}
    document = site.documents.put(found.key, {"properties": {**found.body["properties"], **changed}})
    return Reply(_show_container(site, document))


def _show_container(site: Site, document: Document) -> Json:
    kind = document.key.partition("/")[0]
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
    newest_first = call.query.get("$orderBy", "createdtime desc").lower() == "createdtime desc"
    parent, visible = f"{_container(site, call).key}/versions", _visible(call)
    return listed(site, call, parent, lambda each: _show(site, each), newest_first=newest_first, wanted=visible)


def _versions_of_part(site: Site, call: Call) -> Reply:
    if "hash" in call.query:  # of a code's content, whatever name and version it is asked under
        same = site.documents.get(f"code-hashes/{call.query['hash']}")
        code = site.documents.get(same.body["key"]) if same else None
        return page([_show(site, code)] if code else [])
    return listed(site, call, f"{_key(call)}/versions", lambda document: _show(site, document))


def _version(site: Site, call: Call) -> Reply:
    missing = not_found(_kind(call), f"{call['name']}:{call['version']}")
    return Reply(_show(site, existing(site, f"{_key(call)}/versions/{call['version']}", missing)))


def _delete_version(site: Site, call: Call) -> Reply:
    return Reply(None, 200 if site.documents.delete(f"{_key(call)}/versions/{call['version']}") else 204)


def _put_version(site: Site, call: Call) -> Reply:
    """Make a version of data or of a model; on one that is there, change what Azure lets be changed."""
    kind, sent = _kind(call), section(call.json(), "properties")
    key = f"{_key(call)}/versions/{call['version']}"
    with site.documents.transaction():
        previous = site.documents.get(key)
        if previous:
            stored, uri = previous.body["properties"], sent.get(_URI[kind])
            if uri and references.normalized(site, str(uri)) != stored[_URI[kind]]:
                raise user_error("Asset paths cannot be updated.")
            changed = {key: sent[key] for key in ("tags", "description", "isArchived", "stage") if key in sent}
            more = {**section(sent, "properties"), **stored["properties"]}
            properties = {**stored, **changed, "properties": more}
        else:
            properties = _new_properties(site, kind, sent)
        if site.documents.get(_key(call)) is None:
            site.documents.put(_key(call), {"properties": {_TYPE[kind]: properties.get(_TYPE[kind])}})
        document = site.documents.put(key, {"properties": properties})
    return Reply(_show(site, document), 200 if previous else 201)


def _new_properties(site: Site, kind: str, sent: Json) -> Json:
    uri = sent.get(_URI[kind])
    if not isinstance(uri, str):
        raise user_error(f"The property {_URI[kind]} is missing.")
    job, uri = references.job_of(uri), references.normalized(site, uri)
    place = references.resolve(site, uri)
    properties = {"description": "", "tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False, **sent}
    properties[_URI[kind]] = uri
    if kind == "models":
        properties |= {"flavors": sent.get("flavors") or {}, "jobName": sent.get("jobName") or job}
    if kind == "models" and properties.get("modelType") == "mlflow_model":
        file = place / "MLmodel"
        if not file.is_file():
            raise user_error(f"The model at {uri} is not an MLflow model: there is no MLmodel file.")
        try:
            flavors = yaml.safe_load(file.read_text(encoding="utf-8"))["flavors"].items()
            shown = {name: {"data": {key: str(value) for key, value in data.items()}} for name, data in flavors}
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise user_error("The model's MLmodel file cannot be read.") from error
        properties["flavors"] = shown
    return properties


def _put_part(site: Site, call: Call) -> Reply:
    sent, key = section(call.json(), "properties"), f"{_key(call)}/versions/{call['version']}"
    if "codeUri" in sent:  # the next server may have another port
        sent["codeUri"] = str(sent["codeUri"]).removeprefix(site.base_url)
    if "properties" in sent:  # the SDK sends the version of its hash as a number
        sent["properties"] = {name: str(value) for name, value in section(sent, "properties").items()}
    with site.documents.transaction():
        previous = site.documents.get(key)
        stored = previous.body["properties"] if previous else sent
        different = [
            name for name in stored if name not in _CHANGEABLE and sent.get(name, stored[name]) != stored[name]
        ]
        if different:
            raise user_error(f"{call['name']}:{call['version']} exists, and its {different[0]} cannot be changed.")
        document = site.documents.put(key, {"properties": {**stored, **sent}})
        content = section(sent, "properties").get("hash_sha256")
        if content and key.startswith("codes/"):
            site.documents.put(f"code-hashes/{content}", {"key": key})
    return Reply(_show(site, document), 200 if previous else 201)


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
    if str(properties.get("codeUri", "")).startswith("/"):
        properties["codeUri"] = site.base_url + properties["codeUri"]
    return resource(document, f"{kind}/versions", properties)
