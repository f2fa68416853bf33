"""What phift has made in a workspace: its jobs, and what became of each."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from phift.azure.answers import listed, mapping, text, texts
from phift.azure.clients import Clients
from phift.azure.connect import clients_of, connect
from phift.azure.threads import SideBySide
from phift.check.sizes import VmSize, find_size, list_of_region, read_sizes, text_of
from phift.errors import (
    ConfigError,
    NotFound,
    PhiftError,
    azure_errors,
    forgetting_locals,
    in_a_line,
    redact,
    visible_columns,
    visible_html,
    visible_table,
)
from phift.jobs.job import ENDED, JOB_TAG, created_at, list_jobs
from phift.jobs.progress import in_words
from phift.jobs.record import RunRecord
from phift.serving.cleanup import deployed_endpoints

if TYPE_CHECKING:
    import pandas as pd
    from azure.ai.ml.entities import PipelineJob

    from phift.azure.connect import AnyClients

_MADE_BY_PHIFT = "phift.fingerprint"  # a tag of every job of phift's, and of every earlier one's
_STAGES = "azureml.pipelines.stages"
_AT_ONCE = 8  # requests


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A job that phift submitted, and what came of it; what is not known is empty, or None.

    - **model**: ``name:version`` of the foundation model. **data**: the data's name; **data_hash**: of all of it.
    - **created**: when it was submitted. **started**, **ended**: of the whole pipeline, with its waits for nodes.
    - **cost**: of its nodes from the start to the end at the price that the region lists for a dedicated machine, in
      USD: a wait in the queue is counted as if they worked, and what they take to start is not. None for a job that
      has not ended, for low priority, for another compute than a cluster that was there by then, and where no price
      is known.
    - **registered**: ``name:version`` of the trained model. **endpoints**: names of those that serve it now.
    """

    name: str
    state: str
    experiment: str
    model: str
    data: str
    data_hash: str
    created: datetime | None
    created_by: str
    started: datetime | None
    ended: datetime | None
    cost: float | None
    registered: str
    endpoints: tuple[str, ...]

    @property
    def duration(self) -> timedelta | None:
        """From the start to the end, or until now while it goes on."""
        if self.started is None or (self.ended is None and self.state in ENDED):
            return None
        return (self.ended or datetime.now(UTC)) - self.started

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON; the duration in seconds."""
        times = {key: at.isoformat() if (at := getattr(self, key)) else None for key in ("created", "started", "ended")}
        seconds = self.duration.total_seconds() if self.duration is not None else None
        return {**asdict(self), **times, "endpoints": list(self.endpoints), "duration": seconds}


@dataclass(frozen=True)
class Runs:
    """Jobs of a workspace, newest first; to be gone through as a sequence.

    - **more**: whether there are older ones beyond the limit.
    """

    runs: tuple[RunSummary, ...]
    workspace: str
    more: bool = False

    def __iter__(self) -> Iterator[RunSummary]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> RunSummary:
        return self.runs[number]

    def frame(self) -> pd.DataFrame:
        """Return a table with a row a job; times in UTC, durations as such."""
        import pandas as pd

        columns = [*RunSummary.__dataclass_fields__, "duration"]
        rows = [[getattr(run, column) for column in columns] for run in self.runs]
        frame = pd.DataFrame(rows, columns=columns)
        for column in ("created", "started", "ended"):
            frame[column] = pd.to_datetime(frame[column], utc=True)
        return frame.assign(duration=pd.to_timedelta(frame["duration"]), cost=frame["cost"].astype(float))

    @property
    def summary(self) -> str:
        """How many there are."""
        where = in_a_line(self.workspace)
        if not self.runs:
            return f"There is no such job of phift's in the workspace {where}."
        return f"{len(self)} job{'s' * (len(self) != 1)} in the workspace {where}{', and older ones' * self.more}"

    def __str__(self) -> str:
        head = ("job", "state", "submitted", "took")
        rows = [[_cells(run)[name] for name in head] for run in self]
        table = visible_columns(head, rows, [in_a_line(_became(run)) for run in self])
        return f"{table}\n{self.summary}" if rows else self.summary

    def _repr_html_(self) -> str:
        rows = [_cells(run) for run in self.runs]
        table = visible_table(rows[0], [row.values() for row in rows]) if rows else ""
        return f"{table}<p>{visible_html(self.summary)}</p>"


def _cells(run: RunSummary) -> dict[str, str]:
    """Return what a table shows of a run, by the columns' titles."""
    return {
        "job": run.name,
        "state": run.state,
        "model": run.model or "?",
        "data": run.data or "?",
        "submitted": f"{run.created:%Y-%m-%d %H:%M}" if run.created else "?",
        "took": in_words(run.duration) if run.duration is not None else "?",
        "cost": f"{run.cost:,.2f} USD" if run.cost is not None else "?",
        "registered model": run.registered or "-",
        "endpoints": ", ".join(run.endpoints) or "-",
    }


def _became(run: RunSummary) -> str:
    """Return what a run trained and what came of it, in a line; all that would make a table too wide for a terminal."""
    cells = _cells(run)
    parts = [f"{cells['model']} on {cells['data']}", *([cells["cost"]] if run.cost is not None else [])]
    parts += [f"model {run.registered}"] if run.registered else []
    return "; ".join([*parts, *(f"endpoint {name}" for name in run.endpoints)])


