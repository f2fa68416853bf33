"""What every test of phift has: the plugin it offers to others, and no way to another machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import certifi
import pytest

from phift.local import garbage
from phift.testing import forbid_azure

garbage.look_seldom()  # before tests import the SDK, torch and what else is large

pytest_plugins = ["phift.testing.plugin"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PHIFT_PROOFS" not in os.environ:
        for item in items:
            if item.get_closest_marker("proof"):
                item.add_marker(pytest.mark.skip(reason="takes long: make proofs"))


@pytest.fixture(scope="session", autouse=True)
def _no_azure() -> Iterator[None]:
    # One suite is meant for Azure too, where somebody asks for it by name; see docs/verified.md.
    with nullcontext() if os.environ.get("PHIFT_CONTRACT_AZURE") else forbid_azure():
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one authority besides a workspace's own: to read all of them takes longer than most answers.

    They are read for every connection, 40 ms each time: 44 % of the time of one file of tests (2026-11-28).
    """
    if os.environ.get("PHIFT_CONTRACT_AZURE"):
        yield
        return
    end = "-----END CERTIFICATE-----\n"
    authority = tmp_path_factory.mktemp("authority") / "one.pem"
    authority.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Let torch compute in one thread: the cores are other tests', and at every step threads wait for the slowest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """Take signals as in a terminal: a shell's background and nohup have one ignored, by their children too."""
    heard = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {each: signal.signal(each, handler) for each, handler in heard.items()}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture
def child_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the SDK's clients of other tests have set, for a process that imports the SDK for itself.

    It would look up that cloud's addresses, which it does not know.
    """
    monkeypatch.delenv("AZUREML_CURRENT_CLOUD", raising=False)
