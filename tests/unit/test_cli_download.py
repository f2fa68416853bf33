"""The commands that take home what a job made, and how."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from rich.console import Console

from phift import EventPrinter, FineTuneRun, RunConfig, samples
from phift.azure.clients import Clients
from phift.cli.commands import main
from phift.jobs.download import DownloadProgress
from phift.jobs.job import FineTuneJob
from phift.jobs.registration import register_model
from phift.testing import Fault, TestWorkspace
from unit import given

Command = Callable[..., Result]


@pytest.fixture
def phift(workspace: TestWorkspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command line, of the workspace of the test, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(command: str, *arguments: object) -> Result:
        place = ["--workspace", f"local:{workspace.connection.folder}"] if command != "check" else []
        return CliRunner().invoke(main, [command, *map(str, arguments), *place])

    return call


@pytest.fixture
def job(workspace: TestWorkspace, clients: Clients) -> FineTuneJob:
    given.job(workspace)
    job = FineTuneJob("job", clients)
    job.wait()
    return job


def test_a_job_s_model_goes_into_a_folder_of_its_name(job: FineTuneJob, phift: Command, tmp_path: Path) -> None:
    done = phift("download", "job")
    assert done.exit_code == 0, done.output
    assert done.stdout == "job: 2 files of 0.0 MB, 0.0 MB fetched\n"
    assert "job trained_model: is all there" in done.stderr
    assert (tmp_path / "job" / "MLmodel").exists()
    assert phift("download", "job").stdout == "job: 2 files of 0.0 MB, was there already\n"


def test_a_registered_model_goes_where_it_is_told(
    job: FineTuneJob, clients: Clients, phift: Command, tmp_path: Path
) -> None:
    register_model(clients, job, name="mine", version="1")
    done = phift("download", "mine:1", "--to", tmp_path / "here", "--json")
    told = json.loads(done.stdout)
    assert (told["folder"], told["files"], told["known"]) == (str(tmp_path / "here"), 2, False)
    phift("download", "mine:1")
    assert (tmp_path / "mine-1" / "MLmodel").exists()


def test_what_there_is_not_exits_with_1(job: FineTuneJob, phift: Command) -> None:
    done = phift("download", "job", "--output", "none")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "it has trained_model" in done.stderr
    assert phift("download", "nobody").exit_code == 1
    assert phift("download", "mine:").exit_code == 2


def test_what_a_failed_job_left_is_asked_for(workspace: TestWorkspace, clients: Clients, phift: Command) -> None:
    workspace.order(Fault("step chat_completion_finetune", status=400, code="UserError", message="made up"))
    given.job(workspace)
    while FineTuneJob("job", clients).status() != "Failed":
        pass
    refused = phift("download", "job")
    assert refused.exit_code == 1
    assert "phift download --partial" in refused.stderr
    assert phift("download", "job", "--partial").exit_code == 0
    assert Path("job/logs/job/logs/azureml/executionlogs.txt").exists()
    assert phift("download", "job", "--all", "--to", "all").exit_code == 1


def test_an_interruption_says_how_to_go_on(job: FineTuneJob, phift: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FineTuneJob, "download", interrupt)
    done = phift("download", "job", "--all", "--to", "there")
    assert done.exit_code == 130
    assert "phift download job --workspace local:" in done.stderr
    assert " --to there --all\n" in done.stderr


def test_a_job_s_configuration_is_written(clients: Clients, phift: Command, tmp_path: Path) -> None:
    data = samples.write(tmp_path / "elements")
    config = RunConfig(
        model="Phi-4-mini-instruct", compute="gpu-cluster", data={"train": data.train}, work_dir=tmp_path / "work"
    )
    name = FineTuneRun(config, clients).submit().name
    done = phift("reproduce", name)
    assert done.stdout.startswith(f"# The configuration of the job {name}")
    written = phift("reproduce", name, "-o", "again.yaml")
    assert written.stdout == "again.yaml\n"
    assert Path("again.yaml").read_text(encoding="utf-8") == done.stdout
    assert json.loads(phift("reproduce", name, "--json").stdout) == yaml.safe_load(done.stdout)
    assert json.loads(phift("check", "again.yaml", "--json").stdout)["ok"]
    again = phift("reproduce", name, "-o", "again.yaml")
    assert again.exit_code == 1
    assert "exists" in again.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_a_download_is_shown(terminal: bool) -> None:
    console = Console(force_terminal=terminal, width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    printer = EventPrinter(console)
    for stage, done in (("waits", 0), ("fetch", 0), ("fetch", 50), ("fetch", 100), ("done", 100), ("known", 100)):
        event = DownloadProgress(
            stage=stage,  # type: ignore[arg-type]
            source="job trained_[red]model",
            bytes=done,
            total_bytes=100,
            files=done // 50,
            total_files=2,
        )
        printer(event)
    shown = console.export_text()
    assert "job trained_[red]model: waiting for somebody else" in shown
    assert "job trained_[red]model: is all there\n" in shown
    assert "is all there already; nothing is fetched" in shown
    assert ("fetching job trained_[red]model" in shown) == terminal or "2 of 2 files" in shown
    console.file.close()
