"""The clients: everything that a run talks to, plain JSON calls among it, and what these ask a registry for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from phift.azure.answers import json_object, listed, mapping, text
from phift.azure.bounds import bound, check_answer, read_bounded, read_part
from phift.azure.quiet import quiet_import, quiet_remarks
from phift.azure.threads import taken_soon
from phift.errors import NotFound, PhiftError, ServiceError, azure_errors
from phift.version import __version__

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Workspace
    from azure.core import PipelineClient
    from azure.core.credentials import AccessToken, TokenCredential
    from azure.core.pipeline import PipelineRequest

T = TypeVar("T")
Request = TypeVar("Request")

API = "2021-10-01-dataplanepreview"  # what azure-ai-ml 1.35.2 asks registries for

GOOD_FOR = 300  # seconds that a token must still be good for, as azure-core has it


class SharedTokens:
    """A token credential that asks another one, once for each scope, and again when a token expires or is refused.

    Every part of the SDK keeps tokens of its own, so that a check alone asked for eight of them; the Azure CLI's
    credential starts a process for each.

    - **credential**: whose tokens they are; everything else of it is reached through this.
    """

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._tokens: dict[tuple[str, ...], AccessToken] = {}
        self._asking: dict[tuple[str, ...], threading.Lock] = {}

    def __getattr__(self, name: str) -> Any:
        # Without this name here azure-core takes `get_token`, and not the credential's own way past it.
        if name in ("get_token_info", "_credential"):  # nor is there one before it has been set
            raise AttributeError(name)
        return getattr(self._credential, name)

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a token that several callers share.

        With options, such as the claims of a challenge, the credential itself is asked.
        """
        if any(options.values()):
            return self._credential.get_token(*scopes, **options)
        with taken_soon(self._asking.setdefault(scopes, threading.Lock())):
            token = self._tokens.get(scopes)
            if token is None or token.expires_on - time.time() < GOOD_FOR:
                token = self._tokens[scopes] = self._credential.get_token(*scopes)
            return token

    def look_at(self, response: Any) -> None:
        """Forget the tokens where the service refuses one, and `check_answer`; azure-core calls this with each."""
        if response.http_response.status_code == 401:
            self._tokens.clear()
        check_answer(response)


def own_authorization(request: Request) -> Request:
    """Leave a request as it is: given to requests as ``auth``, it keeps what a ``.netrc`` says from taking its place.

    requests asks that file where no ``auth`` is given, whatever header there is (2.34, ``Session.prepare_request``).
    Proxies and authorities go on coming from the environment.
    """
    return request


def send_own_authorization(request: PipelineRequest[Any]) -> None:
    """Have azure-core send what it signed, whatever a ``.netrc`` says, and read no answer for ever.

    For ``raw_request_hook`` of its clients.
    """
    request.context.options["auth"] = own_authorization
    bound(request)


@dataclass(frozen=True)
class Part:
    """Some of the bytes behind an address; see `Rest.part`.

    - **total**: how many there are, where the server says so.
    - **created**: when the blob was made, as storage writes it; another blob may take its name.
    """

    content: bytes = field(repr=False)
    total: int | None
    created: str


