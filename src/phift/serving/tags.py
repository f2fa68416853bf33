"""Which run's an endpoint is: by its tags, which people and lists see too."""

from __future__ import annotations

from collections.abc import Mapping

from phift.errors import Conflict
from phift.jobs.job import JOB_TAG

SERVES = "phift.serves"
"""The tag that says which model an endpoint was made for, in digits."""

CREATED = "phift.created"
"""The tag that says when an endpoint was made: ISO 8601, UTC, to the microsecond, so that no two calls share it."""

MODEL = "phift.model"
"""The tag that says which model an endpoint was made for, in words: ``name:version``."""


def is_made_by_phift(tags: Mapping[str, str]) -> bool:
    """Whether an endpoint's tags are some that phift writes."""
    return not {JOB_TAG, SERVES, MODEL}.isdisjoint(tags)


def purpose(tags: Mapping[str, str]) -> str:
    """Return in words what phift made an endpoint for; an empty text where phift did not make it."""
    if model := tags.get(MODEL):
        return f"for {model}"
    return "of another run" if is_made_by_phift(tags) else ""


def check_ours(found: Mapping[str, str], wanted: Mapping[str, str], name: str) -> None:
    """Refuse to touch an endpoint that somebody else, or another run, made.

    An endpoint is known by its job's name, or without one by its model. Raises `phift.errors.Conflict`.

    - **found**, **wanted**: its tags, and those that the run's own has.
    """
    told_by = JOB_TAG if JOB_TAG in wanted or JOB_TAG in found else SERVES
    if found.get(told_by) != wanted.get(told_by):
        what = f"There is an endpoint {name} already, {purpose(found) or 'and phift did not make it'}."
        fix = "set `deployment.endpoint_name` to another name, or delete that endpoint"
        raise Conflict(what, where=f"endpoint {name}", fix=fix)
