"""What the suite runs against: the real client on the local workspace, with and without a server, and on Azure."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import requests

from phift.local.names import SUBSCRIPTION
from phift.local.services import control
from phift.testing import Fault, TestWorkspace

NAMES: tuple[Literal["wire", "process", "azure"], ...] = ("wire", "process", "azure")
AZURE = "PHIFT_CONTRACT_AZURE"
REGISTRY = "azureml"
MODEL, MODEL_VERSION = "Phi-4-mini-instruct", "1"
COMPONENT, COMPONENT_VERSION = "chat_completion_pipeline", "0.0.82"
# Small ones: on Azure a cluster without nodes costs nothing, and a deployment is up for the length of a test.
CLUSTER_SIZE, OTHER_SIZE, INSTANCE_TYPE = "Standard_DS12_v2", "Standard_D4s_v3", "Standard_E4s_v3"
ENDED = ("Completed", "Failed", "Canceled")
OUTPUT = "trained_model"
HELD = 13  # the seed of a job that goes on and on
_Job: TypeAlias = Callable[[int, Path], Any]
_Held: TypeAlias = Callable[[Path], Any]


@dataclass
class Target:
    """Clients of a workspace and a registry, and what a test makes there; `clean` takes it away again.

    - **jobs**, **held**: make a job that ends by itself, or one that goes on and on, from a seed and a training file.
    - **let_go**: forgets what was to hold a job, which one that was cancelled before its first step has not met.
    - **patience**: seconds that a job may take.
    """

    name: str
    workspace: Any
    registry: Any
    jobs: _Job
    held: _Held
    let_go: Callable[[], None]
    patience: float
    _left: ExitStack = field(default_factory=ExitStack)

    def fresh(self, kind: Literal["cluster", "endpoint", "data", "models", "job"]) -> str:
        """Return a new name, and remember to take away what gets it."""
        name = f"ct-{kind}-{uuid.uuid4().hex[:10]}"
        self._left.callback(getattr(self, f"_remove_{kind}"), name)
        return name

    def clean(self) -> None:
        self._left.close()

    def _remove_cluster(self, name: str) -> None:
        self.workspace.compute.begin_delete(name).wait()

    def _remove_endpoint(self, name: str) -> None:
        self.workspace.online_endpoints.begin_delete(name).wait()

    def _remove_data(self, name: str) -> None:
        self._archive("data", name)

    def _remove_models(self, name: str) -> None:
        self._archive("models", name)

    def _archive(self, kind: str, name: str) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        try:  # the SDK deletes no assets; archived, they are out of the way
            getattr(self.workspace, kind).archive(name)
        except ResourceNotFoundError:
            return

    def _remove_job(self, name: str) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            if self.workspace.jobs.get(name).status not in ENDED:
                self.workspace.jobs.begin_cancel(name).result()
            self.workspace.jobs.archive(name)
        except ResourceNotFoundError:
            return

    def job(self, name: str, train: Path, *, seed: int = 1, held: bool = False) -> Any:
        """Return a job that has not been submitted."""
        if held:
            self._left.callback(self.let_go)
        job = self.held(train) if held else self.jobs(seed, train)
        job.name, job.experiment_name, job.tags = name, "contract", {"purpose": "contract"}
        return job

    def ended(self, name: str) -> str:
        """Wait until a job has ended, and return how."""
        end = time.monotonic() + self.patience
        while (status := self.workspace.jobs.get(name).status) not in ENDED:
            assert time.monotonic() < end, f"{name} is still {status}"
            time.sleep(self.patience / 360)
        return str(getattr(status, "value", status))


@contextmanager
def local(name: Literal["wire", "process"]) -> Iterator[Target]:
    """Connect to a local workspace on a server of its own, or in this process."""
    workspace = TestWorkspace(server=name == "wire").start()
    try:
        jobs = _local_jobs(workspace.registry, workspace.order)
        yield Target(name, workspace.client, workspace.registry, *jobs, workspace.clear_faults, 20)
    finally:
        workspace.stop()


def _local_jobs(registry: Any, order: Callable[[Fault], None]) -> tuple[_Job, _Held]:
    """Return what makes a job that ends, and one that is held, of the one component that the local workspace has."""

    def held(train: Path) -> Any:
        order(Fault("step ft_nlp_common_validation", delay=3600))
        return _fine_tuning(registry, HELD, train)

    return partial(_fine_tuning, registry), held


def rehearsed() -> bool:
    """Whether a local workspace stands in for Azure's, which verifies nothing there."""
    return os.environ.get(AZURE, "").startswith(f"{SUBSCRIPTION}/")


