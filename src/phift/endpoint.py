"""An online endpoint: asked in words, deleted for certain."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from phift.clients import Clients
from phift.config import DeploymentConfig
from phift.errors import (
    AuthenticationError,
    Conflict,
    DataError,
    NotFound,
    ScoringError,
    ServiceUnreachable,
    Throttled,
    WaitTimeout,
    azure_errors,
)
from phift.quiet import quiet_sdk

Message = Mapping[str, Any]
_LONGEST_OPERATION = 3600.0  # seconds; the service gives an endpoint's operations 30 minutes
# States in which a create or an update is still under way, as both kinds of resource name them.
_UNDER_WAY = frozenset({"creating", "updating", "provisioning", "scaling", "deleting"})


@dataclass(frozen=True)
class DeploymentEvent:
    """A stage of a deployment: ``endpoint``, ``deployment``, ``traffic``, ``ready``, ``rollback``, ``delete``."""

    stage: str
    name: str


OnEvent = Callable[[DeploymentEvent], None]


def ignore_event(_event: DeploymentEvent) -> None:
    """Do nothing; what an event goes to where nobody listens."""


class Endpoint:
    """A deployed model; as a context manager it is deleted at the end of the block.

    - **name**: of the endpoint.
    - **scoring_uri**: where requests go.
    """

    def __init__(self, clients: Clients, name: str, config: DeploymentConfig, on_event: OnEvent | None = None) -> None:
        self.name = name
        self._clients = clients
        self._config = config
        self._emit = on_event or ignore_event
        with azure_errors(f"endpoint {name}"):
            self.scoring_uri = str(clients.workspace.online_endpoints.get(name).scoring_uri)
            self._key = str(clients.workspace.online_endpoints.get_keys(name).primary_key)
        self._session = _session()

    def __repr__(self) -> str:
        return f"<Endpoint {self.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delete()

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        deployment: str | None = None,
        **parameters: Any,
    ) -> str:
        """Return the model's answer to a conversation.

        - **messages**: a question, or messages with ``role`` and ``content``, the last one from the user.
        - **deployment**: ask this deployment, whatever the traffic rules say.
        - **parameters**: passed on to the model server, such as ``temperature``.

        Raises `phift.errors.ScoringError` where the answer holds no text.
        """
        conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        if not conversation or conversation[-1].get("role") != "user":
            fix = "end the conversation with a message of role `user`"
            raise DataError("The last message is not the user's.", where="messages", fix=fix)
        # A flat list of messages is the one form that the MLflow server and the vLLM container both take
        # (azureml-evaluate-mlflow 0.0.91; foundation-model-serve, azureml-assets, 2026-07-23).
        settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, **parameters}
        body = {"input_data": {"input_string": conversation, "parameters": settings}, "params": {}}
        return answer_text(self._post(body, deployment), f"endpoint {self.name}")

    def _post(self, body: dict[str, Any], deployment: str | None) -> Any:
        """Send a request with headers of its own: the SDK's ``invoke`` keeps them for later calls."""
        import requests

        headers = {"Authorization": f"Bearer {self._key}"}
        if deployment:
            headers["azureml-model-deployment"] = deployment
        place = f"endpoint {self.name}"
        # A little longer than the service waits, so that its answer comes first.
        seconds = self._config.request_timeout_ms / 1000 + 10
        try:
            response = self._session.post(self.scoring_uri, json=body, headers=headers, timeout=seconds)
        except requests.RequestException as error:
            what = f"The endpoint gave no answer ({type(error).__name__})."
            raise ServiceUnreachable(what, where=place, fix="check that the endpoint is up") from None
        _raise_for_status(response, place)
        try:
            return response.json()
        except ValueError:
            raise ScoringError("The answer is no JSON.", where=place, status=response.status_code) from None

    def delete(self) -> None:
        """Delete the endpoint with its deployments and wait until it is gone; twice does no harm."""
        with quiet_sdk():
            delete_endpoint(self._clients, self.name, self._emit)


