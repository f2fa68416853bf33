"""The fake of the SDK's client: what can be scripted, what is refused, and that it is called as the SDK's is."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import MLClient, operations
from azure.ai.ml.entities import (
    AmlCompute,
    BatchEndpoint,
    Data,
    Environment,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    PipelineJob,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError, ServiceRequestError

from phift import errors
from phift.testing.fake import FakeMLClient
from phift.testing.fake_service import service_error

OPERATIONS = {
    "workspaces": operations.WorkspaceOperations,
    "datastores": operations.DatastoreOperations,
    "compute": operations.ComputeOperations,
    "data": operations.DataOperations,
    "models": operations.ModelOperations,
    "components": operations.ComponentOperations,
    "jobs": operations.JobOperations,
    "online_endpoints": operations.OnlineEndpointOperations,
    "online_deployments": operations.OnlineDeploymentOperations,
}
# What a test does to the fake, which the SDK has not.
OURS = {"add", "of", "check_output"}


def methods(kind: str) -> dict[str, Any]:
    fake = type(getattr(FakeMLClient(), kind))
    return {name: method for name, method in vars(fake).items() if not name.startswith("_") and callable(method)}


@pytest.fixture
def client() -> FakeMLClient:
    return FakeMLClient()


@pytest.fixture
def endpoint(client: FakeMLClient) -> str:
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="endpoint", auth_mode="key")).result()
    return "endpoint"


def deployment() -> ManagedOnlineDeployment:
    return ManagedOnlineDeployment(name="blue", endpoint_name="endpoint", model="azureml:any:1")


@pytest.mark.parametrize("kind", OPERATIONS)
def test_every_operation_takes_what_the_sdk_takes(kind: str) -> None:
    for name, method in methods(kind).items():
        if name in OURS:
            continue
        ours = inspect.signature(method).parameters
        theirs = inspect.signature(getattr(OPERATIONS[kind], name)).parameters
        for parameter in ours.values():
            assert parameter.name in theirs, f"{kind}.{name}: {parameter.name}"
            known = theirs[parameter.name]
            assert (parameter.kind, parameter.default is parameter.empty) == (known.kind, known.default is known.empty)
        needed = [each.name for each in theirs.values() if each.default is each.empty and each.kind != each.VAR_KEYWORD]
        assert set(needed) <= set(ours), f"{kind}.{name}"


@pytest.mark.parametrize("kind", OPERATIONS)
def test_what_is_not_covered_raises_by_its_name(kind: str) -> None:
    client = FakeMLClient()
    theirs = {name for name in vars(OPERATIONS[kind]) if not name.startswith("_")}
    left_out = theirs - set(methods(kind))
    assert left_out or kind == "online_deployments"
    for name in left_out:
        with pytest.raises(NotImplementedError, match=f"{kind}.{name}"):
            getattr(getattr(client, kind), name)("anything")
    with pytest.raises(AttributeError):
        getattr(getattr(client, kind), "no_such_operation")  # noqa: B009 - a name that mypy need not know


def test_other_kinds_of_operations_raise_by_their_name(client: FakeMLClient) -> None:
    for name in ("environments", "schedules", "batch_endpoints"):
        with pytest.raises(NotImplementedError, match=name):
            getattr(client, name)
    with pytest.raises(NotImplementedError, match="jobs"):
        _ = FakeMLClient.registry().jobs
    with pytest.raises(AttributeError):
        _ = client.enviroments
    with pytest.raises(NotImplementedError, match="Environment"):
        client.create_or_update(Environment(name="e", image="i"))
    with pytest.raises(NotImplementedError, match="BatchEndpoint"):
        client.begin_create_or_update(BatchEndpoint(name="b"))


def test_it_has_the_names_of_the_real_client(client: FakeMLClient) -> None:
    for name in ("subscription_id", "resource_group_name", "workspace_name", *OPERATIONS):
        assert hasattr(MLClient, name)
        assert getattr(client, name)


def test_it_is_imported_without_the_sdk() -> None:
    program = "import sys, phift.testing, phift.testing.fake; print([m for m in sys.modules if m.startswith('azure')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "[]\n"


def test_it_takes_milliseconds(client: FakeMLClient, endpoint: str) -> None:
    begun = time.perf_counter()
    for number in range(100):
        client.jobs.create_or_update(PipelineJob(name=f"job-{number}"))
        client.jobs.get(f"job-{number}")
        client.online_endpoints.get(endpoint)
    assert time.perf_counter() - begun < 2  # measured: 0.05 s on an idle machine


def test_an_ordered_error_is_raised_once_and_nothing_is_done(client: FakeMLClient, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}")
    data = Data(name="rows", version="1", path=str(file))
    client.record.fail("data.create_or_update", service_error(503), ServiceRequestError("no answer"))
    with pytest.raises(HttpResponseError) as caught:
        client.data.create_or_update(data)
    assert caught.value.status_code == 503
    with pytest.raises(ServiceRequestError):
        client.data.create_or_update(data)
    with pytest.raises(ResourceNotFoundError):
        client.data.get("rows", version="1")
    assert client.data.create_or_update(data).version == "1"
    assert client.record.count("data.create_or_update") == 3
    assert client.record.calls[-1] == ("data.create_or_update", "rows", "1")


@pytest.mark.parametrize(
    ("status", "kind"), [(401, errors.AuthenticationError), (403, errors.AccessDenied), (404, errors.NotFound)]
)
def test_ordered_errors_are_the_services_own(status: int, kind: type[errors.PhiftError]) -> None:
    assert isinstance(errors.from_azure(service_error(status), "here"), kind)
    error = service_error(429, "slow down")
    assert (error.status_code, error.error and error.error.code) == (429, "TooManyRequests")
    assert "slow down" in str(error)


def test_a_job_goes_through_its_script_one_step_a_look(client: FakeMLClient) -> None:
    client.jobs.next_script = ["Running", "Failed"]
    assert client.jobs.create_or_update(PipelineJob(name="job")).status == "Running"
    assert [client.jobs.get("job").status for _ in range(2)] == ["Failed", "Failed"]
    client.jobs.children["job"] = [("step", "run-1", "Failed")]
    (step,) = client.jobs.list(parent_job_name="job")
    assert (step.display_name, step.name, step.status) == ("step", "run-1", "Failed")


def test_a_job_without_a_name_gets_one(client: FakeMLClient) -> None:
    name = client.jobs.create_or_update(PipelineJob()).name
    assert client.jobs.get(name).name == name


def test_a_deployment_ends_as_it_is_told(client: FakeMLClient, endpoint: str) -> None:
    client.online_deployments.outcomes = ["Failed"]
    assert client.online_deployments.begin_create_or_update(deployment()).result().provisioning_state == "Failed"
    assert client.online_deployments.begin_create_or_update(deployment()).result().provisioning_state == "Succeeded"


def test_a_poller_raises_what_was_ordered(client: FakeMLClient, endpoint: str) -> None:
    client.record.fail("online_deployments.result", service_error(400, code="ResourceNotReady"), KeyboardInterrupt())
    poller = client.online_deployments.begin_create_or_update(deployment())
    for ask in (poller.wait, poller.result):
        with pytest.raises(HttpResponseError):
            ask()
    assert (poller.done(), poller.status()) == (True, "Failed")
    assert client.online_deployments.get("blue", endpoint).provisioning_state == "Failed"
    with pytest.raises(KeyboardInterrupt):
        client.online_deployments.begin_create_or_update(deployment()).result()


def test_an_endpoint_is_seen_in_its_states(client: FakeMLClient, endpoint: str) -> None:
    client.online_endpoints.states[endpoint] = ["Creating", "Updating"]
    seen = [client.online_endpoints.get(endpoint).provisioning_state for _ in range(3)]
    assert seen == ["Creating", "Updating", "Succeeded"]


def test_what_comes_out_is_a_copy(client: FakeMLClient, endpoint: str) -> None:
    client.online_endpoints.get(endpoint).tags["mine"] = "1"
    assert client.online_endpoints.get(endpoint).tags == {}
    sent = AmlCompute(name="cluster", size="Standard_DS12_v2")
    client.compute.begin_create_or_update(sent).result().max_instances = 9
    assert client.compute.get("cluster").max_instances != 9
    assert sent.size == "Standard_DS12_v2"


def test_a_registry_has_what_is_added_to_it() -> None:
    registry = FakeMLClient.registry("azureml-meta")
    registry.models.add(Model(name="other", version="3", path="azureml://any"))
    assert registry.models.get("other", label="latest").version == "3"
    assert registry.models.get("Phi-4-mini-instruct", version="1").id.startswith("azureml://registries/azureml-meta/")
    assert registry.workspace_name is None


def test_only_clusters_are_computes(client: FakeMLClient) -> None:
    from azure.ai.ml.entities import ComputeInstance

    with pytest.raises(NotImplementedError, match="ComputeInstance"):
        client.compute.begin_create_or_update(ComputeInstance(name="mine"))
