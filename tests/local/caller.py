"""One caller of several: takes a round's seed from each line of its input, and does the whole of that run at once.

With ``block`` after the seed the endpoint is used in a block, and else left up.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from phift import Clients, FineTuneRun, RunConfig, connect


def configuration(workspace: Path, data: Path, work: Path, seed: int, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "workspace": {"local": workspace},
        "model": "Phi-4-mini-instruct",
        "compute": "gpu-cluster",
        "data": {"train": data},
        "parameters": {"seed": seed},
        "work_dir": work,
    }
    return RunConfig(**{**values, **changes})


def write_rows(path: Path, tag: str = "", count: int = 30) -> Path:
    messages = [
        [{"role": "user", "content": f"Question {tag}{i}?"}, {"role": "assistant", "content": f"Answer {i}."}]
        for i in range(count)
    ]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in messages), encoding="utf-8")
    return path


def whole_run(config: RunConfig, clients: Clients, *, block: bool = False) -> dict[str, Any]:
    """Do all of a run, leave its endpoint up unless it is for a block, and return what became of it."""
    run = FineTuneRun(config, clients)
    job = run.submit()
    run.wait(timeout=1200)
    model = run.register()
    endpoint = run.deploy()
    with endpoint if block else nullcontext():
        answer = endpoint.chat("Question 1?")
    return {
        "job": job.name,
        "new": not job.existed,
        "model": model.id,
        "endpoint": endpoint.name,
        "answered": bool(answer),
    }


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    logging.getLogger("azure").setLevel(logging.ERROR)
    workspace, data, work = map(Path, sys.argv[1:])
    clients = connect(workspace={"local": workspace})
    say("ready")
    for line in sys.stdin:
        try:
            seed, *block = line.split()
            result = whole_run(configuration(workspace, data, work, int(seed)), clients, block=bool(block))
        except Exception as error:  # noqa: BLE001 - it is the test that looks at it
            result = {"error": f"{type(error).__name__}: {error}"}
        say(json.dumps(result))


if __name__ == "__main__":
    main()
