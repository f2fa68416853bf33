from __future__ import annotations

import logging
import pickle
import re
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from phift import FineTuneRun
from phift.errors import ConfigError, JobCanceled, JobFailed, PhiftError, ServiceError, WaitTimeout
from phift.jobs.ends import Cause, JobEnd, Step, causes, read_end
from phift.jobs.job import FineTuneJob
from phift.jobs.on_end import when_ended
from phift.jobs.tracking import Tracking
from phift.testing import Fault, TestWorkspace
from unit import given
from unit.fakes import Fakes, run_config

STEP = "chat_completion_finetune"

# What is said where a job ends so, in the words of each row's source, or shortened from them.
SAID = {
    "GPU memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity "
    "of 79.15 GiB of which 12.81 MiB is free.",
    "shared memory": "RuntimeError: DataLoader worker (pid 77) is killed by signal: Bus error. It is possible that "
    "dataloader's workers are out of shared memory. Please try to raise your shared memory limit.",
    "machine memory": "Reason: OOMKilled Exit Code: 137",
    "PreemptionError": "AzureMLCompute job failed. PreemptionError: Nodes of this job got pre-empted. Check if the run "
    "has failed or restarted. Reason: Received pre-emption warning signal",
    "image": "AzureMLCompute job failed.\nFailedPullingImage: Unable to pull docker image\n\timageName: r.test/image\n"
    "\terr: Error response from daemon: unauthorized: authentication required",
    "ImageBuildFailure": "ImageBuildFailure: the image could not be built",
    "QuotaExceeded": "The specified subscription has a Standard NCADSA100v4 family vCPU quota of 24 and is less than "
    "the requested job node count of 2 which maps to 48 vCPUs. JobNodeCountExceedsCoreQuota",
    "no capacity": "AllocationFailed: the region has not enough available capacity",
    "SkuNotAvailable": "SkuNotAvailable: the size is currently not available in location 'eastus'",
    "StreamAccess.Authentication": "Error Code: ScriptExecution.StreamAccess.Authentication\nNative Error: ..",
    "few rows": "Training dataset has 7 non-null samples, which is fewer than 10 samples, which is the min required.",
    "no assistant tokens": "Unable to continue finetuning. No assistant tokens found after preprocessing.",
    "chat template": "Failure while applying chat template to dataset: Conversation roles must alternate",
    "disk": "OSError: [Errno 28] No space left on device: 'checkpoint-10/optimizer.pt'",
    "TransientError": "TransientError: the service is busy",
    "InternalServerError": "InternalServerError: Received 500 from a service request",
    "NCCL": "[rank0]: ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL("
    "SeqNum=1580, OpType=ALLREDUCE) ran for 600060 milliseconds before timing out.",
    "killed": "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n  exitcode  : -9 (pid: 77)\n"
    "  traceback : Signal 9 (SIGKILL) received by PID 77",
    "code": "Traceback (most recent call last):\n  File 'a.py', line 1, in <module>\nKeyError: 'x'",
}


def fails(workspace: TestWorkspace, message: str, log: str = "") -> FineTuneJob:
    """Run a job whose training fails with a message, and write more into that step's log."""
    workspace.order(Fault(f"step {STEP}", status=400, message=message))
    given.job(workspace)
    job = FineTuneJob("job", workspace.clients)
    list(job.follow())
    if log:
        (run,) = [step.run_id for step in job.steps() if step.name == STEP]
        path = workspace.connection.folder / f"blobs/storage/azureml/ExperimentRun/dcid.{run}/user_logs/std_log.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(log)
    return job


def failure(job: FineTuneJob) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        job.wait()
    return caught.value


def test_no_cause_is_left_out() -> None:
    assert list(SAID) == [cause.name for cause in causes()]


@pytest.mark.parametrize("cause", causes(), ids=lambda cause: cause.name)
def test_a_cause_that_the_service_names_is_told_with_its_way_out(cause: Cause, workspace: TestWorkspace) -> None:
    error = failure(fails(workspace, SAID[cause.name]))
    assert error.cause == cause.kind
    assert str(error.fix).endswith(f"{cause.what}: {cause.fix}")
    assert (error.step, error.what) == (STEP, f"The step {STEP} failed: {SAID[cause.name]}")
    assert pickle.loads(pickle.dumps(error)).cause == cause.kind  # noqa: S301 - our own bytes


@pytest.mark.parametrize("cause", [each for each in causes() if each.text], ids=lambda cause: cause.name)
def test_a_cause_that_only_the_log_names_is_told_with_its_line(cause: Cause, workspace: TestWorkspace) -> None:
    summary = "".join(f"rank {number} ended\n" for number in range(60))  # behind it, as torchrun writes it
    error = failure(fails(workspace, "The step failed.", f"{SAID[cause.name]}\n{summary}"))
    assert error.cause == cause.kind
    assert cause.fix in str(error.fix)
    assert error.log_tail.splitlines()[-1] == "rank 59 ended"
    assert len(error.log_tail.splitlines()) == 30
    if cause.kind != "code":
        assert " (its log: " in error.what


