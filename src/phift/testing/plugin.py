"""The pytest plugin: ``phift_workspace``, a clean workspace for each test; ``phift_clients``, a run's clients of it.

    def test_it_is_submitted(phift_workspace):
        submit(phift_workspace.client)
        assert len(phift_workspace.requests("PUT jobs/*")) == 1

In the ini file, or with ``-o`` on the command line:

- ``phift_engine``: ``instant`` or ``train``; ``phift_speed``: ``fast``, ``real`` or ``manual``
- ``phift_datastores``: ``accesskey``, ``identity`` or ``keys-off``, see `phift.testing.TestWorkspace`
- ``phift_server = true``: on a server, which other programs reach too
- ``phift_forbid_azure = true``: nothing in the session reaches another machine, see `phift.testing.forbid_azure`

``@pytest.mark.phift(speed="manual")`` chooses for one test, class or module, and so do ``engine``, ``server`` and
``datastores``; each combination that is asked for has a workspace, as good as new for each test. A test fails if a
fault that it ordered did not strike.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from phift.azure.clients import Clients
    from phift.testing.workspace import TestWorkspace

_WORKSPACE = pytest.StashKey["TestWorkspace"]()
_SETTINGS = ("engine", "speed", "server", "datastores")
_Workspaces = dict[tuple[Any, ...], "TestWorkspace"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings."""
    parser.addini("phift_engine", "what runs jobs in phift_workspace: instant or train", default="instant")
    parser.addini("phift_speed", "time in phift_workspace: fast, real or manual", default="fast")
    parser.addini("phift_server", "give phift_workspace a server", type="bool", default=False)
    parser.addini("phift_datastores", "accesskey, identity or keys-off", default="accesskey")
    parser.addini("phift_forbid_azure", "forbid connections to other machines", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Announce the marker, and forbid what is to be forbidden."""
    settings = ", ".join(f"{name}=..." for name in _SETTINGS)
    config.addinivalue_line("markers", f"phift({settings}): the kind of phift_workspace")
    if config.getini("phift_forbid_azure"):
        from phift.testing.network import forbid_azure

        config.add_cleanup(forbid_azure().lift)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that went well fail after all if one of its ordered faults did not strike."""
    result = yield
    if _WORKSPACE in item.stash:
        item.stash[_WORKSPACE].verify()
    return result


@pytest.fixture(scope="session")
def _phift_workspaces() -> Iterator[_Workspaces]:
    workspaces: _Workspaces = {}
    yield workspaces
    for workspace in workspaces.values():
        workspace.stop()


@pytest.fixture
def phift_workspace(request: pytest.FixtureRequest, _phift_workspaces: _Workspaces) -> Iterator[TestWorkspace]:
    """Give a test a clean `phift.testing.TestWorkspace`, and point this process at it until the test ends."""
    from phift.testing.workspace import TestWorkspace

    asked = {name: request.config.getini(f"phift_{name}") for name in _SETTINGS}
    for marker in reversed(list(request.node.iter_markers("phift"))):  # the closest one last
        if marker.args or marker.kwargs.keys() - asked.keys():
            raise pytest.UsageError(f"pytest.mark.phift takes nothing but: {', '.join(_SETTINGS)}")
        asked |= marker.kwargs
    workspace = _phift_workspaces.setdefault(tuple(asked.values()), TestWorkspace(**asked)).start()
    workspace.reset()
    request.node.stash[_WORKSPACE] = workspace
    yield workspace
    workspace.detach()


@pytest.fixture
def phift_clients(phift_workspace: TestWorkspace) -> Clients:
    """Give a test the clients of a clean workspace that `phift.FineTuneRun` takes."""
    return phift_workspace.clients
