"""A sample of what `make faults` does in full: each fault strikes once, and each change of a chain is lost once."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faults import chain
from faults.chain import FAULTS, Chain, Ground, Outcome, Row, faults_of, find_rows, ground, try_fault
from faults.chains import CHAINS, RUN
from faults.exhaustive import DOCUMENT, cells_of, quiet, say, section, summary, table
from faults.impatience import impatient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    quiet()
    with ground(tmp_path_factory.mktemp("faults")) as made, impatient():
        RUN.run(made, made.begin(RUN), lambda _step: None)  # the first one reads all of the SDK
        yield made


@pytest.fixture(scope="module")
def rows(place: Ground) -> list[Row]:
    return find_rows(place, RUN)


def firsts(rows: list[Row]) -> list[Row]:
    """Return the first request of each operation."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.operation, row)
    return list(found.values())


def changes_state(row: Row) -> bool:
    return row.operation.split()[0] in ("PUT", "DELETE")


def outcomes_of(place: Ground, sample: Iterable[tuple[Row, str]]) -> list[Outcome]:
    """Return what became of a chain with each of these faults; each of them must strike, and none be a defect."""
    outcomes = {(row, fault): try_fault(place, RUN, row, FAULTS[fault]) for row, fault in sample}
    assert {cell: outcome for cell, outcome in outcomes.items() if outcome.defects or not outcome.hit} == {}
    return list(outcomes.values())


