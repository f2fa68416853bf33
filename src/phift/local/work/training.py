"""Runs jobs, one at a time: starts the training engine, follows its events, survives a restart of the server."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from phift.component.inputs import LITERALS
from phift.component.preprocessing import SPLITS
from phift.data import on_cluster
from phift.local.connection import without_proxy
from phift.local.ground import Ground
from phift.local.model import catalog, files, quota, runs
from phift.local.names import ARM_RESOURCE, LOCATION, tracking_uri
from phift.local.programs import Command
from phift.local.state.documents import Document, Json
from phift.local.wire import WireError, of_fault, user_error
from phift.local.work import reuse
from phift.local.work.child import PATIENCE, Child
from phift.local.work.engine import process

logger = logging.getLogger(__name__)

_STORE = "workspaceblobstore"
_STOPPED = "The local workspace stopped; the job goes on when it runs again."


class _Interrupted(Exception):
    """A job that cannot go on now; the text is for its log."""


class Training:
    """The queue of jobs and the engine process of the one that runs."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._documents = ground.documents
        self._stopping = threading.Event()
        self._changed = threading.Condition()  # of the queue, and of the two that follow
        self._job: str | None = None
        self._engine: Child | None = None
        self._reused: dict[str, reuse.Earlier] = {}  # the steps of the job that need not run
        self._thread = threading.Thread(target=self._loop, name="training", daemon=True)

    def start(self) -> None:
        """Take up what a server before us left, then run what waits."""
        self._recover()
        self._thread.start()

    def submitted(self, name: str) -> None:
        """Take a new job into the queue."""
        with self._changed:
            if self._job not in (None, name):
                runs.set_status(self._ground, name, "Queued")
            self._changed.notify_all()

    def cancel(self, name: str) -> None:
        """Cancel a job whose status is CancelRequested already, and wait until it has ended."""
        if self._job == name:
            self._interrupt()
        with self._changed:
            left = self._changed.wait_for(lambda: self._job != name, timeout=PATIENCE * 4)
        # One that nobody works on, or that was being put back into the queue when it was given up.
        if left and self._status(name) == "CancelRequested":
            runs.end(self._ground, name, "Canceled")

    def delete(self, name: str) -> None:
        """Delete a job, with its runs, their logs and metrics; raises a user error for one that has not ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._job != name or self._status(name) not in runs.ENDED, PATIENCE * 4)
        with self._documents.transaction():
            status = self._status(name)
            if status not in runs.ENDED:
                raise user_error(
                    f"The job {name} is {status}; only a job that has ended can be deleted. Cancel it first."
                )
            runs.delete(self._ground, name)

    def stop(self) -> None:
        """Stop the engine; its job goes on at the next start."""
        self._stopping.set()
        self._interrupt()
        if self._thread.is_alive():
            self._thread.join(PATIENCE * 2)

    def reset(self) -> None:
        """Stop the engine and forget the queue; returns when nobody works on a job any more."""
        for run in self._documents.in_status("runs", *runs.RUNNING, *runs.WAITING):
            runs.set_status(self._ground, run.name, "CancelRequested")
        self._interrupt()
        with self._changed:
            self._changed.wait_for(lambda: self._job is None, timeout=PATIENCE * 4)

    def at_work(self) -> bool:
        """Tell whether a job goes on without the clock being moved."""
        return (self._job is not None or self._next() is not None) and not self._ground.clock.holds(self._thread)

    def _interrupt(self) -> None:
        """Let who waits for the clock or for a job look again, and end the engine."""
        self._ground.clock.advance(0)
        with self._changed:
            self._changed.notify_all()
            engine = self._engine
        if engine is not None:
            engine.stop()

    def _loop(self) -> None:
        """Run the job whose turn it is, or wait for one, until the server stops."""
        while not self._stopping.is_set():
            try:
                self._recover()
                while job := self._taken():
                    self._run_to_an_end(job)
            except Exception:  # a full disk, above all: the queue must outlive it
                logger.exception("the queue of jobs failed; it is tried again in %.0f s", PATIENCE)
                self._stopping.wait(PATIENCE)

    def _recover(self) -> None:
        """Give every job that nobody works on an end or a place in the queue."""
        for run in self._documents.in_status("runs", *runs.RUNNING):
            self._leave(run.name, _STOPPED)

    def _leave(self, name: str, why: str) -> None:
        """Put a job that was interrupted back into the queue, unless somebody has given it up; steps stay completed."""
        with self._documents.transaction():  # nobody gives it up in between
            status = self._status(name)
            if status == "CancelRequested":
                runs.end(self._ground, name, "Canceled")
            elif status not in runs.ENDED:
                for child in runs.children(self._ground, name):
                    # One that failed begins anew as well: what interrupts a job may have come before that was told.
                    if child.body["status"] != "Completed":
                        over = ("startTimeUtc", "endTimeUtc", "error")
                        kept = {key: value for key, value in child.body.items() if key not in over}
                        self._documents.put(child.key, {**kept, "status": "NotStarted"})
                runs.set_status(self._ground, name, "Queued")
                runs.log(self._ground, name, why)

    def _next(self) -> Document | None:
        """Return the oldest of the jobs that wait."""
        run = next(self._documents.in_status("runs", *runs.WAITING), None)
        return self._documents.get(f"jobs/{run.name}") if run else None

    def _taken(self) -> Document | None:
        """Take the job whose turn it is, as soon as there is one; None when the server stops."""
        with self._changed:
            while not self._stopping.is_set():
                if job := self._next():
                    for run in self._documents.in_status("runs", "NotStarted"):
                        if run.name != job.name:
                            runs.set_status(self._ground, run.name, "Queued")
                    self._job = job.name
                    return job
                self._changed.wait()
        return None

    def _status(self, name: str) -> str:
        run = self._documents.get(f"runs/{name}")
        return str(run.body["status"]) if run else "Canceled"

    def _run_to_an_end(self, job: Document) -> None:
        """Run a job, and give it an end or a place in the queue whatever happens."""
        ground, name = self._ground, job.name
        try:
            self._run(job)
        except _Interrupted as why:
            self._leave(name, str(why))
        except WireError as error:
            runs.end(ground, name, "Failed", {"code": error.code, "message": error.message, **error.more})
        except Exception as error:
            logger.exception("job %s failed inside the local workspace", name)
            message = f"The local workspace could not run the job: {type(error).__name__}: {error}"
            runs.end(ground, name, "Failed", {"code": "SystemError", "message": message})
        finally:
            with self._changed:
                self._job = None
                self._changed.notify_all()

    def _run(self, job: Document) -> None:
        """Run a job's steps that no earlier job has run: the one that prepares its data, if any, then the engine's."""
        ground, name, plan = self._ground, job.name, job.body["plan"]
        runs.set_status(ground, name, "Preparing")
        ground.clock.spend("job-start", lambda: self._stopping.is_set() or self._status(name) != "Preparing")
        if self._status(name) != "Preparing":  # canceled since the look at the queue
            raise _Interrupted(_STOPPED)
        _check_computes(ground, plan)
        self._reused = reuse.find(ground, job)
        reuse.pass_over(ground, name, self._reused)
        code = 0
        if asked := plan.get("preparation"):
            child = runs.children(ground, name)[0]
            if child.body["status"] != "Completed":
                file = _write_preparation(ground, name, child, asked)
                code = self._follow(name, file, ground.programs.preparation)
            if code == 0:
                run = self._reused[on_cluster.STEP].run if on_cluster.STEP in self._reused else child.name
                runs.set_outputs(ground, child.name, _prepared_outputs(asked, run))
        if code == 0:
            code = self._follow(name, _write_job(ground, name, plan, self._reused), ground.programs.engine)
        if self._status(name) == "CancelRequested" or (code != 0 and self._stopping.is_set()):
            raise _Interrupted(_STOPPED)
        if code == 1:
            raise WireError(400, **runs.error_of_steps(ground, name))
        if code == -signal.SIGALRM:
            raise user_error(process.failure(process.too_slow("mlflow_model_path")))
        if code != 0:  # an import error, say, is in no step's log
            said = (ground.folder.job(name) / "engine.log").read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(said) if line.strip()), "")
            raise WireError(500, "SystemError", f"The engine ended with exit code {code}. {last}".rstrip())
        _finish(ground, name, plan, self._reused)

    def _follow(self, name: str, file: Path, program: Command | Callable[[Path], Iterator[Json]]) -> int:
        """Run a program to its end, turn its events into states of the child runs, and return its exit code."""
        if not isinstance(program, tuple):  # one that needs no process of its own
            for event in program(file):
                if self._stopping.is_set() or self._status(name) == "CancelRequested":
                    return -signal.SIGTERM
                self._event(name, event)
            return 0
        ground = self._ground
        token, _ = ground.identity.token(ARM_RESOURCE, seconds=14 * 24 * 3600)
        reached = {"MLFLOW_TRACKING_TOKEN": token, "REQUESTS_CA_BUNDLE": str(ground.folder.bundle), **without_proxy()}
        with self._changed:
            if self._stopping.is_set():
                return -signal.SIGTERM
            engine = self._engine = Child((*program, str(file)), file.parent / "engine.log", {**os.environ, **reached})
        try:
            if self._status(name) == "CancelRequested":
                engine.stop()
            for event in engine.says():
                self._event(name, event)
        except Exception:
            engine.stop()
            raise
        finally:
            code = engine.wait()
            with self._changed:
                self._engine = None
            engine.stdin.close()
        return code

    def _event(self, name: str, event: Json) -> None:
        """Note what the engine says of a step, and do to one that has begun what has been ordered."""
        ground, step, status = self._ground, event.get("name"), event.get("status")
        child = next((run for run in runs.children(ground, name) if run.body["displayName"] == step), None)
        if child is None or status is None:
            logger.warning("the engine wrote a line that is no event of a step")
            return
        if status == "Running":
            runs.set_status(ground, name, "Running")
        runs.set_status(ground, child.name, status, error=event.get("error"))
        runs.log_step(ground, name, child.name, status)
        if status == "Completed" and (job := ground.documents.get(f"jobs/{name}")):
            reuse.remember(ground, job, child)
            reuse.pass_over(ground, name, self._reused)
        fault = ground.faults.strike(f"step {step}") if status == "Running" else None
        if fault is None:
            return
        end = time.monotonic() + fault.delay
        while time.monotonic() < end and self._status(name) != "CancelRequested" and not self._stopping.wait(0.02):
            pass
        if not fault.status or self._status(name) == "CancelRequested":
            raise _Interrupted("The node was pre-empted; the job is in the queue again.")
        error = of_fault(fault)
        failure = {"code": error.code, "message": error.message, **error.more}
        runs.set_status(ground, child.name, "Failed", error=failure)
        raise WireError(400, **runs.error_of_steps(ground, name))


def _check_computes(ground: Ground, plan: Json) -> None:
    """Fail a job whose steps name a compute or a VM size that is not there, or that cannot do the work.

    As the component's validation does: it wants a GPU, and no more processes than the node has GPUs.
    """
    for step in runs.steps(plan):
        compute, vm_size = runs.step_compute(plan, step)
        if compute.lower() == "serverless":
            if quota.size(vm_size) is None:
                raise user_error(f"The VM size {vm_size} of step {step} is not supported in {LOCATION}.")
        elif ground.documents.get(f"computes/{compute}") is None:
            raise user_error(f"The compute target {compute} of step {step} was not found.")
    row = quota.size(plan["vm_size"])
    wanted = plan["inputs"]["number_of_gpu_to_use_finetuning"]
    if row is None or not wanted.isdigit():
        return  # the engine's own validation names what is no number
    if row["gpus"] == 0:
        raise user_error(f"SKUNotSupported: fine-tuning needs a GPU, and {row['name']} has none.")
    if int(wanted) > row["gpus"]:
        has = f"a node of {row['name']} has {row['gpus']} GPU(s)"
        raise user_error(f"number_of_gpu_to_use_finetuning is {wanted}, and {has}.")


def _prepared_outputs(asked: Json, child: str) -> Json:
    """Return the outputs of the step that prepares data; ``${{name}}`` in an address is the step's own run.

    Microsoft Learn, "Expressions in Azure Machine Learning SDK and CLI v2", 2026-11-22.
    """
    outputs = {}
    for name in (*SPLITS, on_cluster.REPORT):
        uri = asked["outputs"].get(name) or files.datastore_uri(_STORE, f"azureml/{child}/{name}")
        for expression, value in (("name", child), ("output_name", name), ("default_datastore", _STORE)):
            uri = uri.replace(f"${{{{{expression}}}}}", value)
        outputs[name] = {"from": name, "uri": uri}
    return outputs


def _write_preparation(ground: Ground, job: str, child: Document, asked: Json) -> Path:
    """Write what the process of the step that prepares data is to do and return the file."""
    arguments = ["--settings", asked["inputs"]["settings"]]
    for name, value in asked["inputs"].items():
        if name != "settings":
            arguments += ["--data", name, str(files.resolve(ground, value))]
    for name, output in _prepared_outputs(asked, child.name).items():
        arguments += [f"--{name}", str(files.place(ground, output["uri"]))]
    work = ground.folder.job(job) / "preparing"
    shutil.rmtree(work, ignore_errors=True)  # of an attempt that was interrupted
    work.mkdir(mode=0o700, parents=True)
    log = str(files.log_to_write(ground, child.body))
    file = work.with_name("preparation.json")
    description = {"name": on_cluster.STEP, "arguments": arguments, "log": log, "work": str(work)}
    file.write_text(json.dumps(description), encoding="utf-8")
    return file


def _write_job(ground: Ground, name: str, plan: Json, reused: Mapping[str, reuse.Earlier]) -> Path:
    """Write what the engine is to do and return the file; assets and what was prepared become absolute paths.

    - **reused**: the steps that are not to run, whether their turn has come or not.
    """
    work = ground.folder.job(name) / "work"
    work.mkdir(parents=True, exist_ok=True)
    children = runs.children(ground, name)
    steps = []
    for child in children:
        step, log = child.body["displayName"], str(files.log_to_write(ground, child.body))
        if step != on_cluster.STEP:
            status = "Completed" if step in reused else child.body["status"]
            steps.append({"name": step, "run_id": child.name, "status": status, "log": log})
    inputs = {}
    for key, value in plan["inputs"].items():
        bound = runs.step_output(value)
        given = children[0].body["outputs"][bound[1]]["uri"] if bound else value
        literal = catalog.component()["inputs"][key]["type"] in LITERALS
        inputs[key] = given if literal else str(files.resolve(ground, given))
    outputs = {}
    for key, (_, uri) in _outputs(ground, name, reused).items():
        path = files.place(ground, uri)
        path.mkdir(parents=True, exist_ok=True)
        outputs[key] = str(path)
    description = {
        "name": name,
        "inputs": inputs,
        "outputs": outputs,
        "steps": steps,
        "work": str(work),
        "tracking_uri": tracking_uri(ground.base_url, "https"),
    }
    file = work.with_name("job.json")
    file.write_text(json.dumps(description, indent=1), encoding="utf-8")
    return file


def _finish(ground: Ground, name: str, plan: Json, reused: Mapping[str, reuse.Earlier]) -> None:
    """Note what a job's engine has left as the outputs of its steps and its own, and end the job."""
    runs.set_status(ground, name, "Finalizing")
    made = {}
    for output, (child, uri) in _outputs(ground, name, reused).items():
        if not any(files.place(ground, uri).iterdir()):
            raise WireError(500, "SystemError", f"The engine ended well but left the output {output} empty.")
        made[output] = {"from": output, "uri": uri}
        runs.set_outputs(ground, child, {output: made[output]})
    bound = {root: made[output] for root, output in plan["outputs"].items()}
    if plan.get("preparation"):
        prepared = runs.children(ground, name)[0].body["outputs"]
        bound |= {root: prepared[output] for root, output in plan["preparation"]["bound"].items()}
    runs.set_outputs(ground, name, bound)
    runs.end(ground, name, "Completed")


def _outputs(ground: Ground, name: str, reused: Mapping[str, reuse.Earlier]) -> dict[str, tuple[str, str]]:
    """Return for each output of the component the child run that leaves it and its address, which is its maker's."""
    children = {run.body["displayName"]: run for run in runs.children(ground, name)}
    makers = {"pytorch_model_folder": "chat_completion_finetune", "mlflow_model_folder": "ft_nlp_model_converter"}
    found = {}
    for output, step in makers.items():
        run = reused[step].run if step in reused else children[step].name
        found[output] = (children[step].name, files.datastore_uri(_STORE, f"azureml/{run}/{output}"))
    return found
