"""How far a rollout is: what its endpoint's tags say, so that any process can go on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal, cast, get_args

from phift.errors import ConfigError, Conflict, visible
from phift.serving.lifetime import LONGEST_TAG

STATE, GATE, WHY = "phift.rollout", "phift.rollout.gate", "phift.rollout.why"

Phase = Literal["deploying", "mirroring", "serving", "paused", "promoting", "promoted", "rolling back", "rolled back"]
ENDED = ("promoted", "rolled back")


@dataclass(frozen=True, kw_only=True)
class State:
    """One rollout.

    - **model**: the digest of the new model's id, as `phift.serving.model.ServedModel` has it.
    - **old**, **new**: names of deployments.
    - **mirror**, **steps**: percent: of mirrored traffic, 0 for none, and the new deployment's shares one after the
      other.
    - **soak**: seconds that each of them lasts before it is judged.
    - **at**: which of `stages` it has, counted from 0; -1 before the first one.
    - **since**, **until**: when this stage began and when it is to be judged, in seconds since 1970.
    - **first**: when the first one began.
    - **before**: requests and errors of the new deployment in the minute in which this stage began, before it did.
    - **compared**: whether the gate's comparison is done.
    - **kept**: whether the deployment that is not needed at the end is left up.
    - **actor**: who has written this: machine, process and handle.
    """

    model: str
    old: str
    new: str
    steps: tuple[int, ...]
    soak: float
    mirror: int = 0
    phase: Phase = "deploying"
    at: int = -1
    since: float = 0
    until: float = 0
    first: float = 0
    before: tuple[int, int] = (0, 0)
    compared: bool = False
    kept: bool = False
    actor: str = ""

    @property
    def stages(self) -> tuple[tuple[Literal["mirroring", "serving"], int], ...]:
        """What the new deployment gets: mirrored traffic first where that was asked for, then its shares."""
        mirrored: tuple[tuple[Literal["mirroring", "serving"], int], ...]
        mirrored = (("mirroring", self.mirror),) if self.mirror else ()
        return (*mirrored, *(("serving", share) for share in self.steps))

    @property
    def shares(self) -> tuple[dict[str, int], dict[str, int]]:
        """The live and the mirrored traffic that there is to be now, in percent."""
        if self.phase in ENDED or self.phase in ("promoting", "rolling back"):
            return {(self.new if self.phase.startswith("promot") else self.old): 100}, {}
        kind, share = self.stages[self.at] if self.at >= 0 else ("serving", 0)
        if kind == "mirroring":
            return {self.old: 100}, {self.new: share}
        live = {self.old: 100 - share, self.new: share}
        return {name: part for name, part in live.items() if part}, {}

    def written(self) -> str:
        """Return it as a tag's value; raises `phift.errors.ConfigError` where that is too long for one."""
        told = [
            1,  # the version of this form
            [self.model, self.old, self.new],
            [self.steps, self.soak, self.mirror],
            [self.phase, self.at, round(self.since, 1), round(self.until, 1), round(self.first, 1)],
            [*self.before, int(self.compared), int(self.kept)],
            self.actor,
        ]
        text = json.dumps(told, separators=(",", ":"))
        if len(text) > LONGEST_TAG:
            what = f"The state of the rollout has {len(text)} characters, and a tag of Azure's takes {LONGEST_TAG}."
            raise ConfigError(what, where="rollout", fix="give fewer steps, or shorter names of deployments")
        return text


