"""The chain: check, prepare, submit, wait, metrics, register, deploy; and nothing else."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from phift.azure.answers import text
from phift.azure.clients import Clients
from phift.azure.connect import clients_of, connect
from phift.check.compute import ensure_cluster, instance_type
from phift.check.data_report import DataReport
from phift.check.findings import findings_from
from phift.check.parameters import Parameters
from phift.check.report import CheckReport
from phift.component.preprocessing import SPLITS
from phift.config.deployment import DeploymentConfig
from phift.config.run import RunConfig
from phift.data.assets import DataInAzure, register_assets
from phift.data.files import make_private
from phift.data.on_cluster import source_code
from phift.data.prepare import PreparedDataset, prepare_dataset
from phift.data.sources import files_of, stamps
from phift.errors import (
    CheckFailed,
    ComputeError,
    ConfigError,
    DataError,
    NotFound,
    PhiftError,
    forgetting_locals,
    in_a_line,
    isolated,
)
from phift.evaluation.asking import AnyModel
from phift.evaluation.comparing import Options
from phift.evaluation.comparison import ModelComparison
from phift.evaluation.rows import Rows
from phift.jobs.job import FineTuneJob, find_job, list_jobs, submit_job
from phift.jobs.on_end import OnEnd, when_ended
from phift.jobs.pipeline import pipeline_job
from phift.jobs.record import CONFIGURATION, SERIES, RunRecord, series
from phift.jobs.registration import RegisteredModel, register_model
from phift.jobs.submitted import find_submitted
from phift.plan import Plan, digest, make_plan, slug
from phift.run.evaluating import compare_with_base
from phift.run.events import OnEvent
from phift.run.spans import traced
from phift.serving.cleanup import Cleanup, DeployedEndpoint, deployed_endpoints, priced, remove_of_jobs
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.resource import MODEL, telling
from phift.tokens.conversation import Conversation

if TYPE_CHECKING:
    import pandas as pd
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import PipelineJob

    from phift.azure.connect import AnyClients

# Seconds for which `FineTuneRun.submit` goes by what a check found: time enough to read a report. What changes in Azure
# meanwhile costs nothing: the job is of the report's model and component, also where the registry has newer ones; it
# fails at once where its cluster is gone, and waits in the queue where somebody else has taken the quota.
CHECK_HOLDS = 600.0


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What `FineTuneRun.execute` leaves behind."""

    job: FineTuneJob
    metrics: pd.DataFrame
    model: RegisteredModel
    endpoint: Endpoint


