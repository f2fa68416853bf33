"""The calls to a local workspace's own routes, see `phift.local.services.control`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phift.errors import LocalWorkspaceError, LocalWorkspaceNotRunning

if TYPE_CHECKING:
    from phift.local import Connection

_TIMEOUT = 60  # seconds; a reset waits for what is at work


class Control:
    """Calls the routes under ``/phift/`` of a running workspace."""

    def __init__(self, connection: Connection) -> None:
        import requests

        self._base = f"{connection.base_url}/phift"
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor another authority file is asked
        self._session.verify = str(connection.ca_bundle)
        self._session.headers["X-IDENTITY-HEADER"] = connection.secret()

    def call(self, method: str, name: str, body: Any = None) -> Any:
        """Call a route and return its answer; raises `phift.errors.LocalWorkspaceError` with the server's own words."""
        where = f"{self._base}/{name}"
        try:
            answer = self._session.request(method, where, json=body, timeout=_TIMEOUT)
        except OSError as error:  # requests' own errors are such too
            what = "The test workspace does not answer."
            raise LocalWorkspaceNotRunning(what, where=where, fix="start it, or start it again") from error
        if not answer.ok:
            raise LocalWorkspaceError(answer.json()["error"]["message"], where=where, fix="correct the call")
        return answer.json() if answer.content else None

    def close(self) -> None:
        """Close its connections."""
        self._session.close()
