"""The traps of docs/traps.md, one test each: set up, and shown to be found or mended."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import VmSize
from azure.identity import DefaultAzureCredential, InteractiveBrowserCredential

from phift.azure.connect import _credential, workspace_address
from phift.check.findings import Finding
from phift.config.run import AzureWorkspace
from phift.errors import CheckFailed, ComputeError, ConfigError, DeploymentFailed, ScoringError
from phift.run import FineTuneRun
from unit.fakes import A100, FOUR_A100, Fakes, data_asset, phi_4, run_config, write_rows
from unit.loopback import Reply, Script
from unit.stubs import usage

Start = Callable[..., FineTuneRun]
DOCUMENT = Path(__file__).parents[2] / "docs" / "traps.md"
T4 = "Standard_NC4as_T4_v3"


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def start(fakes: Fakes, tmp_path: Path) -> Start:
    def begin(**changes: Any) -> FineTuneRun:
        return FineTuneRun(run_config(tmp_path, **changes), fakes.clients)

    return begin


def finding(run: FineTuneRun, code: str) -> Finding:
    """Return the one finding with a code."""
    (found,) = [found for found in run.check().findings if found.code == code]
    return found


def test_every_trap_has_its_test() -> None:
    documented = re.findall(r"^\| ([A-E]\d+) \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    tested = {name.split("_")[1].upper() for name in globals() if re.match(r"test_[a-e]\d+_", name)}
    assert len(documented) == len(set(documented))
    assert set(documented) == tested


def test_a1_the_models_suggestions_that_are_no_inputs_are_left_out(fakes: Fakes, start: Start) -> None:
    run = start()
    assert "learning_rate_min" in finding(run, "PARAMETER_DROPPED").message
    run.submit()
    assert len(fakes.workspace.jobs.submitted) == 1


def test_a2_the_users_values_win_over_the_models(start: Start) -> None:
    parameter = start(parameters={"learning_rate": 1e-5}).plan.parameters.values["learning_rate"]
    assert (parameter.value, parameter.origin) == (1e-5, "user")
    assert ("model", 5e-6) in parameter.overrode


def test_a3_an_allow_list_that_is_no_tag_any_more_is_found(fakes: Fakes, start: Start) -> None:
    fakes.registry.models.add(phi_4(tags=None))
    fakes.rest.system = {"supportedComputes": {"finetuneComputes": [FOUR_A100], "inferenceComputes": [FOUR_A100]}}
    found = finding(start(deployment={"instance_type": FOUR_A100}), "COMPUTE_SIZE_NOT_ALLOWED")
    assert found.source == "systemMetadata.supportedComputes.finetuneComputes"


def test_a4_a_size_the_model_cannot_train_on_is_refused(start: Start) -> None:
    found = finding(start(compute={"serverless": "Standard_ND40rs_v2"}), "COMPUTE_SIZE_NOT_ALLOWED")
    assert found.severity == "error"


def test_a5_a_size_the_model_cannot_be_served_on_is_refused(fakes: Fakes, start: Start) -> None:
    run = start(deployment={"instance_type": T4.upper()})
    assert finding(run, "COMPUTE_SIZE_NOT_ALLOWED").place == "deployment.instance_type"
    run.submit(ignore=["COMPUTE_SIZE_NOT_ALLOWED"])
    with pytest.raises(ComputeError):
        run.deploy()
    assert fakes.workspace.record.count("online_endpoints.begin_create_or_update") == 0


def test_a6_all_gpus_of_a_node_are_used(fakes: Fakes, start: Start) -> None:
    fakes.workspace.compute.add("gpu-cluster", FOUR_A100)
    assert start().plan.parameters["number_of_gpu_to_use_finetuning"] == 4
    assert finding(start(compute={"cluster": "gpu-cluster", "gpus_per_node": 8}), "COMPUTE_GPU_COUNT")
    assert start(compute={"serverless": FOUR_A100}).plan.parameters["number_of_gpu_to_use_finetuning"] == 4


def test_a7_quota_that_is_short_is_found_before_it_is_needed(fakes: Fakes, start: Start) -> None:
    fakes.workspace.compute.usages = [usage("Standard NCADSA100v4 Family", 20, 30)]
    codes = {found.code for found in start().check().errors}
    assert codes == {"QUOTA_TRAINING_SHORT", "QUOTA_ENDPOINT_SHORT"}


def test_a8_quota_and_sizes_are_read_in_both_spellings_of_the_sdk(fakes: Fakes, start: Start) -> None:
    new = VmSize()
    new.__dict__.update({"name": A100, "vCPUs": 24, "gpus": 1, "family": "standardNCADSA100v4Family"})
    for size in (VmSize(name=A100, v_cp_us=24, gpus=1, family="standardNCADSA100v4Family"), new):
        fakes.workspace.compute.sizes = [size]
        fakes.workspace.compute.usages = [usage("standardNCADSA100v4Family", 0, 23)]
        assert "24" in finding(start(), "QUOTA_TRAINING_SHORT").message


def test_a9_the_model_gets_time_to_load_and_a_failure_shows_the_log(fakes: Fakes, start: Start) -> None:
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    run = start()
    run.submit()
    with pytest.raises(DeploymentFailed) as caught:
        run.deploy()
    assert "inference-server" in caught.value.log_tail
    probe = run.config.deployment.probe
    assert (probe.initial_delay, probe.timeout) == (1200, 20)


def test_a10_a_failed_deployment_leaves_no_endpoint(fakes: Fakes, start: Start) -> None:
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    run = start()
    run.submit()
    with pytest.raises(DeploymentFailed):
        run.deploy()
    assert fakes.workspace.online_endpoints.known == {}


@pytest.mark.parametrize("name", ["ab", "a" * 33, "1abc", "a--b", "a_b", "abc-"])
def test_a11_endpoint_names_are_made_and_checked(start: Start, tmp_path: Path, name: str) -> None:
    run = start()
    run.submit()
    assert re.fullmatch(r"[a-z][a-z0-9-]{2,31}", run.endpoint_name)
    with pytest.raises(ConfigError, match="endpoint_name"):
        run_config(tmp_path, deployment={"endpoint_name": name})


def test_a12_requests_get_the_longest_time_and_are_not_asked_twice(
    fakes: Fakes, start: Start, server: Script, tmp_path: Path
) -> None:
    run = start()
    assert run.config.deployment.request_timeout_ms == 180_000
    with pytest.raises(ConfigError, match="request_timeout_ms"):
        run_config(tmp_path, deployment={"request_timeout_ms": 180_001})
    run.submit()
    fakes.workspace.online_endpoints.scoring_uri = server.url
    server.answers(Reply(status=408), Reply([{"0": "late"}]))
    with run.deploy() as endpoint, pytest.raises(ScoringError, match="time-out"):
        endpoint.chat("Hello")
    assert len(server.requests) == 1


def test_b1_no_browser_opens_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFAULT_IDENTITY_CLIENT_ID", "00000000-0000-0000-0000-000000000001")
    credential = _credential("default")
    assert isinstance(credential, DefaultAzureCredential)
    assert not any(isinstance(part, InteractiveBrowserCredential) for part in credential.credentials)
    assert isinstance(_credential("browser"), InteractiveBrowserCredential)


def test_b2_a_broken_config_json_is_an_error_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        workspace_address(AzureWorkspace())
    assert caught.value.where == str(tmp_path / "config.json")


def test_c4_validation_and_test_files_are_always_given(fakes: Fakes, start: Start) -> None:
    start().submit()
    (job,) = fakes.workspace.jobs.submitted
    (step,) = job.jobs.values()
    assert {"train_file_path", "validation_file_path", "test_file_path"} <= set(step.inputs)


def test_c5_a_model_that_breaks_the_sdk_is_read_all_the_same(fakes: Fakes, start: Start) -> None:
    fakes.registry.record.fail("models.get", AttributeError("'NoneType' object has no attribute 'items'"))
    assert start().plan.model.version == "8"


def test_d1_the_component_is_left_nothing_to_split(fakes: Fakes, start: Start) -> None:
    run = start()
    run.submit()
    assert run.prepare().rows.keys() == {"train", "validation", "test"}
    assert sum(run.prepare().rows.values()) == 30
    fakes.workspace.data.add(data_asset("chat", "3"))
    assert "80 %" in finding(start(data={"train": "azureml:chat:3"}), "DATA_SPLIT_BY_AZURE").message


def test_d2_a_row_that_the_template_would_not_take_is_found_with_its_line(start: Start, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "odd.jsonl", 30)
    rows.write_text(rows.read_text() + '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user"}]}\n')
    assert finding(start(data={"train": rows}), "DataError").place == f"{rows}:31"


def test_d3_too_few_rows_are_found_here_and_not_on_the_node(start: Start, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "few.jsonl", 9)
    assert "10" in finding(start(data={"train": rows}), "DataError").message


def test_d4_what_is_cut_is_told(start: Start) -> None:
    codes = {found.code: found for found in start(parameters={"max_seq_length": 2}).check().findings}
    assert "longer than max_seq_length (2 tokens)" in codes["DATA_CUT"].message
    assert "keep no assistant token" in codes["DATA_NO_ANSWER_LEFT"].message


def test_d5_a_model_that_is_not_made_for_chat_is_refused(fakes: Fakes, start: Start) -> None:
    fakes.registry.models.add(phi_4(properties={"finetuning-tasks": "text-classification"}))
    assert finding(start(), "MODEL_TASK").severity == "error"


def test_d6_a_path_with_a_quote_gets_into_no_command_line(fakes: Fakes, start: Start, tmp_path: Path) -> None:
    fakes.workspace.data.add(data_asset("odd", "1", path="azureml://datastores/store/paths/it's.jsonl"))
    assert "'" in finding(start(data={"train": "azureml:odd:1"}), "DATA_FILE_NAME").message
    fakes.workspace.data.known.clear()
    rows = write_rows(tmp_path / "it's.jsonl", 30)
    start(data={"train": rows}).submit()
    assert {Path(asset.path).name for asset in fakes.workspace.data.known.values()} == {
        "train.jsonl",
        "validation.jsonl",
        "test.jsonl",
    }


def test_e1_what_does_not_fit_into_the_gpus_memory_is_found(start: Start) -> None:
    run = start(parameters={"apply_lora": False, "precision": "32"})
    assert finding(run, "MEMORY_SHORT").fix


def test_e2_deepspeed_and_automatic_batch_size_exclude_each_other(start: Start) -> None:
    run = start(parameters={"apply_deepspeed": True, "auto_find_batch_size": True})
    assert finding(run, "PARAMETER_CONFLICT").severity == "error"


def test_e3_early_stopping_needs_evaluations(start: Start) -> None:
    run = start(parameters={"apply_early_stopping": True, "evaluation_strategy": "disable"})
    assert finding(run, "PARAMETER_CONFLICT").severity == "error"


def test_e4_a_wrong_learning_rate_or_optimizer_is_found(start: Start) -> None:
    run = start(parameters={"learning_rate": 0, "optim": "sgd"})
    assert finding(run, "PARAMETER_RANGE").place == "parameters.learning_rate"
    assert finding(run, "PARAMETER_VALUE").place == "parameters.optim"


def test_e5_keeping_every_checkpoint_is_told(start: Start) -> None:
    assert finding(start(parameters={"save_total_limit": -1}), "PARAMETER_KEEPS_ALL").severity == "warning"


def test_e6_the_components_version_is_pinned_and_a_newer_one_told(fakes: Fakes, start: Start) -> None:
    newer = fakes.registry.components.known["chat_completion_pipeline", "0.0.82"]
    run = start(component={"version": "0.0.82"})
    assert run.plan.component.version == "0.0.82"
    fakes.registry.components.known["chat_completion_pipeline", "0.0.83"] = _at_version(newer, "0.0.83")
    assert "0.0.83" in finding(start(component={"version": "0.0.82"}), "COMPONENT_NEWER").message


def _at_version(component: Any, version: str) -> Any:
    import copy

    changed = copy.copy(component)
    changed._version = version
    return changed


def test_ten_mistakes_are_ten_findings_in_one_report(fakes: Fakes, start: Start, tmp_path: Path) -> None:
    own = write_rows(tmp_path / "own.jsonl", 30)
    lines = own.read_text().splitlines()
    lines[3] = '{"messages": [{"role": "user", "content": "x"}]}'
    lines[8] = "no JSON"
    own.write_text("\n".join(lines))
    fakes.workspace.compute.usages = [usage("Standard NCADSA100v4 Family", 0, 1)]
    run = start(
        data={"train": own},
        compute={"cluster": "gpu-cluster", "nodes": 2},
        deployment={"instance_type": T4},
        parameters={
            "learning_rat": 1e-5,
            "num_train_epochs": 0,
            "optim": "sgd",
            "train_file_path": "x",
            "per_device_train_batch_size": "many",
            "apply_deepspeed": True,
            "auto_find_batch_size": True,
        },
    )
    with pytest.raises(CheckFailed) as caught:
        run.submit()
    errors = caught.value.report.errors
    assert len(errors) == len({(found.code, found.place) for found in errors}) == 10
