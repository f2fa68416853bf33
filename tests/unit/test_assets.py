from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from phift.azure.clients import Clients
from phift.component.preprocessing import SPLITS
from phift.config.data import DataConfig
from phift.data.assets import DataInAzure, DataInput, asset_name, find_data, register_assets
from phift.data.prepare import PreparedDataset
from phift.errors import AccessDenied, Conflict, DataError, NotFound, ServiceError
from phift.run import FineTuneRun
from phift.testing import Fault, TestWorkspace
from phift.views.terminal import show_plan
from unit.fakes import Fakes, codes, data_asset, data_id, http_error, run_config

IN_STORE = "azureml://datastores/store/paths/folder/chat.jsonl"
WORKSPACE = (
    "subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/group/"
    "providers/Microsoft.MachineLearningServices/workspaces/"
)
IN_REGISTRY = "azureml://registries/shared/data/chat/versions/5"


@pytest.fixture
def fakes() -> Fakes:
    fakes = Fakes()
    fakes.workspace.data.add(data_asset("chat", "3"))
    return fakes


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return FineTuneRun(run_config(tmp_path)).prepare()


def find(fakes: Fakes, train: str, **others: str) -> DataInAzure:
    return find_data(fakes.clients, DataConfig.model_validate({"train": train, **others}))


def in_registry(fakes: Fakes, **properties: Any) -> None:
    fakes.rest.on({"id": "any", "properties": properties}, "registries/shared/data/chat/versions/5?")


def test_the_files_become_assets_in_versions_of_their_content(
    workspace: TestWorkspace, clients: Clients, dataset: PreparedDataset
) -> None:
    made = register_assets(clients, dataset, "mine")
    assert list(made) == list(SPLITS)
    train = clients.workspace.data.get("mine-train", made["train"].version)
    assert (train.type, made["train"].address, made["train"].existed) == ("uri_file", train.id, False)
    (stored,) = workspace.connection.folder.rglob(dataset.train.name)
    assert (stored.read_bytes(), str(train.path).endswith(stored.name)) == (dataset.train.read_bytes(), True)
    assert re.fullmatch("[0-9a-f]{16}", str(train.version))
    assert train.tags["phift.hash"].startswith(str(train.version))
    assert (train.tags["phift.rows"], train.tags["phift.data"]) == ("24", dataset.content_hash)


def test_what_is_registered_is_used(workspace: TestWorkspace, clients: Clients, dataset: PreparedDataset) -> None:
    first = register_assets(clients, dataset, "mine")
    again = register_assets(clients, dataset, "mine")
    assert {given.existed for given in again.values()} == {True}
    assert [given.address for given in again.values()] == [given.address for given in first.values()]
    assert len(workspace.requests("PUT data/*")) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rows", "rows-train"), ("train", "phift-train"), ("", "phift-train"), ("test", "phift-train")],
)
def test_no_name_says_the_split_twice(name: str, expected: str) -> None:
    assert asset_name(name, "train") == expected


def test_an_archived_asset_is_restored(clients: Clients, dataset: PreparedDataset) -> None:
    version = register_assets(clients, dataset, "mine")["train"].version
    clients.workspace.data.archive("mine-train", version)
    assert not list(clients.workspace.data.list("mine-train"))
    assert register_assets(clients, dataset, "mine")["train"].existed
    assert [each.version for each in clients.workspace.data.list("mine-train")] == [version]


@pytest.mark.parametrize("change", ["tags", "type"])
def test_an_asset_of_something_else_is_not_taken(fakes: Fakes, dataset: PreparedDataset, change: str) -> None:
    made = register_assets(fakes.clients, dataset, "mine")
    found = fakes.workspace.data.known["mine-test", made["test"].version]
    if change == "tags":
        found.tags = None
    else:
        found.type = "uri_folder"
    with pytest.raises(Conflict, match="may hold something else") as caught:
        register_assets(fakes.clients, dataset, "mine")
    assert caught.value.fix == "set `data.asset_name` to another name"


