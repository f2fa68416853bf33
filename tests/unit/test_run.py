from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from azure.ai.ml import MLClient

from phift.azure.clients import Clients, Rest
from phift.data.prepare import Progress
from phift.errors import CheckFailed, ComputeError, ConfigError, JobFailed, NotFound, PhiftError
from phift.jobs.events import JobEvent, StatusChanged, StepChanged
from phift.jobs.job import FineTuneJob
from phift.jobs.record import configuration_digest, series
from phift.jobs.registration import register_model
from phift.local.work import standin
from phift.run import FineTuneRun
from phift.run.comparison import compare_runs
from phift.run.listing import runs
from phift.serving.cleanup import deployed_endpoints, remove_endpoint, remove_endpoints_of
from phift.serving.deployment import deploy_model
from phift.serving.resource import DeploymentEvent
from phift.tokens.count import Counted
from unit.fakes import (
    A100,
    COMPONENT,
    FOUR_A100,
    PHI_4,
    Fakes,
    codes,
    data_asset,
    data_id,
    http_error,
    phi_4,
    run_config,
    write_rows,
)

Start = Callable[..., FineTuneRun]


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def start(fakes: Fakes, tmp_path: Path) -> Start:
    """Return a function that starts a run, as a new process would."""

    def begin(on_event: Any = None, **changes: Any) -> FineTuneRun:
        return FineTuneRun(run_config(tmp_path, **changes), fakes.clients, on_event=on_event)

    return begin


def begun(fakes: Fakes) -> set[str]:
    """Return what was made, changed or deleted."""
    writes = ("create_or_update", "begin_")
    clients = (fakes.workspace, fakes.registry)
    return {call[0] for client in clients for call in client.record.calls if any(word in call[0] for word in writes)}


def test_a_check_submits_nothing(fakes: Fakes, start: Start) -> None:
    report = start().check()
    assert report.ok
    assert {finding.severity for finding in report.findings} == {"warning", "note"}
    assert begun(fakes) == set()


def test_a_check_reports_everything_that_is_wrong_at_once(fakes: Fakes, start: Start, tmp_path: Path) -> None:
    fakes.workspace.record.fail("workspaces.get", http_error(403))
    missing = tmp_path / "none.jsonl"
    wrong = start(model="Phi-5", compute="none", parameters={"optim": "sgd"}, data={"train": missing})
    assert {(finding.code, finding.place) for finding in wrong.check().errors} == {
        ("AccessDenied", "workspace workspace"),
        ("NotFound", "model Phi-5 in registry azureml"),
        ("DataNotFound", str(missing)),
        ("NotFound", "compute"),
        ("PARAMETER_VALUE", "parameters.optim"),
    }
    assert begun(fakes) == set()


def test_a_missing_component_hides_nothing_else(start: Start) -> None:
    report = start(component={"name": "none"}, compute="none").check()
    assert {finding.place for finding in report.errors} == {"component none in registry azureml", "compute"}


def test_a_workspace_that_cannot_be_reached_is_the_only_finding_on_good_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = FineTuneRun(run_config(tmp_path)).check()
    assert [(finding.code, finding.severity) for finding in report.findings] == [("ConfigError", "error")]


def test_findings_of_model_compute_and_deployment_are_in_the_report(fakes: Fakes, start: Start) -> None:
    fakes.registry.models.add(phi_4(tags={**phi_4().tags, "model_specific_defaults": "nonsense"}))
    fakes.registry.models.known["Phi-4", "8"].tags["inference_compute_allow_list"] = "['Standard_Unknown']"
    fakes.workspace.compute.add("small", "Standard_ND40rs_v2", max_instances=1)
    report = start(compute={"cluster": "small", "gpus_per_node": 8, "nodes": 2}).check()
    expected = {"MODEL_TAG_BROKEN", "COMPUTE_TOO_FEW_NODES", "COMPUTE_SIZE_NOT_ALLOWED", "DEPLOYMENT_NO_SIZE"}
    assert expected <= set(codes(report.findings))


def name_findings(run: FineTuneRun) -> list[tuple[str, str, str]]:
    found = [each for each in run.check().findings if each.code.startswith(("DEPLOYMENT_NAME", "DEPLOYMENT_BESIDE"))]
    assert all(each.place in ("deployment.endpoint_name", "deployment.deployment_name") for each in found)
    return [(finding.severity, finding.code, finding.message) for finding in found]


MINE: dict[str, Any] = {"deployment": {"endpoint_name": "mine"}}


def test_a_free_endpoint_name_is_nothing_to_tell(fakes: Fakes, start: Start) -> None:
    assert name_findings(start(**MINE)) == []
    assert fakes.workspace.record.count("online_endpoints.get") == 1


