"""One of several processes that train a model together: ``python -m phift.local.work.engine.worker JOB_JSON``."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from phift.errors import PhiftError
from phift.local.work.engine import process, workers
from phift.local.work.engine.job import Job


def main(path: str) -> None:
    """Train; an error that the user can mend is left where whoever started this process looks for it."""
    process.end_with_parent()
    process.prepare()
    from phift.local.work.engine import finetune

    job = Job.load(Path(path))
    try:
        finetune.train(job)
    except PhiftError as error:
        said = {"what": error.what, "where": error.where, "fix": error.fix}
        (job.work / workers.FAILURE).write_text(json.dumps(said), encoding="utf-8")
        raise


if __name__ == "__main__":
    level = logging.INFO if workers.first() else logging.WARNING  # they all do the same
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    main(sys.argv[1])
