"""Which share of an endpoint's requests goes to which deployment, by Azure's rules: looked at before anything is sent.

The rules: azure-ai-docs 197bdc3c, how-to-safely-rollout-online-endpoints (article of 2023-10-24).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from phift.azure.answers import text, texts
from phift.azure.clients import Clients
from phift.errors import ConfigError, Conflict
from phift.serving import resource
from phift.serving.parking import is_parked
from phift.serving.sharing import deployments, mirrored_shares, traffic

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineEndpoint

MOST_MIRRORED = 50  # percent
_LONGEST_SOAK = 7 * 24 * 3600  # seconds


def set_shares(clients: Clients, endpoint: str, live: Mapping[str, int], mirrored: Mapping[str, int]) -> None:
    """Set an endpoint's traffic, after a look at the rules; raises `phift.errors.ConfigError`."""
    names = [text(each.name, "deployment.name") for each in deployments(clients, endpoint)]
    check_shares(live, mirrored, names, endpoint)

    def with_shares(found: OnlineEndpoint) -> OnlineEndpoint:
        found.traffic, found.mirror_traffic = dict(live), dict(mirrored)
        return found

    def is_right(found: OnlineEndpoint) -> bool:
        wanted = tuple({name: share for name, share in shares.items() if share} for shares in (live, mirrored))
        return (traffic(found), mirrored_shares(found)) == wanted

    there = resource.endpoint(clients, endpoint)
    there.put(with_shares(there.settled() or there.get()), is_right=is_right, renew=with_shares)


def check_shares(live: Mapping[str, int], mirrored: Mapping[str, int], names: Collection[str], endpoint: str) -> None:
    """Refuse what the service would refuse, or would do to nobody's use; raises `phift.errors.ConfigError`.

    - **live**, **mirrored**: percent by deployment.
    - **names**: of the deployments that there are.
    """
    known = ", ".join(sorted(names)) or "none"
    for name, share in {**live, **mirrored}.items():
        if name.lower() not in {each.lower() for each in names}:
            raise _wrong(endpoint, f"There is no deployment {name} in it.", f"its deployments: {known}")
        if isinstance(share, bool) or not isinstance(share, int) or not 0 <= share <= 100:
            raise _wrong(endpoint, f"The share of {name} is {share!r}.", "give a whole number of percent, 0 to 100")
    if sum(live.values()) not in (0, 100):
        shares = ", ".join(f"{name} {share}" for name, share in live.items())
        fix = "give shares that sum to 100, or to 0, with which nobody is answered"
        raise _wrong(endpoint, f"The shares sum to {sum(live.values())}: {shares}.", fix)
    copied = {name: share for name, share in mirrored.items() if share}
    if len(copied) > 1:
        raise _wrong(endpoint, "Traffic is mirrored to one deployment at most.", "choose one of them")
    for name, share in copied.items():
        check_mirrored(share, endpoint)
        if any(other.lower() == name.lower() and part for other, part in live.items()):
            fix = "give it no live traffic, or mirror none to it"
            raise _wrong(endpoint, f"The deployment {name} gets live or mirrored traffic, not both.", fix)


def only_one(endpoint: OnlineEndpoint, name: str) -> str:
    """Return the deployment that has all the traffic; raises `phift.errors.Conflict` where there is none."""
    if is_parked(texts(endpoint.tags, "endpoint.tags")):
        fix = f"bring it back first: phift endpoints unpark {name}"
        raise Conflict(f"The endpoint {name} is parked.", where=f"endpoint {name}", fix=fix)
    live = traffic(endpoint)
    if len(live) != 1 or mirrored_shares(endpoint):
        shares = ", ".join(f"{each} {share} %" for each, share in live.items()) or "none"
        what = f"A rollout begins where one deployment has all the traffic, and none is mirrored; now: {shares}."
        fix = "give one deployment all of it first, with `endpoint.set_traffic`"
        raise Conflict(what, where=f"endpoint {name}", fix=fix)
    return next(iter(live))


def check_plan(steps: Sequence[int], soak: float, mirror: int) -> None:
    """Refuse what is no plan of a rollout; raises `phift.errors.ConfigError`."""
    good = all(isinstance(step, int) and not isinstance(step, bool) and 1 <= step <= 100 for step in steps)
    if not good or list(steps) != sorted(set(steps)) or 100 not in steps:
        what = f"The steps {', '.join(map(repr, steps)) or '(none)'} are no shares that grow up to 100."
        raise ConfigError(what, where="steps", fix="give percents, each more than the one before, the last one 100")
    if not (isinstance(soak, int | float) and 0 <= soak <= _LONGEST_SOAK):
        raise ConfigError(f"`soak` is {soak!r}.", where="soak", fix="give seconds, up to a week")
    check_mirrored(mirror, "rollout")


def check_mirrored(share: int, endpoint: str) -> None:
    """Refuse a share of mirrored traffic that the service does not take."""
    if isinstance(share, bool) or not isinstance(share, int) or not 0 <= share <= MOST_MIRRORED:
        fix = f"give a whole number of percent, 0 to {MOST_MIRRORED}"
        raise _wrong(endpoint, f"The mirrored share is {share!r}.", fix)


def _wrong(endpoint: str, what: str, fix: str) -> ConfigError:
    return ConfigError(what, where=f"traffic of endpoint {endpoint}", fix=fix)
