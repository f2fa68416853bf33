"""The chain: check, prepare, submit, wait, metrics, register, deploy; and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from phift.checks import CheckReport, Finding, findings_from
from phift.clients import Clients, connect
from phift.compute import ComputeTarget, ensure_cluster, resolve_compute
from phift.config import RunConfig
from phift.dataset import PreparedDataset, prepare_dataset
from phift.deployment import deploy_model, instance_findings, instance_type
from phift.endpoint import Endpoint, delete_endpoint
from phift.errors import CheckFailed, NotFound, PhiftError, azure_errors
from phift.jobs import FineTuneJob, find_job, submit_job
from phift.models import FoundationModel, find_model
from phift.parameters import Parameters, display_name, resolve_parameters
from phift.pipeline import build_pipeline, find_component
from phift.quiet import quiet_sdk
from phift.registration import RegisteredModel, register_model

if TYPE_CHECKING:
    import pandas as pd

OnEvent = Callable[[Any], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do, with everything looked up.

    - **fingerprint**: 12 hex digits over model, component, parameters, data and compute; every name comes from it.
    """

    model: FoundationModel
    component: Any
    target: ComputeTarget
    parameters: Parameters
    dataset: PreparedDataset
    fingerprint: str

    @property
    def job_name(self) -> str:
        """The name of the job's first attempt."""
        return f"phift-{_slug(self.model.name)}-{self.fingerprint}"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What `FineTuneRun.execute` leaves behind."""

    job: FineTuneJob
    metrics: pd.DataFrame
    model: RegisteredModel
    endpoint: Endpoint


class FineTuneRun:
    """One fine-tuning run; every step is "get, else create", so running it again goes on where it stopped.

    - **config**: what to do.
    - **clients**: whom to talk to; left out, they are made from ``config`` when first needed.
    - **on_event**: called with what happens, a `phift.dataset.Progress`, `phift.jobs.JobEvent` or
      `phift.endpoint.DeploymentEvent`.
    """

    def __init__(self, config: RunConfig, clients: Clients | None = None, *, on_event: OnEvent | None = None) -> None:
        self.config = config
        self._clients = clients
        self._on_event = on_event or _ignore
        self._plan: Plan | None = None
        self._job: FineTuneJob | None = None

    def __repr__(self) -> str:
        return f"<FineTuneRun of {self.config.model.name}>"

    @property
    def clients(self) -> Clients:
        """The clients of this run; connects at the first use."""
        if self._clients is None:
            self._clients = connect(self.config)
        return self._clients

    @property
    def plan(self) -> Plan:
        """What the run will do; checks first if that has not been done.

        Raises `phift.errors.CheckFailed` where something needed for the plan cannot be found.
        """
        report = CheckReport(()) if self._plan else self.check()
        if self._plan is None:
            report.raise_for_errors()
            raise CheckFailed("There is no plan.", where="check", fix="run check() and see its report")
        return self._plan

    @cached_property
    def _dataset(self) -> PreparedDataset:
        return prepare_dataset(self.config.data, self.config.work_dir / "data", on_progress=self._on_event)

    def prepare(self) -> PreparedDataset:
        """Read, check, split and write the data; see `phift.dataset.prepare_dataset`."""
        return self._dataset

    def check(self) -> CheckReport:
        """Look everything up, submit nothing, and report all that was found at once."""
        findings: list[Finding] = []
        try:
            clients = self.clients
        except PhiftError as error:
            return CheckReport.of(findings_from(error, "workspace"))
        with ThreadPoolExecutor(max_workers=4) as pool:  # they do not depend on each other
            workspace = pool.submit(_get_workspace, clients)
            model = pool.submit(find_model, clients, self.config.model)
            component = pool.submit(find_component, clients, self.config.component)
            dataset = pool.submit(self.prepare)
        _take(workspace, "workspace", findings)
        found_model = _take(model, "model", findings)
        found_component = _take(component, "component", findings)
        found_dataset = _take(dataset, "data", findings)
        target = self._check_compute(clients, found_model, findings)
        parameters = self._check_parameters(found_component, found_model, target, findings)
        if found_dataset:
            findings += [
                Finding(code="DATA_NOTE", severity="note", place="data", message=note) for note in found_dataset.notes
            ]
        if found_model and target and parameters and found_dataset:
            fingerprint = _fingerprint(found_model, found_component, target, parameters, found_dataset)
            self._plan = Plan(
                model=found_model,
                component=found_component,
                target=target,
                parameters=parameters,
                dataset=found_dataset,
                fingerprint=fingerprint,
            )
        return CheckReport.of(findings)

    def _check_compute(
        self, clients: Clients, model: FoundationModel | None, findings: list[Finding]
    ) -> ComputeTarget | None:
        if model is not None:
            findings += model.findings
            findings += instance_findings(model, self.config.deployment)
        # A wrong model must not hide a wrong cluster; without the model's allow-list there is just less to check.
        known = model or FoundationModel(id="", name=self.config.model.name, version="", registry="")
        try:
            target = resolve_compute(clients, self.config.compute, known)
        except PhiftError as error:
            findings += findings_from(error, "compute")
            return None
        findings += target.findings
        return target

    def _check_parameters(
        self, component: Any, model: FoundationModel | None, target: ComputeTarget | None, findings: list[Finding]
    ) -> Parameters | None:
        if component is None:
            return None
        defaults = model.defaults if model else {}
        # The names and values of the user's parameters can be checked before the compute is known.
        somewhere = target or ComputeTarget(
            kind="cluster", name="unknown", size="", gpus_per_node=1, nodes=1, exists=False
        )
        parameters = resolve_parameters(component.inputs, defaults, self.config.parameters, somewhere)
        findings += parameters.findings
        return parameters if target else None

    def submit(self, *, ignore: Collection[str] = (), fresh: bool = False) -> FineTuneJob:
        """Check, then submit the job; the same run submitted before is found instead.

        - **ignore**: codes of error findings to go on in spite of.
        - **fresh**: pay for another job even if the same one is there.

        Raises `phift.errors.CheckFailed` while an error finding stands.
        """
        self.check().raise_for_errors(ignore)
        plan = self.plan
        existing = None if fresh else find_job(self.clients, plan.job_name)
        if existing is None:
            ensure_cluster(self.clients, self.config.compute, plan.target)
            existing = submit_job(self.clients, self._pipeline(plan), fresh=fresh)
        self._job = existing
        return existing

    def _pipeline(self, plan: Plan) -> Any:
        dataset = plan.dataset
        return build_pipeline(
            plan.component,
            model_id=plan.model.id,
            files={"train": dataset.train, "validation": dataset.validation, "test": dataset.test},
            parameters=plan.parameters,
            name=plan.job_name,
            display_name=display_name(plan.model.name, dataset.name, plan.parameters, plan.target),
            experiment=self.config.experiment,
            tags=self._lineage(plan),
            force_rerun=self.config.force_rerun,
            continue_on_step_failure=self.config.continue_on_step_failure,
        )

    def _lineage(self, plan: Plan) -> dict[str, str]:
        """Return where the model comes from, as tags."""
        parameters = {f"phift.parameter.{name}": str(plan.parameters.get(name)) for name in self.config.parameters}
        return {
            "phift.fingerprint": plan.fingerprint,
            "phift.base_model": plan.model.id,
            "phift.component": f"{self.config.component.registry}/{plan.component.name}:{plan.component.version}",
            "phift.data": plan.dataset.content_hash,
            **parameters,
        }

    @property
    def job(self) -> FineTuneJob:
        """The job of this run, submitted now or before.

        Raises `phift.errors.NotFound` where it was never submitted.
        """
        if self._job is None:
            self._job = find_job(self.clients, self.plan.job_name)
        if self._job is None:
            raise NotFound("This run has not been submitted.", where=self.plan.job_name, fix="call submit() first")
        return self._job

    def wait(self, *, timeout: float | None = None, queue_timeout: float | None = None) -> None:
        """Wait until the job has completed; see `phift.jobs.FineTuneJob.wait`."""
        self.job.wait(self._on_event, timeout=timeout, queue_timeout=queue_timeout)

    def metrics(self) -> pd.DataFrame:
        """Return every metric of training and evaluation; see `phift.jobs.FineTuneJob.metrics`."""
        return self.job.metrics()

    def register(self) -> RegisteredModel:
        """Register the completed job's model, once."""
        plan, job = self.plan, self.job
        return register_model(
            self.clients,
            job,
            name=self.config.registered_model_name or f"{_slug(plan.model.name)}-finetuned",
            version=plan.fingerprint + job.name.removeprefix(plan.job_name),
            tags={**self._lineage(plan), "phift.job": job.name},
            description=f"{plan.model.name} version {plan.model.version}, fine-tuned on {plan.dataset.name}.",
        )

    def deploy(self) -> Endpoint:
        """Deploy the registered model; as a context manager the endpoint is deleted at the end of the block.

        Raises `phift.errors.ComputeError` before anything is made where the model's inference allow-list does not
        have the VM size, and `phift.errors.DeploymentFailed` after what was made is deleted again.
        """
        size = instance_type(self.plan.model, self.config.deployment)
        model = self.register()
        return deploy_model(
            self.clients,
            model_id=model.id,
            name=self.endpoint_name,
            size=size,
            config=self.config.deployment,
            tags={"phift.model": f"{model.name}:{model.version}", "phift.job": self.job.name},
            on_event=self._on_event,
        )

    @property
    def endpoint_name(self) -> str:
        """The endpoint's name: the configured one, or one of this run in this workspace.

        Names are shared by a whole region, so the workspace is in the hash.
        """
        if self.config.deployment.endpoint_name:
            return self.config.deployment.endpoint_name
        workspace = self.clients.workspace
        parts = [workspace.subscription_id, workspace.resource_group_name, workspace.workspace_name, self.job.name]
        return f"phift-{_digest(parts)}"

    def execute(self) -> RunResult:
        """Do all of it: check, prepare, submit, wait, metrics, register, deploy.

        The endpoint stays and costs money until it is deleted: ``with run.execute().endpoint as endpoint: ...``
        """
        job = self.submit()
        self.wait()
        metrics = self.metrics()
        model = self.register()
        return RunResult(job=job, metrics=metrics, model=model, endpoint=self.deploy())

    def cleanup(self) -> None:
        """Delete this run's endpoint; its job and model stay. Without an endpoint there is nothing to do."""
        with quiet_sdk():
            delete_endpoint(self.clients, self.endpoint_name, self._on_event)


def _ignore(_event: Any) -> None:
    pass


def _get_workspace(clients: Clients) -> Any:
    name = clients.workspace.workspace_name
    with azure_errors(f"workspace {name}"):
        return clients.workspace.workspaces.get(name)


def _take(future: Future[Any], place: str, findings: list[Finding]) -> Any:
    """Return a look-up's result, or None with the error among the findings."""
    try:
        return future.result()
    except PhiftError as error:
        findings += findings_from(error, place)
        return None


def _fingerprint(
    model: FoundationModel, component: Any, target: ComputeTarget, parameters: Parameters, dataset: PreparedDataset
) -> str:
    compute = [target.kind, target.name, target.size.lower(), target.nodes, target.gpus_per_node]
    # All values, the component's own defaults too: to spell one out does not make another run.
    values = {name: parameter.value for name, parameter in parameters.values.items()}
    return _digest([model.id, str(component.id), values, dataset.content_hash, compute])


def _digest(parts: list[Any]) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
