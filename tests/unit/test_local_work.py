"""What works in a local workspace, without its server."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from phift.errors import ParameterError
from phift.local.pending import Pending, ScorerFailed, ScorerTimeout
from phift.local.programs import InstantScorer, Programs
from phift.local.services import scoring
from phift.local.services.history import _duration
from phift.local.site import Site
from phift.local.state.folder import Folder
from phift.local.state.traffic import Answered
from phift.local.wire import WireError, timestamp
from phift.local.work.scorer import Asked
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


def test_a_deployment_that_is_deleted_while_its_process_starts_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[object] = []

    class Deleted(InstantScorer):
        def __init__(self) -> None:
            own.documents.delete(BLUE)
            own.scorers.forget(BLUE)

        def stop(self) -> None:
            stopped.append(self)

    own = Site(Folder(tmp_path), "https://localhost:1", Programs(scorer=Deleted), "fast")
    monkeypatch.setattr("phift.local.work.scorers.files.resolve", lambda *_: tmp_path)
    make = own.operations.work["deployment-create"]
    for start in (own.scorers.get, make):
        own.documents.put(BLUE, {"properties": {"model": "x", "provisioningState": "Creating"}})
        with nullcontext() if start is make else pytest.raises(ScorerFailed, match="deleted"):
            start(BLUE)
        assert own.scorers._running == {}
        assert not own.folder.deployment("chat", "blue").exists()
    assert len(stopped) == 2
    own.documents.close()


# It says no more once it is asked to leave, and takes its time to end, as a process does that writes a core file.
_LEAVING = """
import json, os, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("leave"):
        os.close(1)
    else:
        print(json.dumps({"id": asked["id"], "texts": ["here"]}), flush=True)
"""


def test_a_process_that_says_no_more_is_asked_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (sys.executable, "-c", _LEAVING)
    site = Site(Folder(tmp_path), "https://localhost:1", Programs(scorer=program), "fast")
    monkeypatch.setattr("phift.local.work.scorers.files.resolve", lambda *_: tmp_path)
    site.documents.put(BLUE, {"properties": {"model": "x", "provisioningState": "Succeeded"}})
    with pytest.raises(ScorerFailed, match="ended while it worked"):
        site.scorers.ask(BLUE, {"leave": True}, 30)
    assert site.scorers.ask(BLUE, {}, 30)[0]["texts"] == ["here"]
    site.close()


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (ScorerFailed("It ended."), 500),
        (ScorerTimeout("Late."), 408),
        ({"error": {"message": "no"}}, 500),
        ({"texts": ["a"]}, 200),
    ],
)
def test_a_mirrored_stream_counts_as_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: Any, status: int
) -> None:
    class Dies(InstantScorer):
        def open(self, request: dict[str, Any], timeout: float) -> Pending:
            pending = Pending(timeout)
            pending.say({"piece": "a"}, last)
            return pending

    site = Site(Folder(tmp_path), "https://localhost:1", Programs(scorer=Dies), "fast")
    monkeypatch.setattr("phift.local.work.scorers.files.resolve", lambda *_: tmp_path)
    properties = {"model": "x", "provisioningState": "Succeeded"}
    site.documents.put(BLUE, {"properties": properties, "sku": {"capacity": 1}})
    endpoint = site.documents.put("onlineEndpoints/chat", {"properties": {"mirrorTraffic": {"blue": 100}}})
    scoring._mirror(site, endpoint, {"stream": True})
    while thread := next((each for each in threading.enumerate() if each.name == "phift-mirror"), None):
        thread.join()
    ((_, _, minute),) = site.traffic.minutes("chat", 0, 2**40)
    assert minute.answered == {Answered(status, status): 1}
    site.close()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "00:00:00"), (62.345, "00:01:02.345000"), (36_001, "10:00:01"), (90_000, "1.01:00:00"), (-5, "00:00:00")],
)
def test_a_duration_is_written_as_the_service_does(seconds: float, said: str) -> None:
    body = {"startTimeUtc": timestamp(1e9), "endTimeUtc": timestamp(1e9 + seconds)}
    assert _duration(body) == said
    assert _duration({"startTimeUtc": timestamp(1e9)}) is None


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"conversations": [["x"]]}, "needs a role"),
        ({"conversations": [[{"role": "assistant", "content": "x"}]]}, "role is assistant"),
        ({"parameters": {"max_new_tokens": 0}}, "does not take these"),
        ({"parameters": {"num_beams": 2}}, "does not take these"),
    ],
)
def test_the_instant_engine_refuses_what_the_real_one_refuses(asked: dict[str, Any], what: str) -> None:
    question = {"conversations": [[{"role": "user", "content": "x"}]]}
    assert InstantScorer().open(question, 1).reply()["finish"] == ["stop"]
    assert what in InstantScorer().open({**question, **asked}, 1).reply()["error"]["message"]


def test_a_failure_inside_is_the_servers_and_its_text_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    said: list[dict[str, Any]] = []
    Asked({"id": 1}, said.append).fail(ValueError("what somebody says"))
    Asked({"id": 2}, said.append).fail(ParameterError("No.", fix="send less"))
    assert [each["error"].get("status") for each in said] == [500, None]
    assert "what somebody says" not in caplog.text + str(said)
    assert "ValueError" in caplog.text


def test_a_failure_inside_is_told_as_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(InstantScorer):
        def open(self, request: dict[str, Any], timeout: float) -> Pending:
            pending = Pending(timeout)
            pending.say({"error": {"message": "The model failed: KeyError.", **request}})
            return pending

    own = Site(Folder(tmp_path), "https://localhost:1", Programs(scorer=Fails), "fast")
    monkeypatch.setattr("phift.local.work.scorers.files.resolve", lambda *_: tmp_path)
    properties = {"model": "x", "provisioningState": "Succeeded"}
    deployment = own.documents.put(BLUE, {"properties": properties, "sku": {"capacity": 1}})
    for told, status in [({"status": 500}, "500"), ({}, "400")]:
        with pytest.raises(WireError) as caught, scoring._asked(own, deployment, told):
            pass
        assert caught.value.headers["ms-azureml-model-error-statuscode"] == status
    own.close()
