"""Programs written for Azure run unmodified on a local workspace, by nothing but what ``phift local env`` prints."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from phift.local import LocalWorkspace
from phift.local.server.service import PARTS
from phift.testing import Fault

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
# A shell has to read all of it as one word.
FOLDER = 'it\'s a $HOME; `exit 1` "folder"'
ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'

TESTS = "for whoever tests against the workspace, with its secret; requests there are not in the journal"
BY_ID = "run history by experiment: azureml-core's form of a route that is used without the experiment"
_ACCOUNT = "subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Storage/storageAccounts/{account}"
OPENAI = "of OpenAI's API, and the SDK asks /score"
NOT_USED = {
    "GET health": "for people and for scripts that wait for the server",
    "POST phift/reset": TESTS,
    "GET phift/faults": TESTS,
    "POST phift/faults": TESTS,
    "DELETE phift/faults": TESTS,
    "GET phift/requests": TESTS,
    "POST phift/clock": TESTS,
    "POST phift/seed": TESTS,
    "DELETE blobs/{container}/{name...}": "the SDK never deletes a blob; the storage client does",
    "DELETE data/{name}/versions/{version}": "the SDK archives and cannot delete; the management client can",
    "DELETE models/{name}/versions/{version}": "the SDK archives and cannot delete; the management client can",
    "PATCH onlineEndpoints/{endpoint}": "the SDK changes an endpoint by PUT; the management client by PATCH",
    "GET onlineEndpoints/{endpoint}/providers/Microsoft.Insights/metrics": "Azure Monitor's, which has own clients",
    "POST inference/{endpoint}/v1/chat/completions": OPENAI,
    "POST inference/{endpoint}/chat/completions": OPENAI,
    "GET inference/{endpoint}/v1/models": OPENAI,
    "GET locations/{location}/computeOperationResults/{operation}": "the SDK's poller looks at the status only",
    "GET registries/{registry}/models/{name}": "the SDK asks for versions only; for the management client",
    "GET registries/{registry}/components/{name}": "the SDK asks for versions only; for the management client",
    "GET registries/{registry}/data/{name}": "the SDK asks for versions only; for the management client",
    "GET codes/{name}/versions/{version}": "asked by components.download, which then refuses every storage host but "
    "blob.core.windows.net (azure-ai-ml 1.35.2)",
    "POST data/v1.0/dataversion/batchGetResolvedUris": "by azure-ai-ml 1.26.3; 1.35.2 takes no output for a folder",
    "POST modelregistry/v1.0/models/batchGetResolvedUris": "by azure-ai-ml 1.26.3; 1.35.2 raises before it asks",
    "GET mlflow/{version}/api/2.0/mlflow/experiments/search": "MLflow's client searches by POST",
    "POST mlflow/{version}/api/2.0/mlflow/logged-models": "404, as Azure ML answers",
    f"GET {_ACCOUNT}": "what phift's check asks, and no client of these",
    f"GET {_ACCOUNT}/providers/Microsoft.Authorization/permissions": "the same",
    "PATCH history/v1.0/runs/{run}": "the SDK names the experiment too",
    "GET history/v1.0/experiments/{experiment}/runs/{run}": BY_ID,
    "GET history/v1.0/experiments/{experiment}/runs/{run}/details": BY_ID,
    "GET history/v1.0/experiments/{experiment}/runs/{run}/children": BY_ID,
    "GET history/v1.0/experimentids/{experiment}/runs/{run}": BY_ID,
    "PATCH history/v1.0/experimentids/{experiment}/runs/{run}": BY_ID,
    "GET history/v1.0/experimentids/{experiment}/runs/{run}/details": BY_ID,
    "GET history/v1.0/experimentids/{experiment}/runs/{run}/children": BY_ID,
}
"""The routes that no program with the SDK and MLflow reaches, each with the reason why."""


@dataclass(frozen=True)
class Shell:
    """A shell in a folder of its own, which reads what ``phift local env`` prints and knows nothing else."""

    workspace: LocalWorkspace
    folder: Path

    def run(self, *command: str, **environ: str) -> str:
        """Run a Python program, and return what it has printed."""
        lines = self.folder / "env.sh"
        lines.write_text(_phift("local", "env", "--folder", str(self.workspace.folder)), encoding="utf-8")
        script = 'eval "$(cat env.sh)"; exec "$@"'
        found = subprocess.run(  # noqa: S603 - our own programs
            ["/bin/sh", "-euc", script, "sh", sys.executable, *command],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **environ},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert found.returncode == 0, found.stderr[-4000:]
        return found.stdout

    def requests(self) -> Any:
        """Return what the server has answered, and what it could not."""
        return self._ask("GET", "requests").json()

    def order(self, fault: Fault) -> None:
        """Order a fault of the server."""
        self._ask("POST", "faults", {"value": [asdict(fault)]}).raise_for_status()

    def _ask(self, method: str, what: str, body: object = None) -> Any:
        connection = self.workspace.connection()
        with requests.Session() as session:
            session.trust_env = False
            headers, trusted = {"X-IDENTITY-HEADER": connection.secret()}, str(connection.ca_bundle)
            url = f"{connection.base_url}/phift/{what}"
            return session.request(method, url, json=body, headers=headers, verify=trusted, timeout=60)


def _phift(*arguments: str) -> str:
    command = [sys.executable, "-c", "from phift.cli.commands import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - ours


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("programs")
    workspace = LocalWorkspace(folder / FOLDER, engine="instant", speed="fast")
    connection = workspace.up()
    (folder / "train.jsonl").write_text(ROW * 20)
    names = {
        "subscription_id": connection.subscription_id,
        "resource_group": connection.resource_group,
        "workspace_name": connection.workspace_name,
    }
    (folder / "config.json").write_text(json.dumps(names))
    yield Shell(workspace, folder)
    workspace.down()


@pytest.fixture(scope="module")
def azure(shell: Shell) -> Shell:
    """The shell after the program that uses all of the SDK has run there."""
    shell.order(Fault("step ft_nlp_common_validation", delay=3600, after=1))  # the second job is there to be cancelled
    output = shell.run(str(HERE / "azure_program.py"), "train.jsonl")
    assert output.endswith("done\n")
    return shell


def test_a_program_for_azure_uses_every_route_that_the_sdk_reaches(azure: Shell) -> None:
    answered = azure.requests()
    assert answered["unserved"] == {}
    used = {entry["operation"] for entry in answered["value"]}
    routes = {route.operation for part in PARTS for route in part.ROUTES}
    assert routes - used == NOT_USED.keys()
    document = (HERE.parents[1] / "docs" / "local-workspace.md").read_text(encoding="utf-8")
    assert f"every route but the {len(NOT_USED)} that" in document
    refused = {(entry["status"], entry["operation"]) for entry in answered["value"] if entry["status"] >= 300}
    assert {each for each in refused if each[0] != 404} == {
        (400, "POST mlflow/{version}/api/2.0/mlflow/registered-models/create"),  # one that is there gets a version
        (416, "GET blobs/{container}/{name...}"),  # an empty log has no first byte
    }


def test_plain_mlflow_needs_no_plugin(azure: Shell) -> None:
    program = str(HERE / "mlflow_program.py")
    without = "import runpy, sys; sys.modules['azureml'] = sys.modules['azure'] = None; sys.argv = sys.argv[1:]; "
    assert azure.run("-c", f"{without}runpy.run_path(sys.argv[0], run_name='__main__')", program, "azure-program")


@pytest.mark.parametrize(
    ("program", "packages"), [("azure_program.py", {"azure", "mlflow"}), ("mlflow_program.py", {"mlflow"})]
)
def test_the_programs_know_nothing_of_phift(program: str, packages: set[str]) -> None:
    names = set()
    for node in ast.walk(ast.parse((HERE / program).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    assert names - sys.stdlib_module_names == packages


NOTEBOOK = {
    "connect": """
