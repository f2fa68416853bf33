"""Runs that are compared."""

from __future__ import annotations

import json
import math
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import phift
from phift.azure.clients import Clients
from phift.cli.commands import main
from phift.errors import ConfigError, NotFound
from phift.run.comparison import ComparedRun, Comparison
from phift.testing import TestWorkspace
from unit.fakes import write_rows
from unit.test_listing import TAGS, submit
from unit.test_metrics import RUN, curve, frame, log

HOSTILE = "<b>[red]\x1b[31m"


def row(frame: pd.DataFrame, key: Any) -> list[Any]:
    return list(frame.loc[[key]].to_numpy()[0])


def ended(workspace: TestWorkspace, clients: Clients, *names: str, **properties: Any) -> None:
    for name in names:
        submit(workspace, name, **properties)
    for name in names:
        phift.FineTuneJob(name, clients).wait()


def start(clients: Clients, folder: Path, **changes: Any) -> phift.FineTuneRun:
    if not (folder / "train.jsonl").exists():
        write_rows(folder / "train.jsonl", 30)
    config = phift.RunConfig(
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data={"train": folder / "train.jsonl"},
        work_dir=folder / "work",
        **changes,
    )
    run = phift.FineTuneRun(config, clients)
    run.submit()
    run.wait()
    return run


def test_runs_are_compared_in_what_differs(clients: Clients, tmp_path: Path) -> None:
    first = start(clients, tmp_path, parameters={"seed": 1})
    write_rows(tmp_path / "train.jsonl", 40)
    second = start(clients, tmp_path, parameters={"learning_rate": 1e-4, "weight_decay": 0.1}, experiment="rivers")
    log(clients, [*curve("eval_loss", [3, 1, 2]), *curve("loss", [5, 4])], first.job.name)
    log(clients, [*curve("eval_loss", [4, 3]), ("train_loss", 30, 3.5)], second.job.name)
    compared = phift.compare_runs([first, second.job])
    one, other = first.job.name, second.job.name
    assert compared.parameters.to_dict("index") == {
        "seed": {one: "1", other: None},
        "learning_rate": {one: "5e-06", other: "0.0001"},
        "weight_decay": {one: None, other: "0.1"},
    }
    assert row(compared.made_of, "experiment") == ["phift", "rivers"]
    assert row(compared.made_of, "data hash") == [first.record.data_hash, second.record.data_hash]
    assert sorted(compared.made_of.index) == ["data hash", "experiment"]
    assert row(compared.metrics, ("eval_loss", "last")) == [2, 3]
    assert row(compared.metrics, ("eval_loss", "best")) == [1, 3]
    assert row(compared.metrics, ("eval_loss", "at step")) == [20, 20]
    np.testing.assert_array_equal(row(compared.metrics, ("loss", "last")), [4, np.nan])
    assert [row[0] for row in compared.metrics.index if row[1] == "last"] == ["eval_loss", "loss", "train_loss"]
    assert [len(axis.lines) for axis in compared.plot().axes] == [2, 2]


def test_runs_are_named_in_each_way(workspace: TestWorkspace, clients: Clients) -> None:
    submit(workspace, "first")
    submit(workspace, "second")
    ways: list[Any] = [
        ["first", "second"],
        ("first", phift.FineTuneJob("second", clients)),
        phift.runs(clients),
        iter([phift.runs(clients)[0], phift.FineTuneRun.attach("first", clients)]),
    ]
    for way in ways:
        compared = phift.compare_runs(way, clients)
        assert sorted(run.name for run in compared.runs) == ["first", "second"]
    assert len(phift.compare_runs(["first", "second"], f"local:{workspace.connection.folder}").runs) == 2


@pytest.mark.parametrize("names", [[], ["job"], ["job", "job"], "job"])
def test_fewer_than_two_jobs_cannot_be_compared(workspace: TestWorkspace, clients: Clients, names: Any) -> None:
    submit(workspace, "job")
    with pytest.raises(ConfigError, match="no two different jobs"):
        phift.compare_runs(names, clients)


def test_a_name_that_no_job_has_is_not_found(workspace: TestWorkspace, clients: Clients) -> None:
    submit(workspace, "job")
    with pytest.raises(NotFound) as caught:
        phift.compare_runs(["job", "nobody"], clients)
    assert caught.value.where == "job nobody"


