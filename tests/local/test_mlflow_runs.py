"""MLflow runs of one's own in a workspace: made, logged to, searched and ended, with the plugin and without."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml.entities import Model
from azure.core.exceptions import HttpResponseError
from fakes.server import programs

from phift.local import LocalCredential, LocalWorkspace
from phift.local.names import WORKSPACE_ID, tracking_uri
from phift.testing import TestWorkspace

pytestmark = [
    pytest.mark.slow,
    # MLflow and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore"),
]
BIG = 2**63


@pytest.fixture(scope="module")
def workspace() -> Iterator[TestWorkspace]:
    with TestWorkspace() as made:
        yield made


@pytest.fixture(params=["https", "azureml"])
def client(request: pytest.FixtureRequest, workspace: TestWorkspace) -> Any:
    """MLflow's client: without the plugin, and with it."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(workspace.connection.base_url, request.param))


@pytest.fixture
def mlflow(workspace: TestWorkspace) -> Iterator[Any]:
    """Return MLflow as programs use it, pointed at the workspace as its own address says."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(workspace.client.workspaces.get("local").mlflow_tracking_uri)
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def experiment(client: Any) -> str:
    identity: str = client.create_experiment(f"of-{uuid.uuid4().hex[:8]}", tags={"team": "blue"})
    return identity


def refusal(call: Any, *arguments: Any, **options: Any) -> tuple[str, int]:
    """Return the code and the HTTP status of MLflow's own error."""
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as raised:
        call(*arguments, **options)
    status = raised.value.get_http_status_code()  # type: ignore[no-untyped-call]  # mlflow's own
    return raised.value.error_code, status


NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", 404)
INVALID = ("INVALID_PARAMETER_VALUE", 400)


def test_experiments(client: Any, experiment: str) -> None:
    made = client.get_experiment(experiment)
    assert (made.tags, made.lifecycle_stage) == ({"team": "blue"}, "active")
    assert client.get_experiment_by_name(made.name).experiment_id == experiment
    client.set_experiment_tag(experiment, "team", "red")
    assert client.get_experiment(experiment).tags == {"team": "red"}
    code, status = refusal(client.create_experiment, made.name)
    assert (code, status) == ("RESOURCE_ALREADY_EXISTS", 400)
    assert refusal(client.create_experiment, "no / such name") == INVALID
    assert refusal(client.get_experiment, "nope") == NOT_THERE
    assert refusal(client.set_experiment_tag, "nope", "a", "b") == NOT_THERE
    client.delete_experiment(experiment)
    assert client.get_experiment(experiment).lifecycle_stage == "deleted"
    assert experiment not in [each.experiment_id for each in client.search_experiments()]
    assert refusal(client.create_run, experiment) == INVALID
    client.restore_experiment(experiment)
    assert experiment in [each.experiment_id for each in client.search_experiments()]


def test_experiments_are_searched(client: Any, experiment: str) -> None:
    name = client.get_experiment(experiment).name
    for asked in (
        f"name = '{name}'",
        f"name LIKE '{name[:6]}%' and tags.team = 'blue'",
        f"name ILIKE '{name.upper()}'",
    ):
        assert experiment in [each.experiment_id for each in client.search_experiments(filter_string=asked)], asked
    for asked in (f"name = '{name}' AND tags.team = 'red'", "name = 'x and y'", "creation_time < 5"):
        assert experiment not in [each.experiment_id for each in client.search_experiments(filter_string=asked)], asked
    assert refusal(client.search_experiments, filter_string="nothing = 'x'") == INVALID


