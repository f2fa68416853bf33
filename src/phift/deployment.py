"""The deployment: endpoint, deployment and traffic, made as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from phift.checks import Finding
from phift.clients import Clients
from phift.compute import size_findings, smallest_size
from phift.config import DeploymentConfig
from phift.endpoint import (
    DeploymentEvent,
    Endpoint,
    OnEvent,
    delete_endpoint,
    ignore_event,
    provisioning_state,
    settled,
)
from phift.errors import (
    AuthenticationError,
    ComputeError,
    Conflict,
    DeploymentFailed,
    NotFound,
    PhiftError,
    ServiceUnreachable,
    azure_errors,
    redact,
)
from phift.models import FoundationModel
from phift.quiet import quiet_sdk


def deployment_size(model: FoundationModel, config: DeploymentConfig) -> str | None:
    """Return the VM size to deploy on: the configured one, else the smallest allowed one that the table knows."""
    return config.instance_type or (smallest_size(model.inference) if model.inference else None)


def instance_findings(model: FoundationModel, config: DeploymentConfig) -> list[Finding]:
    """Hold the deployment's VM size against the model's inference allow-list."""
    size = deployment_size(model, config)
    if size is None:
        message = f"No source says which VM sizes can serve {model.name}."
        if model.inference:
            message = f"The built-in table knows none of the sizes that can serve {model.name}, so none can be chosen."
        fix = "give `deployment.instance_type`" + (f": {', '.join(model.inference.sizes)}" if model.inference else "")
        return [
            Finding(code="DEPLOYMENT_NO_SIZE", severity="error", place="deployment", message=message, fix=fix),
        ]
    place = "deployment.instance_type"
    return size_findings(size, model.inference, model.name, "inference", config.allow_unlisted, place)


def instance_type(model: FoundationModel, config: DeploymentConfig) -> str:
    """Return the VM size to deploy on; raises `phift.errors.ComputeError` where the allow-list does not have it."""
    for finding in instance_findings(model, config):
        if finding.severity == "error":
            raise ComputeError(finding.message, where=finding.place, fix=finding.fix)
    return str(deployment_size(model, config))


def deploy_model(
    clients: Clients,
    *,
    model_id: str,
    name: str,
    size: str,
    config: DeploymentConfig,
    tags: Mapping[str, str],
    on_event: OnEvent | None = None,
) -> Endpoint:
    """Deploy a model behind a key-protected endpoint with all traffic on it, once: a second call finds what is there.

    If it fails or is interrupted, what this call made is deleted again.

    - **model_id**: a registered model's id, or a registry model's.
    - **size**: VM size, see `instance_type`.

    Raises `phift.errors.DeploymentFailed` with the end of the container's log.
    """
    emit = on_event or ignore_event
    made: list[str] = []
    try:
        with quiet_sdk():
            _ensure_endpoint(clients, name, tags, made, emit)
            _ensure_deployment(clients, name, model_id, size, config, made, emit)
            _ensure_traffic(clients, name, config.deployment_name, emit)
        endpoint = Endpoint(clients, name, config, emit)
        emit(DeploymentEvent("ready", name))
    except BaseException as error:
        tail = _log_tail(clients, name, config.deployment_name) if isinstance(error, PhiftError) else ""
        left = _roll_back(clients, name, config.deployment_name, made, emit)
        if isinstance(error, AuthenticationError | Conflict) or not isinstance(error, PhiftError):
            if left:
                error.add_note(left)
            raise
        fix = f"{f'{error.fix}; ' if error.fix else ''}the end of the container's log is in `log_tail`; "
        fix += left or "what was made is deleted again"
        what = f"The deployment did not come up: {error.what}"
        raise DeploymentFailed(what, where=f"endpoint {name}", fix=fix, log_tail=tail) from error
    return endpoint


def _ensure_endpoint(clients: Clients, name: str, tags: Mapping[str, str], made: list[str], emit: OnEvent) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    existing = settled(clients, lambda: clients.workspace.online_endpoints.get(name), f"endpoint {name}")
    if existing is not None:
        _check_ours(existing, name, tags)
        if provisioning_state(existing) == "succeeded":
            return
        delete_endpoint(clients, name, emit)
    made.append("endpoint")
    emit(DeploymentEvent("endpoint", name))
    endpoint = ManagedOnlineEndpoint(name=name, auth_mode="key", tags=dict(tags))
    endpoints = clients.workspace.online_endpoints
    found = _finished(
        clients,
        lambda: endpoints.begin_create_or_update(endpoint).result(),
        lambda: endpoints.get(name),
        f"endpoint {name}",
    )
    if found is not None:
        made.remove("endpoint")  # until it is known to be ours, and no longer than that
        _check_ours(found, name, tags)
        made.append("endpoint")
        _check_succeeded(found, f"endpoint {name}")


def _finished(
    clients: Clients,
    make: Callable[[], Any],
    get: Callable[[], Any],
    place: str,
    right: Callable[[Any], bool] = lambda _found: True,
) -> Any:
    """Make or change something; where the answer was lost, wait for what is there and return it, else None.

    azure-core sends a PUT again whose answer was lost, and the service refuses to change what it is making.

    - **right**: whether what is there is what was to be; if it is not, the error stands.
    """
    try:
        with azure_errors(place):
            make()
    except (Conflict, ServiceUnreachable):
        found = settled(clients, get, place)
        if found is None or not right(found):
            raise
        return found
    return None


def _check_succeeded(resource: Any, place: str) -> None:
    state = provisioning_state(resource)
    if state != "succeeded":
        raise DeploymentFailed(f"it ended as {state}.", where=place)


def _check_ours(endpoint: Any, name: str, tags: Mapping[str, str]) -> None:
    """Refuse to touch an endpoint that somebody else, or another run, made."""
    found = {str(key): str(value) for key, value in (endpoint.tags or {}).items()}
    if any(found.get(key) != value for key, value in tags.items()):
        model = found.get("phift.model")
        maker = f"for {model}" if model else "and phift did not make it"
        what = f"There is an endpoint {name} already, {maker}."
        fix = "set `deployment.endpoint_name` to another name, or delete that endpoint"
        raise Conflict(what, where=f"endpoint {name}", fix=fix)


def remove_endpoint(clients: Clients, name: str, tags: Mapping[str, str], on_event: OnEvent | None = None) -> None:
    """Delete an endpoint that has these tags; one that is not there is no error.

    Raises `phift.errors.Conflict` where somebody else, or another run, made it.
    """
    place = f"endpoint {name}"
    existing = settled(clients, lambda: clients.workspace.online_endpoints.get(name), place)
    if existing is None:
        return
    _check_ours(existing, name, tags)
    with quiet_sdk():
        delete_endpoint(clients, name, on_event or ignore_event)


def _ensure_deployment(
    clients: Clients,
    name: str,
    model_id: str,
    size: str,
    config: DeploymentConfig,
    made: list[str],
    emit: OnEvent,
) -> None:
    deployments = clients.workspace.online_deployments
    place = f"deployment {config.deployment_name} of endpoint {name}"
    existing = settled(clients, lambda: deployments.get(config.deployment_name, name), place)
    wanted = _deployment(name, model_id, size, config)
    if existing is not None and provisioning_state(existing) == "succeeded" and _same(existing, wanted):
        return
    if existing is None:
        made.append("deployment")
    emit(DeploymentEvent("deployment", config.deployment_name))
    _finished(
        clients,
        lambda: deployments.begin_create_or_update(wanted).result(),
        lambda: deployments.get(config.deployment_name, name),
        place,
        lambda found: _same(found, wanted),
    )
    with azure_errors(place):
        _check_succeeded(deployments.get(config.deployment_name, name), place)


def _deployment(name: str, model_id: str, size: str, config: DeploymentConfig) -> Any:
    from azure.ai.ml.entities import ManagedOnlineDeployment, OnlineRequestSettings, ProbeSettings

    def probe() -> Any:
        return ProbeSettings(
            initial_delay=config.probe.initial_delay,
            period=config.probe.period,
            timeout=config.probe.timeout,
            failure_threshold=config.probe.failure_threshold,
            success_threshold=1,
        )

    return ManagedOnlineDeployment(
        name=config.deployment_name,
        endpoint_name=name,
        model=model_id,
        instance_type=size,
        instance_count=config.instance_count,
        liveness_probe=probe(),
        readiness_probe=probe(),
        request_settings=OnlineRequestSettings(
            request_timeout_ms=config.request_timeout_ms,
            max_concurrent_requests_per_instance=config.max_concurrent_requests,
        ),
    )


def _same(existing: Any, wanted: Any) -> bool:
    """Whether a deployment is as it should be; one with other settings is brought up to date."""
    return _settings(existing) == _settings(wanted)


def _settings(deployment: Any) -> tuple[Any, ...]:
    """Return what a deployment is compared by.

    The service may spell a workspace model's id with a leading ``azureml:``, and everything in another case.
    """
    model = str(getattr(deployment.model, "id", None) or deployment.model or "")
    requests = deployment.request_settings
    return (
        model.lower().removeprefix("azureml:"),
        str(deployment.instance_type or "").lower(),
        deployment.instance_count,
        getattr(requests, "request_timeout_ms", None),
        getattr(requests, "max_concurrent_requests_per_instance", None),
    )


def _ensure_traffic(clients: Clients, name: str, deployment: str, emit: OnEvent) -> None:
    endpoints = clients.workspace.online_endpoints
    wanted = {deployment: 100}
    with azure_errors(f"endpoint {name}"):
        endpoint = endpoints.get(name)  # a fresh one: an old copy would send old traffic rules back
        if dict(endpoint.traffic or {}) == wanted:
            return
    emit(DeploymentEvent("traffic", name))
    endpoint.traffic = wanted
    _finished(
        clients,
        lambda: endpoints.begin_create_or_update(endpoint).result(),
        lambda: endpoints.get(name),
        f"endpoint {name}",
        lambda found: dict(found.traffic or {}) == wanted,
    )


def _withdraw_traffic(clients: Clients, name: str, deployment: str) -> None:
    """Take a deployment out of the traffic rules; the service deletes none that has live traffic."""
    endpoint = clients.workspace.online_endpoints.get(name)
    if (endpoint.traffic or {}).get(deployment):
        endpoint.traffic = {key: share for key, share in endpoint.traffic.items() if key != deployment}
        clients.workspace.online_endpoints.begin_create_or_update(endpoint).result()


def _log_tail(clients: Clients, name: str, deployment: str, lines: int = 50) -> str:
    """Return the end of both containers' logs, as far as the service has any."""
    tails = []
    for container in ("storage-initializer", "inference-server"):
        with suppress(PhiftError), azure_errors(f"logs of {name}"):
            # The container that never started has no log; the failure itself is what gets reported.
            logs = clients.workspace.online_deployments.get_logs(
                deployment, name, lines=lines, container_type=container
            )
            tails.append(f"--- {container}\n{logs}")
    return redact("\n".join(tails))


def _roll_back(clients: Clients, name: str, deployment: str, made: Sequence[str], emit: OnEvent) -> str:
    """Delete what this call made; returns what the user must do if that fails too, else an empty text."""
    if not made:
        return ""
    emit(DeploymentEvent("rollback", name))
    try:
        with quiet_sdk():
            if "endpoint" in made:
                delete_endpoint(clients, name, emit)
            else:
                with suppress(NotFound), azure_errors(f"deployment {deployment} of endpoint {name}"):
                    _withdraw_traffic(clients, name, deployment)
                    clients.workspace.online_deployments.begin_delete(deployment, name).result()
    except BaseException as error:
        why = error.what if isinstance(error, PhiftError) else type(error).__name__
        left = f"endpoint {name} could not be deleted ({why}): delete it by hand, it costs money"
        if not isinstance(error, PhiftError):  # a second Ctrl-C
            error.add_note(left)
            raise
        return left
    return ""