def test_without_a_configured_name_no_endpoint_is_looked_up(fakes: Fakes, start: Start) -> None:
    start().check()
    assert fakes.workspace.record.count("online_endpoints.get") == 0


@pytest.mark.parametrize(
    ("tags", "told", "way_out"),
    [
        (None, "phift did not make it", "another"),
        ({"owner": "somebody"}, "phift did not make it", "another"),
        ({"phift.job": "other", "phift.model": "phi:7"}, "it serves phi:7 and it is of the job other", "phift cleanup"),
        ({"phift.job": "other"}, "it is of the job other", "phift cleanup mine"),
    ],
)
def test_a_configured_name_that_another_endpoint_has_stops_the_run(
    fakes: Fakes, start: Start, tags: dict[str, str] | None, told: str, way_out: str
) -> None:
    fakes.add_endpoint("mine", tags=tags)
    run = start(**MINE)
    message = f"There is an endpoint mine already: {told}."
    assert name_findings(run) == [("error", "DEPLOYMENT_NAME_TAKEN", message)]
    with pytest.raises(CheckFailed, match="DEPLOYMENT_NAME_TAKEN") as caught:
        run.submit()
    assert way_out in (caught.value.fix or "")
    assert ("phift cleanup" in (caught.value.fix or "")) == bool(tags and "phift.job" in tags)
    assert begun(fakes) == set()


@pytest.mark.parametrize("attempt", ["", "-2", "-17"])
def test_the_endpoint_of_this_very_run_is_no_other(fakes: Fakes, start: Start, attempt: str) -> None:
    fakes.add_endpoint("mine", tags={"phift.job": f"{start().plan.job_name}{attempt}", "phift.model": "phi:7"})
    assert name_findings(start(**MINE)) == []


@pytest.mark.parametrize("attempt", ["-", "-x", "2", "-2-3"])
def test_a_job_of_a_similar_name_is_another(fakes: Fakes, start: Start, attempt: str) -> None:
    fakes.add_endpoint("mine", tags={"phift.job": f"{start().plan.job_name}{attempt}"})
    assert [code for _, code, _ in name_findings(start(**MINE))] == ["DEPLOYMENT_NAME_TAKEN"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("green", ("note", "DEPLOYMENT_BESIDE")), ("default", ("error", "DEPLOYMENT_NAME_TAKEN"))],
)
def test_another_runs_endpoint_takes_a_deployment_of_a_name_of_its_own(
    fakes: Fakes, start: Start, name: str, expected: tuple[str, str]
) -> None:
    theirs = {"phift.job": "other", "phift.model": "phi:7"}
    fakes.add_endpoint("mine", tags=theirs)
    fakes.add_deployment("default", "mine", "theirs").tags = theirs
    run = start(deployment={"endpoint_name": "mine", "deployment_name": name})
    ((severity, code, message),) = name_findings(run)
    assert ((severity, code), "it serves phi:7 and it is of the job other" in message) == (expected, True)


def test_a_deployment_of_this_very_run_on_anothers_endpoint_is_no_other(fakes: Fakes, start: Start) -> None:
    fakes.add_endpoint("mine", tags={"phift.job": "other"})
    fakes.add_deployment("default", "mine", "ours").tags = {"phift.job": start().plan.job_name}
    assert name_findings(start(**MINE)) == []


def test_a_name_that_cannot_be_looked_up_is_a_note(fakes: Fakes, start: Start) -> None:
    fakes.workspace.record.fail("online_endpoints.get", http_error(500, "Try later."))
    ((severity, code, message),) = name_findings(start(**MINE))
    assert (severity, code) == ("note", "DEPLOYMENT_NAME_UNREAD")
    assert message.startswith("It could not be looked up: ")
    assert "Try later." in message


@pytest.mark.parametrize(("tags", "found"), [(None, 1), ({"phift.job": "any"}, 0)])
def test_without_a_plan_a_name_is_taken_by_what_phift_did_not_make(
    fakes: Fakes, start: Start, tags: dict[str, str] | None, found: int
) -> None:
    fakes.add_endpoint("mine", tags=tags)
    assert len(name_findings(start(model="Phi-5", **MINE))) == found


def test_the_plan_has_everything_looked_up(start: Start) -> None:
    run = start()
    plan = run.plan
    assert (plan.model.id, plan.component.id, plan.target.size) == (PHI_4, COMPONENT, A100)
    assert plan.dataset == run.prepare()
    assert run.prepare().rows == {"train": 24, "validation": 3, "test": 3}
    assert len(plan.fingerprint) == 12
    assert plan.job_name == f"phift-phi-4-{plan.fingerprint}"


def test_the_plan_is_made_once(fakes: Fakes, start: Start) -> None:
    run = start()
    assert run.plan is run.plan
    assert fakes.registry.record.count("components.get") == 1