@forgetting_locals()
def runs(
    workspace: AnyClients | None = None,
    *,
    limit: int | None = None,
    state: str | Collection[str] = (),
    experiment: str | None = None,
    archived: bool = False,
) -> Runs:
    """Return what phift has made in a workspace, by the tags of its jobs, newest first; everybody's jobs are among it.

    - **workspace**: as in a configuration; or clients; left out, it comes from the environment or ``config.json``.
    - **limit**: how many at most.
    - **state**: one or several of ``Completed``, ``Failed``, ``Canceled``, ``Running`` and the like.
    - **archived**: whether archived ones are listed too.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"The limit is {limit}.", where="runs", fix="give a number above 0, or None for all")
    clients = connect() if workspace is None else clients_of(workspace)
    states = {each.lower() for each in ([state] if isinstance(state, str) else state)}

    def wanted(job: PipelineJob) -> bool:
        of_state = not states or text(job.status, "job.status").lower() in states
        return of_state and experiment in (None, job.experiment_name)

    with SideBySide(_AT_ONCE) as side:
        endpoints = side.begin(deployed_endpoints, clients)
        prices = side.begin(_Prices.of, clients)
        most = None if limit is None else limit + 1
        found = list_jobs(clients, _MADE_BY_PHIFT, wanted=wanted, most=most, archived=archived)
        jobs = [(job, _record(job)) for job in found[:limit]]
        names = {record.model_name for job, record in jobs if record and text(job.status, "job.status") == "Completed"}
        models = [side.begin(_models, clients, name) for name in sorted(names)]
    registered = {job: model for each in models for job, model in each.result().items()}
    serving: dict[str, list[str]] = {}
    for endpoint in endpoints.result():
        serving.setdefault(endpoint.job, []).append(redact(endpoint.name))
    summaries = []
    for job, record in jobs:
        name = text(job.name, "job.name")
        started, ended = times(texts(job.properties, "job.properties"))
        summary = RunSummary(
            name=name,
            state=redact(text(job.status, "job.status")),
            experiment=redact(str(job.experiment_name or "")),
            model=redact(f"{record.model.name}:{record.model.version}") if record else "",
            data=record.data_name if record else "",
            data_hash=record.data_hash if record else "",
            created=at if (at := created_at(job)).year > 1 else None,
            created_by=redact(str(getattr(job.creation_context, "created_by", None) or "")),
            started=started,
            ended=ended,
            cost=prices.result().cost(record.configuration, started, ended) if record and started and ended else None,
            registered=registered.get(name, ""),
            endpoints=tuple(serving.get(name, ())),
        )
        summaries.append(summary)
    more = limit is not None and len(found) > limit
    return Runs(tuple(summaries), text(clients.workspace.workspace_name, "workspace.name"), more)


def _record(job: PipelineJob) -> RunRecord | None:
    try:
        return RunRecord.read(job)
    except NotFound:  # somebody has taken its tags away
        return None


def _models(clients: Clients, name: str) -> dict[str, str]:
    """Return the versions of a model by the job that each comes from."""
    try:
        with azure_errors(f"model {name}"):
            found = listed(clients.workspace.models.list(name=name), f"versions of {name}")
    except NotFound:
        return {}
    jobs = {texts(each.tags, "model.tags").get(JOB_TAG, ""): each for each in reversed(found)}  # the newest one counts
    return {job: redact(f"{name}:{text(each.version, 'model.version')}") for job, each in jobs.items()}


def times(properties: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
    """Return when a pipeline began and ended, as its property tells of its execution.

    Its form: ansible-collections/azure, azure_rm_ml_batch_endpoint_info.py, 2026-05-04.
    """
    execution: Mapping[str, Any] = {}
    with suppress(ValueError):
        execution = mapping(mapping(json.loads(properties.get(_STAGES) or "{}")).get("Execution"))
    return _time(execution.get("StartTime")), _time(execution.get("EndTime"))


def _time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@dataclass(frozen=True)
class _Prices:
    """The region's VM sizes and the workspace's computes by their names; empty where they cannot be read."""

    sizes: Mapping[str, VmSize]
    computes: Mapping[str, Any]

    @classmethod
    def of(cls, clients: Clients) -> _Prices:
        try:
            sizes = read_sizes(list_of_region(clients, "list_sizes", "the region's VM sizes"))
            with azure_errors("the workspace's computes"):
                computes = listed(clients.workspace.compute.list(), "workspace.compute.list")
        except PhiftError:
            return cls({}, {})
        return cls(sizes, {text(each.name, "compute.name").lower(): each for each in computes})

    def cost(self, configuration: Mapping[str, Any], started: datetime, ended: datetime) -> float | None:
        """Return what the nodes of a run cost while it lasted; see `RunSummary`."""
        asked, data = mapping(configuration.get("compute")), mapping(configuration.get("data"))
        if data.get("prepare_on") or asked.get("low_priority"):  # the first step ran on other nodes
            return None
        size = text_of(asked, "serverless")
        cluster = self.computes.get(str(asked.get("cluster")).lower())
        if not size and cluster is not None and (text_of(cluster, "tier") or "").lower() == "dedicated":
            made = _time(getattr(cluster, "created_on", None))
            size = text_of(cluster, "size") if made and made <= started else None
        price = find_size(size, self.sizes).price_per_hour if size else None
        nodes = asked.get("nodes")
        if price is None or not isinstance(nodes, int):
            return None
        return (ended - started).total_seconds() / 3600 * nodes * price
