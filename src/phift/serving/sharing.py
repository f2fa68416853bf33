"""One endpoint with deployments of several runs: whose each of them is, and what goes when one of them leaves.

The tags of a deployment say which run made it. Those of its endpoint say whose deployment has the traffic: they change
with it. So a better model takes an endpoint's traffic over, whose address and keys stay, and neither run takes the
other's deployment away.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from phift.azure.answers import listed, mapping, text, texts
from phift.azure.clients import Clients
from phift.errors import Conflict, NotFound, PhiftError, azure_errors, in_a_line, redact
from phift.jobs.job import JOB_TAG, FineTuneJob
from phift.jobs.record import CONFIGURATION, SERIES
from phift.serving import resource
from phift.serving.lifetime import LONGEST_TAG
from phift.serving.price import cost_of
from phift.serving.resource import CREATED, MODEL, SERVES, DeploymentEvent, OnEvent, Resource, purpose
from phift.serving.rollout_state import GATE, STATE, WHY, State, under_way
from phift.serving.uses import is_used

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineDeployment, OnlineEndpoint

logger = logging.getLogger(__name__)

# An endpoint's tag with the traffic that there was before a deployment took it over: JSON, percent by deployment.
PREVIOUS = "phift.previous"
_USUAL = ("green", "blue")  # names of a rollout's new deployment
_OF_TRAFFIC = (JOB_TAG, SERVES, MODEL, SERIES, CONFIGURATION, PREVIOUS)


def is_same(tags: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether the tags of an endpoint or a deployment are those of a run, or without one of a model."""
    told_by = JOB_TAG if JOB_TAG in own or JOB_TAG in tags else SERVES
    return told_by in tags and tags[told_by] == own.get(told_by)


def check_ours(tags: Mapping[str, str], own: Mapping[str, str], name: str) -> None:
    """Refuse an endpoint that somebody else, or another run, made; raises `phift.errors.Conflict`."""
    if not is_same(tags, own):
        what = f"There is an endpoint {name} already, {purpose(tags) or 'and phift did not make it'}."
        fix = "set `deployment.endpoint_name` to another name, or delete that endpoint"
        raise Conflict(what, where=f"endpoint {name}", fix=fix)


def deployments(clients: Clients, endpoint: str) -> list[OnlineDeployment]:
    """Return the deployments of an endpoint; one that is not there has none."""
    place = f"deployments of endpoint {endpoint}"
    with suppress(NotFound), azure_errors(place):
        return listed(clients.workspace.online_deployments.list(endpoint), place)
    return []


def jobs_of(clients: Clients, endpoint: str) -> set[str]:
    """Return the names of the jobs whose models the deployments of an endpoint are."""
    tagged = (texts(each.tags, "deployment.tags") for each in deployments(clients, endpoint))
    return {tags[JOB_TAG] for tags in tagged if JOB_TAG in tags}


def traffic(endpoint: OnlineEndpoint) -> dict[str, int]:
    """Return the percent of each deployment that gets traffic; the SDK gives the others with 0."""
    return {str(name): share for name, share in dict(endpoint.traffic or {}).items() if share}


def mirrored_shares(endpoint: OnlineEndpoint) -> dict[str, int]:
    """Return the percent of the traffic that a deployment gets copies of."""
    return {str(name): share for name, share in dict(endpoint.mirror_traffic or {}).items() if share}


def with_traffic(endpoint: OnlineEndpoint, shares: Mapping[str, int], tags: Mapping[str, str]) -> OnlineEndpoint:
    """Return an endpoint with this traffic, and with those of these tags that say whose deployment has it."""
    others = {k: v for k, v in texts(endpoint.tags, "endpoint.tags").items() if k not in _OF_TRAFFIC}
    endpoint.tags = others | {k: v for k, v in tags.items() if k in _OF_TRAFFIC}
    endpoint.traffic = dict(shares)
    # A deployment has live traffic or mirrored (Microsoft Learn, "Safe rollout for online endpoints", 2026-07).
    endpoint.mirror_traffic = {k: v for k, v in dict(endpoint.mirror_traffic or {}).items() if k not in shares}
    return endpoint


