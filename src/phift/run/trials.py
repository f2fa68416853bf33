"""The trials of a search, as its jobs in the workspace tell them, and what has come of all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from phift.azure.answers import text, texts
from phift.azure.clients import Clients
from phift.config.run import RunConfig
from phift.config.search import Value
from phift.errors import NotFound, redact, visible, visible_columns, visible_html, visible_table
from phift.jobs.job import FineTuneJob, list_jobs
from phift.jobs.tracking import plain_number
from phift.run.chain import FineTuneRun
from phift.run.listing import times

if TYPE_CHECKING:
    import pandas as pd
    from azure.ai.ml.entities import PipelineJob

    from phift.jobs.plot import Plot

SEARCH = "phift.search"
"""A job's tag is ``phift.search.<name>``, by whose name jobs are listed; its value is a `Ticket`."""

State = Literal["running", "completed", "pruned", "failed", "stopped", "refused"]


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What a job's tag says of the trial that it is.

    - **parameters**: its values in the space.
    - **estimate**: what its training was estimated to cost, in USD; **per_hour**: what an hour of its nodes costs. None
      is what was not known.
    - **paid**: whether the search has submitted it, and not found it.
    - **pruned**: whether the search has given it up.
    """

    trial: int
    parameters: dict[str, Value]
    metric: str
    direction: str
    estimate: float | None = None
    per_hour: float | None = None
    paid: bool = True
    pruned: bool = False

    def __str__(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def read(cls, value: str) -> Ticket | None:
        """Return what a tag's value says; None for one that no search wrote."""
        import msgspec

        try:
            kept = msgspec.json.decode(value.encode(errors="replace"), type=cls)
        except (msgspec.MsgspecError, RecursionError):
            return None
        numbers = [each for each in (kept.estimate, kept.per_hour) if each is not None]
        return kept if kept.trial >= 0 and all(each >= 0 for each in numbers) else None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a search.

    - **parameters**: its values in the space.
    - **state**: ``stopped`` where somebody cancelled it, ``refused`` where its check did not let it be submitted.
    - **job**: its job's name; empty where it has none.
    - **value**: the best that it logged of the metric; None where it logged none.
    - **points**: step and value of each point.
    - **estimate**, **cost**: what it was estimated to cost, and what its nodes cost from the job's start to its end, in
      USD; None where that is not known. **earlier_cost**: what of the cost earlier attempts of it were.
    - **reason**: why it was refused.
    """

    number: int
    parameters: Mapping[str, Value]
    state: State
    job: str = ""
    value: float | None = None
    points: tuple[tuple[int, float], ...] = ()
    estimate: float | None = None
    cost: float | None = None
    earlier_cost: float | None = 0.0
    reason: str = ""
    clients: Clients | None = field(default=None, repr=False, compare=False)

    @property
    def run(self) -> FineTuneRun:
        """The run, to go on with: ``trial.run.register()``."""
        if not self.job or self.clients is None:
            raise NotFound("This trial has no job.", where=f"trial {self.number}", fix="take another one")
        return FineTuneRun.attach(self.job, self.clients)

    def config(self) -> RunConfig:
        """Return the run's configuration, without its workspace; raises as `phift.FineTuneRun.config` does."""
        return self.run.config

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        kept = {key: value for key, value in vars(self).items() if key != "clients"}
        kept["value"] = None if self.value is None else plain_number(self.value)
        kept["points"] = [[step, plain_number(value)] for step, value in self.points]
        return {**kept, "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class SearchResult:
    """What has come of a search, now or at its end.

    - **ended**: why it tries nothing more; empty where it was looked at from outside.
    """

    name: str
    metric: str
    direction: str
    trials: tuple[Trial, ...]
    ended: str = ""

    @property
    def best(self) -> Trial:
        """The completed trial with the best value; raises `phift.errors.NotFound` where there is none."""
        done = [each for each in self.trials if each.state == "completed" and each.value is not None]
        if not done:
            what = f"No trial has completed with a value of {self.metric}."
            fix = "see the jobs that failed: `phift logs JOB`; or the metrics that there are: `phift metrics JOB`"
            raise NotFound(what, where=f"search {self.name}", fix=fix)
        return (min if self.direction == "minimize" else max)(done, key=lambda each: each.value or 0.0)

    @property
    def cost(self) -> float | None:
        """What the trials have cost, those that go on by their estimate; None where it is not known of one."""
        return _sum(*map(trial_cost, self.trials))

    def frame(self) -> pd.DataFrame:
        """Return a table with a row a trial: number, parameters, value, state, job, estimate and cost in USD."""
        import pandas as pd

        columns = ("number", *self._names, "value", "state", "job", "estimate", "cost")
        rows = [[{**vars(each), **each.parameters}.get(column) for column in columns] for each in self.trials]
        frame = pd.DataFrame(rows, columns=list(columns))
        return frame.astype(dict.fromkeys(("value", "estimate", "cost"), float))

    def plot(self) -> Plot:
        """Draw the values of all trials, in their order and over each parameter.

        Raises `phift.errors.NotFound` where there is none.
        """
        from phift.run.drawing import draw_search

        return draw_search(self.trials, name=self.name, metric=self.metric, direction=self.direction)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        best = None
        with suppress(NotFound):
            best = self.best.number
        told = {"search": self.name, "metric": self.metric, "direction": self.direction, "ended": self.ended}
        return {**told, "best": best, "cost": self.cost, "trials": [each.to_dict() for each in self.trials]}

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for each in self.trials for name in each.parameters))

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the head and the rows of a table for people."""
        best = None
        with suppress(NotFound):
            best = self.best
        rows = []
        for each in self.trials:
            values = [_short(each.parameters.get(name)) for name in self._names]
            cost = "?" if each.cost is None else f"{each.cost:,.2f}"
            state = f"{each.state}{', the best' * (each is best)}"
            rows.append((str(each.number), *values, _short(each.value), state, cost, each.job or each.reason))
        return ("trial", *self._names, self.metric, "state", "USD", "job"), rows

    @property
    def summary(self) -> str:
        """How many trials there are, what they cost, and why there are no more."""
        cost = "" if self.cost is None else f", {self.cost:,.2f} USD"
        counted = f"search {self.name}: {len(self.trials)} trial{'s' * (len(self.trials) != 1)}{cost}"
        return f"{counted}. {self.ended}".strip()

    def __str__(self) -> str:
        head, rows = self.table()
        return "\n".join([*([visible_columns(head, rows)] if rows else []), visible(self.summary)])

    def _repr_html_(self) -> str:
        return (visible_table(*self.table()) if self.trials else "") + f"<p>{visible_html(self.summary)}</p>"


def _short(value: Value | None) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def trial_cost(trial: Trial) -> float | None:
    """Return what a trial has cost, or while it goes on what it is estimated to."""
    going_on = trial.cost is None and trial.state == "running"
    return _sum(trial.estimate, trial.earlier_cost) if going_on else trial.cost


def _sum(*costs: float | None) -> float | None:
    return None if None in costs else math.fsum(each for each in costs if each)


def tickets(clients: Clients, name: str) -> list[tuple[Ticket, PipelineJob]]:
    """Return the jobs of a search with what their tags say, newest first, each attempt of a trial by itself."""
    tag = f"{SEARCH}.{name}"
    found = [(Ticket.read(texts(job.tags, "job.tags").get(tag, "")), job) for job in list_jobs(clients, tag)]
    return [(ticket, job) for ticket, job in found if ticket]


def read_trials(clients: Clients, found: Iterable[tuple[Ticket, PipelineJob]]) -> dict[int, Trial]:
    """Return the trials by their numbers; of several attempts the newest counts, and all of them cost."""
    newest: dict[int, tuple[Ticket, PipelineJob]] = {}
    earlier: dict[int, float | None] = {}
    for ticket, job in found:
        number = ticket.trial
        if number in newest:
            earlier[number] = _sum(earlier.get(number, 0.0), _cost(ticket, job))
        else:
            newest[number] = ticket, job
    return {number: read_trial(clients, *newest[number], earlier.get(number, 0.0)) for number in sorted(newest)}


def read_trial(clients: Clients, ticket: Ticket, job: PipelineJob, earlier: float | None) -> Trial:
    """Return a trial as its job is now, with what it has logged, and with what earlier attempts of it cost."""
    name, status = text(job.name, "job.name"), text(job.status, "job.status")
    ends: dict[str, State] = {"Completed": "completed", "Failed": "failed"}
    ends["Canceled"] = "pruned" if ticket.pruned else "stopped"
    points = _logged(FineTuneJob(name, clients), ticket.metric, ended=status == "Completed")
    numbers = [value for _, value in points if not math.isnan(value)]
    return Trial(
        number=ticket.trial,
        parameters=ticket.parameters,
        state=ends.get(status, "running"),
        job=redact(name),
        value=(min if ticket.direction == "minimize" else max)(numbers, default=None),
        points=points,
        estimate=ticket.estimate if ticket.paid else 0.0,
        cost=_sum(_cost(ticket, job), earlier),
        earlier_cost=earlier,
        clients=clients,
    )


def _logged(job: FineTuneJob, metric: str, *, ended: bool) -> tuple[tuple[int, float], ...]:
    """Return step and value of each point that a job has logged of a metric; none where it has not logged it yet."""
    with suppress(NotFound):
        if found := job.tracking.metric_history(job.name, metric):
            return tuple((point.step, point.value) for point in found)
    if not ended:
        return ()
    frame = job.metrics()  # of a training step that was reused, it is not among the job's own
    of_metric = frame[frame["metric"] == metric]
    return tuple(zip(of_metric["step"].tolist(), of_metric["value"].tolist(), strict=True))


def _cost(ticket: Ticket, job: PipelineJob) -> float | None:
    """Return what a job's nodes cost from its start to its end; None where it goes on or the price is not known."""
    if not ticket.paid:
        return 0.0
    begun, ended = times(texts(job.properties, "job.properties"))
    if ended and not begun:  # it was cancelled in the queue
        return 0.0
    if begun is None or ended is None or ticket.per_hour is None:
        return None
    return max(0.0, (ended - begun).total_seconds()) / 3600 * ticket.per_hour
