"""The whole chain with the real SDK and a real training, in a local workspace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from running import Local

from phift import FineTuneRun, RunConfig, samples
from phift.cli.quickstart import Exam, ask_held_out
from phift.errors import CheckFailed, ConfigError, NotFound, PhiftError
from phift.jobs.events import MetricLogged
from phift.local import LocalWorkspace

pytestmark = pytest.mark.slow


def configuration(local: Local, folder: Path, **changes: Any) -> RunConfig:
    data = samples.write(folder / "elements")
    values: dict[str, Any] = {
        "workspace": {"local": local.connection.folder},
        "model": "Phi-4-mini-instruct",
        "compute": "gpu-cluster",
        "data": {"train": data.train, "validation": data.validation, "test": data.test},
        "parameters": dict(samples.PARAMETERS),
        "work_dir": folder / "work",
    }
    return RunConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def trained(workspace: Local, folder: Path) -> tuple[FineTuneRun, list[Any]]:
    """A run whose job has completed, and the events it gave."""
    events: list[Any] = []
    run = FineTuneRun(configuration(workspace, folder), on_event=events.append)
    run.submit()
    run.wait(timeout=3000)
    return run, events


@pytest.mark.proof
def test_training_lowers_the_validation_loss_and_reports_it_live(trained: tuple[FineTuneRun, list[Any]]) -> None:
    run, events = trained
    losses = run.metrics().query("metric == 'eval_loss'").sort_values("step")["value"].tolist()
    live = [e.metric.value for e in events if isinstance(e, MetricLogged) and e.metric.name == "eval_loss"]
    assert losses[0] > 5 > 0.5 > losses[-1]
    assert sorted(live) == sorted(losses)


@pytest.mark.proof
def test_the_deployed_model_answers_held_out_questions(trained: tuple[FineTuneRun, list[Any]]) -> None:
    run, _ = trained
    with run.deploy() as endpoint:
        exam: Exam = ask_held_out(endpoint, run.prepare().test, count=40)
    assert exam.share >= 0.7
    with pytest.raises(NotFound):
        ask_held_out(endpoint, run.prepare().test, count=1)


@pytest.mark.proof
def test_running_it_again_finds_the_job_and_the_model(trained: tuple[FineTuneRun, list[Any]], workspace: Local) -> None:
    first, _ = trained
    model = first.register()
    again = FineTuneRun(first.config)
    assert again.submit().existed
    assert again.register() == type(model)(**{**vars(model), "existed": True})
    assert [job.name for job in workspace.client.jobs.list()].count(first.job.name) == 1


# azure-ai-ml 1.35.2 downloads in two ways that azure-storage-blob 12.27 deprecates, and MLflow 3.15 warns of the type
# hints of its own chat schema.
@pytest.mark.proof
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*type hint.*:UserWarning")
def test_the_downloaded_model_answers_through_mlflow(trained: tuple[FineTuneRun, list[Any]], tmp_path: Path) -> None:
    run, _ = trained
    model = run.register()
    run.clients.workspace.models.download(model.name, model.version, download_path=str(tmp_path))
    found = min(tmp_path.rglob("MLmodel"), key=lambda path: len(path.parts)).parent
    row = json.loads(run.prepare().test.read_text().splitlines()[0])["messages"]
    loaded = mlflow.pyfunc.load_model(str(found))
    answer = loaded.predict({"messages": [row[0]]})
    assert answer[0]["choices"][0]["message"]["content"].strip() == row[1]["content"]


@pytest.mark.proof
def test_the_lineage_stands_in_the_models_tags(trained: tuple[FineTuneRun, list[Any]], workspace: Local) -> None:
    run, _ = trained
    model = run.register()
    tags = workspace.client.models.get(model.name, version=model.version).tags
    assert tags["phift.base_model"] == run.plan.model.id
    assert tags["phift.data"] == run.prepare().content_hash
    assert tags["phift.component"] == "azureml/chat_completion_pipeline:0.0.82"
    assert tags["phift.job"] == run.job.name


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "model": (
        {"model": "Phi-4-mini-instruckt"},
        "model Phi-4-mini-instruckt in registry azureml",
        "Phi-4-mini-instruct",
    ),
    "registry": (
        {"model": {"name": "Phi-4-mini-instruct", "registry": "azure-ml"}},
        "registry azure-ml",
        "check its name",
    ),
    "cluster": ({"compute": "gpu-clutser"}, "compute", "did you mean gpu-cluster"),
    "size": ({"compute": {"serverless": "Standard_NC4as_T4_v3"}}, "compute serverless", "listed size"),
    "parameter": ({"parameters": {"learning_rat": 1e-5}}, "parameters.learning_rat", "did you mean learning_rate"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_error_before_anything_is_submitted(
    mistake: str, workspace: Local, tmp_path: Path
) -> None:
    changes, where, fix = MISTAKES[mistake]
    before = len(list(workspace.client.jobs.list()))
    with pytest.raises(CheckFailed) as caught:
        FineTuneRun(configuration(workspace, tmp_path, **changes)).submit()
    assert caught.value.where == where
    assert fix in (caught.value.fix or "")
    assert [finding.place for finding in caught.value.report.errors] == [where]
    assert len(list(workspace.client.jobs.list())) == before


def test_a_broken_row_names_its_line(workspace: Local, tmp_path: Path) -> None:
    data = samples.write(tmp_path / "elements")
    lines = data.train.read_text().splitlines()
    lines[6] = '{"messages": [{"role": "user", "content": "no answer"}]}'
    data.train.write_text("\n".join(lines))
    config = configuration(workspace, tmp_path / "other", data={"train": data.train})
    with pytest.raises(CheckFailed) as caught:
        FineTuneRun(config).submit()
    assert caught.value.where == f"{data.train}:7"


def test_a_missing_file_is_named(workspace: Local, tmp_path: Path) -> None:
    config = configuration(workspace, tmp_path, data={"train": tmp_path / "elements" / "trian.jsonl"})
    with pytest.raises(CheckFailed) as caught:
        FineTuneRun(config).submit()
    assert "trian.jsonl" in str(caught.value.where)
    assert "train.jsonl" in str(caught.value.fix)


def test_every_mistake_of_a_run_is_in_one_report(workspace: Local, tmp_path: Path) -> None:
    changes = {
        "model": "Phi-4-mini-instruckt",
        "compute": "gpu-clutser",
        "data": {"train": tmp_path / "nothing.jsonl"},
        "parameters": {"learning_rat": 1e-5, "num_train_epochs": 0},
    }
    report = FineTuneRun(configuration(workspace, tmp_path, **changes)).check()
    assert sorted(finding.code for finding in report.errors) == [
        "DataNotFound",
        "NotFound",
        "NotFound",
        "PARAMETER_UNKNOWN",
        "PARAMETER_VALUE",
    ]


def test_an_unknown_key_is_an_error_of_ours() -> None:
    with pytest.raises(ConfigError, match=r"datas.*no such key"):
        RunConfig.from_dict({"model": "Phi-4", "compute": "gpu-cluster", "datas": {"train": "x.jsonl"}})


SCRIPT = """
import sys
from pathlib import Path
from phift.cli.quickstart import configuration
from phift.run import FineTuneRun
config = configuration(Path(sys.argv[1]))
run = FineTuneRun(config.model_copy(update={"parameters": {**config.parameters, "num_train_epochs": 1}}))
job = run.submit()
print("submitted", job.name, job.existed, flush=True)
run.wait()
model = run.register()
with run.deploy() as endpoint:
    print("model", model.version, endpoint.name, flush=True)
