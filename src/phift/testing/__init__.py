"""What a test suite needs to test code for Azure ML without Azure.

    from phift.testing import Fault, TestWorkspace

    with TestWorkspace() as workspace:
        workspace.order(Fault("PUT jobs/*", status=503))
        submit(workspace.client)

- `TestWorkspace`: a local workspace in this process, or on a server of its own, for the real ``azure-ai-ml``
- `Fault`: something that goes wrong there, to order
- `forbid_azure`: nothing in this process reaches another machine
- ``phift_workspace`` and ``phift_clients``: pytest fixtures, see `phift.testing.plugin`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phift.local.state.faults import Fault
    from phift.testing.network import forbid_azure
    from phift.testing.workspace import TestWorkspace

# Loaded when first used: pytest imports this package in every session, also in those that do not need it.
_PLACES = {
    "Fault": "phift.local.state.faults",
    "TestWorkspace": "phift.testing.workspace",
    "forbid_azure": "phift.testing.network",
}

__all__ = ["Fault", "TestWorkspace", "forbid_azure"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'phift.testing' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
