"""What a process needs besides variables to reach a local workspace: whom it trusts, and which clouds MLflow knows."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from phift.local.names import cloud_documents, cloud_name

# No private keys: a file of authorities may have them too, and they are no business of ours.
_AUTHORITY = re.compile(rb"-----BEGIN ((?:TRUSTED |X509 )?CERTIFICATE|X509 CRL)-----.*?-----END \1-----", re.DOTALL)
_writing = threading.Lock()


def trust(bundle: Path) -> Path:
    """Return a value for ``REQUESTS_CA_BUNDLE``: what this process trusts already, and a workspace's authorities too.

    Each workspace has an authority of its own, so the second one's file alone would shut out the first one's clients,
    and would be gone with the second. Both go into a file that lives as long as this process does, unless that is not
    needed: the workspace is trusted already, or is the first and nobody has named a file.

    - **bundle**: the workspace's file, `phift.local.Connection.ca_bundle`.
    """
    import certifi

    told = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")  # in requests' own order
    named = Path(told) if told and Path(told).exists() else None  # what is gone was a workspace's that is gone
    present = named or Path(certifi.where())
    trusted, added = _authorities(present), _authorities(bundle)
    if added.keys() <= trusted.keys():
        return present
    if named is None and trusted.keys() <= added.keys():
        return bundle
    content = b"\n".join((trusted | added).values()) + b"\n"
    with _writing:  # under a name of its own: a file that others read at this moment is never changed
        path = _folder() / f"{hashlib.sha256(content).hexdigest()[:16]}.pem"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return path


def _authorities(source: Path) -> dict[bytes, bytes]:
    """Return the authorities in a file or a folder, each by what it is however its lines are broken."""
    files = sorted(path for path in source.glob("*") if path.is_file()) if source.is_dir() else [source]
    found = [match[0] for file in files for match in _AUTHORITY.finditer(file.read_bytes())]
    return {b"".join(authority.split()): authority for authority in found}


@cache
def _folder() -> Path:
    folder, owner = Path(tempfile.mkdtemp(prefix="phift-trust-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a fork ends earlier, and the file is not its own
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def tell_mlflow(base_url: str) -> None:
    """Let MLflow's azureml plugin know a workspace's cloud, where it has been imported.

    It reads the clouds once, when it is imported, and would ask Azure for one that it has not seen then. Imported
    later, it asks at ``ARM_CLOUD_METADATA_URL``.
    """
    if plugin := _mlflow_plugin():
        plugin.KNOWN_CLOUDS.update(plugin._convert_arm_to_cli(cloud_documents(base_url)))


@contextmanager
def told_to_mlflow(base_url: str) -> Iterator[None]:
    """As `tell_mlflow`, until the end of the block; the plugin knows Azure's clouds then, whenever it was imported."""
    tell_mlflow(base_url)
    try:
        yield
    finally:
        if plugin := _mlflow_plugin():
            plugin.KNOWN_CLOUDS.pop(cloud_name(base_url), None)
            for cloud in plugin.HARD_CODED_CLOUD_LIST:  # imported inside, it has seen the workspace's cloud only
                plugin.KNOWN_CLOUDS.setdefault(cloud.name, cloud)


def _mlflow_plugin() -> Any:
    """Return the plugin's module of clouds; None while it is not imported or is another than we know."""
    plugin = sys.modules.get("azureml.mlflow._common._cloud.cloud")
    known = {"KNOWN_CLOUDS", "HARD_CODED_CLOUD_LIST", "_convert_arm_to_cli"}
    return plugin if plugin and known <= vars(plugin).keys() else None
