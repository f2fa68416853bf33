"""The examples of the page on deploying, as a reader would run them, and that its tables say what the code does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from azure.ai.ml.entities import Model
from click.testing import CliRunner

from phift.azure.clients import Clients
from phift.cli.commands import main
from phift.config.deployment import DeploymentConfig, ProbeConfig
from phift.serving.crash import crashes
from unit import given

DOCUMENT = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


@pytest.fixture
def there(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> Clients:
    """Clients of a workspace with the model of the examples, which `phift.connect` hands out."""
    tags = {"phift.base_model": given.MODEL}
    models = clients.workspace.models
    models.create_or_update(Model(name="elements", version="1", path=given.MODEL, type="mlflow_model", tags=tags))
    monkeypatch.setattr("phift.azure.connect.connect", lambda **_options: clients)
    return clients


def test_the_example_from_python_runs(there: Clients, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("python")
    exec(compile(block, "deploying.md", "exec"), {})  # noqa: S102 - our own words
    assert capsys.readouterr().out.strip()
    assert list(there.workspace.online_endpoints.list()) == []


def test_the_commands_do_what_they_say(there: Clients) -> None:
    (block,) = blocks("sh")
    asked, named = (CliRunner().invoke(main, shlex.split(line)[1:]) for line in block.splitlines())
    assert (asked.exit_code, named.exit_code) == (0, 0), asked.output + named.output
    assert "What is the symbol of gold?\n  " in asked.stdout
    assert json.loads(named.stdout)["endpoint"] == "prod-chat"
    assert [each.name for each in there.workspace.online_endpoints.list()] == ["prod-chat"]


def test_the_settings_are_settings() -> None:
    for block in blocks("yaml"):
        assert DeploymentConfig(**yaml.safe_load(block)["deployment"])
    probe, config = ProbeConfig(), DeploymentConfig()
    told = f"first look after {probe.initial_delay} s, then every {probe.period} s, each {probe.timeout} s long, "
    assert f"{told}{probe.failure_threshold} may fail" in DOCUMENT
    for name in ("request_timeout_ms", "max_concurrent_requests", "instance_count"):
        assert f"| `{name}` | {getattr(config, name)} |" in DOCUMENT
    for name in ("auth_mode", "expires", "serve"):
        assert f"| `{name}` | `{getattr(config, name)}` |" in DOCUMENT


def test_the_table_of_logs_has_each_row_of_the_codes() -> None:
    rows = DOCUMENT.partition("| the log says |")[2].partition("\n\n")[0].splitlines()[2:]
    ours = [each for each in crashes() if each.name != "no weights"]
    assert len(rows) == len(ours)
    for row, each in zip(rows, ours, strict=True):
        said = row.split("|")[1].strip().partition(" …")[0]
        assert re.search(re.escape(said), each.text)
