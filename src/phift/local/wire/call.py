"""A request, an answer, an error and a route, as the parts of the local workspace see them."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from phift.local.state.documents import Document, Json, UnknownPosition

if TYPE_CHECKING:
    from phift.local.site import Site

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = "phift"
WORKSPACE = "local"
REGISTRY = "azureml"
LOCATION = "westus2"
PAGE = 50

API_VERSIONS = (
    "2021-10-01-dataplanepreview",
    "2022-02-01-preview",
    "2022-05-01",
    "2022-10-01",
    "2022-10-01-preview",
    "2023-02-01-preview",
    "2023-04-01",
    "2023-04-01-preview",
    "2023-06-01-preview",
    "2023-08-01-preview",
    "2023-10-01",
    "2024-01-01-preview",
    "2024-04-01-preview",
    "2024-07-01-preview",
    "2024-10-01-preview",
)
"""The api-versions of azure-ai-ml and of Azure's own management client, for the error that names some."""

_PROVIDER = "providers/Microsoft.MachineLearningServices"
# Path templates; matching ignores case, as Azure Resource Manager does.
AT_SUBSCRIPTION = f"/subscriptions/{{subscription}}/{_PROVIDER}"
AT_GROUP = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/{_PROVIDER}"
AT_WORKSPACE = f"{AT_GROUP}/workspaces/{{workspace}}"
WORKSPACE_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/{_PROVIDER}/workspaces/{WORKSPACE}"


class WireError(Exception):
    """An answer that is an error: HTTP status, Azure's code, a message for the user.

    - **inner**: the code inside, where Azure gives one.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, *, inner: str = ""
    ) -> None:
        super().__init__(message)
        self.inner = inner
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def cloud_name(base_url: str) -> str:
    """Return the name of the cloud that a workspace is for the SDK.

    It holds the port: the SDK keeps clouds by name for the life of a process and never changes one, so a second
    workspace, or the same one on another port, would be taken for the first.
    """
    return f"PhiftLocal{base_url.rpartition(':')[2]}"


def not_found(kind: str, name: str) -> WireError:
    """Return the error for a resource that is not there."""
    return WireError(404, "ResourceNotFound", f"The {kind} '{name}' was not found in workspace '{WORKSPACE}'.")


def user_error(message: str) -> WireError:
    """Return the error for a request that cannot be granted as it is."""
    return WireError(400, "UserError", message)


_OWN_PATH = re.compile(
    rf"/(?:mferp/managementfrontend/)?subscriptions/[^/]+(?:/resourceGroups/[^/]+)?/{re.escape(_PROVIDER)}"
    r"(?:/workspaces/[^/]+)?",
    re.IGNORECASE,
)


def place_of(method: str, path: str) -> str:
    """Return a request, or a route, as people write it: ``PUT jobs/my-job``, without the workspace's own path."""
    short = _OWN_PATH.sub("", path).strip("/").replace("storage.blob.phift.local", "blobs")
    return f"{method} {short or 'workspace'}"


def section(body: Json, name: str) -> Json:
    """Return an object inside a body without its nulls; empty where it is absent, an error where it is no object."""
    value = body.get(name)
    if not isinstance(value, dict | None):
        raise WireError(400, "InvalidRequestContent", f"The property '{name}' must be a JSON object.")
    return {key: item for key, item in (value or {}).items() if item is not None}


def sent_text(sent: Any) -> str | None:
    """Return the text of a job's input or output: nodes and pipelines spell its fields differently."""
    if not isinstance(sent, dict):
        return None if sent is None else str(sent)
    value = sent.get("uri", sent.get("value"))
    return None if value is None else str(value)


def whole_number(value: Any, name: str) -> int:
    """Return a number that a caller sent as such or as text."""
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise WireError(400, "InvalidRequestContent", f"{name} is not a whole number: {value!r}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")  # Python reads NaN and Infinity, and SQLite's JSON does not


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    params: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Json:
        """Return the body as a JSON object."""
        try:
            value = json.loads(self.body or b"{}", parse_constant=_no_number, parse_float=_finite)
        except ValueError as error:
            raise WireError(400, "InvalidRequestContent", "The request content is not valid JSON.") from error
        if not isinstance(value, dict):
            raise WireError(400, "InvalidRequestContent", "The request content is not a JSON object.")
        return value

    def __getitem__(self, name: str) -> str:
        """Return a part of the path, or an empty text."""
        return self.params.get(name, "")


