"""A ``.netrc`` with an entry for every host takes nothing away from a run."""

from __future__ import annotations

from pathlib import Path

import caller
import pytest
from running import Local

from phift import FineTuneRun, connect

pytestmark = pytest.mark.usefixtures("quiet_sdk", "quiet_log")


def test_a_run_is_checked_submitted_and_deployed(local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password made-up\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    folder = local.workspace.folder
    data = caller.write_rows(tmp_path / "train.jsonl")
    run = FineTuneRun(caller.configuration(folder, data, tmp_path / "work", 1), connect(workspace={"local": folder}))
    run.submit()
    run.wait(timeout=120)
    run.register()
    with run.deploy() as endpoint:
        assert endpoint.chat("How many protons are in an atom of gold?")
