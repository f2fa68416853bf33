"""How a command ends that is interrupted: what goes on, what is left, and what costs money until it is deleted."""

from __future__ import annotations

import math
import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from phift.cli.output import tell

if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import FrameType

    from phift import Event

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C, SIGTERM or SIGHUP ended."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ignore_interruptions() -> None:
    """Let nothing keep the last words from being said; they take no time."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)


class Watch:
    """Ends a command that was interrupted and cannot hear it.

    Python interrupts its main thread between two instructions, and the look-up of a host's name is one: where the
    network hangs that takes a minute. So a thread looks whether the main one has heard a signal soon, and else says the
    last words in its place; where an endpoint may be left, at the second signal only.
    """

    def __init__(self) -> None:
        self._heard = self._raised = -math.inf
        self._number = signal.SIGINT
        self.left: Leftovers | None = None  # of the command under way

    def take_signals(self) -> None:
        """Let all of them interrupt, so that `with` blocks clean up."""
        self._raised = -math.inf
        for each in _SIGNALS:
            if signal.getsignal(each) is not signal.SIG_IGN:  # nohup's wish counts
                signal.signal(each, self.interrupt)

    @property
    def by_hand(self) -> bool:
        """Whether the last interruption was Ctrl-C, and not one that wants an end."""
        return self._number == signal.SIGINT

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        """Take note, and raise; a handler of signals.

        Those that come at once are one interruption, and end no roll-back that it begins: a terminal that is closed
        sends SIGHUP twice, by the kernel and by its shell.
        """
        self._heard, self._number = time.monotonic(), signal.Signals(number)
        if self._heard - self._raised > _AT_ONCE:
            self._raised = self._heard
            raise KeyboardInterrupt

    def interrupt_again(self, swallowed: UnraisableHookArgs) -> None:
        """Interrupt once more where Python has swallowed it, as it does in a finalizer; `sys.unraisablehook`.

        It comes a moment later, since here it would be swallowed too.
        """
        if not issubclass(swallowed.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(swallowed)
            return
        self._raised = -math.inf
        later = threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident or 0, self._number))
        later.daemon = True
        later.start()

    def begin(self) -> None:
        """Watch from now on, in a thread; for the main thread of a program."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # Python writes there at once, whatever it is doing
        threading.Thread(target=self._look, args=(reading,), daemon=True).start()

    def _look(self, reading: int) -> None:
        told = False
        while number := os.read(reading, 1):
            came = time.monotonic()
            time.sleep(_SOON)
            if self._heard > came - _SOON or signal.getsignal(number[0]) != self.interrupt:
                continue  # it was, or is somebody else's to hear
            left = self.left
            if left is not None and left.may_cost and not told:
                told = True
                say(["Interrupted; it ends when the network answers, and at once if you interrupt it again."])
                while select.select([reading], [], [], 0)[0]:  # what came before that was said is no answer to it
                    os.read(reading, 1)
                continue
            say(["Interrupted.", *(left.lines(interrupted=True) if left is not None else ())])
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(INTERRUPTED)


watch = Watch()
"""That of this process."""


def notes(error: BaseException | None) -> list[str]:
    """Return the notes of an error and of those that it came in between."""
    found: list[str] = []
    while error is not None:
        found += getattr(error, "__notes__", [])
        error = error.__context__
    return found


def say(lines: list[str]) -> None:
    """Say last words, each once; where the terminal is gone, nobody reads them."""
    with suppress(OSError):
        for line in dict.fromkeys(lines):
            tell(line, err=True, lines=True)


_SOON = 0.5  # seconds
_AT_ONCE = 0.1  # seconds between signals that are one interruption
_NOTHING_GOES_ON = "Nothing goes on by itself"


class Leftovers:
    """Shows a run's events, and knows by them what is still there: a job that goes on, endpoints that cost money.

    - **command**: the name of the command, which goes on with it when it is given again.
    - **words**: what the command is about, as it was given.
    - **workspace**: the option that names its workspace, in words.
    - **show**: shows an event, after note was taken of it.
    - **again**: all words to give again; left out, those that it is about.
    """

    def __init__(
        self,
        command: str,
        words: Sequence[str],
        workspace: Sequence[str],
        show: Callable[[Event], None],
        *,
        again: Sequence[str] = (),
    ) -> None:
        self._words, self._workspace, self._show = words, workspace, show
        self._again = shlex.join(["phift", command, *(again or words)])
        self.goes_on = _NOTHING_GOES_ON  # whatever ends this process
        self.endpoints: list[str] = []
        self._running: set[str] = set()  # a search's jobs
        self.may_cost = False  # whether a deployment has begun, which an interruption rolls back

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        from phift import TrialChanged
        from phift.jobs.events import JobEvent, StatusChanged
        from phift.jobs.job import ENDED
        from phift.serving.resource import DeploymentEvent

        if isinstance(event, TrialChanged):
            (self._running.add if event.state == "running" else self._running.discard)(event.job)
            self.goes_on = self.of_search(event.search)
        elif isinstance(event, JobEvent):
            ended = isinstance(event, StatusChanged) and event.status in ENDED
            self.goes_on = _NOTHING_GOES_ON if ended else f"The job {event.job} goes on"
        elif isinstance(event, DeploymentEvent):
            self.goes_on, self.may_cost = _NOTHING_GOES_ON, True
            if event.stage in ("exists", "endpoint", "ready", "stays", "delete") and event.name not in self.endpoints:
                self.endpoints.append(event.name)
            elif event.stage == "deleted" and event.name in self.endpoints:
                self.endpoints.remove(event.name)
        self._show(event)

    def of_search(self, name: str) -> str:
        """Return what goes on of a search; of a job that is just being submitted nobody has told yet."""
        jobs = ", ".join(sorted(self._running))
        which = f"These jobs go on: {jobs}" if jobs else "Jobs of the search that run go on"
        return f"{which}; `{shlex.join(['phift', 'tune', 'stop', name, *self._workspace])}` cancels them"

    def stop_drawing(self) -> None:
        """Have nothing more drawn, so that what is said next stands by itself."""
        if stop := getattr(self._show, "stop_drawing", None):
            stop()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Say in the notes of an interruption, and of an error, what is left."""
        watch.left = self
        try:
            yield
        except BaseException as error:
            self.stop_drawing()
            interrupted = isinstance(error, KeyboardInterrupt)
            if interrupted:
                ignore_interruptions()
            for line in self.lines(interrupted=interrupted):
                error.add_note(line)
            raise
        finally:
            watch.left = None

    def lines(self, *, interrupted: bool) -> list[str]:
        """Return what is to be said of it."""
        lines = []
        if interrupted:
            lines += [f"{self.goes_on}; the same command goes on from here:", f"  {self._again}"]
        for name in self.endpoints:
            lines += [f"The endpoint {name} is still up and costs money; to delete it:", f"  {self.cleanup(name)}"]
        return lines

    def command(self, name: str) -> str:
        """Return the command of this name that is about the same."""
        return shlex.join(["phift", name, *self._words])

    def cleanup(self, endpoint: str) -> str:
        """Return the command that deletes an endpoint."""
        return shlex.join(["phift", "cleanup", endpoint, *self._workspace])
