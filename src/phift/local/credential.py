"""The credential for a local workspace's clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

    from phift.local.connection import Connection

_AGAIN = (429, 500, 502, 503, 504)


class LocalCredential:
    """A token credential: asks the local workspace's identity endpoint, as a managed identity would.

    - **connection**: which workspace.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        """Return a token for the first scope; asks again as azure-identity does of a managed identity's endpoint.

        Raises `phift.errors.LocalWorkspaceNotRunning` where nobody answers, `phift.errors.AuthenticationError` where
        the answer is a refusal.
        """
        import requests
        from azure.core.credentials import AccessToken
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        from phift import errors

        connection = self._connection
        url = f"{connection.base_url}/msi/token"
        query = {"api-version": "2019-08-01", "resource": scopes[0].removesuffix("/.default")}
        try:
            headers = {"X-IDENTITY-HEADER": connection.secret()}
            with requests.Session() as session:
                # The environment could name another authority file or a proxy; ours is known.
                session.trust_env = False
                # Where nobody listens there is nobody to ask again.
                again = Retry(total=3, connect=0, backoff_factor=0.2, status_forcelist=_AGAIN, raise_on_status=False)
                session.mount("https://", HTTPAdapter(max_retries=again))
                answer = session.get(url, params=query, headers=headers, verify=str(connection.ca_bundle), timeout=30)
        except OSError as error:  # requests' own errors are such too; so is a folder that was deleted
            what = "The local workspace does not answer."
            fix = "start it: phift local up"
            raise errors.LocalWorkspaceNotRunning(what, where=connection.base_url, fix=fix) from error
        if answer.status_code != 200:
            what = f"The local workspace refused the identity of this folder ({answer.status_code})."
            raise errors.AuthenticationError(what, where=str(connection.folder), fix="run: phift local down, then up")
        body = answer.json()
        return AccessToken(body["access_token"], int(body["expires_on"]))
