"""The benchmarks run, on next to nothing; what they measure then says nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

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