def read_state(tags: Mapping[str, str], endpoint: str) -> State | None:
    """Return the rollout that an endpoint's tags tell of, ended or not; None where there never was one.

    Raises `phift.errors.Conflict` for one that cannot be read.
    """
    if STATE not in tags:
        return None
    told: Any = None
    with suppress(ValueError):
        told = json.loads(tags[STATE])
    match told:
        case [
            1,
            [str(model), str(old), str(new)],
            [[*steps], int() | float() as soak, int(mirror)],
            [str(phase), int(at), since, until, first],
            [int(requests), int(errors), compared, kept],
            str(actor),
        ] if phase in get_args(Phase):
            return State(
                model=model,
                old=old,
                new=new,
                steps=tuple(map(int, steps)),
                soak=soak,
                mirror=mirror,
                phase=cast("Phase", phase),
                at=at,
                since=float(since),
                until=float(until),
                first=float(first),
                before=(requests, errors),
                compared=bool(compared),
                kept=bool(kept),
                actor=actor,
            )
    what = "The endpoint's tag with the state of its rollout cannot be read: another version of phift wrote it."
    fix = f"go on with that version, or delete the endpoint's tag {STATE}; the traffic stays as it is"
    raise Conflict(what, where=f"endpoint {endpoint}", fix=fix)


def under_way(tags: Mapping[str, str], endpoint: str) -> State | None:
    """Return the rollout that an endpoint's tags tell of and that has not ended; raises as `read_state` does."""
    state = read_state(tags, endpoint)
    return None if state is None or state.phase in ENDED else state


def check_no_rollout(tags: Mapping[str, str], name: str) -> None:
    """Refuse to change who serves while a rollout does; raises `phift.errors.Conflict`."""
    if state := under_way(tags, name):
        what = f"A rollout is under way at the endpoint {name} ({state.phase})."
        raise Conflict(what, where=f"endpoint {name}", fix="let it end, or roll it back, first")


@dataclass(frozen=True, kw_only=True)
class RolloutStatus:
    """How far a rollout is.

    - **old**, **new**: names of deployments.
    - **share**, **mirrored**: percent that the new deployment gets.
    - **why**: the reason of a pause or of a roll-back, else what the last verdict said.
    - **left**: what is still up and not needed any more, with its price.
    """

    endpoint: str
    phase: Phase
    old: str
    new: str
    share: int
    mirrored: int
    steps: tuple[int, ...]
    why: str = ""
    left: str = ""

    @property
    def promoted(self) -> bool:
        """Whether the new deployment has taken the old one's place."""
        return self.phase == "promoted"

    @classmethod
    def of(cls, endpoint: str, state: State, why: str, left: str = "") -> RolloutStatus:
        """Return the status of a state."""
        live, mirrored = state.shares
        return cls(
            endpoint=endpoint,
            phase=state.phase,
            old=state.old,
            new=state.new,
            share=live.get(state.new, 0),
            mirrored=mirrored.get(state.new, 0),
            steps=state.steps,
            why=why,
            left=left,
        )

    def __str__(self) -> str:
        gets = f"{self.mirrored} % mirrored" if self.mirrored else f"{self.share} %"
        said = f"{self.endpoint}: {self.phase}; {self.new} gets {gets} of the traffic, beside {self.old}"
        return visible("; ".join(each for each in (said, self.why, self.left) if each), lines=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {**self.__dict__, "steps": list(self.steps), "promoted": self.promoted}


@dataclass(frozen=True, kw_only=True)
class RolloutEvent:
    """A rollout has gone on.

    - **stage**: ``deploying`` the new deployment, ``comparing`` both, ``mirroring`` and ``serving`` a share, ``judged``
      with what the gate says, ``paused``, ``promoting``, ``promoted``, ``rolling back``, ``rolled back``.
    - **share**: percent of the requests that the new deployment gets, live or mirrored.
    - **text**: why, in words.
    """

    kind: ClassVar[Literal["rollout"]] = "rollout"

    endpoint: str
    deployment: str
    stage: str
    share: int = 0
    text: str = ""
    time: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {"event": self.kind, **self.__dict__, "time": self.time.isoformat()}

    def __str__(self) -> str:
        share = f" {self.share} %" if self.stage in ("mirroring", "serving") else ""
        said = f"{self.endpoint}: {self.stage}{share} {self.deployment}"
        return visible(f"{said}: {self.text}" if self.text else said, lines=False)
