"""That the real SDK prints nothing where phift calls it, and what it prints otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import Data, ManagedOnlineDeployment, ManagedOnlineEndpoint, Model
from running import Local

from phift.azure.quiet import quiet, quiet_uploads

pytestmark = [
    pytest.mark.slow,
    # The SDK and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def model(local: Local, tmp_path: Path) -> str:
    (tmp_path / "MLmodel").write_text("flavors:\n  transformers:\n    task: llm/v1/chat\n")
    made = local.client.models.create_or_update(Model(name="quiet", path=str(tmp_path), type="mlflow_model"))
    return str(made.id)


def deployed_and_deleted(local: Local, model: str, wrap: Callable[[Any], Any]) -> None:
    client, name = local.client, f"quiet-{time.monotonic_ns()}"
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    deployment = ManagedOnlineDeployment(
        name="blue", endpoint_name=name, model=model, instance_type="Standard_NC24ads_A100_v4", instance_count=1
    )
    made = wrap(client.online_deployments).begin_create_or_update(deployment).result()
    assert made.name == "blue"
    wrap(client.online_endpoints).begin_delete(name).result()
    assert name not in [endpoint.name for endpoint in client.online_endpoints.list()]


def test_a_deployment_and_a_deletion_print_no_dots(
    local: Local, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    deployed_and_deleted(local, model, quiet)
    assert capsys.readouterr() == ("", "")
    deployed_and_deleted(local, model, lambda operations: operations)
    assert set(capsys.readouterr().out) == {"."}


def test_an_upload_prints_no_blank_line(local: Local, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def upload(text: str) -> None:
        (tmp_path / "chat.jsonl").write_text(text)
        local.client.data.create_or_update(Data(name=text, type="uri_file", path=str(tmp_path / "chat.jsonl")))

    with quiet_uploads():
        upload("quiet")
    assert capsys.readouterr() == ("", "")
    upload("loud")
    assert capsys.readouterr().err == "\x1b[39m\n\n"
