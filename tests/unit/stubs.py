"""Stubs of the SDK's client, in memory, for tests that look at what phift asks and what it makes of an odd answer.

What is asked is noted, what is answered can be ordered, and nothing behind it is a service: for that there is the
local workspace, `phift.testing.TestWorkspace`.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from azure.ai.ml._restclient.arm_ml_service import models as states
from azure.ai.ml.entities import (
    AmlCompute,
    EndpointAuthKeys,
    JobService,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    PipelineJob,
    Usage,
    Workspace,
)
from azure.ai.ml.entities._job.base_job import _BaseJob
from azure.ai.ml.entities._system_data import SystemData
from azure.ai.ml.exceptions import ErrorTarget, MlException, ValidationException
from azure.core import exceptions as core
from azure.core.polling import LROPoller, PollingMethod

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = "group"
OWNER = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.MachineLearningServices/workspaces"

_KINDS = {
    401: core.ClientAuthenticationError,
    404: core.ResourceNotFoundError,
    409: core.ResourceExistsError,
    412: core.ResourceModifiedError,
}
_REASONS = {401: "Unauthorized", 403: "AuthorizationFailed", 409: "Conflict", 429: "TooManyRequests"}
_ENDED = ("Completed", "Failed", "Canceled")
_JOB_OUTPUT = re.compile(r"azureml:/+jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+).*", re.IGNORECASE)


def service_error(status: int, message: str = "This failure was ordered.", code: str = "") -> core.HttpResponseError:
    """Return the exception that the SDK raises when the service answers with an error status.

    - **code**: Azure's word for the kind of error; by default ``UserError`` below 500, ``InternalServerError`` above.
    """
    code = code or _REASONS.get(status, "UserError" if status < 500 else "InternalServerError")
    error = _KINDS.get(status, core.HttpResponseError)(message=f"({code}) {message}")
    error.status_code, error.reason = status, code
    error.error = core.ODataV4Format({"code": code, "message": message})
    return error


def not_found(kind: str, name: str) -> core.HttpResponseError:
    return service_error(404, f"The {kind} '{name}' was not found.", "ResourceNotFound")


def state(kind: Any, text: str) -> Any:
    """Return a state as the SDK gives it: a member of its enumeration, or the text where that does not know it."""
    try:
        return kind(text)
    except ValueError:
        return text


class Record:
    """Every call in order, ``("jobs.get", "my-job")``, and the errors that have been ordered."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._errors: dict[str, list[BaseException]] = {}

    def fail(self, operation: str, *errors: BaseException) -> None:
        """Let the next calls of an operation raise these errors, one each.

        - **operation**: ``jobs.get`` fails before anything is done; ``online_deployments.result`` in the poller, when
          the thing has been made as far as it goes.
        """
        self._errors.setdefault(operation, []).extend(errors)

    def count(self, operation: str) -> int:
        return sum(call[0] == operation for call in self.calls)

    def ordered(self, operation: str) -> BaseException | None:
        waiting = self._errors.get(operation)
        return waiting.pop(0) if waiting else None

    def __call__(self, operation: str, *names: str) -> None:
        self.calls.append((operation, *names))
        if error := self.ordered(operation):
            raise error


class _Ended(PollingMethod[Any]):
    """A long-running operation that has ended."""

    def __init__(self, outcome: Any, error: BaseException | None) -> None:
        self._outcome, self._error = outcome, error

    def initialize(self, client: Any, initial_response: Any, deserialization_callback: Any) -> None:
        pass

    def run(self) -> None:
        if isinstance(self._error, Exception):
            raise self._error

    def status(self) -> str:
        return "Failed" if self._error else "Succeeded"

    def finished(self) -> bool:
        return not isinstance(self._error, Exception)  # the SDK asks `run` only where there is something to wait for

    def resource(self) -> Any:
        if self._error:  # an interruption; everything else has been raised by ``wait``
            raise self._error
        return self._outcome


def poller(outcome: Any = None, error: BaseException | None = None) -> LROPoller[Any]:
    return LROPoller(None, None, lambda response: response, _Ended(outcome, error))