"""


def _start(folder: Path) -> subprocess.Popen[str]:
    # A process of its own has its own cloud; it must not inherit this one's.
    environ = {name: value for name, value in os.environ.items() if name != "AZUREML_CURRENT_CLOUD"}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)  # noqa: S603 - the script above


@pytest.mark.proof
def test_a_killed_script_goes_on_with_the_same_job(tmp_path: Path) -> None:
    """Also when it was the server that was killed: the job is one and the same."""
    own = LocalWorkspace(tmp_path / "workspace")
    connection = own.up()
    try:
        with _start(connection.folder) as script:
            assert script.stdout is not None
            first = script.stdout.readline().split()
            _wait_for_training(Local(own, connection), first[1])
            script.kill()
        os.kill(own.status().pid or 0, signal.SIGKILL)
        while own.status().running:
            time.sleep(0.05)
        again = own.up()
        with _start(again.folder) as second:
            output = second.communicate()[0].splitlines()
        assert second.returncode == 0
        local = Local(own, again)
        assert first[0::2] == ["submitted", "False"]
        assert output[0].split() == ["submitted", first[1], "True"]
        assert _names(local, "jobs") == [first[1]]
        assert len(_names(local, "models/phi-4-mini-instruct-finetuned/versions")) == 1
        assert _names(local, "onlineEndpoints") == []
    finally:
        own.down()


def _names(local: Local, collection: str) -> list[str]:
    return [found["name"] for found in local.request("GET", f"{local.arm}/{collection}").json()["value"]]


def _wait_for_training(local: Local, job: str, seconds: float = 1200) -> None:
    end = time.monotonic() + seconds
    children = f"/history/v1.0{local.arm}/runs/{job}/children"
    while time.monotonic() < end:
        runs = local.request("GET", children).json()["value"]
        if any(run["displayName"] == "chat_completion_finetune" and run["status"] == "Running" for run in runs):
            return
        time.sleep(0.2)
    raise AssertionError("the job did not begin to train")


def test_no_local_workspace_is_an_error_that_says_how_to_start_one(tmp_path: Path) -> None:
    config = RunConfig(
        workspace={"local": tmp_path}, model="Phi-4", compute="gpu-cluster", data={"train": tmp_path / "x.jsonl"}
    )
    with pytest.raises(PhiftError, match="phift local up"):
        FineTuneRun(config).submit()
