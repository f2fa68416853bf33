"""How reports, plans and progress look in a terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table

from phift.checks import CheckReport
from phift.dataset import Progress
from phift.endpoint import DeploymentEvent
from phift.jobs import JobEvent
from phift.plan import Plan

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
_STAGES = {
    "endpoint": "creating the endpoint",
    "deployment": "starting the model server",
    "traffic": "sending it all traffic",
    "ready": "ready",
    "rollback": "it failed; removing what was made",
    "delete": "deleting the endpoint",
}
_SECONDS_BETWEEN_LINES = 2.0


def show_report(console: Console, report: CheckReport) -> None:
    """Print every finding of a report, or that there is none, and the estimates."""
    if not report.findings:
        console.print("Nothing found that would stop this run.")
    else:
        _show_findings(console, report)
    for estimate in report.estimates:
        console.print(str(estimate), highlight=False, markup=False)


def _show_findings(console: Console, report: CheckReport) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("severity", "code", "where", "what, and the way out"):
        table.add_column(column, overflow="fold")
    for finding in report.findings:
        text = finding.message + (f"\n-> {finding.fix}" if finding.fix else "")
        text += f"\n({finding.source})" if finding.source else ""
        table.add_row(finding.severity, finding.code, finding.place, text, style=_COLOURS[finding.severity])
    console.print(table)


def show_plan(console: Console, plan: Plan) -> None:
    """Print what a run will do."""
    target, rows = plan.target, plan.dataset.rows
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("model", f"{plan.model.name} version {plan.model.version} ({plan.model.registry})")
    table.add_row("component", f"{plan.component.name} version {plan.component.version}")
    table.add_row("compute", f"{target.nodes} x {target.size}, {target.gpus_per_node} GPU each ({target.name})")
    table.add_row("data", ", ".join(f"{count} {split}" for split, count in rows.items()) + " rows")
    mine = [f"{name}={p.value}" for name, p in plan.parameters.values.items() if p.origin == "user"]
    table.add_row("parameters", ", ".join(mine) or "all from the model and the component")
    table.add_row("job", plan.job_name)
    console.print(table)


class EventPrinter:
    """Prints events as lines: every change of a state, and losses as they come, at most one line in two seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_line = 0.0

    def __call__(self, event: Any) -> None:
        """Print one event."""
        if isinstance(event, JobEvent):
            self._job(event)
        elif isinstance(event, DeploymentEvent):
            self._line(f"{event.name}: {_STAGES[event.stage]}")
        elif isinstance(event, Progress) and self._due():
            self._line(f"{event.rows:,} rows read")

    def _job(self, event: JobEvent) -> None:
        if event.kind == "status":
            self._line(f"job {event.status}")
        elif event.kind == "step" and event.status != "NotStarted":
            self._line(f"step {event.step}: {event.status}")
        elif event.metric is not None and (event.metric.name == "eval_loss" or self._due()):
            self._line(f"step {event.metric.step:>5}  {event.metric.name} {event.metric.value:.4f}")

    def _due(self) -> bool:
        return time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(f"  {text}", highlight=False, markup=False)
