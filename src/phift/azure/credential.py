"""One token a scope for all clients of a run.

Every part of the SDK keeps tokens of its own, so that a check alone asked for eight of them; the Azure CLI's credential
starts a process for each.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

_GOOD_FOR = 300  # seconds that a token must still be good for, as azure-core has it


class SharedTokens:
    """A token credential that asks another one, once for each scope, and again when a token expires or is refused.

    - **credential**: whose tokens they are; everything else of it is reached through this.
    """

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._tokens: dict[tuple[str, ...], AccessToken] = {}
        self._asking: dict[tuple[str, ...], threading.Lock] = {}

    def __getattr__(self, name: str) -> Any:
        # Without this name here azure-core takes `get_token`, and not the credential's own way past it.
        if name == "get_token_info":
            raise AttributeError(name)
        return getattr(self._credential, name)

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a token that several callers share.

        With options, such as the claims of a challenge, the credential itself is asked.
        """
        if any(options.values()):
            return self._credential.get_token(*scopes, **options)
        with self._asking.setdefault(scopes, threading.Lock()):
            token = self._tokens.get(scopes)
            if token is None or token.expires_on - time.time() < _GOOD_FOR:
                token = self._tokens[scopes] = self._credential.get_token(*scopes)
            return token

    def forget_if_refused(self, response: Any) -> None:
        """Forget the tokens where the service refuses one; azure-core calls this with every response."""
        if response.http_response.status_code == 401:
            self._tokens.clear()
