"""How reports, plans and progress look in a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from phift.check.report import CheckReport
from phift.data.prepare import PreparedDataset, Progress
from phift.errors import redact, visible
from phift.jobs.events import JobEvent, MetricLogged, NoAnswer, StatusChanged, StepChanged
from phift.plan import Plan
from phift.run.events import Event
from phift.serving.cleanup import DeployedEndpoint
from phift.serving.resource import DeploymentEvent
from phift.tokens.count import Counted

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
_WORK = {"read": "reading", "compare": "comparing", "write": "writing"}
_STAGES = {
    "waits": "waiting for somebody else who deploys or deletes it",
    "exists": "is there already",
    "endpoint": "creating the endpoint",
    "deployment": "starting the model server",
    "traffic": "sending it all traffic",
    "ready": "ready",
    "replaced": "deleted; another deployment took its place",
    "idle": "has no traffic, and costs money",
    "rollback": "it failed; removing what was made",
    "delete": "deleting the endpoint",
    "deleted": "deleted",
    "stays": "stays up, and costs money: it was left up on purpose, or somebody else uses it",
}
_SECONDS_BETWEEN_LINES = 2.0


def shown(text: object, style: str = "", *, lines: bool = True) -> Text:
    """Return a text for a console, which takes it for what it is; nothing gets onto one in another way.

    A text on its own would be taken for rich's markup: ``[/x]`` ends what was never begun, ``[link=...]`` makes a link.

    - **lines**: whether a newline in it ends a line.
    """
    return Text(visible(redact(str(text)), lines=lines), style)


def _names(*texts: object) -> list[Text]:
    return [shown(text, lines=False) for text in texts]


def show_report(console: Console, report: CheckReport) -> None:
    """Print every finding of a report, or that there is none, and the estimates."""
    if not report.findings:
        console.print(shown("Nothing found that would stop this run."))
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("severity", "code", "where", "what, and the way out"):
            table.add_column(column, overflow="fold")
        for finding in report.findings:
            said = finding.message + (f"\n-> {finding.fix}" if finding.fix else "")
            said += f"\n({finding.source})" if finding.source else ""
            row = (*_names(finding.severity, finding.code, finding.place), shown(said))
            table.add_row(*row, style=_COLOURS[finding.severity])
        console.print(table)
    if report.tokens:
        console.print(shown(report.tokens.summary))
    for estimate in report.estimates:
        console.print(shown(estimate))


def show_plan(console: Console, plan: Plan) -> None:
    """Print what a run will do."""
    target = plan.target
    rows = [("model", f"{plan.model.name} version {plan.model.version} ({plan.model.registry})")]
    rows.append(("component", f"{plan.component.name} version {plan.component.version}"))
    rows.append(("compute", f"{target.nodes} x {target.size}, {target.gpus_per_node} GPU each ({target.name})"))
    dataset = plan.dataset
    if isinstance(dataset, PreparedDataset):
        data = ", ".join(f"{count} {split}" for split, count in dataset.rows.items()) + " rows"
    elif dataset.compute:
        data = f"{dataset.name}, prepared by the job on {dataset.compute}"
    else:
        data = ", ".join(f"{split} {given}" for split, given in dataset.inputs.items()) + " (not read here)"
    rows.append(("data", data))
    mine = [f"{name}={p.value}" for name, p in plan.parameters.values.items() if p.origin == "user"]
    rows.append(("parameters", ", ".join(mine) or "all from the model and the component"))
    rows.append(("job", plan.job_name))
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*_names(*row))
    console.print(table)


def show_endpoints(console: Console, found: Sequence[tuple[DeployedEndpoint, Mapping[str, str]]]) -> None:
    """Print what is deployed in a workspace: endpoints with their deployments' instances."""
    if not found:
        console.print(shown("phift has deployed nothing in this workspace."))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("endpoint", "job", "model", "age", "traffic"):
        table.add_column(column, overflow="fold")
    for each, deployments in found:
        shares = [f"{name} {each.traffic.get(name, 0)} % ({instances})" for name, instances in deployments.items()]
        age = "unknown"
        if each.age is not None:  # in its two largest units
            minutes = max(0, int(each.age.total_seconds() // 60))
            hours, days = minutes // 60, minutes // (24 * 60)
            age = f"{days} d {hours % 24} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
        traffic = "\n".join(visible(share, lines=False) for share in shares) or "no deployment"
        table.add_row(*_names(each.name, each.job or "-", each.model or "-", age), shown(traffic))
    console.print(table)


class EventPrinter:
    """Shows events: every change of a state as a line, losses as they come, work on the data as a bar.

    It is for ``FineTuneRun(..., on_event=EventPrinter())``, in a terminal and in a notebook. Where neither is at the
    other end, there are lines only, at most one in two seconds.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._last_line = 0.0
        self._bar: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Progress | Counted):
            self._work(event)
            return
        self._end_bars()
        if isinstance(event, JobEvent):
            self._job(event)
        elif isinstance(event, DeploymentEvent):
            self._line(f"{event.name}: {_STAGES[event.stage]}")

    def _work(self, event: Progress | Counted) -> None:
        if isinstance(event, Progress) and event.stage == "known":
            self._line(
                f"{event.source}: {event.rows:,} rows, prepared before and unchanged since; nothing is read again"
            )
            return
        if isinstance(event, Counted):
            what, done, total = f"counting tokens, {event.split}", event.share, 1.0
        else:
            what = f"{_WORK[event.stage]} {event.source}"
            done, total = event.bytes or 0, event.total_bytes or 0
        if not (self._console.is_terminal or self._console.is_jupyter):
            if self._due():
                self._line(f"{what}: {event.rows:,} rows" + (f", {done / total:.0%}" if total else ""))
            return
        if self._bar is None:
            described = TextColumn("  {task.description}", markup=False)
            columns = (described, BarColumn(), TextColumn("{task.fields[rows]:,} rows"))
            self._bar = Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
            self._bar.start()
        what = shown(what, lines=False).plain
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total or None, rows=0)
        self._bar.update(self._tasks[what], completed=done, total=total or None, rows=event.rows)
        if total and all(task.finished for task in self._bar.tasks):
            self._end_bars()

    def _end_bars(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar, self._tasks = None, {}

    def _job(self, event: JobEvent) -> None:
        match event:
            case StatusChanged():
                self._line(f"job {event.status}")
            case StepChanged() if event.status != "NotStarted":
                self._line(f"step {event.step}: {event.status}")
            case NoAnswer():
                self._line(f"no answer, asking again: {event.what}")
            case MetricLogged(metric=point) if point.name == "eval_loss" or self._due():
                # A learning rate is not 0.
                told = f"{point.value:.4g}" if 0 < abs(point.value) < 0.001 else f"{point.value:.4f}"
                self._line(f"step {point.step:>5}  {point.name} {told}")

    def _due(self) -> bool:
        return time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(shown(f"  {text}", lines=False))
