"""What the check says before a run is paid for: names, computes, storage, other libraries' words, old tables."""

from __future__ import annotations

import json
import os
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml._restclient.arm_ml_service.models import Workspace as RestWorkspace
from azure.ai.ml.entities import (
    ComputeInstance,
    KubernetesCompute,
    SynapseSparkCompute,
    VirtualMachineCompute,
    Workspace,
)
from click.testing import CliRunner

from phift import FineTuneRun, RunConfig, facts
from phift.check.compute import ComputeTarget, compute_target, find_cluster, preparation_findings
from phift.check.findings import Finding
from phift.check.parameters import resolve_parameters
from phift.check.sizes import read_sizes
from phift.check.workspace import account_findings, name_findings, storage_findings
from phift.cli.commands import main
from phift.component.inputs import known_inputs
from phift.config.run import ComputeConfig
from phift.errors import AccessDenied, CheckFailed, ComputeError, ConfigError, NotFound, PhiftError
from phift.testing import TestWorkspace
from unit.fakes import A100, FOUR_A100, Fakes, codes, foundation_model, parameters, run_config, target

NAMES: list[dict[str, Any]] = facts.load("parameter_names")["names"]
PHI_4_LORA = {"apply_lora": "true", "learning_rate": 5e-6, "save_total_limit": 1}
RANGE = {"learning_rate_min": 5e-7, "learning_rate_max": 5e-5}


def by_code(findings: Any, code: str) -> list[Finding]:
    return [found for found in findings if found.code == code]


@pytest.mark.parametrize("entry", NAMES, ids=lambda entry: entry["name"])
def test_another_librarys_name_is_refused_with_the_components_own(entry: dict[str, Any]) -> None:
    assert entry["name"] not in known_inputs()
    assert entry["input"] in {None, *known_inputs()}
    assert entry["input"] or entry["note"]
    (found,) = by_code(parameters({entry["name"]: 1}).findings, "PARAMETER_UNKNOWN")
    assert found.severity == "error"
    assert (f"write {entry['input']} in its place" if entry["input"] else "leave it out") in found.fix
    assert bool(found.source) == bool(entry.get("source"))


def test_two_names_for_one_value_are_refused_and_the_right_one_stays() -> None:
    (found,) = by_code(parameters({"lr": 1e-5, "learning_rate": 1e-5}).findings, "PARAMETER_UNKNOWN")
    assert found.fix == "remove it: learning_rate is set too"


def test_batch_size_is_taken_and_told_what_it_is() -> None:
    (found,) = by_code(parameters({"batch_size": 4}).findings, "PARAMETER_NAME")
    assert (found.severity, "per_device_train_batch_size" in found.fix) == ("warning", True)


@pytest.mark.parametrize(
    ("rate", "code"), [(1, "PARAMETER_RANGE"), (1000, "PARAMETER_RANGE"), (0.01, "PARAMETER_RATE_HIGH")]
)
@pytest.mark.parametrize("lora", [True, False])
def test_a_learning_rate_that_cannot_work_is_told(rate: float, code: str, lora: bool) -> None:
    assert by_code(parameters({"learning_rate": rate, "apply_lora": lora}).findings, code)


@pytest.mark.parametrize(("alpha", "told"), [(128, True), (16, False)])
def test_what_lora_makes_of_a_rate_counts(alpha: int, told: bool) -> None:
    user = {"learning_rate": 1e-3, "apply_lora": True, "lora_alpha": alpha, "lora_r": 8}
    assert bool(by_code(parameters(user).findings, "PARAMETER_RATE_HIGH")) == told


def test_the_models_rate_goes_with_the_models_lora() -> None:
    (found,) = by_code(parameters({"lora_alpha": 16, "lora_r": 16}, PHI_4_LORA).findings, "PARAMETER_ADVICE")
    assert found.message.startswith(
        "learning_rate is 5e-06 (from the model); with lora_alpha / lora_r = 16 / 16 it weighs"
    )
    assert "3.125e-07" in found.message
    assert found.fix.startswith("set it to 8e-05")
    assert not by_code(parameters({"lora_alpha": 256, "lora_r": 16}, PHI_4_LORA).findings, "PARAMETER_ADVICE")


