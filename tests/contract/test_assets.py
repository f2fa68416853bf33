"""Data assets and models: the same rules for both, but for what the SDK makes of a missing one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from azure.ai.ml.entities import Data, Model
from azure.ai.ml.exceptions import MlException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from contract.conftest import write_row
from contract.targets import Target

Kind = Literal["data", "models"]
BOTH = pytest.mark.parametrize("kind", ["data", "models"])


def asset(kind: Kind, name: str, version: str | None, path: Path, **settings: Any) -> Any:
    if kind == "data":
        return Data(name=name, version=version, path=str(path), type="uri_file", **settings)
    return Model(name=name, version=version, path=str(path), type="custom_model", **settings)


@BOTH
def test_an_asset_is_registered_and_found(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    made = assets.create_or_update(asset(kind, name, "7", train, tags={"one": "1"}, description="what it is"))
    found = assets.get(name, version="7")
    assert made.id == found.id
    assert found.id.endswith(f"/{kind}/{name}/versions/7")
    assert (found.name, found.version, found.tags, found.description) == (name, "7", {"one": "1"}, "what it is")
    assert found.creation_context.created_at


@BOTH
def test_a_local_file_lies_in_the_default_datastore_afterwards(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    path = assets.create_or_update(asset(kind, name, "1", train)).path
    # The service answers with the long form, also where the SDK sent the short one (recorded traffic of the SDK's
    # tests: azure-sdk-assets, test_data_upload_file, 2026-03).
    assert path.lower().startswith("azureml://subscriptions/")
    assert "/datastores/workspaceblobstore/paths/LocalUpload/" in path
    assert path.endswith("/train.jsonl")


@BOTH
def test_the_same_again_changes_nothing(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    made = assets.create_or_update(asset(kind, name, "1", train, tags={"one": "1"}))
    again = assets.create_or_update(asset(kind, name, "1", train, tags={"one": "1"}))
    assert (again.id, again.path, again.tags) == (made.id, made.path, made.tags)
    assert [found.version for found in assets.list(name)] == ["1"]


@BOTH
def test_tags_and_description_of_a_version_may_change(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    assets.create_or_update(asset(kind, name, "1", train, tags={"one": "1"}, description="before"))
    assets.create_or_update(asset(kind, name, "1", train, tags={"two": "2"}, description="after"))
    found = assets.get(name, version="1")
    assert (found.tags, found.description) == ({"two": "2"}, "after")


@BOTH
def test_what_a_version_points_to_never_changes(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    made = assets.create_or_update(asset(kind, name, "1", train))
    other = write_row(train.with_name("other.jsonl"), "other")
    with pytest.raises(HttpResponseError, match="Asset paths cannot be updated") as caught:
        assets.create_or_update(asset(kind, name, "1", other))
    assert caught.value.status_code == 400  # the SDK knows it by "(UserError) Asset paths cannot be updated."
    assert assets.get(name, version="1").path == made.path


@BOTH
def test_latest_is_what_was_created_last(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    for version in ("foo", "2", "bar", "1"):
        assets.create_or_update(asset(kind, name, version, train))
        assert assets.get(name, label="latest").version == version


@BOTH
def test_without_a_version_the_next_number_is_taken(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    versions = [assets.create_or_update(asset(kind, name, None, train)).version for _ in range(2)]
    assert versions == ["1", "2"]


@BOTH
def test_lists_show_versions_or_names(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    for version in ("1", "2"):
        assets.create_or_update(asset(kind, name, version, train))
    assert {(found.name, found.version) for found in assets.list(name)} == {(name, "1"), (name, "2")}
    (container,) = [found for found in assets.list() if found.name == name]
    assert (container.version, container.latest_version) == (None, "2")


@BOTH
def test_an_archived_version_is_out_of_lists_and_still_there(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    for version in ("1", "2"):
        assets.create_or_update(asset(kind, name, version, train))

    def listed(view: str) -> set[str]:
        return {found.version for found in assets.list(name, list_view_type=view)}

    assets.archive(name, version="1")
    assert (listed("ActiveOnly"), listed("ArchivedOnly"), listed("All")) == ({"2"}, {"1"}, {"1", "2"})
    assert assets.get(name, version="1").version == "1"
    assets.restore(name, version="1")
    assert listed("ActiveOnly") == {"1", "2"}


@BOTH
def test_an_archived_name_is_out_of_lists(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    assets.create_or_update(asset(kind, name, "1", train))
    assets.archive(name)
    assert name not in {found.name for found in assets.list()}
    assets.restore(name)
    assert name in {found.name for found in assets.list()}


@BOTH
def test_a_missing_version_is_not_found(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    assets.create_or_update(asset(kind, name, "1", train))
    for missing in (assets.get, assets.archive):
        with pytest.raises(ResourceNotFoundError) as caught:
            missing(name, version="9")
        assert caught.value.status_code == 404


@BOTH
def test_an_unknown_name_is_not_found(target: Target, kind: Kind) -> None:
    # Recorded traffic of the SDK's tests: 404 for the versions of a model that there is not (azure-sdk-assets,
    # test_crud_file, 2026-03). That data's are the same is inferred: both are the same part of the service.
    assets = getattr(target.workspace, kind)
    with pytest.raises(ResourceNotFoundError) as caught:
        list(assets.list("ct-no-such-asset"))
    assert caught.value.status_code == 404
    with pytest.raises(ResourceNotFoundError) as caught:
        assets.archive("ct-no-such-asset")
    assert caught.value.status_code == 404


def test_the_latest_of_an_unknown_model_is_not_found(target: Target) -> None:
    with pytest.raises(ResourceNotFoundError):
        target.workspace.models.get("ct-no-such-model", label="latest")


def test_the_latest_of_unknown_data_is_an_error_of_the_sdk(target: Target) -> None:
    with pytest.raises(MlException):
        target.workspace.data.get("ct-no-such-data", label="latest")


@BOTH
def test_a_get_wants_a_version_or_a_label(target: Target, kind: Kind, train: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    assets.create_or_update(asset(kind, name, "1", train))
    for wanted in ({}, {"version": "1", "label": "latest"}, {"label": "stable"}):
        with pytest.raises(MlException):
            assets.get(name, **wanted)


@BOTH
def test_a_missing_file_is_not_registered(target: Target, kind: Kind, tmp_path: Path) -> None:
    name, assets = target.fresh(kind), getattr(target.workspace, kind)
    with pytest.raises(MlException):
        assets.create_or_update(asset(kind, name, "1", tmp_path / "nothing.jsonl"))
    with pytest.raises(ResourceNotFoundError):
        assets.get(name, version="1")


def test_an_mlflow_model_is_registered_from_a_folder(target: Target, mlflow_model: Path) -> None:
    name = target.fresh("models")
    model = Model(name=name, version="1", path=str(mlflow_model), type="mlflow_model")
    made = target.workspace.models.create_or_update(model)
    assert made.type == "mlflow_model"
    assert made.path.rstrip("/").endswith("/echo")


# The SDK calls its storage client in ways that this one warns of.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_is_downloaded_as_it_was_registered(target: Target, mlflow_model: Path, tmp_path: Path) -> None:
    name = target.fresh("models")
    model = Model(name=name, version="1", path=str(mlflow_model), type="mlflow_model")
    target.workspace.models.create_or_update(model)
    target.workspace.models.download(name, "1", download_path=str(tmp_path))
    for file in ("MLmodel", "code/echo.py"):
        assert (tmp_path / name / "echo" / file).read_bytes() == (mlflow_model / file).read_bytes()