def _made_now() -> SystemData:
    return SystemData(created_at=datetime.datetime.now(datetime.UTC), created_by="stub", created_by_type="User")


class Jobs:
    """Jobs whose status goes on along a script, one step a look, and stays at its last word.

    - **next_script**: what the next jobs go through.
    - **children**: label, name and status of each job's steps; without an entry, a pipeline's nodes.
    - **submitted**: the entities that were sent.
    """

    def __init__(self, record: Record, owner: str) -> None:
        self._record, self._owner = record, owner
        self._scripts: dict[str, list[str]] = {}
        self._jobs: dict[str, Any] = {}
        self.children: dict[str, list[tuple[str, str, str]]] = {}
        self.submitted: list[Any] = []
        self.next_script = ["NotStarted", "Running", "Completed"]

    def add(self, name: str, *statuses: str) -> None:
        """Give a job its script; one that is not there is made, as an empty pipeline."""
        self._scripts[name] = list(statuses)
        if name not in self._jobs:
            self._store(PipelineJob(name=name), name)

    def get(self, name: str) -> Any:
        self._record("jobs.get", name)
        return self._shown(name)

    def _shown(self, name: str) -> Any:
        if name not in self._jobs:
            raise not_found("job", name)
        script = self._scripts[name]
        shown = copy.copy(self._jobs[name])
        shown._status = state(states.JobStatus, script.pop(0) if len(script) > 1 else script[0])
        shown.tags = dict(shown.tags or {})
        return shown

    def list(self, *, parent_job_name: str | None = None, tag: str = "", **_options: Any) -> Iterator[Any]:
        """Return the jobs, newest first, or those with a tag of this name, or the steps of one."""
        self._record("jobs.list", parent_job_name or "")
        if parent_job_name is not None:
            return self._steps(parent_job_name)
        return iter([self._shown(name) for name in reversed(self._jobs) if not tag or tag in self._jobs[name].tags])

    def _steps(self, parent: str) -> Iterator[Any]:
        if parent not in self._jobs and parent not in self.children:
            return iter(())  # a step, which has none of its own
        rows = self._rows(parent)
        return iter([_BaseJob(name=run_id, display_name=label, status=status) for label, run_id, status in rows])

    def _rows(self, job: str) -> Sequence[tuple[str, str, str]]:
        if job in self.children:
            return self.children[job]
        nodes = getattr(self._jobs[job], "jobs", None) or {}
        return [(label, f"{job}_{label}", self._scripts[job][0]) for label in nodes]

    def create_or_update(self, job: Any) -> Any:
        """Submit a job; of one that is there, tags and description change."""
        job = job._to_job() if hasattr(job, "_to_job") else job
        name = str(job.name)
        self._record("jobs.create_or_update", name)
        if name in self._jobs:
            self._jobs[name].tags, self._jobs[name].description = dict(job.tags or {}), job.description
            return self._shown(name)
        self.submitted.append(job)
        self._scripts[name] = list(self.next_script)
        self._store(job, name)
        return self._shown(name)

    def _store(self, job: Any, name: str) -> None:
        kept = copy.copy(job)
        kept.name, kept._id, kept._creation_context = name, f"{self._owner}/jobs/{name}", _made_now()
        kept.tags = dict(job.tags or {})
        kept.experiment_name = job.experiment_name or "Default"
        kept.services = {"Studio": JobService(endpoint=f"https://studio.test/runs/{name}")}
        self._jobs[name] = kept

    def begin_cancel(self, name: str) -> LROPoller[Any]:
        """Cancel a job; one that has ended stays as it is."""
        self._record("jobs.begin_cancel", name)
        if self._scripts[name][0] not in _ENDED:
            self._scripts[name] = ["CancelRequested", "Canceled"]
        return poller(None, self._record.ordered("jobs.result"))


