"""The deployment: endpoint, deployment and traffic, made as a whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from phift.azure.answers import text, texts
from phift.azure.clients import Clients
from phift.azure.connect import clients_of
from phift.config.deployment import DeploymentConfig
from phift.config.run import read_section
from phift.errors import (
    AuthenticationError,
    Conflict,
    DeploymentFailed,
    NotFound,
    PhiftError,
    in_a_line,
    redact,
    visible,
)
from phift.jobs.job import JOB_TAG, FineTuneJob
from phift.jobs.registration import RegisteredModel
from phift.serving import resource
from phift.serving.container import is_vllm, vllm_settings
from phift.serving.crash import crash_in
from phift.serving.endpoint import Endpoint
from phift.serving.lifetime import extended, lifetime_tags
from phift.serving.model import served_model
from phift.serving.parking import is_parked, parked_tags, without_parked
from phift.serving.price import cost_of
from phift.serving.resource import CREATED, SERVES, DeploymentEvent, OnEvent, telling
from phift.serving.rollout_state import check_no_rollout
from phift.serving.sharing import (
    check_ours,
    deployments,
    is_same,
    let_requests_end,
    taking_traffic,
    traffic,
    with_traffic,
    withdraw,
)
from phift.serving.uses import EndpointUse
from phift.serving.waiting import Waiting

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineDeployment, OnlineEndpoint

    from phift.azure.connect import AnyClients

logger = logging.getLogger(__name__)


def deploy_model(
    clients: AnyClients,
    model: RegisteredModel | str,
    *,
    name: str,
    size: str,
    config: DeploymentConfig | Mapping[str, Any] = DeploymentConfig(),  # noqa: B008 - it is frozen
    job: FineTuneJob | str | None = None,
    tags: Mapping[str, str] | None = None,
    timeout: float | None = None,
    as_it_is: bool = False,
    on_event: OnEvent | None = None,
) -> Endpoint:
    """Deploy a model behind a key-protected endpoint with all traffic on it, once: a second call finds what is there.

        with deploy_model(ml_client, "elements:1", name="elements", size="Standard_NC24ads_A100_v4") as endpoint:
            print(endpoint.chat("What is the symbol of gold?"))

    If it fails or is interrupted, what this call made is deleted again, unless somebody else uses it by then. An
    earlier deployment of the same run under another name is deleted once the new one has the traffic.

    On an endpoint of another run, a deployment of a name of its own is made beside that run's, and takes the traffic
    over: address and keys stay. The other run's deployment stays too, and an event ``idle`` tells of it.

    - **model**: a registered model, its ``name:version`` in the workspace, or any model's id.
    - **name**: the endpoint's.
    - **size**: VM size, see `phift.check.compute.instance_type`.
    - **config**: as in a configuration; its own names of endpoint and size do not count.
    - **job**: or its name: whose model it is. An endpoint is found again by its job's name, or without one by its
      model, both of which are among its tags; and by the job's tags it is known who else uses it.
    - **tags**: more tags of the endpoint and the deployment.
    - **timeout**: seconds after which it counts as failed; what was made is then deleted, which takes a while too.
    - **as_it_is**: whether a deployment that is up keeps the settings that it has, whatever **config** says.

    Raises `phift.errors.DeploymentFailed` with the end of the container's log, and `phift.errors.Conflict` where
    phift did not make the endpoint, or its deployment of that name is another run's.
    """
    emit, clients = telling(on_event), clients_of(clients)
    config = read_section(DeploymentConfig, config, "deployment")
    job = FineTuneJob(job, clients) if isinstance(job, str) else job
    served = served_model(clients, model)
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    own = {**(tags or {}), SERVES: served.digest, CREATED: created, **({JOB_TAG: job.name} if job else {})}
    container = vllm_settings(clients, name, config) if config.serve == "vllm" else {}
    waiting = Waiting(timeout)
    use = EndpointUse.begin(clients, job, name, emit, waiting)
    attempt = _Attempt(clients, name, config, use, own, waiting, emit)
    try:
        try:
            attempt.ensure_endpoint({**own, **lifetime_tags(clients, config)})
            attempt.ensure_deployment(served.id, size, own, container, as_it_is=as_it_is)
            found = attempt.ensure_traffic()
            endpoint = Endpoint(clients, name, config, emit, existed=not use.made, use=use, found=found, own=own)
            emit(DeploymentEvent("ready", name))  # before it is kept: what ends a program here leaves nothing
            use.keep()
        except (AuthenticationError, Conflict):
            raise
        except PhiftError as error:
            tail = resource.log_tail(clients, name, config.deployment_name)
            what, fix, place = f"The deployment did not come up: {error.what}", error.fix, f"endpoint {name}"
            if crash := crash_in(tail):
                what, fix = f"{what.rstrip('.')}. By its log: {crash.what}.", crash.fix
            raise DeploymentFailed(
                what, where=place, fix=fix, log_tail=tail, status=error.status, code=error.code
            ) from error
    except BaseException as error:
        left = attempt.roll_back(interrupted=not isinstance(error, Exception))
        if isinstance(error, DeploymentFailed):
            undone = left or ("what was made is deleted again" if attempt.made else "what was there stays as it was")
            fix = f"{error.fix}; " if error.fix else ""
            error.fix = f"{fix}the end of the container's log is in `log_tail`; {undone}"
        elif left:
            error.add_note(left)
        raise
    if endpoint.existed:
        try:
            _retire_others(clients, name, config.deployment_name, own, attempt.served_before, emit)
        except BaseException as interruption:  # what was asked for is done, and nobody gets its handle
            place = f"{name}/{config.deployment_name}"
            interruption.add_note(visible(f"{resource.still_up(place)} Delete it: phift cleanup {place}"))
            raise
    return endpoint


class _Attempt:
    """One attempt to deploy, and what it made; that the endpoint is its own, its use says: ``use.made``."""

    def __init__(
        self,
        clients: Clients,
        name: str,
        config: DeploymentConfig,
        use: EndpointUse,
        own: Mapping[str, str],
        waiting: Waiting,
        emit: OnEvent,
    ) -> None:
        self._clients, self._name, self._config, self._use, self._emit = clients, name, config, use, emit
        self._own, self._waiting = own, waiting
        self._endpoint = resource.endpoint(clients, name, waiting)
        self._deployment = resource.deployment(clients, name, config.deployment_name, waiting)
        self._made_deployment = False
        self._changed: OnlineDeployment | None = None  # what a deployment was that there was, and that is sent anew
        self._before: tuple[dict[str, int], dict[str, str]] | None = None  # the traffic, and the endpoint's tags

    @property
    def made(self) -> bool:
        return self._use.made or self._made_deployment

    @property
    def served_before(self) -> Collection[str]:
        return self._before[0] if self._before else ()

    def ensure_endpoint(self, tags: Mapping[str, str]) -> None:
        """Have the endpoint, made now where there is none that came up; one of another run is shared with it."""
        existing = self._endpoint.settled()
        self._use.found(None if existing is None else self._ours(existing))
        if existing is not None:
            if resource.provisioning_state(existing) == "succeeded":
                self._emit(DeploymentEvent("exists", self._name))
                _check_auth_mode(existing, self._config.auth_mode)
                if traffic(existing) != {self._config.deployment_name: 100}:
                    check_no_rollout(texts(existing.tags, "endpoint.tags"), self._name)
                return
            self._check_nobody_else_serves()
            resource.delete_endpoint(self._clients, self._name, self._emit)
        from azure.ai.ml.entities import ManagedOnlineEndpoint

        wanted = ManagedOnlineEndpoint(name=self._name, auth_mode=self._config.auth_mode, tags=dict(tags))
        self._use.made = True
        self._emit(DeploymentEvent("endpoint", self._name))
        endpoint, answered = self._endpoint.put(wanted)
        if not answered:  # somebody else may have been faster: until it is known to be ours, nothing deletes it
            self._use.made = False
            found = texts(endpoint.tags, "endpoint.tags")
            check_ours(found, self._own, self._name)
            self._use.made = found.get(CREATED) == self._own[CREATED]
        _check_succeeded(endpoint, self._endpoint.place)

    def _ours(self, existing: OnlineEndpoint) -> dict[str, str]:
        """Return an endpoint's tags; refuse one that phift did not make, or where another run is just making its own.

        An endpoint without a deployment is one that another run has only begun to deploy to.
        """
        tags = texts(existing.tags, "endpoint.tags")
        if resource.purpose(tags) and is_parked(tags) and not is_same(tags, self._own):
            what = f"The endpoint {self._name}, {resource.purpose(tags)}, is parked."
            fix = f"bring it back first: phift endpoints unpark {self._name}; or set another `deployment.endpoint_name`"
            raise Conflict(what, where=self._endpoint.place, fix=fix)
        if not (resource.purpose(tags) and not is_same(tags, self._own) and deployments(self._clients, self._name)):
            check_ours(tags, self._own, self._name)
        return tags

    def _check_nobody_else_serves(self) -> None:
        """Refuse to delete an endpoint that failed while it has deployments of others."""
        for other in deployments(self._clients, self._name):
            if not is_same(texts(other.tags, "deployment.tags"), self._own):
                what = f"The last change of the endpoint {self._name} failed, and others' deployments are in it."
                fix = f"look at it in the studio; to delete it with all of them: phift cleanup {self._name}"
                raise Conflict(what, where=self._endpoint.place, fix=fix)

    def ensure_deployment(
        self, model_id: str, size: str, tags: Mapping[str, str], container: Mapping[str, Any], *, as_it_is: bool
    ) -> None:
        """Have the deployment as it should be, or as it is where it is up.

        An endpoint that was just made has none, and is not asked.
        """
        from azure.ai.ml.entities import ManagedOnlineDeployment, OnlineRequestSettings, ProbeSettings

        config = self._config
        probe = {**config.probe.model_dump(), "success_threshold": 1}
        wanted = ManagedOnlineDeployment(
            name=config.deployment_name,
            endpoint_name=self._name,
            tags=dict(tags),
            model=model_id,
            **container,
            instance_type=size,
            instance_count=config.instance_count,
            liveness_probe=ProbeSettings(**probe),
            readiness_probe=ProbeSettings(**probe),
            request_settings=OnlineRequestSettings(
                request_timeout_ms=config.request_timeout_ms,
                max_concurrent_requests_per_instance=config.max_concurrent_requests,
            ),
        )

        def is_right(found: OnlineDeployment) -> bool:
            return _settings(found) == _settings(wanted)

        existing = None if self._use.made else self._deployment.settled()
        if existing is not None:
            self._check_own_deployment(texts(existing.tags, "deployment.tags"))
        is_up = existing is not None and resource.provisioning_state(existing) == "succeeded"
        if existing is not None and is_up and (as_it_is or is_right(existing)):
            return
        self._made_deployment, self._changed = existing is None, existing
        self._emit(DeploymentEvent("deployment", config.deployment_name))
        with self._progress():
            deployment, answered = self._deployment.put(wanted, is_right=is_right)
        if not answered:  # somebody else may have been faster
            self._made_deployment = self._made_deployment and self._is_own(deployment)
        _check_succeeded(deployment, self._deployment.place)

    def _is_own(self, found: OnlineDeployment) -> bool:
        return texts(found.tags, "deployment.tags").get(CREATED) == self._own[CREATED]

    @contextmanager
    def _progress(self) -> Iterator[None]:
        """Tell every half minute how long it takes to bring the deployment up, and what its container does."""
        name = self._config.deployment_name

        def tell(seconds: float) -> None:
            step = resource.step_of(self._clients, self._name, name)
            detail = f"{seconds / 60:.1f} min" + (f"; {step}" if step else "")
            self._emit(DeploymentEvent("provisioning", name, detail))

        self._waiting.telling(tell)
        try:
            yield
        finally:
            self._waiting.telling(None)

    def _check_own_deployment(self, tags: Mapping[str, str]) -> None:
        """Refuse to replace a deployment that another run made; one that does not say goes with its endpoint."""
        of = resource.purpose(tags)
        if of and not is_same(tags, self._own):
            name = self._config.deployment_name
            what = f"The endpoint {self._name} has a deployment {name} already, {of}."
            fix = "set `deployment.deployment_name` to another name, such as `green`: it is made beside it, and takes"
            raise Conflict(what, where=self._deployment.place, fix=f"{fix} the traffic over")

    def ensure_traffic(self) -> OnlineEndpoint:
        """Return the endpoint with all traffic on the deployment.

        It is looked at again: it took minutes to make the deployment, and what others changed meanwhile must not be
        sent back.
        """
        endpoint = self._endpoint.settled() or self._endpoint.get()
        before, wanted = traffic(endpoint), {self._config.deployment_name: 100}
        found = texts(endpoint.tags, "endpoint.tags")
        longer = extended(found, self._config)
        if before == wanted:
            return self._put_traffic(endpoint, wanted, found, longer) if longer else endpoint
        check_no_rollout(found, self._name)
        self._emit(DeploymentEvent("traffic", self._name))
        self._before = before, found
        return self._put_traffic(endpoint, wanted, taking_traffic(self._own, before), longer)

    def _put_traffic(
        self,
        endpoint: OnlineEndpoint,
        wanted: dict[str, int],
        tags: Mapping[str, str],
        longer: Mapping[str, str] = MappingProxyType({}),
    ) -> OnlineEndpoint:
        def changed(found: OnlineEndpoint) -> OnlineEndpoint:
            with_traffic(found, wanted, tags)
            found.tags = {**without_parked(found.tags), **parked_tags(tags), **longer}  # what has traffic is not parked
            return found

        def is_right(found: OnlineEndpoint) -> bool:
            return traffic(found) == wanted and longer.items() <= texts(found.tags, "endpoint.tags").items()

        return self._endpoint.put(changed(endpoint), is_right=is_right, renew=changed)[0]

    def roll_back(self, *, interrupted: bool) -> str:
        """Delete what this attempt made; returns what is to be said of what is left, else an empty text."""
        if self._use.is_copy:
            return ""
        changed = self._what_is_changed(ask=not interrupted)
        return " ".join(filter(None, (changed, self._delete_what_was_made(interrupted=interrupted))))

    def _what_is_changed(self, *, ask: bool) -> str:
        """Return what is to be said of a deployment that was sent anew, unless it is as it was."""
        if self._changed is None:
            return ""
        place, cost = f"{self._name}/{self._config.deployment_name}", "costs money"
        if ask:
            with suppress(PhiftError):
                found = self._deployment.get()
                states = resource.provisioning_state(self._changed), resource.provisioning_state(found)
                if states[0] == states[1] and _settings(self._changed) == _settings(found):
                    return ""
            cost = cost_of(self._clients, place)
        return visible(
            f"The deployment {place} was being changed, may not be as it was, and {cost}: deploy to it again."
        )

    def _delete_what_was_made(self, *, interrupted: bool) -> str:
        if not self.made and self._before is None:
            self._use.end(deleted=False)
            return ""

        place = self._name if self._use.made else f"{self._name}/{self._config.deployment_name}"

        def leave() -> bool:
            return self._use.leave(self._take_back, whole=self._use.made)

        try:
            gone = leave() if interrupted else resource.for_certain(leave, place)
        except (PhiftError, KeyboardInterrupt, SystemExit) as error:
            if not isinstance(error, PhiftError):
                if interrupted:
                    error.add_note(f"{resource.still_up(place)} Delete it: phift cleanup {place}")
                raise
            # The deletion of an endpoint says itself that it is still up, and what it costs.
            of_deployment = "" if self._use.made else f"{resource.still_up(place, cost_of(self._clients, place))} "
            return visible(f"{of_deployment}{error.what} Delete it: phift cleanup {place}")
        return "" if gone else f"The endpoint {self._name} stays up and costs money: somebody else uses it."

    def _take_back(self) -> None:
        self._emit(DeploymentEvent("rollback", self._name))
        # However long that takes: what is not deleted costs money.
        self._endpoint = resource.endpoint(self._clients, self._name)
        self._deployment = resource.deployment(self._clients, self._name, self._config.deployment_name)
        if self._use.made:
            withdraw(self._clients, self._name, partial(is_same, own=self._own), self._emit)
            return
        if self._before is not None and (endpoint := self._endpoint.settled()) is not None:
            self._put_traffic(endpoint, *self._before)
        with suppress(NotFound):
            self._made_deployment = self._made_deployment and self._is_own(self._deployment.get())
        if self._made_deployment:
            self._deployment.delete()  # which the service does not while it has live traffic


def _check_auth_mode(endpoint: OnlineEndpoint, wanted: str) -> None:
    """Refuse an endpoint that others may call than is wanted; the service never changes that of one that is there."""
    mode = text(endpoint.auth_mode, "endpoint.auth_mode")
    if mode != wanted:
        what = f"The endpoint {endpoint.name} is there already, with auth_mode {mode} and not {wanted}."
        same = f"`deployment.auth_mode: {mode}` or " if mode != "aml_token" else ""  # which phift makes none with
        fix = f"set {same}another `endpoint_name`, or first: phift cleanup {endpoint.name}"
        raise Conflict(what, where=f"endpoint {endpoint.name}", fix=fix)


def _check_succeeded(made: OnlineEndpoint | OnlineDeployment, place: str) -> None:
    state = resource.provisioning_state(made)
    if state != "succeeded":
        raise DeploymentFailed(f"it ended as {state}.", where=place)


def _settings(deployment: OnlineDeployment) -> tuple[object, ...]:
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
        is_vllm(deployment),
    )


def _retire_others(
    clients: Clients, name: str, deployment: str, own: Mapping[str, str], served: Collection[str], emit: OnEvent
) -> None:
    """Delete earlier deployments of the same run, which would go on costing money without traffic; tell of others.

    It is no reason to fail: the new deployment serves, and has all the traffic.
    """
    try:
        found = deployments(clients, name)
    except PhiftError as error:
        message = "Whether endpoint %s has other deployments, which cost money, is unknown: %s"
        logger.warning(message, name, in_a_line(error.what))
        return
    for other in found:
        if other.name == deployment:
            continue
        tags = texts(other.tags, "deployment.tags")
        place = f"{name}/{other.name}"
        why = f"has no traffic and {cost_of(clients, place)}"
        if SERVES in tags and is_same(tags, own):
            there = resource.deployment(clients, name, other.name)
            try:
                if other.name in served:
                    let_requests_end(clients, there)
                there.delete()
                emit(DeploymentEvent("replaced", redact(other.name)))
                continue
            except PhiftError as error:
                why = f"could not be deleted and costs money: {error.what.rstrip('.')}"
        why += f"; delete it: phift cleanup {place}" if resource.purpose(tags) else "; delete it in the studio"
        emit(DeploymentEvent("idle", redact(other.name), redact(why)))
        logger.warning("The deployment %s of endpoint %s %s", in_a_line(other.name), name, in_a_line(why))
