"""An error as each of Azure's services writes it: Resource Manager, run history, MLflow, storage, endpoints.

- Resource Manager itself has a code and a message; Azure ML behind it adds who it was, when, and the code inside
  (error output of Azure's own clients in public threads of 2022-04-11, 2022-11-23 and 2023-03-16).
- The services beside Resource Manager (run history, data, model registry) have one form of their own (the SDK's
  generated ``RunHistoryErrorResponse``, azure-ai-ml 1.35.2; recommenders issue 1876, 2023-02-01).
- MLflow's client reads ``error_code`` and ``message`` (``RestException``, mlflow 3.15).
- Storage writes XML, and the code in a header as well, as an answer to HEAD has no body (Microsoft Learn, "Status and
  error codes", read 2026-11).
- Endpoints answer in plain text.
"""

from __future__ import annotations

import re
import time
import uuid
from xml.sax.saxutils import escape

from phift.local.names import LOCATION
from phift.local.state.documents import Json
from phift.local.state.faults import Fault
from phift.local.wire.call import Reply, WireError, timestamp

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
_GATEWAY = re.compile("Authentication|ApiVersionParameter|ResourceGroupNotFound|SubscriptionNotFound")
_SERVICES = {"/history/": "run-history", "/data/": "dataset", "/modelregistry/": "modelregistry"}
_SERVICES |= {"/registrymanagement/": "registry", "/mlflow/": "run-history"}
_EXPIRED = "The access token expiry UTC time is earlier than current UTC time."


def of_fault(fault: Fault, *, storage: bool = False) -> WireError:
    """Return the answer for a request, an operation or a step that fails because that has been ordered.

    - **storage**: in the words of Azure Storage and not Resource Manager's.
    """
    of_manager, of_storage, _ = _CODES.get(fault.status, _OTHER_CODES)
    code = fault.code or (of_storage if storage else of_manager)
    message = fault.message or (_EXPIRED if code == "ExpiredAuthenticationToken" else "This failure was ordered.")
    return WireError(fault.status, code, message, fault.headers)


def is_storage(path: str) -> bool:
    """Whether Azure Storage answers at this path."""
    return path.startswith(("/storage.blob.", "/registry-models"))  # the registry's models have their own container


def reply(error: WireError, path: str) -> Reply:
    """Return the answer for an error of the service that has this path."""
    now = timestamp(time.time())
    if path.startswith("/inference/"):
        return Reply(error.message.encode(), error.status, error.headers, "text/plain; charset=utf-8")
    if is_storage(path):
        message = escape(f"{error.message}\nTime:{now.replace('+00:00', 'Z')}")
        text = f"<Error><Code>{error.code}</Code><Message>{message}</Message></Error>"
        content = None if error.status == 304 else f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode()
        return Reply(content, error.status, {"x-ms-error-code": error.code, **error.headers}, "application/xml")
    headers = {"x-ms-response-type": "error", **error.headers}
    told: Json = {"code": error.code, "message": error.message}
    component = next((component for prefix, component in _SERVICES.items() if path.startswith(prefix)), "")
    if not component and _GATEWAY.search(error.code):
        return Reply({"error": told}, error.status, {"x-ms-failure-cause": "gateway", **headers})
    inner = error.inner or ("NotFoundError" if error.status == 404 else "")
    inside = {"code": inner, "innerError": None} if inner else None
    correlation = {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]}
    where: Json = {"correlation": correlation, "environment": LOCATION, "location": LOCATION, "time": now}
    where["componentName"] = component or "managementfrontend"
    if not component:
        info = {name[0].upper() + name[1:]: where[name] for name in sorted(where)}
        info |= {"InnerError": inside} if inside else {}
        more = [{"type": kind, "info": {"value": value}} for kind, value in info.items()]
        return Reply({"error": {**told, "details": [], "additionalInfo": more}}, error.status, headers)
    nothing = ("severity", "messageFormat", "messageParameters", "referenceCode", "detailsUri", "target", "debugInfo")
    told |= {**dict.fromkeys(nothing), "details": [], "innerError": inside, "additionalInfo": None}
    body = {"error": told, **where}
    if path.startswith("/mlflow/"):
        code = error.code if error.code.isupper() else _CODES.get(error.status, _OTHER_CODES)[2]
        body |= {"error_code": code, "message": error.message}
    return Reply(body, error.status, headers)
