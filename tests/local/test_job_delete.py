"""Deleting jobs: what goes with one, what stays, and who may not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from running import Local
from wire_jobs import body, children, submit

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def ended(local: Local) -> str:
    """A job that stays."""
    name = submit(local)
    assert local.wait(name) == "Completed"
    return name


def files(local: Local, *places: str) -> list[Path]:
    blobs = local.connection.folder / "blobs/storage"
    return [file for place in places for file in (blobs / place).rglob("*") if file.is_file()]


def tracking(local: Local, path: str, **query: str) -> int:
    url = f"/mlflow/v1.0{local.arm}/api/2.0/mlflow/{path}"
    return local.request("GET", url, params=query).status_code


def test_a_deleted_job_is_gone_with_its_runs_and_its_model_stays(local: Local, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    name = submit(local)
    assert local.wait(name) == "Completed"
    steps = [run["runId"] for run in children(local, name)]
    logs = [f"azureml/ExperimentRun/dcid.{run}" for run in (name, *steps)]
    point = {"run_id": name, "key": "mine", "value": 0.5, "step": 1, "timestamp": 1}
    local.request("POST", f"/mlflow/v1.0{local.arm}/api/2.0/mlflow/runs/log-metric", json=point)
    path = f"azureml://jobs/{name}/outputs/trained_model"
    local.client.models.create_or_update(Model(name="kept", version="1", path=path, type="mlflow_model"))
    assert files(local, *logs)
    local.client.jobs.begin_delete(name).wait()
    with pytest.raises(ResourceNotFoundError):
        local.client.jobs.get(name)
    assert name not in [job.name for job in local.client.jobs.list()]
    for run in (name, *steps):
        assert local.request("GET", f"/history/v1.0{local.arm}/runs/{run}").status_code == 404
        assert tracking(local, "runs/get", run_id=run) == 404
    assert files(local, *logs) == []
    assert not (local.connection.folder / "jobs" / name).exists()
    local.client.models.download("kept", version="1", download_path=str(tmp_path))
    assert any(file.is_file() for file in tmp_path.rglob("*"))
    # The name is free, and what begins under it begins anew.
    assert local.request("PUT", f"{local.arm}/jobs/{name}", json=body(seed="9")).status_code == 201
    assert local.wait(name) == "Completed"
    assert not set(steps) & {run["runId"] for run in children(local, name)}
    found = local.request("GET", f"/mlflow/v1.0{local.arm}/api/2.0/mlflow/runs/get", params={"run_id": name}).json()
    assert "mine" not in [metric["key"] for metric in found["run"]["data"]["metrics"]]


def test_a_job_that_runs_is_not_deleted(local: Local) -> None:
    name = submit(local, epochs=600)
    waiting = submit(local, seed="2")
    local.wait(name, "Running")
    for job, status in ((name, "Running"), (waiting, "Queued")):
        with pytest.raises(HttpResponseError, match=f"The job {job} is {status}; only a job that has ended"):
            local.client.jobs.begin_delete(job).wait()
        assert local.client.jobs.get(job).status == status
    local.client.jobs.begin_cancel(name).wait()
    assert local.wait(waiting) == "Completed"
    local.client.jobs.begin_delete(name).wait()
    assert local.request("GET", f"{local.arm}/jobs/{name}").status_code == 404


def test_two_who_delete_one_job_are_both_done(local: Local) -> None:
    name = submit(local)
    assert local.wait(name) == "Completed"
    pollers = [local.client.jobs.begin_delete(name) for _ in range(2)]
    for poller in pollers:
        poller.wait()
        assert poller.status() == "Succeeded"
    assert local.request("GET", f"{local.arm}/jobs/{name}").status_code == 404


def test_what_is_not_there_is_deleted_already(local: Local, ended: str) -> None:
    local.client.jobs.begin_delete("nothing-here").wait()
    assert local.request("DELETE", f"{local.arm}/jobs/nothing-here").status_code == 204
    assert local.request("GET", f"{local.arm}/jobs/{ended}").status_code == 200


def test_a_step_is_not_deleted_by_itself(local: Local, ended: str) -> None:
    step = children(local, ended)[0]["runId"]
    answer = local.request("DELETE", f"{local.arm}/jobs/{step}")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        f"{step} is a child run; delete the job {ended}.",
    )


def test_a_job_takes_the_place_of_no_run(local: Local, ended: str) -> None:
    step = children(local, ended)[0]["runId"]
    answer = local.request("PUT", f"{local.arm}/jobs/{step}", json=body())
    assert (answer.status_code, "which is no job" in answer.text) == (400, True)
    assert step in [run["runId"] for run in children(local, ended)]


def test_a_server_that_is_killed_meanwhile_deletes_it_when_it_is_back(own_local: Local) -> None:
    name = submit(own_local)
    assert own_local.wait(name) == "Completed"
    answer = own_local.request("DELETE", f"{own_local.arm}/jobs/{name}")
    server = own_local.workspace.status().pid
    assert server is not None
    os.kill(server, signal.SIGKILL)
    assert answer.status_code == 202
    while own_local.workspace.status().running:
        time.sleep(0.02)
    own_local.workspace.up()
    end = time.monotonic() + 60
    while own_local.request("GET", answer.headers["Location"]).status_code == 202 and time.monotonic() < end:
        time.sleep(0.05)
    assert own_local.request("GET", f"{own_local.arm}/jobs/{name}").status_code == 404
    assert not (own_local.connection.folder / "jobs" / name).exists()
