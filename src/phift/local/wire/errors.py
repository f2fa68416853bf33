"""An answer that is an error."""

from __future__ import annotations

from collections.abc import Mapping

from phift.local.names import WORKSPACE
from phift.local.state.faults import Fault

# What Azure Resource Manager calls them.
_CODES = {
    400: "BadRequest",
    401: "ExpiredAuthenticationToken",
    403: "AuthorizationFailed",
    404: "ResourceNotFound",
    409: "Conflict",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalServerError",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}
_STORAGE_CODES = {**_CODES, 401: "InvalidAuthenticationInfo", 403: "AuthenticationFailed"}
_STORAGE_CODES |= {404: "BlobNotFound", 412: "ConditionNotMet", 500: "InternalError", 503: "ServerBusy"}
_EXPIRED = "The access token expiry UTC time is earlier than current UTC time."


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


def not_found(kind: str, name: str) -> WireError:
    """Return the error for a resource that is not there."""
    return WireError(404, "ResourceNotFound", f"The {kind} '{name}' was not found in workspace '{WORKSPACE}'.")


def user_error(message: str) -> WireError:
    """Return the error for a request that cannot be granted as it is."""
    return WireError(400, "UserError", message)


def of_fault(fault: Fault, *, storage: bool = False) -> WireError:
    """Return the answer for a request, an operation or a step that fails because that has been ordered.

    - **storage**: in the words of Azure Storage (its "Common REST API error codes") and not Resource Manager's.
    """
    code = fault.code or (_STORAGE_CODES if storage else _CODES).get(fault.status, "InternalServerError")
    message = fault.message or (_EXPIRED if code == "ExpiredAuthenticationToken" else "This failure was ordered.")
    return WireError(fault.status, code, message, fault.headers)
