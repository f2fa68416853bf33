"""The grammar of ``azureml:`` addresses and of resource ids, written once; it imports nothing of Azure's.

    azureml:<name>:<version>                                                  an asset of the workspace
    azureml:<name>@<label>
    azureml://subscriptions/<s>/resourcegroups/<g>/workspaces/<w>/<kind>/<name>/versions/<version>
    /subscriptions/<s>/resourceGroups/<g>/providers/<p>/workspaces/<w>/<kind>/<name>/versions/<version>
    azureml://registries/<registry>/<kind>/<name>/versions/<version>          an asset of a registry
    azureml://datastores/<store>/paths/<path>                                 a place in a datastore
    /subscriptions/<s>/resourceGroups/<g>/providers/<p>/workspaces/<w>        a workspace; in the studio's pages too

A datastore may be that of a workspace that is named before it. Names of keys are in any case, as Azure's own spellings
are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

PREFIX = "azureml:"

_NAMED_WORKSPACE = (
    r"subscriptions/(?P<subscription>[^/]+)/resourcegroups/(?P<group>[^/]+)/"
    r"(?:providers/[^/]+/)?workspaces/(?P<workspace>[^/?&#]+)"
)
_WORKSPACE = f"{_NAMED_WORKSPACE}/"
_VERSION = r"(?P<kind>[^/]+)/(?P<name>[^/]+)/(?:versions/(?P<version>[^/]+)|labels/(?P<label>[^/]+))"
_SHORT = re.compile(r"azureml:(?P<name>[\w.-]+)(?::(?P<version>[\w.-]+)|@(?P<label>[\w.-]+))")
_LONG = re.compile(rf"(?:azureml:)?/+{_WORKSPACE}{_VERSION}", re.IGNORECASE)
_IN_REGISTRY = re.compile(rf"azureml://registries/(?P<registry>[^/]+)/{_VERSION}", re.IGNORECASE)
_IN_DATASTORE = re.compile(rf"azureml:/+(?:{_WORKSPACE})?(?P<kind>datastores)/(?P<name>[^/]+)/paths/(?P<path>.+)", re.I)


@dataclass(frozen=True, kw_only=True)
class Address:
    """A version of an asset, or a place in a datastore.

    - **kind**: ``data``, ``models``, ``datastores`` and the like; empty for the short form, which does not say.
    - **version**, **label**: one of them is empty for an asset, both for a place in a datastore.
    - **path**: the place in the datastore.
    - **registry**: empty for an asset of a workspace.
    - **workspace**: subscription, group and name, where the address of an asset says whose it is.
    """

    kind: str
    name: str
    version: str = ""
    label: str = ""
    path: str = ""
    registry: str = ""
    workspace: tuple[str, str, str] | None = None


def read_address(text: str) -> Address | None:
    """Return what a text is the address of, or None where it is none of those above."""
    for grammar in (_IN_DATASTORE, _IN_REGISTRY, _LONG, _SHORT):
        if found := grammar.fullmatch(text):
            parts = found.groupdict(default="")
            subscription, group, workspace = (parts.pop(key, "") for key in ("subscription", "group", "workspace"))
            named = (subscription, group, workspace) if workspace else None
            return Address(**(parts | {"kind": parts.get("kind", "").lower()}), workspace=named)
    return None


def read_workspace_id(text: str) -> tuple[str, str, str] | None:
    """Return subscription, group and name of the workspace whose id is in a text, or None where there is none."""
    found = re.search(f"/{_NAMED_WORKSPACE}", unquote(text), re.IGNORECASE)
    return (found["subscription"], found["group"], found["workspace"]) if found else None


def registry_id(registry: str, kind: str, name: str, version: str) -> str:
    """Return the id of an asset's version in a registry."""
    return f"azureml://registries/{registry}/{kind}/{name}/versions/{version}"


def without_version(text: str) -> str:
    """Return an address without the version or the label at its end."""
    return re.sub(r"(/versions/|/labels/|:|@)[^:/@]+$", "", text)
