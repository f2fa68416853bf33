"""The tags of an endpoint that a rollout is written in, by one handle that goes on with it at a time."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from phift.azure.answers import texts
from phift.azure.clients import Clients
from phift.errors import Conflict, NotFound, ServiceError, in_a_line, redact
from phift.serving import resource
from phift.serving.lifetime import LONGEST_TAG
from phift.serving.resource import CREATED
from phift.serving.rollout_state import ENDED, GATE, STATE, WHY, State, read_state
from phift.serving.sharing import mirrored_shares, traffic, with_traffic
from phift.serving.uses import this_machine

if TYPE_CHECKING:
    from azure.ai.ml.entities import OnlineEndpoint

Shares = tuple[dict[str, int], dict[str, int]]
"""The live and the mirrored traffic, percent by deployment."""


class TrafficChanged(Exception):
    """Somebody else has changed the traffic."""


class Ledger:
    """What one handle knows of a rollout, and writes down.

    - **gate**: as a tag has it.
    - **seen**: the state as this handle read or wrote it last.
    """

    def __init__(self, clients: Clients, name: str, gate: str) -> None:
        self._clients, self._name, self._gate = clients, name, gate
        self._there = resource.endpoint(clients, name)
        self._actor = f"{this_machine()}.{os.getpid()}.{uuid.uuid4().hex[:6]}"
        self.seen: State | None = None
        self._before: State | None = None

    def begin(self, plan: State, before: State | None) -> None:
        """Write a new rollout down; refuse where another one has just been begun, since **before** was read."""
        self._before = before
        self.write(plan)

    def own(self, state: State | None) -> State | None:
        """Return how far this handle's rollout is; None where another one goes on with it or has ended it.

        - **state**: what the endpoint's tags say now; what this handle has ended may have another rollout after it.
        """
        ended = self.seen if self.seen is not None and self.seen.phase in ENDED else None
        return next((each for each in (state, ended) if each is not None and each.actor == self._actor), None)

    def read(self) -> tuple[OnlineEndpoint, State]:
        """Return the endpoint as it is, and how far its rollout is; refuse to go on where somebody else does."""
        found = self._there.settled()
        if found is None:
            raise NotFound(f"The endpoint {self._name} is gone.", where=self._there.place)
        return found, self._checked(found)

    def _checked(self, found: OnlineEndpoint) -> State:
        state = read_state(texts(found.tags, "endpoint.tags"), self._name)
        if state is None:
            raise NotFound(f"The endpoint {self._name} has no rollout any more.", where=self._there.place)
        if self.seen is not None and state != self.seen and state.actor != self._actor:
            machine, process, _ = f"{state.actor}..".split(".", 2)
            who = f"process {process} of this machine" if machine == this_machine() else "a process of another machine"
            what = f"{who[0].upper()}{who[1:]} goes on with the rollout on endpoint {self._name}; this one has stopped."
            raise Conflict(what, where=self._there.place, fix="wait for that one, or look at `rollout.status`")
        self.seen = state
        return state

    def write(
        self,
        state: State,
        why: str = "",
        shares: Callable[[OnlineEndpoint], Shares] | None = None,
        owner: Mapping[str, str] | None = None,
    ) -> State:
        """Write a state down, and set the traffic with it, in one change of the endpoint.

        - **shares**: the live and the mirrored traffic to be; without it they stay as they are.
        - **owner**: the tags of the deployment that the endpoint is for from now on; without it, of the same.
        """
        written = replace(state, actor=self._actor).written()
        told = in_a_line(redact(why))[:LONGEST_TAG]

        def changed(found: OnlineEndpoint) -> OnlineEndpoint:
            if self.seen is not None:
                self._checked(found)
            elif read_state(texts(found.tags, "endpoint.tags"), self._name) != self._before:
                what = f"Another rollout has just been begun on the endpoint {self._name}."
                raise Conflict(what, where=self._there.place, fix="wait until that one has ended")
            if owner is not None:
                found = with_traffic(found, traffic(found), owner)
            others = {name: value for name, value in texts(found.tags, "endpoint.tags").items() if name != WHY}
            found.tags = {**others, STATE: written, GATE: self._gate}
            if told:
                found.tags[WHY] = told
            if shares:
                found.traffic, found.mirror_traffic = shares(found)
            return found

        def is_right(found: OnlineEndpoint) -> bool:
            return texts(found.tags, "endpoint.tags").get(STATE) == written

        self._there.put(changed(self._there.settled() or self._there.get()), is_right=is_right, renew=changed)
        made = self._there.settled() or self._there.get()  # somebody else may just change it again
        if resource.provisioning_state(made) != "succeeded":
            what = f"The endpoint's change ended as {resource.provisioning_state(made)}."
            raise ServiceError(what, where=self._there.place, fix="look at it in the studio, and go on")
        self.seen = read_state({STATE: written}, self._name)
        assert self.seen is not None  # noqa: S101 - it has just been written
        return self.seen

    @contextmanager
    def deleting_where_ended(self, state: State, created: str) -> Iterator[None]:
        """Delete what this handle made where another one has ended the rollout meanwhile, which could not see it."""
        try:
            yield
        except (Conflict, NotFound):
            found = self._there.settled()
            now = read_state(texts(found.tags, "endpoint.tags"), self._name) if found is not None else None
            there = resource.deployment(self._clients, self._name, state.new).settled()
            made = there is not None and texts(there.tags, "deployment.tags").get(CREATED) == created
            goes_on = now is not None and now.model == state.model and (now.kept or now.phase != "rolled back")
            if made and not goes_on and found is not None and state.new not in traffic(found):
                resource.delete_deployment(self._clients, self._name, state.new)
            raise

    def check_traffic(self, found: OnlineEndpoint, state: State) -> None:
        """Raise where the traffic is another than this rollout has set."""
        live, mirrored = state.shares
        if (traffic(found), mirrored_shares(found)) != (live, mirrored):
            now = ", ".join(f"{name} {share} %" for name, share in traffic(found).items()) or "none"
            wanted = ", ".join(f"{name} {share} %" for name, share in live.items())
            what = f"somebody has changed the traffic: it is {now}, and was {wanted}"
            raise TrafficChanged(f"{what}; set it back to go on, or promote or roll back as it is")
