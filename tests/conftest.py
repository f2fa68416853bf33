"""What every test of phift has: the plugin it offers to others, and no way to another machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from phift.testing import forbid_azure

pytest_plugins = ["phift.testing.plugin"]


@pytest.fixture(scope="session", autouse=True)
def _no_azure() -> Iterator[None]:
    # One suite is meant for Azure too, where somebody asks for it by name; see docs/verified.md.
    with nullcontext() if os.environ.get("PHIFT_CONTRACT_AZURE") else forbid_azure():
        yield


@pytest.fixture
def child_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the SDK's clients of other tests have set, for a process that imports the SDK for itself.

    It would look up that cloud's addresses, which it does not know.
    """
    for name in ("AZUREML_CURRENT_CLOUD", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