def taking_traffic(own: Mapping[str, str], before: Mapping[str, int]) -> dict[str, str]:
    """Return the tags of an endpoint whose traffic a deployment takes over."""
    written = json.dumps(before)
    return {**own, **({PREVIOUS: written} if before and len(written) <= LONGEST_TAG else {})}


def withdraw(
    clients: Clients, name: str, is_mine: Callable[[Mapping[str, str]], bool], emit: OnEvent, *, named: str = ""
) -> tuple[str, ...] | None:
    """Take deployments away from an endpoint, with the last one the endpoint too; None where that is gone.

    Else the names of those that are deleted. The traffic that they had goes to those that stay: in the shares that
    these have, else to those that had it before, else to the newest; and then `DeploymentEvent` tells that it stays.

    With the old deployment of a rollout that is under way goes the new one, which nobody has judged yet, unless its own
    run needs it; and with either of them the rollout. Raises `phift.errors.Conflict` where the old one alone is
    **named**.

    - **is_mine**: whether tags are those of what goes: of a deployment, and of the endpoint, which stays otherwise;
      deployments that phift did not make go with it.
    - **named**: only the deployment of this name; with it the endpoint only where it has no other.
    """
    endpoint = resource.endpoint(clients, name).settled()
    if endpoint is None:
        resource.delete_endpoint(clients, name, emit)
        return None
    tags = texts(endpoint.tags, "endpoint.tags")
    found = deployments(clients, name)
    mine = {text(each.name, "deployment.name") for each in found if is_mine(_tags(each))}
    mine &= {named} if named else mine
    rollout = under_way(tags, name)
    if rollout is not None and rollout.old in mine and rollout.phase != "promoting":
        if named:
            what = f"The deployment {named} of endpoint {name} is the old one of a rollout that is under way."
            fix = f"end it first: phift rollout {name} --promote, or phift rollout {name} --roll-back"
            raise Conflict(what, where=f"endpoint {name}", fix=fix)
        mine |= {rollout.new for each in found if is_new_of(rollout, each) and not is_needed(clients, name, each)}
    staying = [each for each in found if each.name not in mine]
    owns = is_mine(tags)
    if owns and not (staying if named else any(resource.purpose(_tags(each)) for each in staying)):
        resource.delete_endpoint(clients, name, emit)
        return None
    served = mine & (traffic(endpoint).keys() | mirrored_shares(endpoint).keys())
    ends = rollout is not None and (
        rollout.new in mine or (rollout.old in mine and rollout.phase != "promoting")  # whoever goes on deletes that
    )
    if staying and (owns or served or ends):
        _hand_over(clients, name, endpoint, mine, staying, emit, (STATE, GATE, WHY) if ends else ())
    for each in sorted(mine):
        if each in served:
            let_requests_end(clients, resource.deployment(clients, name, each))
        resource.delete_deployment(clients, name, each)
        emit(DeploymentEvent("removed", each))
    emit(DeploymentEvent("stays", name))
    return tuple(sorted(mine))


def free_name(clients: Clients, endpoint: str, old: str, digest: str, wanted: str | None) -> str:
    """Return a rollout's new deployment's name: one that there is not yet, unless it serves this very model.

    Raises `phift.errors.Conflict` where the **wanted** one is another model's, or the **old** one serves this one.
    """
    tags = {text(each.name, "deployment.name").lower(): _tags(each) for each in deployments(clients, endpoint)}
    place = f"endpoint {endpoint}"
    if tags.get(old.lower(), {}).get(SERVES) == digest:
        what = f"The deployment {old} of endpoint {endpoint} serves this model already, and has all the traffic."
        raise Conflict(what, where=place, fix="roll out another model, or another version of it")
    numbered = (f"{_USUAL[0]}-{number}" for number in range(2, 100))
    for name in (wanted,) if wanted else (*_USUAL, *numbered):
        if name.lower() not in tags or (name.lower() != old.lower() and tags[name.lower()].get(SERVES) == digest):
            return name
    what = f"The endpoint {endpoint} has a deployment {wanted} already, which serves another model."
    raise Conflict(what, where=place, fix="give `deployment` another name, or leave it out")


def is_new_of(rollout: State, deployment: OnlineDeployment) -> bool:
    """Whether a deployment is the new one of a rollout."""
    return deployment.name == rollout.new and _tags(deployment).get(SERVES) == rollout.model