@contextmanager
def azure() -> Iterator[Target]:
    """Connect to the workspace that the variable names, ``subscription/group/workspace``, as the environment says."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    subscription, group, name = os.environ[AZURE].split("/")
    credential = DefaultAzureCredential()
    quiet: dict[str, Any] = {"enable_telemetry": False, "show_progress": False}
    with _environment():
        workspace = MLClient(credential, subscription, group, name, **quiet)
        registry = MLClient(credential, registry_name=REGISTRY, **quiet)
        if rehearsed():
            yield Target("azure", workspace, registry, *_local_jobs(registry, _hold), _let_go, 20)
            return
        job = _script("mkdir -p ${{outputs.trained_model}}; echo ${{inputs.seed}} > ${{outputs.trained_model}}/seed")
        held = _script("sleep 3600")
        yield Target("azure", workspace, registry, job, lambda train: held(HELD, train), lambda: None, 3600)


def _hold(fault: Fault) -> None:
    """Order it of the local workspace that the environment names."""
    _faults("POST", {"value": [asdict(fault)]})


def _let_go() -> None:
    """Forget what was ordered of the local workspace that the environment names."""
    _faults("DELETE")


def _faults(method: str, sent: Any = None) -> None:
    at = os.environ["IDENTITY_ENDPOINT"].replace("/msi/token", f"{control.AT}/faults")
    owner = {"X-IDENTITY-HEADER": os.environ["IDENTITY_HEADER"]}
    requests.request(method, at, json=sent, headers=owner, timeout=60).raise_for_status()


@contextmanager
def _environment() -> Iterator[None]:
    """Keep the cloud that the SDK's clients set in the environment inside, and their log to errors."""
    cloud = "AZUREML_CURRENT_CLOUD"
    before = os.environ.pop(cloud, None)
    log = logging.getLogger("azure")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        os.environ.pop(cloud, None)
        if before is not None:
            os.environ[cloud] = before


def _fine_tuning(registry: Any, seed: int, train: Path) -> Any:
    """Return a pipeline of the one component that the local workspace has."""
    from azure.ai.ml import Input, dsl

    component = registry.components.get(COMPONENT, version=COMPONENT_VERSION)
    model = registry.models.get(MODEL, version=MODEL_VERSION)
    cluster = dict.fromkeys(("compute_finetune", "compute_model_import", "compute_preprocess"), "gpu-cluster")
    given = Input(type="mlflow_model", path=model.id)
    file = Input(type="uri_file", path=str(train))

    @dsl.pipeline  # type: ignore[untyped-decorator]  # the SDK's
    def contract() -> Any:
        node = component(mlflow_model_path=given, train_file_path=file, seed=seed, **cluster)
        return {OUTPUT: node.outputs.mlflow_model_folder}

    return contract()


def _script(text: str) -> _Job:
    """Return what makes a pipeline of one small script, on serverless compute."""

    def make(seed: int, train: Path) -> Any:
        from azure.ai.ml import Input, Output, command, dsl

        script = command(
            command=text,
            inputs={"seed": seed, "train": Input(type="uri_file", path=str(train))},
            outputs={OUTPUT: Output(type="uri_folder")},
            environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
        )

        @dsl.pipeline(default_compute="serverless")  # type: ignore[untyped-decorator]  # the SDK's
        def contract() -> Any:
            return {OUTPUT: script().outputs[OUTPUT]}

        return contract()

    return make
