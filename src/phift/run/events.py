"""All that a handler of a run's events may get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from phift.data.sources import Progress
from phift.errors import visible
from phift.evaluation.asking import RowCompared
from phift.jobs.download import DownloadProgress
from phift.jobs.events import JobEvent
from phift.jobs.tracking import plain_number
from phift.serving.batch import ChatProgress
from phift.serving.resource import DeploymentEvent
from phift.serving.rollout_state import RolloutEvent
from phift.tokens.count import Counted


@dataclass(frozen=True, kw_only=True)
class TrialChanged:
    """A trial of a search has begun, has logged of the metric, or has ended.

    - **state**: as `phift.run.trials.Trial` has it.
    - **value**: the best that it has logged of the metric; None where it has logged none.
    """

    kind: ClassVar[Literal["trial"]] = "trial"

    search: str
    trial: int
    parameters: Mapping[str, bool | int | float | str]
    state: str
    job: str
    metric: str
    value: float | None
    time: datetime = field(default_factory=partial(datetime.now, UTC), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        value = None if self.value is None else plain_number(self.value)
        return {"event": self.kind, **asdict(self), "value": value, "time": self.time.isoformat()}

    def __str__(self) -> str:
        given = self.parameters.items()
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in given
        )
        judged = "" if self.value is None else f", {self.metric} {self.value:.4g}"
        return visible(f"trial {self.trial} ({values}): {self.state}{judged}", lines=False)


Event: TypeAlias = (
    Progress
    | Counted
    | JobEvent
    | DeploymentEvent
    | DownloadProgress
    | TrialChanged
    | RowCompared
    | ChatProgress
    | RolloutEvent
)
"""What happens in a run: work on its data, what becomes of its job, the stages of its endpoint and of a rollout on it,
what is taken home, the rows that two models are asked; and the trials of a search.

Each has a ``time`` (UTC) and ``to_dict()``, plain values that are ready for JSON.
"""

OnEvent: TypeAlias = Callable[[Event], None]

Kind = TypeVar("Kind")


def only(kind: type[Kind], handler: Callable[[Kind], None]) -> Callable[[object], None]:
    """Return a handler that hands on events of one kind: ``on_event=only(StepChanged, show_step)``."""

    def tell(event: object) -> None:
        if isinstance(event, kind):
            handler(event)

    return tell