def test_a_run_is_logged_to_and_read(client: Any, experiment: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    run = client.create_run(experiment, start_time=1_700_000_000_123, tags={"kind": "trial"}, run_name="first")
    name = run.info.run_id
    assert (run.info.status, run.info.start_time, run.info.run_name) == ("RUNNING", 1_700_000_000_123, "first")
    assert (run.info.end_time, run.info.lifecycle_stage, run.info.experiment_id) == (None, "active", experiment)
    client.log_metric(name, "loss", 2.5, timestamp=7, step=1)
    client.log_metric(name, "loss", 1.5, timestamp=8, step=2)
    client.log_param(name, "lr", 0.1)
    parameters, tags = [Param("layers", "3")], [RunTag("a", "b")]  # type: ignore[no-untyped-call]  # mlflow's own
    client.log_batch(name, [Metric("f1", math.nan, 1, 0)], parameters, tags)
    client.set_tag(name, "c", "d")
    client.set_tag(name, "gone", "soon")
    client.delete_tag(name, "gone")
    data = Dataset("rivers", "abc", "local", "{}", schema="{}")
    client.log_inputs(name, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    client.update_run(name, name="renamed")
    seen = client.get_run(name)
    assert (seen.data.metrics["loss"], math.isnan(seen.data.metrics["f1"])) == (1.5, True)
    assert seen.data.params == {"lr": "0.1", "layers": "3"}
    assert {key: seen.data.tags.get(key) for key in ("kind", "a", "c", "gone")} == {
        "kind": "trial",
        "a": "b",
        "c": "d",
        "gone": None,
    }
    assert (seen.info.run_name, seen.data.tags["mlflow.runName"]) == ("renamed", "renamed")
    (given,) = seen.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest, given.tags[0].value) == ("rivers", "abc", "training")
    points = [(each.step, each.value, each.timestamp) for each in client.get_metric_history(name, "loss")]
    assert points == [(1, 2.5, 7), (2, 1.5, 8)]
    client.log_param(name, "lr", "0.1")  # the same again is no change
    assert refusal(client.log_param, name, "lr", "0.2") == INVALID
    assert refusal(client.delete_tag, name, "gone") == NOT_THERE


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_and_may_go_on(client: Any, experiment: str, status: str) -> None:
    name = client.create_run(experiment).info.run_id
    client.set_terminated(name, status, end_time=1_800_000_000_001)
    assert (client.get_run(name).info.status, client.get_run(name).info.end_time) == (status, 1_800_000_000_001)
    client.update_run(name, status="RUNNING")
    assert (client.get_run(name).info.status, client.get_run(name).info.end_time) == ("RUNNING", None)
    client.set_terminated(name)
    assert client.get_run(name).info.status == "FINISHED"
    assert client.get_run(name).info.end_time is not None


def test_a_run_is_deleted_and_restored(client: Any, experiment: str) -> None:
    from mlflow.entities import ViewType

    name = client.create_run(experiment).info.run_id
    client.delete_run(name)
    assert client.get_run(name).info.lifecycle_stage == "deleted"
    assert client.search_runs([experiment]) == []
    assert [run.info.run_id for run in client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)] == [name]
    client.restore_run(name)
    assert [run.info.run_id for run in client.search_runs([experiment])] == [name]


@pytest.fixture
def three(client: Any, experiment: str) -> dict[str, str]:
    """Three runs: names by their ids."""
    made = {}
    for number, (name, loss) in enumerate([("a", 0.5), ("b", 0.1), ("c", None)]):
        run = client.create_run(
            experiment, start_time=1000 * (number + 1), tags={"of": "salt and pepper"}, run_name=name
        )
        made[run.info.run_id] = name
        client.log_param(run.info.run_id, "rate", f"0.{number}")
        if loss is not None:
            client.log_metric(run.info.run_id, "val/the loss", loss)
        client.set_terminated(run.info.run_id, "FINISHED" if loss else "FAILED")
    return made


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("", "cba"),
        ("metrics.`val/the loss` < 0.3", "b"),
        ('metrics."val/the loss" <= 5e-1', "ba"),
        ("tags.of = 'salt and pepper' and status = 'FINISHED'", "ba"),
        ("params.rate != '0.1' AND attributes.status IN ('FAILED', 'KILLED')", "c"),
        ("run_name LIKE '_' and attributes.run_name ILIKE 'A%'", "a"),
        ("start_time > 1500 and attribute.start_time <= 3000", "cb"),
        ("tag.of = 'salt'", ""),
        ("metrics.nothing > 0", ""),
        ("params.nothing != 'x'", ""),
    ],
)
def test_runs_are_found(client: Any, experiment: str, three: dict[str, str], asked: str, names: str) -> None:
    assert "".join(three[run.info.run_id] for run in client.search_runs([experiment], asked)) == names


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (["attributes.start_time ASC"], "abc"),
        (["start_time DESC"], "cba"),
        (['metrics."val/the loss"'], "bac"),
        (["metrics.`val/the loss` DESC"], "abc"),
        (["status DESC", "params.rate DESC"], "bac"),
    ],
)
def test_runs_are_sorted(client: Any, experiment: str, three: dict[str, str], order: list[str], names: str) -> None:
    found, token = "", None
    while True:  # one on a page
        page = client.search_runs([experiment], order_by=order, max_results=1, page_token=token)
        found += "".join(three[run.info.run_id] for run in page)
        token = page.token
        if not token:
            break
    assert found == names


