"""phift against answers in the forms of 2022, of 2024 and of today: the whole chain, and what it reads of each form."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fidelity.older_forms import FORMS, answering_as_in
from phift import FineTuneRun, RunConfig, samples
from phift.check.compute import read_usages
from phift.jobs.events import StatusChanged
from phift.local.programs import NOTE
from phift.testing import TestWorkspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the SDK and its libraries announce their own deprecations
]

WHAT = ("workspace", "storage", "usages", "quota", "computes", "sizes", "data", "models", "jobs", "steps", "endpoint")
SIZE = "Standard_NC24ads_A100_v4"
Read = dict[str, Any]
"""What phift made of the answers, by what it asked for."""


def run_of(workspace: TestWorkspace, folder: Path, epochs: int, events: list[Any] | None = None) -> FineTuneRun:
    given = samples.write(folder / "elements")
    config = RunConfig(
        workspace={"local": workspace.connection.folder},
        model="Phi-4-mini-instruct",
        compute={"cluster": "new-cluster", "size": SIZE},
        data={"train": given.train, "validation": given.validation, "test": given.test},
        parameters={"num_train_epochs": epochs},
        deployment={"instance_type": SIZE},
        work_dir=folder / "work",
    )
    return FineTuneRun(config, workspace.clients, on_event=None if events is None else events.append)


@cache
def chain(year: int) -> Read:
    """Go through all of it, then once more with the same data; returns what was read, and the forms that were not."""
    with tempfile.TemporaryDirectory() as folder, TestWorkspace() as workspace, answering_as_in(year) as put:
        read = went_through(workspace, Path(folder))
        return {**read, "": [form for form in FORMS if form.year == year and not put.times[form]]}


def went_through(workspace: TestWorkspace, folder: Path) -> Read:
    client, events = workspace.client, list[Any]()
    run = run_of(workspace, folder, 1, events)
    report = run.check()
    assert report.ok, report
    job = run.submit()
    run.wait(timeout=300)
    run.register()
    second = run_of(workspace, folder, 2)
    again = second.check()
    assert not second.submit().existed
    second.wait(timeout=300)
    newer = second.register()
    with run.deploy() as endpoint:
        assert endpoint.chat("What is the symbol of gold?") == NOTE
        with run_of(workspace, folder, 1).deploy() as other:
            assert other.name == endpoint.name
        shown = client.online_endpoints.get(endpoint.name)
        deployed = client.online_deployments.get("default", endpoint.name)
    assert not list(client.online_endpoints.list())
    assert not workspace.unserved()
    workspace.set_quota(SIZE, 12)
    short = run_of(workspace, folder, 3).check()
    usages = read_usages(client.compute.list_usage())
    stored = sorted({(each.operation, each.status) for each in workspace.requests("PUT blobs/*")})
    vm, found = run.plan.target.vm, second.plan.target
    (node,) = second.job.entity().jobs.values()
    inputs = {split: node.inputs[f"{split}_file_path"].path for split in ("train", "validation", "test")}
    statuses = [each.status for each in events if isinstance(each, StatusChanged)]
    return {
        "workspace": (codes(report, "workspace"), workspace.clients.find_workspace().location),
        "storage": stored,
        "usages": {
            (each.family, each.limit)
            for each in usages
            if each.family.lower().startswith("standard") and not each.low_priority
        },
        "quota": [(each.code, each.severity) for each in short.findings if each.code.startswith("QUOTA")],
        "computes": (found.size.lower(), found.gpus_per_node, found.exists, codes(again, "compute new-cluster")),
        "sizes": (vm.family, vm.vcpus, vm.gpus, codes(report, "deployment")),
        "price": vm.price_per_hour,
        "data": inputs,
        "models": (newer.name, newer.version, newer.existed, sorted(newer.tags)),
        "jobs": (job.status(), job.studio_url().partition("?")[0], statuses[-1], sorted(job.entity().outputs)),
        "steps": sorted((step.name, step.status) for step in job.steps()),
        "endpoint": (
            shown.traffic,
            shown.scoring_uri.rpartition("/inference/")[2],
            shown.auth_mode,
            deployed.instance_type,
        ),
    }


def codes(report: Any, place: str) -> list[tuple[str, str]]:
    return [(each.code, each.severity) for each in report.findings if each.place == place]


@pytest.mark.parametrize("year", [2022, 2024, 2026])
def test_the_whole_chain(year: int) -> None:
    assert chain(year)[""] == []


@pytest.mark.parametrize("year", [2022, 2024])
@pytest.mark.parametrize("what", WHAT)
def test_an_older_form_is_read_as_the_newest_one(year: int, what: str) -> None:
    assert chain(year)[what] == chain(2026)[what]
    assert chain(2026)[what]


def test_the_price_is_that_of_a_dedicated_linux_vm_wherever_it_stands() -> None:
    assert chain(2024)["price"] == 2.0
