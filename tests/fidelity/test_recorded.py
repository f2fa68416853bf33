"""The local workspace beside recorded answers of Azure ML: nothing differs but what is listed with its reason."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator

import pytest

from fidelity.recorded_calls import make
from fidelity.recording import Recording, differences, recordings
from fidelity.wire_calls import Clients
from fidelity.wire_traffic import Exchange, recorded
from phift.local import LocalWorkspace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the clients' own warnings, of themselves


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Exchange], str]]:
    folder = tmp_path_factory.mktemp("recorded")
    log, before = logging.getLogger("azure"), os.environ.copy()
    level = log.level
    log.setLevel(logging.ERROR)  # the SDK warns of its experimental classes, once each
    workspace = LocalWorkspace(folder / "workspace", engine="instant", speed="fast")
    connection = workspace.up()
    os.environ["REQUESTS_CA_BUNDLE"] = str(connection.ca_bundle)
    clients = Clients(connection, folder)
    try:
        with recorded() as traffic:
            printed = make(clients, traffic)
        yield traffic.exchanges, printed
    finally:
        clients.session.close()
        workspace.down()
        log.setLevel(level)
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize("recording", recordings(), ids=lambda recording: recording.name)
def test_nothing_differs_but_what_is_known(said: tuple[list[Exchange], str], recording: Recording) -> None:
    exchanges, _ = said
    part = [exchange for exchange in exchanges if exchange.client == recording.part]
    assert differences(recording, part) == list(recording.known)


def test_stream_prints_what_it_prints_at_azure(said: tuple[list[Exchange], str]) -> None:
    # azureml-examples 085cd6ea, model-monitoring-e2e.ipynb, cell 14 (2024-01-11). The log in the middle, which the SDK
    # prints of a job that still runs, is in tests/local/test_server_sdk.py.
    _, printed = said
    job = r"RunId: \S+\nWeb View: https://ml\.azure\.com/runs/\S+\n"
    log = r"\nStreaming logs/azureml/executionlogs\.txt\n=+\n\n(\[.*\n)+"
    assert re.fullmatch(rf"{job}({log})?\nExecution Summary\n=+\n{job}\n", printed), printed
