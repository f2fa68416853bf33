"""How storage is reached: by its key, by the caller's own token, and not at all where the account takes no keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import Data, NoneCredentialConfiguration
from azure.core.exceptions import HttpResponseError
from click.testing import CliRunner

from phift import FineTuneRun, RunConfig, samples
from phift.cli.commands import main
from phift.errors import AccessDenied, LocalWorkspaceError
from phift.local import LocalWorkspace
from phift.local.names import DATASTORES, FILE_STORES, WORKSPACE_ID
from phift.local.programs import NOTE
from phift.local.server.in_process import served_here
from phift.testing import Fault, TestWorkspace

pytestmark = [
    # The SDK and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SECRETS = "POST datastores/*/listSecrets"


def _run(workspace: TestWorkspace, folder: Path) -> FineTuneRun:
    given = samples.write(folder / "elements")
    config = RunConfig(
        workspace={"local": workspace.connection.folder},
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data={"train": given.train, "validation": given.validation, "test": given.test},
        work_dir=folder / "work",
    )
    return FineTuneRun(config, workspace.clients)


@pytest.mark.parametrize("datastores", ["accesskey", "identity"])
@pytest.mark.parametrize("may_list", [True, False])
def test_the_whole_chain(datastores: Any, may_list: bool, tmp_path: Path) -> None:
    with TestWorkspace(datastores=datastores) as workspace:
        by_token = datastores == "identity" or not may_list
        if not may_list:
            message = "The client does not have authorization to perform action 'datastores/listSecrets/action'."
            workspace.order(Fault(SECRETS, status=403, code="AuthorizationFailed", message=message, times=None))
        run = _run(workspace, tmp_path)
        assert run.check().ok
        job = run.submit().name
        run.wait(timeout=300)
        model = run.register()
        workspace.client.jobs.download(job, download_path=tmp_path / "job")
        assert (tmp_path / "job/artifacts/logs/azureml/executionlogs.txt").is_file()
        with run.deploy() as endpoint:
            assert endpoint.chat("What is the symbol of gold?") == NOTE
        assert not list(workspace.client.online_endpoints.list())
        # Older releases of the SDK ask for a key that the datastore says there is none of.
        asked = {each.status for each in workspace.requests(SECRETS)}
        assert asked <= ({400, 403} if by_token else {200})
        workspace.clear_faults()  # the SDK's download of a model wants the key, and knows no other way (1.35.2)
        workspace.client.models.download(model.name, version=model.version, download_path=str(tmp_path))
        assert (tmp_path / model.name / "mlflow_model_folder/EMPTY.txt").read_text() == f"{NOTE}\n"
        assert not workspace.unserved()


def test_storage_without_keys_refuses_the_upload_with_the_reason_and_the_way_out(tmp_path: Path) -> None:
    with TestWorkspace(datastores="keys-off") as workspace:
        run = _run(workspace, tmp_path)
        (found,) = run.check().errors
        assert found.code == "STORAGE_KEYS_OFF"
        assert "--system-datastores-auth-mode identity" in found.fix
        with pytest.raises(AccessDenied, match="takes no account keys") as caught:
            run.submit(ignore=["STORAGE_KEYS_OFF"])
        assert "--system-datastores-auth-mode identity" in (caught.value.fix or "")
        assert not workspace.requests("PUT jobs/*")
        assert {each.status for each in workspace.requests("* blobs/*")} == {403}


@pytest.fixture
def by_identity() -> Iterator[TestWorkspace]:
    with TestWorkspace(datastores="identity") as workspace:
        yield workspace


def test_a_workspace_by_identity_tells_so(by_identity: TestWorkspace) -> None:
    client = by_identity.client
    workspace = client.workspaces.get("local")
    assert workspace.system_datastores_auth_mode == "identity"
    stores = list(client.datastores.list())
    assert {store.name for store in stores} == {*DATASTORES, *FILE_STORES}
    assert isinstance(client.datastores.get_default().credentials, NoneCredentialConfiguration)
    with pytest.raises(HttpResponseError, match="No secrets for credentials of type None") as caught:
        client.datastores._operation.list_secrets(
            name="workspaceblobstore", body={}, resource_group_name="phift", workspace_name="local"
        )
    assert (caught.value.status_code, caught.value.error and caught.value.error.code) == (400, "UserError")


def test_a_folder_remembers_how_its_storage_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    assert _mode(folder, "identity") == "identity"
    assert _mode(folder) == "identity"
    assert _mode(folder, "keys-off") == "accesskey"
    assert _mode(folder) == "accesskey"


def _mode(folder: Path, datastores: Any = None) -> str:
    import requests

    from phift.local import LocalCredential

    with served_here(folder, datastores=datastores) as connection, requests.Session() as session:
        session.trust_env = False
        token = LocalCredential(connection).get_token("https://management.azure.com/.default").token
        url = f"{connection.base_url}{WORKSPACE_ID}?api-version=2024-10-01-preview"
        answer = session.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        return str(answer.json()["properties"]["systemDatastoresAuthMode"])


@pytest.mark.slow
def test_the_command_starts_a_server_that_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    start = ["local", "up", "--folder", str(folder), "--engine", "instant", "--speed", "fast"]
    try:
        for asked in (["--datastores", "identity"], []):
            done = CliRunner().invoke(main, [*start, *asked])
            assert done.exit_code == 0, done.output
            with LocalWorkspace(folder)._documents() as documents:
                server = documents.get("server")
            assert server is not None
            assert server.body["datastores"] == "identity"
            assert LocalWorkspace(folder).down()
    finally:
        LocalWorkspace(folder).down()


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    wrong: Any = "none"
    with pytest.raises(LocalWorkspaceError, match="datastores"):
        LocalWorkspace(tmp_path / "workspace", datastores=wrong)
    with pytest.raises(LocalWorkspaceError, match="datastores"):
        TestWorkspace(datastores=wrong)


def test_a_file_is_uploaded_by_identity(by_identity: TestWorkspace, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"messages": []}\n')
    data = by_identity.client.data.create_or_update(Data(name="rows", version="1", path=str(file), type="uri_file"))
    assert data.path.endswith("/train.jsonl")
    assert {each.status for each in by_identity.requests("PUT blobs/*")} <= {200, 201}
    (stored,) = (by_identity.connection.folder / "blobs/storage/azureml-blobstore").rglob("train.jsonl")
    assert stored.read_bytes() == file.read_bytes()