class Assets:
    """The assets of one kind, ``models``, ``data`` or ``components``.

    - **known**: by name and version, oldest first.
    """

    def __init__(self, record: Record, kind: str, owner: str) -> None:
        self._record, self._kind, self._owner = record, kind, owner
        self.known: dict[tuple[str, str], Any] = {}

    def add(self, asset: Any) -> Any:
        """Store an asset as it is, for the start of a test."""
        self.known[asset.name, str(asset.version)] = asset
        return asset

    def get(self, name: str, version: str | None = None, label: str | None = None) -> Any:
        """Return an asset by its version, or by the label ``latest``: the one created last."""
        self._record(f"{self._kind}.get", name, version or f"@{label}")
        versions = [key for key in self.known if key[0] == name]
        if label:
            if label != "latest" or not versions:
                # The SDK (1.35.2) makes an error of its own of it, and of data's an `MlException`.
                message = f"Asset {name} does not exist."
                kind = MlException if self._kind == "data" else ValidationException
                raise kind(message=message, no_personal_data_message=message, target=ErrorTarget.ASSET)
            return copy.deepcopy(self.known[versions[-1]])
        if (name, str(version)) not in self.known:
            raise not_found(self._kind, f"{name}:{version}")
        return copy.deepcopy(self.known[name, str(version)])

    def list(self, name: str | None = None, *, list_view_type: Any = "ActiveOnly") -> Iterator[Any]:
        """Return the versions, newest first, of all without a name; none is archived."""
        self._record(f"{self._kind}.list", name or "")
        wanted = [key for key in reversed(self.known) if name in (None, key[0])]
        shown = [] if list_view_type == "ArchivedOnly" else wanted
        return iter([copy.deepcopy(self.known[key]) for key in shown])

    def create_or_update(self, model: Any) -> Any:
        """Register an asset, and show its path in the service's long form; a local file is hashed and goes nowhere."""
        key = model.name, str(model.version)
        self._record(f"{self._kind}.create_or_update", *key)
        made = copy.deepcopy(model)
        made._path, made._auto_increment_version = self._long_form(str(model.path)), False
        made._id = f"{self._owner}/{self._kind}/{model.name}/versions/{model.version}"
        made._creation_context = _made_now()
        made.tags = dict(model.tags or {})
        if job := _JOB_OUTPUT.fullmatch(str(model.path)):
            made.job_name = job["job"]
        self.known[key] = made
        return copy.deepcopy(made)

    def _long_form(self, path: str) -> str:
        workspace = "azureml:/" + self._owner.replace("/providers/Microsoft.MachineLearningServices", "")
        store = f"{workspace}/datastores/workspaceblobstore/paths"
        if found := _JOB_OUTPUT.fullmatch(path):
            return f"{store}/azureml/{found['job']}/{found['output']}/"
        local = Path(path)
        files = sorted(each for each in local.rglob("*") if each.is_file()) if local.is_dir() else [local]
        total = hashlib.sha256()
        for file in files:
            total.update(str(file.relative_to(local)).encode() + file.read_bytes())
        return f"{store}/LocalUpload/{total.hexdigest()}/{local.name}"


class Computes:
    """Clusters by name, and what the region has.

    - **sizes**, **usages**: what the lists show.
    - **created_as**: the state in which the next clusters are when their creation has ended.
    """

    def __init__(self, record: Record, owner: str) -> None:
        self._record, self._owner = record, owner
        self.known: dict[str, Any] = {}
        self.sizes: list[Any] = []
        self.usages: list[Any] = []
        self.created_as = "Succeeded"

    def add(self, name: str, size: str = "Standard_NC24ads_A100_v4", **settings: Any) -> Any:
        """Store a cluster as it is, for the start of a test."""
        self.known[name] = AmlCompute(name=name, size=size, **settings)
        self.known[name]._provisioning_state = "Succeeded"
        return self.known[name]

    def get(self, name: str) -> Any:
        self._record("compute.get", name)
        if name not in self.known:
            raise not_found("compute", name)
        return copy.deepcopy(self.known[name])

    def list(self, *, compute_type: str | None = None) -> Iterator[Any]:
        self._record("compute.list")
        wanted = (compute_type or "").lower()
        return iter([copy.deepcopy(each) for each in self.known.values() if wanted in ("", each.type)])

    def list_sizes(self, **_where: Any) -> Iterator[Any]:
        self._record("compute.list_sizes")
        return iter(self.sizes)

    def list_usage(self, **_where: Any) -> Iterator[Any]:
        self._record("compute.list_usage")
        return iter(self.usages)

    def begin_create_or_update(self, compute: Any) -> LROPoller[Any]:
        self._record("compute.begin_create_or_update", compute.name)
        made = copy.deepcopy(compute)
        made._id = f"{self._owner}/computes/{compute.name}"
        made._provisioning_state = self.created_as
        self.known[compute.name] = made
        return poller(copy.deepcopy(made), self._record.ordered("compute.result"))


