"""A better model takes an endpoint over step by step, and is taken back by itself where it is not better.

It goes on only while somebody waits for it. All that it is stands in the endpoint's tags, so another process goes on
where one was killed. Azure knows no change on a condition: who goes on reads the tags before each change, and stops
where somebody else has written them; what both may have done is the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self

from phift.azure.answers import texts
from phift.azure.clients import Clients
from phift.errors import (
    AuthenticationError,
    ConfigError,
    Conflict,
    DeploymentFailed,
    NotFound,
    PhiftError,
    ServiceError,
    WaitTimeout,
    forgetting_locals,
    in_a_line,
    isolated,
    redact,
    visible,
)
from phift.jobs.job import JOB_TAG
from phift.jobs.patience import Patience, may_pass
from phift.jobs.registration import RegisteredModel
from phift.serving import resource
from phift.serving.crash import crash_in
from phift.serving.gate import Gate, Verdict
from phift.serving.lifetime import MOST_TAGS
from phift.serving.model import ServedModel, another_model, served_model
from phift.serving.monitor import Traffic, metrics_delay, read_traffic
from phift.serving.price import cost_of
from phift.serving.resource import CREATED, SERVES
from phift.serving.rollout_ledger import Ledger, Shares, TrafficChanged
from phift.serving.rollout_state import ENDED, GATE, STATE, WHY, RolloutEvent, RolloutStatus, State, read_state
from phift.serving.shares import check_plan, only_one
from phift.serving.sharing import free_name, is_needed, let_requests_end, mirrored_shares, traffic
from phift.serving.waiting import Waiting

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineDeployment, OnlineEndpoint

OnEvent = Callable[[RolloutEvent], object]

_LONGEST_LOOK = 60.0  # seconds between two looks at a deployment


class _Served(Protocol):
    """What a rollout needs of an endpoint."""

    @property
    def name(self) -> str: ...

    @property
    def clients(self) -> Clients: ...

    @property
    def ledgers(self) -> list[Ledger]: ...


class Rollout:
    """A rollout that `phift.Endpoint.rollout` has begun, or another process has.

    - **endpoint**: whose it is.
    - **gate**: what judges it.
    """

    def __init__(
        self,
        endpoint: _Served,
        gate: Gate,
        *,
        model: ServedModel | None = None,
        size: str | None = None,
        gate_is_whole: bool = True,
        on_event: OnEvent | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._clients, self._name = endpoint.clients, endpoint.name
        self.gate, self._gate_is_whole = gate, gate_is_whole
        self._model, self._size = model, size
        self._tell = isolated(on_event)
        self._there = resource.endpoint(self._clients, self._name)
        self._ledger = Ledger(self._clients, self._name, gate.written(compares=not gate_is_whole))
        self._soaks_until = 0.0
        self._costs = self._left = ""

    def __repr__(self) -> str:
        return f"<Rollout on {in_a_line(self._name)}>"

    # ---------------------------------------------------------------- begun, or found

    @classmethod
    @forgetting_locals()
    def begin(
        cls,
        endpoint: _Served,
        model: RegisteredModel | str,
        *,
        steps: Sequence[int],
        soak: float,
        gate: Gate | None,
        mirror: int,
        deployment: str | None,
        size: str | None,
        keep_old: bool,
        on_event: OnEvent | None,
    ) -> Self:
        """Begin to roll a model out on an endpoint, or go on; see `phift.Endpoint.rollout`."""
        clients, name = endpoint.clients, endpoint.name
        check_plan(steps, soak, mirror)
        served = served_model(clients, model)
        digest = served.digest
        there = resource.endpoint(clients, name)
        found = there.settled()
        if found is None:
            raise NotFound(f"There is no endpoint {name}.", where=there.place, fix="deploy a model first")
        tags = texts(found.tags, "endpoint.tags")
        state = read_state(tags, name)
        begun = state if state and state.phase not in ENDED else None
        judge, is_whole = _gate_of(tags) if gate is None and begun else (gate or Gate(), True)
        made = cls(endpoint, judge, model=served, size=size, gate_is_whole=is_whole, on_event=on_event)
        endpoint.ledgers.append(made._ledger)
        if begun:
            if begun.model != digest:
                what = f"A rollout of another model is under way on the endpoint {name} ({begun.phase})."
                fix = f"end it first: phift rollout {name} --promote, or phift rollout {name} --roll-back"
                raise Conflict(what, where=made._there.place, fix=fix)
            return made
        if state and (state.phase, state.model, traffic(found)) == ("promoted", digest, {state.new: 100}):
            return made  # there is nothing to do
        old = only_one(found, name)
        new = free_name(clients, name, old, digest, deployment)
        made._like_the_old_one(old, new, served)  # refused before anything is written down
        plan = State(model=digest, old=old, new=new, steps=tuple(steps), soak=soak, mirror=mirror, kept=keep_old)
        if len({*tags, STATE, GATE, WHY}) > MOST_TAGS:
            what = f"The endpoint {name} has {len(tags)} tags, and Azure's resources have {MOST_TAGS} at most."
            raise ConfigError(what, where=made._there.place, fix="delete three of its tags: a rollout needs them")
        made._ledger.begin(plan, state)
        return made

    @classmethod
    @forgetting_locals()
    def attach(cls, endpoint: _Served, *, gate: Gate | None = None, on_event: OnEvent | None = None) -> Self:
        """Return the rollout of an endpoint, under way or ended, whoever has begun it.

        - **gate**: as it was begun with, left out; a comparison stands in no tag, and is to be handed in again.

        Raises `phift.errors.NotFound` where there never was one.
        """
        there = resource.endpoint(endpoint.clients, endpoint.name).settled()
        tags = texts(there.tags, "endpoint.tags") if there is not None else {}
        if read_state(tags, endpoint.name) is None:
            what = f"There is no rollout on the endpoint {endpoint.name}."
            raise NotFound(what, where=f"endpoint {endpoint.name}", fix="begin one: endpoint.rollout(model)")
        gate, is_whole = _gate_of(tags) if gate is None else (gate, True)
        found = cls(endpoint, gate, gate_is_whole=is_whole, on_event=on_event)
        endpoint.ledgers.append(found._ledger)
        return found

    # ---------------------------------------------------------------- for users

    @property
    @forgetting_locals()
    def status(self) -> RolloutStatus:
        """How far it is, asked now."""
        found = self._there.settled()
        tags = texts(found.tags, "endpoint.tags") if found is not None else {}
        state = read_state(tags, self._name)
        if state is None:
            raise NotFound(f"The endpoint {self._name} has no rollout any more.", where=self._there.place)
        return RolloutStatus.of(self._name, state, tags.get(WHY, ""), self._left)

    @forgetting_locals()
    def wait(self, *, timeout: float | None = None) -> RolloutStatus:
        """Go on with it until it has ended, or pauses: what is paused goes on, and each step is judged anew.

        Ctrl-C and an error leave it as it is, and their notes say how to go on. Raises `phift.errors.Conflict` where
        another process goes on with it, `phift.errors.DeploymentFailed` where the new deployment does not come up,
        which is taken back then, and `phift.errors.WaitTimeout` after **timeout** seconds.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        with self._how_to_go_on():
            _, state = self._ledger.read()
            if state.phase == "paused":
                state = self._resume(state)
            if state.phase in ("mirroring", "serving"):  # which an earlier call has begun
                self._emit(state, state.phase)
            while state.phase not in (*ENDED, "paused"):
                try:
                    state = self._go_on(state, end)
                except TrafficChanged as changed:
                    state = self._pause(self._ledger.read()[1], str(changed))
        return self.status

    @forgetting_locals()
    def promote(self, *, keep_old: bool | None = None) -> RolloutStatus:
        """Give the new deployment the old one's traffic now, whatever the gate would say, and delete the old one.

        - **keep_old**: leave that up; left out, as it was begun.

        Raises `phift.errors.Conflict` where the new one is not up, or the rollout has been rolled back.
        """
        return self._end_now("promoting", keep_old)

    @forgetting_locals()
    def roll_back(self, *, keep_new: bool = False) -> RolloutStatus:
        """Give the old deployment the new one's traffic at once, and delete the new one.

        - **keep_new**: leave that up.

        Raises `phift.errors.Conflict` where the old one is not up, or the rollout has been promoted.
        """
        return self._end_now("rolling back", keep_new)

    def _end_now(self, phase: Any, kept: bool | None) -> RolloutStatus:
        with self._how_to_go_on():
            _, state = self._ledger.read()
            if state.phase in ENDED and state.phase != ("promoted" if phase == "promoting" else "rolled back"):
                what = f"The rollout on endpoint {self._name} has ended already: it is {state.phase}."
                fix = "begin another one, of the model that is to have the traffic: endpoint.rollout(model)"
                raise Conflict(what, where=self._there.place, fix=fix)
            if state.phase not in ENDED:
                other = "rolling back" if phase == "promoting" else "promoting"
                target = state.new if phase == "promoting" else state.old
                there = resource.deployment(self._clients, self._name, target).settled()
                if state.phase == other or there is None or resource.provisioning_state(there) != "succeeded":
                    why = "is not up" if state.phase != other else "is just losing the traffic"
                    what = f"The deployment {target} cannot take the traffic over: it {why}."
                    raise Conflict(what, where=self._there.place, fix="wait for the rollout: rollout.wait()")
                state = replace(state, kept=state.kept if kept is None else kept)
                self._finish(self._hand_over(state, phase, "asked for"))
        return self.status

    def _emit(self, state: State, stage: str, why: str = "") -> None:
        live, mirrored = state.shares
        share = mirrored.get(state.new) or live.get(state.new, 0)
        told = in_a_line(redact(why))
        self._tell(RolloutEvent(endpoint=self._name, deployment=state.new, stage=stage, share=share, text=told))

    @contextmanager
    def _how_to_go_on(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if (state := self._ledger.seen) is not None and state.phase not in ENDED:
                status = RolloutStatus.of(self._name, state, "")
                error.add_note(visible(f"The rollout stays as it is. {status}. {self._costs}".rstrip()))
                back = f"phift rollout {self._name} --roll-back"
                error.add_note(visible(f"It goes on: phift rollout {self._name} --resume; or back: {back}"))
            raise

    # ---------------------------------------------------------------- its steps

    def _go_on(self, state: State, end: float) -> State:
        if state.phase == "deploying":
            return self._deploy(state, end)
        if state.phase in ("promoting", "rolling back"):
            return self._finish(state)
        return self._soak(state, end)

    def _resume(self, state: State) -> State:
        if state.at < 0:
            return self._ledger.write(replace(state, phase="deploying"))
        kind, _ = state.stages[state.at]
        now = time.time()
        resumed = self._ledger.write(replace(state, phase=kind, until=round(now + state.soak, 1)))
        self._soaks_until = now + state.soak
        return resumed

    def _deploy(self, state: State, end: float) -> State:
        waiting = Waiting(None if end == math.inf else max(0.0, end - time.monotonic()))
        there = resource.deployment(self._clients, self._name, state.new, waiting)
        existing = there.settled()
        if existing is not None and texts(existing.tags, "deployment.tags").get(SERVES) != state.model:
            what = f"The endpoint {self._name} has a deployment {state.new} by now, which serves another model."
            way_back = f"take the rollout back: phift rollout {self._name} --roll-back"
            raise Conflict(what, where=there.place, fix=way_back)
        if existing is not None and resource.provisioning_state(existing) == "succeeded":
            self._costs = ""  # what an earlier call that ended too early has said
        else:
            if self._model is None:
                what = "The new deployment is not there yet, and the endpoint's tags do not name its model."
                raise ConfigError(what, where=there.place, fix="go on with endpoint.rollout(model), as it was begun")
            self._emit(state, "deploying")
            wanted = self._like_the_old_one(state.old, state.new, self._model)
            self._costs = f"The deployment {self._name}/{state.new} may come up all the same, and costs money then."

            def is_right(found: OnlineDeployment) -> bool:
                return texts(found.tags, "deployment.tags").get(SERVES) == state.model

            def if_still_wanted(_found: OnlineDeployment) -> OnlineDeployment:
                self._ledger.read()
                return wanted

            try:
                self._ledger.read()
                there.put(wanted, is_right=is_right, renew=if_still_wanted)
                made = there.settled() or there.get()  # another process that goes on may just send the same
                if resource.provisioning_state(made) != "succeeded":
                    raise DeploymentFailed(f"it ended as {resource.provisioning_state(made)}.", where=there.place)
            except PhiftError as error:
                if may_pass(error) or isinstance(error, AuthenticationError | Conflict | WaitTimeout):
                    raise  # the next call goes on from here
                tail = resource.log_tail(self._clients, self._name, state.new)
                why, fix = error.what, error.fix
                if crash := crash_in(tail):
                    why, fix = f"{why.rstrip('.')}. By its log: {crash.what}.", crash.fix
                self._finish(self._take_back(state, f"the deployment did not come up: {why}"))
                what = f"The new deployment did not come up, and is taken back: {why}"
                raise DeploymentFailed(
                    what, where=there.place, fix=fix, log_tail=tail, status=error.status, code=error.code
                ) from error
            self._costs = ""
            with self._ledger.deleting_where_ended(state, str(wanted.tags[CREATED])):
                self._ledger.read()
        if not state.compared and (self.gate.compare or not self._gate_is_whole):
            self._emit(state, "comparing")
            verdict = self._compare(state)
            self._emit(state, "judged", verdict.reason)
            if verdict.outcome == "fail":
                return self._take_back(state, verdict.reason)
            if verdict.outcome == "not judged":
                return self._pause(state, verdict.reason)
            state = replace(state, compared=True)
        return self._stage(state, 0)

    def _compare(self, state: State) -> Verdict:
        if not self._gate_is_whole:
            return Verdict("not judged", "its gate compares answers, and the comparison is to be handed in again")
        return self.gate.judge_answers((self.endpoint, state.old), (self.endpoint, state.new))

    def _like_the_old_one(self, old: str, new: str, model: ServedModel) -> OnlineDeployment:
        tags = {**model.tags, CREATED: datetime.now(UTC).isoformat(timespec="microseconds")}
        there = resource.deployment(self._clients, self._name, old)
        return another_model(there.settled() or there.get(), new, model.id, tags, size=self._size)

    def _stage(self, state: State, at: int) -> State:
        """Give the new deployment what it is to get at a stage, from now on for the time of a soak."""
        found, _ = self._ledger.read()
        self._ledger.check_traffic(found, state)
        kind, _ = state.stages[at]
        now = time.time()
        before = self._counted_before(now, state)
        since, until = round(now, 1), round(now + state.soak, 1)
        first = state.first or since
        begun = replace(state, phase=kind, at=at, since=since, until=until, first=first, before=before)

        def shares(found: OnlineEndpoint) -> Shares:
            self._ledger.check_traffic(found, state)
            return begun.shares

        moved = self._ledger.write(begun, shares=shares)
        self._soaks_until = time.time() + state.soak  # the change itself takes Azure a minute
        self._emit(moved, kind)
        return moved

    def _soak(self, state: State, end: float) -> State:
        """Look at what the new deployment answers until the time of a stage is over, and say how it goes on."""
        place = f"{self._name}/{state.new}"  # said where it is interrupted, when nobody wants to wait for an answer
        self._costs = self._costs or f"Beside the old deployment {place} {cost_of(self._clients, place)}."
        delay = metrics_delay(self._clients)
        until = (self._soaks_until or state.until) + delay
        look, patience = min(max(self._clients.poll_seconds, state.soak / 20), _LONGEST_LOOK), Patience(self._clients)
        while True:
            is_over = time.time() >= until
            try:
                found, now = self._ledger.read()
                if now != state:  # by another handle of this process
                    return now
                self._ledger.check_traffic(found, state)
                verdict = self._judge(state)
                patience.heard()
            except (AuthenticationError, ServiceError) as error:
                patience.bear(error)
                verdict, is_over = Verdict("not judged", ""), False
                until = max(until, time.time() + look)  # and is looked at again
            if verdict.outcome == "fail":
                self._emit(state, "judged", verdict.reason)
                return self._take_back(state, verdict.reason)
            if is_over:
                break
            if time.monotonic() >= end:
                what = "The rollout has not ended in the time that was given."
                raise WaitTimeout(what, where=self._there.place, fix="wait again: it goes on where it is")
            time.sleep(max(0.0, min(look, until - time.time(), end - time.monotonic())))
        self._emit(state, "judged", verdict.reason)
        if verdict.outcome == "not judged":
            kind, share = state.stages[state.at]
            gets = f"{share} % of the traffic{' mirrored' if kind == 'mirroring' else ''}"
            return self._pause(state, f"{verdict.reason}: {state.new} had {gets} for {state.soak:g} s")
        if state.at + 1 < len(state.stages):
            return self._stage(state, state.at + 1)
        return self._hand_over(state, "promoting", verdict.reason)

    def _judge(self, state: State) -> Verdict:
        old = None
        if self.gate.max_p95_ratio is not None:
            first = datetime.fromtimestamp(state.first, UTC)
            old = read_traffic(self._clients, self._name, first, datetime.now(UTC)).get(state.old.lower())
        return self.gate.judge(self._counted(state.since, state), old)

    def _counted(self, since: float, state: State) -> Traffic | None:
        """Return what the new deployment has answered since then.

        Metrics are of whole minutes. Of a stage that lasts longer than that, its first part of one is left out; else
        that minute counts without what there was in it before.
        """
        now, whole = time.time(), math.ceil(since / 60) * 60
        leave_out = now - whole >= 60
        start = datetime.fromtimestamp(whole if leave_out else since, UTC)
        until = datetime.fromtimestamp(now, UTC) + timedelta(seconds=1)
        found = read_traffic(self._clients, self._name, start, until).get(state.new.lower())
        if found is None or leave_out or since != state.since:
            return found
        requests, errors = (max(0, a - b) for a, b in zip((found.requests, found.errors), state.before, strict=True))
        return replace(found, requests=requests, errors=errors)

    def _counted_before(self, now: float, state: State) -> tuple[int, int]:
        """Return the requests and errors that there are already of the minute in which a stage begins."""
        try:
            counted = self._counted(now, state)
        except ServiceError as error:  # without it that minute counts as a whole, where a stage is as short as that
            Patience(self._clients).bear(error)
            return 0, 0
        return (counted.requests, counted.errors) if counted else (0, 0)

    def _pause(self, state: State, why: str) -> State:
        paused = self._ledger.write(replace(state, phase="paused"), why)
        self._emit(paused, "paused", why)
        return paused

    def _take_back(self, state: State, why: str) -> State:
        """Give the traffic back; what was to be kept is the old deployment, not a new one that has failed."""
        return self._hand_over(replace(state, kept=False), "rolling back", why)

    def _hand_over(self, state: State, phase: Any, why: str) -> State:
        """Give the traffic of the deployment that goes to the one that stays; others' shares stay as they are."""
        going, staying = (state.old, state.new) if phase == "promoting" else (state.new, state.old)

        def shares(found: OnlineEndpoint) -> Shares:
            live = traffic(found)
            if share := live.pop(going, 0):
                live[staying] = live.get(staying, 0) + share
            return live, {name: share for name, share in mirrored_shares(found).items() if name not in (going, staying)}

        moved = self._ledger.write(replace(state, phase=phase), why, shares)
        self._emit(moved, phase, why)
        return moved

    def _finish(self, state: State) -> State:
        """Delete the deployment that is not needed any more, or say what it costs; and write down that this is over."""
        found, state = self._ledger.read()
        why = texts(found.tags, "endpoint.tags").get(WHY, "")
        ended: Any = "promoted" if state.phase == "promoting" else "rolled back"
        going = state.old if ended == "promoted" else state.new
        there = resource.deployment(self._clients, self._name, going)
        deployment = there.settled()
        if going in traffic(found):
            self._left = f"{self._up(going)} It has traffic, which somebody else gave it."
        elif state.kept or (deployment is not None and ended == "rolled back" and self._is_anothers(found, deployment)):
            self._left = self._up(going) if deployment is not None else ""
        else:
            if ended == "rolled back" or state.at < len(state.stages) - 1:
                let_requests_end(self._clients, there)
            resource.delete_deployment(self._clients, self._name, going)
        owner = None
        if ended == "promoted":
            owner = texts(resource.deployment(self._clients, self._name, state.new).get().tags, "deployment.tags")
        moved = self._ledger.write(replace(state, phase=ended), why, owner=owner)
        self._emit(moved, ended, why)
        return moved

    def _is_anothers(self, found: OnlineEndpoint, new: OnlineDeployment) -> bool:
        """Whether the new deployment is another run's than the old one, and that run needs it."""
        job = texts(new.tags, "deployment.tags").get(JOB_TAG)
        return job != texts(found.tags, "endpoint.tags").get(JOB_TAG) and is_needed(self._clients, self._name, new)

    def _up(self, deployment: str) -> str:
        place = f"{self._name}/{deployment}"
        return f"{resource.still_up(place, cost_of(self._clients, place))} Delete it: phift cleanup {place}."


def _gate_of(tags: Mapping[str, str]) -> tuple[Gate, bool]:
    """Return the gate that a rollout was begun with, and whether that is all of it: a comparison stands in no tag."""
    gate, compares = Gate.read(tags.get(GATE, ""))
    return gate, not compares
