"""Who may do what: bearer tokens, storage signatures and endpoint keys, all made from the folder's one secret.

Nothing made here is stored: whoever holds the secret can make it again, so losing the secret revokes everything.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode

import jwt

from phift.local.names import TENANT
from phift.local.state.documents import Json
from phift.local.state.folder import write_private

_SECRET = re.compile(rb"[!-~]{32,1024}")  # ours have 64 characters
OBJECT = "00000000-0000-0000-0000-000000000001"


def _user() -> str:
    """Return whose process this is; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "local user"


class InvalidToken(ValueError):
    """A token that we did not make, or whose time is over."""


def read_secret(path: Path) -> str:
    """Return the folder's secret, making one where there is none that is whole; raises `OSError`."""
    if found := known_secret(path):
        return found
    write_private(path, secrets.token_urlsafe(48).encode())
    return path.read_text(encoding="ascii").strip()


def known_secret(path: Path) -> str | None:
    """Return the folder's secret, None where it is missing or no secret; raises `OSError` where it cannot be read.

    What is empty or short would let anybody in.
    """
    with suppress(FileNotFoundError, IsADirectoryError):
        found = path.read_bytes().strip()
        if _SECRET.fullmatch(found):
            return found.decode()
    return None


class Identity:
    """Makes and checks everything that proves who a caller is."""

    def __init__(self, secret: str, now: Callable[[], float] = time.time) -> None:
        self._secret = secret.encode()
        self._now = now

    def is_secret(self, value: str) -> bool:
        """Tell whether ``value`` is the folder's secret."""
        return hmac.compare_digest(value.encode(), self._secret)

    def token(self, audience: str, seconds: float = 3600, **claims: str) -> tuple[str, int]:
        """Return a signed token and when it ends (seconds since 1970)."""
        now = int(self._now())
        end = now + int(seconds)
        issuer = {"iss": f"https://sts.phift.local/{TENANT}/", "tid": TENANT, "oid": OBJECT, "name": "local user"}
        issuer["upn"] = _user()
        payload = {"aud": audience, "iat": now, "nbf": now, "exp": end, **issuer, **claims}
        return jwt.encode(payload, self._signing_key("token"), algorithm="HS256"), end

    def made(self, token: str) -> bool:
        """Tell whether a token is ours, however old it is."""
        try:
            return bool(self._signed(token))
        except InvalidToken:
            return False

    def _signed(self, token: str) -> Json:
        # Without jwt's look at its times: they are on this workspace's clock, which a test may move.
        try:
            claims: Json = json.loads(jwt.PyJWS().decode(token, self._signing_key("token"), algorithms=["HS256"]))
        except (jwt.InvalidTokenError, UnicodeError) as error:
            raise InvalidToken("The access token is invalid.") from error
        return claims

    def claims(self, token: str) -> Json:
        """Return the claims of a token of ours; raises `InvalidToken` for any other."""
        claims = self._signed(token)
        if claims["exp"] <= self._now():
            raise InvalidToken("The access token expiry is earlier than current time.")
        return claims

    def sas(self, path: str, permissions: str, *, blob: bool = False, seconds: float = 24 * 3600) -> str:
        """Return a shared-access signature for a container (``account/container``) or one blob in it."""
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now() + seconds))
        query = {"sv": "2021-08-06", "sr": "b" if blob else "c", "sp": permissions, "se": end, "spr": "https"}
        return urlencode({**query, "sig": self._sas_signature(path, query)})

    def sas_allows(self, method: str, path: str, query: Mapping[str, str]) -> bool:
        """Tell whether the signature in ``query`` is good and allows ``method`` on the blob or container ``path``."""
        by_method = {"GET": "r", "HEAD": "r", "PUT": "w", "DELETE": "d"}
        needed = "l" if query.get("comp") == "list" else by_method.get(method)
        return needed is not None and self.sas_is_good(path, query) and needed in query["sp"]

    def sas_is_good(self, path: str, query: Mapping[str, str]) -> bool:
        """Tell whether the signature in ``query`` is ours, for the blob or container ``path``, and not over."""
        return self.made_sas(path, query) and query["se"] > time.strftime(
            "%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now())
        )

    def made_sas(self, path: str, query: Mapping[str, str]) -> bool:
        """Tell whether the signature in ``query`` is ours, however old it is."""
        if not {"sr", "sp", "se", "sig"} <= query.keys():
            return False
        scope = path if query["sr"] == "b" else "/".join(path.split("/")[:2])
        return hmac.compare_digest(query["sig"].encode(), self._sas_signature(scope, query).encode())

    def key(self, endpoint: str, generation: str) -> str:
        """Return an endpoint's key; a new ``generation`` makes a new one."""
        return self._sign("key", f"{endpoint}/{generation}")

    def _sas_signature(self, path: str, query: Mapping[str, str]) -> str:
        return self._sign("sas", "\n".join([path, *(query.get(name, "") for name in ("sv", "sr", "sp", "se"))]))

    def _sign(self, purpose: str, text: str) -> str:
        return base64.b64encode(hmac.digest(self._signing_key(purpose), text.encode(), hashlib.sha256)).decode()

    def _signing_key(self, purpose: str) -> bytes:
        # One key a purpose: a signature made for one thing is worth nothing for another.
        return hmac.digest(self._secret, purpose.encode(), hashlib.sha256)
