"""Handlers of events: somebody is told what happens, and nothing that goes wrong there reaches the work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

Event = TypeVar("Event", contravariant=True)


def isolated(handler: Callable[[Event], None] | None) -> Callable[[Event], None]:
    """Return a handler that never raises an error: the first one of ``handler`` is logged, the others pass.

    An interruption, such as Ctrl-C while it prints, is none of its errors and goes through. None hears nothing.
    """
    failed = False

    def tell(event: Event) -> None:
        nonlocal failed
        try:
            if handler:
                handler(event)
        except Exception:
            if not failed:
                failed = True
                logger.exception("A handler of events failed, and the work goes on. Its later errors are not logged.")

    return tell