@pytest.mark.parametrize(
    "asked",
    [
        "metrics.c > 1e",
        "metrics.c > 'x'",
        "metrics.c LIKE 'x'",
        "params.c = 1",
        "params.c < 'x'",
        "tags.c",
        "nothing.c = 'x'",
        "nothing = 'x'",
        "start_time = 'x'",
        "status IN 'FAILED'",
        "status = ('FAILED')",
        "status = 'a' or status = 'b'",
        "status = 'a' and",
        "= 'x'",
        "'",
    ],
)
def test_a_filter_that_is_none_is_refused(client: Any, experiment: str, asked: str) -> None:
    assert refusal(client.search_runs, [experiment], asked) == INVALID


def test_runs_lie_in_runs(mlflow: Any, workspace: TestWorkspace) -> None:
    mlflow.set_experiment("nested")
    nested = [mlflow.start_run(nested=True) for _ in range(3)]
    outer, inner, innermost = nested
    for _ in nested:
        mlflow.end_run()
    found = mlflow.search_runs(
        experiment_names=["nested"],
        filter_string=f"tags.mlflow.parentRunId = '{outer.info.run_id}'",
        output_format="list",
    )
    assert [run.info.run_id for run in found] == [inner.info.run_id]
    tags = mlflow.get_run(innermost.info.run_id).data.tags
    assert (tags["mlflow.parentRunId"], tags["mlflow.rootRunId"]) == (inner.info.run_id, outer.info.run_id)
    assert mlflow.get_parent_run(inner.info.run_id).info.run_id == outer.info.run_id
    later = mlflow.MlflowClient().create_run(outer.info.experiment_id).info.run_id
    mlflow.MlflowClient().set_tag(later, "mlflow.parentRunId", outer.info.run_id)
    assert mlflow.get_parent_run(later).info.run_id == outer.info.run_id


def test_a_training_script(mlflow: Any, workspace: TestWorkspace) -> None:
    """Without an experiment, with a failure, without waiting, and as a table."""

    def train() -> None:
        with mlflow.start_run():
            mlflow.log_params({"a": 1})
            mlflow.log_metric("late", 0.5, synchronous=False).wait()
            raise ZeroDivisionError

    mlflow.set_experiment(experiment_id="0")  # as where none is named
    with pytest.raises(ZeroDivisionError):
        train()
    run = mlflow.last_active_run()
    seen = mlflow.get_run(run.info.run_id)
    assert (seen.info.status, seen.data.metrics) == ("FAILED", {"late": 0.5})
    assert mlflow.get_experiment(seen.info.experiment_id).name == "Default"
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.log_metric("late", 0.25)
    table = mlflow.search_runs(search_all_experiments=True, filter_string="params.a = '1'", order_by=["metrics.late"])
    assert run.info.run_id in list(table.run_id)
    assert workspace.unserved() == {}


def test_runs_of_ones_own_are_no_jobs(client: Any, experiment: str, workspace: TestWorkspace) -> None:
    name = client.create_run(experiment).info.run_id
    for status in ("SCHEDULED", "RUNNING"):
        client.update_run(name, status=status)
        assert name not in [job.name for job in workspace.client.jobs.list()]
        assert client.get_run(name).info.status == status
    counted = LocalWorkspace(workspace.connection.folder).status().jobs
    assert sum(counted.values()) == 0, counted


