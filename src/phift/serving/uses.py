"""Who uses an endpoint: so that the end of one block does not take it away from another.

An endpoint of a run is made once, whoever deploys it: two threads, five processes, another machine. Each of them leaves
a tag on the job's run, one tag a use, so that no writer overwrites another's.

They come in one after the other, by Lamport's bakery algorithm, since Azure knows no PUT on a condition: who creates an
endpoint that is there already takes its traffic away. Whoever leaves a block writes that he is leaving before he looks
who else is there, and whoever comes writes that he is there before he looks who is leaving; so one of the two sees the
other, and the last one out deletes.

What was deployed outside of a block is *kept*: it is there on purpose, and no block's end deletes it. Otherwise the tag
of a process that is gone does not count.

Tags are written and read through the workspace's MLflow routes; that Azure takes ``runs/delete-tag`` is unverified.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Self

from phift.azure.clients import Clients
from phift.errors import PhiftError
from phift.jobs.job import FineTuneJob
from phift.serving.resource import CREATED

logger = logging.getLogger(__name__)

State = Literal["arriving", "deploying", "block", "leaving", "kept", "left"]

_PREFIX = "phift.use"
# Seconds after which somebody counts as gone: the service gives an operation 30 minutes, and a deployment is three of
# them. Of a block only where its process is on another machine, where it cannot be looked at.
_LONGEST = {"arriving": 600.0, "deploying": 2 * 3600.0, "leaving": 3600.0, "block": 24 * 3600.0}
_MOST_SECONDS_BETWEEN_LOOKS = 5.0
_PROCESS = uuid.uuid4().hex[:12]
_OURS: set[str] = set()
"""The uses of this process that have not ended."""

# All that this process keeps of one endpoint is one tag, however often it deploys it: a run has 50 at most.
_kept: Counter[str] = Counter()
_keeping = threading.Lock()


@cache
def this_machine() -> str:
    """Return digits for this machine since its last start, among which processes are told apart by their numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id")  # Linux only
    more = boot.read_text(encoding="ascii") if boot.is_file() else f"{uuid.getnode():x}"
    return hashlib.sha256(f"{platform.node()} {more}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Other:
    """Somebody else's use, as its tag says.

    - **since**: seconds since 1970.
    - **number**: its turn, where it deploys.
    """

    key: str
    state: str
    host: str = ""
    pid: int = 0
    since: float = 0
    number: int = 0

    @property
    def alive(self) -> bool:
        """Whether it counts: what is kept does though its process be gone, and what could not be deleted does not."""
        if self.state in ("kept", "left"):
            return self.state == "kept"
        here = self.host == this_machine()
        if not (here and self.state == "block") and time.time() - self.since > _LONGEST.get(self.state, 0):
            return False
        return self.key in _OURS if here and self.pid == os.getpid() else self.has_process

    @property
    def has_process(self) -> bool:
        """Whether the process that wrote it may still be there."""
        if self.host != this_machine():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is another user's
            return True
        return True


class EndpointUse:
    """One use of an endpoint: a deployment that is being made, then a block, or for good.

    What goes wrong with the tags is logged and costs nobody the endpoint: `is_last` then says what ``made`` says.

    - **made**: whether this use's deployment made the endpoint; set by `phift.serving.deployment.deploy_model`.
    """

    def __init__(self, clients: Clients, job: FineTuneJob, endpoint: str) -> None:
        self.made = False
        self._clients, self._job, self._endpoint = clients, job, endpoint
        self._key = f"{_PREFIX}.{endpoint}.{uuid.uuid4().hex[:12]}"
        self._kept_key = f"{_PREFIX}.{endpoint}.{_PROCESS}.kept"
        self._keeps = False
        self._untold = False  # the tags cannot be written or read
        self._foreign = False
        self._others: list[_Other] = []

    @classmethod
    def begin(cls, clients: Clients, job: FineTuneJob, endpoint: str, on_wait: Callable[[], None]) -> Self:
        """Say that the endpoint is needed, and wait until nobody else makes or deletes it.

        - **on_wait**: called once if there is something to wait for.
        """
        use = cls(clients, job, endpoint)
        try:
            use._take_turn(on_wait)
        except PhiftError as error:
            use._give_up(error)
        except BaseException:  # nobody must wait for a caller that gave up
            use._release()
            raise
        return use

    def _take_turn(self, on_wait: Callable[[], None]) -> None:
        self._write("arriving", self._key)
        number = 1 + max((other.number for other in self._look()), default=0)
        self._write("deploying", self._key, number)
        told = False
        while any(self._is_before(other, number) for other in self._look()):
            if not told:
                on_wait()
                told = True
            time.sleep(min(self._clients.poll_seconds, _MOST_SECONDS_BETWEEN_LOOKS))

    def _is_before(self, other: _Other, number: int) -> bool:
        first = other.state == "deploying" and (other.number, other.key) < (number, self._key)
        return (first or other.state in ("arriving", "leaving")) and other.alive

    def found(self, tags: Mapping[str, str] | None) -> None:
        """Take note of whether the endpoint was there; what was kept of one that is gone is void.

        - **tags**: the endpoint's; None where there was none.
        """
        exists = tags is not None
        # An older phift made it, which wrote down nobody's use.
        self._foreign = tags is not None and CREATED not in tags
        if self._kept_key not in {other.key for other in self._others}:
            _kept.pop(self._kept_key, None)  # it went with an endpoint that somebody else deleted
        try:
            for other in self._others:
                if not other.alive or (other.state == "kept" and not exists):
                    self._erase(other.key)
        except PhiftError as error:
            self._give_up(error)

    def keep(self) -> None:
        """Leave the endpoint up on purpose, until a block begins."""
        try:
            with _keeping:
                _kept[self._kept_key] += 1
                self._keeps = True  # before it is written: whatever ends that, the tag is this use's own
                self._write("kept", self._kept_key)
            without_process = [o for o in self._others if o.state == "kept" and not o.has_process]
            for other in without_process[1:]:  # one says it as well as many
                self._erase(other.key)
        except PhiftError as error:
            self._give_up(error)
        self._release()

    def enter(self) -> None:
        """Begin a block."""
        try:
            self._write("block", self._key)
        except PhiftError as error:
            self._give_up(error)
        self._keep_no_longer()

    def is_last(self, *, but: frozenset[State] = frozenset({"leaving"})) -> bool:
        """Say that the use ends, and return whether nobody else needs the endpoint, so that it is to be deleted.

        Call `end` or `leave_behind` afterwards.

        - **but**: states in which others do not count.
        """
        if self._untold or self._foreign:
            return self.made
        try:
            self._write("leaving", self._key)
            return not any(other.alive and other.state not in but for other in self._look())
        except PhiftError as error:
            self._give_up(error)
            return self.made

    def end(self, *, deleted: bool) -> None:
        """Take the tags away: one's own, and those of what is gone with the endpoint."""
        if deleted:
            forget_uses(self._job, self._endpoint)
        self._keep_no_longer(ends=True)
        self._release()

    def leave_behind(self) -> None:
        """Say that the endpoint could not be deleted and is nobody's, so that the end of the next block does it."""
        try:
            self._write("left", self._key)
        except PhiftError as error:
            self._give_up(error)
        self._keep_no_longer(ends=True)
        _OURS.discard(self._key)

    def _write(self, state: State, key: str, number: int = 0) -> None:
        _OURS.add(key)
        value = {"state": state, "host": this_machine(), "pid": os.getpid(), "since": round(time.time())}
        value |= {"number": number} if number else {}
        self._job.tracking.set_tag(self._job.name, key, json.dumps(value))

    def _look(self) -> list[_Other]:
        """Return the others; what this process keeps is one of them where not this use alone keeps it."""
        found = _uses(self._job.tracking.tags(self._job.name), self._endpoint)
        own = {self._key, self._kept_key} if self._keeps and _kept[self._kept_key] == 1 else {self._key}
        self._others = [other for other in found if other.key not in own]
        return self._others

    def _keep_no_longer(self, *, ends: bool = False) -> None:
        """Take away the tag that keeps the endpoint, unless another use of this process keeps it too.

        A tag that cannot be taken away stays this use's own until that ends: as somebody else's it would keep the
        endpoint up.
        """
        if not self._keeps:
            return
        with _keeping:
            gone = _kept[self._kept_key] > 1 or self._try_to_erase(self._kept_key)
            if gone or ends:
                _kept[self._kept_key] = max(0, _kept[self._kept_key] - 1)
                self._keeps = False

    def _release(self) -> None:
        if self._key in _OURS:
            _OURS.discard(self._key)
            self._try_to_erase(self._key)

    def _try_to_erase(self, key: str) -> bool:
        try:
            self._erase(key)
        except PhiftError as error:
            logger.info("The tag %s of job %s stays: %s", key, self._job.name, error.what)
            return False
        return True

    def _erase(self, key: str) -> None:
        self._job.tracking.delete_tag(self._job.name, key)
        _kept.pop(key, None)

    def _give_up(self, error: PhiftError) -> None:
        if not self._untold:
            message = "Who else uses endpoint %s cannot be noted, so its maker alone deletes it: %s"
            logger.warning(message, self._endpoint, error.what)
        self._untold = True


def forget_uses(job: FineTuneJob, endpoint: str) -> None:
    """Take away all tags of uses of an endpoint that is gone."""
    try:
        for use in _uses(job.tracking.tags(job.name), endpoint):
            if use.state in ("kept", "leaving") or not use.alive:
                job.tracking.delete_tag(job.name, use.key)
                _kept.pop(use.key, None)
    except PhiftError as error:
        logger.info("Tags of uses of endpoint %s stay on job %s: %s", endpoint, job.name, error.what)


def _uses(tags: Mapping[str, str], endpoint: str) -> list[_Other]:
    prefix = f"{_PREFIX}.{endpoint}."
    return [_read(key, value) for key, value in tags.items() if key.startswith(prefix)]


def _read(key: str, value: str) -> _Other:
    """Read a tag; one that somebody else wrote counts as kept, so that nothing is deleted on its account."""
    try:
        said = json.loads(value)
        where = str(said["host"]), int(said["pid"]), float(said["since"])
        return _Other(key, str(said["state"]), *where, int(said.get("number", 0)))
    except (ValueError, TypeError, KeyError, AttributeError):
        return _Other(key, "kept")
