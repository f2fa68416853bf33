"""The commands that list jobs, and that read and compare what these measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phift.azure.clients import Clients
from phift.cli.commands import main
from phift.testing import TestWorkspace
from unit.test_listing import configuration, submit
from unit.test_metrics import curve, log

Command = Callable[..., Result]

HOSTILE = "[red]<b>rivers[/x]\x1b[31m"


@pytest.fixture
def phift(workspace: TestWorkspace) -> Command:
    """The command line, of the workspace of the test."""

    def call(command: str, *arguments: object) -> Result:
        place = ["--workspace", f"local:{workspace.connection.folder}"]
        return CliRunner().invoke(main, [command, *map(str, arguments), *place])

    return call


def test_runs_are_listed(workspace: TestWorkspace, phift: Command) -> None:
    submit(workspace, "first", {"data_name": HOSTILE})
    submit(workspace, "second", configuration())
    listed = phift("runs")
    assert listed.exit_code == 0
    head, second, _, first, of_first, summary = listed.stdout.splitlines()
    assert (head.split()[0], second.split()[0], first.split()[0]) == ("job", "second", "first")
    assert of_first == "    Phi-4:8 on [red]<b>rivers[/x]\\x1b[31m"
    assert (summary, listed.stderr) == ("2 jobs in the workspace local", "")
    limited = phift("runs", "--limit", 1)
    assert limited.stdout.splitlines()[-1] == "1 job in the workspace local, and older ones"
    assert "--limit" in limited.stderr


def test_runs_are_printed_as_json(workspace: TestWorkspace, phift: Command) -> None:
    submit(workspace, "first")
    submit(workspace, "second", experimentName="rivers")
    assert [each["name"] for each in json.loads(phift("runs", "--json").stdout)] == ["second", "first"]
    assert [each["name"] for each in json.loads(phift("runs", "--json", "--experiment", "rivers").stdout)] == ["second"]
    assert json.loads(phift("runs", "--json", "--state", "Failed", "--state", "Canceled").stdout) == []


def test_where_nothing_was_made_the_list_says_so(phift: Command) -> None:
    listed = phift("runs")
    assert (listed.exit_code, listed.stderr) == (0, "")
    assert listed.stdout == "There is no such job of phift's in the workspace local.\n"


def test_metrics_are_printed_as_csv_or_json(workspace: TestWorkspace, clients: Clients, phift: Command) -> None:
    submit(workspace, "job")
    log(clients, [("loss", 10, 3.0), ("eval_loss", 10, 4.0), ("loss", 20, 2.0)])
    lines = phift("metrics", "job").stdout.splitlines()
    assert lines[:2] == ["metric,step,value,time", "eval_loss,10,4.0,1970-01-01 00:00:01+00:00"]
    assert phift("metrics", "job", "--wide").stdout.splitlines() == ["step,eval_loss,loss", "10,4.0,3.0", "20,,2.0"]
    assert len(json.loads(phift("metrics", "job", "--json").stdout)) == 3
    assert json.loads(phift("metrics", "job", "--json", "--wide").stdout)[1] == {"step": 20, "metrics": {"loss": 2.0}}


def test_a_metrics_name_does_nothing_to_a_terminal(workspace: TestWorkspace, clients: Clients, phift: Command) -> None:
    submit(workspace, "job")
    log(clients, [(HOSTILE, 10, 3.0)])
    assert "[red]<b>rivers[/x]\\x1b[31m,10,3.0" in phift("metrics", "job").stdout


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_curves_are_drawn_into_a_file(
    workspace: TestWorkspace, clients: Clients, phift: Command, tmp_path: Path, suffix: str, begin: bytes
) -> None:
    submit(workspace, "job")
    log(clients, curve("loss", [3, 2, 1]))
    file = tmp_path / f"curves.{suffix}"
    assert phift("metrics", "job", "--plot", file).exit_code == 0
    assert file.read_bytes().startswith(begin)


def test_mistakes_are_told(workspace: TestWorkspace, phift: Command, tmp_path: Path) -> None:
    submit(workspace, "job")
    unknown = phift("metrics", "nobody")
    assert (unknown.exit_code, "nobody" in unknown.stderr) == (1, True)
    empty = phift("metrics", "job", "--plot", tmp_path / "curves.png")
    assert (empty.exit_code, "nothing to draw" in empty.stderr) == (1, True)
    other = phift("metrics", "job", "--plot", tmp_path / "curves.txt")
    assert (other.exit_code, ".png, .svg or .pdf" in other.stderr) == (2, True)
    nowhere = phift("metrics", "job", "--plot", tmp_path / "none" / "curves.png")
    assert nowhere.exit_code == 1
