"""How what happens looks while it happens: lines, bars in a terminal, one piece of HTML in a notebook."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table

from phift.data.prepare import Progress
from phift.evaluation.asking import RowCompared
from phift.jobs.download import DownloadProgress
from phift.jobs.events import JobEvent, MetricLogged, NoAnswer, StatusChanged, StepChanged, StillQueued
from phift.jobs.progress import JobProgress
from phift.run.events import Event, TrialChanged
from phift.serving.batch import ChatProgress
from phift.serving.resource import DeploymentEvent
from phift.serving.rollout_state import RolloutEvent
from phift.tokens.count import Counted
from phift.views.notebook import SECONDS_BETWEEN_UPDATES, JobView, View, work_view
from phift.views.terminal import shown
from phift.views.words import facts_of, losses_of, number, steps_of

_WORK = {"read": "reading", "compare": "comparing", "write": "writing"}
_STAGES = {
    "waits": "waiting for somebody else who deploys or deletes it",
    "exists": "is there already",
    "endpoint": "creating the endpoint",
    "deployment": "starting the model server",
    "provisioning": "still starting",
    "traffic": "sending it all traffic",
    "ready": "ready",
    "replaced": "deleted; another deployment took its place",
    "removed": "deleted; its endpoint goes on with the others",
    "idle": "idle",
    "rollback": "it failed; removing what was made",
    "delete": "deleting the endpoint",
    "deleted": "deleted",
    "stays": "stays up, and costs money: it was left up on purpose, or somebody else uses it",
    "park": "deleting its deployments; name, address and keys stay",
    "parked": "parked: it has no machines any more",
    "unpark": "bringing its deployments back",
}
_DOWNLOAD = {
    "waits": "waiting for somebody else who fetches into this folder",
    "known": "is all there already; nothing is fetched",
    "done": "is all there",
}
_SECONDS_BETWEEN_LINES = 2.0
_BAR = 40  # columns


class EventPrinter:
    """Shows events: work on the data as a bar, a job with its steps, its bar, the last losses and the time left.

    It is for ``FineTuneRun(..., on_event=EventPrinter())``, in a terminal and in a notebook. In a terminal every change
    of a state stays as a line. Where neither is at the other end, there are lines only, at most one in two seconds
    besides the changes.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._last_line = 0.0
        self._progress: JobProgress | None = None
        self._job_view: JobView | None = None
        self._work_view: View | None = None
        self._work: dict[str, tuple[str, float, float, str]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bar: Bars | None = None
        self._live: Live | None = None
        # What draws hides the cursor, and a program may end without another word.
        self._drawing: list[Callable[[], None]] = []
        weakref.finalize(self, _stop, self._drawing)

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Progress | Counted | DownloadProgress | RowCompared | ChatProgress):
            self._end_live()
            self._show_work(event)
        elif isinstance(event, JobEvent):
            self._end_bars()
            self._show_job(event)
        elif isinstance(event, DeploymentEvent):
            self.stop_drawing()
            self._line(": ".join(filter(None, (event.name, _STAGES[event.stage], event.detail))))
        elif isinstance(event, TrialChanged | RolloutEvent):
            self.stop_drawing()
            self._line(str(event))

    def stop_drawing(self) -> None:
        """Draw no more, since nothing more will come; what was drawn is replaced by what stays of it."""
        self._end_bars()
        self._end_live()
        if self._job_view:
            self._job_view.stop_drawing()
        self._progress = self._job_view = None  # whoever follows the job again is told all of it again

    # ---------------------------------------------------------------- work on the data, and what is taken home

    def _show_work(self, event: Progress | Counted | DownloadProgress | RowCompared | ChatProgress) -> None:
        if isinstance(event, Progress) and event.stage == "known":
            self._line(
                f"{event.source}: {event.rows:,} rows, prepared before and unchanged since; nothing is read again"
            )
            return
        done: float
        total: float
        if isinstance(event, DownloadProgress):
            if event.stage in _DOWNLOAD:
                self._line(f"{event.source}: {_DOWNLOAD[event.stage]}")
            what, count = f"fetching {event.source}", f"{event.files:,} of {event.total_files:,} files"
            done, total = event.bytes, event.total_bytes
            if event.stage != "fetch":
                self._end_bars()
                return
        elif isinstance(event, RowCompared):
            what, count = f"asking {event.before} and {event.after}", f"{event.rows:,} of {event.total_rows:,} rows"
            done, total = event.rows, event.total_rows
        elif isinstance(event, ChatProgress):
            failed = f", {event.failed:,} failed" if event.failed else ""
            what, count = f"asking {event.endpoint}", f"{event.done:,} of {event.total:,} conversations{failed}"
            done, total = event.done, event.total
        elif isinstance(event, Counted):
            what, count = f"counting tokens, {event.split}", f"{event.rows:,} rows"
            done, total = event.share, 1.0
        else:
            what, count = f"{_WORK[event.stage]} {event.source}", f"{event.rows:,} rows"
            done, total = event.bytes or 0, event.total_bytes or 0
        if self._console.is_jupyter:
            self._work[what] = (what, done, total, count)
            self._work_view = self._work_view or View()
            if done >= total or self._work_view.age >= SECONDS_BETWEEN_UPDATES:
                self._work_view.show(*work_view([*self._work.values()]))
        elif self._console.is_terminal:
            self._draw_bar(what, done, total, count)
        elif self._due():
            self._line(f"{what}: {count}" + (f", {done / total:.0%}" if total else ""))

    def _draw_bar(self, what: str, done: float, total: float, count: str) -> None:
        if self._bar is None:
            described = TextColumn("  {task.description}", markup=False)
            columns = (described, BarColumn(), TextColumn("{task.fields[count]}"))
            self._bar = Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
            self._bar.start()
            self._drawing[:] = [self._bar.stop]
        what = shown(what, lines=False).plain
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total or None, count="")
        self._bar.update(self._tasks[what], completed=done, total=total or None, count=count)
        if total and all(task.finished for task in self._bar.tasks):
            self._end_bars()

    def _end_bars(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar, self._tasks, self._drawing[:] = None, {}, []
        self._work_view, self._work = None, {}

    # ---------------------------------------------------------------- a job

    def _show_job(self, event: JobEvent) -> None:
        if self._progress is None or self._progress.job != event.job:
            self.stop_drawing()
            self._progress = JobProgress(event.job)
            self._job_view = JobView(self._progress) if self._console.is_jupyter else None
        if self._job_view:
            self._job_view(event)
            return
        self._progress.take(event)
        match event:
            case StatusChanged():
                self._line(f"job {event.status}" + (f": {event.advice}" if event.advice else ""))
            case StepChanged() if event.status != "NotStarted":
                self._line(f"step {event.step}: {event.status}")
            case StillQueued():
                for said in (f"no step has been worked on for {event.seconds / 60:.0f} min", *event.known, event.fix):
                    self._line(said)
            case NoAnswer():
                self._line(f"no answer, asking again: {event.what}")
            case MetricLogged(metric=point) if not self._console.is_terminal and self._worth_a_line(point.name):
                self._line(f"step {point.step:>5}  {point.name} {number(point.value)}")
        if self._progress.ended:
            self._end_live()
            if self._console.is_terminal and (last := losses_of(self._progress)):
                self._line(", ".join(last))
        elif self._console.is_terminal and self._live is None:
            # Only its own output, since the streams are the process's.
            self._live = Live(
                console=self._console,
                get_renderable=self._picture,
                transient=True,
                refresh_per_second=2,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
            self._drawing[:] = [self._live.stop]

    def _worth_a_line(self, metric: str) -> bool:
        return metric == "eval_loss" or (metric != "epoch" and self._due())

    def _picture(self) -> Group:
        progress = self._progress or JobProgress("")
        steps = [shown(f"{mark} {name} {told}".rstrip(), lines=False) for mark, name, told in steps_of(progress)]
        table = Table.grid(padding=(0, 1))
        share = progress.share
        bar = ProgressBar(total=1.0, completed=share or 0.0, width=_BAR, pulse=share is None)
        said = " · ".join([*facts_of(progress), *losses_of(progress)])
        table.add_row(shown(" "), bar, shown(said, lines=False))
        return Group(Padding(Columns(steps, padding=(0, 2)), (0, 2)), table)

    def _end_live(self) -> None:
        if self._live:
            self._live.stop()
            self._live, self._drawing[:] = None, []

    # ---------------------------------------------------------------- lines

    def _due(self) -> bool:
        return time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(shown(f"  {text}", lines=False))


def _stop(drawing: list[Callable[[], None]]) -> None:
    for stop in drawing:
        stop()
