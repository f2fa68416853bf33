"""Every error phift raises, in one tree.

Each error is also the built-in type a caller would expect, pickles, and says what happened, where, and the way out::

    PhiftError
    ├── ConfigError (ValueError)                 the configuration is wrong; lists every mistake
    ├── CheckFailed (ValueError)                 submit() while the report has errors; carries the report
    ├── DataError (ValueError)                   rows that the component would drop or die on; lists them
    ├── ParameterError (ValueError)              a fine-tuning parameter the component does not take
    ├── ComputeError (ValueError)                a SKU, cluster or GPU count that cannot work
    ├── ModelError (ValueError)                  a foundation model that cannot be fine-tuned this way
    ├── MissingDependency (ImportError)          an optional part is not installed
    ├── NotFound (LookupError)                   the service knows no such thing
    │   └── DataNotFound (FileNotFoundError)     a data file or data set that is not there
    ├── AuthenticationError (PermissionError)    no credential worked
    ├── AccessDenied (PermissionError)           the credential works but may not do this
    ├── JobError (RuntimeError)
    │   ├── JobFailed                            a job ended in failure; names the step, shows its log's tail
    │   └── JobCanceled                          a job was cancelled
    ├── DeploymentFailed (RuntimeError)          what was made is rolled back; shows the container's log tail
    ├── ScoringError (RuntimeError)              an endpoint answered, but not with text
    ├── NotImproved (AssertionError)             a comparison does not show what was asserted of it
    ├── WaitTimeout (TimeoutError)               a wait ended before the thing waited for did
    ├── ServiceError (RuntimeError)              Azure, or the SDK, answered with an error
    │   ├── Conflict                             409 or 412: the thing exists or has changed
    │   ├── Throttled                            429
    │   └── ServiceUnreachable (ConnectionError) no answer at all
    ├── ForbiddenConnection (RuntimeError)       a connection beyond this machine, while those are forbidden
    └── LocalWorkspaceError (RuntimeError)
        └── LocalWorkspaceNotRunning (ConnectionError)

``azure_errors`` maps what azure-core, azure-identity, azure-storage and azure-ai-ml raise into this tree; ``isolated``
keeps from the work what goes wrong in a handler of events.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from phift.errors import netrc, reasons
from phift.errors.redaction import redact as redact
from phift.errors.visible import visible as visible
from phift.errors.visible import visible_columns as visible_columns
from phift.errors.visible import visible_html as visible_html
from phift.errors.visible import visible_table as visible_table

logger = logging.getLogger("phift.events")

Event = TypeVar("Event", contravariant=True)


class PhiftError(Exception):
    """What happened, where, and the way out.

    - **what**: one sentence.
    - **where**: the place: a file and line, a configuration key, a resource.
    - **fix**: what the user can do.
    - **status**, **code**: the service's own, where it was one that refused.

    Secrets are hidden in all of it, and its text has no control characters: what a service said may be part of it.
    """

    status: int | None = None
    code: str | None = None

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None, **details: Any) -> None:
        self.what = redact(what)
        self.where = redact(where) if where else where
        self.fix = redact(fix) if fix else fix
        super().__init__(self.what)
        self.__dict__.update({name: _redacted(value) for name, value in details.items()})

    def __str__(self) -> str:
        lines = [visible(self.what)]
        if self.where:
            lines.append(f"  where: {visible(self.where, lines=False)}")
        if self.fix:
            lines.append(f"  fix:   {visible(self.fix)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.what!r}, where={self.where!r}, fix={self.fix!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self.__dict__), ()


def _redacted(detail: Any) -> Any:
    if isinstance(detail, tuple):
        return tuple(map(_redacted, detail))
    return redact(detail) if isinstance(detail, str) else detail


def in_a_line(text: object) -> str:
    """Return a text of somebody else for a line of our own, such as one in a log: no secrets, no control characters."""
    return visible(redact(str(text)), lines=False)


class ConfigError(PhiftError, ValueError):
    """The configuration is wrong; ``mistakes`` lists every ``(place, message)``."""

    mistakes: tuple[tuple[str, str], ...] = ()


class CheckFailed(PhiftError, ValueError):
    """The check found errors, so nothing was submitted; ``report`` has them all."""

    report: Any = None


class DataError(PhiftError, ValueError):
    """Rows of the data set are not what the component takes.

    - **problems**: a ``(place, reason)`` for the first of them.
    - **refused**: how many there are; a file whose rows nearly all fail for one reason counts as one.
    """

    problems: tuple[tuple[str, str], ...] = ()
    refused: int = 0

    def __str__(self) -> str:
        others = [f"  also:  {in_a_line(f'{place}: {reason}')}" for place, reason in self.problems[1:]]
        if others and self.refused > len(self.problems):
            others.append(f"  and {self.refused - len(self.problems)} more")
        return "\n".join([super().__str__(), *others])


class ParameterError(PhiftError, ValueError):
    """A fine-tuning parameter that the component does not take, or not with this value."""


class ComputeError(PhiftError, ValueError):
    """A SKU, cluster or GPU count that cannot work for this model."""


class ModelError(PhiftError, ValueError):
    """A foundation model that cannot be fine-tuned or deployed this way."""


class MissingDependency(PhiftError, ImportError):
    """An optional part of phift is not installed."""


class NotFound(PhiftError, LookupError):
    """The service knows no such thing."""


class DataNotFound(NotFound, FileNotFoundError):
    """A data file, or a data set, that is not there."""


class AuthenticationError(PhiftError, PermissionError):
    """No credential worked; ``tried`` has the line of each one that was tried, with why it failed."""

    tried: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  tried: {in_a_line(line)}" for line in self.tried)])


class AccessDenied(PhiftError, PermissionError):
    """The credential is good but may not do this."""


class JobError(PhiftError, RuntimeError):
    """A job ended without a model; ``job`` is its name."""

    job: str | None = None


class JobFailed(JobError):
    """A job failed; ``step`` names the child that did, ``log_tail`` is the end of its log.

    ``cause`` says why, where that is known: one of `phift.jobs.ends.CauseKind`.
    """

    step: str | None = None
    log_tail: str = ""
    cause: str = "unknown"


class JobCanceled(JobError):
    """A job was cancelled."""


class DeploymentFailed(PhiftError, RuntimeError):
    """A deployment did not come up; ``log_tail`` is the end of the container's log."""

    log_tail: str = ""


