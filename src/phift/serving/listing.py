"""What phift has deployed in a workspace, by the tags of the endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from phift.azure.answers import listed, text, texts
from phift.azure.clients import Clients
from phift.errors import azure_errors
from phift.jobs.job import JOB_TAG
from phift.jobs.record import CONFIGURATION, SERIES
from phift.serving.tags import CREATED, MODEL, is_made_by_phift


@dataclass(frozen=True, kw_only=True)
class DeployedEndpoint:
    """An endpoint that phift made, and that costs money until it is deleted.

    - **job**: the job whose model it serves; empty for one of a registry's model.
    - **model**: ``name:version`` of the model it was made for.
    - **series**, **configuration**: see `phift.jobs.record`.
    - **created**: when; None for one that an older phift made.
    - **traffic**: percent by deployment.
    """

    name: str
    job: str
    model: str
    series: str
    configuration: str
    created: datetime | None
    traffic: Mapping[str, int]

    @property
    def age(self) -> timedelta | None:
        """How long it has been there."""
        return datetime.now(UTC) - self.created if self.created else None

    def __str__(self) -> str:
        return f"{self.name} ({f'of job {self.job}' if self.job else f'of model {self.model}'})"


def deployed_endpoints(clients: Clients) -> list[DeployedEndpoint]:
    """Return the endpoints in the workspace that phift made, the newest first."""
    with azure_errors("endpoints"):
        found = listed(clients.workspace.online_endpoints.list(), "endpoints")
    made = [_deployed(each) for each in found if is_made_by_phift(texts(each.tags, "endpoint.tags"))]
    return sorted(made, key=lambda each: each.created or datetime.min.replace(tzinfo=UTC), reverse=True)


def deployments_of(clients: Clients, endpoint: str) -> dict[str, str]:
    """Return how many instances of which VM size each deployment of an endpoint has, as text."""
    with azure_errors(f"endpoint {endpoint}"):
        found = listed(clients.workspace.online_deployments.list(endpoint), f"deployments of {endpoint}")
    return {
        text(each.name, "deployment.name"): f"{each.instance_count} x {text(each.instance_type, 'instance_type')}"
        for each in found
    }


def _deployed(endpoint: Any) -> DeployedEndpoint:
    tags = texts(endpoint.tags, "endpoint.tags")
    try:
        created = datetime.fromisoformat(tags.get(CREATED, ""))
    except ValueError:
        created = None
    return DeployedEndpoint(
        name=text(endpoint.name, "endpoint.name"),
        job=tags.get(JOB_TAG, ""),
        model=tags.get(MODEL, ""),
        series=tags.get(SERIES, ""),
        configuration=tags.get(CONFIGURATION, ""),
        created=created,
        traffic={str(name): share for name, share in dict(endpoint.traffic or {}).items()},
    )
