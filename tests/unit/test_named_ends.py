"""What a reader of logs needs, and what was missing elsewhere, each as a test of its name."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from phift.azure.clients import Clients
from phift.errors import JobCanceled, JobFailed
from phift.jobs.job import FineTuneJob
from phift.testing import Fault, TestWorkspace
from unit import given

FIRST, FINETUNE = "ft_nlp_common_validation", "chat_completion_finetune"


def texts(job: FineTuneJob, step: str | None = None) -> dict[str, str]:
    found: dict[str, str] = {}
    for piece in job.logs(step):
        found[piece.step] = found.get(piece.step, "") + piece.text
    return found


@pytest.fixture
def half_done(workspace: TestWorkspace, clients: Clients) -> Iterator[FineTuneJob]:
    """A job that trains, for an hour unless it is cancelled; the steps before are completed."""
    workspace.order(Fault(f"step {FINETUNE}", status=400, message="It took too long.", delay=3600))
    given.job(workspace)
    job = FineTuneJob("job", clients)
    end = time.monotonic() + 30
    while not any(step.name == FINETUNE and step.status == "Running" for step in job.steps()):
        assert time.monotonic() < end
        time.sleep(0.01)
    yield job
    job.cancel()


def test_logs_of_a_finished_step_while_a_sibling_runs(half_done: FineTuneJob) -> None:
    assert half_done.status() == "Running"
    assert "This is empty" in texts(half_done, FIRST)[FIRST]
    assert texts(half_done, FINETUNE) == {}  # it has written nothing yet, and nobody waits for it
    following = half_done.logs(FIRST, follow=True)
    assert "This is empty" in next(following).text
    following.close()


def test_logs_by_name_after_the_end(workspace: TestWorkspace) -> None:
    given.job(workspace)
    FineTuneJob("job", workspace.clients).wait()
    workspace.detach()  # all clients are forgotten, as in another process
    workspace.attach()
    found = texts(FineTuneJob("job", workspace.clients))
    assert "This is empty" in found[FINETUNE]
    assert "Completing processing run" in found[""]


def test_logs_of_a_cancelled_job(half_done: FineTuneJob) -> None:
    half_done.cancel()
    with pytest.raises(JobCanceled):
        half_done.wait()
    found = texts(half_done)
    assert found[""].endswith("The pipeline run job is Canceled.\n")
    assert "This is empty" in found[FIRST]
    assert FINETUNE not in found
    assert texts(FineTuneJob("job", half_done.clients)) == found


def test_logs_of_a_failed_job(workspace: TestWorkspace, clients: Clients) -> None:
    workspace.order(Fault(f"step {FINETUNE}", status=400, message="made up"))
    given.job(workspace)
    job = FineTuneJob("job", clients)
    with pytest.raises(JobFailed):
        job.wait()
    assert "This is empty" in texts(job, FIRST)[FIRST]
    assert "Execution of experiment failed" in texts(job)[""]


def test_a_node_that_is_taken_away_costs_no_log_and_tells_nothing_twice(
    workspace: TestWorkspace, clients: Clients
) -> None:
    workspace.order(Fault(f"step {FINETUNE}", delay=0.3))  # pre-empted: the job goes back into the queue
    given.job(workspace)
    job = FineTuneJob("job", clients)
    followed: dict[str, str] = {}
    for piece in job.logs(follow=True):
        followed[piece.step] = followed.get(piece.step, "") + piece.text
    assert "The node was pre-empted; the job is in the queue again." in followed[""]
    assert followed == texts(job)


def test_a_log_that_grows_goes_on_having_been_made_when_it_was(workspace: TestWorkspace, clients: Clients) -> None:
    given.job(workspace)
    job = FineTuneJob("job", clients)
    job.wait()
    (address,) = job.tracking.log_files("job").values()
    before = job.tracking.read(address, 0, 1 << 20)
    path = workspace.connection.folder / "blobs/storage/azureml/ExperimentRun/dcid.job/logs/azureml/executionlogs.txt"
    time.sleep(1.1)  # HTTP's dates have seconds
    with path.open("a", encoding="utf-8") as file:
        file.write("more\n")
    after = job.tracking.read(address, before.total or 0, 1 << 20)
    assert (after.content, after.created) == (b"more\n", before.created)
    assert before.created
    assert job.tracking.read(address, after.total or 0, 1 << 20).content == b""
