"""The commands about jobs that are there already."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from click.testing import CliRunner, Result

from phift.cli.commands import main
from unit.fakes import Fakes


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Fakes that every command connects to."""
    made = Fakes()
    monkeypatch.setattr("phift.azure.connect.connect", lambda workspace: made.clients)
    return made


def test_a_job_is_followed_by_its_name_to_its_end(fakes: Fakes) -> None:
    fakes.workspace.jobs.add("job", "Queued", "Running", "Completed")
    result = invoke("follow", "job", "--workspace", "a/b/c")
    assert result.exit_code == 0, result.output
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["Queued", "Running", "Completed"]


def test_events_are_lines_of_json(fakes: Fakes) -> None:
    fakes.workspace.jobs.add("job", "Queued", "Completed")
    fakes.rest.on({"metrics": [{"key": "loss", "value": "NaN", "step": 1, "timestamp": 1}]}, "get-history", "loss&")
    result = invoke("follow", "job", "--json")
    events = [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]
    assert all(datetime.fromisoformat(event["time"]).utcoffset() is not None for event in events)
    assert [(event["event"], event["job"]) for event in events] == [
        ("status", "job"),
        ("metric", "job"),
        ("metric", "job"),
        ("status", "job"),
    ]
    assert events[1]["metric"]["value"] == "NaN"


@pytest.mark.parametrize(("end", "said"), [("Failed", "failed"), ("Canceled", "was cancelled")])
def test_following_a_job_that_ends_badly_exits_with_1(fakes: Fakes, end: str, said: str) -> None:
    fakes.workspace.jobs.add("job", "Running", end)
    result = invoke("follow", "job", "--json")
    assert result.exit_code == 1
    assert said in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["status"] == end


def test_a_follower_that_is_interrupted_says_that_the_job_goes_on(fakes: Fakes) -> None:
    fakes.workspace.jobs.add("job", "Running")
    fakes.workspace.record.fail("jobs.list", KeyboardInterrupt())
    result = invoke("follow", "job", "--workspace", "a/b/c")
    assert result.exit_code == 130
    assert "The job job goes on" in result.stderr
    assert "phift follow job --workspace a/b/c" in result.stderr


def test_following_a_job_that_is_not_there_says_so(fakes: Fakes) -> None:
    result = invoke("follow", "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "job none" in result.stderr
