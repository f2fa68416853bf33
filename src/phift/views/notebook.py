"""How progress looks in a notebook: one piece of HTML that is updated in place, and stays in the saved notebook.

There are no widgets in it, no scripts and no style sheet, so that it is seen as it was when the notebook is opened
again, where it is trusted and where it is not: JupyterLab takes all of these out of what it does not trust, and inline
SVG too, but not a picture that is data (JupyterLab 4.5, its sanitizer). It sets no colours of text and background.
"""

from __future__ import annotations

import base64
import math
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from phift.errors import redact, visible, visible_html
from phift.jobs.events import Idle, JobEvent
from phift.jobs.progress import JobProgress
from phift.views.words import facts_of, losses_of, number, steps_of

SECONDS_BETWEEN_UPDATES = 0.5
_SECONDS_WITHOUT_NEWS = 10.0  # between updates, in which only the time goes by
_MOST_POINTS = 400  # of a curve; more cannot be told apart in its width
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 150, 52, 22
_BLUE, _ORANGE, _GREY = "#3b82c4", "#d9822b", "#8a8a8a"  # to be told from white and from black alike


def in_notebook() -> bool:
    """Tell whether this is a notebook's kernel, which shows what it is handed."""
    if (ipython := sys.modules.get("IPython")) is None:
        return False
    return getattr(ipython.get_ipython(), "kernel", None) is not None


class View:
    """A piece of HTML in the output of a cell, shown once and updated in place."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._updated = 0.0

    @property
    def age(self) -> float:
        """Seconds since it was updated; infinitely many before it is shown."""
        return time.monotonic() - self._updated if self._handle else math.inf

    def show(self, html: str, text: str) -> None:
        """Show this in the place of what is there; ``text`` is the same for what shows no HTML."""
        from IPython.display import display

        self._updated = time.monotonic()
        bundle = {"text/html": html, "text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class JobView:
    """Shows a job while it is followed; called with each of its events."""

    def __init__(self, progress: JobProgress) -> None:
        self._progress = progress
        self._view = View()
        self._has_news = False

    def __call__(self, event: JobEvent) -> None:
        """Take in an event, and show what has come of the job; at once, or at the next event if it was just shown.

        An `Idle` brings no news, but shows the news that came in a moment with others, and the time that goes by.
        """
        self._progress.take(event)
        self._has_news |= not isinstance(event, Idle)
        pause = SECONDS_BETWEEN_UPDATES if self._has_news else _SECONDS_WITHOUT_NEWS
        if self._progress.ended or self._view.age >= pause:
            self._view.show(*job_view(self._progress))
            self._has_news = False

    def stop_drawing(self) -> None:
        """Show that nobody follows it any more, as after an interruption."""
        if self._progress.ended:
            return
        html, text = job_view(self._progress)
        said = "No longer followed here; the job goes on."
        self._view.show(f"{html}<div>{said}</div>", f"{text}\n{said}")


def job_view(progress: JobProgress, now: datetime | None = None) -> tuple[str, str]:
    """Return a job's progress as HTML, and as text."""
    now, share = now or datetime.now(UTC), progress.share
    facts, last, steps = facts_of(progress, now), losses_of(progress), steps_of(progress, now)
    text = [f"job {progress.job}: {' · '.join([*facts, *last])}"]
    text += [f"  {mark} {name} {told}".rstrip() for mark, name, told in steps]
    text += [f"  no answer, asking again: {progress.silence}"] if progress.silence else []
    text += [f"  {progress.waits}"] if progress.waits else []
    html = [f"<div>job <b>{_html(progress.job)}</b> · {' · '.join(map(_html, facts))}</div>"]
    if share is not None:
        done = 1.0 if progress.status == "Completed" else share
        html.append(f'<div><progress max="100" value="{100 * done:.0f}" style="width:{_WIDTH}px"></progress></div>')
    if steps:
        style = "white-space: nowrap; margin-right: 1.2em"
        cells = " ".join(
            f'<span style="{style}">{mark} {_html(f"{name} {told}".rstrip())}</span>' for mark, name, told in steps
        )
        html.append(f"<div>{cells}</div>")
    if progress.silence:
        html.append(f"<div>no answer, asking again: {_html(progress.silence)}</div>")
    if progress.waits:
        html.append(f"<div>{_html(progress.waits)}</div>")
    if any(len(points) > 1 for points in progress.points.values()):
        picture = base64.b64encode(curves(progress.points).encode()).decode()
        html.append(f'<div><img alt="{_html(", ".join(last))}" src="data:image/svg+xml;base64,{picture}"></div>')
    elif last:
        html.append(f"<div>{_html(', '.join(last))}</div>")
    return f"<div>{''.join(html)}</div>", visible(redact("\n".join(text)))


def work_view(bars: Sequence[tuple[str, float, float, str]]) -> tuple[str, str]:
    """Return bars as HTML and as text: of each what it is of, how much is done of how much, and a remark."""
    html, text = [], []
    for what, done, total, remark in bars:
        share = f' max="100" value="{min(100.0, 100 * done / total):.0f}"' if total else ""
        html.append(f'<div><progress{share} style="width:160px"></progress> {_html(f"{what} {remark}")}</div>')
        text.append(f"{what} {done / total:.0%} {remark}" if total else f"{what} {remark}")
    return f"<div>{''.join(html)}</div>", visible(redact("\n".join(text)))


def curves(points: dict[str, list[tuple[int, float]]]) -> str:
    """Return a picture of the losses over the steps, as SVG: the training's in blue, the evaluation's in orange."""
    known = [point for some in points.values() for point in some]
    steps, values = [step for step, _ in known], [value for _, value in known]
    least, most, low, high = min(steps), max(steps), min(values), max(values)
    wide, tall = (most - least) or 1, (high - low) or 1.0

    def place(step: int, value: float) -> str:
        x = _LEFT + (step - least) / wide * (_WIDTH - _LEFT - 8)
        return f"{x:.1f},{8 + (high - value) / tall * (_HEIGHT - _BOTTOM - 16):.1f}"

    drawn = []
    for (name, some), colour in zip(points.items(), (_BLUE, _ORANGE), strict=True):
        thin = [*some[:: max(1, len(some) // _MOST_POINTS)], *some[-1:]]
        line = " ".join(place(step, value) for step, value in thin)
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if some and name == "eval_loss":
            for step, value in thin:
                across, down = place(step, value).split(",")
                drawn.append(f'<circle cx="{across}" cy="{down}" r="2.6" fill="{colour}"/>')
    floor = _HEIGHT - _BOTTOM
    label = f'font-family="sans-serif" font-size="11" fill="{_GREY}"'
    drawn += [
        f'<path d="M{_LEFT - 4} 4V{floor}H{_WIDTH - 4}" fill="none" stroke="{_GREY}" stroke-width="1"/>',
        f'<text x="{_LEFT - 8}" y="12" text-anchor="end" {label}>{number(high)}</text>',
        f'<text x="{_LEFT - 8}" y="{floor - 2}" text-anchor="end" {label}>{number(low)}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 7}" {label}>step {least}</text>',
        f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 7}" text-anchor="end" {label}>{most}</text>',
    ]
    for (name, some), colour, x in zip(points.items(), (_BLUE, _ORANGE), (180, 340), strict=True):
        if some:
            said = f"{name} {number(some[-1][1])}"
            drawn.append(f'<text x="{x}" y="{_HEIGHT - 7}" {label.replace(_GREY, colour)}>{said}</text>')
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(drawn)}</svg>'


def _html(text: str) -> str:
    return visible_html(redact(text))