def test_a_job_that_phift_did_not_submit_is_compared_in_what_is_known(
    workspace: TestWorkspace, clients: Clients
) -> None:
    ended(workspace, clients, "ours")
    ended(workspace, clients, "theirs", tags={})
    compared = phift.compare_runs(["ours", "theirs"], clients)
    assert set(compared.made_of["theirs"]) == {None}
    assert row(compared.made_of, "data hash") == [TAGS["phift.data"], None]


def test_a_comparison_takes_two_requests_a_job_and_one_a_metric(workspace: TestWorkspace, clients: Clients) -> None:
    ended(workspace, clients, "first", "second")
    for name in ("first", "second"):
        log(clients, [("loss", 1, 2.0), ("eval_loss", 1, 2.0)], name)
    before = len(workspace.requests())
    phift.compare_runs(["first", "second"], clients)
    asked = [entry.operation.rpartition("/")[2] for entry in workspace.requests()[before:]]
    assert sorted(asked) == 2 * ["get"] + 4 * ["get-history"] + 2 * ["{name}"]


def run(name: str, metrics: Any = RUN, **parameters: str) -> ComparedRun:
    return ComparedRun(name=name, made_of={"state": "Completed"}, parameters=parameters, metrics=metrics)


def test_a_comparison_is_shown_as_three_tables() -> None:
    nan = frame(("loss", 10, 2.0), ("loss", 20, math.nan))
    told = str(Comparison((run("first", learning_rate="1e-4"), run("second", nan))))
    assert [line.split() for line in told.splitlines()[:9]] == [
        ["made", "of", "first", "second"],
        ["(all", "the", "same)"],
        [],
        ["parameter", "first", "second"],
        ["learning_rate", "1e-4", "default"],
        [],
        ["metric", "first", "second"],
        ["eval_loss,", "last", "2", "-"],
        ["eval_loss,", "best", "2", "-"],
    ]
    assert re.search(r"\nloss, last +1 +nan\nloss, best +1 +2\nloss, at step +30 +10\n", told)


def test_runs_that_have_logged_nothing_are_compared_in_the_rest() -> None:
    compared = Comparison((run("first", RUN.iloc[:0]), run("second", RUN.iloc[:0])))
    assert compared.metrics.empty
    assert "(none logged)" in str(compared)
    with pytest.raises(NotFound, match="nothing to draw"):
        compared.plot()


def test_the_texts_of_others_are_shown_as_they_are() -> None:
    compared = Comparison((run(HOSTILE, **{HOSTILE: HOSTILE}), run("second", frame((HOSTILE, 1, 1.0)))))
    assert "<b>" not in compared._repr_html_()
    assert "\x1b" not in str(compared) + compared._repr_html_()
    compared.plot().savefig(BytesIO())


def test_a_comparison_as_plain_values_is_json() -> None:
    nan = frame(("loss", 10, math.nan))
    values = Comparison((run("first", learning_rate="1e-4"), run("second", nan))).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["parameters"] == {"learning_rate": {"first": "1e-4"}}
    assert values["metrics"]["loss"] == {
        "last": {"first": 1.0, "second": "NaN"},
        "best": {"first": 1.0},
        "at step": {"first": 30.0},
    }


def test_the_command_shows_prints_and_draws(workspace: TestWorkspace, clients: Clients, tmp_path: Path) -> None:
    for name in ("first", "second"):
        ended(workspace, clients, name, tags={**TAGS, "phift.data": name})
        log(clients, curve("loss", [3, 2, 1]), name)
    place = ["--workspace", f"local:{workspace.connection.folder}"]

    def compare(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["compare", *arguments, *place])

    shown = compare("first", "second", "--plot", str(tmp_path / "curves.png"))
    assert shown.exit_code == 0, shown.output
    assert re.search(r"^data hash +first +second *$", shown.stdout, re.MULTILINE)
    assert re.search(r"^loss, best +1 +1 *$", shown.stdout, re.MULTILINE)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(compare("first", "second", "--json").stdout)["jobs"] == ["first", "second"]
    assert (compare("first").exit_code, compare().exit_code) == (1, 2)