def _session() -> Any:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    # Not 408: the container goes on with a request that timed out, so asking again doubles the load.
    retry = Retry(
        total=6,
        connect=3,
        read=0,
        status_forcelist=(429, 503),
        allowed_methods={"POST"},
        backoff_factor=0.5,
        raise_on_status=False,
    )
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=retry))
    return session


def _raise_for_status(response: Any, place: str) -> None:
    """Map the statuses of a scoring call; the body is left out, since it may quote the user's text."""
    status = response.status_code
    if status < 400:
        return
    if status in (401, 403):
        what = "The endpoint refused the key."
        raise AuthenticationError(
            what, where=place, fix="the keys may have been regenerated: call deploy() again, which reads the keys"
        )
    if status == 404:
        raise NotFound("No deployment takes traffic here.", where=place, fix="give a deployment traffic", status=404)
    if status == 408:
        fix = "lower max_new_tokens, or raise `deployment.request_timeout_ms` (at most 180000)"
        raise ScoringError("The model took longer than the request time-out.", where=place, fix=fix, status=408)
    if status == 429:
        raise Throttled("More requests at once than the deployment takes.", where=place, fix="ask slower", status=429)
    reason = response.headers.get("ms-azureml-model-error-reason") or response.reason or ""
    fix = "look at the deployment's log"
    raise ScoringError(f"The endpoint answered {status} {reason}.", where=place, fix=fix, status=status)


def answer_text(reply: Any, place: str = "endpoint") -> str:
    """Return the text in a model server's reply, in any of the three forms Azure's servers give.

    ``[{"0": text}]`` from the MLflow server, ``{"output": text}`` from the vLLM container, and OpenAI's
    ``choices``. The container answers ``{}`` or ``{"output": null}`` with status 200 when it failed inside.
    """
    text: Any = None
    if isinstance(reply, list) and reply:
        first = reply[0]
        text = next(iter(first.values()), None) if isinstance(first, dict) else first
    elif isinstance(reply, dict):
        text = reply.get("output")
        choices = reply.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            message = choices[0].get("message")
            text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        what = "The endpoint answered without a text, as its container does when it fails inside."
        raise ScoringError(what, where=place, fix="look at the deployment's log", status=200)
    return text


def settled(clients: Clients, get: Callable[[], Any], place: str) -> Any:
    """Return a resource once no operation is under way on it, or None if there is none.

    An earlier process may have been killed while Azure went on creating. Raises `phift.errors.WaitTimeout` after an
    hour.
    """
    end = time.monotonic() + _LONGEST_OPERATION
    while True:
        try:
            with azure_errors(place):
                found = get()
        except NotFound:
            return None
        if provisioning_state(found) not in _UNDER_WAY:
            return found
        if time.monotonic() > end:
            what = f"An operation on it has been under way for an hour ({provisioning_state(found)})."
            raise WaitTimeout(what, where=place, fix="look at it in the studio, and run again")
        time.sleep(clients.poll_seconds)


def provisioning_state(resource: Any) -> str:
    """Return a resource's provisioning state in lower case; deployments hold it as an enumeration."""
    state = resource.provisioning_state
    return str(getattr(state, "value", state) or "").lower()


def delete_endpoint(clients: Clients, name: str, emit: OnEvent) -> None:
    """Delete an endpoint with its deployments and look that it is gone; one that is not there is no error."""
    emit(DeploymentEvent("delete", name))
    endpoints = clients.workspace.online_endpoints
    with suppress(NotFound), azure_errors(f"endpoint {name}"):
        endpoints.begin_delete(name).result()
    left = settled(clients, lambda: endpoints.get(name), f"endpoint {name}")
    if left is not None:
        what = "The endpoint is still there after its deletion, and costs money."
        raise Conflict(what, where=f"endpoint {name}", fix="delete it in the studio")