def test_what_cannot_be_found_stops_the_plan(start: Start) -> None:
    with pytest.raises(CheckFailed, match="NotFound: There is no compute none") as caught:
        start(compute="none").plan  # noqa: B018 - the access is the test
    assert caught.value.report.errors


def test_an_error_that_leaves_a_plan_leaves_the_plan(start: Start) -> None:
    run = start(parameters={"optim": "sgd"})
    assert run.plan.parameters["optim"] == "adamw_torch"
    with pytest.raises(CheckFailed, match="PARAMETER_VALUE"):
        run.submit()


CHANGES: list[dict[str, Any]] = [
    {"parameters": {"seed": 7}},
    {"compute": {"serverless": FOUR_A100}},
    {"compute": {"cluster": "gpu-cluster", "nodes": 2}},
    {"data": {"train": "other"}},
    {"data": {"train": "same", "split": {"seed": 1}}},
]


@pytest.mark.parametrize("change", CHANGES, ids=["parameter", "size", "nodes", "rows", "split"])
def test_whatever_changes_the_model_changes_the_fingerprint(
    start: Start, tmp_path: Path, change: dict[str, Any]
) -> None:
    data = dict(change.get("data", {"train": "same"}))
    data["train"] = write_rows(tmp_path / f"{data['train']}.jsonl", {"same": 30, "other": 31}[data["train"]])
    assert start(**{**change, "data": data}).plan.fingerprint != start().plan.fingerprint


def test_spelling_out_a_default_does_not_make_another_run(start: Start) -> None:
    assert start(parameters={"seed": 42}).plan.fingerprint == start().plan.fingerprint


def test_findings_on_the_data_are_in_the_report(start: Start, tmp_path: Path) -> None:
    twice = write_rows(tmp_path / "twice.jsonl", 30)
    twice.write_text(twice.read_text() * 2)
    run = start(data={"train": twice})
    assert run.prepare().findings
    assert set(run.prepare().findings) <= set(run.check().findings)


def test_another_model_version_changes_the_fingerprint(fakes: Fakes, start: Start) -> None:
    fakes.registry.models.add(phi_4(version="9", id=PHI_4.replace("8", "9")))
    assert start(model="Phi-4:8").plan.fingerprint != start(model="Phi-4:9").plan.fingerprint


def test_what_does_not_change_the_model_leaves_the_fingerprint(start: Start, tmp_path: Path) -> None:
    first = start().plan.fingerprint
    moved = write_rows(tmp_path / "elsewhere.jsonl", 30)
    assert start(experiment="other", deployment={"instance_count": 3}).plan.fingerprint == first
    assert start(data={"train": moved}, work_dir=tmp_path / "w2").plan.fingerprint == first


def test_the_job_is_submitted_with_its_lineage(fakes: Fakes, start: Start) -> None:
    run = start(parameters={"seed": 7}, experiment="mine", force_rerun=True)
    job = run.submit()
    (sent,) = fakes.workspace.jobs.submitted
    assert (sent.name, sent.experiment_name, sent.settings.force_rerun) == (job.name, "mine", True)
    assert sent.display_name == "Phi-4-rows-bs1-linear-nods-lora-save-1-seq-1"
    (step,) = sent.jobs.values()
    assert step.inputs["train_file_path"].path.startswith(data_id("rows-train", ""))
    assert dict(sent.tags) == {
        "phift.configuration": configuration_digest(run.config),
        f"phift.series.{series(run.config)}": run.plan.fingerprint,
        "phift.fingerprint": run.plan.fingerprint,
        "phift.base_model": PHI_4,
        "phift.component": "azureml/chat_completion_pipeline:0.0.82",
        "phift.data": run.plan.dataset.content_hash,
        "phift.parameter.seed": "7",
    }


def test_the_same_run_is_submitted_once(fakes: Fakes, start: Start) -> None:
    first, second = start().submit(), start().submit()
    assert (first.name, first.existed) == (second.name, False)
    assert second.existed
    assert len(fakes.workspace.jobs.submitted) == 1


def test_a_fresh_run_is_submitted_again(fakes: Fakes, start: Start) -> None:
    first = start().submit()
    assert start().submit(fresh=True).name == f"{first.name}-2"


def test_a_new_cluster_is_made_only_when_a_job_is_submitted(fakes: Fakes, start: Start) -> None:
    run = start(compute={"cluster": "new", "size": A100})
    assert run.check().ok
    assert "new" not in fakes.workspace.compute.known
    run.submit()
    assert "new" in fakes.workspace.compute.known


def test_the_same_data_is_uploaded_once_whatever_is_trained_with_it(fakes: Fakes, start: Start) -> None:
    start().submit()
    start(parameters={"seed": 7}).submit()
    assert len(fakes.workspace.jobs.submitted) == 2
    assert fakes.workspace.record.count("data.create_or_update") == 3


