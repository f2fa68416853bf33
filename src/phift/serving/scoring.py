"""Calls to an endpoint's address: what opens it, connections that are kept, patience, and what a refusal means."""

from __future__ import annotations

import json
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from phift import errors
from phift.azure.answers import text
from phift.azure.bounds import end_lines, read_arriving
from phift.azure.clients import GOOD_FOR, Clients
from phift.azure.threads import taken_soon

if TYPE_CHECKING:
    import requests

OPENAI_ROUTE = "/v1/chat/completions"

DEPLOYMENT = "azureml-model-deployment"
"""The header that names a deployment, of a request that is for it alone, and of an answer."""

# What a scoring call's status means: the error, what it says, and the way out.
_REFUSED = (
    errors.AuthenticationError,
    "The endpoint refused the key.",
    "look at the endpoint's keys in the studio: phift reads one that was made anew by itself",
)
_REFUSALS: Mapping[int, tuple[type[errors.PhiftError], str, str]] = {
    401: _REFUSED,
    403: _REFUSED,
    404: (errors.NotFound, "No deployment takes traffic here.", "give a deployment traffic"),
    408: (
        errors.ScoringError,
        "The model took longer than the request time-out.",
        "lower max_new_tokens, or raise `deployment.request_timeout_ms` (at most 180000)",
    ),
    429: (
        errors.Throttled,
        "More requests at once than the deployment takes.",
        "ask slower, as chat_many does by itself, or raise `deployment.max_concurrent_requests`",
    ),
}
# What else it means where a token of Microsoft Entra ID opens the endpoint.
_TOKEN_REFUSALS: Mapping[int, tuple[type[errors.PhiftError], str, str]] = {
    401: (errors.AuthenticationError, "The endpoint refused the token.", "sign in again, to the workspace's tenant"),
    403: (
        errors.AccessDenied,
        "The endpoint knows the token, and its owner may not call it.",
        "have a role assigned with Microsoft.MachineLearningServices/workspaces/onlineEndpoints/score/action",
    ),
}
# Not 408: the container goes on with a request that timed out, so asking again doubles the load.
_BUSY = (429, 503)
# Seconds before each further try, whatever Retry-After says: half a minute in all, and not as long as an answer likes.
_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
_MOST_CONNECTING = 3  # of the further tries, where no connection comes about


