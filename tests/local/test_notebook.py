from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from running import Local

from phift import samples

pytestmark = pytest.mark.slow


def executed(local: Local, folder: Path, *cells: str) -> list[list[Any]]:
    """Run cells in a kernel of their own, as a notebook does; return the outputs of each."""
    rows = samples.write(folder / "samples")
    data = {"train": str(rows.train), "validation": str(rows.validation), "test": str(rows.test)}
    configuration = {
        "workspace": f"local:{local.workspace.folder}",
        "model": "Phi-4-mini-instruct",
        "compute": "gpu-cluster",
        "data": data,
        "work_dir": str(folder / "work"),
    }
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(each) for each in (f"configuration = {configuration!r}", *cells)]
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells[1:]]


def test_a_job_shows_itself_in_one_place_of_the_notebook_and_nothing_else_is_written(
    local: Local, tmp_path: Path
) -> None:
    outputs = executed(
        local,
        tmp_path,
        "from phift import FineTuneRun, RunConfig\nrun = FineTuneRun(RunConfig.from_dict(configuration))",
        "run.check()",
        "job = run.submit()",
        "run.wait()",
        "job.wait()",
        "run.metrics()",
    )
    assert [[output.output_type for output in each] for each in outputs] == [
        [],
        ["execute_result"],
        [],
        ["display_data"],
        ["display_data"],
        ["execute_result"],
    ]
    for (shown,) in (outputs[3], outputs[4]):
        assert "· Completed" in shown.data["text/html"]
        assert re.search(r"Completed", shown.data["text/plain"])


def test_work_on_the_data_is_a_bar_of_the_notebook_s_own(local: Local, tmp_path: Path) -> None:
    (outputs,) = executed(
        local,
        tmp_path,
        "from phift import EventPrinter, FineTuneRun, RunConfig\n"
        "run = FineTuneRun(RunConfig.from_dict(configuration), on_event=EventPrinter())\n"
        "run.submit()\n"
        "run.wait()",
    )
    shown = [output for output in outputs if output.output_type == "display_data"]
    assert {output.output_type for output in outputs} == {"display_data"}
    pages = [output.data["text/html"] for output in shown]
    assert any("counting tokens" in page for page in pages)
    assert "· Completed" in pages[-1]


def test_a_program_begins_where_another_one_talks_to_a_local_workspace(local: Local) -> None:
    place = f"local:{local.workspace.folder}"
    program = f"import phift; print(phift.connect(workspace={place!r}).workspace.workspace_name)"
    environment = {**os.environ, "AZUREML_CURRENT_CLOUD": "PhiftLocal1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603 - as written above
    assert done.stdout.strip() == "local", done.stderr
