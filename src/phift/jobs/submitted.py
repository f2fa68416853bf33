"""Which job a configuration is about, where this process did not submit it."""

from __future__ import annotations

import logging

from phift.azure.answers import text
from phift.azure.clients import Clients
from phift.config.data import RowsSource
from phift.config.run import RunConfig
from phift.errors import NotFound, in_a_line
from phift.jobs.job import FineTuneJob, find_job, list_jobs
from phift.jobs.record import SERIES, RunRecord, configuration_digest, series

logger = logging.getLogger(__name__)


def find_submitted(config: RunConfig, clients: Clients, planned: str | None) -> FineTuneJob:
    """Return the newest job of this very configuration, whatever has become of its data and the registry since.

    Or else, with a warning in the log, the only one of its series.

    - **planned**: the job's name where it is known, for a job that an older phift submitted.

    Raises `phift.errors.NotFound` where there is none, or where only the user can say which one is meant.
    """
    where = f"run of {in_a_line(config.model.name)}"
    found = [(job, RunRecord.read(job)) for job in list_jobs(clients, f"{SERIES}.{series(config)}")]
    if not found:
        older, _ = find_job(clients, planned) if planned else (None, "")
        if older:
            return older
        fix = "call submit() first, or attach to a job by its name: FineTuneRun.attach(name, clients)"
        raise NotFound("This run has not been submitted.", where=where, fix=fix)
    exact = [(job, record) for job, record in found if record.configuration_digest == configuration_digest(config)]
    runs = [record.fingerprint for _, record in exact or found]
    # Rows from Python have no name, so that equal configurations may mean other rows.
    nameless = any(isinstance(source, RowsSource) for some in config.data.sources.values() for source in some)
    if len(set(runs)) > 1 and (nameless or not exact):
        names = ", ".join(str(job.name) for job, _ in exact or found)
        what = f"This run has not been submitted as it stands, and there are several that it may be about: {names}."
        raise NotFound(what, where=where, fix="FineTuneRun.attach(name, clients) takes the one you mean")
    listed = text((exact or found)[0][0].name, "job.name")
    # By name: a list does not have what is archived.
    newest, _ = find_job(clients, listed.partition(runs[0])[0] + runs[0])
    job = newest or FineTuneJob(listed, clients)
    if not exact:
        message = "This configuration has not been submitted as it stands; going on with job %s of an earlier one."
        logger.warning(message, in_a_line(job.name))
    return job
