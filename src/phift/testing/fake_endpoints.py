"""Online endpoints and deployments of `phift.testing.fake`."""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Iterator
from typing import Any

from azure.ai.ml.entities import EndpointAuthKeys, ManagedOnlineDeployment, ManagedOnlineEndpoint
from azure.ai.ml.exceptions import MlException
from azure.ai.ml.operations import OnlineDeploymentOperations, OnlineEndpointOperations
from azure.core.polling import LROPoller

from phift.testing.fake_service import (
    DeploymentProvisioningState,
    EndpointProvisioningState,
    Record,
    not_covered,
    not_found,
    poller,
    service_error,
    state,
)

_NAME = re.compile(r"[A-Za-z](?:-?[A-Za-z0-9])*")


class Deployments:
    """Online deployments.

    - **known**: by endpoint and name.
    - **outcomes**: the states that the next ones end in; ``Succeeded`` when there are no more.
    - **log**: what a container's log begins with.
    """

    def __init__(self, record: Record, owner: str, endpoints: dict[str, Any]) -> None:
        self._record, self._owner, self._endpoints = record, owner, endpoints
        self.known: dict[tuple[str, str], Any] = {}
        self.outcomes: list[str] = []
        self.log = "a line of the log"

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other operations."""
        return not_covered(OnlineDeploymentOperations, "online_deployments", name)

    def add(self, name: str, endpoint: str, model: str, provisioning_state: str = "Succeeded", **settings: Any) -> Any:
        """Store a deployment as it is, for the start of a test."""
        made = ManagedOnlineDeployment(name=name, endpoint_name=endpoint, model=model, **settings)
        made._provisioning_state = state(DeploymentProvisioningState, provisioning_state)
        self.known[endpoint, name] = made
        return made

    def get(self, name: str, endpoint_name: str) -> Any:
        """Return a deployment."""
        self._record("online_deployments.get", name)
        return copy.deepcopy(self._found(name, endpoint_name))

    def _found(self, name: str, endpoint: str) -> Any:
        if (endpoint, name) not in self.known:
            raise not_found("online deployment", name)
        return self.known[endpoint, name]

    def of(self, endpoint: str) -> list[Any]:
        """Return the deployments of an endpoint."""
        return [found for key, found in self.known.items() if key[0] == endpoint]

    def list(self, endpoint_name: str) -> Iterator[Any]:
        """Return an endpoint's deployments."""
        self._record("online_deployments.list", endpoint_name)
        self._check_endpoint(endpoint_name)
        return iter([copy.deepcopy(found) for found in self.of(endpoint_name)])

    def _check_endpoint(self, name: str) -> None:
        if name not in self._endpoints:
            raise not_found("online endpoint", name)

    def begin_create_or_update(self, deployment: Any) -> LROPoller[Any]:
        """Create or change a deployment."""
        self._record("online_deployments.begin_create_or_update", deployment.name)
        endpoint = deployment.endpoint_name
        self._check_endpoint(endpoint)
        _check_name("deployment", deployment.name)
        outcome = self.outcomes.pop(0) if self.outcomes else "Succeeded"
        error = self._record.ordered("online_deployments.result")
        made = copy.deepcopy(deployment)
        made._provisioning_state = state(DeploymentProvisioningState, "Failed" if error else outcome)
        made._id = f"{self._owner}/onlineEndpoints/{endpoint}/deployments/{made.name}"
        self.known[endpoint, made.name] = made
        return poller(copy.deepcopy(made), error)

    def begin_delete(self, name: str, endpoint_name: str) -> LROPoller[Any]:
        """Delete a deployment that has no traffic; one that is not there is no error."""
        self._record("online_deployments.begin_delete", name)
        self._check_endpoint(endpoint_name)
        if (self._endpoints[endpoint_name].traffic or {}).get(name):
            raise service_error(400, f"Can't delete deployment [{name}] with non-zero traffic weight.")
        self.known.pop((endpoint_name, name), None)
        return poller(None, self._record.ordered("online_deployments.result"))

    def get_logs(self, name: str, endpoint_name: str, lines: int, *, container_type: str | None = None) -> str:
        """Return the end of a container's log."""
        self._record("online_deployments.get_logs", name, container_type or "")
        self._found(name, endpoint_name)
        return "\n".join(f"{self.log} of {container_type or 'inference-server'}".splitlines()[-lines:])


