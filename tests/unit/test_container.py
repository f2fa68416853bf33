"""vLLM in a container: what is asked of Azure for it, and that the local workspace refuses it by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.ai.ml.entities import Model

import phift
from phift import FineTuneRun
from phift.azure.clients import Clients
from phift.errors import ConfigError
from phift.serving import container
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from unit.fakes import A100, Fakes, run_config
from unit.stubs import OWNER, not_found

MODEL = f"{OWNER}/workspace/models/mine/versions/1"
VLLM = {"serve": "vllm", "max_concurrent_requests": 16}


class Environments:
    """Environments of a workspace; the files of a new one are read, since they are gone afterwards."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.files: dict[str, str] = {}

    def get(self, name: str, version: str) -> Any:
        if (found := next((each for each in self.made if (each.name, each.version) == (name, version)), None)) is None:
            raise not_found("environment", name)
        return self._shown(found)

    def create_or_update(self, wanted: Any) -> Any:
        self.made.append(wanted)
        self.files = {each.name: each.read_text(encoding="utf-8") for each in Path(wanted.build.path).iterdir()}
        return self._shown(wanted)

    def _shown(self, each: Any) -> Any:
        return SimpleNamespace(id=f"{OWNER}/workspace/environments/{each.name}/versions/{each.version}")


@pytest.fixture
def fakes() -> Fakes:
    made = Fakes()
    made.workspace.environments = Environments()  # type: ignore[attr-defined]  # what this test alone asks for
    return made


def deploy(fakes: Fakes, **config: Any) -> Endpoint:
    return deploy_model(fakes.clients, MODEL, name="my-own", size=A100, config={**VLLM, **config})


def test_a_deployment_has_the_container_its_routes_and_the_mounted_model(fakes: Fakes) -> None:
    deploy(fakes)
    made = fakes.workspace.online_deployments.known["my-own", "default"]
    environments: Environments = fakes.workspace.environments  # type: ignore[attr-defined]
    (environment,) = environments.made
    assert made.environment == environments.get(environment.name, environment.version).id
    assert (made.model, made.model_mount_path) == (MODEL, "/models")
    assert made.environment_variables == {"SERVED_MODEL_NAME": "my-own", "MAX_NUM_SEQS": "16"}
    assert environment.inference_config["scoring_route"] == {"port": 8000, "path": "/v1/chat/completions"}
    assert set(environments.files) == {"Dockerfile", "serve.sh"}
    assert "FROM vllm/vllm-openai:v" in environments.files["Dockerfile"]


def test_the_environment_is_made_once_and_the_deployment_found(fakes: Fakes) -> None:
    deploy(fakes)
    assert deploy(fakes).existed
    assert len(fakes.workspace.environments.made) == 1  # type: ignore[attr-defined]
    assert fakes.workspace.record.count("online_deployments.begin_create_or_update") == 1
    deploy(fakes, serve="mlflow")
    assert fakes.workspace.record.count("online_deployments.begin_create_or_update") == 2


def test_a_model_that_is_not_mlflows_is_served_by_it(fakes: Fakes) -> None:
    fakes.workspace.models.add(Model(id=MODEL, name="mine", version="1", path="p", type="custom_model"))
    endpoint = phift.deploy("mine:1", fakes.clients, size=A100, config=VLLM)
    assert fakes.workspace.online_deployments.known[endpoint.name, "default"].model == MODEL


def test_the_local_workspace_refuses_it_by_name_before_anything_is_made(clients: Clients) -> None:
    with pytest.raises(ConfigError, match="runs no containers, so it cannot serve with vLLM"):
        phift.deploy("Phi-4-mini-instruct", clients, config=VLLM)
    assert list(clients.workspace.online_endpoints.list()) == []


def test_a_run_is_told_before_it_is_trained(fakes: Fakes, clients: Clients, tmp_path: Path) -> None:
    config = run_config(tmp_path, deployment=VLLM)
    found = {finding.code: finding.severity for finding in FineTuneRun(config, fakes.clients).check().findings}
    assert found["DEPLOYMENT_UNVERIFIED"] == "note"
    found = {finding.code: finding.severity for finding in FineTuneRun(config, clients).check().findings}
    assert found["DEPLOYMENT_NO_CONTAINERS"] == "error"


def test_the_sdk_registers_the_environment_with_its_files_and_routes(clients: Clients) -> None:
    identifier = container._environment(clients)
    found = clients.workspace.environments.get(container.ENVIRONMENT, version=identifier.rpartition("/")[2])
    assert found.inference_config.scoring_route.path == "/v1/chat/completions"
    assert found.build.dockerfile_path == "Dockerfile"
    assert container._environment(clients) == identifier


def test_the_third_mode_of_who_may_call_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match="phift makes no endpoints with aml_token"):
        phift.RunConfig(model="m", compute="c", data="t.jsonl", deployment={"auth_mode": "aml_token"})