@dataclass(frozen=True)
class _Key:
    """What opens an endpoint: a key, or a token that lasts until a time."""

    value: SecretStr
    until: float = math.inf

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request, as what requests takes for ``auth`` does."""
        request.headers["Authorization"] = f"Bearer {self.value.get_secret_value()}"
        return request


def _read_key(clients: Clients, name: str) -> _Key:
    with errors.azure_errors(f"endpoint {name}"):
        keys = clients.workspace.online_endpoints.get_keys(name)
    # None of them is ever the value of a variable, which some tools show with a traceback.
    if getattr(keys, "access_token", None) is not None:
        return _Key(SecretStr(text(keys.access_token, "keys.access_token")), float(keys.expiry_time_utc))
    return _Key(SecretStr(text(keys.primary_key, "keys.primary_key")))


class Sessions:
    """Sessions of requests, as many as there are calls at once, each with one connection that is kept for the next.

    requests does not say that threads may share one. A forked child has connections of its own.
    """

    def __init__(self) -> None:
        self._idle: list[requests.Session] = []
        self._process = os.getpid()
        weakref.finalize(self, _close, self._idle)

    def take(self) -> requests.Session:
        """Return a session that nobody else has, an idle one if there is one."""
        if os.getpid() != self._process:
            self.close()  # the child's copies of the parent's; that tells no other end anything
            self._process = os.getpid()  # last: a thread beside this one must not get one of them
        try:
            return self._idle.pop()
        except IndexError:
            return _new_session()

    def give_back(self, session: requests.Session) -> None:
        """Keep a session, all of whose answers have been read, for whoever asks next."""
        self._idle.append(session)

    def close(self) -> None:
        """Close the idle ones; those in use are closed by who has them, or given back."""
        _close(self._idle)


def _close(sessions: list[requests.Session]) -> None:
    while sessions:
        sessions.pop().close()


def _drop(response: requests.Response, session: requests.Session) -> None:
    """Close a connection on which the rest of an answer may be on its way."""
    response.close()
    session.close()


def _new_session() -> requests.Session:
    import requests

    session = requests.Session()
    end_lines(session)
    return session


@dataclass(frozen=True)
class TimeLimit:
    """How long a call may take, all of it.

    - **seconds**: None for no limit but that of each request.
    - **end**: when they are over, by the monotonic clock.
    """

    seconds: float | None
    end: float

    @classmethod
    def of(cls, seconds: float | None) -> Self:
        """Begin now; raises `phift.errors.ParameterError` where there is no time at all."""
        if seconds is not None and not seconds > 0:
            raise errors.ParameterError("There is no time to wait.", where="timeout", fix="give seconds above 0")
        return cls(seconds, math.inf if seconds is None else time.monotonic() + seconds)


class Answer:
    """An answer whose head has come; a context manager, at whose end the connection is kept if all of it was read.

    - **status**, **reason**, **headers**: as the service sent them.
    - **end**: when no more of it is waited for, by the monotonic clock; then ``late`` is raised.
    """

    def __init__(
        self,
        response: requests.Response,
        session: requests.Session,
        sessions: Sessions,
        end: float,
        late: errors.PhiftError,
    ) -> None:
        self.status, self.reason, self.headers = response.status_code, response.reason or "", response.headers
        self._response, self._session, self._sessions = response, session, sessions
        self._end, self._late = end, late
        self._read = False
        self._letting_go = weakref.finalize(self, _drop, response, session)

    @property
    def deployment(self) -> str | None:
        """Which deployment answered; None where the service does not say."""
        named = self.headers.get(DEPLOYMENT)
        return errors.in_a_line(named) if named else None

    @property
    def lacks_route(self) -> bool:
        """Whether the model's server has no such route: a container's own status comes with 424, in a header."""
        inner = self.headers.get("ms-azureml-model-error-statuscode")
        return self.status == 424 and inner in ("404", "405")

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes; raises `phift.errors.ServiceUnreachable` where it breaks off."""
        import requests

        try:
            yield from read_arriving(self._response, self._end)
        except (requests.RequestException, errors.ServiceError) as error:
            if time.monotonic() >= self._end:
                raise self._late from None
            if isinstance(error, errors.ServiceError):
                error.where = self._late.where
                raise
            what = f"The endpoint's answer broke off ({type(error).__name__})."
            raise errors.ServiceUnreachable(what, where=self._late.where, fix="ask again") from None
        self._read = True

    def json(self) -> Any:
        """Return the body; raises `phift.errors.ScoringError` where it is no JSON."""
        body = b"".join(self.pieces())
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            what = "The answer is no JSON."
            raise errors.ScoringError(what, where=self._late.where, status=self.status) from None

    def close(self) -> None:
        """Let go of the connection, or keep it for the next call; twice does no harm."""
        if self._letting_go.detach() is None:
            return
        if self._read:
            self._sessions.give_back(self._session)
        else:
            _drop(self._response, self._session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()


class ScoringClient:
    """Sends questions to an endpoint, from any number of threads.

    - **address**: the scoring address that the service gives.
    - **seconds**: how long the service may take for one request.
    """

    @errors.forgetting_locals()
    def __init__(self, clients: Clients, name: str, address: str, seconds: float) -> None:
        self._clients, self._name = clients, name
        self._key = _read_key(clients, name)
        self._reading = threading.Lock()
        self.address, self.place = address, f"endpoint {name}"
        # A little longer than the service waits, so that its answer comes first.
        self.seconds = seconds + 10
        self.sessions = Sessions()

    @property
    def is_openai(self) -> bool:
        """Whether the scoring address itself is OpenAI's route, as where a custom container has no other."""
        return urlsplit(self.address).path.endswith("/chat/completions")

    @property
    def openai_base(self) -> str:
        """The address that OpenAI's routes stand below: ``…/v1``."""
        parts = urlsplit(self.address)
        path = parts.path.removesuffix("/").removesuffix("/score").removesuffix("/chat/completions").removesuffix("/v1")
        return urlunsplit((parts.scheme, parts.netloc, f"{path}/v1", "", ""))

    def check_address(self) -> None:
        """Raise `phift.errors.ServiceError` where the address is not https."""
        if not self.address.lower().startswith("https://"):
            what = "The address that the service gave for the endpoint is not https, so no key is sent there."
            fix = "Azure's are https: look at the endpoint in the studio, and at what answers in the service's place"
            raise errors.ServiceError(what, where=f"{self.place} at {errors.redact(self.address)}", fix=fix)

    def opened(self) -> _Key:
        """Return what opens the endpoint; a token that is about to expire is asked for again, by one caller."""
        if self._key.until - time.time() < GOOD_FOR:
            with taken_soon(self._reading):
                if self._key.until - time.time() < GOOD_FOR:
                    self._key = _read_key(self._clients, self._name)
        return self._key

    def renew(self, refused: SecretStr) -> bool:
        """Read what opens the endpoint again, once it is refused, and return whether it is another by now."""
        with taken_soon(self._reading):
            if self._key.value == refused:
                try:
                    self._key = _read_key(self._clients, self._name)
                except errors.PhiftError:  # what was refused says enough
                    return False
            return self._key.value != refused

    def send(
        self,
        url: str,
        body: Mapping[str, Any],
        deployment: str | None = None,
        *,
        limit: TimeLimit,
        on_busy: Callable[[], None] | None = None,
    ) -> Answer:
        """Send a question, again where the deployment is busy, and return the answer, whatever its status.

        A key that is refused is read again: somebody may have made a new one.

        - **limit**: for all of it, the reading of the answer too.
        - **on_busy**: called when the deployment says that it has too much to do.

        Raises `phift.errors.WaitTimeout` and `phift.errors.ServiceUnreachable`.
        """
        import requests

        self.check_address()
        end, seconds = limit.end, min(limit.seconds or math.inf, self.seconds)
        what = f"No whole answer within {seconds:g} s; the model may be at it yet."
        fix = ("raise `timeout`, or " if seconds < self.seconds else "") + "lower max_new_tokens"
        late = errors.WaitTimeout(what, where=self.place, fix=fix)
        pauses, renewed = iter(enumerate(_PAUSES)), False
        while True:
            number, pause = next(pauses, (len(_PAUSES), None))
            try:
                opened = self.opened()
                answer = self._post(url, body, deployment, opened, end, late)
            except requests.RequestException as error:
                if time.monotonic() >= end or isinstance(error, requests.ReadTimeout):
                    raise late from None
                if pause is None or number >= _MOST_CONNECTING or not _never_connected(error):
                    what, fix = (
                        f"The endpoint gave no answer ({type(error).__name__}).",
                        "check that the endpoint is up",
                    )
                    raise errors.ServiceUnreachable(what, where=self.place, fix=fix) from None
                waited = "No connection came about"
            else:
                if answer.status == 401 and not renewed and self.renew(opened.value):
                    renewed = True
                    answer.close()
                    continue
                if answer.status not in _BUSY or pause is None:
                    return answer
                with answer:
                    deque(answer.pieces(), maxlen=0)
                if on_busy:
                    on_busy()
                waited = "The deployment was busy"
            if time.monotonic() + pause >= end:
                what, fix = f"{waited} for all of {limit.seconds:g} s.", "raise `timeout`, or ask later"
                raise errors.WaitTimeout(what, where=self.place, fix=fix)
            if pause:
                time.sleep(pause)

    def _post(
        self,
        url: str,
        body: Mapping[str, Any],
        deployment: str | None,
        opened: _Key,
        end: float,
        late: errors.PhiftError,
    ) -> Answer:
        session = self.sessions.take()
        try:
            # The key and the question are for this address: where it leads elsewhere, nobody follows.
            with errors.forgetting_locals():
                response = session.post(
                    url,
                    json=body,
                    # Headers of its own: the SDK's ``invoke`` keeps them for later calls.
                    headers={DEPLOYMENT: deployment} if deployment else {},
                    auth=opened,  # which goes before what a .netrc says
                    timeout=min(self.seconds, max(0.001, end - time.monotonic())),
                    allow_redirects=False,
                    stream=True,
                )
        except BaseException:
            session.close()
            raise
        return Answer(response, session, self.sessions, min(end, time.monotonic() + self.seconds), late)

    def refusal(self, answer: Answer, beside: str = "") -> errors.PhiftError:
        """Return the error for an answer of status 300 and more, without its body, which may quote the user's text.

        - **beside**: what else may be done about it.
        """
        told = answer.headers.get("ms-azureml-model-error-reason")
        reason = errors.in_a_line(told or answer.reason)
        other = errors.ScoringError, f"The endpoint answered {answer.status} {reason}.", "look at the deployment's log"
        refusals = _REFUSALS if self._key.until == math.inf else {**_REFUSALS, **_TOKEN_REFUSALS}
        kind, what, fix = refusals.get(answer.status, other)
        return kind(what, where=self.place, fix=fix + (f"; {beside}" if beside else ""), status=answer.status)


def _never_connected(error: requests.RequestException) -> bool:
    """Tell whether nothing was sent, since no connection came about; a certificate that is not trusted stays so."""
    import requests
    from urllib3.exceptions import NewConnectionError

    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(error, requests.ConnectTimeout | requests.exceptions.ProxyError) or isinstance(
        reason, NewConnectionError
    )
