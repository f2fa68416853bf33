"""One server for all tests of this folder, and everything that four kinds of clients said to it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from fidelity import watched_server, wire_calls
from fidelity.wire_traffic import Traffic, recorded
from phift.local import LocalWorkspace
from phift.local.programs import ENGINES

with warnings.catch_warnings():
    # Its libraries warn about themselves when they are first imported; that is nothing of ours.
    warnings.simplefilter("ignore")
    import azure.ai.ml  # noqa: F401 - imported for that alone

VARIABLES = ("AZUREML_CURRENT_CLOUD", "REQUESTS_CA_BUNDLE", "MLFLOW_TRACKING_TOKEN", "PHIFT_TEST_READS")


@dataclass(frozen=True)
class Said:
    """What was said: the requests and answers, the fields that handlers read, and the clients, which still work."""

    traffic: Traffic
    reads: frozenset[tuple[str, str]]
    clients: wire_calls.Clients
    workspace: LocalWorkspace


@pytest.fixture(scope="session")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Said]:
    folder = tmp_path_factory.mktemp("fidelity")
    (folder / "files").mkdir()
    before = {name: os.environ.get(name) for name in VARIABLES}
    log = logging.getLogger("azure")
    level = log.level
    log.setLevel(logging.ERROR)  # the SDK warns of its experimental classes, once each
    notes = folder / "reads"
    notes.touch()
    os.environ["PHIFT_TEST_READS"] = str(notes)
    programs = replace(ENGINES["instant"], server=(sys.executable, watched_server.__file__))
    workspace = LocalWorkspace(folder / "workspace", speed="fast", programs=programs)
    connection = workspace.up()
    os.environ["REQUESTS_CA_BUNDLE"] = str(connection.ca_bundle)
    clients = wire_calls.Clients(connection, folder / "files")
    try:
        with recorded() as traffic, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the clients' own, of themselves
            _say(clients, traffic)
        yield Said(traffic, frozenset(watched_server.reads(notes)), clients, workspace)
    finally:
        workspace.down()
        clients.session.close()
        log.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _say(clients: wire_calls.Clients, traffic: Traffic) -> None:
    os.environ["MLFLOW_TRACKING_TOKEN"] = clients.token
    with traffic.by("sdk"):
        job = wire_calls.by_sdk(clients)
    with traffic.by("mgmt"):
        wire_calls.by_mgmt(clients, job)
    with traffic.by("mlflow"):
        wire_calls.by_mlflow(clients, job)
    wire_calls.by_hand(clients, job)