@dataclass(frozen=True)
class Reply:
    """One answer: a JSON value, bytes, or a stream of bytes with its length in the headers."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json; charset=utf-8"
    stream: Iterator[bytes] | None = None


Handler = Callable[["Site", Call], Reply]


@dataclass(frozen=True)
class Route:
    """A method and path template, and what answers there.

    - **anonymous**: no bearer token is asked for; the handler checks the caller itself, or anybody may call.
    """

    method: str
    template: str
    handler: Handler
    anonymous: bool = False

    @property
    def operation(self) -> str:
        """The route's name, ``PUT jobs/{name}``."""
        return place_of(self.method, self.template)

    def pattern(self) -> re.Pattern[str]:
        """Return the compiled template: ``{name}`` is one segment, ``{name...}`` the rest of the path."""
        text = re.escape(self.template).replace(r"\{", "{").replace(r"\}", "}").replace(r"\.\.\.}", "...}")
        text = re.sub(r"\{(\w+)\.\.\.\}", r"(?P<\1>.+)", text)
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text) + "/?", re.IGNORECASE)


def timestamp(seconds: float) -> str:
    """Return a time as Azure writes it."""
    whole, fraction = divmod(seconds, 1)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int(fraction * 1e6):06d}+00:00"


def resource(document: Document, collection: str, properties: Json, **more: Any) -> Json:
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


def page(values: list[Json]) -> Reply:
    """Return a list that always fits into one page."""
    return Reply({"value": values})


def listed(
    site: Site,
    call: Call,
    parent: str,
    show: Callable[[Document], Json],
    *,
    newest_first: bool = False,
    wanted: Callable[[Document], bool] = lambda _document: True,
) -> Reply:
    """Return a page of the documents directly below ``parent``, with the link to the next one where there is one.

    Recorded traffic of the SDK's own tests (azure-sdk-for-python, recordings of test_component.py, test_component_list,
    2022-12-26) has 50 on a page, newest first, no ``nextLink`` on the last one, and the place in an opaque
    ``$skipToken``; that jobs and endpoints come in pages of the same size is unverified. Azure's token counts what it
    has shown, ours names the last one, so that what is made meanwhile shows nothing twice.
    """
    size, at_most = _sizes(call)
    try:
        found = site.documents.walk(parent, after=_skip_token(call), newest_first=newest_first, chunk=size + 1)
        shown = list(islice((document for document in found if wanted(document)), size + 1))
    except UnknownPosition as error:
        raise user_error("The continuation token is not valid.") from error
    body: Json = {"value": [show(document) for document in shown[:size]]}
    if len(shown) > size and not at_most:
        body["nextLink"] = _next_link(site, call, shown[size - 1].position)
    return Reply(body)


def _sizes(call: Call) -> tuple[int, bool]:
    """Return how many fit on a page, and whether that is all that the caller asked for.

    "Top count of results, top count cannot be greater than the page size. If topCount > page size, results with be
    default page size count will be returned", and count is the "Number of endpoints to be retrieved in a page of
    results" (docstrings of the client inside azure-ai-ml 1.35.2).
    """
    if "$top" in call.query:
        top = whole_number(call.query["$top"], "$top")
        if top < 1:
            raise user_error("$top must be at least 1.")
        return min(top, PAGE), top <= PAGE
    count = whole_number(call.query.get("count", PAGE), "count")
    return (min(count, PAGE) if count > 0 else PAGE), False


def _skip_token(call: Call) -> str:
    """Return where a list goes on; the SDK's own parameter for it is ``$skip``."""
    tokens = {key.lower(): value for key, value in call.query.items()}
    return tokens.get("$skiptoken") or tokens.get("$skip") or ""


def _next_link(site: Site, call: Call, position: str) -> str:
    query = {key: value for key, value in call.query.items() if key.lower() not in ("$skip", "$skiptoken")}
    return f"{site.base_url}{quote(call.path)}?{urlencode({**query, '$skipToken': position}, safe='$')}"
