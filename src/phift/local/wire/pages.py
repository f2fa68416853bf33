"""A stored document as Resource Manager shows it, and lists of them, page by page."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from phift.local.ground import Ground
from phift.local.names import WORKSPACE_ID
from phift.local.state.documents import Document, Json, UnknownPosition
from phift.local.wire.call import Call, Reply, WireError, timestamp, user_error, whole_number

PAGE = 50
_G = TypeVar("_G", bound=Ground)


def resource(document: Document, collection: str, properties: Json | None, **more: Any) -> Json:
    """Return a workspace resource as Azure Resource Manager shows it."""
    return {
        "id": f"{WORKSPACE_ID}/{document.key}",
        "name": document.name,
        "type": f"Microsoft.MachineLearningServices/workspaces/{collection}",
        "properties": properties,
        "systemData": system_data(document),
        **more,
    }


def system_data(document: Document) -> Json:
    """Return who made a document and when."""
    return {
        "createdBy": "local user",
        "createdByType": "User",
        "createdAt": timestamp(document.created),
        "lastModifiedBy": "local user",
        "lastModifiedByType": "User",
        "lastModifiedAt": timestamp(document.modified),
    }


def existing(ground: Ground, key: str, missing: WireError) -> Document:
    """Return a document; raises the given error where it is not there."""
    document = ground.documents.get(key)
    if document is None:
        raise missing
    return document


def listed(
    ground: _G,
    call: Call,
    parent: str,
    show: Callable[[_G, Document], Json],
    *,
    newest_first: bool = False,
    wanted: Callable[[Document], bool] = lambda _document: True,
) -> Reply:
    """Return a page of the documents directly below ``parent``, with the link to the next one where there is one.

    Recorded traffic of the SDK's own tests (azure-sdk-for-python, recordings of test_component.py, test_component_list,
    2022-12-26) has 50 on a page, newest first, no ``nextLink`` on the last one, and the place in an opaque
    ``$skipToken``; that jobs and endpoints come in pages of the same size is unverified. Azure's token counts what it
    has shown, ours names the last one, so that what is made meanwhile shows nothing twice.

    "Top count of results, top count cannot be greater than the page size. If topCount > page size, results with be
    default page size count will be returned", and count is the "Number of endpoints to be retrieved in a page of
    results" (docstrings of the client inside azure-ai-ml 1.35.2).
    """
    name = "$top" if "$top" in call.query else "count"
    asked = whole_number(call.query.get(name, PAGE), name)
    if name == "$top" and asked < 1:
        raise user_error("$top must be at least 1.")
    size = min(asked, PAGE) if asked > 0 else PAGE
    # The SDK's own parameter for the place is ``$skip``.
    tokens = {key.lower(): value for key, value in call.query.items()}
    after = tokens.get("$skiptoken") or tokens.get("$skip") or ""
    try:
        found = ground.documents.walk(parent, after=after, newest_first=newest_first, chunk=size + 1)
        shown = list(islice((document for document in found if wanted(document)), size + 1))
    except UnknownPosition as error:
        raise user_error("The continuation token is not valid.") from error
    body: Json = {"value": [show(ground, document) for document in shown[:size]]}
    if len(shown) > size and (name == "count" or asked > PAGE):
        query = {key: value for key, value in call.query.items() if key.lower() not in ("$skip", "$skiptoken")}
        query["$skipToken"] = shown[size - 1].position
        body["nextLink"] = f"{ground.base_url}{quote(call.path)}?{urlencode(query, safe='$')}"
    return Reply(body)


def view(call: Call) -> tuple[bool, ...]:
    """Return which of what is archived and what is not the caller asks for; what is not, unless told otherwise."""
    asked = call.query.get("listViewType", "ActiveOnly")
    return {"ActiveOnly": (False,), "ArchivedOnly": (True,)}.get(asked, (False, True))