class Rest:
    """Calls the service with the run's own credential; retries as azure-core does.

    MLflow's client would authenticate through a chain of its own and ignore the credential the user chose, and it
    takes two seconds to import; reading metrics is two GETs.

    - **credential**: any ``azure.core`` token credential.
    - **scope**: what tokens are asked for, ``https://management.azure.com/.default`` on public Azure.
    """

    def __init__(self, credential: TokenCredential, scope: str) -> None:
        self.credential = credential
        self.resource_manager = scope.removesuffix("/.default")
        self._signed = _client(credential, scope)
        self._anonymous = _client(None, scope)

    def get(self, url: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON object at ``url``."""
        return self._json("GET", url, params=params)

    def post(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a JSON object and return the answer's."""
        return self._json("POST", url, json=body)

    def part(self, url: str, start: int, most: int) -> Part:
        """Return at most so many of the bytes behind a signed URL, from ``start`` on; no token is sent there.

        Where nothing lies there, storage answers 416 and how many bytes there are (RFC 9110, 15.5.17). A server that
        sends all of it, whatever it is asked for, is read as far as is needed.
        """
        from azure.core.rest import HttpRequest

        # Of a packed answer these would be other bytes.
        headers = {"Range": f"bytes={start}-{start + most - 1}", "Accept-Encoding": "identity"}
        try:
            with azure_errors(_place(url)):
                answer = self._anonymous.send_request(HttpRequest("GET", url, headers=headers), stream=True)
                inner: Any = answer.internal_response
                if answer.status_code >= 400 and answer.status_code != 416:
                    read_bounded(inner)
                    answer.read()
                    answer.raise_for_status()
                partial = answer.status_code in (206, 416)
                given = answer.headers.get("Content-Range" if partial else "Content-Length") or ""
                if answer.status_code == 206 and not given.startswith(f"bytes {start}-"):
                    inner.close()
                    raise ServiceError("The service sent another part than was asked for.", where=_place(url))
                content = b"" if answer.status_code == 416 else read_part(inner, 0 if partial else start, most)
                inner.close()
        except PhiftError as error:
            raise error from None  # the cause quotes the address with its signature
        total = re.search(r"(?<![0-9])[0-9]{1,18}$", given)
        return Part(content, int(total[0]) if total else None, answer.headers.get("x-ms-creation-time", ""))

    def _json(self, method: str, url: str, **kwargs: Any) -> dict[str, Any]:
        response = self._send(self._signed, method, url, **kwargs)
        with suppress(ValueError):
            if isinstance(answer := response.json(), dict):
                return answer
        raise ServiceError("The service answered with something that is no JSON object.", where=_place(url))

    def _send(self, client: PipelineClient[Any, Any], method: str, url: str, **kwargs: Any) -> Any:
        from azure.core.rest import HttpRequest

        with azure_errors(_place(url)):
            response = client.send_request(HttpRequest(method, url, **kwargs))
            response.raise_for_status()
            return response


def _place(url: str) -> str:
    """Return a URL without its query, where signatures travel."""
    return url.partition("?")[0]


def _client(credential: TokenCredential | None, scope: str) -> PipelineClient[Any, Any]:
    from azure.core import PipelineClient
    from azure.core.pipeline import policies

    chain: list[Any] = [
        policies.HeadersPolicy(),
        policies.UserAgentPolicy(f"phift/{__version__}"),
        policies.RedirectPolicy(),
        policies.RetryPolicy(),
        policies.CustomHookPolicy(raw_request_hook=send_own_authorization),
    ]
    look = credential.look_at if isinstance(credential, SharedTokens) else check_answer
    if credential is not None:
        chain.append(policies.BearerTokenCredentialPolicy(credential, scope))
    chain.append(policies.CustomHookPolicy(raw_response_hook=look))
    chain.append(policies.SensitiveHeaderCleanupPolicy())  # a redirect to another host gets no token
    return PipelineClient(base_url="", policies=chain)


@dataclass(frozen=True)
class Clients:
    """Everything a run talks to; a test hands in those of a workspace in its process, or mocks.

    One of these may be shared by all threads of a process, and by several runs. What holds one, a run, a job or an
    endpoint, is not pickled: there are tokens in it.

    - **workspace**: an ``MLClient`` of the workspace.
    - **registry**: an ``MLClient`` of the registry that holds the foundation model.
    - **component_registry**: the one that holds the component; often the same.
    - **rest**: plain JSON calls for what the SDK does not hand out: metrics, logs, raw metadata; see `Rest`.
    - **registry_discovery**: where registries are looked up, a URL ending in a slash.
    - **poll_seconds**: how long to wait between two looks at a job or a deployment.
    - **patience_seconds**: how long a wait puts up with a service that does not answer, in seconds; with one that
      refuses the credential, a minute at most, or four looks.
    """

    workspace: MLClient = field(repr=False)
    registry: MLClient = field(repr=False)
    component_registry: MLClient = field(repr=False)
    rest: Rest = field(repr=False)
    registry_discovery: str
    poll_seconds: float = 15.0
    patience_seconds: float = 600.0
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _asking: dict[str, threading.Lock] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        quiet_remarks()
        quiet_import()

    def __getstate__(self) -> object:
        raise TypeError(
            "Clients hold tokens, so nothing that has them is pickled: hand on a job's name and attach to it"
        )

    @property
    def is_local(self) -> bool:
        """Whether they are of a local workspace."""
        host = urlsplit(self.rest.resource_manager).hostname or ""
        return host == "localhost" or host.endswith(".invalid")

    def once(self, question: str, ask: Callable[[], T]) -> T:
        """Return the answer to a question whose answer stays, asking it once whoever wants to know; errors pass."""
        with taken_soon(self._asking.setdefault(question, threading.Lock())):
            if question not in self._known:
                self._known[question] = ask()
            known: T = self._known[question]
            return known

    def find_workspace(self) -> Workspace:
        """Return the workspace as the SDK has it, looked up once: its region and its addresses never change."""

        def ask() -> Workspace:
            client = self.workspace
            with azure_errors(f"workspace {client.workspace_name}"):
                return client.workspaces.get(client.workspace_name)

        return self.once("workspace", ask)


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A model version as the registry itself sends it; the SDK drops its ``systemMetadata``.

    - **system**: that ``systemMetadata``, where allow-lists, tasks and dates stand since 2026-06 (azureml-assets pull
      requests 5150 and 5190).
    """

    id: str
    version: str
    description: str = ""
    archived: bool = False
    tags: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)


def fetch_record(clients: Clients, registry: str, name: str, version: str | None = None) -> ModelRecord:
    """Return the record of a model version, or of the newest one created.

    Raises `phift.errors.NotFound` where there is none, `phift.errors.ServiceError` where the registry answers in a
    form that is not known.
    """
    url = f"{registry_address(clients, registry)}/models/{quote(name, safe='')}/versions"
    if version is not None:
        answer: Any = clients.rest.get(f"{url}/{quote(version, safe='')}", {"api-version": API})
    else:
        query = {"api-version": API, "$orderBy": "createdtime desc", "$top": 1}
        answers = json_object(clients.rest.get(url, query), "the registry's versions").get("value")
        found = listed(answers or (), "the registry's versions")
        if not found:
            raise NotFound(f"There is no model {name}.", where=f"registry {registry}", fix="check the name")
        answer = found[0]
    # What has another form than expected is left out, since this is somebody else's text.
    record = json_object(answer, "the registry's record")
    body = mapping(record.get("properties"))
    identifier = record.get("id")
    if not isinstance(identifier, str) or not identifier:
        raise ServiceError("The registry's record of the model has no id.", where=f"model {name}")
    return ModelRecord(
        id=identifier,
        version=identifier.rpartition("/")[2],
        description=str(body.get("description") or ""),
        archived=body.get("isArchived") is True,
        tags=mapping(body.get("tags")),
        properties=mapping(body.get("properties")),
        system=mapping(body.get("systemMetadata")),
    )


def registry_address(clients: Clients, registry: str) -> str:
    """Return the URL that a registry's assets stand below, as its discovery gives it; it is asked for once."""

    def discover() -> str:
        url = f"{clients.registry_discovery}registrymanagement/v1.0/registries/{quote(registry, safe='')}/discovery"
        found = json_object(clients.rest.get(url), "the registry's discovery")
        keys = ("primaryRegionResourceProviderUri", "subscriptionId", "resourceGroup")
        if missing := ", ".join(key for key in keys if not found.get(key)):
            what = f"The discovery of registry {registry} answered without {missing}."
            raise ServiceError(what, where=f"registry {registry}")
        uri, subscription, group = (text(found[key], f"the registry's discovery, {key}") for key in keys)
        scope = f"subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices"
        return f"{uri}mferp/managementfrontend/{scope}/registries/{registry}"

    return clients.once(f"registry {registry}", discover)
