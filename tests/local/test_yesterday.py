"""A workspace that an older phift has left, with a job, assets and an endpoint, starts and goes on.

``yesterday`` is what phift of 2026-11-29 left: the database as SQL, the files as text; the secret and the keys are
made up. What it holds was made through the wire, with the engine that trains nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from running import Local

from phift.local import LocalWorkspace
from phift.local.programs import NOTE

LEFT = Path(__file__).parent / "yesterday"
KEY = "N/3RsbL9KxHTt45N7GMI1sg4M0f2Jvkrgw3HfIsmU2M="  # as the endpoint was asked for it then


@pytest.fixture(scope="module")
def yesterdays(tmp_path_factory: pytest.TempPathFactory, quiet_sdk: None) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("yesterday") / "workspace"
    for name, text in json.loads((LEFT / "files.json").read_text(encoding="utf-8")).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with closing(sqlite3.connect(folder / "state.db")) as database:
        database.executescript((LEFT / "state.sql").read_text(encoding="utf-8"))
    workspace = LocalWorkspace(folder, engine="instant", speed="fast")
    local = Local(workspace, workspace.up())
    yield local
    local.session.close()
    workspace.down()


def test_its_jobs_and_assets_are_there(yesterdays: Local) -> None:
    [job] = yesterdays.request("GET", f"{yesterdays.arm}/jobs").json()["value"]
    assert (job["name"], job["properties"]["status"]) == ("first", "Completed")
    model = yesterdays.request("GET", f"{yesterdays.arm}/models/tuned/versions/1").json()["properties"]
    assert model["modelUri"] == yesterdays.output("first", "trained_model")
    assert yesterdays.request("GET", f"{yesterdays.arm}/data/elements/versions/1").status_code == 200
    [step, *_] = yesterdays.request("GET", f"/history/v1.0{yesterdays.arm}/runs/first/children").json()["value"]
    details = yesterdays.request("GET", f"/history/v1.0{yesterdays.arm}/runs/{step['runId']}/details").json()
    assert yesterdays.request("GET", details["logFiles"]["user_logs/std_log.txt"], token="").text == f"{NOTE}\n"


def test_its_cluster_keeps_the_spelling_that_was_stored(yesterdays: Local) -> None:
    at = f"{yesterdays.arm}/computes/gpu-cluster"
    shown = yesterdays.request("GET", at).json()
    assert shown["properties"]["properties"]["vmSize"] == "STANDARD_NC24ADS_A100_V4"
    size = {"vmSize": "Standard_NC24ads_A100_v4", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1}}
    sent = {"properties": {"computeType": "AmlCompute", "properties": size}}
    assert yesterdays.request("PUT", at, json=sent).status_code == 201
    assert yesterdays.request("GET", at).json()["properties"]["properties"]["vmSize"] == size["vmSize"]


def test_its_endpoint_answers_whoever_has_its_key_and_trusts_its_authority(yesterdays: Local) -> None:
    endpoint = yesterdays.request("GET", f"{yesterdays.arm}/onlineEndpoints/chat").json()["properties"]
    left = json.loads((LEFT / "files.json").read_text(encoding="utf-8"))
    authority = yesterdays.connection.folder.with_name("ca.pem")
    authority.write_text(left["ca.pem"], encoding="utf-8")
    conversation = {"input_data": {"input_string": [{"role": "user", "content": "Hello"}]}}
    with requests.Session() as client:
        client.trust_env = False
        answer = client.post(
            endpoint["scoringUri"],
            json=conversation,
            headers={"Authorization": f"Bearer {KEY}"},
            verify=str(authority),
            timeout=60,
        )
    assert (answer.status_code, answer.json()) == (200, [{"0": NOTE}])


def test_it_takes_new_jobs(yesterdays: Local) -> None:
    job = yesterdays.request("GET", f"{yesterdays.arm}/jobs/first").json()["properties"]
    sent = {name: job[name] for name in ("jobType", "experimentName", "jobs", "inputs", "outputs")}
    again = yesterdays.request("PUT", f"{yesterdays.arm}/jobs/first", json={"properties": sent})
    assert again.status_code == 200, "the same job is the one that is there"
    assert yesterdays.request("PUT", f"{yesterdays.arm}/jobs/second", json={"properties": sent}).status_code == 201
    assert yesterdays.wait("second") == "Completed"
