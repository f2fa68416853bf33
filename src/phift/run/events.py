"""All that a handler of a run's events may get."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from phift.data.sources import Progress
from phift.jobs.download import DownloadProgress
from phift.jobs.events import JobEvent
from phift.serving.resource import DeploymentEvent
from phift.tokens.count import Counted

Event: TypeAlias = Progress | Counted | JobEvent | DeploymentEvent | DownloadProgress
"""What happens in a run: work on its data, what becomes of its job, the stages of its endpoint, what is taken home.

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
