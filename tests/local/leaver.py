"""A program that is killed, and one that comes back; copies of one process, so that each has its imports done.

Takes a line of JSON for each: ``config`` or ``attach`` with a job's name, what to ``do``, the home that it has, and at
which request it is killed: before it is sent, or after its answer has come. Answers with what the copy returned, or
null where it was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests.adapters

from phift import FineTuneRun, RunConfig

os.environ.pop("AZUREML_CURRENT_CLOUD", None)  # of the tests' own process, without which the SDK is not imported
import azure.ai.ml  # noqa: F401 - so that every copy has it


def killed_at(number: int, *, answered: bool) -> Callable[[], int]:
    """End this process as SIGKILL does at a request; return what tells how many there were."""
    send, count = requests.adapters.HTTPAdapter.send, 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        mine = count
        if mine == number and not answered:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = send(*arguments, **options)
        if mine == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    requests.adapters.HTTPAdapter.send = counted  # type: ignore[method-assign]
    return lambda: count


def work(order: dict[str, Any]) -> dict[str, Any]:
    home = Path(order["home"])
    home.mkdir()
    os.environ["HOME"] = str(home)
    os.chdir(home)
    requests_so_far = killed_at(order.get("kill_at", 0), answered=order.get("answered", False))
    if "config" in order:
        run = FineTuneRun(RunConfig.from_dict(order["config"]))
        run.submit()
    else:
        run = FineTuneRun.attach(order["attach"], order["workspace"])
    done: dict[str, Any] = {"job": run.job.name}
    if "deploy" in order["do"]:
        run.wait(timeout=600)
        model, endpoint = run.register(), run.deploy()
        done |= {"model": model.id, "endpoint": endpoint.name, "answered": bool(endpoint.chat("Question 1?"))}
    if "cleanup" in order["do"]:
        done["deleted"] = run.cleanup().deleted
    return {**done, "requests": requests_so_far()}


def main() -> None:
    for line in sys.stdin:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            answer = {}
            try:
                answer = work(json.loads(line))
            except Exception as error:  # noqa: BLE001 - the test shows it
                answer = {"error": f"{type(error).__name__}: {error}"}
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answers:
            said = answers.read().decode() or "null"
        os.wait()
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
