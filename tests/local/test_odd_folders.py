"""A whole run where folders and files have names that a shell would trip over."""

from __future__ import annotations

from pathlib import Path

import pytest

from phift import FineTuneRun, RunConfig, samples
from phift.local import LocalWorkspace

pytestmark = [
    pytest.mark.slow,
    # The SDK and its libraries announce their own deprecations; they are not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def test_a_run_goes_through_in_folders_with_quotes_and_blanks(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "my" folder'
    workspace = LocalWorkspace(folder / "work space", engine="instant", speed="fast")
    workspace.up()
    try:
        data = samples.write(folder / "elements")
        config = RunConfig(
            workspace={"local": workspace.folder},
            model="Phi-4-mini-instruct",
            compute="gpu-cluster",
            data={"train": data.train.rename(folder / "it's a\\b.jsonl"), "validation": data.validation},
            parameters=dict(samples.PARAMETERS),
            work_dir=folder / "work",
        )
        run = FineTuneRun(config)
        result = run.execute()
        assert result.model.name == "phi-4-mini-instruct-finetuned"
        run.cleanup()
    finally:
        workspace.down()