class Endpoints:
    """Online endpoints; a get is a copy, and an update replaces the traffic rules, as the service's do.

    - **known**: by name.
    - **states**: what the next looks at an endpoint see, before its last state.
    - **undeletable**: deleting ends well and deletes nothing.
    - **scoring_uri**: where the next ones are.
    - **next_keys**: what the next ones' two keys are, instead of random ones.
    """

    def __init__(self, record: Record, owner: str) -> None:
        self._record, self._owner = record, owner
        self.known: dict[str, Any] = {}
        self.deployments = Deployments(record, owner, self.known)
        self.states: dict[str, list[str]] = {}
        self.undeletable = False
        self.scoring_uri = "https://endpoint.test/score"
        self.next_keys: tuple[str, str] | None = None
        self._keys: dict[str, dict[str, str]] = {}

    def __getattr__(self, name: str) -> Any:
        """Stand for the SDK's other operations."""
        return not_covered(OnlineEndpointOperations, "online_endpoints", name)

    def add(self, name: str, **settings: Any) -> Any:
        """Store an endpoint as it is, for the start of a test."""
        now = settings.pop("provisioning_state", "Succeeded")
        endpoint = ManagedOnlineEndpoint(name=name, **{"auth_mode": "key", **settings})
        return self._store(endpoint, now)

    def _store(self, endpoint: Any, now: str) -> Any:
        endpoint._provisioning_state, endpoint._scoring_uri = state(EndpointProvisioningState, now), self.scoring_uri
        endpoint._id = f"{self._owner}/onlineEndpoints/{endpoint.name}"
        self.known[endpoint.name] = endpoint
        primary, secondary = self.next_keys or (uuid.uuid4().hex, uuid.uuid4().hex)
        self._keys.setdefault(endpoint.name, {"primary": primary, "secondary": secondary})
        return endpoint

    def _found(self, name: str) -> Any:
        if name not in self.known:
            raise not_found("online endpoint", name)
        return self.known[name]

    def get(self, name: str) -> Any:
        """Return an endpoint; as the SDK's, with a traffic of 0 for each deployment that has none."""
        self._record("online_endpoints.get", name)
        endpoint = copy.deepcopy(self._found(name))
        endpoint.traffic = {**{found.name: 0 for found in self.deployments.of(name)}, **(endpoint.traffic or {})}
        if waiting := self.states.get(name):
            endpoint._provisioning_state = state(EndpointProvisioningState, waiting.pop(0))
        return endpoint

    def list(self) -> Iterator[Any]:
        """Return all endpoints."""
        self._record("online_endpoints.list")
        return iter([copy.deepcopy(endpoint) for endpoint in self.known.values()])

    def get_keys(self, name: str) -> Any:
        """Return an endpoint's two keys."""
        self._record("online_endpoints.get_keys", name)
        self._found(name)
        keys = self._keys[name]
        return EndpointAuthKeys(primary_key=keys["primary"], secondary_key=keys["secondary"])

    def begin_regenerate_keys(self, name: str, *, key_type: str = "primary") -> LROPoller[Any]:
        """Make one of the keys anew."""
        self._record("online_endpoints.begin_regenerate_keys", name, key_type)
        self._found(name)
        self._keys[name][key_type.lower()] = uuid.uuid4().hex
        return poller()

    def begin_create_or_update(self, endpoint: Any) -> LROPoller[Any]:
        """Create or change an endpoint; how it is authenticated never changes."""
        self._record("online_endpoints.begin_create_or_update", endpoint.name)
        _check_name("endpoint", endpoint.name)
        previous = self.known.get(endpoint.name)
        if previous and previous.auth_mode != endpoint.auth_mode:
            raise service_error(400, "The authMode of an existing endpoint cannot be changed.")
        traffic = {name: share for name, share in (endpoint.traffic or {}).items() if share}  # the SDK sends no zeros
        self._check_traffic(endpoint.name, traffic)
        error = self._record.ordered("online_endpoints.result")
        made = copy.deepcopy(endpoint)
        made.traffic, made.tags = traffic, dict(endpoint.tags or {})
        self._store(made, "Failed" if error else "Succeeded")
        return poller(copy.deepcopy(made), error)

    def _check_traffic(self, endpoint: str, traffic: dict[str, int]) -> None:
        names = {found.name for found in self.deployments.of(endpoint)}
        for name in traffic:
            if name not in names:
                raise service_error(400, f"Traffic cannot go to {name}: the endpoint has no such deployment.")
        if sum(traffic.values()) not in (0, 100):
            raise service_error(400, "The traffic of all deployments must sum to 0 or 100.")

    def begin_delete(self, name: str | None = None) -> LROPoller[Any]:
        """Delete an endpoint with its deployments; one that is not there is no error."""
        name = str(name)
        self._record("online_endpoints.begin_delete", name)
        error = self._record.ordered("online_endpoints.result")
        if not self.undeletable and not error:
            self.known.pop(name, None)
            self._keys.pop(name, None)
            for key in [key for key in self.deployments.known if key[0] == name]:
                del self.deployments.known[key]
        return poller(None, error)


def _check_name(kind: str, name: str) -> None:
    if not (_NAME.fullmatch(name) and 3 <= len(name) <= 32):
        # By the SDK itself (1.35.2), as advice that is an `MlException`.
        message = f"The {kind} name {name} is not valid: 3 to 32 letters, digits and single dashes, a letter first."
        raise MlException(message=message, no_personal_data_message=message)
