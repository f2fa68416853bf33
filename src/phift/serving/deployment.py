"""The deployment: endpoint, deployment and traffic, made as a whole or not at all."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from phift.azure.answers import listed, outcome, texts
from phift.azure.clients import Clients
from phift.azure.quiet import quiet
from phift.check.compute import size_findings, smallest_size
from phift.check.findings import Finding
from phift.check.models import FoundationModel
from phift.config.run import DeploymentConfig
from phift.errors import (
    AuthenticationError,
    ComputeError,
    Conflict,
    DeploymentFailed,
    NotFound,
    PhiftError,
    azure_errors,
    redact,
)
from phift.events import isolated
from phift.jobs.job import JOB_TAG, FineTuneJob
from phift.serving.endpoint import Endpoint
from phift.serving.resource import (
    CREATED,
    SERVES,
    DeploymentEvent,
    OnEvent,
    changed,
    delete,
    delete_endpoint,
    for_certain,
    provisioning_state,
    settled,
    still_up,
)
from phift.serving.uses import EndpointUse, State, forget_uses

logger = logging.getLogger(__name__)

_LEAVING: frozenset[State] = frozenset({"leaving"})
_NOT_AT_WORK: frozenset[State] = frozenset({"leaving", "kept"})


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
    job: FineTuneJob | None = None,
    tags: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> Endpoint:
    """Deploy a model behind a key-protected endpoint with all traffic on it, once: a second call finds what is there.

    If it fails or is interrupted, what this call made is deleted again, unless somebody else uses it by then. An
    earlier deployment of the same run under another name is deleted once the new one has the traffic.

    - **model_id**: a registered model's id, or a registry model's.
    - **size**: VM size, see `instance_type`.
    - **job**: whose model it is. An endpoint is found again by its job's name, or without one by its model, both of
      which are among its tags; and by the job's tags it is known who else uses it.
    - **tags**: more tags of the endpoint and the deployment.

    Raises `phift.errors.DeploymentFailed` with the end of the container's log, and `phift.errors.Conflict` where an
    endpoint of that name is another model's.
    """
    emit = isolated(on_event)
    own = {**(tags or {}), SERVES: _serves(model_id), CREATED: _now(), **({JOB_TAG: job.name} if job else {})}
    use = EndpointUse.begin(clients, job, name, lambda: emit(DeploymentEvent("waits", name))) if job else None
    attempt = _Attempt(clients, name, config.deployment_name, use, emit)
    try:
        attempt.ensure_endpoint(own)
        attempt.ensure_deployment(_deployment(name, model_id, size, config, own))
        attempt.ensure_traffic()
        endpoint = Endpoint(clients, name, config, emit, existed="endpoint" not in attempt.made, use=use)
        emit(DeploymentEvent("ready", name))  # before it is kept: what ends a program here leaves nothing
        if use:
            use.keep()
    except BaseException as error:
        tail = _log_tail(clients, name, config.deployment_name) if isinstance(error, PhiftError) else ""
        left = attempt.roll_back(interrupted=not isinstance(error, Exception))
        if isinstance(error, AuthenticationError | Conflict) or not isinstance(error, PhiftError):
            if left:
                error.add_note(left)
            raise
        undone = left or ("what was made is deleted again" if attempt.made else "what was there stays as it was")
        fix = f"{f'{error.fix}; ' if error.fix else ''}the end of the container's log is in `log_tail`; {undone}"
        what = f"The deployment did not come up: {error.what}"
        raise DeploymentFailed(what, where=f"endpoint {name}", fix=fix, log_tail=tail) from error
    if endpoint.existed:
        _retire_others(clients, name, config.deployment_name, own, emit)
    return endpoint


class _Attempt:
    """One attempt to deploy, and what it made; not at all or as a whole.

    - **made**: ``endpoint`` and ``deployment``, as far as this attempt made them.
    """

    def __init__(self, clients: Clients, name: str, deployment: str, use: EndpointUse | None, emit: OnEvent) -> None:
        self.made: list[str] = []
        self._clients, self._name, self._deployment, self._use, self._emit = clients, name, deployment, use, emit
        self._place = f"endpoint {name}"
        self._endpoints = quiet(clients.workspace.online_endpoints)
        self._deployments = quiet(clients.workspace.online_deployments)
        self._traffic_before: dict[str, int] | None = None

    def ensure_endpoint(self, tags: Mapping[str, str]) -> None:
        from azure.ai.ml.entities import ManagedOnlineEndpoint

        name, place = self._name, self._place
        existing = settled(self._clients, lambda: self._endpoints.get(name), place)
        if existing is not None:
            _check_ours(existing, name, tags)
        if self._use:
            self._use.found(None if existing is None else texts(existing.tags, "endpoint.tags"))
        if existing is not None:
            if provisioning_state(existing) == "succeeded":
                return
            delete_endpoint(self._clients, name, self._emit)
        self._made("endpoint")
        self._emit(DeploymentEvent("endpoint", name))
        endpoint = ManagedOnlineEndpoint(name=name, auth_mode="key", tags=dict(tags))
        found = changed(
            self._clients,
            lambda: outcome(self._endpoints.begin_create_or_update(endpoint), place),
            lambda: self._endpoints.get(name),
            place,
        )
        if found is not None:
            self._unmade("endpoint")  # until it is known to be ours, and no longer than that
            _check_ours(found, name, tags)
            if texts(found.tags, "endpoint.tags").get(CREATED) == tags[CREATED]:
                self._made("endpoint")
            _check_succeeded(found, place)

    def ensure_deployment(self, wanted: Any) -> None:
        deployment, name = self._deployment, self._name
        place = f"deployment {deployment} of endpoint {name}"
        existing = settled(self._clients, lambda: self._deployments.get(deployment, name), place)
        if existing is not None and provisioning_state(existing) == "succeeded" and _same(existing, wanted):
            return
        if existing is None:
            self._made("deployment")
        self._emit(DeploymentEvent("deployment", deployment))
        changed(
            self._clients,
            lambda: outcome(self._deployments.begin_create_or_update(wanted), place),
            lambda: self._deployments.get(deployment, name),
            place,
            lambda found: _same(found, wanted),
        )
        with azure_errors(place):
            found = self._deployments.get(deployment, name)
        _check_succeeded(found, place)

    def ensure_traffic(self) -> None:
        wanted = {self._deployment: 100}
        with azure_errors(self._place):
            endpoint = self._endpoints.get(self._name)  # a fresh one: an old copy would send old traffic rules back
        before = _traffic(endpoint)
        if before == wanted:
            return
        self._emit(DeploymentEvent("traffic", self._name))
        self._traffic_before = before
        self._set_traffic(wanted)

    def _set_traffic(self, wanted: dict[str, int]) -> None:
        def send() -> None:
            endpoint = self._endpoints.get(self._name)
            endpoint.traffic = wanted
            outcome(self._endpoints.begin_create_or_update(endpoint), self._place)

        changed(
            self._clients,
            send,
            lambda: self._endpoints.get(self._name),
            self._place,
            lambda found: _traffic(found) == wanted,
        )

    def _made(self, what: str) -> None:
        self.made.append(what)
        if self._use and what == "endpoint":
            self._use.made = True

    def _unmade(self, what: str) -> None:
        self.made.remove(what)
        if self._use and what == "endpoint":
            self._use.made = False

    def roll_back(self, *, interrupted: bool) -> str:
        """Delete what this attempt made; returns what is to be said of what is left, else an empty text."""
        use, whole = self._use, "endpoint" in self.made
        # What is kept has other deployments than the one that was made here.
        needed = use is not None and bool(self.made) and not use.is_last(but=_LEAVING if whole else _NOT_AT_WORK)
        if not self.made or needed:
            if use:
                use.end(deleted=False)
            return f"The endpoint {self._name} stays up and costs money: somebody else uses it." if needed else ""
        self._emit(DeploymentEvent("rollback", self._name))
        try:
            undo = self._delete_endpoint if whole else self._withdraw_deployment
            undo() if interrupted else for_certain(undo, self._name)
        except (PhiftError, KeyboardInterrupt, SystemExit) as error:
            if use:
                use.leave_behind()
            why = error.what if isinstance(error, PhiftError) else type(error).__name__
            left = f"{still_up(self._name)} It could not be deleted ({why}); delete it: phift cleanup {self._name}"
            if isinstance(error, PhiftError):
                return left
            if interrupted:
                error.add_note(left)
            raise
        if use:
            use.end(deleted=whole)
        return ""

    def _delete_endpoint(self) -> None:
        delete_endpoint(self._clients, self._name, self._emit)

    def _withdraw_deployment(self) -> None:
        """Give the traffic back and delete the deployment; the service deletes none that has live traffic."""
        if self._traffic_before is not None:
            with suppress(NotFound):
                self._set_traffic(self._traffic_before)
        _delete_deployment(self._clients, self._name, self._deployment)


def _delete_deployment(clients: Clients, endpoint: str, deployment: str) -> None:
    deployments = quiet(clients.workspace.online_deployments)
    delete(
        clients,
        lambda: deployments.begin_delete(deployment, endpoint),
        lambda: deployments.get(deployment, endpoint),
        f"deployment {deployment} of endpoint {endpoint}",
    )


def _traffic(endpoint: Any) -> dict[str, int]:
    """Return the deployments that get traffic; the SDK gives the others with 0."""
    return {str(name): share for name, share in dict(endpoint.traffic or {}).items() if share}


def _check_succeeded(resource: Any, place: str) -> None:
    state = provisioning_state(resource)
    if state != "succeeded":
        raise DeploymentFailed(f"it ended as {state}.", where=place)


def _check_ours(endpoint: Any, name: str, tags: Mapping[str, str]) -> None:
    """Refuse to touch an endpoint that somebody else, or another run, made."""
    found = texts(endpoint.tags, "endpoint.tags")
    told_by = JOB_TAG if JOB_TAG in tags or JOB_TAG in found else SERVES
    if found.get(told_by) == tags.get(told_by):
        return
    model = found.get("phift.model")
    maker = f"for {model}" if model else "of another run" if is_made_by_phift(found) else "and phift did not make it"
    what = f"There is an endpoint {name} already, {maker}."
    fix = "set `deployment.endpoint_name` to another name, or delete that endpoint"
    raise Conflict(what, where=f"endpoint {name}", fix=fix)


def remove_endpoint(
    clients: Clients, name: str, tags: Mapping[str, str] | None = None, on_event: OnEvent | None = None
) -> bool:
    """Delete an endpoint that phift made; returns whether there was one.

    - **tags**: what it must be tagged with besides, such as ``{"phift.job": job.name}``.

    Raises `phift.errors.Conflict` where somebody else made it or it has not these tags, and what the service said,
    with the news that the endpoint is still up, where it cannot be deleted.
    """
    place = f"endpoint {name}"
    existing = settled(clients, lambda: clients.workspace.online_endpoints.get(name), place)
    if existing is None:
        return False
    found = texts(existing.tags, "endpoint.tags")
    if not is_made_by_phift(found) or any(found.get(key) != value for key, value in (tags or {}).items()):
        model = found.get("phift.model")
        maker = (
            f"is for {model}" if model else "is of another run" if is_made_by_phift(found) else "phift did not make it"
        )
        what = f"The endpoint {name} is not deleted: {'it ' if maker.startswith('is') else ''}{maker}."
        raise Conflict(what, where=place, fix="delete it in the studio if nobody needs it")
    emit = isolated(on_event)
    for_certain(lambda: delete_endpoint(clients, name, emit), name)
    if JOB_TAG in found:
        forget_uses(FineTuneJob(found[JOB_TAG], clients), name)
    return True


def is_made_by_phift(tags: Mapping[str, str]) -> bool:
    """Whether an endpoint's tags are some that phift writes."""
    return not {JOB_TAG, SERVES, "phift.model"}.isdisjoint(tags)


