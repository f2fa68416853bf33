"""What works in a local workspace, without its server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from phift.local.programs import Programs
from phift.local.services.history import _duration
from phift.local.site import Site
from phift.local.state.folder import Folder
from phift.local.wire import WireError, timestamp
from phift.local.work.scorers import Scorers

BLUE = "onlineEndpoints/chat/deployments/blue"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(Folder(tmp_path), "https://localhost:1", Programs(), "fast")
    yield site
    site.documents.close()


def test_a_job_that_is_given_up_while_it_goes_back_into_the_queue_ends(site: Site) -> None:
    training = site.training
    site.documents.put("runs/job", {"runId": "job", "status": "CancelRequested", "children": []})
    training._job = "job"

    def leave() -> None:
        with training._changed:
            training._job = None
            training._changed.notify_all()

    leaving = threading.Timer(0.05, leave)
    leaving.start()
    training.cancel("job")
    leaving.join()
    run = site.documents.get("runs/job")
    assert run is not None
    assert run.body["status"] == "Canceled"


def test_each_workspace_counts_its_own_requests_in_flight(site: Site) -> None:
    other, refused = Scorers(site), pytest.raises(WireError, match="More than 1 requests are in flight")
    first, others, second = (each.slot(BLUE, 1) for each in (site.scorers, other, site.scorers))
    with first, others, refused, second:
        pass
    with site.scorers.slot(BLUE, 1):
        pass


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "00:00:00"), (62.345, "00:01:02.345000"), (36_001, "10:00:01"), (90_000, "1.01:00:00"), (-5, "00:00:00")],
)
def test_a_duration_is_written_as_the_service_does(seconds: float, said: str) -> None:
    body = {"startTimeUtc": timestamp(1e9), "endTimeUtc": timestamp(1e9 + seconds)}
    assert _duration(body) == said
    assert _duration({"startTimeUtc": timestamp(1e9)}) is None
