"""How long a service that does not answer, or that refuses the credential, is put up with by whoever follows a job."""

from __future__ import annotations

import time

from phift.azure.clients import Clients
from phift.errors import AuthenticationError, PhiftError, ServiceError, ServiceUnreachable, Throttled

_LONGEST_REFUSAL = 60.0  # seconds


class Patience:
    """Puts up with a silence for as long as the clients' ``patience_seconds`` say.

    With a refused credential for as long, but no more than a minute, or four looks: each of several clients may hold a
    token that has expired, throws it away when it is refused, and asks for another at the next look.
    """

    def __init__(self, clients: Clients) -> None:
        self._longest = clients.patience_seconds
        self._longest_refusal = max(min(_LONGEST_REFUSAL, self._longest), 4 * clients.poll_seconds)
        self.heard()

    def heard(self) -> None:
        """Begin anew, since the service has answered."""
        self._heard, self._refused = time.monotonic(), 0.0

    @property
    def silence(self) -> float:
        """Seconds since the service has answered."""
        return time.monotonic() - self._heard

    @property
    def lasts(self) -> bool:
        """Whether the silence is not too long yet."""
        return self.silence <= self._longest

    def bear(self, error: AuthenticationError | ServiceError) -> None:
        """Return where an error may pass, and raise it where it will not: a defect of the SDK, a refused request."""
        if isinstance(error, AuthenticationError):
            self._refused = self._refused or time.monotonic()
            if time.monotonic() - self._refused > self._longest_refusal:
                raise error
            return
        if not may_pass(error) or not self.lasts:
            raise error


def may_pass(error: PhiftError) -> bool:
    """Tell whether the same request may be answered later: the service is out of reach, busy, or has failed itself."""
    return isinstance(error, ServiceUnreachable | Throttled) or (
        isinstance(error, ServiceError) and (error.status or 0) >= 500
    )
