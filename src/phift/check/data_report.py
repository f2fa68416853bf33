"""The report of the data: what became of every row, what was found, and how long the conversations are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

from phift.check.findings import Finding
from phift.component.settings import Settings
from phift.config.run import RunConfig
from phift.data.prepared import PreparedDataset
from phift.errors import visible_html, visible_table
from phift.tokens.count import Counted, TokenReport, measure, token_findings
from phift.tokens.limited import find_tokenizer


@dataclass(frozen=True)
class DataReport:
    """What there is to say of prepared data; a terminal, a notebook and JSON show the same of it.

    - **data**: the data set, with the account of each source.
    - **tokens**: how long the conversations are, and which are cut.
    """

    data: PreparedDataset
    tokens: TokenReport

    @classmethod
    def of(cls, config: RunConfig, data: PreparedDataset, on_progress: Callable[[Counted], None] | None = None) -> Self:
        """Count the tokens with what is on this machine, and ask nothing of Azure.

        That is the tokenizer that ``data.tokenizer`` names, else characters; and the limit that the configuration sets,
        else the tokenizer's own. A check goes by the model's too.
        """
        tokenizer, reason = None, "a check counts with the model's own tokenizer"
        if wanted := config.data.tokenizer:
            own = config.parameter_files.get("finetune_config_path")
            tokenizer, reason = find_tokenizer(wanted, None, None, config.work_dir, finetune_config=own)
        try:
            tokens = measure(
                data.files,
                tokenizer,
                max_seq_length=Settings.of({**config.preset_values, **config.parameters}).max_seq_length,
                exact=config.data.count_tokens == "exact",
                reason=reason,
                on_progress=on_progress,
            )
        finally:
            if tokenizer:
                tokenizer.workers.end()
        return cls(data, tokens)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found in the rows and in their tokens, gravest first."""
        rank = ("error", "warning", "note").index
        found = (*self.data.findings, *token_findings(self.tokens))
        return tuple(sorted(found, key=lambda finding: rank(finding.severity)))

    def __str__(self) -> str:
        return "\n".join([*self.data.lines(), *map(str, self.findings), self.tokens.summary])

    def _repr_html_(self) -> str:
        found = [(each.severity, each.code, each.place, each.message, each.fix) for each in self.findings]
        findings = visible_table(("severity", "code", "where", "what", "way out"), found) if found else ""
        return self.data.html_tables() + findings + self.tokens._repr_html_()

    def page(self) -> str:
        """Return the report as a page of HTML, which needs nothing else."""
        title = f"Data of {visible_html(self.data.name)}"
        style = "body{font-family:sans-serif}td,th{padding:.2em .6em;text-align:left;vertical-align:top}"
        head = f'<meta charset="utf-8"><title>{title}</title><style>{style}</style>'
        return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{self._repr_html_()}</body></html>\n'

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON; docs/data.md has the keys."""
        findings = [asdict(finding) for finding in self.findings]
        return {**self.data.to_dict(), "findings": findings, "tokens": self.tokens.to_dict()}
