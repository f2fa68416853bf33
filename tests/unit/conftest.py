"""What every unit test starts from: an environment that names no cloud, and a server where a test asks for one."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from phift.azure.clients import Clients
from phift.testing import TestWorkspace
from unit.loopback import Script, scripted_server

# azure-ai-ml 1.35.2 defines its schemas in ways that marshmallow 3 warns of; they are imported once, here.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", module=r"azure\.ai\.ml", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module=r"marshmallow", category=DeprecationWarning)
    import_module("azure.ai.ml.dsl")

VARIABLES = (
    "AZUREML_CURRENT_CLOUD",
    "AZURE_SUBSCRIPTION_ID",
    "AZURE_RESOURCE_GROUP",
    "AZUREML_WORKSPACE_NAME",
    "AZUREML_ARM_SUBSCRIPTION",
    "AZUREML_ARM_RESOURCEGROUP",
    "AZUREML_ARM_WORKSPACE_NAME",
    "AZURE_CLIENT_ID",
    "DEFAULT_IDENTITY_CLIENT_ID",
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """Undo what the command line does to its process."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    level = logging.getLogger("azure").level
    yield
    for each, handler in handlers.items():
        signal.signal(each, handler)
    logging.getLogger("azure").setLevel(level)


@pytest.fixture(scope="session")
def _script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Script, Path]]:
    folder = tmp_path_factory.mktemp("loopback")
    with scripted_server(folder) as script:
        yield script, folder / "ca.pem"


@pytest.fixture
def server(_script: tuple[Script, Path], monkeypatch: pytest.MonkeyPatch) -> Script:
    """A scripted HTTPS server that this process trusts during the test."""
    script, authority = _script
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    return script


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were slept, without sleeping them."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.fixture
def workspace(phift_workspace: TestWorkspace, monkeypatch: pytest.MonkeyPatch) -> TestWorkspace:
    """A local workspace in this process, as good as new.

    The SDK does not load MLflow meanwhile, which takes 3 s: where it can, it asks it for an address that it knows.
    """
    monkeypatch.setitem(sys.modules, "azureml.mlflow", None)
    return phift_workspace


@pytest.fixture
def clients(workspace: TestWorkspace) -> Clients:
    """A run's clients of the local workspace; phift does not wait with them."""
    return replace(workspace.clients, poll_seconds=0)
