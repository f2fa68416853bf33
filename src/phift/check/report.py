"""The report of a check: everything that was found, errors first, and what was estimated."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from phift.check.findings import Finding
from phift.errors import CheckFailed, visible_html, visible_table

if TYPE_CHECKING:
    from phift.check.cost import CostEstimate
    from phift.check.memory import MemoryEstimate
    from phift.tokens.count import TokenReport


@dataclass(frozen=True)
class CheckReport:
    """Everything a check found, errors first, and what was estimated.

    - **memory**, **cost**: None where something needed for the estimate is not known.
    - **tokens**: how long the conversations are; None for data that is not read here.
    """

    findings: tuple[Finding, ...]
    memory: MemoryEstimate | None = None
    cost: CostEstimate | None = None
    tokens: TokenReport | None = None

    @classmethod
    def of(cls, findings: Iterable[Finding], **estimates: Any) -> CheckReport:
        """Build a report with the gravest findings first; their order is kept otherwise."""
        rank = ("error", "warning", "note").index
        return cls(tuple(sorted(findings, key=lambda finding: rank(finding.severity))), **estimates)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that keep ``submit()`` from submitting."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way of submitting."""
        return not self.errors

    @property
    def exit_code(self) -> int:
        """0 if nothing stands in the way, else 1."""
        return 0 if self.ok else 1

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["Nothing found that would stop this run."]
        tokens = [self.tokens.summary] if self.tokens else []
        return "\n".join([*lines, *tokens, *(str(estimate) for estimate in self.estimates)])

    def _repr_html_(self) -> str:
        """Show the report as a table in a notebook; everything in it is escaped, since tags are somebody's text."""
        rows = [(each.severity, each.code, each.place, each.message, each.fix, each.source) for each in self.findings]
        table = visible_table(("severity", "code", "where", "what", "way out", "source"), rows) if rows else ""
        verdict = "Nothing stands in the way of submitting." if self.ok else "Nothing will be submitted."
        estimates = "".join(f"<pre>{visible_html(estimate)}</pre>" for estimate in self.estimates)
        tokens = self.tokens._repr_html_() if self.tokens else ""
        return f"<p><b>{verdict}</b></p>{table}{tokens}{estimates}"

    @property
    def estimates(self) -> tuple[MemoryEstimate | CostEstimate, ...]:
        """What could be estimated."""
        return tuple(estimate for estimate in (self.memory, self.cost) if estimate is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        return {
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
            "memory": {**asdict(self.memory), "total_gb": self.memory.total_gb} if self.memory else None,
            "cost": asdict(self.cost) if self.cost else None,
            "tokens": self.tokens.to_dict() if self.tokens else None,
        }

    def standing(self, ignore: Collection[str] = ()) -> list[Finding]:
        """Return the error findings whose code is not in ``ignore``."""
        return [finding for finding in self.errors if finding.code not in ignore]

    def raise_for_errors(self, ignore: Collection[str] = ()) -> None:
        """Raise `phift.errors.CheckFailed` if an error stands whose code is not in ``ignore``."""
        if not (standing := self.standing(ignore)):
            return
        first, *others = standing
        more = f" (and {len(others)} more)" if others else ""
        what = f"{first.code}: {first.message}{more}"
        raise CheckFailed(what, where=first.place, fix=first.fix or "see the report", report=self)
