"""How Azure writes: a request and an answer as the services see them, their values, lists page by page, and errors."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import IO, Any, TypeVar
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

import msgspec

from phift.local.ground import Ground
from phift.local.names import LOCATION, WORKSPACE_ID
from phift.local.state.documents import Document, Json, UnknownPosition
from phift.local.state.faults import Fault

API_VERSIONS = (
    "2021-10-01-dataplanepreview,2022-02-01-preview,2022-05-01,2022-10-01,2022-10-01-preview,2023-02-01-preview,"
    "2023-04-01,2023-04-01-preview,2023-06-01-preview,2023-08-01-preview,2023-10-01,2024-01-01-preview,"
    "2024-04-01-preview,2024-07-01-preview,2024-10-01-preview"
)
"""The api-versions of azure-ai-ml and of Azure's own management client, as the error lists them that names some."""


@dataclass(eq=False)
class WireError(Exception):
    """An answer that is an error: HTTP status, Azure's code, a message for the user.

    - **inner**: the code inside, where Azure gives one.
    - **more**: what else the error's object has: ``details``, ``innerError``, ``additionalInfo``.
    """

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    inner: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def not_found(kind: str, name: str) -> WireError:
    """Return the error for a thing of Azure ML's own that is not there.

    As recorded for the versions of a model (azure-sdk-assets 0f205ad0, test_crud_file, 2026-03-26). That it is the
    same for other kinds, and what each is called inside, is guessed.
    """
    code = f"{kind.removesuffix(' container').title().replace(' ', '')}NotFound"
    return _refusal(
        404, "The specified resource was not found.", code, f"{kind.capitalize()} with name: {name} not found."
    )


def user_error(message: str) -> WireError:
    """Return the error for a request that cannot be granted as it is."""
    return WireError(400, "UserError", message)


def invalid(reason: str) -> WireError:
    """Return the error for a body with a field that does not belong there, or with no value for one.

    As recorded for a job (azure-sdk-assets 0f205ad0, test_command_job_register_output, 2026-03-27).
    """
    refusal = _refusal(400, "Request is invalid and/or missing fields.", "RequestInvalid", reason)
    return replace(refusal, inner="RequestInvalid")


def _refusal(status: int, message: str, code: str, reason: str) -> WireError:
    """Return an error whose reason stands in its details, as Azure ML gives it."""
    detail = {"code": code, "message": reason, "details": [], "additionalInfo": []}
    return WireError(status, "UserError", message, more={"details": [detail]})


logger = logging.getLogger(__name__)

_DEEPEST = 64  # levels of a body; the number is ours


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    content: IO[bytes]
    params: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """Return all of the content, which is a large file where a blob is uploaded."""
        self.content.seek(0)
        return self.content.read()

    def json(self, shape: Any = dict) -> Json:
        """Return the body as a JSON object, without what SQLite's JSON does not know.

        That are NaN, infinite numbers, halves of surrogate pairs, and what is nested too deep.

        - **shape**: a type of dict that tells which fields have to be of which type, as what is stored is read again.
        """
        try:
            value = msgspec.json.decode(self.body() or b"{}")
        except (ValueError, RecursionError) as error:
            raise _unreadable("The request content is not valid JSON.") from error
        if not isinstance(value, dict):
            raise _unreadable("The request content is not a JSON object.")
        level: list[Any] = [value]
        for _ in range(_DEEPEST):
            insides = (each.values() if isinstance(each, dict) else each for each in level)
            level = [each for inside in insides for each in inside if isinstance(each, dict | list)]
            if not level:
                break
        else:
            raise _unreadable(f"The request content is nested deeper than {_DEEPEST} levels.")
        try:
            msgspec.convert(value, shape)
        except msgspec.ValidationError as error:
            raise _unreadable(f"The request content is not as it has to be: {error}.") from error
        return value

    def __getitem__(self, name: str) -> str:
        """Return a part of the path, or an empty text."""
        return self.params.get(name, "")


@dataclass(frozen=True)
class Reply:
    """One answer: a JSON value, bytes, or a stream of bytes with its length in the headers.

    - **close**: there where a stream is made while it is read, and its length is not known. It ends that; it may be
      called by any thread, and has to be called where the stream is not read to its end.
    """

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json; charset=utf-8"
    stream: Iterator[bytes] | None = None
    close: Callable[[], object] | None = None


