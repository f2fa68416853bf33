"""Jobs on the wire: their life, cancelling, failures, and what survives a stop or a kill of the server."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from running import Local
from wire_jobs import COMPONENT, TRAIN, begun, body, children, log_lines, statuses, submit

pytestmark = pytest.mark.slow


def _alive(pid: int) -> bool:
    place = Path(f"/proc/{pid}")
    try:
        # A zombie still has a pid; only its state tells, and that it is the last of its threads.
        state = (place / "stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(list((place / "task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_dead(pid: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while _alive(pid):
        assert time.monotonic() < end, f"process {pid} lives"
        time.sleep(0.02)


def test_a_job_waits_for_the_one_before(local: Local) -> None:
    first = submit(local, epochs=5)
    second = submit(local)
    local.wait(first, "Running")
    assert local.wait(second, "Queued")
    assert local.wait(first) == "Completed"
    assert local.wait(second) == "Completed"
    ends = [local.request("GET", f"/history/v1.0{local.arm}/runs/{name}").json() for name in (first, second)]
    assert ends[0]["endTimeUtc"] <= ends[1]["startTimeUtc"]


def test_the_engine_gets_the_defaults_and_the_users_values_as_text(local: Local) -> None:
    name = submit(local, learning_rate="5e-06")
    local.wait(name)
    job = json.loads((local.connection.folder / "jobs" / name / "job.json").read_text())
    assert job["inputs"]["learning_rate"] == "5e-06"
    assert job["inputs"]["lora_alpha"] == "128"
    assert job["inputs"]["train_file_path"].endswith("/blobs/storage/azureml-blobstore/tests/train.jsonl")
    assert job["inputs"]["mlflow_model_path"].endswith("/registry/Phi-3-mini-4k-instruct")
    assert "huggingface_id" not in job["inputs"]


def test_a_failing_step_fails_the_job_and_stops_the_rest(local: Local) -> None:
    name = submit(local, seed="13")
    assert local.wait(name) == "Failed"
    assert statuses(local, name) == ["Completed", "Completed", "Completed", "Failed", "Canceled"]
    details = local.request("GET", f"/history/v1.0{local.arm}/runs/{name}/details").json()
    error = details["error"]["error"]
    assert error["code"] == "UserError"
    assert error["message"].startswith("Pipeline has failed child jobs. Failed nodes: /chat_completion_finetune. ")
    assert error["referenceCode"] == "PipelineHasStepJobFailed"
    child = children(local, name)[3]
    assert child["error"]["error"]["message"] == "thirteen is not a good seed"
    logs = local.request("GET", f"/history/v1.0{local.arm}/runs/{child['runId']}/details").json()["logFiles"]
    # A log's address is signed: it needs no token.
    assert local.request("GET", logs["user_logs/std_log.txt"], token="").text == "this is chat_completion_finetune\n"


def test_a_template_that_never_ends_fails_the_job(local: Local) -> None:
    name = submit(local, seed="16")
    assert local.wait(name) == "Failed"
    error = local.request("GET", f"/history/v1.0{local.arm}/runs/{name}").json()["error"]["error"]
    assert error["code"] == "UserError"
    assert error["message"].startswith("The model's tokenizer and chat template were stopped after 180 s")


def test_a_crash_of_the_engine_fails_the_running_step(local: Local) -> None:
    name = submit(local, seed="14")
    assert local.wait(name) == "Failed"
    assert statuses(local, name)[3] == "Failed"
    shown = local.request("GET", f"/history/v1.0{local.arm}/runs/{name}").json()
    assert "exit code 9" in shown["error"]["error"]["message"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"compute_finetune": "nope"}, "The compute target nope of step chat_completion_finetune was not found"),
        # The component's own default, which Azure retired.
        ({"compute_finetune": "serverless"}, "The VM size Standard_nc24rs_v3 of step chat_completion_finetune"),
        ({"compute_finetune": "serverless", "instance_type_finetune": "Standard_D12_v2"}, "SKUNotSupported"),
        ({"number_of_gpu_to_use_finetuning": "8"}, "a node of Standard_NC24ads_A100_v4 has 1 GPU"),
    ],
)
def test_a_compute_that_cannot_do_it_fails_the_job(local: Local, inputs: dict[str, str], message: str) -> None:
    name = submit(local, **inputs)
    assert local.wait(name) == "Failed"
    shown = local.request("GET", f"/history/v1.0{local.arm}/runs/{name}").json()
    assert message in shown["error"]["error"]["message"]


def test_serverless_compute(local: Local) -> None:
    sizes = {"instance_type_finetune": "Standard_NC48ads_A100_v4", "number_of_gpu_to_use_finetuning": "2"}
    assert local.wait(submit(local, compute_finetune="serverless", **sizes)) == "Completed"


def test_a_model_that_is_not_there_fails_the_job(local: Local) -> None:
    name = submit(local, model="azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/99")
    assert local.wait(name) == "Failed"
    assert any("version 99 was not found" in line for line in log_lines(local, name))


def test_cancel_of_a_running_job_ends_all_its_processes(local: Local) -> None:
    name = submit(local, seed="15", epochs=600)
    local.wait(name, "Running")
    child_pid = local.connection.folder / "jobs" / name / "work" / "child.pid"
    while not child_pid.exists() or not child_pid.read_text():
        time.sleep(0.02)
    pid = int(child_pid.read_text())
    answer = local.request("POST", f"{local.arm}/jobs/{name}/cancel")
    assert answer.status_code == 202
    assert "Retry-After" not in answer.headers
    assert local.wait(name) == "Canceled"
    _wait_dead(pid)
    assert statuses(local, name)[3:] == ["Canceled", "Canceled"]
    while local.request("GET", answer.headers["Location"]).status_code == 202:
        time.sleep(0.05)
    assert local.request("POST", f"{local.arm}/jobs/{name}/cancel").status_code == 200


def test_cancel_of_a_waiting_job(local: Local) -> None:
    first = submit(local, epochs=8)
    second = submit(local)
    local.request("POST", f"{local.arm}/jobs/{second}/cancel")
    assert local.wait(second) == "Canceled"
    assert set(statuses(local, second)) == {"Canceled"}
    assert local.wait(first) == "Completed"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"jobType": "Command"}, 501, "jobs of type Command"),
        ({"jobs": {}}, 501, "this one has 0"),
        ({"jobs": {"a": {"componentId": "azureml:other:1"}}}, 501, "not azureml:other:1"),
        ({"jobs": {"a": {"componentId": COMPONENT, "inputs": {"nope": {"value": "1"}}}}}, 400, "no input named nope"),
    ],
)
def test_what_is_not_served_is_refused_by_name(local: Local, change: object, status: int, message: str) -> None:
    sent = body()
    sent["properties"].update(change)
    answer = local.request("PUT", f"{local.arm}/jobs/refused", json=sent)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text
    assert local.request("GET", f"{local.arm}/jobs/refused").status_code == 404


def test_another_job_under_the_same_name_is_refused(local: Local) -> None:
    name = submit(local)
    assert local.request("PUT", f"{local.arm}/jobs/{name}", json=body()).status_code == 200
    answer = local.request("PUT", f"{local.arm}/jobs/{name}", json=body(epochs=3))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "UserError")
    assert "The existing job's inputs cannot be changed" in answer.json()["error"]["message"]
    more = {entry["type"]: entry["info"]["value"] for entry in answer.json()["error"]["additionalInfo"]}
    assert more["InnerError"]["code"] == "JobPropertyImmutable"


def test_a_stopped_server_goes_on_with_the_job_where_it_was(own_local: Local) -> None:
    name = submit(own_local, epochs=10)
    own_local.wait(name, "Running")
    while statuses(own_local, name)[3] != "Running":
        time.sleep(0.05)
    assert own_local.workspace.down()
    assert own_local.workspace.status().jobs == {"Queued": 1}
    assert own_local.workspace.up() == own_local.connection, "the port stays the same"
    assert own_local.wait(name) == "Completed"
    starts = [step for step in begun(own_local, name) if step == "ft_nlp_common_validation"]
    assert len(starts) == 1, "a finished step is not run again"


def test_a_killed_server_leaves_no_process_and_loses_no_job(own_local: Local) -> None:
    name = submit(own_local, epochs=10)
    while statuses(own_local, name)[3] != "Running":
        time.sleep(0.05)
    server = own_local.workspace.status().pid
    assert server is not None
    [engine] = [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()] or _all_of(
        server
    )
    os.kill(server, signal.SIGKILL)
    _wait_dead(engine)
    _wait_dead(server)  # its last thread may outlive the pipe to the engine by a moment, and with it the lock
    assert not own_local.workspace.status().running
    own_local.workspace.up()
    assert own_local.wait(name) == "Completed"


def test_a_server_that_was_killed_a_moment_ago_is_no_server(own_local: Local) -> None:
    for _ in range(3):
        server = own_local.workspace.status().pid
        assert server is not None
        os.kill(server, signal.SIGKILL)
        _wait_refused(own_local)  # its lock may live on for a moment
        own_local.workspace.up()
        assert own_local.request("GET", "/health").status_code == 200
        assert own_local.workspace.status().pid != server


def _wait_refused(local: Local) -> None:
    port = int(local.connection.base_url.rpartition(":")[2])
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
    raise AssertionError("the dead server's port is open")


def _all_of(server: int) -> list[int]:
    """Return the children of a process whichever of its threads started them."""
    tasks = Path(f"/proc/{server}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def test_two_that_start_at_once_get_one_server(own_local: Local) -> None:
    own_local.workspace.down()
    found: list[object] = []
    starters = [threading.Thread(target=lambda: found.append(own_local.workspace.up())) for _ in range(3)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert len(found) == 3
    assert len(set(found)) == 1


def test_training_file_address(local: Local) -> None:
    name = submit(local)
    assert local.wait(name) == "Completed"
    shown = local.request("GET", f"{local.arm}/jobs/{name}").json()["properties"]
    assert shown["inputs"]["train"]["uri"] == TRAIN
    assert shown["outputs"]["trained_model"]["uri"] is None
    assert local.output(name, "trained_model").endswith("/mlflow_model_folder")
