"""Data prepared by the job's first step, with the real SDK in a local workspace."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from running import Local
from test_assets import run_of, uploads
from wire_jobs import COMPONENT, body, statuses

from phift import FineTuneRun, samples
from phift.component.preprocessing import SPLITS
from phift.config.data import DataConfig
from phift.data.on_cluster import command_line
from phift.data.prepare import PreparedDataset, prepare_dataset
from phift.errors import CheckFailed, JobFailed

pytestmark = [
    pytest.mark.slow,
    # The SDK and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
STEPS = 6


def sharegpt(path: Path, count: int = 40) -> Path:
    """Write rows that no other test has."""
    mark = uuid.uuid4().hex
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            turns = [{"from": "human", "value": f"{number}?"}, {"from": "gpt", "value": f"{number} {mark}"}]
            file.write(json.dumps({"conversations": turns}) + "\n")
    return path


def upload(local: Local, path: Path) -> str:
    """Register a file or a folder as a data asset and return its address."""
    from azure.ai.ml.entities import Data

    name, kind = uuid.uuid4().hex, "uri_folder" if path.is_dir() else "uri_file"
    local.client.data.create_or_update(Data(name=name, version="3", type=kind, path=str(path)))
    return f"azureml:{name}:3"


def on_cluster(local: Local, folder: Path, train: Any, **data: Any) -> FineTuneRun:
    return run_of(local, folder, {"train": train, "prepare_on": "gpu-cluster", **data})


def job_file(local: Local, job: str) -> Any:
    return json.loads((local.connection.folder / "jobs" / job / "job.json").read_text())


def report(local: Local, job: str) -> Path:
    """Return the folder of a job's report."""
    path = local.output(job, "report").partition("/paths/")[2]
    return local.connection.folder / "blobs" / "storage" / "azureml-blobstore" / path


def check_same(local: Local, job: str, here: PreparedDataset) -> None:
    """Training read what is prepared on this machine from the same data."""
    inputs = job_file(local, job)["inputs"]
    for split, path in here.files.items():
        assert Path(inputs[f"{split}_file_path"]).name == f"{split}.jsonl"
        assert Path(inputs[f"{split}_file_path"]).read_bytes() == path.read_bytes()
    assert json.loads((report(local, job) / "manifest.json").read_text())["hashes"] == here.hashes


