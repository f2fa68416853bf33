"""How long an endpoint is meant to be there, and whose it is: two of its tags.

Azure deletes nothing by itself. Lists and reports say what has expired, and `phift.serving.pruning` deletes it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

from phift.azure.clients import Clients
from phift.config.deployment import NEVER, DeploymentConfig, read_lasting
from phift.errors import PhiftError, azure_errors, forgetting_locals, redact

EXPIRES, OWNER = "phift.expires", "phift.owner"
LONGEST_TAG = 256  # characters
MOST_TAGS = 50  # of a resource (Microsoft Learn, "Use tags to organize your Azure resources")
# What a token of Microsoft Entra ID calls somebody, people first; an identity of a service has its object's id only
# (Microsoft Learn, "Access token claims reference", read 2026-11-30).
_CLAIMS = ("upn", "unique_name", "preferred_username", "oid")

Expiry = datetime | Literal["never"] | None
"""When an endpoint is not needed any more; None for one that an older phift made, which did not say."""


def lifetime_tags(clients: Clients, config: DeploymentConfig) -> dict[str, str]:
    """Return the tags of a new endpoint: when it expires, and whose it is as far as the credential's token says."""
    owner = _owner(clients)
    return {EXPIRES: _end(config), **({OWNER: owner} if owner else {})}


def expiry(tags: Mapping[str, str]) -> Expiry:
    """Return when an endpoint expires, by its tags."""
    said = tags.get(EXPIRES, "")
    if said == NEVER:
        return "never"
    try:
        end = datetime.fromisoformat(said)
    except ValueError:
        return None
    return end if end.tzinfo else end.replace(tzinfo=UTC)


def extended(tags: Mapping[str, str], config: DeploymentConfig) -> dict[str, str]:
    """Return the tags that a deployment to an endpoint that is there changes; it never shortens.

    An endpoint that is deployed again is needed for as long as a new one. It is not written down before half of that
    time is over: each change of an endpoint takes Azure a minute. An older phift's endpoint, which does not expire, is
    left so, unless the configuration asks for it.
    """
    there = expiry(tags)
    if there == "never" or (there is None and "expires" not in config.model_fields_set):
        return {}
    if there is None or config.expires == NEVER:
        return {EXPIRES: _end(config)}
    enough = there - datetime.now(UTC) >= read_lasting(config.expires) / 2
    return {} if enough else {EXPIRES: _end(config)}


def _end(config: DeploymentConfig) -> str:
    if config.expires == NEVER:
        return NEVER
    return (datetime.now(UTC) + read_lasting(config.expires)).isoformat(timespec="seconds")


@forgetting_locals()
def _owner(clients: Clients) -> str:
    """Return who the credential says that we are; an empty text where it does not."""
    with suppress(
        PhiftError, ValueError, TypeError, AttributeError, LookupError
    ):  # whatever an own credential's tokens look like
        with azure_errors("credential"):
            token = clients.rest.credential.get_token(f"{clients.rest.resource_manager}/.default").token
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        said = (claims.get(claim) for claim in _CLAIMS)
        return next((redact(name)[:LONGEST_TAG] for name in said if isinstance(name, str) and name), "")
    return ""
