"""Runs jobs, one at a time: starts the training engine, follows its events, survives a restart of the server."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phift.component.inputs import LITERALS
from phift.data.on_cluster import STEP
from phift.local.connection import without_proxy
from phift.local.ground import Ground
from phift.local.model import catalog, files, quota, references, runs
from phift.local.names import ARM_RESOURCE, ARTIFACTS, DATASTORES, LOCATION, tracking_uri
from phift.local.state.documents import Document, Json
from phift.local.wire.call import timestamp
from phift.local.wire.errors import WireError, of_fault
from phift.local.work import preparing

logger = logging.getLogger(__name__)

# The engine ends by itself when its input closes; this is for one that does not.
_PATIENCE = 2.0
_TOKEN_SECONDS = 14 * 24 * 3600


class _PreEmpted(Exception):
    """The node was taken away, as has been ordered."""


class Training:
    """The queue of jobs and the engine process of the one that runs."""

    def __init__(self, site: Ground) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._engine: subprocess.Popen[bytes] | None = None
        self._job: str | None = None
        self._ended = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="training", daemon=True)

    def start(self) -> None:
        """Take up what a server before us left, then run what waits."""
        self._recover()
        self._thread.start()

    def _recover(self) -> None:
        """Give every job that nobody works on an end or a place in the queue."""
        for status in runs.RUNNING:
            for run in list(self._site.documents.in_status("runs", status)):
                if status == "CancelRequested":
                    self._end(run.name, "Canceled")
                else:
                    self._put_back(run.name, "The local workspace stopped; the job goes on when it runs again.")

    def submitted(self, name: str) -> None:
        """Take a new job into the queue."""
        with self._lock:
            if self._job is not None:
                runs.set_status(self._site, name, "Queued")
        self._wake.set()

    def stop(self) -> None:
        """Stop the engine; its job goes on at the next start."""
        self._stopping.set()
        self._wake.set()
        self._site.clock.wake()
        self._stop_engine()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE * 2)

    def reset(self) -> None:
        """Stop the engine and forget the queue; returns when nobody works on a job any more."""
        for status in (*runs.RUNNING, *runs.WAITING):
            for run in list(self._site.documents.in_status("runs", status)):
                runs.set_status(self._site, run.name, "CancelRequested")
        self._site.clock.wake()
        self._stop_engine()
        with self._ended:
            self._ended.wait_for(lambda: self._job is None, timeout=_PATIENCE * 4)

    def at_work(self) -> bool:
        """Tell whether a job goes on without the clock being moved."""
        return (self._job is not None or self._next() is not None) and not self._site.clock.holds(self._thread)

    def cancel(self, name: str) -> None:
        """Cancel a job whose status is CancelRequested already, and wait until it has ended."""
        with self._lock:
            running = self._job == name
        if not running:
            self._end(name, "Canceled")
            return
        self._site.clock.wake()
        self._stop_engine()
        with self._ended:
            self._ended.wait_for(lambda: self._job != name, timeout=_PATIENCE * 4)

    def _loop(self) -> None:
        healthy = True
        while not self._stopping.is_set():
            try:
                if not healthy:
                    self._recover()
                    healthy = True
                self._turn()
            except Exception:  # a full disk, above all: the queue must outlive it
                logger.exception("the queue of jobs failed; it is tried again in %.0f s", _PATIENCE)
                healthy = False
                self._stop_engine()
                self._stopping.wait(_PATIENCE)

    def _turn(self) -> None:
        """Run the job whose turn it is, or wait for one."""
        self._wake.clear()
        if self._stopping.is_set():  # the call that woke us may have come before the line above
            return
        job = self._next()
        if job is None:
            self._wake.wait()
            return
        for run in list(self._site.documents.in_status("runs", "NotStarted")):
            if run.name != job.name:
                runs.set_status(self._site, run.name, "Queued")
        self._take(job)

    def _next(self) -> Document | None:
        """Return the oldest of the jobs that wait."""
        oldest = (next(self._site.documents.in_status("runs", status, chunk=1), None) for status in runs.WAITING)
        waiting = [run for run in oldest if run is not None]
        return self._site.documents.get(f"jobs/{min(waiting, key=lambda run: run.place).name}") if waiting else None

    def _status(self, name: str) -> str:
        run = self._site.documents.get(f"runs/{name}")
        return str(run.body["status"]) if run else "Canceled"

    def _take(self, job: Document) -> None:
        with self._lock:
            self._job = job.name
        try:
            self._run(job)
        except _PreEmpted:
            self._requeue(job.name)
        except WireError as error:
            self._end(job.name, "Failed", {"code": error.code, "message": error.message})
        except Exception as error:
            logger.exception("job %s failed inside the local workspace", job.name)
            message = f"The local workspace could not run the job: {type(error).__name__}: {error}"
            self._end(job.name, "Failed", {"code": "SystemError", "message": message})
        finally:
            with self._ended:
                self._job = None
                self._ended.notify_all()

    def _run(self, job: Document) -> None:
        site, name = self._site, job.name
        runs.set_status(site, name, "Preparing")
        site.clock.spend("job-start", lambda: self._stopping.is_set() or self._status(name) != "Preparing")
        if self._status(name) != "Preparing":
            # Somebody canceled it between the look at the queue and now.
            self._end(name, "Canceled")
            return
        self._log(name, f"The pipeline run {name} started with {len(runs.steps(job.body['plan']))} steps.")
        plan = job.body["plan"]
        _check_computes(site, plan)
        code, log = self._prepare(name, plan)
        if code == 0:
            file = self._write_job(name, plan)
            program, log = site.programs.engine, file.parent / "engine.log"
            if isinstance(program, tuple):
                code = self._follow(name, file, program)
            else:
                code = self._run_here(name, program(file))
        if self._status(name) == "CancelRequested":
            self._end(name, "Canceled")
        elif code == 0:
            self._finish(name, plan)
        elif self._stopping.is_set():
            self._put_back(name, "The local workspace stopped; the job goes on when it runs again.")
        elif code == 1:
            self._end(name, "Failed", _child_error(site, name))
        else:
            message = f"The engine ended with exit code {code}. {_last_line(log)}"
            self._end(name, "Failed", {"code": "SystemError", "message": message.rstrip()})

    def _prepare(self, name: str, plan: Json) -> tuple[int, Path]:
        """Run the step that prepares the data, if the job has one that is not completed yet."""
        site, folder = self._site, self._site.folder.job(name)
        child, asked = runs.children(site, name)[0], plan.get("preparation")
        log, code = folder / "engine.log", 0
        if asked and child.body["status"] != "Completed":
            file = preparing.write_step(site, child, asked, folder)
            code = self._follow(name, file, site.programs.preparation)
        if asked and code == 0:
            uris = preparing.output_uris(asked, child.name)
            runs.set_outputs(site, child.name, {key: {"from": key, "uri": uri} for key, uri in uris.items()})
        return code, log

    def _write_job(self, name: str, plan: Json) -> Path:
        site = self._site
        folder = site.folder.job(name)
        (folder / "work").mkdir(parents=True, exist_ok=True)
        own = []
        for child in runs.children(site, name):
            if child.body["displayName"] == STEP:
                continue
            log = files.path_of(site, ARTIFACTS, files.log_name(child.body))
            log.parent.mkdir(parents=True, exist_ok=True)
            kept = {"name": child.body["displayName"], "run_id": child.name, "status": child.body["status"]}
            own.append({**kept, "log": str(log)})
        outputs = {key: str(path) for key, (_, path) in _outputs(site, name).items()}
        for path in outputs.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        tracking = {"uri": tracking_uri(site.base_url, "https"), "root_run_id": name}
        description = {"job": name, "inputs": _located(site, name, plan), "outputs": outputs, "steps": own}
        description |= {"work": str(folder / "work"), "tracking": tracking}
        file = folder / "job.json"
        file.write_text(json.dumps(description, indent=1), encoding="utf-8")
        return file

    def _follow(self, name: str, file: Path, program: tuple[str, ...]) -> int:
        """Run a program to its end and turn its events into states of the child runs."""
        site = self._site
        token, _ = site.identity.token(ARM_RESOURCE, _TOKEN_SECONDS)
        environment = {**os.environ, "MLFLOW_TRACKING_TOKEN": token, "REQUESTS_CA_BUNDLE": str(site.folder.bundle)}
        environment["NO_PROXY"] = environment["no_proxy"] = without_proxy(os.environ)
        command = [*program, str(file)]
        with (file.parent / "engine.log").open("ab") as errors, self._lock:
            if self._stopping.is_set():
                return -signal.SIGTERM
            engine = subprocess.Popen(  # noqa: S603 - our own program; the job's content is only a file's path
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
            self._engine = engine
        if self._status(name) == "CancelRequested":
            self._stop_engine()
        assert engine.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            with engine.stdout:
                for line in engine.stdout:
                    self._event(name, _decoded(line))
        except Exception:
            self._stop_engine()
            raise
        finally:
            code = engine.wait()
            with self._lock:
                self._engine = None
            if engine.stdin is not None:
                engine.stdin.close()
        return code

    def _run_here(self, name: str, events: Iterator[dict[str, str]]) -> int:
        """Follow an engine that needs no process of its own; return the exit code that one would have."""
        for event in events:
            if self._stopping.is_set() or self._status(name) == "CancelRequested":
                return -signal.SIGTERM
            self._event(name, event)
        return 0

    def _event(self, name: str, event: Json) -> None:
        try:
            step, status = event["name"], event["status"]
        except (KeyError, TypeError):
            logger.warning("the engine wrote a line that is no event")
            return
        child = next((run for run in runs.children(self._site, name) if run.body["displayName"] == step), None)
        if child is None:
            logger.warning("the engine reported a step that the job does not have")
            return
        if status == "Running":
            runs.set_status(self._site, name, "Running")
        runs.set_status(self._site, child.name, status, error=event.get("error"))
        self._log(name, f"The step {step} is {status}.")
        if status == "Running":
            self._strike(name, child)

    def _strike(self, name: str, child: Document) -> None:
        """Do to a step that has begun what has been ordered: fail it, or take its node away."""
        step = child.body["displayName"]
        fault = self._site.faults.strike(f"step {step}")
        if fault is None:
            return
        end = time.monotonic() + fault.delay
        while time.monotonic() < end and self._status(name) != "CancelRequested" and not self._stopping.wait(0.02):
            pass
        if not fault.status:
            raise _PreEmpted
        error = of_fault(fault)
        failed = {"code": error.code, "message": error.message}
        runs.set_status(self._site, child.name, "Failed", error=failed)
        raise WireError(400, **_child_error(self._site, name))

    def _requeue(self, name: str) -> None:
        """Put a job back whose node was pre-empted, unless somebody has given it up meanwhile."""
        if self._status(name) == "CancelRequested":
            self._end(name, "Canceled")
        else:
            self._put_back(name, "The node was pre-empted; the job is in the queue again.")

    def _finish(self, name: str, plan: Json) -> None:
        site = self._site
        runs.set_status(site, name, "Finalizing")
        made = _outputs(site, name)
        for output, (child, path) in made.items():
            if not any(path.iterdir()):
                message = f"The engine ended well but left the output {output} empty."
                self._end(name, "Failed", {"code": "SystemError", "message": message})
                return
            uri = _output_uri(child, output)
            runs.set_outputs(site, child, {output: {"from": output, "uri": uri}})
        bound = {
            root: {"from": output, "uri": _output_uri(made[output][0], output)}
            for root, output in plan["outputs"].items()
        }
        if plan.get("preparation"):
            prepared = runs.children(site, name)[0].body["outputs"]
            bound |= {root: prepared[output] for root, output in plan["preparation"]["bound"].items()}
        runs.set_outputs(site, name, bound)
        self._end(name, "Completed")

    def _end(self, name: str, status: str, error: Json | None = None) -> None:
        """End a job: what still ran failed with it, what never ran is canceled."""
        with self._site.documents.transaction():  # a killed server leaves no job half ended
            for child in runs.children(self._site, name):
                if status == "Failed" and child.body["status"] == "Running":
                    runs.set_status(self._site, child.name, "Failed", error=error)
                else:
                    runs.set_status(self._site, child.name, "Canceled")
            runs.set_status(self._site, name, status, error=error)
        self._log(name, f"The pipeline run {name} is {status}." + (f" {error['message']}" if error else ""))

    def _put_back(self, name: str, why: str) -> None:
        """Put an interrupted job back into the queue; steps that were completed stay so."""
        with self._site.documents.transaction():
            for child in runs.children(self._site, name):
                if child.body["status"] != "Completed":  # one that failed, too: the job it would have failed goes on
                    self._site.documents.update(f"runs/{child.name}", _begin_anew)
            self._site.documents.update(f"runs/{name}", lambda body: body.update(status="Queued"))
        self._log(name, why)

    def _stop_engine(self) -> None:
        """Close the engine's input, which ends it; kill its whole group if it stays."""
        with self._lock:
            engine = self._engine
        if engine is None or engine.poll() is not None:
            return
        if engine.stdin is not None and not engine.stdin.closed:
            engine.stdin.close()
        try:
            engine.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            logger.warning("the engine did not end by itself; it is killed")
        # Also what the engine may have started itself; its group is its own session.
        try:
            os.killpg(engine.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _log(self, name: str, text: str) -> None:
        blob = files.log_name({"runId": name})
        path = files.path_of(self._site, ARTIFACTS, blob)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"[{timestamp(self._site.clock.now())}] {text}\n")