class ScoringError(PhiftError, RuntimeError):
    """An endpoint answered, but not with text; ``status`` is its HTTP status."""


class NotImproved(PhiftError, AssertionError):
    """A model is not better than another, as was asserted; ``comparison`` has the scores and the answers."""

    comparison: Any = None


class WaitTimeout(PhiftError, TimeoutError):
    """A wait ended before the thing waited for did; nothing was cancelled."""


class ServiceError(PhiftError, RuntimeError):
    """Azure, or its SDK, answered with an error."""


class Conflict(ServiceError):
    """The thing exists already or has changed meanwhile."""


class Throttled(ServiceError):
    """The service asks to slow down, and went on asking."""


class ServiceUnreachable(ServiceError, ConnectionError):
    """The service gave no answer at all."""


class ForbiddenConnection(PhiftError, RuntimeError):
    """Something asked for a host beyond this machine, inside `phift.testing.forbid_azure`; ``host`` names it.

    It is no ``OSError``: HTTP clients would try again, and call it a network failure in the end.
    """

    host: str = ""


class LocalWorkspaceError(PhiftError, RuntimeError):
    """The local workspace cannot do this."""


class LocalWorkspaceNotRunning(LocalWorkspaceError, ConnectionError):
    """No local workspace is running in this folder."""


