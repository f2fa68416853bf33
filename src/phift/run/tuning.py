"""The search for better parameters: runs over a space, until they are done or the money is.

A search keeps nothing of its own: its trials are jobs of the workspace, with their numbers and values in their tags,
and what is tried next follows from them (`phift.run.sampling`). So whoever calls it again, after a kill or on another
machine, goes on with what is there; and two who call it at once try the same, which is one job.

Trials begin in the order of their numbers. With several at once the next one begins when the one that is so many
before it has ended, and is drawn by what is known of those up to that one, whatever has become of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phift.azure.answers import text, texts
from phift.azure.connect import clients_of, connect
from phift.check.parameters import resolve_parameters
from phift.component.inputs import Input
from phift.config.run import ComponentConfig, ModelConfig, RunConfig, mistaken
from phift.config.search import SearchConfig, Value
from phift.errors import (
    AuthenticationError,
    ConfigError,
    NotFound,
    PhiftError,
    ServiceError,
    forgetting_locals,
    isolated,
)
from phift.jobs.ends import ENDED
from phift.jobs.following import STATUS_PERIOD
from phift.jobs.job import FineTuneJob, find_job
from phift.jobs.patience import Patience
from phift.jobs.record import RunRecord
from phift.run.chain import FineTuneRun
from phift.run.events import OnEvent, TrialChanged
from phift.run.sampling import check_methods, draw, gives_up
from phift.run.trials import SEARCH, SearchResult, Ticket, Trial, read_trial, read_trials, tickets

if TYPE_CHECKING:
    from azure.ai.ml.entities import PipelineJob

    from phift.azure.connect import AnyClients
    from phift.check.report import CheckReport
    from phift.plan import Plan

_SETTLED = ("completed", "pruned", "failed", "refused")
_MOST_FAILED = 3  # trials from the first on; then it is not the parameters
_PASSES = 10  # over a search's jobs, to cancel also those that are submitted meanwhile


@forgetting_locals()
def tune(config: SearchConfig, clients: AnyClients | None = None, *, on_event: OnEvent | None = None) -> SearchResult:
    """Search, and return what has come of it; the search of the same name that is there already goes on.

    Ctrl-C leaves the jobs that run: calling it again goes on with them, `stop_search` cancels them.

    - **clients**: whom to talk to; left out, they are made from the run's configuration.
    - **on_event**: called with what happens, a `phift.run.events.Event`.

    Raises `phift.errors.MissingDependency` without Optuna, `phift.errors.ConfigError` for a space that the run's
    component does not take, and as `phift.FineTuneRun.submit` does.
    """
    check_methods(config)
    return _Search(config, clients, on_event).run()


@forgetting_locals()
def find_search(name: str, clients: AnyClients) -> SearchResult:
    """Return what has come of a search so far, by its name; raises `phift.errors.NotFound` where there is none."""
    clients = clients_of(clients)
    found = tickets(clients, name)
    if not found:
        what = f"There is no search {name} in this workspace."
        raise NotFound(what, where=f"search {name}", fix="check the name and the workspace")
    trials = tuple(read_trials(clients, found).values())
    going_on = sum(each.state == "running" for each in trials)
    said = f"{going_on} of them go on." if going_on else "None of them goes on."
    return SearchResult(name, found[0][0].metric, found[0][0].direction, trials, said)


@forgetting_locals()
def stop_search(name: str, clients: AnyClients) -> SearchResult:
    """Cancel the jobs of a search, and return what has come of it; whoever runs it stops, and `tune` goes on with it.

    Raises `phift.errors.NotFound` where there is no such search, and what kept a job from being cancelled, with a note
    on those that may go on, once all others are.
    """
    clients = clients_of(clients)
    for _ in range(_PASSES):
        running = [job for _, job in tickets(clients, name) if text(job.status, "job.status") not in ENDED]
        if not running:
            break
        _cancel([FineTuneJob(text(job.name, "job.name"), clients) for job in running], wait=True)
    return find_search(name, clients)


def _cancel(jobs: list[FineTuneJob], *, wait: bool) -> None:
    """Ask for all jobs to be cancelled, whatever becomes of one of them, and then wait for all."""
    waits, failed = dict[str, Callable[[], None]](), dict[str, PhiftError]()
    for job in jobs:
        try:
            waits[job.name] = job.begin_cancel()
        except PhiftError as error:
            failed[job.name] = error
    for name, ended in waits.items() if wait else ():
        try:
            ended()
        except PhiftError as error:
            failed[name] = error
    if failed:
        first, *_ = failed.values()
        first.add_note(f"Not all jobs are cancelled; these may go on: {', '.join(failed)}")
        raise first


class _Search:
    """A search while this process runs it.

    - **trials**: those that have begun, by number. **again**: those that somebody had stopped before, which begin anew.
    """

    def __init__(self, config: SearchConfig, clients: AnyClients | None, on_event: OnEvent | None) -> None:
        self.config = config
        self.clients = connect(config.run) if clients is None else clients_of(clients)
        self._on_event, self._tell = on_event, isolated(on_event)
        found = read_trials(self.clients, tickets(self.clients, config.name))
        self.trials = {number: each for number, each in found.items() if each.state != "stopped"}
        self._again = {number: each for number, each in found.items() if each.state == "stopped"}
        for each in found.values():
            self._announce(each)
        self._base = self._checked_base(next(iter(found.values()), None))

    def run(self) -> SearchResult:
        """Begin trials and follow them until nothing is left to try, and nothing goes on."""
        why, patience = "", Patience(self.clients)
        try:
            while True:
                try:
                    self._look()
                    while not (why := why or self._verdict()) and self._has_room():
                        why = self._begin(self._next)
                    patience.heard()
                except (AuthenticationError, ServiceError) as error:
                    patience.bear(error)
                if not self._running and (why or self._next >= self.config.trials):
                    return self._result(why or "All of its trials have ended.")
                time.sleep(min(self.clients.poll_seconds, STATUS_PERIOD))
        except BaseException as error:
            if going_on := ", ".join(each.job for each in self._running):
                error.add_note(f"Jobs of the search {self.config.name} go on: {going_on}")
            raise

    @property
    def _running(self) -> list[Trial]:
        return [each for each in self.trials.values() if each.state == "running"]

    @property
    def _next(self) -> int:
        """The number of the first trial that has not begun."""
        return next(number for number in range(len(self.trials) + 1) if number not in self.trials)

    def _has_room(self) -> bool:
        """Whether the next trial may begin: all that it is drawn by have ended."""
        number, wide = self._next, self.config.parallel
        before = [self.trials[each].state in _SETTLED for each in range(number - wide + 1)]
        return number < self.config.trials and len(self._running) < wide and all(before)

    def _verdict(self) -> str:
        """Return why nothing more is tried, if it is to be."""
        states = [each.state for each in self.trials.values()]
        if "stopped" in states:
            # Whoever stopped it may not have known of them.
            _cancel([FineTuneJob(each.job, self.clients) for each in self._running], wait=False)
            return "It was stopped: the same search goes on with it."
        if len(states) >= _MOST_FAILED and set(states) == {"failed"}:
            return f"Its first {_MOST_FAILED} trials failed, so it is not the parameters."
        return ""

    def _known(self, number: int) -> list[Trial | None]:
        """Return the trials before one, None for those whose end it may not know of."""
        wide = self.config.parallel
        return [self.trials[each] if each <= number - wide else None for each in range(number)]

    def _checked_base(self, first: Trial | None) -> FineTuneRun:
        """Look everything up once, hold the space against what the component takes, and return the run.

        - **first**: a trial that is there; the others are of the same model, component and data.
        """
        config, record = self.config.run, None
        if first:
            record = RunRecord.read(FineTuneJob(first.job, self.clients).entity())
            _, _, version = record.component.rpartition(":")
            config = _pinned(config, record.model.version, version)
        base = FineTuneRun(config, self.clients, on_event=self._on_event)
        plan = base.plan
        if record and record.data_hash != plan.dataset.content_hash:
            what = f"The data is not what the search {self.config.name} has trained on so far."
            raise ConfigError(what, where="run.data", fix="give a search of other data another name")
        mistakes = []
        for name, dimension in self.config.space.items():
            others = self.config.space.keys() - {name}
            for value in dimension.extremes:
                found = resolve_parameters(
                    plan.component.inputs,
                    plan.model.defaults,
                    {**config.parameters, name: value},
                    plan.target,
                    preset=config.preset_values,
                )
                for each in found.findings:
                    # What does not go with a value that is searched too may go with another one.
                    own = each.place.endswith(f".{name}") and not any(other in each.message for other in others)
                    if each.severity == "error" and own:
                        mistakes.append((f"space.{name}", f"{each.message} {each.fix}".strip()))
        if mistakes:
            raise mistaken(list(dict.fromkeys(mistakes)), f"search {self.config.name}")
        return base

    def _begin(self, number: int) -> str:
        """Submit a trial, or find it; return why it is not submitted, where that ends the search."""
        again = self._again.get(number)
        earlier = again.cost if again else 0.0
        parameters: Mapping[str, Value] | None = None if number == 0 and self.config.baseline else {}
        if again:
            parameters = again.parameters
        elif parameters is not None:
            baseline = self.trials[0].parameters if self.config.baseline else None
            parameters = draw(self.config, self._known(number), number, baseline)
            if parameters is None:
                return "Its grid has no more values."
        config = self._base.config
        if parameters is not None:
            plan = self._base.plan
            pinned = _pinned(config, plan.model.version, text(plan.component.version, "component.version"))
            config = pinned.model_copy(update={"parameters": {**config.parameters, **parameters}})
        left = None if self.config.max_cost is None else self.config.max_cost - self._spent()
        # Of a limit, a check makes an error where the price is not known.
        limits = [each for each in (left and left / self._ratio, config.max_cost) if each is not None]
        run = FineTuneRun(config.model_copy(update={"max_cost": min(limits, default=None)}), self.clients)
        report = run.check()
        plan = run.plan
        if parameters is None:
            parameters = {name: self._as_written(plan, name) for name in self.config.space}
        if find_job(self.clients, plan.job_name)[0] is None:
            if reason := self._over(report, left):
                return reason
            if report.errors and number and all(each.place.startswith("parameters") for each in report.errors):
                reason = "; ".join(each.message for each in report.errors)
                refused = Trial(number=number, parameters=parameters, state="refused", reason=reason)
                self._set(replace(refused, cost=earlier, earlier_cost=earlier))
                return ""
        cost = report.cost
        ticket = Ticket(
            trial=number,
            parameters=dict(parameters),
            metric=self.config.metric,
            direction=self.config.direction,
            estimate=cost.training if cost else None,
            per_hour=cost.per_hour if cost else None,
        )
        tag = f"{SEARCH}.{self.config.name}"
        job = run.submit(tags={tag: str(ticket)})
        if not job.existed:  # the next look sees what becomes of it
            own = Trial(number=number, parameters=parameters, state="running", job=job.name, estimate=ticket.estimate)
            self._set(replace(own, earlier_cost=earlier, clients=self.clients))
            return ""
        kept = Ticket.read(texts(job.entity().tags, "job.tags").get(tag, ""))
        if kept is None:  # it was there before this search
            kept = replace(ticket, paid=False)
            job.tracking.set_tag(job.name, tag, str(kept))
        self._set(self._trial(number, kept, job.entity(), earlier))
        return ""

    def _trial(self, number: int, kept: Ticket, job: PipelineJob, earlier: float | None) -> Trial:
        trial = read_trial(self.clients, kept, job, earlier)
        if kept.trial == number:
            return trial
        return replace(trial, number=number, estimate=0.0, cost=earlier)  # the values of another trial once more

    def _as_written(self, plan: Plan, name: str) -> Value:
        """Return the value of a parameter of the run, as the space writes it: the component has texts for booleans."""
        value, dimension = plan.parameters.values[name].value, self.config.space[name]
        known = Input.of(name, plan.component.inputs[name])
        return next((each for each in dimension.extremes if known.takes(each) and known.read(each) == value), value)

    def _spent(self) -> float:
        """Return what the trials have cost, those that go on and those without a price by their estimate."""
        spent = 0.0
        for each in {**self._again, **self.trials}.values():  # what begins anew knows what it has cost before
            estimate = each.estimate or 0.0
            earlier = estimate if each.earlier_cost is None else each.earlier_cost
            if each.state == "running":
                spent += estimate * self._ratio + earlier
            else:
                spent += estimate + earlier if each.cost is None else each.cost
        return spent

    @property
    def _ratio(self) -> float:
        """How much of its estimate a completed trial has cost."""
        done = [each for each in self.trials.values() if each.state == "completed" and each.estimate and each.cost]
        estimated = sum(each.estimate or 0.0 for each in done)
        return sum((each.cost or 0.0) - (each.earlier_cost or 0.0) for each in done) / estimated if done else 1.0

    def _over(self, report: CheckReport, left: float | None) -> str:
        """Return why a trial costs too much, if it does by what the others have cost; it may be more than estimated."""
        price = report.cost.training if report.cost else None
        if left is None or price is None or price * self._ratio <= left:
            return ""
        of = f"the {self.config.max_cost:,.2f} USD of `max_cost`"
        expected = f"Another trial is expected to cost {price * self._ratio:,.2f} USD"
        return f"{expected}, and {max(left, 0.0):,.2f} of {of} are left: it was not submitted."

    def _look(self) -> None:
        """See what has become of the trials that go on, and give up what is not worth going on with."""
        for before in self._running:
            trial = self._read(before)
            if trial.state == "running" and trial.points != before.points and self._given_up(trial):
                trial = self._read(before)
            if trial != before:
                self._set(trial)

    def _read(self, trial: Trial) -> Trial:
        job = FineTuneJob(trial.job, self.clients).entity()
        kept = Ticket.read(texts(job.tags, "job.tags").get(f"{SEARCH}.{self.config.name}", ""))
        if kept is None:
            what = f"Somebody has taken the tag {SEARCH}.{self.config.name} from the job {trial.job}."
            raise ConfigError(what, where=f"trial {trial.number}", fix="give the search another name")
        return self._trial(trial.number, kept, job, trial.earlier_cost)

    def _given_up(self, trial: Trial) -> bool:
        """Cancel a trial that does much worse than the others did; False where none is to be."""
        known = self._known(trial.number)
        if not gives_up(self.config, known, trial):
            return False
        job, tag = FineTuneJob(trial.job, self.clients), f"{SEARCH}.{self.config.name}"
        kept = Ticket.read(texts(job.entity().tags, "job.tags").get(tag, ""))
        if kept:
            job.tracking.set_tag(trial.job, tag, str(replace(kept, pruned=True)))  # first: else it looks stopped
            job.begin_cancel()
        return True

    def _set(self, trial: Trial) -> None:
        """Note what a trial is like now, and tell of it."""
        self.trials[trial.number] = trial
        self._announce(trial)

    def _announce(self, trial: Trial) -> None:
        self._tell(
            TrialChanged(
                search=self.config.name,
                trial=trial.number,
                parameters=dict(trial.parameters),
                state=trial.state,
                job=trial.job,
                metric=self.config.metric,
                value=trial.value,
            )
        )

    def _result(self, why: str) -> SearchResult:
        trials = tuple(each for _, each in sorted({**self._again, **self.trials}.items()))
        return SearchResult(self.config.name, self.config.metric, self.config.direction, trials, why)


def _pinned(config: RunConfig, model: str, component: str) -> RunConfig:
    """Return a configuration that means these versions, whatever the registry publishes while a search goes on."""
    models = ModelConfig(**{**config.model.model_dump(), "version": model})
    components = ComponentConfig(**{**config.component.model_dump(), "version": component})
    changed: dict[str, Any] = {"model": models, "component": components}
    return config.model_copy(update=changed)
