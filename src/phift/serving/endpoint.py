"""An online endpoint: asked in words, deleted for certain."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import SecretStr

from phift import errors
from phift.azure.answers import listed, text
from phift.azure.bounds import end_lines, read_bounded
from phift.azure.clients import GOOD_FOR, Clients
from phift.azure.connect import clients_of
from phift.config.deployment import DeploymentConfig
from phift.serving import resource
from phift.serving.resource import DeploymentEvent, OnEvent, delete_endpoint, for_certain, telling
from phift.serving.uses import EndpointUse

if TYPE_CHECKING:
    import requests
    from azure.ai.ml.entities import OnlineEndpoint

    from phift.azure.connect import AnyClients

Message = Mapping[str, Any]

# What a scoring call's status means: the error, what it says, and the way out.
_REFUSED = (
    errors.AuthenticationError,
    "The endpoint refused the key.",
    "the keys may have been regenerated: call deploy() again, which reads the keys",
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
    429: (errors.Throttled, "More requests at once than the deployment takes.", "ask slower"),
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


class Endpoint:
    """A deployed model.

    As a context manager it is deleted at the end of the block if it was made for it: what an earlier call left up on
    purpose, and what another block still uses, stays; see `phift.serving.uses`.

    - **name**: of the endpoint.
    - **scoring_uri**: where requests go.
    - **existed**: whether `phift.serving.deployment.deploy_model` found it instead of making it.
    - **found**: what the service said of it last; left out, it is asked.
    """

    @errors.forgetting_locals()
    def __init__(
        self,
        clients: Clients,
        name: str,
        config: DeploymentConfig,
        on_event: OnEvent | None = None,
        *,
        existed: bool = True,
        use: EndpointUse | None = None,
        found: OnlineEndpoint | None = None,
    ) -> None:
        self.name = name
        self.existed = existed
        self._clients = clients
        self._config = config
        self._emit = telling(on_event)
        self._use = use or EndpointUse(None, name, made=not existed)
        if found is None:
            there = resource.endpoint(clients, name)
            found = there.settled() or there.get()  # the service tells no address of one that is being changed
        self._key = _read_key(clients, name)
        self.scoring_uri = text(found.scoring_uri, "endpoint.scoring_uri")
        self._sessions = threading.local()  # requests does not say that threads may share one

    @classmethod
    @errors.forgetting_locals()
    def attach(cls, name: str, clients: AnyClients, *, on_event: OnEvent | None = None) -> Self:
        """Return an endpoint that is there, whoever made it; the end of a block does not delete it.

        - **clients**: or an ``MLClient`` of the workspace, or the workspace as `phift.connect` takes it: ``"local"``.

        Raises `phift.errors.NotFound`, with the names of those that are there, where there is none of this name.
        """
        clients = clients_of(clients)
        there = resource.endpoint(clients, name)
        found = there.settled()
        if found is None:
            with errors.azure_errors("endpoints"):
                others = listed(clients.workspace.online_endpoints.list(), "endpoints")
            names = ", ".join(sorted(errors.in_a_line(each.name) for each in others)) or "none"
            where = f"workspace {clients.workspace.workspace_name}"
            fix = f"check the name and the workspace; endpoints that are there: {names}"
            raise errors.NotFound(f"There is no endpoint {name}.", where=where, fix=fix)
        return cls(clients, name, DeploymentConfig(), on_event, found=found)

    def __repr__(self) -> str:
        return f"<Endpoint {errors.in_a_line(self.name)}>"

    @errors.forgetting_locals()
    def __enter__(self) -> Self:
        try:
            self._use.enter()
        except BaseException:  # no block begins, so none will end
            for_certain(self._leave, self.name)
            raise
        return self

    @errors.forgetting_locals()
    def __exit__(self, *_raised: object) -> None:
        for_certain(self._leave, self.name)

    def _opened(self) -> _Key:
        """Return the endpoint's key; a token that is about to expire is asked for again."""
        if self._key.until - time.time() < GOOD_FOR:
            self._key = _read_key(self._clients, self.name)
        return self._key

    def _leave(self) -> None:
        if not self._use.leave(lambda: delete_endpoint(self._clients, self.name, self._emit)):
            self._emit(DeploymentEvent("stays", self.name))

    @errors.forgetting_locals()
    def delete(self) -> None:
        """Delete the endpoint with its deployments and wait until it is gone, whoever made it; twice does no harm.

        Raises what the service said, with the news that the endpoint is still up and costs money.
        """
        for_certain(lambda: delete_endpoint(self._clients, self.name, self._emit), self.name)
        self._use.end(deleted=True)

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
            raise errors.DataError("The last message is not the user's.", where="messages", fix=fix)
        # A flat list of messages is the one form that the MLflow server and the vLLM container both take
        # (azureml-evaluate-mlflow 0.0.91; foundation-model-serve, azureml-assets, 2026-07-23).
        settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, **parameters}
        body = {"input_data": {"input_string": conversation, "parameters": settings}, "params": {}}
        place = f"endpoint {self.name}"
        if not self.scoring_uri.lower().startswith("https://"):
            what = "The address that the service gave for the endpoint is not https, so no key is sent there."
            fix = "Azure's are https: look at the endpoint in the studio, and at what answers in the service's place"
            raise errors.ServiceError(what, where=f"{place} at {errors.redact(self.scoring_uri)}", fix=fix)
        # Headers of its own: the SDK's ``invoke`` keeps them for later calls.
        headers = {"azureml-model-deployment": deployment} if deployment else {}
        # A little longer than the service waits, so that its answer comes first.
        seconds = self._config.request_timeout_ms / 1000 + 10
        if not hasattr(self._sessions, "own"):
            self._sessions.own = _patient_session()
        import requests

        try:
            # The key and the question are for this address: where it leads elsewhere, nobody follows.
            with errors.forgetting_locals():
                response = self._sessions.own.post(
                    self.scoring_uri,
                    json=body,
                    headers=headers,
                    auth=self._opened(),  # which goes before what a .netrc says
                    timeout=seconds,
                    allow_redirects=False,
                )
        except requests.RequestException as error:
            what = f"The endpoint gave no answer ({type(error).__name__})."
            raise errors.ServiceUnreachable(what, where=place, fix="check that the endpoint is up") from None
        status = response.status_code
        if status >= 300:
            reason = response.headers.get("ms-azureml-model-error-reason") or response.reason or ""
            other = errors.ScoringError, f"The endpoint answered {status} {reason}.", "look at the deployment's log"
            refusals = _REFUSALS if self._key.until == math.inf else {**_REFUSALS, **_TOKEN_REFUSALS}
            kind, what, fix = refusals.get(status, other)
            # Without its body, which may quote the user's text.
            raise kind(what, where=place, fix=fix, status=status)
        try:
            return answer_text(response.json(), place)
        except ValueError:
            raise errors.ScoringError("The answer is no JSON.", where=place, status=status) from None


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


def _patient_session() -> requests.Session:
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
        respect_retry_after_header=False,  # half a minute in all, and not as long as an answer likes
        raise_on_status=False,
    )
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.hooks["response"] = [read_bounded]
    end_lines(session)
    return session


def answer_text(reply: Any, place: str = "endpoint") -> str:
    """Return the text in a model server's reply, in any of the three forms Azure's servers give.

    ``[{"0": text}]`` from the MLflow server, ``{"output": text}`` from the vLLM container, and OpenAI's
    ``choices``. The container answers ``{}`` or ``{"output": null}`` with status 200 when it failed inside.
    """
    said: Any = None
    match reply:
        case [{**texts}, *_]:
            said = next(iter(texts.values()), None)
        case [said, *_] | {"choices": [{"message": {"content": said}}, *_]} | {"output": said}:
            pass
    if not isinstance(said, str):
        what = "The endpoint answered without a text, as its container does when it fails inside."
        raise errors.ScoringError(what, where=place, fix="look at the deployment's log", status=200)
    return said