@contextmanager
def forgetting_locals() -> Iterator[None]:
    """Let go of what the calls inside of the block, or the decorated one, held, should one be raised through them.

    Libraries have tokens and keys among their local variables, in the headers of a request, we have what the service
    answered, and some tools show those with a traceback.
    """
    try:
        yield
    except BaseException as error:
        for each in _and_before(error):
            traceback.clear_frames(each.__traceback__)
        raise


def _and_before(error: BaseException) -> list[BaseException]:
    """Return an error and all that it was raised from, or while."""
    found = [error]
    for each in found:  # it grows
        found += [other for other in (each.__cause__, each.__context__) if other and other not in found]
    return found


calling_azure: ContextVar[bool] = ContextVar("phift.errors.calling_azure", default=False)
"""Whether this is inside of a call to the Azure SDK that phift makes."""


@contextmanager
def azure_errors(where: str) -> Iterator[None]:
    """Turn whatever an Azure SDK call raises into an error of this tree.

    Wrap SDK calls only: a plain ``AttributeError`` raised inside is taken for a defect of the SDK and becomes a
    ``ServiceError`` too, with the original as its cause.

    An original that quotes a secret is left out, since a traceback shows its text.

    - **where**: the resource the call is about, for the message.
    """
    handled = sys.exception()
    outside = calling_azure.get()
    calling_azure.set(True)
    try:
        with forgetting_locals():
            yield
    except PhiftError:
        raise
    except Exception as error:
        ours = from_azure(error, where, handled)
        if any(text != redact(text) for text in map(reasons.text_of, _and_before(error))):
            raise ours from None
        raise ours from error
    finally:
        calling_azure.set(outside)  # not by a token: a generator may be closed in another thread


def from_azure(error: Exception, where: str, handled: BaseException | None = None) -> PhiftError:
    """Return the error of this tree that stands for ``error``; `phift.errors.reasons` knows what a service means.

    - **handled**: what was being handled when the call began, and so is no cause of it.
    """
    here = _address_here(error) if isinstance(error, reasons.unanswered()) else None
    if here is not None:
        what = f"The local workspace at {here} does not answer: {reasons.words(error)}"
        fix = "start it: phift local up; where it runs and hangs, phift local down comes first"
        return ServiceUnreachable(what, where=where, fix=fix)
    reason, code, told = reasons.find(error, handled)
    status = reasons.status_of(told) or reasons.status_of(error)
    if status in (400, 401, 403) and (instead := netrc.sent_instead(reasons.causes(error, handled))):
        file, host = instead
        what = f"{host} was sent the name and the password that {file} has for it, and not your own credential."
        fix = f"take its entry, or the default one, out of {file}; or have NETRC name an empty file: NETRC={os.devnull}"
        return AuthenticationError(what, where=where, fix=fix, status=status, code=code or None)
    kind, opening, fix = _by_status(status) if status else _by_kind(error)
    if reason is not None:
        kind, opening, fix = globals()[reason.type] if reason.type else kind, reason.what, reason.fix
    words = reasons.words(told)
    outermost = next((own for own, _ in reasons.parts(told) if own), "" if status else type(error).__name__)
    outermost = redact(outermost)[:400]
    details: dict[str, Any] = {"status": status or None, "code": code or outermost or None}
    if kind is AuthenticationError:
        details["tried"] = tuple(_tried(told))
    return kind(f"{opening}: {words}" if opening else words, where=where, fix=fix or None, **details)


def way_out(said: str) -> str | None:
    """Return what can be done about what a service said of its own work, in a run's error, if the table knows it."""
    of_service = (
        reason for reason in reasons.table() if reason.type not in ("ServiceUnreachable", "AuthenticationError")
    )
    return next((reason.fix for reason in of_service if reason.code_in(said) is not None), None)


