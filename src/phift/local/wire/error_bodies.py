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

import time
import uuid
from xml.sax.saxutils import escape

from phift.local.names import LOCATION
from phift.local.state.documents import Json
from phift.local.wire.call import Reply, timestamp
from phift.local.wire.errors import WireError

_STORAGE = ("/storage.blob.", "/registry-models")  # the registry keeps its models in a container of its own
_SERVICES = {"/history/": "run-history", "/data/": "dataset", "/modelregistry/": "modelregistry"}
_SERVICES |= {"/registrymanagement/": "registry", "/mlflow/": "run-history"}
# What Resource Manager says before it asks Azure ML; it tells so in a header.
_GATEWAY = (
    "AuthenticationFailed",
    "ExpiredAuthenticationToken",
    "InvalidApiVersionParameter",
    "InvalidAuthenticationToken",
    "InvalidAuthenticationTokenAudience",
    "MissingApiVersionParameter",
    "ResourceGroupNotFound",
    "SubscriptionNotFound",
)
_MLFLOW_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
}


def is_storage(path: str) -> bool:
    """Whether Azure Storage answers at this path."""
    return path.startswith(_STORAGE)


def reply(error: WireError, path: str) -> Reply:
    """Return the answer for an error of the service that has this path."""
    if path.startswith("/inference/"):
        return Reply(error.message.encode(), error.status, error.headers, "text/plain; charset=utf-8")
    if is_storage(path):
        headers = {"x-ms-error-code": error.code, **error.headers}
        message = escape(f"{error.message}\nTime:{timestamp(time.time()).replace('+00:00', 'Z')}")
        text = f"<Error><Code>{error.code}</Code><Message>{message}</Message></Error>"
        content = None if error.status == 304 else f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode()
        return Reply(content, error.status, headers, "application/xml")
    headers = {"x-ms-response-type": "error", **error.headers}
    component = next((component for prefix, component in _SERVICES.items() if path.startswith(prefix)), "")
    if not component and error.code in _GATEWAY:
        headers = {"x-ms-failure-cause": "gateway", **headers}
    return Reply(_in_json(error, component, path), error.status, headers)


def _in_json(error: WireError, component: str, path: str) -> Json:
    """Return the body of a service beside Resource Manager, or of that itself, which names no component."""
    told: Json = {"code": error.code, "message": error.message}
    if not component and error.code in _GATEWAY:
        return {"error": told}
    inner = error.inner or ("NotFoundError" if error.status == 404 else "")
    inside = {"code": inner, "innerError": None} if inner else None
    correlation = {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]}
    where: Json = {"correlation": correlation, "environment": LOCATION, "location": LOCATION}
    where |= {"time": timestamp(time.time()), "componentName": component or "managementfrontend"}
    if not component:
        info = {name[0].upper() + name[1:]: where[name] for name in sorted(where)}
        info |= {"InnerError": inside} if inside else {}
        more = [{"type": kind, "info": {"value": value}} for kind, value in info.items()]
        return {"error": {**told, "details": [], "additionalInfo": more}}
    nothing = ("severity", "messageFormat", "messageParameters", "referenceCode", "detailsUri", "target", "debugInfo")
    told |= {**dict.fromkeys(nothing), "details": [], "innerError": inside, "additionalInfo": None}
    body = {"error": told, **where}
    if path.startswith("/mlflow/"):
        code = error.code if error.code.isupper() else _MLFLOW_CODES.get(error.status, "INTERNAL_ERROR")
        body |= {"error_code": code, "message": error.message}
    return body
