"""Every block of docs/following.md, one after another, with a client as a reader has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from phift.jobs.following import STATUS_PERIOD
from phift.testing import TestWorkspace
from unit import given

DOCUMENT = (Path(__file__).parents[2] / "docs" / "following.md").read_text(encoding="utf-8")
JOB = "phift-phi-4-mini-instruct-5f2c9d0e7a31"
TAGS = {
    "phift.fingerprint": "5f2c9d0e7a31",
    "phift.base_model": "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1",
}


def test_the_blocks_run_one_after_another(workspace: TestWorkspace, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert len(blocks) == 9
    given.job(workspace, JOB, tags=TAGS)
    names = {"ml_client": workspace.client}
    printed = []
    for block in blocks:
        if "basicConfig" in block:  # changes what the process logs
            compile(block, "following.md", "exec")
            continue
        exec(block, names)  # noqa: S102 - the document's own words
        printed.append(capsys.readouterr().out)
    followed, attached, logs, waited, ended, looked, hundred, listened = printed
    assert followed.splitlines()[-1] == "job Completed"
    assert "step " in followed
    assert "Completed" in attached
    assert logs.startswith("chat_completion_finetune user_logs/std_log.txt This is empty")
    assert (waited, ended) == ("", "Completed None\n")
    assert looked == "[]\n"  # all was told before
    assert hundred == "{'Completed'}\n"
    assert "'event': 'status'" in listened


def test_what_it_says_of_how_often_the_service_is_asked_is_so() -> None:
    assert "every four seconds" in DOCUMENT
    assert STATUS_PERIOD == 4