def _by_status(status: int) -> tuple[type[PhiftError], str, str]:
    """Return our error for an HTTP status whose reason is not known, how its text begins, and the way out."""
    match status:
        case 401:
            fix = "run `az login`, set AZURE_CLIENT_ID and its companions, or set `credential: browser | device_code`"
            return AuthenticationError, "No credential worked", fix
        case 403:
            fix = (
                "if it is a role: 'AzureML Data Scientist' on the workspace, 'Storage Blob Data Contributor' on its "
                "storage; else ask who looks after the subscription"
            )
            return AccessDenied, "Access denied", fix
        case 404:
            return NotFound, "", "check the name, the resource group and the workspace"
        case 409 | 412:
            return Conflict, "", ""
        case 429:
            return Throttled, "", "wait a minute and run again"
    return ServiceError, "", ""


def _by_kind(error: Exception) -> tuple[type[PhiftError], str, str]:
    """Return our error for what came without an HTTP status, how its text begins, and the way out."""
    from azure.core import exceptions as core

    if isinstance(error, reasons.unanswered()):
        fix = "check the network, the proxy, and that the address is right; then run again"
        return ServiceUnreachable, "No answer from the service", fix
    if isinstance(error, FileNotFoundError):
        return DataNotFound, "", "check the path"
    if not isinstance(error, core.AzureError):
        return ServiceError, f"The Azure SDK raised {type(error).__name__}", ""
    # The SDK reads an output of its own nodes in a way that it forbids while anybody's pipeline function runs
    # (azure-ai-ml 1.35.2, _io/mixin.py and _pipeline_expression.py).
    inside = "is not supported for operation bool()" in reasons.text_of(error)
    fix = "another thread is inside a function of the SDK's dsl.pipeline; run again when that is done"
    return ServiceError, "", fix if inside else ""


def _tried(error: BaseException) -> Iterator[str]:
    """Yield the lines of a failed sign-in behind its first one: each credential that was tried, and why it failed."""
    if getattr(error, "error", None) is not None:
        return  # a service's answer: azure-core repeats what its first line says
    lines = str(getattr(error, "message", "")).strip().splitlines()[1:]
    for line in map(str.strip, lines):
        if line and line != "Attempted credentials:":
            yield redact(line)[:400]


# As urllib3 2 writes a connection, and a pool of them.
_CONNECTION = re.compile(r"(HTTPS?)Connection(?:Pool)?\(host='([^']+)', port=(\d+)")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def _address_here(error: Exception) -> str | None:
    """Return the address on this machine at which nobody answered; None for another machine's.

    A proxy on this machine is not who was asked, and a certificate that is not trusted is an answer.
    """
    import ssl

    import requests
    import urllib3

    others = (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError, ssl.SSLCertVerificationError)
    causes = tuple(reasons.causes(error))
    if any(isinstance(cause, others) for cause in causes):
        return None
    for cause in causes:
        url, named = getattr(getattr(cause, "request", None), "url", None), _CONNECTION.search(reasons.text_of(cause))
        if isinstance(url, str):
            parts = urlsplit(url)
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.hostname in _THIS_MACHINE else None
        if named:
            return f"{named[1].lower()}://{named[2]}:{named[3]}" if named[2] in _THIS_MACHINE else None
    return None


def isolated(handler: Callable[[Event], object] | None) -> Callable[[Event], None]:
    """Return a handler that never raises an error: the first one of ``handler`` is logged, the others pass.

    An interruption, such as Ctrl-C while it prints, is none of its errors and goes through. None hears nothing.
    """
    failed = False

    def tell(event: Event) -> None:
        nonlocal failed
        try:
            if handler:
                handler(event)
        except Exception:
            if not failed:
                failed = True
                logger.exception("A handler of events failed, and the work goes on. Its later errors are not logged.")

    if stop := getattr(handler, "stop_drawing", None):
        tell.stop_drawing = stop  # type: ignore[attr-defined]  # one that draws is told when nothing more will come
    return tell
