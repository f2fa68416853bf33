"""The logs of a job, its own and its steps', read as they grow: each byte once, in whole lines, without secrets."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from phift.azure.clients import Clients, Part
from phift.component.inputs import STEPS
from phift.data.on_cluster import STEP as PREPARATION
from phift.errors import AccessDenied, AuthenticationError, NotFound, ServiceError, redact
from phift.jobs.ends import ENDED, Step
from phift.jobs.following import STATUS_PERIOD
from phift.jobs.patience import Patience
from phift.jobs.tracking import Tracking

if TYPE_CHECKING:
    from threading import Event

_PIECE = 1 << 20  # bytes that are asked for at once
_LONGEST_LINE = 1 << 16  # characters; a longer one comes in parts
# Characters in front of a piece that are looked at with it; a private key of 16,384 bits has 13,000.
_LOOKED_BACK = 1 << 15


@dataclass(frozen=True, kw_only=True)
class LogText:
    """Some lines of one of a job's logs.

    - **step**: the step's name; empty for the job's own log.
    - **run_id**: the run that it is of, which is another one where a step was begun anew.
    - **file**: the log's name, such as ``user_logs/std_log.txt``; a step of several processes has several.
    """

    step: str
    run_id: str
    file: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return asdict(self)


class _Read(Protocol):
    """What reading its logs asks of a job."""

    name: str

    @property
    def clients(self) -> Clients:
        """Whom it is asked of."""

    @property
    def tracking(self) -> Tracking:
        """Reader of its logs."""

    def status(self) -> str:
        """Return its status now."""

    def steps(self) -> tuple[Step, ...]:
        """Return its steps, in their order."""


def read_logs(job: _Read, step: str | None, *, follow: bool, stop: Event | None) -> Generator[LogText, None, None]:
    """Yield what the logs of a job have; see `phift.jobs.job.FineTuneJob.logs`.

    While it is followed, its status is asked for as often as `phift.jobs.following` does, so that the end is noticed as
    soon; its logs are read each time that the clients' ``poll_seconds`` have passed.
    """
    reading, patience, due = _Reading(job, step, follow=follow), Patience(job.clients), time.monotonic()
    while True:
        try:
            status = job.status()
            if not follow or status in ENDED or time.monotonic() >= due:
                due = time.monotonic() + job.clients.poll_seconds
                yield from reading.look(status)
                if not follow or status in ENDED:
                    return
            patience.heard()
        except (AuthenticationError, ServiceError) as error:
            if not follow:
                raise
            patience.bear(error)
        pause = min(STATUS_PERIOD, job.clients.poll_seconds)
        if stop is None:
            time.sleep(pause)
        elif stop.wait(pause):
            return


class _Reading:
    """The logs of a job, as far as they have been read."""

    def __init__(self, job: _Read, step: str | None, *, follow: bool) -> None:
        self._job, self._step, self._follow = job, step, follow
        self._runs: dict[str, _Run] = {}
        self._done: set[str] = set()

    def look(self, status: str) -> Iterator[LogText]:
        """Yield what has come since, at a status of the job."""
        job, wanted, steps = self._job, self._step, self._job.steps()
        if wanted is not None and not any(each.name == wanted for each in steps):
            _check_name(job.name, wanted, steps)
        for each in (Step("", job.name, status), *steps):
            if wanted in (None, each.name) and each.run_id not in self._done:
                ended = status in ENDED or each.status in ENDED
                run = self._runs.setdefault(each.run_id, _Run(job.tracking, each))
                yield from run.read(last=ended or not self._follow)
                if ended:
                    self._done.add(each.run_id)


def _check_name(job: str, step: str, steps: Sequence[Step]) -> None:
    """Raise `phift.errors.NotFound` for the name of a step that the job does not have, nor will have."""
    known = dict.fromkeys([*(each.name for each in steps), PREPARATION, *STEPS])
    if step not in known:
        raise NotFound(f"The job has no step {step}.", where=f"job {job}", fix=f"name one of {', '.join(known)}")


class _Run:
    """The logs of one run, as far as they have been read."""

    def __init__(self, tracking: Tracking, step: Step) -> None:
        self._tracking = tracking
        self._step = step
        self._addresses: dict[str, str] = {}
        self._logs: dict[str, _Log] = {}

    def read(self, *, last: bool) -> Iterator[LogText]:
        """Yield what has come since; at the last time, the line that nobody has ended too."""
        self._ask()
        for file in list(self._addresses):
            log = self._logs.setdefault(file, _Log())
            for lines in log.read(partial(self._part, file), last=last):
                yield LogText(step=self._step.name, run_id=self._step.run_id, file=redact(file), text=lines)

    def _ask(self) -> None:
        try:
            self._addresses = self._tracking.log_files(self._step.run_id)
        except NotFound:  # a run that is there and has not begun
            self._addresses = {}

    def _part(self, file: str, start: int) -> Part:
        try:
            return self._tracking.read(self._addresses[file], start, _PIECE)
        except (AccessDenied, AuthenticationError, NotFound):  # an address is good for a while
            expired = self._addresses[file]
            self._ask()
            if self._addresses.get(file, expired) == expired:
                raise
            return self._tracking.read(self._addresses[file], start, _PIECE)


class _Log:
    """One log, as far as it has been read."""

    def __init__(self) -> None:
        self._start = 0
        self._created = ""
        self._lines = _Lines()

    def read(self, part_from: Callable[[int], Part], *, last: bool) -> Iterator[str]:
        """Yield what has come since, as far as the log went when this began.

        One that is shorter now, or that was made at another time, is another log, and is read from its beginning.
        """
        end: int | None = None
        while True:
            part = part_from(self._start)
            shorter = part.total is not None and part.total < self._start
            if shorter or (part.created and self._created not in ("", part.created)):
                yield from self._lines.take(b"", last=True)
                self._start, self._created, self._lines, end = 0, "", _Lines(), None
                continue
            self._start, self._created = self._start + len(part.content), part.created or self._created
            end = part.total if end is None else end
            if not part.content or (end is not None and self._start >= end):
                yield from self._lines.take(part.content, last=last)
                return
            yield from self._lines.take(part.content)


class _Lines:
    """Makes the text of a log's bytes: whole lines, with secrets hidden wherever the pieces end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""  # of the line that has not ended
        self._before = self._told = ""  # the end of what was handed on, as it was and as it was told

    def take(self, content: bytes, *, last: bool = False) -> Iterator[str]:
        """Yield the lines that have ended, if any; at the last time, the one that has not, too."""
        text = self._rest + self._decoder.decode(content, last)
        end = len(text) if last else _end_of_lines(text)
        self._rest = text[end:]
        if lines := self._hidden(text[:end]):
            yield lines

    def _hidden(self, lines: str) -> str:
        """Return lines without secrets.

        What was hidden at the end of those before goes on being hidden here: a key of many lines, a password in quotes.
        """
        before, told = self._before + lines, self._told
        whole = redact(before)
        # It begins with what was told, unless some of that proves to be a secret.
        differ = (at for at, (one, other) in enumerate(zip(told, whole, strict=False)) if one != other)
        same = len(told) if whole.startswith(told) else next(differ, len(whole))
        self._before, self._told = before, whole
        if len(before) > 2 * _LOOKED_BACK:
            # From the beginning of a line on, if more than the very last newline is there to tell one.
            start = len(before) - _LOOKED_BACK
            self._before = before[before.find("\n", start, -1) + 1 or start :]
            self._told = redact(self._before)
        return whole[same:]


def _end_of_lines(text: str) -> int:
    """Return where the last line of a text ends; a bar that is drawn over itself has ended with each drawing."""
    end = max(text.rfind("\n"), text.rfind("\r", 0, len(text) - 1)) + 1
    return end if len(text) - end <= _LONGEST_LINE else text.rfind(" ", end) + 1 or len(text)