@pytest.mark.proof
@pytest.mark.filterwarnings("ignore")  # a failure that was ordered leaves connections behind
def test_a_chain_survives_each_fault_of_some_request(place: Ground, rows: list[Row]) -> None:
    others = [row for row in firsts(rows) if not changes_state(row)]
    spread = others[:: len(others) // len(FAULTS)][: len(FAULTS)]  # over all steps
    outcomes = outcomes_of(place, zip(spread, FAULTS, strict=True))
    assert {outcome.error for outcome in outcomes} > {""}  # some complete, some do not


@pytest.mark.proof
@pytest.mark.filterwarnings("ignore")  # a failure that was ordered leaves connections behind
def test_a_chain_survives_the_loss_of_any_changes_answer(place: Ground, rows: list[Row]) -> None:
    """What could be made twice."""
    changes = [row for row in firsts(rows) if changes_state(row)]
    assert {outcome.error for outcome in outcomes_of(place, [(row, "reset once") for row in changes])} >= {""}


def documented(name: str) -> set[str]:
    """Return the operations in a chain's table."""
    _, found, _ = section(DOCUMENT.read_text(encoding="utf-8"), name)
    return {match[1] for line in found.splitlines() if (match := re.match(r"\| \w+ \| `([^`]+)` \| \d+ \|", line))}


def test_every_operation_of_the_chain_is_in_the_document(rows: list[Row]) -> None:
    assert {row.operation for row in rows} == documented("run")


def test_every_step_of_the_chain_asks_something(rows: list[Row]) -> None:
    assert {row.step for row in rows} == set(RUN.steps)
    assert len(rows) == len(set(rows))
    assert len(cells_of(RUN, rows)) == len(rows) * len(FAULTS)


# The chains of an endpoint

OF_ENDPOINTS = [each for each in CHAINS.values() if each is not RUN]


def try_all(place: Ground, tried: Chain, cells: Iterable[tuple[Row, str]]) -> None:
    for row, fault in cells:
        outcome = try_fault(place, tried, row, faults_of(row, refusals=True)[fault])
        assert (outcome.hit, outcome.defects) == (True, []), (row, fault, outcome)


def refusals_of(rows: list[Row]) -> dict[str, Row]:
    """Return what else than the six faults is tried with a chain, each where it comes last."""
    changes = [row for row in rows if changes_state(row)]
    return {fault: row for row in changes for fault in faults_of(row, refusals=True) if fault not in FAULTS}


@pytest.mark.parametrize("tried", OF_ENDPOINTS, ids=lambda each: each.name)
@pytest.mark.filterwarnings("ignore")  # a failure that was ordered leaves connections behind
def test_a_chain_of_an_endpoint_is_in_the_document_and_survives_a_refusal(place: Ground, tried: Chain) -> None:
    rows = find_rows(place, tried)
    assert {row.step for row in rows} == set(tried.steps)
    assert {row.operation for row in rows} == documented(tried.name)
    fault, row = list(refusals_of(rows).items())[-1]
    try_all(place, tried, [(row, fault)])


@pytest.mark.proof
@pytest.mark.parametrize("tried", OF_ENDPOINTS, ids=lambda each: each.name)
@pytest.mark.filterwarnings("ignore")
def test_a_chain_of_an_endpoint_survives_each_refusal_and_the_loss_of_any_change(place: Ground, tried: Chain) -> None:
    rows = find_rows(place, tried)
    refused = [(row, fault) for fault, row in refusals_of(rows).items()]
    try_all(place, tried, [*refused, *((row, "reset once") for row in rows if changes_state(row))])


# What goes wrong behind the requests, and half answers


@pytest.mark.parametrize(
    ("step", "on", "fault", "error"),
    [
        ("submit", "step chat_completion_finetune", {}, ""),
        ("deploy", "operation endpoint-create", {}, "DeploymentFailed"),
        ("deploy", "operation deployment-create", {"code": "ResourceNotReady"}, "DeploymentFailed"),
        ("delete", "operation endpoint-delete", {}, "ServiceError"),
        ("submit", "PUT jobs/{name}", {"cut": "half"}, ""),
        ("register", "PUT models/{name}/versions/{version}", {"cut": "half"}, ""),
        ("deploy", "PUT onlineEndpoints/{endpoint}", {"cut": "half"}, ""),
        ("deploy", "PUT onlineEndpoints/{endpoint}/deployments/{deployment}", {"cut": "half"}, ""),
        ("submit", "PUT blobs/{container}/{name...}", {"slow": 1000}, ""),
    ],
)
@pytest.mark.filterwarnings("ignore")  # a failure that was ordered leaves connections behind
def test_a_chain_survives_what_fails_elsewhere(
    place: Ground, step: str, on: str, fault: dict[str, Any], error: str
) -> None:
    assert try_fault(place, RUN, Row(step, on, 1), fault) == Outcome(error)


@pytest.mark.filterwarnings("ignore")
def test_a_step_that_fails_costs_a_second_job(place: Ground) -> None:
    # A job that failed keeps its name, so the second call submits another attempt, and that one is all that it takes.
    outcome = try_fault(place, RUN, Row("submit", "step chat_completion_finetune", 1), {"status": 400})
    assert outcome == Outcome("JobFailed", True, ["2 jobs, not 1"] * 2)


# What finds failures must not overlook them


def outcome_of(place: Ground, run: Callable[[Ground, Path, Callable[[str], None]], None]) -> Outcome:
    return try_fault(place, replace(RUN, run=run), Row("submit", "GET never", 1), {"status": 500})


def test_an_error_that_is_not_ours_is_a_defect(place: Ground) -> None:
    def run(_place: Ground, _work: Path, _before: Callable[[str], None]) -> None:
        raise KeyError("surprise")

    defects = outcome_of(place, run).defects
    assert "KeyError: 'surprise'" in defects
    assert "the second call: KeyError: 'surprise'" in defects


def test_what_is_made_twice_or_left_is_a_defect(place: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(place: Ground, work: Path, before: Callable[[str], None]) -> None:
        RUN.run(place, work, before)
        monkeypatch.setattr(place, "there", lambda: {**RUN.after, "jobs": 2, "endpoints": 1})

    assert outcome_of(place, run).defects == ["2 jobs, not 1", "1 endpoints, not 0"]


def test_a_chain_that_hangs_is_a_defect(place: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    def run(_place: Ground, _work: Path, _before: Callable[[str], None]) -> None:
        free.wait(10)

    monkeypatch.setattr(chain, "_LONGEST_CHAIN", 0.1)
    defects = outcome_of(place, run).defects
    free.set()
    assert defects[0].startswith("Hangs: it had not ended")


def test_a_fault_that_was_not_hit_is_told(place: Ground) -> None:
    outcome = try_fault(place, RUN, Row("submit", "GET jobs/{name}", 99), {"status": 500})
    assert (outcome.hit, outcome.error, outcome.defects) == (False, "", [])
    assert say(outcome) == "completes, not hit"


def test_the_table_says_what_became_of_each_run() -> None:
    one, two = Row("submit", "PUT jobs/{name}", 1), Row("wait", "GET jobs/{name}", 2)
    first, second, third, *_ = FAULTS
    found = {
        (one, first): Outcome(),
        (one, second): Outcome("ServiceError"),
        (one, third): Outcome("", True, ["2 jobs, not 1"]),
        (two, first): Outcome("", False),
    }
    lines = table(RUN, [one, two], found).splitlines()
    cells = "completes | `ServiceError`, then completes | **2 jobs, not 1** | not run | not run | not run |"
    assert lines[2] == f"| submit | `PUT jobs/{{name}}` | 1 | {cells}"
    assert lines[3].startswith("| wait | `GET jobs/{name}` | 2 | completes, not hit | not run |")
    said = summary(RUN, [one, two], found)
    assert "- 1 complete in spite of it" in said
    assert "- 1 end in an error of phift, and a second call completes them: 1 `ServiceError`" in said
    assert "- 1 end in anything else" in said
    assert "- 8 were not run" in said
