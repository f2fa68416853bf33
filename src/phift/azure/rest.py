"""Plain JSON calls for what the Azure ML SDK does not hand out (metrics, logs, raw metadata), and shared tokens."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from phift.azure.threads import taken_soon
from phift.errors import PhiftError, ServiceError, azure_errors
from phift.version import __version__

if TYPE_CHECKING:
    from azure.core import PipelineClient
    from azure.core.credentials import AccessToken, TokenCredential


_GOOD_FOR = 300  # seconds that a token must still be good for, as azure-core has it


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
            if token is None or token.expires_on - time.time() < _GOOD_FOR:
                token = self._tokens[scopes] = self._credential.get_token(*scopes)
            return token

    def forget_if_refused(self, response: Any) -> None:
        """Forget the tokens where the service refuses one; azure-core calls this with every response."""
        if response.http_response.status_code == 401:
            self._tokens.clear()


class Rest:
    """Calls the service with the run's own credential; retries as azure-core does.

    MLflow's client would authenticate through a chain of its own and ignore the credential the user chose, and it
    takes two seconds to import; reading metrics is two GETs.

    - **credential**: any ``azure.core`` token credential.
    - **scope**: what tokens are asked for, ``https://management.azure.com/.default`` on public Azure.
    """

    def __init__(self, credential: TokenCredential, scope: str) -> None:
        self._signed = _client(credential, scope)
        self._anonymous = _client(None, scope)

    def get(self, url: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON object at ``url``."""
        return self._json("GET", url, params=params)

    def post(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a JSON object and return the answer's."""
        return self._json("POST", url, json=body)

    def text(self, url: str) -> str:
        """Return the text behind a signed URL; no token is sent there."""
        try:
            return str(self._send(self._anonymous, "GET", url).text())
        except PhiftError as error:
            raise error from None  # the cause quotes the address with its signature

    def _json(self, method: str, url: str, **kwargs: Any) -> dict[str, Any]:
        response = self._send(self._signed, method, url, **kwargs)
        try:
            answer = response.json()
        except ValueError as error:
            raise ServiceError("The service answered with something that is no JSON.", where=_place(url)) from error
        if not isinstance(answer, dict):
            raise ServiceError("The service answered with something that is no JSON object.", where=_place(url))
        return answer

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
    ]
    if credential is not None:
        chain.append(policies.BearerTokenCredentialPolicy(credential, scope))
        if isinstance(credential, SharedTokens):
            chain.append(policies.CustomHookPolicy(raw_response_hook=credential.forget_if_refused))
    chain.append(policies.SensitiveHeaderCleanupPolicy())  # a redirect to another host gets no token
    return PipelineClient(base_url="", policies=chain)