def call(workspace: TestWorkspace, route: str, body: Any = None, base: str = "/mlflow/v2.0") -> requests.Response:
    """Ask as no client does."""
    method, path = route.split(" ")
    at = f"{workspace.connection.base_url}{base}{WORKSPACE_ID}{'/api/2.0/mlflow' if base == '/mlflow/v2.0' else ''}"
    token = LocalCredential(workspace.connection).get_token("https://management.azure.com/.default").token
    return requests.request(
        method, f"{at}/{path}", data=json.dumps(body), headers={"Authorization": f"Bearer {token}"}, timeout=30
    )


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("POST experiments/create", {}),
        ("POST experiments/create", {"name": 5}),
        ("POST experiments/create", {"name": "n", "tags": "x"}),
        ("POST experiments/create", {"name": "n", "tags": [{"value": "x"}]}),
        ("POST experiments/create", ["n"]),
        ("POST experiments/search", {"max_results": -1}),
        ("POST experiments/search", {"max_results": BIG}),
        ("POST experiments/search", {"page_token": "nonsense"}),
        ("POST runs/create", {"start_time": BIG}),
        ("POST runs/create", {"start_time": "soon"}),
        ("POST runs/create", {"start_time": -1}),
        ("POST runs/create", {"tags": [5]}),
        ("POST runs/search", {"order_by": ["metrics.x UPWARDS"]}),
        ("POST runs/search", {"order_by": "start_time"}),
        ("POST runs/search", {"order_by": ["metrics.x"], "page_token": "nonsense"}),
        ("POST runs/search", {"experiment_ids": "x"}),
        ("POST runs/search", {"max_results": 1.5}),
        ("POST runs/search", {"max_results": 1e300}),
        ("POST runs/update", {"status": "DONE"}),
        ("POST runs/update", {"status": "FINISHED", "end_time": BIG}),
        ("POST runs/log-metric", {"value": 1}),
        ("POST runs/log-metric", {"key": "", "value": 1}),
        ("POST runs/log-metric", {"key": "m"}),
        ("POST runs/log-metric", {"key": "m", "value": "much"}),
        ("POST runs/log-metric", {"key": "m", "value": None}),
        ("POST runs/log-metric", {"key": "m", "value": 1, "step": BIG}),
        ("POST runs/log-metric", {"key": "m", "value": 1, "step": 1.5}),
        ("POST runs/log-metric", {"key": "m", "value": 1, "timestamp": str(BIG)}),
        ("POST runs/log-metric", {"key": "m", "value": 1, "timestamp": -BIG - 1}),
        ("POST runs/log-batch", {"metrics": {"m": 1}}),
        ("POST runs/log-batch", {"metrics": ["m"]}),
        ("POST runs/log-batch", {"params": [{"value": "x"}]}),
        ("POST runs/log-batch", {"tags": [None]}),
        ("POST runs/log-parameter", {"value": "x"}),
        ("POST runs/set-tag", {"value": "x"}),
        ("POST runs/delete-tag", {}),
        ("POST runs/log-inputs", {"datasets": [{"dataset": {"name": "x"}}]}),
        ("POST runs/log-inputs", {"datasets": ["x"]}),
        ("GET metrics/get-history?run_id={run}&metric_key=m&page_token=x", None),
        (f"GET metrics/get-history?run_id={{run}}&metric_key=m&page_token={BIG}", None),
        (f"GET metrics/get-history?run_id={{run}}&metric_key=m&max_results={BIG}", None),
    ],
)
def test_what_is_malformed_is_refused(workspace: TestWorkspace, route: str, body: Any) -> None:
    run = call(workspace, "POST runs/create", {}).json()["run"]["info"]["run_id"]
    if isinstance(body, dict):
        body = {"run_id": run, "experiment_ids": ["0"], **body}
    answer = call(workspace, route.replace("{run}", run), body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), answer.text


@pytest.mark.parametrize(
    "route",
    [
        *("POST runs/update", "POST runs/delete", "POST runs/restore", "POST runs/log-metric", "POST runs/log-inputs"),
        *("POST runs/log-batch", "POST runs/set-tag", "POST runs/delete-tag"),
        *("POST experiments/delete", "POST experiments/restore", "GET runs/get?run_id=nope"),
        "GET experiments/get?experiment_id=nope",
    ],
)
def test_what_is_not_there_is_not_found(workspace: TestWorkspace, route: str) -> None:
    for given in ("nope", None, ["x"], 2**70):
        answer = call(workspace, route, {"run_id": given, "experiment_id": given})
        assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST"), answer.text


