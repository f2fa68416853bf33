"""Steps that a job of the local workspace takes from an earlier one, as Azure does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import Data

from phift import Clients, FineTuneRun, RunConfig, samples
from phift.component.inputs import STEPS
from phift.config.data import DataConfig
from phift.errors import JobFailed
from phift.local.model import runs
from phift.local.programs import Programs
from phift.local.site import Site
from phift.local.state.folder import Folder
from phift.local.work.reuse import _TAKES, find, remember
from phift.testing import Fault, TestWorkspace

IMPORT, PREPROCESS = "chat_completion_model_import", "chat_completion_datapreprocess"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    data = samples.write(tmp_path / "elements")
    files = {"train": data.train, "validation": data.validation, "test": data.test}
    return RunConfig(model="Phi-4-mini-instruct", compute="gpu-cluster", data=files, work_dir=tmp_path / "work")


def trained(config: RunConfig, clients: Clients, **parameters: Any) -> str:
    own = {key: parameters.pop(key) for key in ("force_rerun",) if key in parameters}
    changed = {"parameters": {**config.parameters, **parameters}, **own}
    run = FineTuneRun(config.model_copy(update=changed), clients)
    run.submit()
    run.wait()
    return run.job.name


def reused(clients: Clients, job: str) -> dict[str, str]:
    """Return for each reused step of a job the run that it was taken from."""
    children = clients.workspace.jobs.list(parent_job_name=job)
    found = {child.display_name: child.properties for child in children}
    return {name: told["azureml.reusedrunid"] for name, told in found.items() if told.get("azureml.isreused") == "true"}


def steps(clients: Clients, job: str) -> dict[str, str]:
    return {child.display_name: child.name for child in clients.workspace.jobs.list(parent_job_name=job)}


def test_import_and_preprocessing_run_once_for_jobs_that_train_otherwise(
    config: RunConfig, phift_clients: Clients
) -> None:
    first = trained(config, phift_clients, learning_rate=1e-5)
    others = [trained(config, phift_clients, learning_rate=rate) for rate in (1e-4, 1e-3)]
    of_first = steps(phift_clients, first)
    assert reused(phift_clients, first) == {}
    for job in others:
        assert reused(phift_clients, job) == {step: of_first[step] for step in (IMPORT, PREPROCESS)}


def test_a_step_whose_inputs_differ_runs_and_so_do_those_that_follow(config: RunConfig, phift_clients: Clients) -> None:
    trained(config, phift_clients)
    assert reused(phift_clients, trained(config, phift_clients, max_seq_length=128)).keys() == {IMPORT}


def test_a_job_that_forces_a_rerun_takes_nothing_and_gives_nothing(config: RunConfig, phift_clients: Clients) -> None:
    trained(config, phift_clients, force_rerun=True)
    assert reused(phift_clients, trained(config, phift_clients, seed=1)) == {}
    assert reused(phift_clients, trained(config, phift_clients, seed=2, force_rerun=True)) == {}


def test_a_step_of_a_deleted_job_is_not_taken(config: RunConfig, phift_clients: Clients) -> None:
    phift_clients.workspace.jobs.begin_delete(trained(config, phift_clients)).wait()
    assert reused(phift_clients, trained(config, phift_clients, seed=1)) == {}


def test_the_next_attempt_takes_what_the_failed_one_has_done(config: RunConfig, phift_workspace: TestWorkspace) -> None:
    clients = phift_workspace.clients
    phift_workspace.order(Fault(on="step ft_nlp_model_converter", status=400))
    with pytest.raises(JobFailed):
        trained(config, clients)
    (failed,) = (job.name for job in clients.workspace.jobs.list())
    second = trained(config, clients)
    of_first = steps(clients, failed)
    assert reused(clients, second) == {step: run for step, run in of_first.items() if step != "ft_nlp_model_converter"}
    model = FineTuneRun.attach(second, clients).register()
    assert clients.workspace.models.get(model.name, model.version).job_name == second


def test_what_a_training_step_left_for_the_next_is_in_the_next_job_too(tmp_path: Path) -> None:
    site = Site(Folder(tmp_path), "https://localhost:1", Programs(), "fast")
    plan = {"inputs": dict.fromkeys(_TAKES[PREPROCESS], "x"), "request": {"component": "c"}}
    plan["inputs"] |= {f"{kind}_{step}": "c" for kind in ("compute", "instance_type") for step in set(STEPS.values())}
    jobs = []
    for name in ("first", "second"):
        children = [f"{name}-{number}" for number in range(len(STEPS))]
        site.documents.put(f"runs/{name}", {"runId": name, "children": children})
        for child, step in zip(children, STEPS, strict=True):
            status = "Completed" if name == "first" else "NotStarted"
            body = {"runId": child, "displayName": step, "status": status, "properties": {}, "parentRunId": name}
            site.documents.put(f"runs/{child}", body)
        jobs.append(site.documents.put(f"jobs/{name}", {"plan": plan, "properties": {}}))
    model, data = (site.folder.job("first") / "work" / name for name in ("model", "data"))
    for folder in (model, data):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").write_text(folder.name)
    for run in runs.children(site, "first"):
        remember(site, jobs[0], run)
    assert list(find(site, jobs[1])) == list(STEPS)
    assert (site.folder.job("second") / "work" / "model" / "inner" / "file").read_text() == "model"
    shutil.rmtree(data)  # then nothing that is made of it can be taken either
    assert list(find(site, jobs[1])) == list(STEPS)[:2]
    assert not (site.folder.job("second") / "work" / "data").exists()
    site.documents.close()


@pytest.mark.parametrize("fixed", [True, False])
def test_data_that_cannot_have_changed_is_prepared_once(
    config: RunConfig, phift_clients: Clients, tmp_path: Path, fixed: bool
) -> None:
    asset = Data(name="raw", version="1", type="uri_file", path=str(tmp_path / "elements" / "train.jsonl"))
    made = phift_clients.workspace.data.create_or_update(asset)
    data = DataConfig(train="azureml:raw:1" if fixed else str(made.path), prepare_on="gpu-cluster")
    config = config.model_copy(update={"data": data})
    first = trained(config, phift_clients)
    second = reused(phift_clients, trained(config, phift_clients, seed=7))
    kept = ["prepare_data", IMPORT, PREPROCESS] if fixed else [IMPORT]
    assert second == {step: run for step, run in steps(phift_clients, first).items() if step in kept}


def test_a_fresh_job_is_trained_anew(config: RunConfig, phift_clients: Clients) -> None:
    trained(config, phift_clients)
    run = FineTuneRun(config, phift_clients)
    run.submit(fresh=True)
    run.wait()
    assert reused(phift_clients, run.job.name) == {}
