"""What a fine-tuned model can that its base model cannot: both deployed, asked the held-out rows, and compared."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Protocol, Unpack

from phift.azure.clients import Clients
from phift.check.compute import instance_type
from phift.config.deployment import DeploymentConfig
from phift.data.prepared import PreparedDataset
from phift.errors import DataError, PhiftError
from phift.evaluation.asking import AnyModel
from phift.evaluation.comparison import ModelComparison, Options, compare_models
from phift.evaluation.rows import Rows
from phift.jobs.job import FineTuneJob
from phift.jobs.record import SERIES, RunRecord
from phift.run.events import OnEvent
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.resource import MODEL

_LONGEST_NAME = 32  # of an endpoint


class _Run(Protocol):
    _on_event: OnEvent

    @property
    def clients(self) -> Clients: ...

    @property
    def job(self) -> FineTuneJob: ...

    @property
    def record(self) -> RunRecord: ...

    @property
    def endpoint_name(self) -> str: ...

    @property
    def _deployment(self) -> DeploymentConfig: ...

    @property
    def _own_tags(self) -> dict[str, str]: ...

    def prepare(self) -> PreparedDataset: ...

    def deploy(self) -> Endpoint: ...


def compare_with_base(
    run: _Run, rows: Rows | None, base: AnyModel | None, **options: Unpack[Options]
) -> ModelComparison:
    """Compare a run's base model with the one that it trained; see `phift.run.chain.FineTuneRun.evaluate`."""
    train = None
    if rows is None:
        try:
            rows = _data_of(run)
        except PhiftError as error:
            error.add_note("Rows of your own can be given instead, as a file or values.")
            raise
    else:
        with suppress(PhiftError):  # it need not be there; what is near to a training row is not known then
            train = _data_of(run).train
    with ExitStack() as until_compared:
        after = until_compared.enter_context(run.deploy())
        before = base or until_compared.enter_context(deploy_base(run))
        return compare_models(before, after, rows, train=train, on_progress=run._on_event, **options)


def _data_of(run: _Run) -> PreparedDataset:
    """Return the data that the run was trained on, prepared here.

    Raises what `FineTuneRun.prepare` does, and `phift.errors.DataError` where it has changed since.
    """
    data = run.prepare()
    if data.content_hash != run.record.data_hash:
        what = "The data has changed since the job was submitted, so what is held out of it now may be trained on."
        raise DataError(what, where=f"data of {run.job}", fix="give rows that were held out of it")
    return data


def deploy_base(run: _Run) -> Endpoint:
    """Deploy a run's base model on an endpoint of its own, with the settings of the run's deployment.

    It has the run's tags, so that `FineTuneRun.cleanup` finds it if this process is killed.
    """
    model, name = run.record.model, run.endpoint_name
    return deploy_model(
        run.clients,
        model.id,
        name=f"{name[: _LONGEST_NAME - len('-base')]}-base",
        size=instance_type(model, run._deployment),
        config=run._deployment,
        job=run.job,
        tags={**run._own_tags, MODEL: f"{model.name}:{model.version}", SERIES: run.record.series},
        on_event=run._on_event,
    )
