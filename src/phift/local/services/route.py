"""A route: a method and a path, and what answers there."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps

from phift.local.names import ACCOUNT, PROVIDER
from phift.local.site import Site
from phift.local.wire import Call, Reply, WireError

LARGEST_CONTENT = 4 * 1024 * 1024
"""The largest body of all that are no blobs; the number is ours."""

# Path templates; matching ignores case, as Azure Resource Manager does.
AT_SUBSCRIPTION = f"/subscriptions/{{subscription}}/{PROVIDER}"
AT_LOCATION = f"{AT_SUBSCRIPTION}/locations/{{location}}"
AT_GROUP = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/{PROVIDER}"
AT_WORKSPACE = f"{AT_GROUP}/workspaces/{{workspace}}"

_OWN_PATH = re.compile(
    rf"/(?:mferp/managementfrontend/)?subscriptions/[^/]+(?:/resourceGroups/[^/]+)?/{re.escape(PROVIDER)}"
    r"(?:/workspaces/[^/]+)?",
    re.IGNORECASE,
)


def place_of(method: str, path: str) -> str:
    """Return a request, or a route, as people write it: ``PUT jobs/my-job``, without the workspace's own path."""
    short = _OWN_PATH.sub("", path).strip("/").replace(ACCOUNT, "blobs")
    return f"{method} {short or 'workspace'}"


Handler = Callable[[Site, Call], Reply]
Check = Callable[[Site, Call], object]


def in_one_step(handler: Handler) -> Handler:
    """Let nothing be changed between what a handler looks at and what it changes, whoever asks at the same time."""

    @wraps(handler)
    def answer(site: Site, call: Call) -> Reply:
        with site.documents.transaction():
            return handler(site, call)

    return answer


class Route:
    """A method and a path, as in ``PUT jobs/{name}``, and what answers there.

    - **asked**: a path without a slash in front lies in the workspace; ``{name}`` is a segment, ``{name...}`` the rest.
    - **check**: refuses who may not call, where that is no matter of a bearer token; the body is not there yet.
    - **most**: how many bytes a body may have.
    """

    def __init__(self, asked: str, handler: Handler, check: Check | None = None, most: int = LARGEST_CONTENT) -> None:
        self.method, _, path = asked.partition(" ")
        self.template = path if path.startswith("/") else f"{AT_WORKSPACE}/{path}"
        self.operation = place_of(self.method, self.template)
        self.handler, self.check, self.most = handler, check, most
        text = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(self.template))
        text = re.sub(r"\\\{(\w+)(?:\\\.){3}\\\}", r"(?P<\1>.+)", text)
        self.pattern = re.compile(text + "/?", re.IGNORECASE)


def anybody(_site: Site, _call: Call) -> None:
    """Let everybody call; the handler may look for itself."""


def owner(site: Site, call: Call) -> None:
    """Let call who knows the folder's secret."""
    if not site.identity.is_secret(call.headers.get("x-identity-header", "")):
        raise WireError(401, "Unauthorized", "The header X-IDENTITY-HEADER is missing or wrong.")
