"""What a step of one's own is made of: code, environment and component; kept as they are sent, and never executed.

What an uploaded component's command may be, and what runs in its place, is in `phift.local.services.plans`.
"""

from __future__ import annotations

import uuid

from phift.local.names import ACCOUNT
from phift.local.services.route import AT_WORKSPACE, Route
from phift.local.site import Site
from phift.local.state.documents import Document, Json
from phift.local.wire.call import Call, Reply, section
from phift.local.wire.errors import not_found, user_error
from phift.local.wire.pages import listed, page, resource

_KINDS = ("codes", "environments", "components")
# What may change on a version that is there; the rest is what it is.
_CHANGEABLE = ("description", "tags", "isArchived", "properties")


def routes() -> list[Route]:
    """Return the routes of code, environments and components."""
    routes = []
    for kind in _KINDS:
        versions = f"{AT_WORKSPACE}/{kind}/{{name}}/versions"
        routes += [
            Route("GET", versions, _list),
            Route("GET", f"{versions}/{{version}}", _get),
            Route("PUT", f"{versions}/{{version}}", _put),
        ]
    return [*routes, Route("POST", f"{AT_WORKSPACE}/codes/{{name}}/versions/{{version}}/startPendingUpload", _upload)]


def _key(call: Call) -> str:
    kind = call.path.removeprefix("/").split("/")[8].lower()
    return f"{kind}/{call['name']}/versions"


def _list(site: Site, call: Call) -> Reply:
    if "hash" in call.query:  # of a code's content, whatever name and version it is asked under
        same = site.documents.get(f"code-hashes/{call.query['hash']}")
        code = site.documents.get(same.body["key"]) if same else None
        return page([_show(site, code)] if code else [])
    return listed(site, call, _key(call), lambda document: _show(site, document))


def _get(site: Site, call: Call) -> Reply:
    document = site.documents.get(f"{_key(call)}/{call['version']}")
    if document is None:
        raise not_found(_key(call).partition("/")[0], f"{call['name']}:{call['version']}")
    return Reply(_show(site, document))


def _put(site: Site, call: Call) -> Reply:
    sent, key = section(call.json(), "properties"), f"{_key(call)}/{call['version']}"
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
    signature = site.identity.sas(f"{ACCOUNT}/{container}", "rwl")
    reference = {
        "blobUri": place,
        "storageAccountArmId": None,
        "credential": {"credentialType": "SAS", "sasUri": f"{place}?{signature}"},
    }
    kind = "TemporaryBlobReference"
    return Reply({"pendingUploadId": container, "pendingUploadType": kind, "blobReferenceForConsumption": reference})


def _show(site: Site, document: Document) -> Json:
    kind = document.key.partition("/")[0]
    own = {"environmentType": "UserCreated"} if kind == "environments" else {}
    standard = {"isAnonymous": False, "isArchived": False, "provisioningState": "Succeeded"}
    properties = {**standard, **own, **document.body["properties"]}
    if "codeUri" in properties:
        uri = properties["codeUri"]
        properties["codeUri"] = site.base_url + uri if uri.startswith("/") else uri
    return resource(document, f"{kind}/versions", properties)