@pytest.mark.parametrize(("rate", "inside"), [(5e-6, False), (8e-5, True), (8e-4, True), (1e-3, False)])
def test_an_advised_range_is_read_with_the_lora_that_it_goes_with(rate: float, inside: bool) -> None:
    user = {"lora_alpha": 16, "lora_r": 16, "learning_rate": rate}
    found = by_code(parameters(user, {**PHI_4_LORA, **RANGE}).findings, "PARAMETER_ADVICE")
    assert bool(found) != inside
    assert all("advises at least 8e-06 and at most 0.0008" in each.message for each in found)


@pytest.mark.parametrize("written", ["1e-5", "0.00001", "1.0e-5", '"1e-5"'])
def test_a_number_in_yaml_is_a_number(written: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    values = f"model: Phi-4\ncompute: gpu\ndata: {{train: rows.jsonl}}\nparameters: {{learning_rate: {written}}}\n"
    path.write_text(values + "max_cost: 1e3\n", encoding="utf-8")
    config = RunConfig.from_yaml(path)
    assert config.max_cost == 1000
    assert parameters(dict(config.parameters))["learning_rate"] == 1e-5


@pytest.mark.parametrize("name", ["feature/phi", "-phi", "phi 4", "phi.4", "ф", "x" * 257])
def test_an_experiment_name_that_the_service_refuses_is_found(name: str, tmp_path: Path) -> None:
    config = run_config(tmp_path).model_copy(update={"experiment": name})
    (found,) = name_findings(config, creates_cluster=False)
    assert (found.code, found.severity, found.place) == ("NAME_REFUSED", "error", "experiment")
    better = config.model_copy(update={"experiment": found.fix.removeprefix("try ")})
    assert name_findings(better, creates_cluster=False) == []


@pytest.mark.parametrize("name", ["gpu_cluster", "4gpus", "gpu-", "g.p.u"])
def test_only_a_cluster_that_is_made_needs_a_name_that_can_be_made(name: str, tmp_path: Path) -> None:
    config = run_config(tmp_path, compute={"cluster": name, "size": A100})
    assert codes(name_findings(config, creates_cluster=True)) == ["NAME_REFUSED"]
    assert name_findings(config, creates_cluster=False) == []


def test_a_refused_experiment_name_uploads_nothing(workspace: TestWorkspace, tmp_path: Path) -> None:
    place = {"local": workspace.connection.folder}
    config = run_config(tmp_path, workspace=place, model="Phi-4-mini-instruct", experiment="feature/phi")
    with pytest.raises(CheckFailed, match="NAME_REFUSED"):
        FineTuneRun(config).submit()
    assert not workspace.requests("PUT blobs/*")


def resolve(compute: Any, **values: Any) -> ComputeTarget:
    fakes = Fakes()
    fakes.workspace.compute.known[compute.name] = compute
    config = ComputeConfig(cluster=compute.name, **values)
    sizes = read_sizes(fakes.workspace.compute.list_sizes())
    return compute_target(config, foundation_model(A100, FOUR_A100), find_cluster(fakes.clients, config), sizes)


def instance(state: str) -> ComputeInstance:
    return ComputeInstance(name="mine", size=A100, state=state)


@pytest.mark.parametrize(
    ("state", "severity", "fix"),
    [
        ("Stopped", "error", "start it: `az ml compute start --name mine`"),
        ("Stopping", "error", "wait until it has stopped"),
        ("Deleting", "error", "name another compute"),
        ("Unusable", "error", "restart it: `az ml compute restart --name mine`"),
        ("Unknown", "warning", "look at its page"),
        ("Canceled", "warning", "look at its page"),
        ("Starting", "note", ""),
        ("SettingUp", "note", ""),
    ],
)
def test_a_compute_on_which_no_job_starts_is_told(state: str, severity: str, fix: str) -> None:
    (found,) = by_code(resolve(instance(state)).findings, "COMPUTE_NOT_READY")
    assert (found.severity, found.fix[: len(fix)]) == (severity, fix)
    assert state in found.message


@pytest.mark.parametrize(
    ("compute", "code", "severity"),
    [
        (ComputeInstance(name="other", size=A100, state="Stopped"), "COMPUTE_NOT_READY", "error"),
        (ComputeInstance(name="other", size=A100, state="SetupFailed"), "COMPUTE_FAILED", "error"),
        (ComputeInstance(name="other", size=A100, state="Running"), "", ""),
        (SynapseSparkCompute(name="other"), "COMPUTE_PREPARE_KIND", "error"),
        (KubernetesCompute(name="other", namespace="default"), "", ""),
    ],
)
def test_the_compute_that_prepares_the_data_is_looked_at_too(
    compute: Any, code: str, severity: str, tmp_path: Path
) -> None:
    fakes = Fakes()
    fakes.workspace.compute.known["other"] = compute
    config = run_config(tmp_path, data={"train": "azureml:raw:1", "prepare_on": "other"})
    found = preparation_findings(fakes.clients, config)
    assert [(each.code, each.severity, each.place) for each in found] == (
        [(code, severity, "data.prepare_on")] if code else []
    )


@pytest.mark.parametrize("name", ["gpu-cluster", "GPU-Cluster"])
def test_the_trainings_own_cluster_is_judged_once(tmp_path: Path, name: str) -> None:
    fakes = Fakes()
    fakes.workspace.compute.known["gpu-cluster"] = ComputeInstance(name="gpu-cluster", size=A100, state="SetupFailed")
    config = run_config(tmp_path, data={"train": "azureml:raw:1", "prepare_on": name})
    assert preparation_findings(fakes.clients, config) == []
    assert codes(FineTuneRun(config, fakes.clients).check().findings).count("COMPUTE_FAILED") == 1


def test_a_running_instance_is_one_machine_that_costs_until_it_is_stopped() -> None:
    assert codes(resolve(instance("Running")).findings) == ["COMPUTE_INSTANCE"]
    assert codes(resolve(instance("JobRunning"), nodes=2).findings) == ["COMPUTE_INSTANCE", "COMPUTE_TOO_FEW_NODES"]
    assert "COMPUTE_FAILED" in codes(resolve(instance("SetupFailed")).findings)


@pytest.mark.parametrize(
    ("compute", "kind"),
    [
        (KubernetesCompute(name="k", namespace="default"), "an attached Kubernetes cluster"),
        (VirtualMachineCompute(name="v", resource_id="r"), "an attached virtual machine"),
    ],
)
def test_a_compute_of_another_kind_is_named_with_it(compute: Any, kind: str) -> None:
    with pytest.raises(ComputeError, match=f"is {kind} and has no VM size; only AmlCompute clusters"):
        resolve(compute)


@pytest.mark.parametrize("mode", [None, "accesskey", "AccessKey", "UserDelegationSAS"])
def test_of_a_workspace_with_keys_nothing_is_said(mode: str | None) -> None:
    workspace = Workspace(name="w", system_datastores_auth_mode=mode)
    assert storage_findings(workspace, None, serverless=False) == []


def test_a_workspace_is_read_as_it_was_recorded() -> None:
    recorded = Path(__file__).parents[1] / "fidelity" / "recorded" / "workspace.json"
    body = json.loads(recorded.read_text(encoding="utf-8"))["response"]["body"]
    assert storage_findings(Workspace._from_rest_object(RestWorkspace(body)), None, serverless=False) == []
    body["properties"]["systemDatastoresAuthMode"] = "identity"
    found = storage_findings(Workspace._from_rest_object(RestWorkspace(body)), None, serverless=True)
    assert codes(found) == ["STORAGE_BY_IDENTITY"]


@pytest.mark.parametrize("mode", ["identity", "Identity"])
def test_a_workspace_without_keys_names_the_roles(mode: str) -> None:
    workspace = Workspace(name="w", storage_account="/subscriptions/s/x/mystore", system_datastores_auth_mode=mode)
    cluster = Fakes().workspace.compute.add("gpu-cluster")
    mine, jobs = storage_findings(workspace, cluster, serverless=False)
    assert (mine.code, jobs.code) == ("STORAGE_BY_IDENTITY", "STORAGE_NO_IDENTITY")
    assert all("Storage Blob Data Contributor on the storage account mystore" in each.fix for each in (mine, jobs))
    assert "`az ml compute update --name gpu-cluster --identity-type SystemAssigned`" in jobs.fix
    assert "update --name CLUSTER " in storage_findings(workspace, None, serverless=False)[1].fix
    assert codes(storage_findings(workspace, None, serverless=True)) == ["STORAGE_BY_IDENTITY"]
    cluster.identity = object()
    assert codes(storage_findings(workspace, cluster, serverless=False)) == ["STORAGE_BY_IDENTITY"]


BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"


def account(
    mode: str | None, answer: Any, place: str = "/subscriptions/s/storageAccounts/mystore"
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return what is found of a storage account, and what was asked, of a workspace of this mode."""
    fakes = Fakes()
    fakes.rest.on(answer, "/storageAccounts/mystore")
    workspace = Workspace(name="w", storage_account=place, system_datastores_auth_mode=mode)
    fakes.clients.once("workspace", lambda: workspace)
    found = account_findings(fakes.clients)
    assert all("Storage Blob Data Contributor on the storage account mystore" in each.fix for each in found)
    return [(each.code, each.severity) for each in found], fakes.rest.addresses


@pytest.mark.parametrize(
    ("mode", "allowed", "expected"),
    [
        ("accesskey", False, [("STORAGE_KEYS_OFF", "error")]),
        (None, False, [("STORAGE_KEYS_OFF", "error")]),
        ("accesskey", True, []),
        ("accesskey", None, []),  # Azure's default, which allows them
    ],
)
def test_an_account_that_takes_no_keys_is_found_before_an_upload(
    mode: str | None, allowed: bool | None, expected: list[tuple[str, str]]
) -> None:
    found, asked = account(mode, {"properties": {"allowSharedKeyAccess": allowed}})
    assert found == expected
    assert asked == ["https://management.azure.com/subscriptions/s/storageAccounts/mystore?api-version=2023-05-01"]


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        ([{"dataActions": [f"{BLOBS}/write"]}], False),
        ([{"actions": ["*"]}, {"dataActions": [f"{BLOBS.upper()}/*"]}], False),
        ([{"dataActions": ["*"], "notDataActions": [f"{BLOBS}/write"]}], True),
        ([{"actions": ["*"], "dataActions": []}], True),  # an owner may do everything but read and write blobs
        ([{"dataActions": [f"{BLOBS}/read"]}], True),
        ([], True),
        (None, False),
    ],
)
def test_a_role_that_is_missing_is_named_before_an_upload(granted: Any, missing: bool) -> None:
    found, asked = account("identity", {"value": granted})
    assert found == [("STORAGE_NO_ROLE", "warning")] * missing
    assert asked[0].endswith("/mystore/providers/Microsoft.Authorization/permissions?api-version=2022-04-01")


@pytest.mark.parametrize("mode", ["accesskey", "identity"])
@pytest.mark.parametrize("error", [AccessDenied("no"), NotFound("no")])
def test_of_an_account_that_one_may_not_read_nothing_is_said(mode: str, error: PhiftError) -> None:
    assert account(mode, error)[0] == []


def test_storage_of_another_kind_is_not_asked_for() -> None:
    assert account("UserDelegationSAS", {}) == ([], [])


@pytest.mark.parametrize("mode", ["accesskey", "identity"])
@pytest.mark.parametrize(
    "place", ["@evil.example/storageAccounts/mystore", ".evil.example/storageAccounts/mystore", ""]
)
def test_the_account_s_id_names_no_other_host(mode: str, place: str) -> None:
    assert account(mode, {"value": [], "properties": {"allowSharedKeyAccess": False}}, place) == ([], [])


def test_every_table_ages_from_the_day_it_was_read() -> None:
    ages = {age.table: age for age in facts.ages()}
    assert {"models", "vm_sizes", "parameter_names", "chat_completion_pipeline"} <= set(ages)
    models = ages["models"]
    assert not models.old(models.read_on + timedelta(days=models.good_for))
    assert models.old(models.read_on + timedelta(days=models.good_for + 1))
    assert not ages["elements"].old(date(2100, 1, 1))


def read_long_ago(table: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Say of a table that it was read long ago, by a table of one's own that is as old."""
    own = folder / "facts" / f"{table}.json"
    own.parent.mkdir()
    own.write_text(json.dumps({"read_on": "2020-01-01"}), encoding="utf-8")
    os.utime(own, (0, 0))
    monkeypatch.setenv("PHIFT_FACTS", str(own.parent))
    return own


@pytest.fixture
def old_component(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return read_long_ago("chat_completion_pipeline", monkeypatch, tmp_path)


def test_an_old_table_ends_the_command_with_1_and_says_how_to_renew_it(old_component: Path) -> None:
    shown = CliRunner().invoke(main, ["facts"])
    assert (shown.exit_code, "chat_completion_pipeline OLD  2020-01-01" in shown.stdout) == (0, True)
    checked = CliRunner().invoke(main, ["facts", "--check"])
    assert (checked.exit_code, "PHIFT_FACTS" in checked.stderr) == (1, True)
    os.utime(old_component)  # entries of one's own, of today
    assert CliRunner().invoke(main, ["facts", "--check"]).exit_code == 0


def test_an_old_table_that_decided_something_is_a_note(
    old_component: Path, workspace: TestWorkspace, tmp_path: Path
) -> None:
    config = run_config(tmp_path, workspace={"local": workspace.connection.folder})
    (found,) = by_code(FineTuneRun(config).check().findings, "FACTS_OLD")
    assert (found.severity, found.place) == ("note", "phift/facts/chat_completion_pipeline.json")
    assert "on 2020-01-01" in found.message


@pytest.mark.parametrize(("parameter", "told"), [("lr", True), ("learning_rat", False), ("learning_rate", False)])
def test_the_table_of_other_names_ages_where_it_knew_one(
    parameter: str, told: bool, workspace: TestWorkspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read_long_ago("parameter_names", monkeypatch, tmp_path)
    place = {"local": workspace.connection.folder}
    config = run_config(tmp_path, workspace=place, parameters={parameter: 1e-5})
    found = by_code(FineTuneRun(config).check().findings, "FACTS_OLD")
    assert [each.place for each in found] == ["phift/facts/parameter_names.json"] * told


@pytest.mark.parametrize(
    ("table", "own"),
    [
        ("models", {"read_on": "yesterday"}),
        ("models", {"read_on": None}),
        ("models", {"good_for_days": "many"}),
        ("elements", {"date": "2026-13-01"}),
    ],
)
def test_an_age_of_ones_own_that_cannot_be_read_is_a_mistake_with_its_place(
    table: str, own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{table}.json").write_text(json.dumps(own), encoding="utf-8")
    monkeypatch.setenv("PHIFT_FACTS", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        facts.ages()
    assert caught.value.where == str(tmp_path / f"{table}.json")


def test_a_broken_table_that_decides_nothing_stops_no_check(
    old_component: Path, workspace: TestWorkspace, tmp_path: Path
) -> None:
    (old_component.parent / "elements.json").write_text("{", encoding="utf-8")
    config = run_config(tmp_path, workspace={"local": workspace.connection.folder})
    assert "FACTS_OLD" in codes(FineTuneRun(config).check().findings)


def test_a_component_whose_rate_is_no_number_is_no_mistake_of_ours() -> None:
    inputs = {**facts.load("chat_completion_pipeline")["inputs"], "learning_rate": {"type": "string"}}
    user = {"lora_alpha": 16, "lora_r": 16}
    resolved = resolve_parameters(inputs, {"apply_lora": "true", "learning_rate": "5e-6"}, user, target())
    assert resolved["learning_rate"] == "5e-6"
    assert not by_code(resolved.findings, "PARAMETER_ADVICE")