def _decoded(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # it is no event, which is said where events are read


def _begin_anew(body: Json) -> None:
    """Make a step what it was before it began."""
    body["status"] = "NotStarted"
    for key in ("startTimeUtc", "endTimeUtc", "error"):
        body.pop(key, None)


def _check_computes(site: Ground, plan: Json) -> None:
    """Fail a job whose steps name a compute or a VM size that is not there, or that cannot do the work."""
    for step in runs.steps(plan):
        compute, vm_size = runs.step_compute(plan, step)
        if compute.lower() == "serverless":
            if quota.size(vm_size) is None:
                message = f"The VM size {vm_size} of step {step} is not supported in {LOCATION}."
                raise WireError(400, "UserError", message)
        elif site.documents.get(f"computes/{compute}") is None:
            raise WireError(400, "UserError", f"The compute target {compute} of step {step} was not found.")
    _check_gpus(plan)


def _check_gpus(plan: Json) -> None:
    """Fail as the component's validation does: it wants a GPU, and no more processes than the node has GPUs."""
    row = quota.size(plan["vm_size"])
    wanted = plan["inputs"]["number_of_gpu_to_use_finetuning"]
    if row is None or not wanted.isdigit():
        return  # the engine's own validation names what is no number
    if row["gpus"] == 0:
        raise WireError(400, "UserError", f"SKUNotSupported: fine-tuning needs a GPU, and {row['name']} has none.")
    if int(wanted) > row["gpus"]:
        message = f"number_of_gpu_to_use_finetuning is {wanted}, and a node of {row['name']} has {row['gpus']} GPU(s)."
        raise WireError(400, "UserError", message)


def _located(site: Ground, name: str, plan: Json) -> dict[str, str]:
    """Return the engine's inputs: assets and what was prepared become absolute paths, the rest stays text."""
    prepared = runs.children(site, name)[0].body.get("outputs") or {}
    inputs = {
        key: prepared[bound[1]]["uri"] if (bound := runs.step_output(value)) else value
        for key, value in plan["inputs"].items()
    }
    kinds = {name: spec["type"] for name, spec in catalog.component()["inputs"].items()}
    return {
        name: value if kinds[name] in LITERALS else str(references.resolve(site, value))
        for name, value in inputs.items()
    }


def _outputs(site: Ground, name: str) -> dict[str, tuple[str, Path]]:
    """Return for each output of the component the child run that makes it and its folder."""
    makers = {"pytorch_model_folder": "chat_completion_finetune", "mlflow_model_folder": "ft_nlp_model_converter"}
    children = {run.body["displayName"]: run.name for run in runs.children(site, name)}
    container = DATASTORES["workspaceblobstore"]
    return {
        output: (children[step], files.path_of(site, container, f"azureml/{children[step]}/{output}"))
        for output, step in makers.items()
    }


def _output_uri(child: str, output: str) -> str:
    return references.datastore_uri("workspaceblobstore", f"azureml/{child}/{output}")


def _child_error(site: Ground, name: str) -> Json:
    """Return the error of the step that failed, as the pipeline shows it."""
    for child in runs.children(site, name):
        if child.body["status"] == "Failed":
            error = child.body.get("error") or {"code": "SystemError", "message": "No reason was given."}
            message = f"Pipeline has failed child jobs. The step {child.body['displayName']} failed: {error['message']}"
            return {"code": error["code"], "message": message}
    return {"code": "SystemError", "message": "The engine reported a failure and named no step."}


def _last_line(path: Path) -> str:
    """Return what the engine said last outside its steps' logs, where an import error ends up."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
