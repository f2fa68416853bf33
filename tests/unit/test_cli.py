from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.ai.ml.entities import Model
from click.testing import CliRunner, Result

import phift
from phift.cli.commands import main
from phift.errors import LocalWorkspaceNotRunning
from unit.fakes import A100, PHI_4, Fakes, http_error, write_rows
from unit.loopback import Reply, Script

YAML = """
model: Phi-4
compute: {compute}
data: {{train: rows.jsonl}}
parameters: {parameters}
"""


def invoke(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Fakes that every run connects to."""
    made = Fakes()
    monkeypatch.setattr("phift.run.chain.connect", lambda _config: made.clients)
    return made


def write_config(folder: Path, compute: str = "gpu-cluster", parameters: str = "{}") -> Path:
    write_rows(folder / "rows.jsonl", 30)
    path = folder / "run.yaml"
    path.write_text(YAML.format(compute=compute, parameters=parameters))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def test_the_version_is_the_packages() -> None:
    assert invoke("--version").output.strip().endswith(phift.__version__)


@pytest.mark.usefixtures("fakes")
def test_a_check_without_errors_shows_the_plan(config: Path) -> None:
    result = invoke("check", config)
    assert result.exit_code == 0
    assert "PARAMETER_DROPPED" in result.output
    assert "24 train, 3 validation, 3 test rows" in result.output


@pytest.mark.usefixtures("fakes")
def test_a_check_with_errors_exits_1_and_shows_no_plan(tmp_path: Path) -> None:
    result = invoke("check", write_config(tmp_path, parameters="{optim: sgd}"))
    assert result.exit_code == 1
    assert "PARAMETER_VALUE" in result.output
    assert "24 train" not in result.output


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("compute", "code"), [("gpu-cluster", 0), ("none", 1)])
def test_a_check_prints_json_and_nothing_else(tmp_path: Path, compute: str, code: int) -> None:
    result = invoke("check", write_config(tmp_path, compute), "--json")
    assert json.loads(result.stdout)["ok"] is (code == 0)
    assert result.exit_code == code


@pytest.mark.usefixtures("fakes")
def test_preparing_says_what_became_of_every_row_and_shows_one(config: Path) -> None:
    result = invoke("prepare", config, "--row", 2, "--split", "test")
    assert result.exit_code == 0, result.output
    assert "rows.jsonl (messages): 30 rows = 24 train + 3 validation + 3 test\n" in result.output
    (folder,) = (config.parent / ".phift" / "data").iterdir()
    assert (config.parent / ".phift" / ".gitignore").read_text() == "*\n"
    assert f"written to {folder}" in result.output
    assert json.loads((folder / "test.jsonl").read_text().splitlines()[1])["messages"][0]["content"] in result.output


def test_the_three_views_of_a_preparation_say_the_same(tmp_path: Path, config: Path) -> None:
    text = config.read_text().replace("rows.jsonl", "rows.jsonl, bad_rows: set_aside")
    config.write_text(text.replace("parameters: {}", "parameters: {max_seq_length: 4}"))
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('\n{"messages": []}\n')
        said = [{"role": "user", "content": "a", "weigh": 1}, {"role": "assistant", "content": "<b>1"}]
        file.write(json.dumps({"messages": said, "score": 1}) + "\n")
    page = tmp_path / "report.html"
    printed = invoke("prepare", config, "--html", page).output
    report = json.loads(invoke("prepare", config, "--json").stdout)
    html = page.read_text()
    assert "32 rows = 25 train + 3 validation + 3 test + 1 set aside" in printed
    assert "<td>32</td><td>25</td><td>3</td><td>3</td><td>1</td><td>1</td>" in html
    (source,) = report["sources"]
    assert (source["rows"], source["train"], source["aside"], source["blank"]) == (32, 25, 1, 1)
    reason = "it has 0 messages; at least 2 are needed"
    assert source["reasons"] == {reason: 1}
    assert source["columns_left_out"] == {"score": 1}
    assert source["other_keys"] == {"weigh": 1}
    assert f"set aside: 1 row: {reason}" in printed
    assert f"<td>1</td><td>{reason}</td>" in html
    assert {"DATA_COLUMNS_LEFT_OUT", "DATA_MESSAGE_KEYS"} <= {finding["code"] for finding in report["findings"]}
    assert {"DATA_SET_ASIDE", "DATA_CUT"} <= {finding["code"] for finding in report["findings"]}
    for finding in report["findings"]:
        assert f"{finding['code']}  {finding['place']}: {finding['message']}" in printed
        assert f"<td>{finding['code']}</td>" in html
    cut = report["tokens"]["splits"]["train"]["cut"]
    assert cut > 0
    assert f"about {cut} " in printed
    assert f"<td>about {cut}</td>" in html
    assert html.startswith("<!doctype html>")
    assert "<b>1" not in html
    assert report["rejects"] == f"{report['folder']}/rejects.jsonl"


@pytest.mark.usefixtures("fakes")
def test_a_second_preparation_says_at_once_that_nothing_has_changed(config: Path) -> None:
    first = json.loads(invoke("prepare", config, "--json").stdout)
    assert (first["read"], first["before"]) == (True, None)
    at_once = invoke("prepare", config).stdout.splitlines()[0]
    assert at_once == "  rows: 30 rows, prepared before and unchanged since; nothing is read again"
    assert "Prepared before, on 20" in invoke("prepare", config).stdout
    assert at_once.strip() in invoke("check", config).stderr
    again = json.loads(invoke("prepare", config, "--json").stdout)
    assert {**again, "read": True, "before": None} == first
    assert again["read"] is False
    assert "The same rows were prepared before" in invoke("prepare", config, "--fresh").stdout
    assert json.loads(invoke("prepare", config, "--json", "--fresh").stdout)["read"] is True


def test_a_report_that_cannot_be_written_is_an_error(config: Path, tmp_path: Path) -> None:
    result = invoke("prepare", config, "--html", tmp_path / "no" / "such.html")
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_a_report_that_is_not_read_to_its_end_is_no_mistake(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hand_out(_: str) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("phift.cli.commands.hand_out", hand_out)
    result = invoke("prepare", config, "--json")
    assert result.exit_code == 1
    assert "error" not in result.stderr


def test_a_run_ends_with_the_model_and_the_endpoint(fakes: Fakes, config: Path) -> None:
    result = invoke("run", config)
    assert result.exit_code == 0, result.output
    (endpoint,) = fakes.workspace.online_endpoints.known
    assert f"endpoint {endpoint} at https://endpoint.test/score" in result.output
    assert "model    phi-4-finetuned version" in result.output
    assert f"phift cleanup {config}" in result.output


def test_a_run_with_questions_answers_and_deletes_the_endpoint(fakes: Fakes, config: Path, server: Script) -> None:
    server.answers(Reply(["Forty-two."]), Reply(["Forty-three."]))
    fakes.workspace.online_endpoints.scoring_uri = f"{server.url}/score"
    result = invoke("run", config, "--ask", "How many?", "--ask", "And then?")
    assert "How many?\n  Forty-two.\nAnd then?\n  Forty-three.\n" in result.output
    assert fakes.workspace.online_endpoints.known == {}
    assert "costs money" not in result.output


def test_a_run_with_errors_shows_the_report_and_submits_nothing(fakes: Fakes, tmp_path: Path) -> None:
    result = invoke("run", write_config(tmp_path, parameters="{optim: sgd}"))
    assert result.exit_code == 1
    assert "PARAMETER_VALUE" in result.stdout
    assert result.stderr == "Nothing was submitted.\n"
    assert fakes.workspace.jobs.submitted == []


def test_a_failed_deployment_shows_its_log(fakes: Fakes, config: Path) -> None:
    fakes.workspace.online_deployments.outcomes = ["Failed"]
    result = invoke("run", config)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: The deployment did not come up: it ended as failed.\n  where: endpoint ")
    assert "log:\n--- storage-initializer\na line of the log" in result.stderr


def test_an_interrupt_says_how_to_go_on(fakes: Fakes, config: Path) -> None:
    fakes.workspace.record.fail("jobs.list", KeyboardInterrupt())
    result = invoke("run", config)
    assert result.exit_code == 130
    (job,) = fakes.workspace.jobs.submitted
    said = f"The job {job.name} goes on; the same command goes on from here:\n  phift run {config}\n"
    assert result.stderr.endswith(f"Interrupted.\n{said}")


def test_a_termination_is_an_interrupt_so_that_blocks_clean_up(fakes: Fakes, config: Path, server: Script) -> None:
    server.answers(Reply(["x"]))
    fakes.workspace.online_endpoints.scoring_uri = f"{server.url}/score"
    server.before = lambda: os.kill(os.getpid(), signal.SIGTERM)
    result = invoke("run", config, "--ask", "How many?")
    assert result.exit_code == 130
    assert fakes.workspace.online_endpoints.known == {}


def test_a_mistake_in_the_configuration_is_shown(tmp_path: Path) -> None:
    result = invoke("check", tmp_path / "none.yaml")
    assert result.exit_code == 1
    assert "There is no such configuration file." in result.output


def test_every_mistake_in_the_configuration_is_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: 3\ndatas: {}\n")
    report = json.loads(invoke("check", tmp_path / "run.yaml", "--json").stdout)
    places = {finding["place"] for finding in report["findings"]}
    assert (report["ok"], places) == (False, {"model", "datas", "data", "compute"})


def test_cleaning_up_deletes_the_endpoint(fakes: Fakes, config: Path) -> None:
    invoke("run", config)
    result = invoke("cleanup", config)
    assert result.exit_code == 0
    assert "deleting the endpoint" in result.output
    assert fakes.workspace.online_endpoints.known == {}


@pytest.mark.usefixtures("fakes")
def test_cleaning_up_a_run_that_never_was_has_nothing_to_do(config: Path) -> None:
    result = invoke("cleanup", config)
    assert (result.exit_code, result.output) == (0, "There was no endpoint to delete.\n")


def test_cleaning_up_what_nothing_is_known_of_names_all_that_is_up(fakes: Fakes, config: Path) -> None:
    fakes.add_endpoint("phift-other")
    result = invoke("cleanup", config)
    assert result.exit_code == 1
    said = "not been submitted as it stands; endpoints of other runs:\nstill up and costs money: endpoint phift-other"
    assert said in result.stderr
    assert "\n  phift cleanup phift-other\n" in result.stderr
    assert set(fakes.workspace.online_endpoints.known) == {"phift-other"}


def test_an_interrupted_cleanup_finishes_and_a_second_interruption_says_what_is_left(
    fakes: Fakes, config: Path
) -> None:
    invoke("run", config)
    (name,) = fakes.workspace.online_endpoints.known
    fakes.workspace.record.fail("online_endpoints.begin_delete", KeyboardInterrupt(), KeyboardInterrupt())
    twice = invoke("cleanup", config)
    assert (twice.exit_code, set(fakes.workspace.online_endpoints.known)) == (130, {name})
    assert f"Nothing goes on by itself; the same command goes on from here:\n  phift cleanup {config}\n" in twice.stderr
    assert f"The endpoint {name} is still up and costs money; to delete it:\n  phift cleanup {name}\n" in twice.stderr
    fakes.workspace.record.fail("online_endpoints.begin_delete", KeyboardInterrupt())
    once = invoke("cleanup", config)
    assert (once.exit_code, fakes.workspace.online_endpoints.known) == (130, {})
    assert "costs money" not in once.stderr


def test_an_interruption_of_a_deployment_on_an_endpoint_that_is_there_names_it(fakes: Fakes, config: Path) -> None:
    invoke("run", config)
    (name,) = fakes.workspace.online_endpoints.known
    fakes.workspace.record.fail("online_deployments.get", KeyboardInterrupt())
    result = invoke("deploy", config)
    assert (result.exit_code, set(fakes.workspace.online_endpoints.known)) == (130, {name})
    assert f"The endpoint {name} is still up and costs money; to delete it:\n  phift cleanup {name}\n" in result.stderr


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_while_it_deploys_takes_back_what_was_made_and_says_that_nothing_goes_on(
    fakes: Fakes, config: Path, kind: signal.Signals, times: int
) -> None:
    deployments, endpoints = fakes.workspace.online_deployments, fakes.workspace.online_endpoints
    make, delete = deployments.begin_create_or_update, endpoints.begin_delete

    def struck(deployment: Any) -> Any:
        os.kill(os.getpid(), kind)
        return make(deployment)

    def struck_again(name: str | None = None) -> Any:
        os.kill(os.getpid(), kind)
        return delete(name)

    if times == 2:  # at once, as SIGHUP is when a terminal is closed
        endpoints.begin_delete = struck_again  # type: ignore[method-assign]
    deployments.begin_create_or_update = struck  # type: ignore[method-assign] # a terminal that is closed meanwhile
    result = invoke("run", config)
    assert (result.exit_code, fakes.workspace.online_endpoints.known) == (130, {})
    said = f"Interrupted.\nNothing goes on by itself; the same command goes on from here:\n  phift run {config}\n"
    assert said in result.stderr
    assert "goes on;" not in result.stderr
    assert "costs money" not in result.stderr


def test_nohup_is_heeded(fakes: Fakes, config: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    steps, asked = fakes.workspace.jobs.list, list[Any]()

    def struck(**options: Any) -> Any:
        asked.append(options)
        os.kill(os.getpid(), signal.SIGHUP)
        return steps(**options)

    fakes.workspace.jobs.list = struck  # type: ignore[method-assign] # a terminal that is closed meanwhile
    assert invoke("submit", config).exit_code == 0
    assert asked


def test_commands_that_are_shown_can_be_pasted(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Zoë's runs"
    folder.mkdir()
    config = write_config(folder)
    shown = invoke("run", config).output.partition("until you delete it: ")[2].splitlines()[0]
    assert shlex.split(shown) == ["phift", "cleanup", str(config)]
    monkeypatch.setattr("phift.azure.connect.connect", lambda workspace: fakes.clients)
    workspace = f"local:{folder}"
    (name,) = fakes.workspace.online_endpoints.known
    fakes.workspace.record.fail("online_endpoints.begin_delete", http_error(403, "no right"))
    refused = invoke("cleanup", name, "--workspace", workspace).stderr.splitlines()
    assert shlex.split(refused[-1]) == ["phift", "cleanup", name, "--workspace", workspace]


def test_submitting_trains_and_deploys_nothing(fakes: Fakes, config: Path) -> None:
    result = invoke("submit", config)
    (job,) = fakes.workspace.jobs.submitted
    assert result.exit_code == 0, result.output
    assert f"\njob      {job.name}\n" in result.output
    assert "\nmodel    phi-4-finetuned version" in result.output
    assert f"Nothing is deployed; to do so: phift deploy {config}" in result.output
    assert fakes.workspace.online_endpoints.known == {}
    again = invoke("submit", config, "--no-wait")
    assert f"job      {job.name} (submitted before)" in again.output
    assert "model    " not in again.output.partition("(submitted before)")[2]


def test_a_job_is_deployed_and_cleaned_up_by_its_name(
    fakes: Fakes, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def connect(workspace: Any) -> Any:
        asked.append(workspace)
        return fakes.clients

    monkeypatch.setattr("phift.azure.connect.connect", connect)
    invoke("submit", config)
    (job,) = fakes.workspace.jobs.submitted
    config.unlink()
    result = invoke("deploy", job.name, "--workspace", "a/b/c")
    assert f"until you delete it: phift cleanup {job.name} --workspace a/b/c" in result.output
    (name,) = fakes.workspace.online_endpoints.known
    listed = invoke("endpoints", "--workspace", "a/b/c").output
    assert re.search(rf"{name} +\d+ s +in .* +\?\n", listed)
    assert re.search(rf"    model phi-4-finetuned:\w+; job {job.name}; default 100 % \(1 x {A100}\)\n", listed)
    assert invoke("cleanup", name, "--workspace", "a/b/c").exit_code == 0
    assert "deployed nothing" in invoke("endpoints").output
    assert invoke("cleanup", job.name).output.endswith("There was no endpoint to delete.\n")
    assert invoke("cleanup", "nobody").exit_code == 1
    assert asked == ["a/b/c"] * 3 + [None] * 3


def test_a_model_is_deployed_by_its_name_and_told_as_json(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.azure.connect.connect", lambda workspace: fakes.clients)
    tags = {"phift.base_model": PHI_4}
    fakes.workspace.models.add(Model(id="a/b", name="mine", version="3", type="mlflow_model", path="p", tags=tags))
    result = invoke("deploy", "mine:3", "--name", "my-own", "--deployment", "green", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["endpoint"], told["existed"]) == ("my-own", False)
    assert [*fakes.workspace.online_deployments.known] == [("my-own", "green")]
    assert "It costs money until you delete it: phift cleanup my-own\n" in result.stderr
    assert "starting the model server" in result.stderr
    wrong = invoke("deploy", "mine:4")
    assert (wrong.exit_code, "neither a job nor a model mine:4" in wrong.stderr) == (1, True)


def test_a_model_is_not_looked_for_among_the_jobs(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.azure.connect.connect", lambda workspace: fakes.clients)
    monkeypatch.setattr("phift.FineTuneRun.attach", None)
    tags = {"phift.base_model": PHI_4}
    fakes.workspace.models.add(Model(id="a/b", name="mine", version="3", type="mlflow_model", path="p", tags=tags))
    for number, model in enumerate(
        ("mine:3", "azureml:mine:3", "azureml://registries/azureml/models/Phi-4/versions/8")
    ):
        result = invoke("deploy", model, "--name", f"my-own-{number}")
        assert result.exit_code == 0, result.output


def test_an_endpoint_that_cannot_be_deleted_is_named_with_the_command(
    fakes: Fakes, config: Path, server: Script
) -> None:
    server.answers(Reply(["Forty-two."]))
    fakes.workspace.online_endpoints.scoring_uri = f"{server.url}/score"
    fakes.workspace.record.fail("online_endpoints.begin_delete", http_error(403, "no right"))
    result = invoke("run", config, "--ask", "How many?")
    (name,) = fakes.workspace.online_endpoints.known
    assert result.exit_code == 1
    assert f"error: The endpoint {name} is still up and costs money. Its deletion failed: " in result.stderr
    assert f"  phift cleanup {name}\n" in result.stderr


def test_a_run_tells_of_what_earlier_runs_left_up(fakes: Fakes, config: Path, tmp_path: Path) -> None:
    invoke("run", config)
    (first,) = fakes.workspace.online_endpoints.known
    edited = invoke("run", write_config(tmp_path, parameters="{seed: 7}"))
    assert f"still up and costs money: endpoint {first} (of job " in edited.stderr


def test_samples_are_written(tmp_path: Path) -> None:
    result = invoke("samples", tmp_path / "new")
    written = [Path(line) for line in result.output.splitlines()]
    assert result.exit_code == 0
    assert [path.name for path in written] == ["train.jsonl", "validation.jsonl", "test.jsonl"]
    assert all(path.stat().st_size for path in written)


def test_samples_overwrite_nothing_without_force(tmp_path: Path) -> None:
    own = tmp_path / "train.jsonl"
    own.write_text("mine\n", encoding="utf-8")
    refused = invoke("samples", tmp_path)
    assert (refused.exit_code, own.read_text(encoding="utf-8")) == (1, "mine\n")
    assert "--force" in refused.output
    assert invoke("samples", tmp_path, "--force").exit_code == 0
    assert own.read_text(encoding="utf-8") != "mine\n"


class Workspace:
    """Stands for `phift.local.LocalWorkspace`; remembers what was done to which folder."""

    def __init__(self, done: list[Any], running: bool, folder: Path | None, **options: str) -> None:
        self._done, self._running, self._folder, self._options = done, running, folder, options

    def up(self, on_event: Any) -> Any:
        self._done.append(("up", self._folder, self._options))
        on_event("starting")
        return SimpleNamespace(base_url="https://localhost:1", folder=self._folder)

    def down(self) -> bool:
        self._done.append(("down", self._folder))
        return self._running

    def reset(self) -> None:
        self._done.append(("reset", self._folder))

    def status(self) -> Any:
        there = {"jobs": {"Completed": 2}, "endpoints": {"phift-e": ("default",)}, "folder": self._folder}
        return SimpleNamespace(running=self._running, address="https://localhost:1", pid=7, **there)

    def connection(self) -> Any:
        if not self._running:
            raise LocalWorkspaceNotRunning("No local workspace is running.", fix="phift local up")
        return SimpleNamespace(environment=lambda: {"A": "1", "B": "two words"}, config=lambda: {"workspace_name": "a"})


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A local workspace in the place of the real one; it runs until ``running`` is set to False."""
    state = SimpleNamespace(done=[], running=True)

    def workspace(folder: Path | None, **options: str) -> Workspace:
        return Workspace(state.done, state.running, folder, **options)

    monkeypatch.setattr("phift.cli.local.LocalWorkspace", workspace)
    return state


def test_up_starts_the_local_workspace_in_the_folder(local: SimpleNamespace, tmp_path: Path) -> None:
    result = invoke("local", "up", "--folder", tmp_path)
    assert result.output.startswith("  starting\nThe local workspace is up at https://localhost:1")
    assert local.done == [("up", tmp_path, {"engine": "train", "speed": "real", "datastores": None})]


def test_up_takes_an_engine_and_a_speed(local: SimpleNamespace) -> None:
    assert invoke("local", "up", "--engine", "instant", "--speed", "fast").exit_code == 0
    assert local.done == [("up", None, {"engine": "instant", "speed": "fast", "datastores": None})]
    assert "'warp' is not one of 'real', 'fast', 'manual'" in invoke("local", "up", "--speed", "warp").output


@pytest.mark.parametrize(("running", "words"), [(True, "Stopped.\n"), (False, "It was not running.\n")])
def test_down_says_whether_it_ran(local: SimpleNamespace, running: bool, words: str) -> None:
    local.running = running
    assert invoke("local", "down").output == words
    assert local.done == [("down", None)]


@pytest.mark.parametrize(
    ("running", "code", "words"), [(True, 0, "at https://localhost:1, process 7"), (False, 1, "no")]
)
def test_status_has_an_exit_code(local: SimpleNamespace, running: bool, code: int, words: str) -> None:
    local.running = running
    result = invoke("local", "status")
    assert result.exit_code == code
    assert f"running    {words}\n" in result.output
    assert "jobs       2 Completed\nendpoint   phift-e: default\n" in result.output


@pytest.mark.parametrize(
    ("arguments", "answer", "done"),
    [(["--yes"], "", [("reset", None)]), ([], "y\n", [("reset", None)]), ([], "n\n", []), ([], "", [])],
)
def test_a_reset_asks_first(local: SimpleNamespace, arguments: list[str], answer: str, done: list[Any]) -> None:
    result = invoke("local", "reset", *arguments, input=answer)
    assert local.done == done
    assert result.exit_code == (0 if done else 1)


@pytest.mark.usefixtures("local")
def test_the_environment_is_printed_for_a_shell() -> None:
    assert invoke("local", "env").output == "export A=1\nexport B='two words'\n"


@pytest.mark.usefixtures("local")
def test_the_config_is_printed_as_json() -> None:
    assert json.loads(invoke("local", "config").output) == {"workspace_name": "a"}


@pytest.mark.parametrize("command", ["env", "config"])
def test_a_workspace_that_does_not_run_is_an_error(local: SimpleNamespace, command: str) -> None:
    local.running = False
    result = invoke("local", command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: No local workspace is running.\n  fix:   phift local up\n"


@pytest.mark.parametrize(
    ("arguments", "folder", "fresh"),
    [([], "default", False), (["--folder", "mine", "--fresh"], "mine", True), (["--real"], "default", False)],
)
def test_the_quickstarts_exit_code_is_the_demonstrations(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], folder: str, fresh: bool
) -> None:
    calls: list[Any] = []

    def demonstrate(_console: Any, where: Path, *, fresh: bool, show: str) -> int:
        calls.append((where, fresh, show))
        return 3

    for name, shown in (("quickstart", "stand-in"), ("quickstart_real", "real")):
        module = SimpleNamespace(default_folder=lambda: Path("default"), demonstrate=demonstrate, fine_tune=shown)
        module.weights = lambda: Path("model.gguf")
        monkeypatch.setitem(sys.modules, f"phift.cli.{name}", module)
    assert invoke("quickstart", *arguments).exit_code == 3
    assert calls == [(Path(folder), fresh, "real" if "--real" in arguments else "stand-in")]


IN_A_FINALIZER = """
import os, signal, sys, time
from phift.cli import commands

class Struck:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
        time.sleep(0.01)  # where the signal's handler is run, if it was not before

@commands.main.command()
@commands.click.argument("name")
def strike(name):
    Struck()
    time.sleep(60)
    print("it went on")

@commands.main.command()
@commands.click.argument("name")
def end(name):
    class Last:
        def __del__(self, kill=os.kill, own=os.getpid(), number=getattr(signal, name)):
            kill(own, number)  # when Python has given up its handlers of signals
    sys.kept = Last()
    print("it is done")

@commands.main.command()
@commands.click.argument("name")
def fail(name):
    class Broken:
        def __del__(self):
            raise ValueError("in a finalizer")
    Broken()
    print("it went on")

commands.program()
"""


def in_a_process(command: str, name: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", IN_A_FINALIZER, command, name]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603 - ours


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interruption_that_strikes_in_a_finalizer_is_not_lost(name: str) -> None:
    ended = in_a_process("strike", name)
    assert (ended.returncode, ended.stdout) == (130, ""), ended.stderr
    assert ended.stderr == "Interrupted.\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interruption_of_what_is_done_changes_nothing(name: str) -> None:
    ended = in_a_process("end", name)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "it is done\n", "")


def test_another_error_in_a_finalizer_is_told_as_python_does() -> None:
    ended = in_a_process("fail", "SIGINT")
    assert (ended.returncode, ended.stdout) == (0, "it went on\n")
    assert "ValueError: in a finalizer" in ended.stderr


STUCK = """
import ctypes
from phift.cli import commands
from phift.cli.interrupted import Leftovers
from phift.serving.resource import DeploymentEvent

@commands.main.command()
@commands.click.argument("stage")
def stick(stage):
    left = Leftovers("run", ["run.yaml"], [], lambda _event: None)
    with left.told():
        if stage != "checking":
            left(DeploymentEvent(stage, "phift-e"))
        lock, take = ctypes.create_string_buffer(256), ctypes.CDLL(None).pthread_mutex_lock
        take(lock)
        print("at work", flush=True)
        take(lock)  # as a look-up of a host's name in a network that hangs: no signal ends it

commands.program()
"""


@pytest.mark.parametrize(("stage", "signals"), [("checking", 1), ("endpoint", 2), ("exists", 2)])
def test_an_interruption_is_heard_where_python_cannot_hear_it(stage: str, signals: int) -> None:
    command = [sys.executable, "-c", STUCK, "stick", stage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "at work\n"
        time.sleep(1)  # until it cannot hear
        if signals == 2:
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline().startswith("Interrupted; it ends when the network answers")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)  # those came at once, and are one
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 130
        assert time.monotonic() - began < 2
    assert said.startswith("Interrupted.\n")
    assert "phift run run.yaml" in said
    assert ("phift cleanup phift-e" in said) == (stage != "checking")