def test_data_that_lies_in_azure_is_used_there(fakes: Fakes, start: Start) -> None:
    fakes.workspace.data.add(data_asset("chat", "3"))
    run = start(data={"train": "azureml:chat:3"})
    assert {"DATA_UNCHECKED", "DATA_SPLIT_BY_AZURE", "COST_UNKNOWN"} <= set(codes(run.check().findings))
    run.submit()
    (sent,) = fakes.workspace.jobs.submitted
    (step,) = sent.jobs.values()
    assert step.inputs["train_file_path"].path == data_id("chat", "3")
    assert not {"validation_file_path", "test_file_path"} & step._build_inputs().keys()
    assert sent.tags["phift.data"] == run.plan.dataset.content_hash
    assert begun(fakes) == {"jobs.create_or_update"}


def test_data_that_lies_in_azure_is_not_prepared(fakes: Fakes, start: Start) -> None:
    with pytest.raises(ConfigError, match="nothing is prepared"):
        start(data={"train": "azureml:chat:3"}).prepare()


def test_a_limit_of_the_cost_cannot_be_kept_for_rows_that_are_not_read(fakes: Fakes, start: Start) -> None:
    fakes.workspace.data.add(data_asset("chat", "3"))
    data = dict.fromkeys(("train", "validation", "test"), "azureml:chat:3")
    report = start(data=data, max_cost=10, tokens_per_second=1000, prices={A100: 3.6}).check()
    assert [(finding.code, finding.place) for finding in report.errors] == [("COST_UNKNOWN", "max_cost")]
    assert "the rows are not read here" in report.errors[0].message
    assert report.cost is not None
    assert (report.cost.tokens, report.cost.hours, report.cost.training) == (None, None, None)
    assert report.cost.endpoint_per_day == pytest.approx(86.4)


def test_another_version_in_azure_is_another_run_and_a_label_is_none(fakes: Fakes, start: Start) -> None:
    fakes.workspace.data.add(data_asset("chat", "3"))
    third = start(data={"train": "azureml:chat:3"}).plan.fingerprint
    assert start(data={"train": "azureml:chat@latest"}).plan.fingerprint == third
    fakes.workspace.data.add(data_asset("chat", "4"))
    assert start(data={"train": "azureml:chat@latest"}).plan.fingerprint != third


def test_errors_keep_a_run_from_being_submitted_unless_ignored(fakes: Fakes, start: Start) -> None:
    wrong = {"parameters": {"optim": "sgd"}}
    with pytest.raises(CheckFailed):
        start(**wrong).submit()
    assert begun(fakes) == set()
    start(**wrong).submit(ignore=["PARAMETER_VALUE"])
    assert len(fakes.workspace.jobs.submitted) == 1


def test_an_ignored_error_does_not_make_up_what_was_not_found(fakes: Fakes, start: Start) -> None:
    with pytest.raises(CheckFailed):
        start(compute="none").submit(ignore=["NotFound"])
    assert begun(fakes) == set()


def test_a_run_that_was_not_submitted_has_no_job(start: Start) -> None:
    with pytest.raises(NotFound, match="has not been submitted"):
        start().job  # noqa: B018 - the access is the test


def test_a_new_process_finds_the_job(start: Start) -> None:
    submitted = start().submit()
    assert start().job.name == submitted.name


@pytest.mark.parametrize("is_archived", [False, True])
def test_a_new_process_finds_the_newest_attempt_that_did_not_end_badly(
    fakes: Fakes, start: Start, monkeypatch: pytest.MonkeyPatch, is_archived: bool
) -> None:
    fakes.workspace.jobs.next_script = ["Failed" if is_archived else "Completed"]
    first = start().submit()
    fakes.workspace.jobs.next_script = ["Completed" if is_archived else "Failed"]
    second = start().submit(fresh=True)
    if is_archived:
        listed = fakes.workspace.jobs.list
        monkeypatch.setattr(
            fakes.workspace.jobs, "list", lambda **how: iter([job for job in listed(**how) if job.name != second.name])
        )
    wanted = second if is_archived else first
    assert (start().job.name, start().submit().name) == (wanted.name, wanted.name)


def test_waiting_hands_on_the_events_of_the_job(start: Start) -> None:
    events: list[Any] = []
    run = start(events.append)
    run.submit()
    run.wait()
    assert isinstance(events[-1], StatusChanged)
    assert {type(event) for event in events if not isinstance(event, JobEvent)} == {Progress, Counted}


def test_a_failed_job_stops_the_run(fakes: Fakes, start: Start) -> None:
    fakes.workspace.jobs.next_script = ["Failed"]
    with pytest.raises(JobFailed):
        start().execute()
    assert begun(fakes) == {"data.create_or_update", "jobs.create_or_update"}


