"""Where the workspace's blobs lie, as files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from phift.local.services.arm import ACCOUNT
from phift.local.site import Site
from phift.local.state.documents import Folder, UnsafePath, confined
from phift.local.wire.call import WireError

MODELS = "registry-models"
"""The container that holds the registry's models; nobody is given the right to write there."""

VERSION = {"x-ms-version": "2021-08-06"}
"""The header that all answers of the storage account have."""


def path_of(site: Site, container: str, name: str) -> Path:
    """Return the file behind a blob, or the folder behind a prefix; it need not be there."""
    base = site.folder.registry if container == MODELS else site.folder.blobs / "storage" / container
    try:
        return confined(base, name.rstrip("/"))
    except UnsafePath as error:
        message = "The requested URI does not represent a resource on the server."
        raise WireError(400, "InvalidUri", message, VERSION) from error


def signed_url(site: Site, container: str, name: str) -> str:
    """Return a URL that reads one blob, as it is then, without a token."""
    signature = site.identity.sas(f"{ACCOUNT}/{container}/{name}", "r", blob=True)
    return f"{site.base_url}/{ACCOUNT}/{container}/{quote(name)}?{signature}"


def clear_halves(folder: Folder) -> None:
    """Delete what a killed server was writing; blocks that are whole stay, since their upload may go on."""
    for half in (*folder.staging.glob("*"), *folder.staging.glob("blocks-*/*.*")):
        if half.is_file():
            half.unlink()
