"""Every example in the README and in `examples/`, as a reader would run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from phift import RunConfig, samples
from phift.cli import quickstart_real
from phift.local import LocalWorkspace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def block(language: str, word: str) -> str:
    found = [text for text in blocks(language) if word in text]
    assert len(found) == 1, f"{len(found)} {language} blocks with {word}"
    return found[0]


class Reader:
    """Somebody with a folder and a home of their own, and the README."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        (folder / "finetune.yaml").write_text(block("yaml", "# finetune.yaml"))
        unset = ("AZUREML_CURRENT_CLOUD", "REQUESTS_CA_BUNDLE")
        environ = {name: value for name, value in os.environ.items() if name not in unset}
        path = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
        self.environ = {**environ, "HOME": str(self.home), "PATH": path, "PHIFT_LOCAL_HOME": str(self.home / "local")}

    def run(self, *command: str, code: int = 0, folder: Path | None = None) -> str:
        done = subprocess.run(  # noqa: S603 - what the README says
            command,
            cwd=folder or self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader who has seen the quickstart, in the workspace that all that follows is done in too.

    What the README trains is the same run, so that it is trained once.
    """
    reader = Reader(tmp_path_factory.mktemp("reader"))
    home = reader.home / "local"
    try:
        (reader.folder / "shown").write_text(reader.run("phift", "quickstart", "--folder", str(home)))
        yield reader
    finally:
        LocalWorkspace(home).down()


@pytest.fixture(scope="module")
def reader(newcomer: Reader) -> Iterator[Reader]:
    """A reader who has done the steps of "Your own run" up to `phift run`."""
    activate, *lines, run, down = block("sh", "phift check").splitlines()
    assert activate == ". .venv/bin/activate"  # this environment is another one, on the PATH
    assert run.startswith("phift run")
    assert down == "phift local down"
    for line in lines:
        newcomer.run("sh", "-c", line)
    (newcomer.folder / "said").write_text(newcomer.run("sh", "-c", run))
    yield newcomer
    assert "Stopped." in newcomer.run("sh", "-c", down)


def test_the_quickstart_learns_and_leaves_nothing_running(newcomer: Reader) -> None:
    said = (newcomer.folder / "shown").read_text()
    losses = re.search(r"validation loss\s+([\d.]+) before, ([\d.]+) after", said)
    shares = re.search(r"answered exactly\s+(\d+)% before, (\d+)% after", said)
    assert losses
    assert shares
    assert float(losses[1]) > 5 > 0.5 > float(losses[2])
    assert int(shares[1]) <= 5
    assert int(shares[2]) >= 70
    assert not LocalWorkspace(newcomer.home / "local").status().running
    assert str(newcomer.folder) not in _command_lines()


def test_the_commands_find_the_same_run_and_answer(reader: Reader) -> None:
    said = (reader.folder / "said").read_text()
    assert "submitted before" in said
    assert "The atomic number of gold is 79." in said


def test_the_first_example_goes_on_with_the_run_and_answers(reader: Reader) -> None:
    said = reader.run(sys.executable, "-c", block("python", "from phift import FineTuneRun, RunConfig"))
    assert "eval_loss" in said
    assert said.splitlines()[-1] == "The symbol of iron is Fe."


def test_the_example_of_the_local_workspace_runs(reader: Reader) -> None:
    document = (ROOT / "docs" / "local-workspace.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    assert reader.run(sys.executable, "-c", example) == "True\n"


def test_the_example_of_coming_back_runs(reader: Reader) -> None:
    document = (ROOT / "docs" / "callers.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    assert reader.run(sys.executable, "-c", example).splitlines()[-1] == "The symbol of gold is Au."


def test_what_is_taken_home_opens_and_says_how_it_was_made(reader: Reader) -> None:
    document = (ROOT / "docs" / "taking-home.md").read_text(encoding="utf-8")
    fetch, reproduce = re.findall(r"```sh\n(.*?)```", document, flags=re.DOTALL)
    opened, checked = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    runs = json.loads(reader.run("phift", "runs", "--workspace", "local", "--json"))
    job = next(each for each in runs if each["registered"])
    name, registered = job["name"], job["registered"]
    commands = fetch.replace("phi-4-mini-instruct-finetuned:5f2c9d0e7a31", registered)
    commands = commands.replace("phift-phi-4-mini-instruct-5f2c9d0e7a31", name)
    said = [reader.run("sh", "-c", line) for line in commands.splitlines()]
    assert [line.partition(":")[0] for line in said] == ["my-model", "registered", "everything"]
    assert reader.run(sys.executable, "-c", opened).splitlines() == ["True", "The symbol of iron is Fe."]
    assert float(reader.run(sys.executable, "-c", checked)) > 0
    for line in reproduce.replace("phift-phi-4-mini-instruct-5f2c9d0e7a31", name).splitlines():
        told = reader.run("sh", "-c", line)
    assert name in told
    assert (reader.folder / "everything/logs/chat_completion_finetune/user_logs/std_log.txt").stat().st_size


def test_the_trained_model_is_better_than_its_base_model(reader: Reader) -> None:
    document = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```sh\n(.*?)```", document, flags=re.DOTALL)
    assert re.search(r"^exact_match .* better *$", reader.run("sh", "-c", command), re.MULTILINE)
    assert "<td>better</td>" in (reader.folder / "evaluation.html").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)[0]
    assert reader.run(sys.executable, "-c", example).splitlines()[-1] == "better"
    assert "deployed nothing" in reader.run("phift", "endpoints", "--workspace", "local")


@pytest.mark.proof
def test_the_examples_of_comparing_run(reader: Reader) -> None:
    document = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    for example in re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL):
        said = reader.run(sys.executable, "-c", example)
    assert re.search(r"^num_train_epochs +5 +2$", said, re.MULTILINE)
    assert re.search(r"^eval_loss, best +0\.\d+ +\d\.\d+$", said, re.MULTILINE)
    (commands,) = re.findall(r"```sh\n(.*?)```", document, flags=re.DOTALL)
    assert "num_train_epochs" in reader.run("sh", "-ec", commands)
    assert (reader.folder / "metrics.csv").read_text().startswith("step,epoch,eval_loss,")
    for picture in ("curves.png", "compared.png", "compared.svg"):
        assert (reader.folder / picture).stat().st_size > 10_000


def test_the_commands_one_by_one_find_the_run_and_leave_nothing(reader: Reader) -> None:
    submit, deploy, endpoints, cleanup = block("sh", "phift submit").splitlines()
    assert "(submitted before)" in reader.run("sh", "-c", submit)
    assert "The symbol of gold is Au." in reader.run("sh", "-c", deploy)
    assert "deployed nothing" in reader.run("sh", "-c", endpoints)
    assert "There was no endpoint to delete." in reader.run("sh", "-c", cleanup)


def test_a_job_is_found_again_by_its_name(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, follow, logs, metrics, download, reproduce = block("sh", "phift runs").splitlines()
    listed = json.loads(reader.run("sh", "-c", runs.partition("#")[0] + "--json"))
    (job,) = {each["name"] for each in listed if each["state"] == "Completed"}
    monkeypatch.setitem(reader.environ, "JOB", job)
    assert job in reader.run("sh", "-c", runs)
    assert "job Completed" in reader.run("sh", "-c", follow)
    assert "chat_completion_finetune" in reader.run("sh", "-c", logs)
    assert "eval_loss" in reader.run("sh", "-c", metrics)
    assert (reader.folder / "loss.png").stat().st_size > 10_000
    reader.run("sh", "-c", download)
    assert (reader.folder / "model" / "phift-manifest.json").is_file()
    reader.run("sh", "-c", reproduce)
    assert job in reader.run("phift", "submit", "same.yaml", "--no-wait")


def test_an_endpoint_is_parked_brought_back_and_deleted(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, deploy, chat, park, unpark, prune, cleanup = block("sh", "phift endpoints park").splitlines()
    listed = json.loads(reader.run("phift", "runs", "--workspace", "local", "--json"))
    (job,) = {each["name"] for each in listed if each["state"] == "Completed"}
    monkeypatch.setitem(reader.environ, "JOB", job)
    assert "better" in reader.run("sh", "-c", evaluate)
    reader.run("sh", "-c", deploy)
    assert "The symbol of gold is Au." in reader.run("sh", "-c", chat)
    reader.run("sh", "-c", park)
    reader.run("sh", "-c", unpark)
    assert "elements" not in reader.run("sh", "-c", prune)
    assert "elements: deleted\n" in reader.run("sh", "-c", cleanup)


def test_the_comparison_is_the_one_of_its_page() -> None:
    (shown,) = re.findall(r"^```\n(metric .*?)```", README, flags=re.DOTALL | re.MULTILINE)
    assert shown in (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")


def test_the_example_script_goes_on_with_the_run_and_answers(reader: Reader) -> None:
    examples = reader.folder / "examples"
    examples.mkdir()
    for name in ("quickstart.py", "finetune_local.yaml"):
        (examples / name).write_text((ROOT / "examples" / name).read_text())
    reader.run("phift", "samples", "examples/elements")
    said = reader.run(sys.executable, "examples/quickstart.py", "examples/finetune_local.yaml")
    assert "going on" in said
    assert "The symbol of iron is Fe." in said


def _command_lines() -> str:
    files = Path("/proc").glob("[0-9]*/cmdline")
    own = Path(f"/proc/{os.getpid()}/cmdline")
    return "\n".join(_read(path) for path in files if path != own)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # the process has ended meanwhile
        return ""


def test_the_run_files_for_azure_are_right() -> None:
    here = RunConfig.from_dict(yaml.safe_load(block("yaml", "# azure.yaml")))
    example = RunConfig.from_yaml(ROOT / "examples" / "finetune_azure.yaml")
    assert here.compute.size == example.compute.size == "Standard_NC24ads_A100_v4"


@pytest.mark.parametrize("file", ["finetune.yaml", "examples/finetune_local.yaml"])
def test_the_local_run_files_have_the_parameters_of_the_sample_data(file: str) -> None:
    text = block("yaml", "# finetune.yaml") if file == "finetune.yaml" else (ROOT / file).read_text()
    written = {name: str(value).lower() for name, value in yaml.safe_load(text)["parameters"].items()}
    assert written == {name: str(value).lower() for name, value in samples.PARAMETERS.items()}


def test_the_run_file_of_the_real_model_is_the_demonstrations_and_good_for_azure_but_for_its_workspace() -> None:
    here = yaml.safe_load((ROOT / "examples" / "finetune_real.yaml").read_text())
    written = {name: str(value).lower() for name, value in here["parameters"].items()}
    assert written == {name: str(value).lower() for name, value in samples.PRETRAINED_PARAMETERS.items()}
    azure = {"subscription_id": "1", "resource_group": "ours", "workspace_name": "ours"}
    there = RunConfig.from_dict(here | {"workspace": azure})
    assert (there.model.name, there.parameters) == (quickstart_real.MODEL, RunConfig.from_dict(here).parameters)
