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
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Self

from phift.azure.clients import Clients
from phift.errors import NotFound, PhiftError, in_a_line
from phift.jobs.job import FineTuneJob
from phift.serving.resource import CREATED, DeploymentEvent, OnEvent
from phift.serving.waiting import Waiting

logger = logging.getLogger(__name__)

State = Literal["arriving", "deploying", "block", "leaving", "kept", "left"]

_PREFIX = "phift.use"
# Seconds after which somebody counts as gone: the service gives an operation 30 minutes, and a deployment is three of
# them. Of a block only where its process is on another machine, where it cannot be looked at.
_LONGEST = {"arriving": 600.0, "deploying": 2 * 3600.0, "leaving": 3600.0, "block": 24 * 3600.0}
_MOST_SECONDS_BETWEEN_LOOKS = 5.0
_PROCESS = uuid.uuid4().hex[:12]
_OURS: set[str] = set()  # the uses of this process that have not ended
# All that this process keeps of one endpoint is one tag, however often it deploys it: a run has 50 at most. By the job
# and the tag, the uses that keep what it has deployed there.
_keepers: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
_keeping = threading.Lock()


@cache
def this_machine() -> str:
    """Return digits for this machine since its last start, among which processes are told apart by their numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id")  # Linux only
    more = boot.read_text(encoding="ascii") if boot.is_file() else f"{uuid.getnode():x}"
    return hashlib.sha256(f"{platform.node()} {more}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Other:
    """Somebody else's use, as its tag says."""

    key: str
    state: str
    host: str = ""
    pid: int = 0
    since: float = 0  # seconds since 1970
    number: int = 0  # its turn, where it deploys

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
        try:
            if self.host == this_machine():
                os.kill(self.pid, 0)
        except OSError as error:  # another user's must not be asked
            return not isinstance(error, ProcessLookupError)
        return True