def usage(family: str, used: int, limit: int) -> Any:
    """Return a family's quota as azure-ai-ml 1.35 gives it: in the service's own keys."""
    found = Usage()
    name = {"value": family, "localizedValue": family}
    found.__dict__.update({"name": name, "currentValue": used, "limit": limit, "unit": "Count"})
    return found


class Deployments:
    """Online deployments.

    - **known**: by endpoint and name.
    - **outcomes**: the states that the next ones end in; ``Succeeded`` when there are no more.
    - **log**: what a container's log begins with.
    """

    def __init__(self, record: Record, owner: str) -> None:
        self._record, self._owner = record, owner
        self.known: dict[tuple[str, str], Any] = {}
        self.outcomes: list[str] = []
        self.log = "a line of the log"

    def add(self, name: str, endpoint: str, model: str, provisioning_state: str = "Succeeded", **settings: Any) -> Any:
        """Store a deployment as it is, for the start of a test."""
        made = ManagedOnlineDeployment(name=name, endpoint_name=endpoint, model=model, **settings)
        made._provisioning_state = state(states.DeploymentProvisioningState, provisioning_state)
        self.known[endpoint, name] = made
        return made

    def get(self, name: str, endpoint_name: str) -> Any:
        self._record("online_deployments.get", name)
        if (endpoint_name, name) not in self.known:
            raise not_found("online deployment", name)
        return copy.deepcopy(self.known[endpoint_name, name])

    def list(self, endpoint_name: str) -> Iterator[Any]:
        self._record("online_deployments.list", endpoint_name)
        return iter([copy.deepcopy(found) for key, found in self.known.items() if key[0] == endpoint_name])

    def begin_create_or_update(self, deployment: Any) -> LROPoller[Any]:
        self._record("online_deployments.begin_create_or_update", deployment.name)
        outcome = self.outcomes.pop(0) if self.outcomes else "Succeeded"
        error = self._record.ordered("online_deployments.result")
        made = copy.deepcopy(deployment)
        made._provisioning_state = state(states.DeploymentProvisioningState, "Failed" if error else outcome)
        made._id = f"{self._owner}/onlineEndpoints/{deployment.endpoint_name}/deployments/{made.name}"
        self.known[deployment.endpoint_name, made.name] = made
        return poller(copy.deepcopy(made), error)

    def begin_delete(self, name: str, endpoint_name: str) -> LROPoller[Any]:
        self._record("online_deployments.begin_delete", name)
        self.known.pop((endpoint_name, name), None)
        return poller(None, self._record.ordered("online_deployments.result"))

    def get_logs(self, name: str, endpoint_name: str, lines: int, *, container_type: str | None = None) -> str:
        self._record("online_deployments.get_logs", name, container_type or "")
        assert (endpoint_name, name) in self.known
        return "\n".join(f"{self.log} of {container_type or 'inference-server'}".splitlines()[-lines:])


