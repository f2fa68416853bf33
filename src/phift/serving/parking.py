"""A parked endpoint: without deployments, and so without machines; its name, address and keys stay.

What its deployments were is kept in its tags, packed, so that any process on any machine brings the same back. Tags can
be taken away again, which an endpoint's properties cannot ("Properties can be added, but not removed or altered":
azure-ai-ml 1.35.2, its REST models). There are 50 of them, of 256 characters each (Microsoft Learn, "Use tags to
organize your Azure resources", read 2026-11-30).

The tags come with the change that takes the traffic away, and go with the one that gives it back. Whatever ends either
of the two half-way, the endpoint counts as parked, and either one, called again, completes.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from phift.azure.answers import text, texts
from phift.azure.clients import Clients
from phift.config.deployment import DeploymentConfig
from phift.errors import (
    Conflict,
    DeploymentFailed,
    NotFound,
    PhiftError,
    forgetting_locals,
    in_a_line,
    redact,
    visible,
)
from phift.jobs.job import JOB_TAG, FineTuneJob
from phift.serving import resource
from phift.serving.lifetime import LONGEST_TAG, MOST_TAGS, extended
from phift.serving.model import container_of
from phift.serving.resource import SERVES, DeploymentEvent, OnEvent
from phift.serving.rollout_state import check_no_rollout
from phift.serving.sharing import deployments as deployments_of
from phift.serving.sharing import jobs_of, mirrored_shares, traffic
from phift.serving.uses import EndpointUse, is_used

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineDeployment, OnlineEndpoint

_PARKED = "phift.parked"
_WAYS = "phift endpoints park {name}, or unpark {name}"
_PLAIN = (
    *("name", "instance_type", "instance_count", "environment", "environment_variables", "description"),
    *("app_insights_enabled", "egress_public_network_access", "model_mount_path", "tags"),
)
_REQUESTS = ("request_timeout_ms", "max_concurrent_requests_per_instance", "max_queue_wait_ms")
_PROBE = ("failure_threshold", "success_threshold", "timeout", "period", "initial_delay")
_PROBES = ("liveness_probe", "readiness_probe")


def is_parked(tags: Mapping[str, str]) -> bool:
    """Tell whether an endpoint is parked, or half-way to or from it, by its tags."""
    return f"{_PARKED}.0" in tags


def parked_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return those of an endpoint's tags that keep what its deployments were."""
    return {name: value for name, value in tags.items() if name.startswith(f"{_PARKED}.")}


def without_parked(tags: Mapping[str, str]) -> dict[str, str]:
    """Return an endpoint's other tags."""
    return {name: value for name, value in tags.items() if not name.startswith(f"{_PARKED}.")}


@forgetting_locals()
def park(clients: Clients, name: str, emit: OnEvent, own: EndpointUse | None = None) -> None:
    """Delete an endpoint's deployments, traffic first, and keep its name, address and keys; twice does no harm.

    - **own**: the caller's use, which does not count as somebody else's.

    Raises `phift.errors.Conflict`, with nothing changed, where phift did not make the endpoint, somebody uses it, a
    rollout is under way, there is nothing to bring back, or a deployment has what could not be kept.
    """
    there = resource.endpoint(clients, name)
    with _alone(clients, name, emit, own) as found:
        tags = texts(found.tags, "endpoint.tags")
        deployments = _deployments(clients, name)
        before = _unpacked(tags, name) if is_parked(tags) else {}
        if not deployments and before:
            emit(DeploymentEvent("parked", name))
            return
        kept = {str(each["name"]): each for each in before.get("deployments", ())}
        kept |= {text(each.name, "name"): _kept(each, name) for each in deployments if _is_up(each)}
        if not kept:
            what = f"The endpoint {name} has no deployment that works, so there is nothing that could be brought back."
            raise Conflict(what, where=there.place, fix=f"delete it: phift cleanup {name}")
        shares = {"traffic": traffic(found), "mirror_traffic": mirrored_shares(found)}
        shares = {key: now or before.get(key, {}) for key, now in shares.items()}
        packed = _packed({**shares, "deployments": list(kept.values())}, tags, name)
        emit(DeploymentEvent("park", name))
        try:
            _put(there, found, {}, {}, add=packed)
            _delete_all(clients, name, [text(each.name, "deployment.name") for each in deployments])
        except BaseException as error:
            error.add_note(f"The endpoint {name} is half parked; to go on: {_WAYS.format(name=name)}")
            raise
        emit(DeploymentEvent("parked", name))