def test_two_who_log_at_once(workspace: TestWorkspace) -> None:
    """Of a parameter's values one is kept, and of an experiment's tags all."""
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            run = call(workspace, "POST runs/create", {}).json()["run"]["info"]["run_id"]
            sent: list[Any] = [{"run_id": run, "key": "lr", "value": str(number)} for number in range(8)]
            answers = pool.map(partial(call, workspace, "POST runs/log-parameter"), sent)
            assert sorted(answer.status_code for answer in answers) == [200, *[400] * 7]
            made = call(workspace, "POST experiments/create", {"name": f"of-{uuid.uuid4().hex[:8]}"}).json()
            sent = [{**made, "key": str(number), "value": "x"} for number in range(8)]
            list(pool.map(partial(call, workspace, "POST experiments/set-experiment-tag"), sent))
            found = call(workspace, f"GET experiments/get?experiment_id={made['experiment_id']}").json()["experiment"]
            assert sorted(tag["key"] for tag in found["tags"]) == [str(number) for number in range(8)]


def test_run_history_shows_it(workspace: TestWorkspace, client: Any, experiment: str) -> None:
    outer = client.create_run(experiment, run_name="shown").info.run_id
    inner = client.create_run(experiment, tags={"mlflow.parentRunId": outer}).info.run_id
    shown = call(workspace, f"GET runs/{inner}", base="/history/v1.0").json()
    assert (shown["parentRunId"], shown["rootRunId"], shown["status"]) == (outer, outer, "Running")
    details = call(workspace, f"GET runs/{outer}/details", base="/history/v1.0").json()
    assert (details["status"], details["logFiles"]) == ("Running", {})


def test_runs_outlast_the_server(tmp_path: Path) -> None:
    """Their server is killed and started again; one that runs stays so, and nobody trains it."""
    from mlflow import MlflowClient

    workspace = LocalWorkspace(tmp_path / "workspace", programs=programs())
    with pytest.MonkeyPatch.context() as patch:
        for number in range(2):
            connection = workspace.up()
            for name, value in connection.environment().items():
                patch.setenv(name, value)
            client = MlflowClient(tracking_uri(connection.base_url, "https"))
            if number == 0:
                experiment = client.create_experiment("kept")
                run = client.create_run(experiment, run_name="kept").info.run_id
                client.log_metric(run, "m", 1.5)
            kept = client.get_run(run)
            assert (kept.info.status, kept.data.metrics, kept.info.run_name) == ("RUNNING", {"m": 1.5}, "kept")
            workspace.down(timeout=0)


_TWO = """
import mlflow
from phift.testing import TestWorkspace, forbid_azure

with forbid_azure() as ban:
    for number in (1, 2):
        with TestWorkspace(server=SERVER) as workspace:
            mlflow.set_tracking_uri(workspace.client.workspaces.get("local").mlflow_tracking_uri)
            mlflow.set_experiment("mine")
            with mlflow.start_run() as run:
                mlflow.log_metric("loss", number)
                mlflow.log_text("text", "notes/a.txt")
            assert mlflow.get_run(run.info.run_id).data.metrics == {"loss": number}
            assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/a.txt") == "text"
            assert len(mlflow.search_runs(experiment_names=["mine"])) == 1
assert not ban.refused, ban.refused
"""


def runs_through(program: str) -> None:
    """Run a program of its own, which this one's workspace does not concern."""
    pointed = ("MLFLOW", "AZURE", "ARM_", "IDENTITY", "REGISTRY", "REQUESTS", "NO_PROXY", "no_proxy")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(pointed)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("server", [False, True], ids=["process", "server"])
@pytest.mark.parametrize("first", ["", "import azureml.mlflow"])
def test_mlflow_is_imported_before_two_workspaces(first: str, server: bool) -> None:
    runs_through(f"{first}\n{_TWO.replace('SERVER', str(server))}")


# ---------------------------------------------------------------- what a run keeps