@pytest.mark.parametrize(
    ("said", "log"),
    [
        ("Something went wrong.", "step 10 loss 1.5\nstep 20 loss 1.4\n"),
        ("ValueError: learning_rate must be above 0", "GET https://a.test/x 500 InternalServerError, trying again\n"),
        ("Exit code 1", "memory: 70 GB of 80 GB in use\nquota: 3 of 4 nodes\nexit code: 1\n"),
    ],
)
def test_what_no_row_knows_is_not_guessed(workspace: TestWorkspace, said: str, log: str) -> None:
    error = failure(fails(workspace, said, log))
    assert error.cause == "unknown"
    assert "mend the cause and submit again" in str(error.fix)


def test_what_came_first_counts_and_not_what_it_led_to(workspace: TestWorkspace) -> None:
    log = "\n".join(SAID[name] for name in ("code", "NCCL", "killed", "GPU memory"))
    assert failure(fails(workspace, "The step failed.", log)).cause == "out of memory"


def test_of_several_processes_the_one_that_says_why_is_shown() -> None:
    fakes = Fakes()
    fakes.workspace.jobs.add("job", "Failed")
    fakes.workspace.jobs.children["job"] = [(STEP, "run", "Failed")]
    names = [f"user_logs/std_log_process_{number:02}.txt" for number in range(3)]
    fakes.rest.on({"logFiles": {name: f"https://l.test/{name}" for name in names}}, "/runs/run/details")
    fakes.rest.on(f"loading\n{SAID['GPU memory']}\n", names[1])
    fakes.rest.on(f"{SAID['NCCL']}\n", "https://l.test/")
    error = failure(FineTuneJob("job", fakes.clients))
    assert error.cause == "out of memory"
    assert error.log_tail.startswith("loading\n")


@pytest.mark.parametrize("cause", causes(), ids=lambda cause: cause.name)
def test_each_cause_says_where_it_is_from(cause: Cause) -> None:
    assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?( \(read\))?", cause.date)
    assert cause.source
    assert cause.fix
    assert not cause.what.endswith(".")


def test_the_levers_of_a_gpu_s_memory_are_named_in_their_order() -> None:
    (fix,) = [cause.fix for cause in causes() if cause.name == "GPU memory"]
    names = ("per_device_train_batch_size", "max_seq_length", "gradient checkpointing", "apply_lora", "deepspeed_stage")
    places = [fix.index(name) for name in (*names, "VM size")]
    assert places == sorted(places)


def test_the_end_of_a_job_says_all_of_it(workspace: TestWorkspace) -> None:
    job = fails(workspace, SAID["GPU memory"])
    end = job.end()
    assert (end.status, end.cause, end.step) == ("Failed", "out of memory", STEP)
    assert end.to_dict()["cause"] == "out of memory"
    assert "hush-hush" not in repr(fails_with_a_secret().to_dict())


class Silent:
    """What stands for the reader of a run, whose service has an error of its own where a text is None."""

    def __init__(self, error: str | None, log: str | None) -> None:
        self._error, self._log = error, log

    def error(self, _run: str) -> str:
        return self._said(self._error)

    def log_tails(self, _run: str, _lines: int) -> list[str]:
        return [self._said(self._log)]

    def _said(self, text: str | None) -> str:
        if text is None:
            raise ServiceError("InternalServerError: Received 500 from a service request", status=500)
        return text


UNREAD = "could not be read: InternalServerError: Received 500 from a service request"


@pytest.mark.parametrize(
    ("error", "log", "cause", "what"),
    [
        (None, SAID["code"], "code", f"(it {UNREAD})"),
        ("it broke", None, "unknown", f"it broke (its log {UNREAD})"),
        (None, None, "unknown", f"(it {UNREAD}) (its log {UNREAD})"),
    ],
)
def test_a_failure_to_read_the_failure_is_not_its_cause(
    error: str | None, log: str | None, cause: str, what: str
) -> None:
    steps, reader = [Step(STEP, "run", "Failed")], cast(Tracking, Silent(error, log))
    end = read_end("job", "Failed", lambda: steps, lambda: reader)
    assert (end.cause, end.log_tail) == (cause, log or "")
    assert end.what == f"The step {STEP} failed: {what}"
    assert ("`log_tail`" in end.fix) == bool(log)
    if cause == "unknown":
        assert end.fix == "mend the cause and submit again"


def fails_with_a_secret() -> JobEnd:
    fakes = Fakes()
    fakes.workspace.jobs.children["job"] = [(STEP, "run", "Failed")]
    said = f"{SAID['GPU memory']} https://a.test/?sig=hush-hush"
    fakes.rest.on({"logFiles": {"std_log.txt": "https://l.test/"}}, "/runs/run/details")
    fakes.rest.on(said, "https://l.test/")
    fakes.workspace.jobs.add("job", "Failed")
    return FineTuneJob("job", fakes.clients).end()