@forgetting_locals()
def unpark(clients: Clients, name: str, emit: OnEvent, own: EndpointUse | None = None) -> None:
    """Bring back the deployments of a parked endpoint as they were, and its traffic; twice does no harm.

    What this call, or one that was killed, made is deleted again where it fails or is interrupted, and the endpoint
    stays parked.

    Raises `phift.errors.NotFound` where there is nothing to bring back, and `phift.errors.DeploymentFailed` with the
    end of the container's log.
    """
    there = resource.endpoint(clients, name)
    with _alone(clients, name, emit, own) as found:
        tags = texts(found.tags, "endpoint.tags")
        if not is_parked(tags):
            if _deployments(clients, name):
                emit(DeploymentEvent("exists", name))
                return
            what = f"The endpoint {name} is not parked, and has no deployment."
            raise NotFound(what, where=there.place, fix="deploy to it again")
        kept = _unpacked(tags, name)
        emit(DeploymentEvent("unpark", name))
        names, last = [str(each["name"]) for each in kept["deployments"]], ""
        try:
            for each in kept["deployments"]:
                last = each["name"]
                _bring_back(clients, name, each, emit)
            found = there.settled() or there.get()  # it took minutes, and what others changed stays
            longer = extended(texts(found.tags, "endpoint.tags"), DeploymentConfig())
            _put(there, found, kept["traffic"], kept["mirror_traffic"], add=longer)
        except BaseException as error:
            tail = resource.log_tail(clients, name, last) if isinstance(error, PhiftError) else ""
            left = _take_back(clients, name, names, interrupted=not isinstance(error, Exception))
            if not isinstance(error, PhiftError):
                error.add_note(left)
                raise
            what = f"The endpoint {name} could not be brought back: {error.what}"
            fix = f"{f'{error.fix}; ' if error.fix else ''}{left}"
            raise DeploymentFailed(
                what, where=there.place, fix=fix, log_tail=tail, status=error.status, code=error.code
            ) from error
        emit(DeploymentEvent("ready", name))


def way_back(clients: Clients, name: str) -> str:
    """Return how to bring an endpoint back that does not answer, if it is parked; else an empty text."""
    try:
        tags = texts(resource.endpoint(clients, name).get().tags, "endpoint.tags")
    except PhiftError:
        return ""
    return f"bring it back: endpoint.unpark(), or phift endpoints unpark {name}" if is_parked(tags) else ""


@contextmanager
def _alone(clients: Clients, name: str, emit: OnEvent, own: EndpointUse | None) -> Iterator[OnlineEndpoint]:
    """Have an endpoint of ours that nobody else makes, deletes or uses, for the block."""
    there = resource.endpoint(clients, name)
    tags = texts((there.settled() or there.get()).tags, "endpoint.tags")
    if not resource.purpose(tags):
        what = f"phift did not make the endpoint {name}, so it is left as it is."
        raise Conflict(what, where=there.place, fix="park an endpoint that phift made: phift endpoints")
    maker = FineTuneJob(tags[JOB_TAG], clients) if JOB_TAG in tags else None
    use = EndpointUse.begin(clients, maker, name, emit)
    try:
        others = jobs_of(clients, name) - {tags.get(JOB_TAG, "")}
        try:
            used = use.others_in_block(own) or any(is_used(FineTuneJob(job, clients), name, but=own) for job in others)
        except PhiftError as error:
            what = f"Whether somebody else uses the endpoint {name} in a block cannot be found out: {error.what}"
            raise Conflict(what, where=there.place, fix=error.fix) from error
        if used:
            what = f"Somebody else uses the endpoint {name} in a block, whose end looks after it."
            raise Conflict(what, where=there.place, fix="wait until that has ended")
        found = there.settled() or there.get()
        check_no_rollout(texts(found.tags, "endpoint.tags"), name)
        yield found
    finally:
        use.end(deleted=False)


def _deployments(clients: Clients, name: str) -> list[OnlineDeployment]:
    """Return an endpoint's deployments, once nothing is under way on them."""
    names = [text(each.name, "deployment.name") for each in deployments_of(clients, name)]
    settled = (resource.deployment(clients, name, each).settled() for each in names)
    return [each for each in settled if each is not None]


def _is_up(deployment: OnlineDeployment) -> bool:
    return resource.provisioning_state(deployment) == "succeeded"


def _kept(deployment: OnlineDeployment, endpoint: str) -> dict[str, Any]:
    """Return a deployment as plain values; raises `phift.errors.Conflict` where that would not be all of it."""
    place = f"deployment {in_a_line(text(deployment.name, 'deployment.name'))} of endpoint {endpoint}"
    fix = f"leave the endpoint up, or delete it: phift cleanup {endpoint}"
    settings = {key: getattr(deployment, key, None) for key in _PLAIN} | container_of(deployment, fix)
    kept = {key: value for key, value in settings.items() if value not in (None, {}, "")}
    kept["model"] = str(getattr(deployment.model, "id", None) or deployment.model or "")
    for key, value in kept.get("environment_variables", {}).items():
        if redact(said := f"{key}={value}") != said:
            said = f"The deployment's variable {key} may be a secret, and what is kept is in tags that any reader sees."
            raise Conflict(said, where=place, fix=fix)
    requests = deployment.request_settings
    kept["request_settings"] = {key: value for key in _REQUESTS if (value := getattr(requests, key, None)) is not None}
    for probe in _PROBES:
        there = getattr(deployment, probe, None)
        kept[probe] = {key: value for key in _PROBE if (value := getattr(there, key, None)) is not None}
    return kept


