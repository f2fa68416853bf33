"""What the parts of `phift.testing.fake` share: the service's errors, pollers, states, and what has been called."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, NoReturn

from azure.ai.ml.entities._system_data import SystemData
from azure.core import exceptions as core
from azure.core.polling import LROPoller, PollingMethod

try:
    # Newer SDKs give states as members of enumerations, whose text is "JobStatus.COMPLETED"; older ones give text.
    from azure.ai.ml._restclient.arm_ml_service import models as states
except ImportError:
    states = None
JobStatus: Any = states.JobStatus if states else str
EndpointProvisioningState: Any = states.EndpointProvisioningState if states else str
DeploymentProvisioningState: Any = states.DeploymentProvisioningState if states else str

_KINDS = {
    401: core.ClientAuthenticationError,
    404: core.ResourceNotFoundError,
    409: core.ResourceExistsError,
    412: core.ResourceModifiedError,
}
_REASONS = {401: "Unauthorized", 403: "AuthorizationFailed", 409: "Conflict", 429: "TooManyRequests"}


def service_error(status: int, message: str = "This failure was ordered.", code: str = "") -> core.HttpResponseError:
    """Return the exception that the SDK raises when the service answers with an error status.

    - **code**: Azure's word for the kind of error; by default ``UserError`` below 500, ``InternalServerError`` above.
    """
    code = code or _REASONS.get(status, "UserError" if status < 500 else "InternalServerError")
    error = _KINDS.get(status, core.HttpResponseError)(message=f"({code}) {message}")
    error.status_code, error.reason = status, code
    error.error = core.ODataV4Format({"code": code, "message": message})
    return error


def state(kind: Any, text: str) -> Any:
    """Return a state as the SDK gives it: a member of its enumeration, or the text where that does not know it."""
    try:
        return kind(text)
    except ValueError:
        return text


def not_found(kind: str, name: str) -> core.HttpResponseError:
    """Return the error for something that is not there."""
    return service_error(404, f"The {kind} '{name}' was not found.", "ResourceNotFound")


class Record:
    """Every call in order, and the errors that have been ordered.

    - **calls**: ``("jobs.get", "my-job")`` and so on.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._errors: dict[str, list[BaseException]] = {}

    def fail(self, operation: str, *errors: BaseException) -> None:
        """Let the next calls of an operation raise these errors, one each.

        - **operation**: ``jobs.get`` fails before anything is done; ``online_deployments.result`` fails in the
          poller, when the thing has been made as far as it goes.
        """
        self._errors.setdefault(operation, []).extend(errors)

    def count(self, operation: str) -> int:
        """Return how often an operation has been called."""
        return sum(call[0] == operation for call in self.calls)

    def ordered(self, operation: str) -> BaseException | None:
        """Take the error that has been ordered for an operation, if there is one."""
        waiting = self._errors.get(operation)
        return waiting.pop(0) if waiting else None

    def __call__(self, operation: str, *names: str) -> None:
        """Note a call, and raise what has been ordered for it."""
        self.calls.append((operation, *names))
        if error := self.ordered(operation):
            raise error


class _Ended(PollingMethod[Any]):
    """A long-running operation that has ended."""

    def __init__(self, outcome: Any, error: BaseException | None) -> None:
        self._outcome, self._error = outcome, error

    def initialize(self, client: Any, initial_response: Any, deserialization_callback: Any) -> None:
        """Do nothing: there is no service to ask."""

    def run(self) -> None:
        """Fail where the operation has failed, for ``wait``."""
        if isinstance(self._error, Exception):
            raise self._error

    def status(self) -> str:
        """Return how the operation ended."""
        return "Failed" if self._error else "Succeeded"

    def finished(self) -> bool:
        """Tell whether there is nothing to wait for; the SDK asks `run` only where there is."""
        return not isinstance(self._error, Exception)

    def resource(self) -> Any:
        """Return what the operation made."""
        if self._error:  # an interruption; everything else has been raised by ``wait``
            raise self._error
        return self._outcome


def poller(outcome: Any = None, error: BaseException | None = None) -> LROPoller[Any]:
    """Return the SDK's poller of an operation that has ended with an outcome or an error."""
    return LROPoller(None, None, lambda response: response, _Ended(outcome, error))


def not_covered(operations: type, place: str, name: str) -> Callable[..., NoReturn]:
    """Return what stands for an operation that the SDK has and the fake has not: calling it raises by its name.

    - **operations**: the SDK's class; a name that this does not have either is an ``AttributeError``, as there.
    """
    if name.startswith("_") or not hasattr(operations, name):
        raise AttributeError(f"{operations.__name__} has no attribute {name!r}")

    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        raise NotImplementedError(f"FakeMLClient does not cover {place}.{name}.")

    return refuse


def made_now() -> SystemData:
    """Return who made something and when, as the SDK shows it."""
    now = datetime.datetime.now(datetime.UTC)
    return SystemData(created_at=now, created_by="FakeMLClient", created_by_type="User", last_modified_at=now)


def in_view(view: Any) -> tuple[bool, ...]:
    """Return which of archived (True) and active (False) things a list shows.

    - **view**: the SDK's ``ListViewType``, or its text.
    """
    text = str(getattr(view, "value", view))
    return {"ActiveOnly": (False,), "ArchivedOnly": (True,)}.get(text, (False, True))
