"""How a job and its steps stand, how they end, and why.

Why a job failed is in the service's error of its step, or in the end of that step's log. Nothing is guessed: a table of
patterns says what is known, each with who says so, and what to change next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from phift.errors import JobCanceled, JobFailed, PhiftError, in_a_line, reasons, way_out
from phift.jobs.tracking import Tracking

Status: TypeAlias = Literal[
    "NotStarted",
    "Starting",
    "Provisioning",
    "Preparing",
    "Queued",
    "Running",
    "Finalizing",
    "CancelRequested",
    "NotResponding",
    "Paused",
    "Unknown",
    "Completed",
    "Failed",
    "Canceled",
]
"""The statuses that runs are known to have (azure-ai-ml 1.35.2, JobStatus of its REST models and of its run history).

A service may have others, so what it says is a ``str`` everywhere, and is passed on as it is.
"""

ENDED_BADLY = frozenset[str]({"Failed", "Canceled"})
ENDED = ENDED_BADLY | {"Completed"}
"""The statuses a run can end in; `jobs.stream` of the SDK returns silently for all but Failed.

It takes NotResponding and Paused for ends too (``TERMINAL_STATUSES`` of its run history): a run may go on from both.
"""
WAITING = frozenset[str]({"NotStarted", "Queued", "Preparing", "Provisioning", "Starting"})
"""Those before a node works on it."""


@dataclass(frozen=True)
class Step:
    """A child of the pipeline job."""

    name: str
    run_id: str
    status: str


_ADVICE = {
    "NotResponding": "its machine has not been heard of for a while; it may go on by itself: wait, or cancel it and "
    "submit it again",
    "Paused": "somebody has paused it, and it goes on when it is resumed, on its page in the studio",
}


def advice(status: str) -> str:
    """Return what is to be done about a status in which a run may stay for good; empty for others.

    NotResponding is a run that no longer says anything to the run history; it can go back to any earlier status. Paused
    is what users did (Microsoft Learn, MachineLearningJobStatus of Azure.ResourceManager.MachineLearning, read
    2026-11). phift takes neither for an end.
    """
    return _ADVICE.get(status, "")


# ---------------------------------------------------------------- why

CauseKind: TypeAlias = Literal[
    "out of memory", "pre-empted", "image", "quota", "capacity", "data", "disk", "service", "code", "unknown"
]
"""Why a job failed; ``code`` is an error of the step's own program, ``unknown`` what no row of the table knows."""

_LOOKED_AT = 300  # lines of the end of a log; behind an error come the last words of the processes that it ended
_SHOWN = 30
_LONGEST_EVIDENCE = 300  # characters


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A row of the table of causes, which is in ``causes.json``; the first row that fits counts.

    - **kind**: what sort of thing it is.
    - **text**: a regular expression for the service's error and for the end of a log; None where a row of
      `phift.errors.reasons` says how the service's error is known, and the log has no say.
    - **what**, **fix**: our sentence, and what to change next, by its name.
    - **source**, **date**: who says that it is told so, and when that was.
    """

    name: str
    kind: CauseKind
    what: str
    fix: str
    source: str
    date: str
    text: re.Pattern[str] | None = None

    def line_in(self, error: str, tails: Sequence[str]) -> tuple[str, int] | None:
        """Return the line that says so, and of which log it is; -1 for the service's error, None where none does."""
        if self.text is None:
            reason = next(reason for reason in reasons.table() if reason.name == self.name)
            return None if reason.code_in(error) is None else (error, -1)
        for number, said in enumerate((error, *tails), start=-1):
            if found := self.text.search(said):
                start, end = said.rfind("\n", 0, found.start()) + 1, said.find("\n", found.end())
                return said[start : end if end >= 0 else None], number
        return None


@cache
def causes() -> tuple[Cause, ...]:
    """Return all rows."""
    rows = json.loads((files(__name__.rpartition(".")[0]) / "causes.json").read_text(encoding="utf-8"))
    known = {reason.name: reason for reason in reasons.table()}
    found = []
    for row in rows:
        if name := row.get("reason"):
            told = {key: getattr(known[name], key) for key in ("name", "what", "fix", "source", "date")}
            found.append(Cause(kind=row["cause"], **told))
        else:
            told = {key: row[key] for key in ("name", "what", "fix", "source", "date")}
            found.append(Cause(kind=row["cause"], text=re.compile(row["text"]), **told))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How a job ended.

    - **status**: one of `ENDED`.
    - **cause**: why it failed; None for one that did not.
    - **step**: the step that failed, if one did.
    - **what**: what happened, in a sentence, with what the service said; **fix**: what to do about it.
    - **log_tail**: the end of the failed step's log.
    """

    job: str
    status: str
    what: str
    fix: str = ""
    cause: CauseKind | None = None
    step: str = ""
    log_tail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return asdict(self)

    def raise_if_bad(self) -> None:
        """Raise `phift.errors.JobFailed` or `phift.errors.JobCanceled`; do nothing for a job that has completed."""
        where = f"job {self.job}"
        if self.status == "Canceled":
            raise JobCanceled(self.what, where=where, fix=self.fix, job=self.job)
        if self.status == "Failed":
            details = {"job": self.job, "step": self.step or None, "log_tail": self.log_tail, "cause": self.cause}
            raise JobFailed(self.what, where=where, fix=self.fix, **details)


def read_end(job: str, status: str, steps: Callable[[], Sequence[Step]], tracking: Callable[[], Tracking]) -> JobEnd:
    """Return how a job ended; of one that failed, what its step's error and the end of its log say."""
    if status == "Canceled":
        return JobEnd(job=job, status=status, what="The job was cancelled.", fix="submit it again")
    if status != "Failed":
        return JobEnd(job=job, status=status, what="The job has completed.")
    failed = None
    with suppress(PhiftError):  # that the job failed is the news, not that its steps are out of reach
        failed = next((step for step in steps() if step.status == "Failed"), None)
    run = failed.run_id if failed else job
    said, unread = _readable(lambda: [tracking().error(run)])
    error, tails = "".join(said), list[str]()
    reason = error or (f"(it {unread})" if unread else "")
    what, fix = reason or "The job failed.", "look at the job's page in the studio"
    if failed:
        tails, unread = _readable(lambda: tracking().log_tails(run, _LOOKED_AT))
        what, fix = f"The step {failed.name} failed: {reason or 'no reason given'}", "mend the cause and submit again"
        what += f" (its log {unread})" if unread else ""
    cause: CauseKind = "unknown"
    of, fix = 0, way_out(error) or fix
    for each in causes():
        if found := each.line_in(error, tails):
            cause, of, fix = each.kind, max(found[1], 0), f"{each.what}: {each.fix}"
            if found[1] >= 0 and cause != "code":
                what += f" (its log: {in_a_line(found[0].strip())[:_LONGEST_EVIDENCE]})"
            break
    return JobEnd(
        job=job,
        status=status,
        what=what,
        fix=f"the end of the step's log is in `log_tail`; {fix}" if tails else fix,
        cause=cause,
        step=failed.name if failed else "",
        log_tail="\n".join(tails[of].splitlines()[-_SHOWN:]) if tails else "",
    )


def _readable(read: Callable[[], list[str]]) -> tuple[list[str], str]:
    """Return what a look at the failure says, and why it says nothing, which is neither the failure nor its cause."""
    try:
        return read(), ""
    except PhiftError as error:
        return [], f"could not be read: {error.what}"