def is_needed(clients: Clients, endpoint: str, deployment: OnlineDeployment) -> bool:
    """Whether the run whose model a deployment serves uses the endpoint in a block, or has left it up on purpose.

    It counts as if it did where that cannot be found out; and then a warning says what the deployment costs.
    """
    job = _tags(deployment).get(JOB_TAG)
    try:
        return job is not None and is_used(FineTuneJob(job, clients), endpoint, or_kept=True)
    except PhiftError as error:
        place = f"{endpoint}/{deployment.name}"
        why = f"Whether its run needs it cannot be found out: {error.what}"
        up = resource.still_up(place, cost_of(clients, place))
        logger.warning("%s", in_a_line(redact(f"{up} {why} Delete it: phift cleanup {place}")))
        return True


def let_requests_end(clients: Clients, there: Resource[OnlineDeployment]) -> None:
    """Wait a little before a deployment is deleted that has just had traffic: what it is answering may take long.

    Whether Azure itself waits for requests under way is unverified.
    """
    found = there.settled()
    settings = found.request_settings if found is not None else None
    longest = (getattr(settings, "request_timeout_ms", None) or 0) / 1000
    time.sleep(min(longest, 2 * clients.poll_seconds))


def _hand_over(
    clients: Clients,
    name: str,
    endpoint: OnlineEndpoint,
    going: AbstractSet[str],
    staying: Sequence[OnlineDeployment],
    emit: OnEvent,
    void: Collection[str],
) -> None:
    """Have those that stay get the traffic, and the endpoint's tags say so.

    - **void**: names of tags that the endpoint is to have no more.
    """
    tags_of = {text(each.name, "deployment.name"): _tags(each) for each in staying}
    up = {str(each.name) for each in staying if resource.provisioning_state(each) == "succeeded"}
    newest = max(up, key=lambda each: tags_of[each].get(CREATED, ""), default="")

    def shares_of(found: OnlineEndpoint) -> dict[str, int]:
        now = traffic(found)
        if going.isdisjoint(now):
            return now
        candidates = (now, _previous(found), {newest: 100})
        wholes = (_whole({k: v for k, v in shares.items() if k in up}) for shares in candidates)
        return next(filter(None, wholes), {})

    def handed_over(found: OnlineEndpoint) -> OnlineEndpoint:
        shares = shares_of(found)
        first = max(shares or tags_of, key=lambda each: shares.get(each, 0))
        mirrored = dict(found.mirror_traffic or {}).items()
        found.mirror_traffic = {k: v for k, v in mirrored if k in up and k not in shares}
        tags = texts(found.tags, "endpoint.tags")
        before = {k: v for k, v in tags.items() if k == PREVIOUS and going.isdisjoint(traffic(found))}
        found.tags = {k: v for k, v in tags.items() if k not in void}
        is_phifts = bool(purpose(tags_of[first]))  # else the endpoint still says that phift made it
        of = tags_of[first] if is_phifts else {k: v for k, v in tags.items() if k != PREVIOUS}
        return with_traffic(found, shares, {**of, **before})

    def is_right(found: OnlineEndpoint) -> bool:
        served = traffic(found) == wanted and going.isdisjoint(mirrored_shares(found))
        return served and texts(found.tags, "endpoint.tags").keys().isdisjoint(void)

    wanted = shares_of(endpoint)
    if wanted != traffic(endpoint):
        emit(DeploymentEvent("traffic", name))
    there = resource.endpoint(clients, name)
    there.put(handed_over(endpoint), is_right=is_right, renew=handed_over)


def _previous(endpoint: OnlineEndpoint) -> dict[str, Any]:
    with suppress(ValueError):
        return dict(mapping(json.loads(texts(endpoint.tags, "endpoint.tags").get(PREVIOUS, ""))))
    return {}


def _whole(shares: Mapping[str, Any]) -> dict[str, int]:
    """Return shares that sum to 100, in the same proportions; none of none."""
    numbers = {name: share for name, share in shares.items() if isinstance(share, int) and share > 0}
    total = sum(numbers.values())
    whole = {name: share * 100 // total for name, share in numbers.items()}
    if whole:
        whole[max(whole, key=lambda each: whole[each])] += 100 - sum(whole.values())
    return whole


def _tags(deployment: OnlineDeployment) -> dict[str, str]:
    return texts(deployment.tags, "deployment.tags")