def _unreadable(message: str) -> WireError:
    return WireError(400, "InvalidRequestContent", message)


def section(body: Json, name: str) -> Json:
    """Return an object inside a body without its nulls; empty where it is absent, an error where it is no object."""
    value = body.get(name)
    if not isinstance(value, dict | None):
        raise _unreadable(f"The property '{name}' must be a JSON object.")
    return {key: item for key, item in (value or {}).items() if item is not None}


def whole_number(value: Any, name: str) -> int:
    """Return a number of 32 bits, as Azure's are, that a caller sent as such or as text."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = 2**31
    if not -(2**31) <= number < 2**31:
        raise _unreadable(f"{name} is not a whole number of 32 bits: {str(value)[:50]!r}")
    return number


_DURATION = re.compile(r"P(?:(\d{1,5})D)?(?:T(?=\d)(?:(\d{1,7})H)?(?:(\d{1,7})M)?(?:(\d{1,9}(?:\.\d+)?)S)?)?", re.ASCII)


def seconds(value: Any, name: str) -> float:
    """Return the seconds of an ISO 8601 duration, such as ``PT1M30S``."""
    found = _DURATION.fullmatch(str(value)[:50])
    if not found or not any(found.groups()):
        raise invalid(f"{name} is not a duration such as PT1M30S: {str(value)[:50]!r}")
    return sum(float(part or 0) * length for part, length in zip(found.groups(), (86400, 3600, 60, 1), strict=True))


def timestamp(seconds: float, zone: str = "+00:00") -> str:
    """Return a time as Azure writes it: up to seven digits of a second, without zeros at the end.

    As recorded by the SDK's and Azure PowerShell's own tests (azure-sdk-assets, 2023-02-12 to 2026-03-27). The seventh
    digit is made up: a number of seconds since 1970 has no more than six that are true.

    - **zone**: the workspace's own dates end in ``Z``.
    """
    whole, _, digits = f"{seconds:.7f}".partition(".")
    fraction = f".{digits}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(int(whole), UTC):%Y-%m-%dT%H:%M:%S}{fraction}{zone}"


def link(ground: Ground, call: Call, path: str) -> str:
    """Return where to look again after this request: with its own api-version, as recorded (2024-12-18 to 2026-03-27).

    Azure's addresses carry some kilobytes of signature as well.
    """
    return f"{ground.base_url}{quote(path)}?{urlencode({'api-version': call.query.get('api-version', '')})}"


def sendable(text: str) -> str:
    """Return a text as the value of a header may be: what is not printable ASCII is a question mark."""
    return re.sub(r"[^\x20-\x7e]", "?", text)


def check_name(kind: str, name: str) -> None:
    """Refuse a name that a resource cannot have; which names which kind may have at Azure is narrower."""
    if not re.fullmatch(r"\w[\w.-]{0,254}", name, re.ASCII):
        raise user_error(
            f"The {kind} name {name[:300]!r} is not valid: letters, digits, '_', '-' and '.', at most 255."
        )


def created(ground: Ground, call: Call, shown: Json) -> Reply:
    """Return the answer of a PUT that has made what is shown (recorded for data, models and jobs, 2026-03)."""
    return Reply(shown, 201, {"Location": link(ground, call, shown["id"])})


PAGE = 50
_G = TypeVar("_G", bound=Ground)


def resource(document: Document, collection: str, properties: Json | None, **more: Any) -> Json:
    """Return a workspace resource as Azure Resource Manager shows it."""
    return {
        "id": f"{WORKSPACE_ID}/{document.key}",
        "name": document.name,
        "type": f"Microsoft.MachineLearningServices/workspaces/{collection}",
        "properties": properties,
        **({} if collection == "computes" else {"systemData": origin(document, collection)}),
        **more,
    }


_ORIGIN = {
    "datastores": ("createdAt", "lastModifiedAt", "lastModifiedBy", "lastModifiedByType"),
    "jobs": ("createdAt", "createdBy", "createdByType"),
    "onlineEndpoints": ("createdAt", "createdBy", "lastModifiedAt"),
    "onlineEndpoints/deployments": ("createdAt", "createdBy", "lastModifiedAt"),
}


def origin(document: Document, collection: str) -> Json:
    """Return who made a document and when, with the fields that its kind has.

    As recorded by the SDK's and Azure PowerShell's own tests (azure-sdk-assets, azure-powershell): datastores, data,
    models, code, jobs and the workspace in 2025-11 to 2026-03, endpoints and deployments 2025-02-25, clusters, which
    have none, 2024-12-18. Data tells who changed it last once it has been changed.
    """
    zone = "Z" if collection == "workspaces" else "+00:00"
    told = {
        "createdAt": timestamp(document.created, zone),
        "createdBy": "local user",
        "createdByType": "User",
        "lastModifiedAt": timestamp(document.modified, zone),
        "lastModifiedBy": "local user",
        "lastModifiedByType": "User",
    }
    fields = _ORIGIN.get(collection, tuple(told))
    if collection == "data/versions" and document.modified == document.created:
        fields = ("createdAt", "createdBy", "createdByType", "lastModifiedAt")
    return {name: told[name] for name in fields}


def existing(ground: Ground, key: str, missing: WireError | str) -> Document:
    """Return a document; raises the given error, or the one for a resource of this kind, where it is not there."""
    document = ground.documents.get(key)
    if document is None:
        raise missing if isinstance(missing, WireError) else not_found(missing, key.rpartition("/")[2])
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
        each = ((document, _shown(ground, document, show, wanted)) for document in found)
        shown = list(islice(((document, body) for document, body in each if body is not None), size + 1))
    except UnknownPosition as error:
        raise user_error("The continuation token is not valid.") from error
    body: Json = {"value": [body for _, body in shown[:size]]}
    if len(shown) > size:
        query = {key: value for key, value in call.query.items() if key.lower() not in ("$skip", "$skiptoken")}
        query["$skipToken"] = shown[size - 1][0].position
        body["nextLink"] = f"{ground.base_url}{quote(call.path)}?{urlencode(query, safe='$')}"
    return Reply(body)


def _shown(
    ground: _G, document: Document, show: Callable[[_G, Document], Json], wanted: Callable[[Document], bool]
) -> Json | None:
    """Return a document as a list shows it; None where it is not wanted, or is not what it has to be.

    An earlier version has stored what was sent as it was; what is wrong with one shall not hide the others.
    """
    try:
        return show(ground, document) if wanted(document) else None
    except (AttributeError, KeyError, TypeError, ValueError, WireError):
        logger.exception("%s cannot be shown, and is left out of a list", document.key)
        return None


def view(call: Call) -> tuple[bool, ...]:
    """Return which of what is archived and what is not the caller asks for; what is not, unless told otherwise."""
    asked = call.query.get("listViewType", "ActiveOnly")
    return {"ActiveOnly": (False,), "ArchivedOnly": (True,)}.get(asked, (False, True))


_CODES = {  # what Resource Manager, storage (its "Common REST API error codes") and MLflow call a status
    400: ("BadRequest", "BadRequest", "INVALID_PARAMETER_VALUE"),
    401: ("ExpiredAuthenticationToken", "InvalidAuthenticationInfo", "UNAUTHENTICATED"),
    403: ("AuthorizationFailed", "AuthenticationFailed", "PERMISSION_DENIED"),
    404: ("ResourceNotFound", "BlobNotFound", "RESOURCE_DOES_NOT_EXIST"),
    409: ("Conflict", "Conflict", "RESOURCE_CONFLICT"),
    412: ("PreconditionFailed", "ConditionNotMet", "INTERNAL_ERROR"),
    429: ("TooManyRequests", "TooManyRequests", "REQUEST_LIMIT_EXCEEDED"),
    500: ("InternalServerError", "InternalError", "INTERNAL_ERROR"),
    501: ("InternalServerError", "InternalServerError", "NOT_IMPLEMENTED"),
    502: ("BadGateway", "BadGateway", "INTERNAL_ERROR"),
    503: ("ServiceUnavailable", "ServerBusy", "TEMPORARILY_UNAVAILABLE"),
    504: ("GatewayTimeout", "GatewayTimeout", "INTERNAL_ERROR"),
}
_OTHER_CODES = ("InternalServerError", "InternalServerError", "INTERNAL_ERROR")
# What Resource Manager says before it asks Azure ML; it tells so in a header.
_GATEWAY = re.compile(
    "Authentication|Authorization|ApiVersionParameter|ResourceGroup|Subscription|DisallowedByPolicy|ScopeLocked|Provider"
)
_SERVICES = {"/history/": "run-history", "/data/": "dataset", "/modelregistry/": "modelregistry"}
_SERVICES |= {"/registrymanagement/": "feedmanagement", "/mlflow/": "run-history", "/artifact/": "artifact"}
_EXPIRED = "The access token expiry UTC time is earlier than current UTC time."


def of_fault(fault: Fault, *, storage: bool = False) -> WireError:
    """Return the answer for a request, an operation or a step that fails because that has been ordered.

    - **storage**: in the words of Azure Storage and not Resource Manager's.
    """
    of_manager, of_storage, _ = _CODES.get(fault.status, _OTHER_CODES)
    code = fault.code or (of_storage if storage else of_manager)
    message = fault.message or (_EXPIRED if code == "ExpiredAuthenticationToken" else "This failure was ordered.")
    return WireError(fault.status, code, message, fault.headers, more=fault.error)


def is_storage(path: str) -> bool:
    """Whether Azure Storage answers at this path."""
    return path.startswith(("/storage.blob.", "/registry-models"))  # the registry's models have their own container


def error_reply(error: WireError, path: str) -> Reply:
    """Return the answer for an error as the service that has this path writes it.

    - Resource Manager itself has a code and a message; Azure ML behind it adds who it was, when, and the code inside
      (error output of Azure's own clients in public threads of 2022-04-11, 2022-11-23 and 2023-03-16).
    - The services beside Resource Manager (run history, data, model registry) have one form of their own (the SDK's
      generated ``RunHistoryErrorResponse``, azure-ai-ml 1.35.2; recommenders issue 1876, 2023-02-01).
    - MLflow's client reads ``error_code`` and ``message`` (``RestException``, mlflow 3.15).
    - Storage writes XML, and the code in a header as well, as an answer to HEAD has no body (Microsoft Learn, "Status
      and error codes", read 2026-11).
    - Endpoints answer in plain text.
    """
    if path.startswith("/inference/"):
        return Reply(error.message.encode(), error.status, error.headers, "text/plain; charset=utf-8")
    if is_storage(path):
        message = escape(f"{error.message}\nTime:{timestamp(time.time(), 'Z')}")
        text = f"<Error><Code>{error.code}</Code><Message>{message}</Message></Error>"
        content = None if error.status == 304 else f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode()
        return Reply(content, error.status, {"x-ms-error-code": error.code, **error.headers}, "application/xml")
    headers = {"x-ms-response-type": "error", **error.headers}
    told: Json = {"code": error.code, "message": error.message}
    component = next((component for prefix, component in _SERVICES.items() if path.startswith(prefix)), "")
    if not component and _GATEWAY.search(error.code):
        return Reply({"error": {**told, **error.more}}, error.status, {"x-ms-failure-cause": "gateway", **headers})
    inner = error.inner or ("NotFoundError" if component and error.status == 404 else "")
    inside = error.more.get("innerError") or ({"code": inner, "innerError": None} if inner else None)
    details, added = (list(error.more.get(name, ())) for name in ("details", "additionalInfo"))
    correlation = {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]}
    where: Json = {"correlation": correlation, "environment": LOCATION, "location": LOCATION}
    where["time"] = timestamp(time.time())
    where["componentName"] = component or "managementfrontend"
    if not component:
        info = {name[0].upper() + name[1:]: where[name] for name in sorted(where)}
        info |= {"InnerError": inside} if inside else {}
        added += [{"type": kind, "info": {"value": value}} for kind, value in info.items()]
        return Reply({"error": {**told, "details": details, "additionalInfo": added}}, error.status, headers)
    nothing = ("severity", "messageFormat", "messageParameters", "referenceCode", "detailsUri", "target", "debugInfo")
    told |= {**dict.fromkeys(nothing), **error.more, "details": details, "innerError": inside}
    body = {"error": {**told, "additionalInfo": added or None}, **where}
    if path.startswith(("/history/", "/registrymanagement/")):
        body["statusCode"] = error.status
    if path.startswith("/mlflow/"):
        code = error.code if error.code.isupper() else _CODES.get(error.status, _OTHER_CODES)[2]
        body |= {"error_code": code, "message": error.message}
    return Reply(body, error.status, headers)
