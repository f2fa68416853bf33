from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phift.azure.clients import Clients
from phift.config.run import RunConfig
from phift.errors import NotFound
from phift.jobs.record import CONFIGURATION, RunRecord, configuration_digest, series
from phift.local.model import catalog
from phift.local.state.folder import Folder
from phift.run import FineTuneRun
from unit import given
from unit.fakes import A100, run_config


def record_of(clients: Clients, folder: Path, **changes: Any) -> RunRecord:
    config = run_config(folder, model="Phi-4-mini-instruct", **changes)
    return RunRecord.of(config, FineTuneRun(config, clients).plan)


def with_configuration(record: RunRecord, **changes: Any) -> RunRecord:
    return replace(record, configuration={**record.configuration, **changes})


def job(record: RunRecord, **changes: Any) -> Any:
    """Return a job as the service shows one."""
    return SimpleNamespace(**{"name": "job", "tags": record.tags, "properties": record.properties, **changes})


def test_what_is_written_is_read_again(clients: Clients, tmp_path: Path) -> None:
    record = record_of(clients, tmp_path, parameters={"seed": 7}, registered_model_name="mine")
    read = RunRecord.read(job(record))
    assert read == record
    assert (read.model.id, read.model_name, read.lineage["phift.parameter.seed"]) == (given.MODEL, "mine", "7")
    assert read.model.inference
    published = catalog.model(Folder(tmp_path), "Phi-4-mini-instruct", "1")
    assert published
    assert list(read.model.inference.sizes) == published["systemMetadata"]["supportedComputes"]["inferenceComputes"]


def test_a_secret_in_what_the_registry_calls_the_component_is_in_no_tag(clients: Clients, tmp_path: Path) -> None:
    config = run_config(tmp_path, model="Phi-4-mini-instruct")
    plan = FineTuneRun(config, clients).plan
    plan.component.name += " password=s3cr3t"
    assert "s3cr3t" not in str(RunRecord.of(config, plan).tags)


def test_the_configuration_can_be_made_anew(clients: Clients, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"parameters": {"seed": 7}, "deployment": {"instance_count": 2}}
    again = RunRecord.read(job(record_of(clients, tmp_path, **changes))).config()
    config = run_config(tmp_path, model="Phi-4-mini-instruct", **changes)
    assert again
    assert (again.parameters, again.deployment.instance_count) == ({"seed": 7}, 2)
    assert configuration_digest(again) == configuration_digest(config)


def test_rows_from_python_are_in_no_record_and_no_configuration_is_made_of_them(
    clients: Clients, tmp_path: Path
) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"SECRET {i}"}, {"role": "assistant", "content": "A"}]}
        for i in range(30)
    ]
    record = record_of(clients, tmp_path, data={"train": rows})
    assert "SECRET" not in str(record.properties) + str(record.tags)
    assert RunRecord.read(job(record)).config() is None


def test_a_record_keeps_to_the_services_limits(clients: Clients, tmp_path: Path) -> None:
    many = {f"made_up_parameter_{number}": "x" * (1200 if number < 25 else 10) for number in range(60)}
    record = with_configuration(record_of(clients, tmp_path), parameters=many)
    for kept in (record.tags, record.properties):
        assert len(kept) <= 40
        assert all(len(key) <= 100 and len(value) <= 1000 for key, value in kept.items())
    assert RunRecord.read(job(record)).configuration["parameters"] == many


@pytest.mark.parametrize("too_long", ["data", "parameters"])
def test_of_a_configuration_that_is_too_long_the_rest_is_kept(clients: Clients, tmp_path: Path, too_long: str) -> None:
    record = record_of(clients, tmp_path, parameters={"seed": 7}, deployment={"instance_count": 2})
    record = with_configuration(record, **{too_long: {"system": "x" * 50_000}})
    assert len(record.properties) <= 40
    read = RunRecord.read(job(record))
    assert too_long not in read.configuration
    assert ("parameters" in read.configuration) == (too_long == "data")
    assert (read.config(), read.deployment.instance_count, read.data_name) == (None, 2, "rows")


def test_what_looks_like_a_signature_is_taken_out(clients: Clients, tmp_path: Path) -> None:
    written = record_of(clients, tmp_path, parameters={"huggingface_id": "https://a.test/x?sig=VERYSECRET&se=1"})
    assert "VERYSECRET" not in str(written.properties) + str(written.tags)


def test_what_looks_like_a_signature_is_not_read(clients: Clients, tmp_path: Path) -> None:
    record = record_of(clients, tmp_path)
    signed = {**record.tags, CONFIGURATION: f"{record.configuration_digest} sig=abc%2Bdef"}
    assert RunRecord.read(job(record, tags=signed)).configuration_digest == f"{record.configuration_digest} sig=***"


@pytest.mark.parametrize(
    "tags", [{}, {"phift.fingerprint": "1"}, {"phift.base_model": "elsewhere", "phift.fingerprint": "1"}]
)
def test_a_job_that_phift_did_not_submit_has_no_record(tags: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="not submitted by phift"):
        RunRecord.read(SimpleNamespace(name="job", tags=tags, properties={}))


@pytest.mark.parametrize("properties", [{}, {"phift.record.0": "{"}, {"phift.record.0": "[]"}, None])
def test_an_older_job_is_known_by_its_tags(clients: Clients, tmp_path: Path, properties: Any) -> None:
    record = record_of(clients, tmp_path)
    read = RunRecord.read(job(record, properties=properties))
    assert (read.fingerprint, read.model.id) == (record.fingerprint, given.MODEL)
    assert read.model_name == "phi-4-mini-instruct-finetuned"
    assert (read.config(), read.model.inference) == (None, None)


def test_edits_stay_in_the_series_and_change_the_digits(tmp_path: Path) -> None:
    first = run_config(tmp_path)
    for change in ({"parameters": {"seed": 7}}, {"compute": {"serverless": A100}}, {"preset": "safe"}):
        edited = run_config(tmp_path, **change)
        assert series(edited) == series(first)
        assert configuration_digest(edited) != configuration_digest(first)


@pytest.mark.parametrize(
    "change",
    [{"deployment": {"instance_count": 2}}, {"registered_model_name": "x"}, {"max_cost": 3}, {"work_dir": Path("w")}],
)
def test_what_trains_nothing_changes_no_digits(tmp_path: Path, change: dict[str, Any]) -> None:
    assert configuration_digest(run_config(tmp_path, **change)) == configuration_digest(run_config(tmp_path))


@pytest.mark.parametrize("change", [{"experiment": "other"}, {"model": "Phi-5"}, {"data": {"train": "other.jsonl"}}])
def test_another_experiment_model_or_data_is_another_series(tmp_path: Path, change: dict[str, Any]) -> None:
    assert series(run_config(tmp_path, **change)) != series(run_config(tmp_path))


@pytest.mark.parametrize(
    ("address", "same"), [("azureml:chat:4", True), ("azureml:chat@latest", True), ("azureml:talk:3", False)]
)
def test_another_version_of_an_asset_is_the_same_series(address: str, same: bool) -> None:
    def config(train: str) -> RunConfig:
        return RunConfig(model="Phi-4", compute="c", data={"train": train})

    assert (series(config(address)) == series(config("azureml:chat:3"))) == same
