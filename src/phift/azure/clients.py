"""The clients: everything that a run talks to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

    from phift.azure.rest import Rest


@dataclass(frozen=True)
class Clients:
    """Everything a run talks to; a test hands in fakes.

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
