"""The chain: check, prepare, submit, wait, metrics, register, deploy; and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phift.assets import DataInAzure, DataInput, register_assets
from phift.checks import CheckReport, Finding, findings_from
from phift.clients import Clients, connect
from phift.compute import ensure_cluster
from phift.config import RunConfig
from phift.conversation import Conversation
from phift.data.split import SPLITS
from phift.dataset import PreparedDataset, prepare_dataset
from phift.deployment import deploy_model, instance_type, remove_endpoint
from phift.endpoint import Endpoint
from phift.errors import CheckFailed, ConfigError, DataError, NotFound, PhiftError
from phift.jobs import FineTuneJob, find_job, submit_job
from phift.parameters import Parameters, display_name
from phift.pipeline import build_pipeline
from phift.plan import Plan, digest, make_plan, slug
from phift.preparation import DataOnCluster, source_code
from phift.registration import RegisteredModel, register_model

if TYPE_CHECKING:
    import pandas as pd

OnEvent = Callable[[Any], None]


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

    @property
    def parameters(self) -> Parameters:
        """Every fine-tuning parameter with its origin; ``run.parameters.explain()`` shows what overrode what."""
        return self.plan.parameters

    @cached_property
    def _dataset(self) -> PreparedDataset:
        return prepare_dataset(self.config.data, self.config.work_dir / "data", on_progress=self._on_event)

    def prepare(self) -> PreparedDataset:
        """Read, check, split and write the data; see `phift.dataset.prepare_dataset`.

        Raises `phift.errors.ConfigError` for data that is not read on this machine: see ``plan.dataset``.
        """
        if self.config.data.prepare_on:
            what = f"The job's first step prepares the data, on {self.config.data.prepare_on}."
            fix = "leave `prepare_on` out to have it prepared here, if it can be read here"
            raise ConfigError(what, where="data.prepare_on", fix=fix)
        if self.config.data.in_azure:
            what = "The data lies in Azure and is used there, so nothing is prepared on this machine."
            fix = "see `run.plan.dataset` for what is used; to have rows read, give files or a Hugging Face id"
            raise ConfigError(what, where="data.train", fix=fix)
        return self._dataset

    def conversation(self, number: int, split: str = "train") -> Conversation:
        """Return a row of the prepared data as the model sees it, with the tokens marked that are trained on.

        - **number**: the row's line in the split's file, from 1.
        """
        prepared, plan = self.prepare(), self.plan
        path = prepared.files.get(split)
        if path is None:
            raise DataError(f"There is no split {split}.", where="conversation", fix=f"use one of {', '.join(SPLITS)}")
        limit = plan.tokens.max_seq_length if plan.tokens else -1
        return Conversation.show(path, number, plan.tokenizer, max_seq_length=limit)

    def check(self) -> CheckReport:
        """Look everything up, submit nothing, and report all that was found at once."""
        try:
            clients = self.clients
        except PhiftError as error:
            return CheckReport.of([*findings_from(error, "workspace"), *self._data_findings()])
        self._plan, report = make_plan(self.config, clients, self.prepare, self._on_event)
        return report

    def _data_findings(self) -> list[Finding]:
        """Return what there is to say of the data, which needs nobody's credentials where it lies on this machine."""
        if self.config.data.in_azure or self.config.data.prepare_on:
            return []
        try:
            return list(self.prepare().findings)
        except PhiftError as error:
            return findings_from(error, "data")

    def submit(self, *, ignore: Collection[str] = (), fresh: bool = False) -> FineTuneJob:
        """Check, then submit the job; the same run submitted before is found instead.

        - **ignore**: codes of error findings to go on in spite of.
        - **fresh**: pay for another job even if the same one is there.

        Raises `phift.errors.CheckFailed` while an error finding stands.
        """
        report = self.check()
        # A job that is there already costs nothing more; by now its own nodes may have used up the quota.
        existing = find_job(self.clients, self._plan.job_name) if self._plan and not fresh else None
        if existing is None:
            report.raise_for_errors(ignore)
            plan = self.plan
            data = self._inputs(plan)
            ensure_cluster(self.clients, self.config.compute, plan.target)
            on_cluster = isinstance(plan.dataset, DataOnCluster)
            with source_code() if on_cluster else nullcontext() as code:
                existing = submit_job(self.clients, self._pipeline(plan, data, code), fresh=fresh)
        self._job = existing
        return existing

    def _inputs(self, plan: Plan) -> Mapping[str, DataInput] | DataOnCluster:
        """Return the job's data, uploaded and registered where it is not in Azure yet."""
        dataset = plan.dataset
        if isinstance(dataset, DataOnCluster):
            return dataset
        if isinstance(dataset, DataInAzure):
            return dataset.inputs
        return register_assets(self.clients, dataset, self.config.data.asset_name or slug(dataset.name))

    def _pipeline(self, plan: Plan, data: Mapping[str, DataInput] | DataOnCluster, code: Path | None) -> Any:
        return build_pipeline(
            plan.component,
            model_id=plan.model.id,
            data=data,
            parameters=plan.parameters,
            name=plan.job_name,
            display_name=display_name(plan.model.name, plan.dataset.name, plan.parameters, plan.target),
            experiment=self.config.experiment,
            tags=self._lineage(plan),
            force_rerun=self.config.force_rerun,
            continue_on_step_failure=self.config.continue_on_step_failure,
            code=code,
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
            name=self.config.registered_model_name or f"{slug(plan.model.name)}-finetuned",
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
        return f"phift-{digest(parts)}"

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
        """Delete this run's endpoint; its job and model stay. Without an endpoint there is nothing to do.

        Raises `phift.errors.Conflict` where an endpoint of that name is somebody else's.
        """
        try:
            name, tags = self.endpoint_name, {"phift.job": self.job.name}
        except NotFound:  # it was never submitted, so there is no endpoint either
            return
        remove_endpoint(self.clients, name, tags, self._on_event)


def _ignore(_event: Any) -> None:
    pass