import os
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
names = ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME")
client = MLClient(DefaultAzureCredential(), *(os.environ[name] for name in names))
registry = MLClient(DefaultAzureCredential(), registry_name="azureml")
""",
    "look": """
assert client.compute.get("gpu-cluster").size == "Standard_NC24ads_A100_v4"
assert registry.models.get("Phi-3-mini-4k-instruct", label="latest").version == "15"
""",
    "upload": """
from azure.ai.ml.entities import Data
print(client.data.create_or_update(Data(name="rows", path="train.jsonl", type="uri_file")).version)
""",
    "track": """
import mlflow
mlflow.set_tracking_uri(client.workspaces.get(client.workspace_name).mlflow_tracking_uri)
mlflow.search_experiments()
""",
}


@pytest.mark.proof
def test_the_cells_of_a_notebook_run_again_whatever_the_shell_has_had_before(shell: Shell) -> None:
    """Neither a proxy, nor a service principal, nor another cloud in the environment leads away from the workspace."""
    order = ["connect", "look", "upload", "connect", "upload", "track", "look", "track"]
    script = "import json, sys\nspace = {}\nfor cell in json.loads(sys.argv[1]):\n    exec(cell, space)\n"
    before = {
        "AZUREML_CURRENT_CLOUD": "AzureCloud",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "example.com",
        "AZURE_CLIENT_ID": "11111111-1111-1111-1111-111111111111",
        "AZURE_TENANT_ID": "22222222-2222-2222-2222-222222222222",
        "AZURE_CLIENT_SECRET": "not a secret",
    }
    output = shell.run("-c", script, json.dumps([NOTEBOOK[name] for name in order]), **before)
    assert output.split() == ["1", "2"]
