"""What is done to a local workspace itself, for tests: begin anew, seed, order faults, move the clock, see requests.

No Azure service has these routes. They want the folder's secret, so a program under test cannot use them by accident.
"""

from __future__ import annotations

import shutil
import time

from phift.local.model import quota
from phift.local.services.route import Route, owner
from phift.local.site import Site
from phift.local.wire import Call, Reply, WireError, check_name, whole_number

AT = "/phift"
_LAST = 221_845_392_000.0  # the beginning of the year 9000


def _reset(site: Site, _call: Call) -> Reply:
    """Begin anew: no jobs, assets, endpoints, uploads or faults; the seeded computes and models are there again."""
    site.faults.clear()
    site.training.reset()
    site.clock.reset()
    site.operations.reset()
    site.scorers.stop()
    site.traffic.clear()
    site.documents.clear(keep="server")
    for folder in ("blobs", "jobs", "endpoints", "staging"):
        shutil.rmtree(site.folder.root / folder, ignore_errors=True)
    quota.seed(site)
    site.journal.clear()
    return Reply(None, 204)


def _seed(site: Site, call: Call) -> Reply:
    """Put clusters there and set quota: all that is sent, or nothing."""
    sent = call.json()
    try:
        with site.documents.transaction():
            for cluster in sent.get("computes", []):
                check_name("compute", str(cluster["name"]))
                quota.add(site, str(cluster["name"]), str(cluster["size"]), whole_number(cluster["nodes"], "nodes"))
            for family, vcpus in sent.get("quota", {}).items():
                quota.set_limit(site, family, whole_number(vcpus, "quota"))
    except (AttributeError, KeyError, TypeError) as error:
        raise WireError(400, "InvalidSeed", f"This is nothing to seed: {error}") from error
    return Reply(None, 204)


def _order(site: Site, call: Call) -> Reply:
    """Order failures, or forget all that were."""
    if call.method == "DELETE":
        site.faults.clear()
        return Reply(None, 204)
    try:
        site.faults.order(call.json()["value"])
    except KeyError as error:
        raise WireError(400, "InvalidFault", 'Faults are sent as {"value": [{"on": "GET jobs/*", ...}]}.') from error
    except (TypeError, ValueError) as error:
        raise WireError(400, "InvalidFault", str(error)) from error
    return Reply(None, 204)


def _requests(site: Site, call: Call) -> Reply:
    after = whole_number(call.query.get("after", "0"), "after")
    return Reply({"value": site.journal.since(after), "unserved": dict(site.journal.unserved)})


def _clock(site: Site, call: Call) -> Reply:
    if site.clock.speed != "manual":
        raise WireError(400, "InvalidClock", f"The clock is {site.clock.speed}; only a manual one can be moved.")
    try:
        seconds = float(call.json()["advance"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WireError(400, "InvalidClock", "`advance` is not a number of seconds.") from error
    if not 0 <= seconds <= _LAST - site.clock.now():  # which what is no number is not either
        raise WireError(400, "InvalidClock", "Time does not go back, nor beyond the year 9000.")
    _settle(site)  # what has begun must sleep before the clock moves, or it would sleep past its end
    now = site.clock.advance(seconds)
    _settle(site)
    return Reply({"now": now})


def _settle(site: Site) -> None:
    """Wait until all that is at work has ended or waits for the clock."""
    end = time.monotonic() + 5  # a real training goes on for longer
    while (site.operations.at_work() or site.training.at_work()) and time.monotonic() < end:
        time.sleep(0.005)


ROUTES = [
    Route(f"POST {AT}/reset", _reset, owner),
    Route(f"POST {AT}/seed", _seed, owner),
    Route(f"GET {AT}/faults", lambda site, _call: Reply({"value": site.faults.show()}), owner),
    Route(f"POST {AT}/faults", _order, owner),
    Route(f"DELETE {AT}/faults", _order, owner),
    Route(f"GET {AT}/requests", _requests, owner),
    Route(f"POST {AT}/clock", _clock, owner),
]
