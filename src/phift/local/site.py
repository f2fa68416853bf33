"""Everything one running local workspace consists of, handed to every route."""

from __future__ import annotations

from dataclasses import dataclass

from phift.local.ground import Ground
from phift.local.work.operations import Operations
from phift.local.work.scorers import Scorers
from phift.local.work.training import Training


@dataclass(frozen=True, kw_only=True)
class Site(Ground):
    """A ground with what works on it."""

    operations: Operations
    scorers: Scorers
    training: Training


def site_on(ground: Ground) -> Site:
    """Return the workspace that works on a ground; nothing of it runs before its operations and training begin."""
    scorers, training = Scorers(ground), Training(ground)
    operations = Operations(ground, scorers, training)
    return Site(**vars(ground), operations=operations, scorers=scorers, training=training)
