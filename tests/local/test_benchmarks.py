"""The benchmarks run, on next to nothing; what they measure then says nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.slow

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.proof
@pytest.mark.usefixtures("child_environment")
@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("prepare_data.py", ["--rows", "200", "--rounds", "1", "--folder", "."], "notebook"),
        ("near_duplicates.py", ["--rows", "100"], "precision"),
        ("count_tokens.py", ["--rows", "20", "--rounds", "1"], "phift / encode_batch: "),
        ("check_latency.py", ["1"], "ratio"),
        ("download.py", ["--gigabytes", "0.02", "--files", "5", "--cuts", "3"], "whole and right: True"),
        ("follow.py", ["1"], "phift, job.follow()"),
        ("serving.py", ["0.2", "1,2"], "mlflow models serve"),
        ("training.py", ["--rows", "32", "--epochs", "1", "--rounds", "1"], "phift: median"),
        ("local_scale.py", ["1"], "all 1001 jobs, page by page: "),
    ],
)
def test_it_runs_to_its_end(script: str, arguments: list[str], said: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / script), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)  # noqa: S603 - our own script
    assert ended.returncode == 0, ended.stderr
    assert said in ended.stdout


def test_an_answer_in_another_form_ends_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    serving = importlib.import_module("serving")

    class Malformed(serving.Target):  # type: ignore[misc,name-defined]  # a script's
        def ask(self, _connection: object, _question: str) -> str:
            return str(self.text({}))

    target = Malformed("odd", "http://127.0.0.1:1", dict, lambda said: said[0]["0"])
    with pytest.raises(RuntimeError, match="KeyError"):
        serving.load(target, 2, 0.1, dict.fromkeys(serving.QUESTIONS, ""))


def test_a_server_beside_is_waited_for_until_it_answers_or_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    serving = importlib.import_module("serving")
    program = tmp_path / "python"
    monkeypatch.setattr(serving.sys, "executable", str(program))

    def served(script: str) -> Any:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return serving.mlflow(tmp_path, tmp_path / "log")

    with pytest.raises(RuntimeError, match="no such model"), served("echo no such model; exit 1"):
        pass

    answers = iter([requests.ReadTimeout(), requests.ConnectionError(), SimpleNamespace(ok=True)])

    def get(*_given: object, **_named: object) -> Any:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    monkeypatch.setattr(serving.requests, "get", get)
    with served("exec sleep 60") as target:
        assert target.name == "mlflow models serve"
    assert next(answers, None) is None
