"""The commands about jobs that are there already."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

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


STEP = "chat_completion_finetune"


def logged(fakes: Fakes, *statuses: str) -> None:
    fakes.workspace.jobs.add("job", *statuses)
    fakes.workspace.jobs.children["job"] = [(STEP, "run", statuses[-1])]
    fakes.rest.on({"logFiles": {"logs/azureml/executionlogs.txt": "https://l.test/own"}}, "/runs/job/details")
    fakes.rest.on({"logFiles": {"user_logs/std_log.txt": "https://l.test/step"}}, "/runs/run/details")
    fakes.rest.on("begun\n", "https://l.test/own")
    fakes.rest.on("\r 1%\r 99%\nred \x1b[31m\npassword=hush-hush\n", "https://l.test/step")


def test_logs_are_told_by_step(fakes: Fakes) -> None:
    logged(fakes, "Completed")
    result = invoke("logs", "job")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [f"{STEP} | {line}" for line in (" 99%", "red \\x1b[31m", "password=***")]
    assert result.stdout.splitlines() == ["job | begun", *lines]


def test_the_log_of_one_step_is_told_as_it_is(fakes: Fakes) -> None:
    logged(fakes, "Running")
    assert invoke("logs", "job", "--step", STEP).stdout == " 99%\nred \\x1b[31m\npassword=***\n"
    result = invoke("logs", "job", "--step", "finetune")
    assert result.exit_code == 1
    assert STEP in result.stderr


def test_logs_are_data_too(fakes: Fakes) -> None:
    logged(fakes, "Running", "Failed")
    result = invoke("logs", "job", "--follow", "--json")
    assert result.exit_code == 0
    pieces = [json.loads(line) for line in result.stdout.splitlines()]
    assert {piece["step"] for piece in pieces} == {"", STEP}
    assert "hush-hush" not in result.output


def test_who_reads_logs_and_is_interrupted_is_told_that_the_job_goes_on(fakes: Fakes) -> None:
    logged(fakes, "Running")
    fakes.workspace.record.fail("jobs.list", KeyboardInterrupt())
    result = invoke("logs", "job", "--follow", "--step", STEP)
    assert result.exit_code == 130
    assert f"phift logs job --step {STEP} --follow" in result.stderr


def test_a_job_is_cancelled_and_a_second_time_does_no_harm(fakes: Fakes) -> None:
    fakes.workspace.jobs.add("job", "Running")
    result = invoke("cancel", "job")
    assert (result.exit_code, result.stdout) == (0, "The job job has ended, and is Canceled.\n")
    again = invoke("cancel", "job")
    assert (again.exit_code, again.stdout) == (0, "The job job had ended before, and is Canceled.\n")
    told = json.loads(invoke("cancel", "job", "--json").stdout)
    assert told == {"job": "job", "status": "Canceled", "had_ended": True}
    assert fakes.workspace.record.count("jobs.begin_cancel") == 1


def test_a_job_that_is_not_there_cannot_be_cancelled(fakes: Fakes) -> None:
    result = invoke("cancel", "none")
    assert (result.exit_code, result.stdout) == (1, "")


@pytest.mark.parametrize(("status", "code"), [("Completed", 0), ("Failed", 1)])
def test_a_command_is_run_when_the_job_has_ended(
    fakes: Fakes, tmp_path: Path, status: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    fakes.workspace.jobs.add("job", "Running", status)
    program = tmp_path / "notify.py"
    program.write_text("import os; print(os.environ['PHIFT_STATUS'], os.environ['PHIFT_CAUSE'])", encoding="utf-8")
    result = invoke("follow", "job", "--on-end", f"{sys.executable} {program}")
    assert result.exit_code == code
    assert capfd.readouterr().err == ("Completed \n" if code == 0 else "Failed unknown\n")


def test_a_command_that_cannot_be_run_is_a_mistake_in_the_arguments(fakes: Fakes) -> None:
    fakes.workspace.jobs.add("job", "Completed")
    for command in ("no-such-program", "'open"):
        result = invoke("follow", "job", "--on-end", command)
        assert result.exit_code == 2
        assert "cannot be run" in result.stderr
    result = invoke("submit", "run.yaml", "--no-wait", "--on-end", "true")
    assert result.exit_code == 2
