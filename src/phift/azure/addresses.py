"""The grammar of ``azureml:`` addresses and of resource ids, written once; it imports nothing of Azure's.

    azureml:<name>:<version>                                                  an asset of the workspace
    azureml:<name>@<label>
    azureml://subscriptions/<s>/resourcegroups/<g>/workspaces/<w>/<kind>/<name>/versions/<version>
    /subscriptions/<s>/resourceGroups/<g>/providers/<p>/workspaces/<w>/<kind>/<name>/versions/<version>
    azureml://registries/<registry>/<kind>/<name>/versions/<version>          an asset of a registry
    azureml://datastores/<store>/paths/<path>                                 a place in a datastore
    azureml://jobs/<job>/outputs/<output>                                     what a job left

A datastore and a job may be those of a workspace that is named before them. Names of keys are in any case, as Azure's
own spellings are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "azureml:"

_WORKSPACE = (
    r"subscriptions/(?P<subscription>[^/]+)/resourcegroups/(?P<group>[^/]+)/"
    r"(?:providers/[^/]+/)?workspaces/(?P<workspace>[^/]+)/"
)
_VERSION = r"(?P<kind>[^/]+)/(?P<name>[^/]+)/(?:versions/(?P<version>[^/]+)|labels/(?P<label>[^/]+))"
_SHORT = re.compile(r"azureml:(?P<name>[\w.-]+)(?::(?P<version>[\w.-]+)|@(?P<label>[\w.-]+))")
_LONG = re.compile(rf"(?:azureml:)?/+{_WORKSPACE}{_VERSION}", re.IGNORECASE)
_IN_REGISTRY = re.compile(rf"azureml://registries/(?P<registry>[^/]+)/{_VERSION}", re.IGNORECASE)
_IN_DATASTORE = re.compile(rf"azureml:/+(?:{_WORKSPACE})?datastores/(?P<store>[^/]+)/paths/(?P<path>.+)", re.IGNORECASE)
_JOB_OUTPUT = re.compile(
    rf"azureml:/+(?:{_WORKSPACE})?jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths/.*)?/?", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class AssetAddress:
    """A version of an asset.

    - **kind**: ``data``, ``models`` and the like; empty for the short form, which does not say.
    - **version**, **label**: one of them is empty.
    - **registry**: empty for an asset of a workspace.
    - **workspace**: subscription, group and name, where the address says whose it is.
    """

    kind: str
    name: str
    version: str
    label: str
    registry: str
    workspace: tuple[str, str, str] | None


@dataclass(frozen=True, kw_only=True)
class DatastorePath:
    """A place in a datastore."""

    store: str
    path: str


@dataclass(frozen=True, kw_only=True)
class JobOutput:
    """What a job left under the name of one of its outputs."""

    job: str
    output: str


Address = AssetAddress | DatastorePath | JobOutput


def read_address(text: str) -> Address | None:
    """Return what a text is the address of, or None where it is none of those above."""
    if found := _IN_DATASTORE.fullmatch(text):
        return DatastorePath(store=found["store"], path=found["path"])
    if found := _JOB_OUTPUT.fullmatch(text):
        return JobOutput(job=found["job"], output=found["output"])
    found = _IN_REGISTRY.fullmatch(text) or _LONG.fullmatch(text) or _SHORT.fullmatch(text)
    if found is None:
        return None
    parts = found.groupdict(default="")
    named = (parts.get("subscription", ""), parts.get("group", ""), parts.get("workspace", ""))
    return AssetAddress(
        kind=parts.get("kind", "").lower(),
        name=parts["name"],
        version=parts["version"],
        label=parts["label"],
        registry=parts.get("registry", ""),
        workspace=named if any(named) else None,
    )


def registry_id(registry: str, kind: str, name: str, version: str) -> str:
    """Return the id of an asset's version in a registry."""
    return f"azureml://registries/{registry}/{kind}/{name}/versions/{version}"


def without_version(text: str) -> str:
    """Return an address without the version or the label at its end."""
    return re.sub(r"(/versions/|/labels/|:|@)[^:/@]+$", "", text)
