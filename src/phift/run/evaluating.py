"""What a fine-tuned model can that its base model cannot: both deployed, asked the held-out rows, and compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, Unpack

from phift.azure.answers import texts
from phift.azure.clients import Clients
from phift.check.compute import instance_type
from phift.config.deployment import DeploymentConfig
from phift.data.prepared import PreparedDataset
from phift.errors import Conflict, DataError, PhiftError, in_a_line
from phift.evaluation.asking import AnyModel, Model
from phift.evaluation.comparing import Options, compare_deployed
from phift.evaluation.comparison import ModelComparison
from phift.evaluation.rows import Rows
from phift.jobs.job import FineTuneJob
from phift.jobs.record import SERIES, RunRecord
from phift.plan import digest
from phift.run.events import OnEvent
from phift.serving import resource
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.parking import is_parked
from phift.serving.resource import MODEL
from phift.serving.sharing import deployments, traffic

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

    def _deploy(self, config: DeploymentConfig, *, as_it_is: bool) -> Endpoint: ...


def compare_with_base(
    run: _Run, rows: Rows | None, base: AnyModel | None, **options: Unpack[Options]
) -> ModelComparison:
    """Compare a run's base model with the one that it trained, both deployed for as long as they are asked.

    - **rows**: left out, the test split of the run's data, without what is near to a training row; else see
      `phift.evaluation.comparing.compare_models`, also for what it raises.
    - **base**: what to compare with instead of the base model, such as another endpoint.
    - **options**: see `phift.evaluation.comparing.Options`. What is wrong with them is known before anything is
      deployed.

    Raises `phift.errors.Conflict`, with nothing changed, where the run's endpoint or that of the base model is parked,
    or its traffic goes to other deployments: a comparison moves nobody's.
    """
    if base is not None:
        Model.of(base, 1)  # what cannot be asked is known before anything is deployed
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
    return compare_deployed(_both(run, base), rows, train=train, on_progress=run._on_event, **options)


@contextmanager
def _both(run: _Run, base: AnyModel | None) -> Iterator[tuple[AnyModel, AnyModel]]:
    for name in (run.endpoint_name, *(() if base is not None else (_name_of_base(run),))):
        _check_nobody_is_served(run, name)
    with run._deploy(run._deployment, as_it_is=True) as endpoint:
        after = endpoint, run._deployment.deployment_name  # others may take the endpoint's traffic over meanwhile
        if base is not None:
            yield base, after
            return
        with deploy_base(run) as before:
            yield before, after


def _check_nobody_is_served(run: _Run, name: str) -> None:
    """Refuse an endpoint whose traffic would be moved, or that would be brought back; raises `Conflict`."""
    own = run._deployment.deployment_name
    there = resource.endpoint(run.clients, name)
    found = there.settled()
    if found is None:
        return
    what = ""
    others = [in_a_line(each.name) for each in deployments(run.clients, name) if each.name != own]
    if is_parked(texts(found.tags, "endpoint.tags")):
        what, first = "is parked, and would stay up", f"bring it back (phift endpoints unpark {name}), and then "
    elif others and traffic(found) != {own: 100}:
        what, first = f"has deployments {', '.join(others)} too, and a comparison would move its traffic", ""
    if what:
        fix = f"{first}compare two deployments by their names, which moves nothing: "
        fix += f"phift evaluate {run.endpoint_name}/{own} --base ENDPOINT/DEPLOYMENT --rows FILE; "
        fix += "or set `deployment.endpoint_name` to another name"
        raise Conflict(f"The endpoint {name} {what}.", where=there.place, fix=fix)


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
    model = run.record.model
    return deploy_model(
        run.clients,
        model.id,
        name=_name_of_base(run),
        size=instance_type(model, run._deployment),
        config=run._deployment,
        job=run.job,
        tags={**run._own_tags, MODEL: f"{model.name}:{model.version}", SERIES: run.record.series},
        on_event=run._on_event,
    )


def _name_of_base(run: _Run) -> str:
    """Return the name of the base model's endpoint; where it has to be cut, a digest tells it from others."""
    name = run.endpoint_name
    if len(f"{name}-base") > _LONGEST_NAME:
        ending = f"-{digest([name])}"
        name = name[: _LONGEST_NAME - len(f"{ending}-base")] + ending
    return f"{name}-base"
