"""The examples of the page on costs, as a reader would run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import phift
from phift.azure.clients import Clients
from phift.cli.commands import main
from phift.config.deployment import DeploymentConfig
from phift.serving.deployment import deploy_model
from unit import given
from unit.fakes import A100

DOCUMENT = (Path(__file__).parents[2] / "docs" / "costs.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    return str(found)


@pytest.fixture
def there(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> Clients:
    """Clients of a workspace with the endpoint of the examples, which `phift.connect` hands out."""
    deploy_model(clients, given.MODEL, name="elements", size=A100)
    monkeypatch.setattr("phift.azure.connect.connect", lambda **_options: clients)
    return clients


def test_the_commands_do_what_they_say(there: Clients) -> None:
    for line in block("sh").splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "phift"
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        assert phift.endpoints(there)[0].is_parked == ("park" in words)


def test_the_example_from_python_runs(there: Clients, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), "costs.md", "exec"), {})  # noqa: S102 - our own words
    assert "1 endpoint in the workspace" in capsys.readouterr().out
    assert not phift.endpoints(there)[0].is_parked


def test_the_setting_is_one() -> None:
    assert DeploymentConfig(**yaml.safe_load(block("yaml"))["deployment"]).expires == "8h"
