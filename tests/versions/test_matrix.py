"""What is said of the versions, in the documents too, is what is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from matrix import HERE, ROOT, versions


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_there_is_an_oldest_a_newest_and_one_between() -> None:
    found = versions()
    assert numbers(found["oldest"]) < numbers(found["between"]) < numbers(found["newest"])
    assert found["newest"] == version("azure-ai-ml")


@pytest.mark.parametrize("document", ["README.md", "docs/local-workspace.md"])
def test_the_documents_name_them(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert [name for name in versions().values() if name not in text] == []


@pytest.mark.proof
@pytest.mark.slow
def test_the_chain_passes_with_the_newest_and_goes_past_a_proxy() -> None:
    """The proxy is none: whoever asks it for the local workspace fails."""
    ours = ("no_proxy", "azureml_current_cloud", "requests_ca_bundle")
    environ = {name: value for name, value in os.environ.items() if name.lower() not in ours}
    environ |= {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, str(HERE / "chain.py")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)  # noqa: S603 - our script
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["azure-ai-ml"], seen["unserved"]) == (versions()["newest"], {})
