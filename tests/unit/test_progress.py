from __future__ import annotations

import base64
import html
import re
import sys
from datetime import UTC, datetime, timedelta
from types import ModuleType

import pytest

from phift.jobs.events import Idle, JobEvent, MetricLogged, NoAnswer, StatusChanged, StepChanged
from phift.jobs.progress import JobProgress, in_words
from phift.jobs.tracking import MetricPoint
from phift.views.notebook import JobView, curves, job_view, work_view
from phift.views.words import facts_of

START = datetime(2026, 11, 30, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def logged(name: str, step: int, value: float, minutes: float, skew: float = 0) -> MetricLogged:
    stamp = int(at(minutes + skew).timestamp() * 1000)
    return MetricLogged(job="job", metric=MetricPoint(name, step, value, stamp), time=at(minutes))


def progress(*events: JobEvent, epochs: float = 2.0, max_steps: int = 0) -> JobProgress:
    made = JobProgress("job", epochs=epochs, max_steps=max_steps, created=START)
    for event in events:
        made.take(event)
    return made


def test_the_time_left_follows_from_the_epochs_so_far_whatever_the_clock_of_the_cluster() -> None:
    half = progress(logged("epoch", 10, 0.5, 10, skew=90), logged("epoch", 20, 1.0, 15, skew=90))
    assert half.share == 0.5
    assert half.left(at(15)) == timedelta(minutes=10)
    assert half.left(at(18)) == timedelta(minutes=7)
    assert half.left(at(60)) == timedelta()


def test_a_limit_of_steps_counts_before_the_epochs() -> None:
    some = progress(logged("loss", 5, 1.0, 1), logged("epoch", 5, 1.9, 1), logged("loss", 10, 1.0, 2), max_steps=20)
    assert some.share == 0.5
    assert some.left(at(2)) == timedelta(minutes=2)


@pytest.mark.parametrize(
    "events",
    [
        (),
        (logged("epoch", 1, 0.5, 1),),
        (logged("epoch", 1, 0.5, 1), logged("epoch", 1, 0.5, 2)),
        (logged("epoch", 1, 0.5, 2), logged("epoch", 2, 0.6, 2)),
        (logged("epoch", 1, float("nan"), 1), logged("epoch", 2, float("inf"), 2)),
        (logged("epoch", 1, 1.0, 1), logged("epoch", 2, 2.0, 2)),
    ],
)
def test_nobody_knows_the_time_left(events: tuple[JobEvent, ...]) -> None:
    assert progress(*events).left(at(3)) is None


def test_the_time_of_a_step_is_known_where_it_was_seen() -> None:
    seen = progress(
        StepChanged(job="job", step="import", run_id="1", status="Completed", time=at(1)),
        StepChanged(job="job", step="finetune", run_id="2", status="NotStarted", time=at(1)),
        StepChanged(job="job", step="finetune", run_id="2", status="Running", time=at(2)),
        StepChanged(job="job", step="finetune", run_id="2", status="Completed", time=at(5)),
    )
    before, after = seen.steps.values()
    assert (before.since, before.until) == (None, None)
    assert (after.since, after.until) == (at(2), at(5))


def test_the_time_since_the_submission_ends_with_the_job() -> None:
    ended = progress(StatusChanged(job="job", status="Completed", time=at(7)))
    assert ended.elapsed(at(99)) == timedelta(minutes=7)
    assert facts_of(ended, at(99)) == ["Completed", "7 min"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_time_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert in_words(timedelta(seconds=seconds)) == words


def test_a_notebook_shows_steps_bar_curve_and_time_left() -> None:
    shown = progress(
        StatusChanged(job="job", status="Running", time=at(0)),
        StepChanged(job="job", step="finetune", run_id="2", status="Running", time=at(1)),
        *(logged("loss", step, 2.0 - step / 100, step / 10) for step in (10, 20, 30)),
        logged("eval_loss", 30, 1.9, 3),
        logged("epoch", 10, 0.5, 1),
        logged("epoch", 30, 1.5, 3),
    )
    page, text = job_view(shown, at(3))
    assert "training 75%, about 1 min left" in page
    assert '<progress max="100" value="75"' in page
    assert "▶ finetune" in page
    found = re.search(r"data:image/svg\+xml;base64,([\w+/=]+)", page)
    assert found
    picture = base64.b64decode(found[1]).decode()
    assert picture.count("<polyline") == 2
    assert "eval_loss 1.9000" in picture
    assert text.splitlines()[0].startswith("job job: Running · 3 min · training 75%, about 1 min left · loss 1.7000")


def test_what_a_notebook_takes_out_of_pages_that_it_does_not_trust_is_not_in_it() -> None:
    page, _ = job_view(progress(logged("loss", 1, 1.0, 1), logged("loss", 2, 0.5, 2)), at(3))
    assert not re.search(r"<(script|style|svg|link)|\son\w+=|\bid=|\bclass=", page)


def test_no_text_is_taken_for_html() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    page, text = job_view(
        progress(
            StatusChanged(job="job", status=hostile),
            StepChanged(job="job", step=hostile, run_id="1", status=hostile),
            NoAnswer(job="job", what=hostile),
        )
    )
    assert hostile not in page
    assert page.count(html.escape(hostile)) >= 3
    assert hostile in text
    assert hostile not in work_view([(hostile, 1, 2, hostile)])[0]


def test_curves_of_one_point_and_of_equal_values_are_drawn() -> None:
    for points in ([(1, 0.5)], [(1, 0.5), (2, 0.5)], [(step, 1 / step) for step in range(1, 5000)]):
        drawn = curves({"loss": points, "eval_loss": []})
        assert "nan" not in drawn
        assert len(drawn) < 20_000


def test_a_bar_without_a_known_end_has_no_share() -> None:
    page, text = work_view([("reading hub", 0, 0, "12 rows"), ("counting", 0.4, 1.0, "4 rows")])
    assert page.count("value=") == 1
    assert 'value="40"' in page
    assert text == "reading hub 12 rows\ncounting 40% 4 rows"


class Cell:
    """Stands for a notebook's cell: what was shown in it, and how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages: list[str] = []
        display = ModuleType("IPython.display")
        display.display = self._show  # type: ignore[attr-defined]  # as IPython has it
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def _show(self, bundle: dict[str, str], **_: object) -> Cell:
        self.pages.append(bundle["text/html"])
        return self

    update = _show


def test_what_comes_at_once_is_shown_whole_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    cell, view = Cell(monkeypatch), JobView(JobProgress("job"))
    view(StatusChanged(job="job", status="Running"))
    view(StepChanged(job="job", step="finetune", run_id="1", status="Running"))
    assert [("finetune" in page) for page in cell.pages] == [False]
    now += 1
    view(Idle(job="job", status="Running"))
    assert [("finetune" in page) for page in cell.pages] == [False, True]
    view(Idle(job="job", status="Running"))
    now += 9
    view(Idle(job="job", status="Running"))
    assert len(cell.pages) == 2
    now += 2
    view(Idle(job="job", status="Running"))
    assert len(cell.pages) == 3


def test_a_burst_of_points_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    cell, view = Cell(monkeypatch), JobView(JobProgress("job"))
    for step in range(1000):
        view(logged("loss", step, 1.0, 1))
    assert len(cell.pages) == 1
    view(StatusChanged(job="job", status="Completed"))
    assert "<img" in cell.pages[1]
    view.stop_drawing()
    assert len(cell.pages) == 2


def test_who_leaves_is_told_that_the_job_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, view = Cell(monkeypatch), JobView(JobProgress("job"))
    view(StatusChanged(job="job", status="Running"))
    view.stop_drawing()
    assert cell.pages[-1].endswith("<div>No longer followed here; the job goes on.</div>")


def test_a_silence_lasts_until_the_service_answers() -> None:
    silent = progress(NoAnswer(job="job", what="503"), Idle(job="job", status="Running"))
    assert silent.silence == "503"
    silent.take(StatusChanged(job="job", status="Running"))
    assert silent.silence == ""
