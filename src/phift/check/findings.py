"""A finding: what is wrong or worth knowing, with its place, its reason and a way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from phift.errors import AuthenticationError, ConfigError, DataError, PhiftError, redact, visible

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing a check found; secrets are hidden in its texts.

    - **code**: stable name, for ``submit(ignore=[...])``.
    - **place**: configuration key, file and line, or resource.
    - **source**: where the knowledge comes from, with its date, if not from the service itself.
    """

    code: str
    severity: Severity
    place: str
    message: str
    fix: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("place", "message", "fix", "source"):
            object.__setattr__(self, name, redact(getattr(self, name)))

    def __str__(self) -> str:
        fix = f"\n        fix: {self.fix}" if self.fix else ""
        source = f"\n        source: {self.source}" if self.source else ""
        head = visible(f"{self.severity:<7} {self.code}  {self.place}", lines=False)
        return f"{head}: {visible(self.message + fix + source)}"


def findings_from(error: PhiftError, place: str) -> list[Finding]:
    """Return an error as findings: one for each mistake it lists, or one for itself."""
    many = error.mistakes if isinstance(error, ConfigError) else error.problems if isinstance(error, DataError) else ()
    told = "; ".join((error.what, *error.tried)) if isinstance(error, AuthenticationError) else error.what
    code, one = type(error).__name__, (error.where or place, told)
    return [Finding(code, "error", at, what, error.fix or "") for at, what in many or [one]]
