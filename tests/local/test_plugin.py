"""The pytest plugin, in a session of its own whose tests pass and fail as they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SUITE = """
import os
import socket

import pytest
from phift.testing import Fault, forbid_azure

ADDRESSES = set()


def test_first(phift_workspace):
    ADDRESSES.add(phift_workspace.connection.base_url)
    phift_workspace.add_compute("left-behind", "Standard_DS12_v2")
    assert phift_workspace.speed == "fast"


def test_second(phift_workspace):
    ADDRESSES.add(phift_workspace.connection.base_url)
    assert len(ADDRESSES) == 1
    assert [each.name for each in phift_workspace.client.compute.list()] == ["gpu-cluster"]


def test_the_process_is_put_back():
    assert "IDENTITY_HEADER" not in os.environ
    assert "AZUREML_CURRENT_CLOUD" not in os.environ


def test_a_run_s_clients_are_of_the_workspace(phift_clients, phift_workspace):
    assert [each.name for each in phift_clients.workspace.compute.list()] == ["gpu-cluster"]
    assert phift_clients.registry.models.get("Phi-4-mini-instruct", label="latest").version == "1"
    assert len(phift_workspace.requests("GET computes")) == 1


def test_fails_for_a_fault_that_did_not_strike(phift_workspace):
    phift_workspace.order(Fault("PUT jobs/*", status=503))


def test_fails_for_its_own_reason(phift_workspace):
    phift_workspace.order(Fault("PUT jobs/*", status=503))
    raise ZeroDivisionError("my own")


@pytest.fixture
def indirect(request):
    return request.getfixturevalue("phift_workspace")


def test_fails_also_where_the_fixture_was_asked_for_late(indirect):
    indirect.order(Fault("GET jobs/*", status=503))


@pytest.mark.phift(speed="manual")
class TestClock:
    def test_manual(self, phift_workspace):
        assert phift_workspace.speed == "manual"
        ADDRESSES.add(phift_workspace.connection.base_url)
        assert len(ADDRESSES) == 2

    @pytest.mark.phift(server=True)
    def test_a_server_is_one_word_more(self, phift_workspace):
        assert phift_workspace.connection.base_url.startswith("https://localhost:")

    @pytest.mark.phift(speed="fast")
    def test_the_closest_mark_counts(self, phift_workspace):
        assert phift_workspace.speed == "fast"
        assert phift_workspace.connection.base_url in ADDRESSES


@pytest.mark.phift("manual")
def test_errs_for_a_mark_that_says_nothing(phift_workspace):
    pass


def test_no_way_out():
    with pytest.raises(RuntimeError, match="management.azure.com"):
        socket.getaddrinfo("management.azure.com", 443)
"""


def test_a_session(tmp_path: Path, child_environment: None) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nphift_forbid_azure = true\naddopts = --strict-markers\n")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "phift.testing.plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(  # noqa: S603 - ours
        command, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    found = re.findall(r"^(PASSED|FAILED|ERROR) test_suite.py::(\S+)", done.stdout, flags=re.MULTILINE)
    assert len(found) == 12, done.stdout
    expected = {"fails": "FAILED", "errs": "ERROR"}
    for word, name in found:
        assert word == next((expected[part] for part in expected if part in name), "PASSED"), (name, done.stdout)
    missed = re.findall(r"^E .*of the ordered faults did not strike", done.stdout, flags=re.MULTILINE)
    assert len(missed) == 2  # the test that failed by itself is not blamed for it
    assert "ZeroDivisionError: my own" in done.stdout
    assert "takes nothing but: engine, speed, server, datastores" in done.stdout