class Endpoints:
    """Online endpoints; a get is a copy, and an update replaces the traffic rules, as the service's do.

    - **known**: by name.
    - **states**: what the next looks at an endpoint see, before its last state.
    - **undeletable**: deleting ends well and deletes nothing.
    - **scoring_uri**: where the next ones are.
    - **next_keys**: what the next ones' two keys are, instead of random ones.
    """

    def __init__(self, record: Record, owner: str, deployments: Deployments) -> None:
        self._record, self._owner, self._deployments = record, owner, deployments
        self.known: dict[str, Any] = {}
        self.states: dict[str, list[str]] = {}
        self.undeletable = False
        self.scoring_uri = "https://endpoint.test/score"
        self.next_keys: tuple[str, str] | None = None
        self._keys: dict[str, tuple[str, str]] = {}

    def add(self, name: str, **settings: Any) -> Any:
        """Store an endpoint as it is, for the start of a test."""
        now = settings.pop("provisioning_state", "Succeeded")
        return self._store(ManagedOnlineEndpoint(name=name, **{"auth_mode": "key", **settings}), now)

    def _store(self, endpoint: Any, now: str) -> Any:
        endpoint._provisioning_state = state(states.EndpointProvisioningState, now)
        endpoint._scoring_uri, endpoint._id = self.scoring_uri, f"{self._owner}/onlineEndpoints/{endpoint.name}"
        self.known[endpoint.name] = endpoint
        self._keys.setdefault(endpoint.name, self.next_keys or (uuid.uuid4().hex, uuid.uuid4().hex))
        return endpoint

    def get(self, name: str) -> Any:
        """Return an endpoint; as the SDK's, with a traffic of 0 for each deployment that has none."""
        self._record("online_endpoints.get", name)
        if name not in self.known:
            raise not_found("online endpoint", name)
        endpoint = copy.deepcopy(self.known[name])
        idle = {key[1]: 0 for key in self._deployments.known if key[0] == name}
        endpoint.traffic = {**idle, **(endpoint.traffic or {})}
        if waiting := self.states.get(name):
            endpoint._provisioning_state = state(states.EndpointProvisioningState, waiting.pop(0))
        return endpoint

    def list(self) -> Iterator[Any]:
        self._record("online_endpoints.list")
        return iter([copy.deepcopy(endpoint) for endpoint in self.known.values()])

    def get_keys(self, name: str) -> Any:
        self._record("online_endpoints.get_keys", name)
        if name not in self.known:
            raise not_found("online endpoint", name)
        primary, secondary = self._keys[name]
        return EndpointAuthKeys(primary_key=primary, secondary_key=secondary)

    def begin_create_or_update(self, endpoint: Any) -> LROPoller[Any]:
        self._record("online_endpoints.begin_create_or_update", endpoint.name)
        error = self._record.ordered("online_endpoints.result")
        made = copy.deepcopy(endpoint)
        made.traffic = {name: share for name, share in (endpoint.traffic or {}).items() if share}  # the SDK's way
        made.tags = dict(endpoint.tags or {})
        self._store(made, "Failed" if error else "Succeeded")
        return poller(copy.deepcopy(made), error)

    def begin_delete(self, name: str | None) -> LROPoller[Any]:
        """Delete an endpoint with its deployments; one that is not there is no error."""
        name = str(name)
        self._record("online_endpoints.begin_delete", name)
        error = self._record.ordered("online_endpoints.result")
        if not self.undeletable and not error:
            self.known.pop(name, None)
            self._keys.pop(name, None)
            for key in [key for key in self._deployments.known if key[0] == name]:
                del self._deployments.known[key]
        return poller(None, error)


class Workspaces:
    """The one workspace that there is."""

    def __init__(self, record: Record, name: str, owner: str) -> None:
        self._record, self._name, self._owner = record, name, owner

    def get(self, name: str | None = None) -> Any:
        self._record("workspaces.get", name or self._name)
        uri = f"azureml://tracking.test/mlflow/v1.0{self._owner}"
        return Workspace(name=self._name, location="westus2", mlflow_tracking_uri=uri, id=self._owner)


class StubClient:
    """Stands for ``azure.ai.ml.MLClient``, of a workspace or of a registry; what goes in and out are SDK entities."""

    subscription_id = SUBSCRIPTION
    resource_group_name = GROUP

    def __init__(self, registry_name: str | None = None) -> None:
        self.workspace_name = None if registry_name else "workspace"
        self.record = record = Record()
        owner = f"azureml://registries/{registry_name}" if registry_name else f"{OWNER}/workspace"
        self.models, self.data = Assets(record, "models", owner), Assets(record, "data", owner)
        self.components = Assets(record, "components", owner)
        self.jobs = Jobs(record, owner)
        self.workspaces = Workspaces(record, "workspace", owner)
        self.compute = Computes(record, owner)
        self.online_deployments = Deployments(record, owner)
        self.online_endpoints = Endpoints(record, owner, self.online_deployments)