class FineTuneRun:
    """One fine-tuning run; every step is "get, else create", so running it again goes on where it stopped.

    What comes after `submit` goes by the job, and asks neither the data nor the registry again: it works when a row was
    added, a newer model published or the data moved away. `attach` goes on from a job's name alone.

    What `check` found is what the next `submit` goes by, for ten minutes (`CHECK_HOLDS`), unless an error stood in the
    way or the configuration, a data file or a file among the parameters has changed; then `submit` checks for itself.
    Whether the same job is there already is looked up each time.

    One run may be used by several threads: `check`, `prepare` and `submit` wait for one another, and the other steps
    are found or made once.

    - **config**: what to do.
    - **clients**: whom to talk to, or an ``MLClient`` of the workspace; left out, they are made from ``config`` when
      first needed.
    - **on_event**: called with what happens, a `phift.run.events.Event`. An error in it is logged once and changes
      nothing.
    """

    def __init__(
        self, config: RunConfig, clients: Clients | MLClient | None = None, *, on_event: OnEvent | None = None
    ) -> None:
        self._config: RunConfig | None = config
        given = clients is None or isinstance(clients, Clients)
        self._clients: Clients | None = clients if given else connect(config, workspace=clients)
        self._handler, self._on_event = on_event, isolated(on_event)
        self._plan: Plan | None = None
        self._checked: tuple[CheckReport, float, object] | None = None  # when, in seconds since 1970, and of what
        self._dataset: PreparedDataset | None = None
        self._dataset_files: tuple[object, object] | None = None
        self._job: FineTuneJob | None = None
        self._record: RunRecord | None = None
        self._lock, self._preparing = threading.RLock(), threading.Lock()

    @classmethod
    @forgetting_locals()
    def attach(cls, job_name: str, clients: AnyClients, *, on_event: OnEvent | None = None) -> Self:
        """Return the run of a job from its name alone; its ``config`` is the one that was submitted.

        - **clients**: or an ``MLClient`` of the workspace, or the workspace as `phift.connect` takes it: ``"local"``.

        Raises `phift.errors.NotFound` where there is no such job, or where phift did not submit it.
        """
        clients = clients_of(clients)
        job = FineTuneJob(job_name, clients)
        record = RunRecord.read(job.entity())
        run = cls(cast(RunConfig, record.config()), clients, on_event=on_event)  # there may be none: see `config`
        run._job, run._record = job, record
        return run

    def __repr__(self) -> str:
        of = self._config.model.name if self._config else self._job
        return f"<FineTuneRun of {in_a_line(of)}>"

    @property
    def config(self) -> RunConfig:
        """What to do.

        Raises `phift.errors.ConfigError` for an attached run whose data came from Python.
        """
        if self._config is None:
            what = "The configuration of this run cannot be made anew from its job: its rows came from Python."
            raise ConfigError(what, where=f"{self._job}", fix="make a FineTuneRun of the configuration")
        return self._config

    @property
    @forgetting_locals()
    def clients(self) -> Clients:
        """The clients of this run; connects at the first use."""
        with self._lock:
            if self._clients is None:
                self._clients = connect(self.config)
            return self._clients

    @property
    @forgetting_locals()
    def plan(self) -> Plan:
        """What the run will do; checks first if that has not been done.

        Raises `phift.errors.CheckFailed` where something needed for the plan cannot be found.
        """
        with self._lock:
            report = CheckReport(()) if self._plan else self.check()
            if self._plan is None:
                report.raise_for_errors()
                raise CheckFailed("There is no plan.", where="check", fix="run check() and see its report")
            return self._plan

    @property
    def parameters(self) -> Parameters:
        """Every fine-tuning parameter with its origin; ``run.parameters.explain()`` shows what overrode what."""
        return self.plan.parameters

    @forgetting_locals()
    def data_report(self, *, fresh: bool = False) -> DataReport:
        """Prepare the data, and report what became of every row, what was found, and how long the conversations are.

        After a check the tokens are that check's; before, they are counted without asking Azure, and by characters
        where ``data.tokenizer`` is not set. Raises as `prepare` does.
        """
        data, plan = self.prepare(fresh=fresh), self._plan
        if plan and plan.tokens and plan.dataset == data:
            return DataReport(data, plan.tokens)
        return DataReport.of(self.config, data, self._on_event)

    @traced
    def prepare(self, *, fresh: bool = False) -> PreparedDataset:
        """Read, check, split and write the data; see `phift.data.prepare.prepare_dataset`.

        - **fresh**: read all of it again, though nothing seems to have changed.

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
        with self._preparing:
            if fresh or self._dataset is None or self._dataset_files != self._stamps():
                read, _ = self._stamps()  # before they are read: one that changes meanwhile is read again
                make_private(self.config.work_dir)
                folder = self.config.work_dir / "data"
                self._dataset = prepare_dataset(self.config.data, folder, fresh=fresh, on_progress=self._on_event)
                self._dataset_files = read, self._stamps()[1]
            return self._dataset

    def _stamps(self) -> tuple[object, object]:
        """Return what the files to read and those that were written are like, to compare it."""
        read: object = object()
        with suppress(PhiftError):  # one is missing, or is none that can be read: preparing says so
            read = stamps(files_of(self.config.data))
        # Size and time of the last writing only: what is done to a file's name or rights changes no row.
        written = [each[:3] for each in stamps(self._dataset.files.values())] if self._dataset else None
        return read, written

    @forgetting_locals()
    def conversation(self, number: int, split: str = "train") -> Conversation:
        """Return a row of the prepared data as the model sees it, with the tokens marked that are trained on.

        - **number**: the row's line in the split's file, from 1.
        """
        plan = self.plan
        prepared = self._dataset or self.prepare()  # what the plan is of, though its source may be gone by now
        path = prepared.files.get(split)
        if path is None:
            raise DataError(f"There is no split {split}.", where="conversation", fix=f"use one of {', '.join(SPLITS)}")
        limit = plan.tokens.max_seq_length if plan.tokens else -1
        return Conversation.show(path, number, plan.tokenizer, max_seq_length=limit)

    @traced
    def check(self) -> CheckReport:
        """Look everything up, submit nothing, and report all that was found at once.

        Tokens are counted once for the same rows, tokenizer and limit; everything else is looked up each time.
        """
        try:
            clients = self.clients
        except PhiftError as error:
            findings = findings_from(error, "workspace")
            if not (self.config.data.in_azure or self.config.data.prepare_on):
                try:  # data on this machine needs nobody's credentials
                    findings += self.prepare().findings
                except PhiftError as mistake:
                    findings += findings_from(mistake, "data")
            return CheckReport.of(findings)
        with self._lock, self._drawn():
            # The clock that is never set stands still while a laptop sleeps.
            at, given = time.time(), self._given()
            self._plan, report = make_plan(self.config, clients, self.prepare, self._on_event, before=self._plan)
            self._checked = report, at, given
            return report

    def _given(self) -> object:
        """Return what the user asked for in the configuration and in files among the parameters, to compare it."""
        return repr(self.config), stamps(self.config.parameter_files.values())

    @traced
    def submit(
        self, *, ignore: Collection[str] = (), fresh: bool = False, tags: Mapping[str, str] | None = None
    ) -> FineTuneJob:
        """Submit the job as it was checked within the last ten minutes, or else check first.

        The same run submitted before is found instead.

        - **ignore**: codes of error findings to go on in spite of.
        - **fresh**: pay for another job even if the same one is there.
        - **tags**: of the job alone, besides those of the run; one that is found keeps its own.

        Raises `phift.errors.CheckFailed` while an error finding stands.
        """
        with self._lock, ExitStack() as until_submitted:
            report = self._last_report(ignore) or self.check()
            if self._plan is None:
                report.raise_for_errors(ignore)
            plan = self.plan

            def build(name: str) -> PipelineJob:
                # A job that is there already costs nothing more; by now its own nodes may have used up the quota.
                report.raise_for_errors(ignore)
                data = self._upload(plan)
                ensure_cluster(self.clients, self.config.compute, plan.target, self.config.tags)
                self._checked = None  # its nodes take of the quota that was looked up
                job = self._pipeline(plan, data, name, until_submitted)
                # Else Azure takes what equal steps of the job that is there have made, which is all of it.
                job.settings.force_rerun = self.config.force_rerun or fresh
                job.tags = {**job.tags, **(tags or {})}
                return job

            self._job, self._record = submit_job(self.clients, plan.job_name, build, fresh=fresh), None
            return self._job

    @forgetting_locals()
    def build(self, *, ignore: Collection[str] = ()) -> PipelineJob:
        """Check, upload the data, and return the job as `submit` would submit it, under a name that no job has.

        It is ready for ``MLClient.jobs.create_or_update``. Raises as `submit` does, and `phift.errors.ComputeError`
        where the cluster would have to be created first.
        """
        with self._lock, ExitStack() as until_submitted:
            report = self._last_report(ignore) or self.check()
            report.raise_for_errors(ignore)
            plan = self.plan
            if not plan.target.exists:
                what = f"There is no cluster {plan.target.name} yet, and building a job creates none."
                raise ComputeError(what, where="compute", fix="create it, or call submit(), which does")
            _, name = find_job(self.clients, plan.job_name)
            job = self._pipeline(plan, self._upload(plan), name, until_submitted)
            weakref.finalize(job, until_submitted.pop_all().close)
            return job

    def _upload(self, plan: Plan) -> DataInAzure:
        data, config = plan.dataset, self.config
        if isinstance(data, DataInAzure):
            return data
        prefix = config.data.asset_name or slug(data.name)
        return DataInAzure(name=data.name, inputs=register_assets(self.clients, data, prefix, config.tags))

    def _pipeline(self, plan: Plan, data: DataInAzure, name: str, until_submitted: ExitStack) -> PipelineJob:
        code = until_submitted.enter_context(source_code()) if data.compute else None
        return pipeline_job(self.config, plan, data, name=name, code=code)

    def _last_report(self, ignore: Collection[str]) -> CheckReport | None:
        """Return the last check's report where it still holds; what stood in the way may have been mended since."""
        if self._checked is None or self._plan is None:
            return None
        report, at, given = self._checked
        dataset = self._plan.dataset
        holds = 0 <= time.time() - at < CHECK_HOLDS and given == self._given() and not report.standing(ignore)
        if isinstance(dataset, PreparedDataset):
            holds = holds and dataset is self._dataset and self._dataset_files == self._stamps()
        return report if holds else None

    @property
    @forgetting_locals()
    def job(self) -> FineTuneJob:
        """The job of this run, submitted now or before.

        Where this process did not submit it, it is the newest one of this very configuration, whatever has become of
        the data and the registry since; or else, with a warning in the log, the only one of its series: the same
        experiment, foundation model and name of the training data. Raises `phift.errors.NotFound` where it was never
        submitted, or where only the user can say which one is meant.
        """
        with self._lock:
            if self._job is None:
                self._job = find_submitted(self.config, self.clients, self._plan.job_name if self._plan else None)
            return self._job

    @property
    @forgetting_locals()
    def record(self) -> RunRecord:
        """What was submitted, as it is kept with the job."""
        with self._lock:
            if self._record is None:
                self._record = RunRecord.read(self.job.entity())
            return self._record

    @traced
    def wait(
        self, *, timeout: float | None = None, queue_timeout: float | None = None, on_end: OnEnd | None = None
    ) -> None:
        """Wait until the job has completed; see `phift.jobs.job.FineTuneJob.wait`."""
        tell = self._on_event if self._handler else None  # without one the job shows itself in a notebook
        self.job.wait(tell, timeout=timeout, queue_timeout=queue_timeout, on_end=on_end)

    @contextmanager
    def _drawn(self) -> Iterator[None]:
        """Have a handler that draws, as `EventPrinter` does, draw no more once this is over."""
        try:
            yield
        finally:
            if stop := getattr(self._handler, "stop_drawing", None):
                stop()

    @forgetting_locals()
    def metrics(self, *, wide: bool = False) -> pd.DataFrame:
        """Return every metric of training and evaluation; see `phift.jobs.job.FineTuneJob.metrics`."""
        return self.job.metrics(wide=wide)

    @traced
    def register(self) -> RegisteredModel:
        """Register the completed job's model, once."""
        job, record = self.job, self.record
        attempt = job.name.rpartition(record.fingerprint)[2]
        return register_model(
            self.clients,
            job,
            name=(self._config and self._config.registered_model_name) or record.model_name,
            version=record.fingerprint + attempt,
            tags={**self._own_tags, **record.lineage},
            description=f"{record.model.name} version {record.model.version}, fine-tuned on {record.data_name}.",
        )

    @traced
    def deploy(self, *, timeout: float | None = None) -> Endpoint:
        """Deploy the registered model; as a context manager it is deleted at the end of the block.

        What an earlier call left up on purpose, and what somebody else uses, is not: see `phift.serving.uses`. After
        **timeout** seconds it counts as failed; what was made is then deleted, which takes a while too.

        Raises `phift.errors.ComputeError` before anything is made where the model's inference allow-list does not have
        the VM size, and `phift.errors.DeploymentFailed` after what was made is deleted again.
        """
        return self._deploy(self._deployment, timeout=timeout)

    def _deploy(self, config: DeploymentConfig, model: RegisteredModel | None = None, **options: Any) -> Endpoint:
        record, size = self.record, instance_type(self.record.model, config)
        model = model or self.register()
        own = {MODEL: f"{model.name}:{model.version}", SERIES: record.series}
        return deploy_model(
            self.clients,
            model,
            name=config.endpoint_name or self.endpoint_name,
            size=size,
            config=config,
            job=self.job,
            tags={**self._own_tags, **own, CONFIGURATION: record.configuration_digest},
            on_event=self._on_event,
            **options,
        )

    @traced
    def evaluate(
        self, rows: Rows | None = None, *, base: AnyModel | None = None, **options: Unpack[Options]
    ) -> ModelComparison:
        """Compare the base model with the trained one; see `phift.run.evaluating.compare_with_base`."""
        return compare_with_base(self, rows, base, **options)

    @property
    def _own_tags(self) -> dict[str, str]:
        return self._config.tags if self._config else self.record.own_tags

    @property
    def _deployment(self) -> DeploymentConfig:
        return self._config.deployment if self._config else self.record.deployment

    @property
    @forgetting_locals()
    def endpoint_name(self) -> str:
        """The endpoint's name: the configured one, or one of this run in this workspace.

        Names are shared by a whole region, so the workspace is in the hash.
        """
        if self._deployment.endpoint_name:
            return self._deployment.endpoint_name
        keys = ("subscription_id", "resource_group_name", "workspace_name")
        place = [text(getattr(self.clients.workspace, key), f"workspace.{key}") for key in keys]
        return f"phift-{digest([*place, self.job.name])}"

    @forgetting_locals()
    def execute(self, *, on_end: OnEnd | None = None) -> RunResult:
        """Do all of it: check, prepare, submit, wait, metrics, register, deploy.

        - **on_end**: what is done when the job has ended, as in `wait`.

        The endpoint stays and costs money until it is deleted: ``with run.execute().endpoint as endpoint: ...``
        """
        on_end = when_ended(on_end)  # one that cannot be done is known before anything costs money
        job = self.submit()
        self.wait(on_end=on_end)
        metrics = self.metrics()
        model = self.register()
        return RunResult(job=job, metrics=metrics, model=model, endpoint=self.deploy())

    @forgetting_locals()
    def cleanup(self) -> Cleanup:
        """Delete this run's endpoints, found by their tags; its job and model stay.

        Where this configuration was never submitted as it stands, it is the endpoint of the only earlier run of its
        series that has one. Raises what the service said, with the news that the endpoint is still up, where one cannot
        be deleted.
        """
        there = deployed_endpoints(self.clients)
        related = [each for each in there if each.series == self._series]
        try:
            jobs = {self.job.name}
        except NotFound:  # never submitted as it stands: what is there decides
            jobs = {each.job for each in related} if len({each.job for each in related}) == 1 else set()
            if not related and not list_jobs(self.clients, f"{SERIES}.{self._series}"):
                return Cleanup(others=priced(self.clients, there))
        return remove_of_jobs(self.clients, there, jobs, telling(self._on_event), series=self._series)

    @forgetting_locals()
    def earlier_endpoints(self) -> tuple[DeployedEndpoint, ...]:
        """Return the endpoints that earlier runs of this configuration left up, and that cost money."""
        found = deployed_endpoints(self.clients)
        return priced(self.clients, (e for e in found if e.series == self._series and e.job != self.job.name))

    @property
    def _series(self) -> str:
        return series(self._config) if self._config else self.record.series