@pytest.fixture
def kept(mlflow: Any, tmp_path: Path) -> Any:
    """A run with a model among its artifacts."""
    (tmp_path / "model" / "data").mkdir(parents=True)
    (tmp_path / "model" / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: x\n")
    (tmp_path / "model" / "data" / "weights ä.bin").write_bytes(b"1234")
    mlflow.set_experiment("artifacts")
    with mlflow.start_run() as run:
        mlflow.log_text("hello", "notes/deep/hello.txt")
        mlflow.log_dict({"a": 1}, "settings.json")
        mlflow.log_artifacts(str(tmp_path / "model"), "model")
    return run.info


def test_artifacts_are_listed_and_read(mlflow: Any, kept: Any, tmp_path: Path) -> None:
    client = mlflow.MlflowClient()
    assert sorted((each.path, each.is_dir) for each in client.list_artifacts(kept.run_id)) == [
        ("model", True),
        ("notes", True),
        ("settings.json", False),
    ]
    deep = mlflow.artifacts.list_artifacts(f"{kept.artifact_uri}/notes/deep")
    assert [each.path for each in deep] == ["notes/deep/hello.txt"]
    folder = Path(client.download_artifacts(kept.run_id, "model", str(tmp_path)))
    assert (folder / "data" / "weights ä.bin").read_bytes() == b"1234"
    assert mlflow.artifacts.load_text(f"{kept.artifact_uri}/notes/deep/hello.txt") == "hello"
    assert mlflow.artifacts.load_dict(f"runs:/{kept.run_id}/settings.json") == {"a": 1}
    with pytest.raises(Exception, match="Failed to download artifacts"):
        client.download_artifacts(kept.run_id, "nothing.txt", str(tmp_path))


def test_an_artifact_is_written_once(mlflow: Any, kept: Any) -> None:
    with pytest.raises(
        Exception, match=r"Resource Conflict: ArtifactId ExperimentRun/dcid\..+/settings.json already exists"
    ):
        mlflow.MlflowClient().log_dict(kept.run_id, {"a": 2}, "settings.json")
    assert mlflow.artifacts.load_dict(f"runs:/{kept.run_id}/settings.json") == {"a": 1}


@pytest.mark.parametrize("path", ["", "/", "../../x", "a/../../../x", None, 5])
def test_an_artifact_of_no_name_is_refused(workspace: TestWorkspace, kept: Any, path: Any) -> None:
    at = f"experiments/{kept.experiment_id}/runs/{kept.run_id}/artifacts"
    made = call(workspace, f"POST {at}/batch/metadata", {"paths": [{"path": path}]}, "/history/v1.0")
    read = call(workspace, f"GET {at}/contentinfo?path={path or ''}", base="/history/v1.0")
    assert (made.status_code, read.status_code) in {(400, 404), (400, 400)}
    nobody = call(workspace, f"GET {at.replace(kept.run_id, 'nope')}", base="/history/v1.0")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "UserError")


@pytest.mark.parametrize("datastores", ["identity", "keys-off"])
def test_artifacts_need_no_account_key(datastores: Any) -> None:
    runs_through(_TWO.replace("server=SERVER", f"datastores={datastores!r}"))


@pytest.mark.parametrize(
    "path",
    [
        "runs:/{run}/model",
        "azureml://jobs/{run}/outputs/artifacts/paths/model/",
        "{uri}/model",
        "azureml://artifacts/ExperimentRun/dcid.{run}/model",
        "azureml://experiments/artifacts/runs/{run}/artifacts/model",
    ],
)
def test_a_model_is_registered_by_run(workspace: TestWorkspace, kept: Any, tmp_path: Path, path: str) -> None:
    asked = path.format(run=kept.run_id, uri=kept.artifact_uri)
    name = f"of-{uuid.uuid4().hex[:8]}"
    models = workspace.client.models
    model = models.create_or_update(Model(name=name, path=asked, type="mlflow_model"))
    assert model.path.endswith(f"/datastores/workspaceartifactstore/paths/ExperimentRun/dcid.{kept.run_id}/model")
    assert model.flavors == {"python_function": {"loader_module": "x"}}
    if "artifacts/ExperimentRun" not in path:
        assert model.job_name == kept.run_id
    models.download(name, model.version, download_path=tmp_path / "down")
    assert (tmp_path / "down" / name / "model" / "data" / "weights ä.bin").read_bytes() == b"1234"


