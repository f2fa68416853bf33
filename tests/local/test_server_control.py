"""What tests do to a workspace itself: begin anew, look at the requests, move the clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from running import Local

from phift.local import LocalWorkspace
from phift.local.programs import NOTE


@pytest.fixture
def manual(tmp_path: Path, quiet_sdk: None) -> Iterator[Local]:
    workspace = LocalWorkspace(tmp_path / "workspace", engine="instant", speed="manual")
    local = Local(workspace, workspace.up())
    yield local
    local.session.close()
    workspace.down()


def control(local: Local, method: str, name: str, *, secret: str | None = None, **options: Any) -> requests.Response:
    headers = {"X-IDENTITY-HEADER": local.connection.secret() if secret is None else secret}
    return local.request(method, f"/phift/{name}", token="", headers=headers, **options)


def state(local: Local, place: str) -> str:
    return str(local.request("GET", f"{local.arm}/{place}").json()["properties"]["provisioningState"])


def make_endpoint(local: Local) -> requests.Response:
    body = {"location": "westus2", "properties": {"authMode": "Key"}}
    return local.request("PUT", f"{local.arm}/onlineEndpoints/slow", json=body)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("POST", "reset"),
        ("GET", "faults"),
        ("POST", "faults"),
        ("DELETE", "faults"),
        ("GET", "requests"),
        ("POST", "clock"),
    ],
)
def test_only_the_owner_controls_a_workspace(local: Local, method: str, name: str) -> None:
    assert control(local, method, name, secret="").status_code == 401
    assert control(local, method, name, secret="wrong").status_code == 401
    assert local.request(method, f"/phift/{name}").status_code == 401


def test_what_takes_time_takes_it_on_a_manual_clock(manual: Local) -> None:
    assert make_endpoint(manual).status_code == 201
    assert state(manual, "onlineEndpoints/slow") == "Creating"
    assert control(manual, "POST", "clock", json={"advance": 49}).status_code == 200
    assert state(manual, "onlineEndpoints/slow") == "Creating"
    control(manual, "POST", "clock", json={"advance": 1})
    for _ in range(100):
        if state(manual, "onlineEndpoints/slow") == "Succeeded":
            return
    pytest.fail("the endpoint is not made")


def test_tokens_expire_on_a_manual_clock(manual: Local) -> None:
    assert manual.request("GET", manual.arm).status_code == 200
    control(manual, "POST", "clock", json={"advance": 3601})
    refused = manual.request("GET", manual.arm)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "ExpiredAuthenticationToken"


@pytest.mark.parametrize("sent", [{}, {"advance": "x"}, {"advance": -1}, {"advance": 1e12}, {"advance": 10**400}])
def test_a_clock_is_not_moved_by_nonsense(manual: Local, sent: dict[str, Any]) -> None:
    answer = control(manual, "POST", "clock", json=sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidClock")


def test_only_a_manual_clock_is_moved(local: Local) -> None:
    answer = control(local, "POST", "clock", json={"advance": 1})
    assert "only a manual one" in answer.json()["error"]["message"]


def test_a_reset_leaves_nothing_but_what_was_seeded(manual: Local) -> None:
    make_endpoint(manual)
    manual.request("PUT", f"{manual.arm}/computes/mine", json={"properties": {"computeType": "AmlCompute"}})
    manual.request("DELETE", f"{manual.arm}/computes/gpu-cluster")
    control(manual, "POST", "faults", json={"value": [{"on": "GET nothing", "status": 500}]})
    assert control(manual, "POST", "reset").status_code == 204
    assert manual.request("GET", f"{manual.arm}/onlineEndpoints").json()["value"] == []
    found = manual.request("GET", f"{manual.arm}/computes").json()["value"]
    assert [compute["name"] for compute in found] == ["gpu-cluster"]
    assert control(manual, "GET", "faults").json()["value"] == []


def test_of_a_seed_with_a_mistake_nothing_stays(manual: Local) -> None:
    size = "Standard_NC24ads_A100_v4"
    sound, spoilt = {"name": "sound", "size": size, "nodes": 1}, {"name": "spoilt", "size": size}
    assert control(manual, "POST", "seed", json={"computes": [sound, spoilt]}).status_code == 400
    assert manual.request("GET", f"{manual.arm}/computes/sound").status_code == 404


def test_the_journal_has_every_request_and_no_query(manual: Local) -> None:
    manual.request("GET", manual.arm)
    last = max(each["number"] for each in control(manual, "GET", "requests").json()["value"])
    manual.request("GET", f"{manual.arm}/jobs/none?sig=secret")
    manual.request("GET", f"{manual.arm}/schedules")
    found = control(manual, "GET", f"requests?after={last}").json()
    shown = [(each["operation"], each["place"], each["status"]) for each in found["value"]]
    assert shown == [("GET jobs/{name}", "GET jobs/none", 404), ("GET schedules", "GET schedules", 501)]
    assert found["unserved"] == {"GET schedules": 1}


def test_the_stand_ins_of_an_instant_engine_say_that_they_are_empty(manual: Local) -> None:
    for folder in (manual.connection.folder / "registry").iterdir():
        assert (folder / "EMPTY.txt").read_text(encoding="utf-8").strip() == NOTE
        assert "phift.empty" in (folder / "MLmodel").read_text(encoding="utf-8")