@pytest.mark.usefixtures("quiet_log")
def test_a_job_prepares_its_data_and_trains_on_it(
    local: Local, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = sharegpt(tmp_path / "raw.jsonl")
    run = on_cluster(local, tmp_path, upload(local, raw), split={"seed": 7})
    capfd.readouterr()
    job = run.submit()
    job.wait(timeout=1200)
    assert next((step.name, step.status) for step in job.steps()) == ("prepare_data", "Completed")
    assert len(job.steps()) == STEPS
    data = DataConfig.model_validate({"train": raw, "split": {"seed": 7}})
    check_same(local, job.name, prepare_dataset(data, tmp_path / "here"))
    (log,) = job.tracking.log_tails(job.steps()[0].run_id)
    assert log.splitlines()[-1] == "32 train, 4 validation, 4 test rows written."
    assert run.register().name
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.proof
def test_the_code_is_uploaded_once(local: Local, tmp_path: Path) -> None:
    first = on_cluster(local, tmp_path, upload(local, sharegpt(tmp_path / "one.jsonl")))
    second = on_cluster(local, tmp_path, upload(local, sharegpt(tmp_path / "two.jsonl")))
    name = first.submit().name
    before = uploads(local)
    assert second.submit().name != name
    assert on_cluster(local, tmp_path, first.config.data.sources["train"][0]).submit().name == name
    assert uploads(local) == before


def test_a_folder_a_place_and_columns_of_ones_own_are_prepared(local: Local, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for name in ("one", "two"):
        sharegpt(folder / f"{name}.jsonl")
    table = tmp_path / "table.csv"
    table.write_text("Frage,Antwort\n" + "".join(f"{number}?,it is {number}\n" for number in range(20)))
    columns = {"format": "question_answer", "columns": {"question": "Frage", "answer": "Antwort"}}
    address = upload(local, table)
    name, _, version = address.removeprefix("azureml:").partition(":")
    place = str(local.client.data.get(name, version=version).path)
    run = on_cluster(local, tmp_path, [upload(local, folder), {"asset": place, **columns}])
    job = run.submit()
    assert local.wait(job.name) == "Completed"
    data = {"train": [folder, {"files": table, **columns}]}
    check_same(local, job.name, prepare_dataset(DataConfig.model_validate(data), tmp_path / "here"))


def test_a_bad_row_fails_the_job_with_its_line(local: Local, tmp_path: Path) -> None:
    raw = sharegpt(tmp_path / "raw.jsonl")
    with raw.open("a") as file:
        file.write('{"conversations": [{"from": "human", "value": "my secret"}]}\n')
    address = upload(local, raw)
    job = on_cluster(local, tmp_path, address).submit()
    with pytest.raises(JobFailed, match=r"prepare_data failed: .*1 of 41 rows .*raw\.jsonl:41: ") as caught:
        job.wait(timeout=1200)
    assert caught.value.step == "prepare_data"
    assert "bad_rows: set_aside" in caught.value.log_tail
    assert "secret" not in str(caught.value) + caught.value.log_tail
    assert [step.status for step in job.steps()] == ["Failed", *["Canceled"] * (STEPS - 1)]

    aside = on_cluster(local, tmp_path, address, bad_rows="set_aside").submit()
    aside.wait(timeout=1200)
    (reject,) = map(json.loads, (report(local, aside.name) / "rejects.jsonl").read_text().splitlines())
    assert reject["line"] == 41


def test_a_cluster_that_is_not_there_is_named_before_anything_is_submitted(local: Local, tmp_path: Path) -> None:
    address = upload(local, sharegpt(tmp_path / "raw.jsonl"))
    with pytest.raises(CheckFailed, match="COMPUTE_PREPARE_MISSING"):
        on_cluster(local, tmp_path, address, prepare_on="none").submit()


def test_another_command_is_not_executed(local: Local, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    identity = f"{local.arm}/components/mine/versions/1"
    right = command_line(["train_1"])
    for command in (f"touch {marker}", f"{right}; touch {marker}", right.replace("phift", "evil", 1)):
        kinds = {"settings": {"type": "string"}, "train_1": {"type": "uri_file"}}
        spec = {"type": "command", "command": command, "inputs": kinds, "outputs": {}}
        identity = f"{local.arm}/components/mine/versions/{uuid.uuid4().hex}"
        made = local.request("PUT", identity, json={"properties": {"componentSpec": spec}})
        assert made.status_code == 201
        sent = body()
        sent["properties"]["jobs"]["mine"] = {"name": "mine", "type": "command", "componentId": identity}
        answer = local.request("PUT", f"{local.arm}/jobs/job-{uuid.uuid4().hex[:8]}", json=sent)
        assert answer.status_code == 501
        assert "does not execute uploaded code, such as the step mine" in answer.json()["error"]["message"]
    assert not marker.exists()


def test_a_binding_to_a_step_that_is_not_there_is_refused(local: Local) -> None:
    sent = body(train_file_path="${{parent.jobs.prepare_data.outputs.train}}")
    sent["properties"]["jobs"]["chat_completion_pipeline"]["componentId"] = COMPONENT
    answer = local.request("PUT", f"{local.arm}/jobs/job-{uuid.uuid4().hex[:8]}", json=sent)
    assert answer.status_code == 400
    assert "which the pipeline does not have" in answer.json()["error"]["message"]


@pytest.mark.proof
def test_a_code_asset_outlives_the_servers_port(own_local: Local, tmp_path: Path) -> None:
    address = upload(own_local, sharegpt(tmp_path / "raw.jsonl"))
    job = on_cluster(own_local, tmp_path, address).submit()
    assert own_local.wait(job.name) == "Completed"
    assert own_local.connection.base_url.encode() not in (own_local.connection.folder / "state.db").read_bytes()


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that takes connections and never answers, so that a step which asks it goes on for a while."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        yield


def waiting_at_the_hub(local: Local, folder: Path) -> str:
    """Submit a job whose first step hangs, and return its name once that step runs."""
    job = on_cluster(local, folder, f"owner/{uuid.uuid4().hex}").submit()
    while statuses(local, job.name)[0] != "Running":
        time.sleep(0.05)
    return job.name


def preparing(job: str) -> list[int]:
    """Return the processes that prepare a job's data."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                if f"/{job}/preparation.json".encode() in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
    return found


def test_a_canceled_job_stops_preparing(silent_hub: None, own_local: Local, tmp_path: Path) -> None:
    name = waiting_at_the_hub(own_local, tmp_path)
    assert len(preparing(name)) == 1
    own_local.client.jobs.begin_cancel(name).result()
    assert own_local.wait(name) == "Canceled"
    assert preparing(name) == []
    assert set(statuses(own_local, name)) == {"Canceled"}


@pytest.mark.proof
def test_a_stopped_server_begins_the_step_anew(silent_hub: None, own_local: Local, tmp_path: Path) -> None:
    name = waiting_at_the_hub(own_local, tmp_path)
    own_local.workspace.down()
    assert preparing(name) == []
    own_local.workspace.up()
    own_local.wait(name, "Running")
    assert len(preparing(name)) == 1


@pytest.mark.proof
def test_a_stopped_server_does_not_prepare_twice(own_local: Local, tmp_path: Path) -> None:
    address = upload(own_local, sharegpt(tmp_path / "raw.jsonl"))
    job = run_of(own_local, tmp_path, {"train": address, "prepare_on": "gpu-cluster"}, num_train_epochs=10).submit()
    while statuses(own_local, job.name)[4] != "Running":
        time.sleep(0.05)
    own_local.workspace.down()
    own_local.workspace.up()
    assert own_local.wait(job.name) == "Completed"
    assert job.tracking.log_tails(job.steps()[0].run_id)[0].count("rows written") == 1


@pytest.mark.proof
def test_the_engine_trains_on_what_the_step_wrote(
    workspace: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each workspace has a certificate of its own, and the last one that was started is in the environment.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(workspace.connection.ca_bundle))
    data = samples.write(tmp_path / "elements")
    folder = {split: upload(workspace, getattr(data, split)) for split in SPLITS}
    batches = {"per_device_train_batch_size": 64, "per_device_eval_batch_size": 64}
    run = run_of(workspace, tmp_path, {**folder, "prepare_on": "gpu-cluster"}, **batches)
    job = run.submit()
    job.wait(timeout=1200)
    losses = run.metrics().query("metric == 'eval_loss'")["value"].tolist()
    assert losses
    here = {split: getattr(data, split) for split in SPLITS}
    check_same(workspace, job.name, prepare_dataset(DataConfig.model_validate(here), tmp_path / "here"))
