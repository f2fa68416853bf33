from __future__ import annotations

import json

import pytest

from phift.check.cost import CostEstimate
from phift.check.findings import Finding, Severity, findings_from
from phift.check.report import CheckReport
from phift.errors import CheckFailed, ComputeError, ConfigError, DataError, NotFound


def finding(severity: Severity, code: str = "CODE", **more: str) -> Finding:
    return Finding(code=code, severity=severity, place="place", message="message", **more)


def test_errors_come_first_and_the_order_is_kept_otherwise() -> None:
    found = [finding("note"), finding("error", "A"), finding("warning"), finding("error", "B")]
    report = CheckReport.of(found)
    assert [f.severity for f in report.findings] == ["error", "error", "warning", "note"]
    assert [f.code for f in report.errors] == ["A", "B"]


@pytest.mark.parametrize(("severity", "ok", "code"), [("error", False, 1), ("warning", True, 0), ("note", True, 0)])
def test_only_errors_stand_in_the_way(severity: Severity, ok: bool, code: int) -> None:
    report = CheckReport.of([finding(severity)])
    assert (report.ok, report.exit_code) == (ok, code)


def test_an_empty_report_says_so() -> None:
    report = CheckReport.of([])
    report.raise_for_errors()
    assert str(report) == "Nothing found that would stop this run."


def test_a_finding_reads_with_fix_and_source() -> None:
    text = str(CheckReport.of([finding("error", fix="do this", source="a page, 2026")]))
    assert text == "error   CODE  place: message\n        fix: do this\n        source: a page, 2026"
    assert str(finding("note")) == "note    CODE  place: message"


def test_a_report_goes_to_json() -> None:
    values = json.loads(json.dumps(CheckReport.of([finding("warning")]).to_dict()))
    assert values["ok"] is True
    assert values["findings"][0]["code"] == "CODE"


def test_raising_names_the_first_error_and_counts_the_others() -> None:
    report = CheckReport.of([finding("error", "A", fix="mend"), finding("error", "B"), finding("note")])
    with pytest.raises(CheckFailed) as caught:
        report.raise_for_errors()
    assert caught.value.what == "A: message (and 1 more)"
    assert (caught.value.where, caught.value.fix) == ("place", "mend")
    assert caught.value.report is report


def test_ignored_codes_do_not_raise_and_others_do() -> None:
    report = CheckReport.of([finding("error", "A"), finding("error", "B")])
    report.raise_for_errors(ignore=["A", "B"])
    with pytest.raises(CheckFailed, match=r"^B: message\n") as caught:
        report.raise_for_errors(ignore=["A"])
    assert caught.value.fix == "see the report"


def test_an_error_becomes_one_finding() -> None:
    (found,) = findings_from(ComputeError("no GPU", where="compute", fix="use one"), "elsewhere")
    assert (found.code, found.severity, found.place) == ("ComputeError", "error", "compute")
    assert (found.message, found.fix) == ("no GPU", "use one")


def test_an_error_without_a_place_gets_the_given_one() -> None:
    (found,) = findings_from(NotFound("gone"), "model")
    assert (found.place, found.fix) == ("model", "")


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("two", fix="mend", mistakes=(("a", "first"), ("b", "second"))),
        DataError("two", fix="mend", problems=(("a", "first"), ("b", "second"))),
    ],
    ids=["config", "data"],
)
def test_an_error_that_lists_becomes_a_finding_each(error: ConfigError | DataError) -> None:
    found = findings_from(error, "elsewhere")
    assert [(f.place, f.message, f.fix) for f in found] == [("a", "first", "mend"), ("b", "second", "mend")]


def test_a_notebook_shows_a_table_and_nothing_in_it_runs() -> None:
    finding = Finding(code="MODEL_TASK", severity="error", place="model <b>", message="<script>x</script>", fix="&")
    html = CheckReport.of([finding])._repr_html_()
    assert "<td>model &lt;b&gt;</td><td>&lt;script&gt;x&lt;/script&gt;</td><td>&amp;</td>" in html
    assert "Nothing will be submitted." in html
    assert "<table>" not in CheckReport.of([])._repr_html_()


def test_estimates_are_shown_in_every_form() -> None:
    cost = CostEstimate(tokens=10, hours=0.5, training=2.0, endpoint_per_day=None, assumptions=("made up",))
    report = CheckReport.of([], cost=cost)
    assert "2.00 USD" in str(report)
    assert "2.00 USD" in report._repr_html_()
    assert json.loads(json.dumps(report.to_dict()))["cost"]["training"] == 2.0