def _retire_others(clients: Clients, name: str, deployment: str, own: Mapping[str, str], emit: OnEvent) -> None:
    """Delete earlier deployments of the same run, which would go on costing money without traffic; tell of others.

    It is no reason to fail: the new deployment serves.
    """
    deployments = quiet(clients.workspace.online_deployments)
    place = f"deployments of endpoint {name}"
    try:
        with azure_errors(place):
            found = [each for each in listed(deployments.list(name), place) if each.name != deployment]
            traffic = _traffic(clients.workspace.online_endpoints.get(name)) if found else {}
    except PhiftError as error:
        logger.warning("Whether endpoint %s has other deployments, which cost money, is unknown: %s", name, error.what)
        return
    for other in found:
        if other.name in traffic:
            continue
        tags = texts(other.tags, "deployment.tags")
        if tags.get(SERVES) is None or tags.get(JOB_TAG) != own.get(JOB_TAG):
            emit(DeploymentEvent("idle", other.name))
            logger.warning("The deployment %s of endpoint %s has no traffic and costs money.", other.name, name)
            continue
        try:
            _delete_deployment(clients, name, other.name)
            emit(DeploymentEvent("replaced", other.name))
        except PhiftError as error:
            emit(DeploymentEvent("idle", other.name))
            message = "The deployment %s of endpoint %s could not be deleted and costs money: %s"
            logger.warning(message, other.name, name, error.what)


def _serves(model_id: str) -> str:
    """Return digits for a model's id, whose spelling the service may change; an id is too long for a tag."""
    return hashlib.sha256(model_id.lower().removeprefix("azureml:").encode()).hexdigest()[:12]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _deployment(name: str, model_id: str, size: str, config: DeploymentConfig, tags: Mapping[str, str]) -> Any:
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
        tags=dict(tags),
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