def _entity(kept: Mapping[str, Any], endpoint: str) -> OnlineDeployment:
    from azure.ai.ml.entities import ManagedOnlineDeployment, OnlineRequestSettings, ProbeSettings

    values = {key: kept[key] for key in (*_PLAIN, "model") if key in kept}
    probes = {name: ProbeSettings(**kept[name]) for name in _PROBES if kept.get(name)}
    requests = OnlineRequestSettings(**kept.get("request_settings", {}))
    return ManagedOnlineDeployment(endpoint_name=endpoint, **values, **probes, request_settings=requests)


def _packed(kept: Mapping[str, Any], tags: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the tags that keep plain values; raises `phift.errors.Conflict` where there is no room for them."""
    written = zlib.compress(json.dumps(kept, separators=(",", ":")).encode(), 9)
    packed = base64.urlsafe_b64encode(written).decode()
    parts = [packed[start : start + LONGEST_TAG] for start in range(0, len(packed), LONGEST_TAG)]
    if len(parts) + len(without_parked(tags)) > MOST_TAGS:
        what = f"What the deployments of endpoint {name} are takes {len(parts)} tags, and there is no room for them."
        fix = "take tags away, or delete deployments that are not needed"
        raise Conflict(what, where=f"endpoint {name}", fix=fix)
    return {f"{_PARKED}.{number}": part for number, part in enumerate(parts)}


def _unpacked(tags: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return what an endpoint's tags keep; raises `phift.errors.Conflict` where somebody has changed them."""
    parts = [tags.get(f"{_PARKED}.{number}", "") for number in range(MOST_TAGS)]
    try:
        kept = json.loads(zlib.decompressobj().decompress(base64.urlsafe_b64decode("".join(parts)), 1_000_000))
        return {**kept, "deployments": [dict(each) for each in kept["deployments"]]}
    except (ValueError, TypeError, KeyError, zlib.error):
        what = f"The tags {_PARKED}.* of the endpoint {name}, which keep what its deployments were, are damaged."
        fix = f"deploy to it again, or delete it: phift cleanup {name}"
        raise Conflict(what, where=f"endpoint {name}", fix=fix) from None


def _put(
    there: resource.Resource[OnlineEndpoint],
    found: OnlineEndpoint,
    live: Mapping[str, int],
    mirrored: Mapping[str, int],
    *,
    add: Mapping[str, str],
) -> None:
    """Change an endpoint's traffic and, in the same step, the tags that say whether it is parked."""

    def changed(endpoint: OnlineEndpoint) -> OnlineEndpoint:
        endpoint.traffic, endpoint.mirror_traffic = dict(live), dict(mirrored)
        endpoint.tags = {**without_parked(endpoint.tags or {}), **add}
        return endpoint

    def is_right(endpoint: OnlineEndpoint) -> bool:
        tags = texts(endpoint.tags, "endpoint.tags")
        return traffic(endpoint) == live and parked_tags(tags) == parked_tags(add)

    there.put(changed(found), is_right=is_right, renew=changed)


def _delete_all(clients: Clients, name: str, deployments: list[str]) -> None:
    """Delete deployments, as many as can be; raises the first refusal, which the others' notes follow."""
    refused: list[PhiftError] = []
    for each in deployments:
        try:
            resource.delete_deployment(clients, name, each)
        except PhiftError as error:
            refused.append(error)
    for other in refused[1:]:
        refused[0].add_note(str(other))
    if refused:
        raise refused[0]


def _bring_back(clients: Clients, name: str, kept: Mapping[str, Any], emit: OnEvent) -> None:
    """Make a deployment as it was, unless it is there."""
    wanted = _entity(kept, name)
    there = resource.deployment(clients, name, kept["name"])
    existing = there.settled()
    if existing is not None and _is_up(existing):
        return

    def is_right(found: OnlineDeployment) -> bool:
        return texts(found.tags, "deployment.tags").get(SERVES) == dict(kept.get("tags", {})).get(SERVES)

    emit(DeploymentEvent("deployment", kept["name"]))
    deployment, _ = there.put(wanted, is_right=is_right)
    if not _is_up(deployment):
        raise DeploymentFailed(f"it ended as {resource.provisioning_state(deployment)}.", where=there.place)


def _take_back(clients: Clients, name: str, deployments: list[str], *, interrupted: bool) -> str:
    """Delete what is there of a parked endpoint's deployments, whoever made it; returns what is to be said of it."""
    try:
        resource.for_certain(lambda: _delete_all(clients, name, deployments), name)
    except PhiftError as error:
        return visible(f"{error.what} To go on: {_WAYS.format(name=name)}")
    deleted = f"what was made is deleted again{' all the same' * interrupted}"
    return f"{deleted}; the endpoint stays parked; to try again: phift endpoints unpark {name}"
