"""A route: a method and a path, and what answers there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from phift.local.names import ACCOUNT, PROVIDER
from phift.local.site import Site
from phift.local.wire.call import Call, Reply

# Path templates; matching ignores case, as Azure Resource Manager does.
AT_SUBSCRIPTION = f"/subscriptions/{{subscription}}/{PROVIDER}"
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


@dataclass(frozen=True)
class Route:
    """A method and path template, and what answers there.

    - **anonymous**: no bearer token is asked for; the handler checks the caller itself, or anybody may call.
    """

    method: str
    template: str
    handler: Handler
    anonymous: bool = False

    @property
    def operation(self) -> str:
        """The route's name, ``PUT jobs/{name}``."""
        return place_of(self.method, self.template)

    def pattern(self) -> re.Pattern[str]:
        """Return the compiled template: ``{name}`` is one segment, ``{name...}`` the rest of the path."""
        text = re.escape(self.template).replace(r"\{", "{").replace(r"\}", "}").replace(r"\.\.\.}", "...}")
        text = re.sub(r"\{(\w+)\.\.\.\}", r"(?P<\1>.+)", text)
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text) + "/?", re.IGNORECASE)