def test_the_model_is_registered_under_the_fingerprint(fakes: Fakes, start: Start) -> None:
    run = start()
    job = run.submit()
    model = run.register()
    assert (model.name, model.version) == ("phi-4-finetuned", run.plan.fingerprint)
    assert model.tags["phift.job"] == job.name
    assert model.tags["phift.base_model"] == PHI_4
    assert "fine-tuned on rows" in fakes.workspace.models.known[model.name, model.version].description


def test_another_attempt_is_another_version(start: Start) -> None:
    start().submit()
    run = start(registered_model_name="mine")
    run.submit(fresh=True)
    assert (run.register().name, run.register().version) == ("mine", f"{run.plan.fingerprint}-2")


def test_a_run_goes_all_the_way_and_again_without_making_anything(fakes: Fakes, start: Start) -> None:
    fakes.workspace.jobs.next_script = ["Queued", "Running", "Running", "Completed"]
    result = start().execute()
    assert (result.job.existed, result.model.existed, len(result.metrics)) == (False, False, 0)
    made = {
        "data.create_or_update",
        "jobs.create_or_update",
        "models.create_or_update",
        "online_endpoints.begin_create_or_update",
    }
    assert begun(fakes) == {*made, "online_deployments.begin_create_or_update"}
    calls = len(fakes.workspace.record.calls)
    again = start().execute()
    assert (again.job.existed, again.model.existed, again.endpoint.name) == (True, True, result.endpoint.name)
    assert not [call for call in fakes.workspace.record.calls[calls:] if call[0] in made]


def test_the_endpoint_is_deleted_at_the_end_of_the_block(fakes: Fakes, start: Start) -> None:
    run = start()
    run.submit()
    with run.deploy() as endpoint:
        made = fakes.workspace.online_endpoints.known[endpoint.name]
        assert made.tags["phift.job"] == run.job.name
        (deployment,) = fakes.workspace.online_deployments.known.values()
        assert deployment.model == run.register().id
        assert deployment.instance_type == A100
    assert fakes.workspace.online_endpoints.known == {}


def test_an_unlisted_size_is_refused_before_anything_is_made(fakes: Fakes, start: Start) -> None:
    run = start(deployment={"instance_type": FOUR_A100})
    run.submit(ignore=["COMPUTE_SIZE_NOT_ALLOWED"])
    with pytest.raises(ComputeError, match=f"does not list {FOUR_A100} for inference"):
        run.deploy()
    assert begun(fakes) == {"data.create_or_update", "jobs.create_or_update"}


def test_the_endpoint_has_the_configured_name_or_one_of_this_workspace(fakes: Fakes, start: Start) -> None:
    assert start(deployment={"endpoint_name": "mine"}).endpoint_name == "mine"
    run = start()
    run.submit()
    name = run.endpoint_name
    assert name.startswith("phift-")
    assert len(name) == 18
    fakes.workspace.workspace_name = "another"
    assert run.endpoint_name != name


def test_cleaning_up_deletes_the_endpoint_and_nothing_else(fakes: Fakes, start: Start) -> None:
    start().execute()
    events: list[Any] = []
    start(events.append).cleanup()
    assert fakes.workspace.online_endpoints.known == {}
    assert len(fakes.workspace.models.known) == 1
    assert [event.stage for event in events if isinstance(event, DeploymentEvent)] == ["delete", "deleted"]
    start().cleanup()


