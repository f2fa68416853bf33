"""How reports, plans and lists look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from phift.check.report import CheckReport
from phift.data.prepare import PreparedDataset
from phift.errors import redact, visible
from phift.evaluation.comparison import ModelComparison
from phift.plan import Plan

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


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


def show_comparison(console: Console, compared: ModelComparison) -> None:
    """Print what each metric says of two models, and below it the rows that got worse."""
    metrics, rows = compared.tables()
    for line in compared.summary:
        console.print(shown(line))
    show_table(console, *metrics)
    for line in (*compared.not_told, compared.worse_title):
        console.print(shown(f"\n{line}"))
    if rows[1]:
        show_table(console, *rows)


def show_table(console: Console, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; no text in it is taken for markup."""
    table = Table(box=None, pad_edge=False)
    for column in head:
        table.add_column(shown(column), overflow="fold")
    for row in rows:
        table.add_row(*_names(*row))
    console.print(table)