class EndpointUse:
    """One use of an endpoint: a deployment that is being made, then a block, or for good.

    What goes wrong with the tags is logged and costs nobody the endpoint: `leave` then goes by ``made``, as it does for
    an endpoint without a job, whose uses nobody notes.

    It belongs to the process that it was begun in. The copy that a forked child has of it begins and ends nothing.

    - **made**: whether this use's deployment made the endpoint; set by `phift.serving.deployment.deploy_model`.
    """

    def __init__(self, job: FineTuneJob | None, endpoint: str, *, made: bool = False) -> None:
        self.made = made
        self._job, self._endpoint = job, endpoint
        self._key = f"{_PREFIX}.{endpoint}.{uuid.uuid4().hex[:12]}"
        self._kept_key = f"{_PREFIX}.{endpoint}.{_PROCESS}.kept"
        self._keeping = (job.name if job else "", self._kept_key)
        self._told = job is not None  # the tags say who else uses it
        self._others: list[_Other] = []
        self._process = os.getpid()

    @property
    def is_copy(self) -> bool:
        """Whether this is a forked child's copy."""
        return os.getpid() != self._process

    @classmethod
    def begin(
        cls, clients: Clients, job: FineTuneJob | None, endpoint: str, emit: OnEvent, waiting: Waiting | None = None
    ) -> Self:
        """Say that the endpoint is needed, and wait until nobody else makes or deletes it.

        Raises `phift.errors.WaitTimeout` where that is to be waited for no longer.
        """
        use, waiting = cls(job, endpoint), waiting or Waiting()

        def is_before(other: _Other) -> bool:
            first = other.state == "deploying" and (other.number, other.key) < (number, use._key)
            return (first or other.state in ("arriving", "leaving")) and other.alive

        try:
            with use._telling():
                use._write("arriving", use._key)
                number = 1 + max((other.number for other in use._look()), default=0)
                use._write("deploying", use._key, number)
                told = False
                while any(map(is_before, use._look())) and not waiting.is_over:
                    if not told:
                        emit(DeploymentEvent("waits", endpoint))
                        told = True
                    time.sleep(min(clients.poll_seconds, _MOST_SECONDS_BETWEEN_LOOKS))
            waiting.check(f"endpoint {endpoint}")
        except BaseException:  # nobody must wait for a caller that gave up
            use._release()
            raise
        return use

    def others_in_block(self, own: EndpointUse | None = None) -> bool:
        """Tell whether somebody uses the endpoint in a block: anybody but this use and the caller's **own** one.

        Nobody does of a job that is deleted; raises what the service said where the tags cannot be read.
        """
        with suppress(NotFound):
            return any(o.alive and o.state == "block" and (own is None or o.key != own._key) for o in self._look())
        return False

    def found(self, tags: Mapping[str, str] | None) -> None:
        """Take note of the endpoint's tags, or that there was none; what was kept of one that is gone is void."""
        if tags is not None and CREATED not in tags:  # an older phift made it, which wrote down nobody's use
            self._told = False
        if self._kept_key not in {other.key for other in self._others}:
            _keepers.pop(self._keeping, None)  # it went with an endpoint that somebody else deleted
        with self._telling():
            for other in self._others:
                if not other.alive or (other.state == "kept" and tags is None):
                    _erase(self._job, other.key)

    def keep(self) -> None:
        """Leave the endpoint up on purpose, until a block begins."""
        if self._job is None:
            return
        with self._telling():
            with _keeping:
                _keepers[self._keeping].add(self._key)  # before: whatever ends the writing, the tag is this use's own
                self._write("kept", self._kept_key)
            without_process = [o for o in self._others if o.state == "kept" and not o.has_process]
            for other in without_process[1:]:  # one says it as well as many
                _erase(self._job, other.key)
        self._release()

    def enter(self) -> None:
        """Begin a block."""
        if self.is_copy:
            return
        with self._telling():
            self._write("block", self._key)
        self._keep_no_longer()

    def leave(self, take_back: Callable[[], None], *, whole: bool = True) -> bool:
        """End the use, and where nobody else needs the endpoint, take it back; returns whether that was done.

        What could not be taken back is nobody's, so that the end of the next block does it.

        - **take_back**: deletes the endpoint, or only what this use deployed to it, as **whole** says; who keeps the
          endpoint needs no such deployment.
        """
        if self.is_copy:
            return False
        try:
            is_last = self.made or (self._job is None and not whole)
            if self._told:
                harmless = ("leaving",) if whole else ("leaving", "kept")
                with self._telling():
                    self._write("leaving", self._key)
                    is_last = not any(other.alive and other.state not in harmless for other in self._look())
            if is_last:
                take_back()
            self.end(deleted=is_last and whole)
        except BaseException:
            with self._telling():
                self._write("left", self._key)
            self._keep_no_longer(ends=True)
            _OURS.discard(self._key)
            raise
        return is_last

    def end(self, *, deleted: bool) -> None:
        """Take the tags away: one's own, and those of what is gone with the endpoint."""
        if deleted:
            forget_uses(self._job, self._endpoint, but=self._own_keys)
        self._keep_no_longer(ends=True)
        self._release()

    def _write(self, state: State, key: str, number: int = 0) -> None:
        if self._job is None:
            return
        _OURS.add(key)
        who = {"host": this_machine(), "pid": os.getpid(), "since": round(time.time(), 3)}
        self._job.tracking.set_tag(self._job.name, key, json.dumps({"state": state, **who, "number": number}))

    def _look(self) -> list[_Other]:
        self._others = [use for use in _read_uses(self._job, self._endpoint) if use.key not in self._own_keys]
        return self._others

    @property
    def _own_keys(self) -> set[str]:
        """The tags of this use; what this process keeps is another's too where not this use alone keeps it."""
        return {self._key, self._kept_key} if _keepers.get(self._keeping) == {self._key} else {self._key}

    def _keep_no_longer(self, *, ends: bool = False) -> None:
        """Take away the tag that keeps the endpoint, unless another use of this process keeps it too.

        A tag that cannot be taken away stays this use's own until that ends: as somebody else's it would keep the
        endpoint up.
        """
        keepers = _keepers.get(self._keeping, set())
        if self._key in keepers:
            with _keeping:
                if len(keepers) > 1 or self._try_to_erase(self._kept_key) or ends:
                    keepers.discard(self._key)

    def _release(self) -> None:
        if self._key in _OURS and not self.is_copy:
            _OURS.discard(self._key)
            self._try_to_erase(self._key)

    def _try_to_erase(self, key: str) -> bool:
        try:
            _erase(self._job, key)
        except PhiftError as error:
            logger.info("The tag %s of endpoint %s stays: %s", key, self._endpoint, in_a_line(error.what))
            return False
        return True

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Let nothing that goes wrong with the tags get any further."""
        try:
            yield
        except PhiftError as error:
            if self._told:
                message = "Who else uses endpoint %s cannot be noted, so its maker alone deletes it: %s"
                logger.warning(message, self._endpoint, in_a_line(error.what))
            self._told = False


def is_used(job: FineTuneJob, endpoint: str, *, but: EndpointUse | None = None, or_kept: bool = False) -> bool:
    """Tell whether somebody **but** a use deploys an endpoint of a job now, or uses it in a block.

    Nobody does of a job that is deleted.

    - **or_kept**: or has left it up on purpose.
    """
    try:
        found = _read_uses(job, endpoint)
    except NotFound:
        return False
    others = (use for use in found if but is None or use.key != but._key)
    states = ("arriving", "deploying", "block", *(("kept",) if or_kept else ()))
    return any(use.alive and use.state in states for use in others)


def kept_since(job: FineTuneJob, endpoint: str) -> dict[str, float]:
    """Return since when an endpoint of a job is kept up on purpose, in seconds since 1970, by the tags that say so."""
    return {use.key: use.since for use in _read_uses(job, endpoint) if use.state == "kept"}


def forget_uses(job: FineTuneJob | None, endpoint: str, *, but: Collection[str] = ()) -> None:
    """Take away all tags of uses of an endpoint that is gone, **but** those that their writer takes away himself."""
    try:
        for use in _read_uses(job, endpoint):
            if use.key not in but and (use.state in ("kept", "leaving") or not use.alive):
                _erase(job, use.key)
    except PhiftError as error:
        logger.info("Tags of uses of endpoint %s stay on its job: %s", in_a_line(endpoint), in_a_line(error.what))


def _erase(job: FineTuneJob | None, key: str) -> None:
    if job:
        job.tracking.delete_tag(job.name, key)
    _keepers.pop((job.name if job else "", key), None)


def _read_uses(job: FineTuneJob | None, endpoint: str) -> list[_Other]:
    """Read the tags of an endpoint's uses; a stranger's counts as kept, so that nothing is deleted on its account."""
    found = []
    for key, value in job.tracking.tags(job.name).items() if job else ():
        if key.startswith(f"{_PREFIX}.{endpoint}."):
            try:
                said = json.loads(value)
                where = str(said["host"]), int(said["pid"]), float(said["since"])
                found.append(_Other(key, str(said["state"]), *where, int(said.get("number", 0))))
            except (ValueError, TypeError, KeyError, AttributeError):
                found.append(_Other(key, "kept"))
    return found