def test_of_two_runs_at_once_one_uploads_and_both_use_it(
    workspace: TestWorkspace, clients: Clients, dataset: PreparedDataset
) -> None:
    workspace.order(Fault("PUT data/*", status=409), Fault("PUT data/*", status=412))
    made = register_assets(clients, dataset, "mine")
    assert len(list(clients.workspace.data.list())) == 3
    assert {given.existed for given in made.values()} == {False}


def test_a_conflict_that_does_not_pass_is_raised(
    workspace: TestWorkspace, clients: Clients, dataset: PreparedDataset
) -> None:
    workspace.order(Fault("PUT data/*", status=409, times=None))
    with pytest.raises(Conflict):
        register_assets(clients, dataset, "mine")


@pytest.mark.parametrize(("status", "kind"), [(403, AccessDenied), (500, ServiceError)])
def test_other_errors_are_raised_at_once(
    fakes: Fakes, dataset: PreparedDataset, status: int, kind: type[Exception]
) -> None:
    fakes.workspace.record.fail("data.create_or_update", http_error(status))
    with pytest.raises(kind):
        register_assets(fakes.clients, dataset, "mine")
    assert fakes.workspace.record.count("data.create_or_update") == 3


@pytest.mark.parametrize(
    "text",
    [
        "azureml:chat:3",
        "azureml:chat@latest",
        f"azureml:/{WORKSPACE}workspace/data/chat/versions/3",
        f"azureml://{WORKSPACE}workspace/data/chat/versions/3".replace("resourceGroups", "resourcegroups"),
        f"azureml://{WORKSPACE}workspace/data/chat/labels/latest",
    ],
)
def test_every_way_to_name_an_asset_leads_to_its_version(fakes: Fakes, text: str) -> None:
    found = find(fakes, text)
    assert found.inputs == {"train": DataInput(name="chat", version="3", address=data_id("chat", "3"))}
    assert found.name == "chat"
    assert found.content_hash == find(fakes, "azureml:chat:3").content_hash


def test_a_registrys_asset_is_looked_up_there(fakes: Fakes) -> None:
    in_registry(fakes, dataType="mltable", dataUri="https://storage.test/table?sig=secret")
    found = find(fakes, IN_REGISTRY)
    assert found.inputs["train"] == DataInput(name="chat", version="5", address=IN_REGISTRY, type="mltable")
    assert fakes.rest.addresses[0].startswith("https://discovery.test/registrymanagement/v1.0/registries/shared")


@pytest.mark.parametrize(
    ("written", "kind"), [("UriFile", "uri_file"), ("uri_file", "uri_file"), ("MLTable", "mltable")]
)
def test_a_registrys_types_are_read_in_both_spellings(fakes: Fakes, written: str, kind: str) -> None:
    in_registry(fakes, dataType=written)
    assert find(fakes, IN_REGISTRY).inputs["train"].type == kind


def test_a_place_in_a_datastore_is_taken_unseen_and_that_is_said(fakes: Fakes) -> None:
    found = find(fakes, IN_STORE, validation=f"azureml://{WORKSPACE}workspace/datastores/store/paths/v.parquet")
    assert found.inputs["train"] == DataInput(name="chat", address=IN_STORE)
    notes = [finding for finding in found.findings if finding.code == "DATA_UNCHECKED"]
    assert [finding.place for finding in notes] == ["data", "data.train", "data.validation"]
    assert fakes.workspace.record.calls == []


@pytest.mark.parametrize("text", ["azureml:chat:4", "azureml:none@latest", "azureml:chat@best"])
def test_an_asset_that_is_not_there_is_named(fakes: Fakes, text: str) -> None:
    fakes.workspace.data.known["other", "1"] = fakes.workspace.data.known["chat", "3"]
    if text.endswith("@best"):
        fakes.workspace.record.fail("data.get", label_error())
    with pytest.raises(NotFound, match="There is no data asset") as caught:
        find(fakes, text)
    assert caught.value.where == "data.train"


def label_error() -> Any:
    from azure.ai.ml.exceptions import MlException

    return MlException(message="no such label", no_personal_data_message="")


def test_a_registry_without_the_asset_is_named(fakes: Fakes) -> None:
    fakes.rest.on(NotFound("There is none.", status=404), "registries/shared/data/chat")
    with pytest.raises(NotFound, match="chat with version 5 in registry shared"):
        find(fakes, IN_REGISTRY)