def test_a_model_is_registered_with_mlflow(mlflow: Any, workspace: TestWorkspace, kept: Any, tmp_path: Path) -> None:
    """By its address and from a folder; it is the workspace's own model, and is read by its name."""
    name = f"of-{uuid.uuid4().hex[:8]}"
    by_run = mlflow.register_model(f"{kept.artifact_uri}/model", name, tags={"a": "b"})
    assert (by_run.version, by_run.status, by_run.run_id, by_run.tags) == ("1", "READY", kept.run_id, {"a": "b"})
    second = mlflow.register_model((tmp_path / "model").as_uri(), name)
    assert [each.version for each in mlflow.search_model_versions(filter_string=f"name = '{name}'")] == ["2", "1"]
    (of_run,) = mlflow.search_model_versions(filter_string=f"run_id = '{kept.run_id}'")
    assert (of_run.name, of_run.version) == (name, "1")
    for version in ("1", "2"):
        model = workspace.client.models.get(name, version)
        assert (model.type, model.flavors["python_function"]["loader_module"]) == ("mlflow_model", "x")
        folder = Path(
            mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(tmp_path / version))
        )
        assert (folder / "data" / "weights ä.bin").read_bytes() == b"1234"
    assert workspace.client.models.get(name, "1").job_name == kept.run_id
    client = mlflow.MlflowClient()
    assert client.get_registered_model(name).latest_versions[0].version == second.version
    with pytest.raises(mlflow.MlflowException, match="logged-models/search failed with error code 404"):
        mlflow.register_model(f"runs:/{kept.run_id}/model", name)  # what MLflow 3 asks for then, Azure ML has not
    assert refusal(client.create_registered_model, name) == ("RESOURCE_ALREADY_EXISTS", 400)
    for missing in (
        lambda: client.get_registered_model("nope"),
        lambda: client.get_model_version(name, "9"),
        lambda: client.get_model_version_download_uri("nope", "1"),
    ):
        assert refusal(missing) == NOT_THERE
    assert refusal(client.search_model_versions, "name LIKE 'a'") == INVALID


@pytest.mark.parametrize(
    ("route", "body", "status"),
    [
        ("POST registered-models/create", {}, 400),
        ("POST registered-models/create", {"name": 5}, 400),
        ("POST model-versions/create", {"name": "m"}, 400),
        ("POST model-versions/create", {"name": "nope", "source": "runs:/x/y"}, 404),
        ("POST model-versions/create", {"name": "here", "source": "runs:/x/y"}, 400),
        ("POST model-versions/create", {"name": "here", "source": "s3://x/y"}, 400),
        ("POST model-versions/create", {"name": "here", "source": ["x"]}, 400),
        ("POST model-versions/create", {"name": "here/versions/1", "source": "runs:/x/y"}, 400),
        ("POST model-versions/create", {"name": "nope", "source": "runs:/x/y", "run_id": 5}, 400),
        ("POST registered-models/create", {"name": "here/versions/1"}, 400),
        ("POST registered-models/create", {"name": "a b"}, 400),
        ("POST registered-models/create", {"name": "there", "description": {}}, 400),
        ("GET registered-models/get?name=here/versions/1", None, 400),
    ],
)
def test_a_model_that_is_none_is_refused(workspace: TestWorkspace, route: str, body: Any, status: int) -> None:
    call(workspace, "POST registered-models/create", {"name": "here"})
    answer = call(workspace, route, body)
    code = {400: "INVALID_PARAMETER_VALUE", 404: "RESOURCE_DOES_NOT_EXIST"}[status]
    assert (answer.status_code, answer.json()["error_code"]) == (status, code), answer.text


@pytest.mark.parametrize("path", ["runs:/{run}/nothing", "runs:/nope/model", "runs:/{run}", "runs:/{run}/../x"])
def test_a_path_of_no_run_is_refused(workspace: TestWorkspace, kept: Any, path: str) -> None:
    model = Model(name="never", path=path.format(run=kept.run_id), type="custom_model")
    with pytest.raises(HttpResponseError) as refused:
        workspace.client.models.create_or_update(model)
    assert refused.value.status_code == 400
