"""The local workspace with the instant engine, but for one kind of job: with the seed `HELD` it goes on and on.

Without arguments of its own it is the server; with ``engine`` first, the engine.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from phift.local.programs import ENGINES, Programs
from phift.local.server.process import main
from phift.local.work import instant

HELD = 13
_HERE = (sys.executable, str(Path(__file__)))


def programs() -> Programs:
    return replace(ENGINES["instant"], server=_HERE, engine=(*_HERE, "engine"))


def engine(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    if job["inputs"]["seed"] != str(HELD):
        instant.engine([job_file])
        return
    sys.stdout.write(json.dumps({"event": "step", "name": job["steps"][0]["name"], "status": "Running"}) + "\n")
    sys.stdout.flush()
    while os.read(0, 1024):  # ends when the server closes it, or ends itself
        pass
    os._exit(75)


if __name__ == "__main__":
    if sys.argv[1] == "engine":
        engine(sys.argv[2])
    else:
        main(programs())
