"""A running local workspace, with the real programs or with fakes."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import emulator
import pytest
from fakes.server import programs
from running import Local

from phift.local import LocalWorkspace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests whose servers end under a client find its sockets unclosed; those of other folders are held to it.

    Python 3.11's ssl leaves a socket open whose peer resets it before TLS begins, as a server that ends does.
    """
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"))


@pytest.fixture(scope="module", autouse=True)
def _collect_sockets() -> Iterator[None]:
    """Have what a file's tests left unclosed collected by themselves, and by no test of another folder."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def quiet_sdk() -> Iterator[None]:
    """Keep what the SDK's clients set in the environment inside the tests."""
    names = ("AZUREML_CURRENT_CLOUD", "REQUESTS_CA_BUNDLE")
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """Keep the SDK's own log to errors, as the command line does; it warns of its experimental classes, once each."""
    log = logging.getLogger("azure")
    before = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(before)


def _running(folder: Path, workspace: LocalWorkspace) -> Iterator[Local]:
    connection = workspace.up()
    os.environ["REQUESTS_CA_BUNDLE"] = str(connection.ca_bundle)
    local = Local(workspace, connection)
    try:
        yield local
    finally:
        local.session.close()
        workspace.down()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, quiet_sdk: None) -> Iterator[Local]:
    """A running local workspace that really trains, one for each file of tests."""
    folder = tmp_path_factory.mktemp("local") / "workspace"
    yield from _running(folder, LocalWorkspace(folder))


@pytest.fixture(scope="module")
def instant(tmp_path_factory: pytest.TempPathFactory, quiet_sdk: None) -> Iterator[Local]:
    """A running local workspace that trains nothing and lets nothing wait, one for each file of tests."""
    folder = tmp_path_factory.mktemp("instant") / "workspace"
    yield from _running(folder, LocalWorkspace(folder, engine="instant", speed="fast"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, quiet_sdk: None) -> Iterator[Local]:
    """A running local workspace whose engine, scorer and models are fakes, one for each file of tests."""
    folder = tmp_path_factory.mktemp("fake") / "workspace"
    yield from _running(folder, LocalWorkspace(folder, programs=programs()))


@pytest.fixture
def own_local(tmp_path: Path, quiet_sdk: None) -> Iterator[Local]:
    """As ``local``, for one test alone: it may stop, kill and start it."""
    before = os.environ.get("REQUESTS_CA_BUNDLE")
    folder = tmp_path / "workspace"
    yield from _running(folder, LocalWorkspace(folder, programs=programs()))
    if before is not None:
        os.environ["REQUESTS_CA_BUNDLE"] = before


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[emulator.Emulator]:
    """Microsoft's storage emulator; where it is not installed the test is skipped, or fails in CI."""
    with emulator.running(tmp_path_factory.mktemp("azurite")) as running:
        yield running