def test_an_interruption_among_several_endpoints_names_those_that_are_left(fakes: Fakes, start: Start) -> None:
    names = ["phift-a", "phift-b", "phift-c"]
    for name in names:
        start(deployment={"endpoint_name": name}).execute()
    fakes.workspace.record.fail("online_endpoints.begin_delete", http_error(403, "no right"), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        start().cleanup()
    refused, untouched = caught.value.__notes__
    left = sorted(fakes.workspace.online_endpoints.known)
    assert len(left) == 2
    told = sorted(name for name in names if f"The endpoint {name} is still up and costs money." in refused + untouched)
    assert told == left
    assert "no right" in refused
    assert untouched.endswith(f"Delete it: phift cleanup {untouched.split()[2]}")


@pytest.mark.parametrize("edited", [{"experiment": "another"}, {"data": "renamed"}])
def test_where_nothing_is_known_of_a_configuration_all_that_is_up_is_named(
    fakes: Fakes, start: Start, tmp_path: Path, edited: dict[str, Any]
) -> None:
    """Another experiment or another name of the data makes another series, by which nothing is found."""
    start().execute()
    (name,) = fakes.workspace.online_endpoints.known
    if "data" in edited:
        edited = {"data": {"train": write_rows(tmp_path / "renamed.jsonl", 30)}}
    done = start(**edited).cleanup()
    assert (done.deleted, done.left, [each.name for each in done.others]) == ((), (), [name])
    assert f"still up and costs money: endpoint {name} (of job " in str(done)
    assert list(fakes.workspace.online_endpoints.known) == [name]


def test_cleaning_up_a_job_tells_of_earlier_runs_and_an_endpoint_of_nothing_else(fakes: Fakes, start: Start) -> None:
    first, second = start(parameters={"seed": 1}).execute(), start(parameters={"seed": 2}).execute()
    done = remove_endpoints_of(fakes.clients, second.job.name)
    assert (done.deleted, [each.name for each in done.left]) == ((second.endpoint.name,), [first.endpoint.name])
    again = remove_endpoints_of(fakes.clients, second.job.name)
    assert (again.deleted, [each.name for each in again.left]) == ((), [first.endpoint.name])
    start(parameters={"seed": 2}).deploy()
    by_name = remove_endpoints_of(fakes.clients, first.endpoint.name)
    assert (by_name.deleted, by_name.left) == ((first.endpoint.name,), ())


def test_cleaning_up_works_in_spite_of_errors_that_were_ignored(fakes: Fakes, start: Start) -> None:
    wrong = {"parameters": {"optim": "sgd"}}
    run = start(**wrong)
    run.submit(ignore=["PARAMETER_VALUE"])
    run.deploy()
    start(**wrong).cleanup()
    assert fakes.workspace.online_endpoints.known == {}


def test_a_run_shows_what_it_is_of(start: Start) -> None:
    assert repr(start()) == "<FineTuneRun of Phi-4>"


def test_metrics_are_those_of_the_job(fakes: Fakes, start: Start) -> None:
    run = start()
    fakes.rest.metrics(run.submit().name, loss=[2.0, 1.0])
    assert list(run.metrics()["value"]) == [2.0, 1.0]


def test_a_defect_among_the_look_ups_is_not_turned_into_a_finding(
    fakes: Fakes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.clients.rest, "get", None)
    fakes.registry.models.add(phi_4(tags={}))
    with pytest.raises(TypeError) as caught:
        start().check()
    assert not isinstance(caught.value, PhiftError)


def test_the_data_is_checked_even_where_nobody_can_be_asked(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"messages": []}\n' * 20)
    run = FineTuneRun(
        run_config(tmp_path, data={"train": tmp_path / "train.jsonl"}, workspace={"local": tmp_path / "no"})
    )
    report = run.check()
    assert [finding.code for finding in report.errors] == ["LocalWorkspaceNotRunning", "DataError"]


def test_a_newer_model_in_the_registry_changes_nothing_for_a_job_that_was_submitted(fakes: Fakes, start: Start) -> None:
    job = start().submit()
    asked = len(fakes.registry.record.calls)
    start().deploy()
    fakes.registry.models.add(phi_4(version="9", id=PHI_4.replace("8", "9")))
    later = start()
    assert (later.job.name, later.register().tags["phift.base_model"]) == (job.name, PHI_4)
    assert len(later.cleanup().deleted) == 1
    assert fakes.workspace.online_endpoints.known == {}
    assert len(fakes.registry.record.calls) == asked


def test_attaching_asks_for_the_job_alone(fakes: Fakes, start: Start) -> None:
    job = start(parameters={"seed": 7}).submit()
    fakes.registry.record.calls.clear()
    run = FineTuneRun.attach(job.name, fakes.clients)
    assert (run.config.parameters, repr(run)) == ({"seed": 7}, "<FineTuneRun of Phi-4>")
    run.wait()
    with run.deploy() as endpoint:
        assert endpoint.name == run.endpoint_name
    assert fakes.registry.record.calls == []
    with pytest.raises(NotFound):
        FineTuneRun.attach("none", fakes.clients)


def test_rows_from_python_are_found_by_their_job_and_nothing_is_guessed(fakes: Fakes, start: Start) -> None:
    def rows(tag: str) -> dict[str, Any]:
        said = [
            {"messages": [{"role": "user", "content": f"{tag}{i}"}, {"role": "assistant", "content": "A"}]}
            for i in range(30)
        ]
        return {"train": said}

    first = start(data=rows("a")).submit()
    assert start(data=rows("a")).job.name == first.name
    start(data=rows("b")).submit()
    with pytest.raises(NotFound, match="several that it may be about"):
        start(data=rows("a")).job  # noqa: B018 - the access is the test
    run = FineTuneRun.attach(first.name, fakes.clients)
    assert run.register().tags["phift.job"] == first.name
    with pytest.raises(ConfigError, match="its rows came from Python"):
        run.config  # noqa: B018 - the access is the test


def test_two_callers_that_submit_at_once_make_one_job(fakes: Fakes, start: Start) -> None:
    """The other one's job lands between the look and the submission."""
    jobs = fakes.workspace.jobs
    put = jobs.create_or_update
    other: list[Any] = []

    def late(job: Any) -> Any:
        jobs.create_or_update = put  # type: ignore[method-assign] # only the first time
        other.append(start().submit())
        return put(job)

    jobs.create_or_update = late  # type: ignore[method-assign] # as a service that is slow
    mine = start().submit()
    assert (mine.name, mine.existed, other[0].existed) == (other[0].name, True, False)
    assert len(jobs.submitted) == 1


@pytest.mark.parametrize("status", [400, 409])
def test_a_service_that_refuses_the_slower_caller_gives_it_the_faster_ones_job(
    fakes: Fakes, start: Start, status: int
) -> None:
    """Azure refuses a job's name with another body; its property says whose submission it is, so no two are equal."""
    jobs = fakes.workspace.jobs
    put = jobs.create_or_update

    def late(job: Any) -> Any:
        jobs.create_or_update = put  # type: ignore[method-assign] # only the first time
        start().submit()
        raise http_error(status, "Job properties are immutable.", "JobPropertyImmutable")

    jobs.create_or_update = late  # type: ignore[method-assign] # as a service that is slow
    mine = start().submit()
    assert (mine.existed, [job.name for job in jobs.submitted]) == (True, [mine.name])


def test_a_name_that_is_refused_for_another_reason_stays_an_error(fakes: Fakes, start: Start) -> None:
    fakes.workspace.record.fail("jobs.create_or_update", http_error(400, "no such field"))
    with pytest.raises(PhiftError, match="no such field"):
        start().submit()


def test_attempts_without_end_are_an_error(fakes: Fakes, start: Start) -> None:
    run = start()
    get = fakes.workspace.jobs.get
    fakes.workspace.jobs.add("failed", "Failed")
    fakes.workspace.jobs.get = lambda _name: get("failed")  # type: ignore[method-assign, assignment] # every name is taken
    with pytest.raises(PhiftError, match="200 attempts"):
        run.submit(fresh=True)


def test_a_handler_that_fails_at_each_of_its_events_changes_nothing(
    fakes: Fakes, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    fakes.workspace.jobs.next_script = ["Queued", "Running", "Completed"]

    def fail(event: Any) -> None:
        heard.append(event)
        raise RuntimeError("the handler's own")

    run = start(fail)
    assert run.check().ok
    result = run.execute()
    assert result.endpoint.name in fakes.workspace.online_endpoints.known
    run.cleanup()
    assert fakes.workspace.online_endpoints.known == {}
    assert {type(event) for event in heard} == {Progress, Counted, StatusChanged, StepChanged, DeploymentEvent}
    assert len([record for record in caplog.records if record.name == "phift.events"]) == 1


def test_one_run_that_prepares_does_not_keep_another_one_waiting(start: Start) -> None:
    def wait_for_the_other(event: Any) -> None:
        if isinstance(event, Progress) and event.stage == "write":
            waited.append(done.wait(30))

    done, waited = threading.Event(), list[bool]()
    slow, quick = start(wait_for_the_other), start(data={"train": start().config.data.train, "split": {"seed": 7}})
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(slow.prepare)
        quick.prepare()
        done.set()
        assert begun.result().content_hash != quick.prepare().content_hash
    assert waited
    assert all(waited)


def test_one_run_in_five_threads_prepares_once_and_submits_once(fakes: Fakes, start: Start) -> None:
    stages: list[Any] = []
    run = start(lambda event: stages.append(event.stage) if isinstance(event, Progress) else None)
    with ThreadPoolExecutor(5) as pool:
        assert len({id(each) for each in pool.map(lambda _: run.prepare(), range(5))}) == 1
        jobs = list(pool.map(lambda _: run.submit(), range(5)))
    assert stages.count("write") == 1
    assert len({job.name for job in jobs}) == len(fakes.workspace.jobs.submitted) == 1
    assert [job.existed for job in jobs].count(False) == 1


def mocked() -> Clients:
    kinds = ("workspace", "registry", "component_registry")
    clients: dict[str, Any] = {kind: MagicMock(spec=MLClient) for kind in kinds}
    return Clients(**clients, rest=MagicMock(spec=Rest), registry_discovery="https://discovery.test/", poll_seconds=15)


CALLS: dict[str, Callable[[FineTuneRun], Any]] = {
    "submit": FineTuneRun.submit,
    "job": lambda run: run.job,
    "wait": FineTuneRun.wait,
    "metrics": FineTuneRun.metrics,
    "register": FineTuneRun.register,
    "deploy": FineTuneRun.deploy,
    "execute": FineTuneRun.execute,
    "cleanup": FineTuneRun.cleanup,
    "earlier endpoints": FineTuneRun.earlier_endpoints,
    "attach": lambda run: FineTuneRun.attach("job", run.clients),
    "follow": lambda run: list(FineTuneJob("job", run.clients).follow()),
    "status": lambda run: FineTuneJob("job", run.clients).status(),
    "cancel": lambda run: FineTuneJob("job", run.clients).cancel(),
    "job's metrics": lambda run: FineTuneJob("job", run.clients).metrics(),
    "job's plot": lambda run: FineTuneJob("job", run.clients).plot(),
    "runs": lambda run: runs(run.clients),
    "compare": lambda run: compare_runs(["job", "other"], run.clients),
    "register a model": lambda run: register_model(run.clients, FineTuneJob("job", run.clients), name="m", version="1"),
    "deploy a model": lambda run: deploy_model(
        run.clients, "m", name="phift-e", size=A100, config=run.config.deployment
    ),
    "remove an endpoint": lambda run: remove_endpoint(run.clients, "phift-e"),
    "remove by name": lambda run: remove_endpoints_of(run.clients, "phift-e"),
    "endpoints": lambda run: deployed_endpoints(run.clients),
}


@contextmanager
def soon_and_small(slept: list[float]) -> Iterator[None]:
    """Hold what is done to a second, of work and of sleep, and to 50 MB.

    The work is measured as the processor's time: other processes of a busy machine are not the call's.
    """
    slept.clear()
    began = time.process_time()
    tracemalloc.start()
    try:
        yield
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - began + sum(slept) < 1
    assert used < 50 << 20


@pytest.fixture(scope="module")
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what a run needs, and what draws its curves."""
    import_module("phift.jobs.plot")
    FineTuneRun(run_config(tmp_path_factory.mktemp("warm")), Fakes().clients).execute().endpoint.delete()


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize("call", CALLS)
def test_a_client_that_is_a_mock_ends_each_call_at_once_with_an_error(
    sleeps: list[float], call: str, tmp_path: Path
) -> None:
    run = FineTuneRun(run_config(tmp_path), mocked())
    with soon_and_small(sleeps), pytest.raises(PhiftError, match="answered with"):
        CALLS[call](run)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["workspace", "registry", "component_registry", "rest"])
def test_one_client_that_is_a_mock_beside_others_that_answer_keeps_no_call(
    fakes: Fakes, start: Start, sleeps: list[float], tmp_path: Path, kind: str, call: str
) -> None:
    """What does not need it goes on; nothing but an error of ours ends the rest."""
    fakes.workspace.jobs.add("job", "Completed")
    start().execute()
    clients = replace(fakes.clients, **{kind: getattr(mocked(), kind)})
    run = FineTuneRun(run_config(tmp_path), clients)
    with soon_and_small(sleeps), suppress(PhiftError):
        CALLS[call](run)


@pytest.mark.parametrize(
    ("there", "own", "kept"),
    [(None, None, "*\n"), ("work", None, None), (".phift", None, "*\n"), (".phift", "data/\n", "data/\n")],
)
def test_what_is_prepared_stays_out_of_git(
    tmp_path: Path, there: str | None, own: str | None, kept: str | None
) -> None:
    work = tmp_path / (there or "work")
    if there:
        work.mkdir()
    if own:
        (work / ".gitignore").write_text(own)
    run = FineTuneRun(run_config(tmp_path, work_dir=work), Fakes().clients)
    for _ in range(2):
        run.prepare()
        assert ((work / ".gitignore").read_text() if kept else (work / ".gitignore").exists()) == (kept or False)


def test_the_report_of_the_data_has_the_tokens_of_the_check(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    standin.write_checkpoint(model, "Phi-4")
    data = {"train": write_rows(tmp_path / "rows.jsonl", 30), "tokenizer": str(model)}
    run = FineTuneRun(run_config(tmp_path, data=data, parameters={"max_seq_length": 12}), Fakes().clients)
    before = run.data_report()
    assert (before.tokens.counted, before.tokens.limit) == ("exact", 12)
    assert "DATA_CUT" in codes(before.findings)
    assert [each.severity for each in before.findings][:1] == ["error"]
    report = run.check()
    assert run.data_report().tokens is report.tokens
    assert report.tokens == before.tokens
    assert "30 rows = 24 train" in str(before)
    assert before.tokens.summary in str(before)
    assert json.loads(json.dumps(before.to_dict()))["tokens"]["limit"] == 12


def test_a_report_before_a_check_asks_nobody(tmp_path: Path) -> None:
    run = FineTuneRun(run_config(tmp_path))  # without clients: connecting would be an error
    report = run.data_report()
    assert report.tokens.counted == "estimate"
    assert "a check counts with the model's own tokenizer" in str(report)
    assert report._repr_html_() in report.page()
