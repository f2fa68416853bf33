"""Why a container did not come up, by its log and by the service's code; each row with its source."""

from __future__ import annotations

import re

import pytest

from phift.errors import ComputeError, DeploymentFailed, azure_errors
from phift.serving.crash import crash_in, crashes
from phift.serving.deployment import deploy_model
from unit.fakes import A100, Fakes, http_error

LOGS = {
    "GPU memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "machine memory": "Kind: Pod, Name: Failed, Type: Warning, Message: OOMKilled",
    "disk": "OSError: [Errno 28] No space left on device",
    "packages": "ModuleNotFoundError: No module named 'azureml.evaluate'",
    "no weights": "There are no weights below /models.",
    "probe": "Kind: Pod, Name: LivenessProbeFailed, Type: Warning, Message: Liveness probe failed: statuscode: 502",
}


def test_each_row_is_known_by_a_line_and_has_a_source() -> None:
    assert [each.name for each in crashes()] == [*LOGS]
    for each in crashes():
        assert (found := crash_in(f"Instance status:\n{LOGS[each.name]}\n")) is not None
        assert found.name == each.name
        assert each.source
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", each.date)
    assert crash_in("all is well") is None


def test_a_failed_deployment_says_what_its_log_says_and_what_to_change() -> None:
    fakes = Fakes()
    fakes.workspace.online_deployments.log = LOGS["GPU memory"]
    fakes.workspace.record.fail("online_deployments.result", http_error(400, "It failed.", "ResourceNotReady"))
    with pytest.raises(DeploymentFailed, match="By its log: The GPU has too little memory for the model") as caught:
        deploy_model(fakes.clients, "a/b", name="phift-e", size=A100)
    assert "instance_type" in str(caught.value.fix)
    assert {"--- storage-initializer", "--- inference-server"} <= set(caught.value.log_tail.splitlines())


@pytest.mark.parametrize(
    ("code", "said", "way_out"),
    [
        ("OutOfQuota", "Not enough quota available", "ask for more"),
        ("OutOfCapacity", "The specified VM Size failed to provision", "another region"),
        ("BadArgument", "Startup task failed due to authorization error", "AcrPull"),
        ("BadArgument", "Unable to download user container image", "container registry"),
        ("BadArgument", "Unable to download user model", "storage-initializer"),
        ("BadArgument", "User container has crashed or terminated: Liveness probe failed", "deployment.probe"),
        ("ResourceNotReady", "It did not come up", "deployment.probe"),
        ("BadArgument", "MLFlow model format with private network is unsupported", "managed virtual network"),
        ("SecretsInjectionError", "It failed", "the right to read it"),
        ("ImageBuildFailure", "It failed", "build log"),
    ],
)
def test_what_the_service_says_of_a_deployment_has_a_way_out(code: str, said: str, way_out: str) -> None:
    fakes = Fakes()
    fakes.workspace.record.fail("online_deployments.result", http_error(400, said, code))
    with pytest.raises(DeploymentFailed) as caught:
        deploy_model(fakes.clients, "a/b", name="phift-e", size=A100)
    assert way_out in str(caught.value.fix)
    assert "what was made is deleted again" in str(caught.value.fix)


def test_lack_of_capacity_is_about_the_compute() -> None:
    with pytest.raises(ComputeError, match="no such machine to spare"), azure_errors("deployment"):
        raise http_error(400, "It failed to provision.", "OutOfCapacity")