@pytest.mark.parametrize(("status", "kind"), [("Completed", None), ("Canceled", JobCanceled)])
def test_another_end_has_no_cause(status: str, kind: type[PhiftError] | None) -> None:
    fakes = Fakes()
    fakes.workspace.jobs.add("job", status)
    end = FineTuneJob("job", fakes.clients).end()
    assert (end.status, end.cause) == (status, None)
    if kind is None:
        end.raise_if_bad()
    else:
        with pytest.raises(kind):
            end.raise_if_bad()


# ---------------------------------------------------------------- what is no end


@pytest.mark.parametrize("status", ["NotResponding", "Paused", "Finalizing", "CancelRequested", "SomethingNew"])
def test_what_is_no_end_is_passed_on_and_waited_for(status: str) -> None:
    fakes = Fakes()
    fakes.workspace.jobs.add("job", "Running", status, status, "Running", "Completed")
    events: list[Any] = []
    FineTuneJob("job", fakes.clients).wait(events.append)
    assert [event.status for event in events] == ["Running", status, "Running", "Completed"]


@pytest.mark.parametrize(("status", "word"), [("NotResponding", "cancel it"), ("Paused", "resumed")])
def test_what_to_do_about_a_run_that_stands_still_is_told(status: str, word: str) -> None:
    fakes = Fakes()
    fakes.workspace.jobs.add("job", status)
    job = FineTuneJob("job", fakes.clients)
    (event,) = [event for event in job.look()[0] if event.kind == "status"]
    assert word in event.advice
    with pytest.raises(WaitTimeout, match=status) as caught:
        job.end()
    assert word in str(caught.value.fix)


# ---------------------------------------------------------------- on_end


def ended(*statuses: str) -> FineTuneJob:
    fakes = Fakes()
    fakes.workspace.jobs.add("job", *statuses)
    return FineTuneJob("job", fakes.clients)


def test_a_function_is_given_the_end_before_it_is_raised() -> None:
    ends: list[JobEnd] = []
    ended("Running", "Completed").wait(on_end=ends.append)
    with pytest.raises(JobCanceled):
        ended("Canceled").wait(on_end=ends.append)
    with pytest.raises(JobFailed):
        ended("Failed").wait(on_end=ends.append)
    assert [(end.status, end.cause) for end in ends] == [("Completed", None), ("Canceled", None), ("Failed", "unknown")]


def test_a_wait_that_ends_before_the_job_calls_nobody() -> None:
    ends: list[JobEnd] = []
    with pytest.raises(WaitTimeout):
        ended("Running").wait(on_end=ends.append, timeout=-1)
    assert ends == []


def test_a_function_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_end: JobEnd) -> None:
        raise ValueError("made up")

    ended("Completed").wait(on_end=broken)
    assert "A handler of events failed" in caplog.text


PROGRAM = """
import os, pathlib, sys
told = [os.environ[f"PHIFT_{name}"] for name in ("JOB", "STATUS", "CAUSE")]
pathlib.Path(sys.argv[1]).write_text(",".join(told), encoding="utf-8")
"""


def test_a_command_is_told_by_its_environment(tmp_path: Path) -> None:
    out = tmp_path / "out file.txt"
    with pytest.raises(JobFailed):
        ended("Failed").wait(on_end=[sys.executable, "-c", PROGRAM, str(out)])
    assert out.read_text(encoding="utf-8") == "job,Failed,unknown"
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    ended("Completed").wait(on_end=f"{sys.executable} {tmp_path}/program.py '{out}'")
    assert out.read_text(encoding="utf-8") == "job,Completed,"


def test_a_command_goes_through_no_shell(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    ended("Completed").wait(on_end=f"{sys.executable} -c pass ; touch {touched}")
    assert not touched.exists()


def test_what_a_command_says_is_no_data(capfd: pytest.CaptureFixture[str]) -> None:
    ended("Completed").wait(on_end=[sys.executable, "-c", "print('done')"])
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "done\n")


def test_a_command_that_fails_is_told_and_changes_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    ended("Completed").wait(on_end=[sys.executable, "-c", "raise SystemExit(3)"])
    assert "exit code 3" in caplog.text
    script = tmp_path / "script"
    script.write_text("no program")
    script.chmod(0o700)
    ended("Completed").wait(on_end=[str(script)])
    assert "OSError" in caplog.text
    assert {record.levelno for record in caplog.records if record.name == "phift.jobs.on_end"} == {logging.WARNING}


@pytest.mark.parametrize("command", ["", [], "notify 'open", "no-such-program --now", [1]])
def test_a_command_that_cannot_be_run_is_known_at_once(command: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be run") as caught:
        when_ended(command)
    assert caught.value.where == "on_end"


def test_a_run_is_told_so_before_anything_is_submitted(tmp_path: Path) -> None:
    fakes = Fakes()
    with pytest.raises(ConfigError, match="cannot be run"):
        FineTuneRun(run_config(tmp_path), fakes.clients).execute(on_end="no-such-program")
    assert not fakes.workspace.jobs.submitted
    ends: list[JobEnd] = []
    run = FineTuneRun(run_config(tmp_path), fakes.clients)
    job = run.submit()
    run.wait(on_end=ends.append)
    assert [(end.job, end.status) for end in ends] == [(job.name, "Completed")]
