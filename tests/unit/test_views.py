from __future__ import annotations

import io
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from rich.console import Console

from phift.check.findings import Finding
from phift.check.report import CheckReport
from phift.data.prepare import Progress
from phift.evaluation.asking import RowCompared
from phift.jobs.events import MetricLogged, StatusChanged, StepChanged, StillQueued
from phift.jobs.tracking import MetricPoint
from phift.run import FineTuneRun
from phift.run.events import Event
from phift.serving.resource import DeploymentEvent, Stage
from phift.tokens.count import Counted
from phift.views.printer import EventPrinter
from phift.views.terminal import show_plan, show_report
from unit.fakes import Fakes, run_config


class Screen:
    """A terminal without colours, 160 characters wide."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.console = Console(file=self._stream, width=160)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._stream.getvalue().splitlines()]


@pytest.fixture
def screen() -> Screen:
    return Screen()


def metric(name: str, value: float = 1.0) -> MetricLogged:
    return MetricLogged(job="job", metric=MetricPoint(name, 10, value, 0))


def progress(rows: int) -> Progress:
    return Progress(source="rows.jsonl", rows=rows)


def test_an_empty_report_says_so(screen: Screen) -> None:
    show_report(screen.console, CheckReport(()))
    assert screen.lines == ["Nothing found that would stop this run."]


def test_a_report_shows_every_finding_with_fix_and_source(screen: Screen) -> None:
    full = Finding(code="A", severity="error", place="here", message="wrong", fix="mend it", source="a page, 2026")
    bare = Finding(code="B", severity="note", place="there", message="by the way")
    show_report(screen.console, CheckReport.of([bare, full]))
    _, *lines = screen.lines
    assert [line.split() for line in lines] == [
        ["error", "A", "here", "wrong"],
        ["->", "mend", "it"],
        ["(a", "page,", "2026)"],
        ["note", "B", "there", "by", "the", "way"],
    ]


@pytest.mark.parametrize(("user", "shown"), [({"seed": 7}, "seed=7"), ({}, "all from the model and the component")])
def test_a_plan_shows_what_will_be_done(screen: Screen, tmp_path: Path, user: dict[str, Any], shown: str) -> None:
    run = FineTuneRun(run_config(tmp_path, parameters=user), Fakes().clients)
    show_plan(screen.console, run.plan)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in screen.lines}
    assert rows == {
        "model": "Phi-4 version 8 (azureml)",
        "component": "chat_completion_pipeline version 0.0.82",
        "compute": "1 x Standard_NC24ads_A100_v4, 1 GPU each (gpu-cluster)",
        "data": "24 train, 3 validation, 3 test rows",
        "parameters": shown,
        "job": run.plan.job_name,
    }


def test_changes_of_state_are_always_printed(screen: Screen) -> None:
    printer = EventPrinter(screen.console)
    printer(StatusChanged(job="job", status="Running"))
    printer(StepChanged(job="job", step="finetune", status="Completed"))
    printer(StepChanged(job="job", step="convert", status="NotStarted"))
    printer(metric("eval_loss", 1.23456))
    printer(metric("eval_loss", 2e-08))
    assert screen.lines[:3] == ["  job Running", "  step finetune: Completed", "  step    10  eval_loss 1.2346"]
    assert screen.lines[3:] == ["  step    10  eval_loss 2e-08"]


def test_a_run_that_stands_still_and_a_queue_that_does_not_move_say_what_to_do(screen: Screen) -> None:
    show = EventPrinter(screen.console)
    show(StatusChanged(job="job", status="NotResponding"))
    show(StatusChanged(job="job", status="Queued"))
    show(StillQueued(job="job", status="Queued", seconds=660, known=("The cluster [c] has none.",), fix="wait"))
    lines = [line.strip() for line in screen.lines]
    assert lines[0].startswith("job NotResponding: its machine has not been heard of")
    assert lines[1:] == ["job Queued", "no step has been worked on for 11 min", "The cluster [c] has none.", "wait"]


def test_losses_and_rows_are_printed_every_two_seconds(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 100.0
    monkeypatch.setattr("time.monotonic", lambda: seconds)
    printer = EventPrinter(screen.console)
    printer(metric("loss", 1.0))
    printer(metric("loss", 0.9))
    printer(progress(5))
    seconds = 101.9
    printer(metric("loss", 0.8))
    seconds = 102.0
    printer(progress(12345))
    assert screen.lines == ["  step    10  loss 1.0000", "  reading rows.jsonl: 12,345 rows"]


def test_rows_that_two_models_are_asked_are_counted(screen: Screen) -> None:
    EventPrinter(screen.console)(RowCompared(before="base", after="phift-e", rows=3, total_rows=12))
    assert screen.lines == ["  asking base and phift-e: 3 of 12 rows, 25%"]


def test_work_on_the_data_is_a_bar_in_a_terminal() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=100, color_system=None)
    printer = EventPrinter(console)
    for done in (0, 50, 100):
        printer(Progress(source="rows.jsonl", rows=done * 10, bytes=done, total_bytes=100))
    printer(Counted("train", 512, 0.5))
    printer(StatusChanged(job="job", status="Completed"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    assert "reading rows.jsonl" in shown
    assert "1,000 rows" in shown
    assert "counting tokens, train" in shown
    assert shown.rstrip().endswith("job Completed")


@pytest.mark.parametrize("stage", get_args(Stage))
def test_every_stage_of_a_deployment_has_words(screen: Screen, stage: Stage) -> None:
    EventPrinter(screen.console)(DeploymentEvent(stage, "phift-e"))
    (line,) = screen.lines
    assert line.startswith("  phift-e: ")


def test_markup_in_names_is_not_taken_for_markup(screen: Screen) -> None:
    EventPrinter(screen.console)(StepChanged(job="job", step="[red]x[/red]", status="Running"))
    assert screen.lines == ["  step [red]x[/red]: Running"]


def test_an_unknown_event_prints_nothing(screen: Screen) -> None:
    EventPrinter(screen.console)(cast(Event, object()))
    assert screen.lines == []


def test_a_job_in_a_terminal_is_drawn_with_steps_losses_and_the_time_left() -> None:
    stream = io.StringIO()
    printer = EventPrinter(Console(file=stream, force_terminal=True, width=160, color_system=None))
    created = datetime.now(UTC) - timedelta(minutes=3)
    printer(StatusChanged(job="job", status="Running", created=created, epochs=2.0))
    printer(StepChanged(job="job", step="finetune", run_id="1", status="Running"))
    for seconds, epoch in ((0, 0.5), (60, 1.0)):
        printer(metric("loss", 2 - epoch))
        printer(MetricLogged(job="job", metric=MetricPoint("epoch", 1, epoch, seconds * 1000)))
    printer.stop_drawing()
    drawn = stream.getvalue()
    assert "Running · 3 min" in drawn
    assert "training 50%, about 2 min left · loss 1.0000" in drawn
    assert "▶ finetune" in drawn
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")  # the cursor is there again
    printer.stop_drawing()
    assert stream.getvalue() == drawn


def test_a_program_that_ends_while_a_job_is_drawn_has_its_cursor_back() -> None:
    program = (
        "from rich.console import Console; from phift import EventPrinter, StatusChanged\n"
        "printer = EventPrinter(Console(force_terminal=True, color_system=None))\n"
        "printer(StatusChanged(job='job', status='Running'))\n"
        "print('the end')"
    )
    command = [sys.executable, "-c", program]
    drawn = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - as written above
    assert "the end" in drawn
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")


def test_the_end_of_a_job_leaves_lines_alone() -> None:
    stream = io.StringIO()
    printer = EventPrinter(Console(file=stream, force_terminal=True, width=160, color_system=None))
    printer(StatusChanged(job="job", status="Running"))
    printer(metric("loss", 0.5))
    printer(StatusChanged(job="job", status="Completed"))
    assert "  job Completed\n" in stream.getvalue()
    assert re.sub(r"\x1b\[\S+?[A-Za-z]", "", stream.getvalue()).endswith("  loss 0.5000\n")


def test_a_job_that_is_followed_again_is_drawn_from_its_beginning() -> None:
    stream = io.StringIO()
    printer = EventPrinter(Console(file=stream, force_terminal=True, width=160, color_system=None))
    for value in (2.0, 1.0):
        printer(StatusChanged(job="job", status="Running"))
        printer(StepChanged(job="job", step="finetune", run_id="1", status="Running"))
        printer(metric("loss", value))
        printer.stop_drawing()
    assert stream.getvalue().count("loss 1.0000") >= 1
    assert "finetune 0 s" not in stream.getvalue()  # nobody saw it begin