def test_a_service_that_fails_is_not_a_missing_asset(fakes: Fakes) -> None:
    fakes.workspace.record.fail("data.get", http_error(500))
    with pytest.raises(ServiceError):
        find(fakes, "azureml:chat:3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("azureml:chat", "no address of data"),
        ("azureml://jobs/job/outputs/out", "no address of data"),
        ("azureml://registries/shared/datastores/store/versions/1", "no address of data"),
        ("azureml://registries/shared/data/chat/labels/latest", "no address of data"),
        (f"azureml://{WORKSPACE}other/data/chat/versions/3", "is in another workspace, other"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_the_way_out(fakes: Fakes, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        find(fakes, text)
    assert "azureml://datastores/<store>/paths/<file>" in str(caught.value.fix)


def test_every_mistake_is_reported(fakes: Fakes) -> None:
    with pytest.raises(DataError) as caught:
        find(fakes, "azureml:chat:4", validation="azureml:chat:3", test="azureml:chat")
    assert [place for place, _ in caught.value.problems] == ["data.train", "data.test"]


SHARES = {
    (): "the first 80 % are trained on, the next 10 % validated on, and 10 % are not used",
    ("test",): "the first 80 % are trained on, and the last 20 % are validated on",
    ("validation",): "the first 80 % are trained on, and the last 20 % become a test set that no step uses",
}


@pytest.mark.parametrize("others", SHARES)
def test_what_azure_splits_off_is_said(fakes: Fakes, others: tuple[str, ...]) -> None:
    found = find(fakes, "azureml:chat:3", **dict.fromkeys(others, "azureml:chat:3"))
    (warning,) = [finding for finding in found.findings if finding.code == "DATA_SPLIT_BY_AZURE"]
    assert warning.severity == "warning"
    assert SHARES[others] in warning.message


def test_with_all_three_files_azure_splits_nothing(fakes: Fakes) -> None:
    found = find(fakes, "azureml:chat:3", validation="azureml:chat:3", test="azureml:chat:3")
    assert codes(found.findings) == ["DATA_UNCHECKED"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"type": "uri_folder"}, [("DATA_ASSET_TYPE", "error")]),
        ({"path": "azureml://datastores/s/paths/chat.txt"}, [("DATA_FILE_TYPE", "error")]),
        ({"path": "https://storage.test/chat?name=x.jsonl"}, [("DATA_FILE_TYPE", "error")]),
        ({"path": "azureml://datastores/s/paths/chat.csv"}, [("DATA_NO_LISTS", "warning")]),
        ({"path": "azureml://datastores/s/paths/it's.jsonl"}, [("DATA_FILE_NAME", "error")]),
        ({"path": "azureml://datastores/s/paths/o'b/chat.jsonl"}, [("DATA_FILE_NAME", "error")]),
        ({"path": r"azureml://datastores/s/paths/a\b.jsonl"}, [("DATA_FILE_NAME", "error")]),
        ({"path": 'azureml://datastores/s/paths/a "b".jsonl'}, []),
        ({"path": "https://storage.test/chat.parquet?sig=secret"}, []),
        ({"type": "mltable", "path": "azureml://datastores/s/paths/table"}, []),
    ],
)
def test_what_the_component_does_not_read_is_said_before(
    fakes: Fakes, changes: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    fakes.workspace.data.add(data_asset("odd", "1", **changes))
    findings = find(fakes, "azureml:odd:1").findings
    assert [(f.code, f.severity) for f in findings if f.place == "data.train" and "SPLIT" not in f.code] == expected
    assert "secret" not in str(findings)


def test_a_plan_shows_what_is_used(fakes: Fakes, tmp_path: Path) -> None:
    run = FineTuneRun(run_config(tmp_path, data={"train": "azureml:chat:3", "test": IN_STORE}), fakes.clients)
    console = Console(width=200)
    with console.capture() as captured:
        show_plan(console, run.plan)
    assert f"data        train azureml:chat:3, test {IN_STORE} (not read here)" in captured.get()
