"""The clients: everything that a run talks to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from phift.azure.threads import taken_soon
from phift.errors import azure_errors

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Workspace

    from phift.azure.rest import Rest

T = TypeVar("T")


@dataclass(frozen=True)
class Clients:
    """Everything a run talks to; a test hands in those of a workspace in its process, or mocks.

    One of these may be shared by all threads of a process, and by several runs.

    - **workspace**: an ``MLClient`` of the workspace.
    - **registry**: an ``MLClient`` of the registry that holds the foundation model.
    - **component_registry**: the one that holds the component; often the same.
    - **rest**: plain JSON calls, see `phift.azure.rest.Rest`.
    - **registry_discovery**: where registries are looked up, a URL ending in a slash.
    - **poll_seconds**: how long to wait between two looks at a job or a deployment.
    - **patience_seconds**: how long a wait puts up with a service that does not answer, in seconds.
    """

    workspace: MLClient = field(repr=False)
    registry: MLClient = field(repr=False)
    component_registry: MLClient = field(repr=False)
    rest: Rest = field(repr=False)
    registry_discovery: str
    poll_seconds: float = 15.0
    patience_seconds: float = 600.0
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _asking: dict[str, threading.Lock] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, question: str, ask: Callable[[], T]) -> T:
        """Return the answer to a question whose answer stays, asking it once whoever wants to know; errors pass."""
        with taken_soon(self._asking.setdefault(question, threading.Lock())):
            if question not in self._known:
                self._known[question] = ask()
            known: T = self._known[question]
            return known

    def find_workspace(self) -> Workspace:
        """Return the workspace as the SDK has it, looked up once: its region and its addresses never change."""
        client = self.workspace
        with azure_errors(f"workspace {client.workspace_name}"):
            return self.once("workspace", lambda: client.workspaces.get(client.workspace_name))
