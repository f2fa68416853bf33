"""Environment variables for a while: this process pointed at a test workspace, and back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_CLOUD = "AZUREML_CURRENT_CLOUD"  # the SDK's clients set it themselves, see `phift.azure.clients`

# What DefaultAzureCredential of azure-identity 1.27 takes before the identity endpoint, or instead of it.
_OTHER_IDENTITIES = (
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_PASSWORD",
    "AZURE_TENANT_ID",
    "AZURE_TOKEN_CREDENTIALS",
    "AZURE_USERNAME",
    "IDENTITY_SERVER_THUMBPRINT",
)


@contextmanager
def pointed_at(variables: Mapping[str, str]) -> Iterator[None]:
    """Set a workspace's variables, take away those that lead elsewhere, and put all of them back at the end."""
    names = (*variables, *_OTHER_IDENTITIES, _CLOUD)
    before = {name: os.environ.get(name) for name in names}
    for name in (*_OTHER_IDENTITIES, _CLOUD):
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
