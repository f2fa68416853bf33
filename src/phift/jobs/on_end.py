"""What is done when a job has ended: a function that is called, or a command that is run."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import TypeAlias

from phift.errors import ConfigError, in_a_line, isolated
from phift.jobs.ends import JobEnd

logger = logging.getLogger(__name__)

OnEnd: TypeAlias = Callable[[JobEnd], object] | str | Sequence[str]
"""A function that takes the end, or a command: a list of words, or a text that is cut into words as a shell does."""


def when_ended(on_end: OnEnd | None) -> Callable[[JobEnd], object]:
    """Return the function to call with the end of a job; it never raises an error, since the end is told anyhow.

    A command is run without a shell, and waited for. It finds ``PHIFT_JOB``, ``PHIFT_STATUS`` and ``PHIFT_CAUSE``
    (empty where the job did not fail) in its environment, and what it says goes to the standard error. That it failed,
    or a function did, is logged.

    Raises `phift.errors.ConfigError` for a command that cannot be run, which is better known before a job of hours.
    """
    if on_end is None or callable(on_end):
        return isolated(on_end)
    try:
        words = shlex.split(on_end) if isinstance(on_end, str) else list(on_end)
    except ValueError as error:  # a quote that nobody ends
        raise _no_command(f"it cannot be cut into words: {error}") from None
    if not words or not all(isinstance(word, str) for word in words):
        raise _no_command("it has no words")
    if shutil.which(words[0]) is None:
        raise _no_command(f"there is no program {in_a_line(words[0])}")
    return lambda end: _run(words, end)


def _no_command(why: str) -> ConfigError:
    fix = "name a program that is there and its arguments; what needs a shell is `sh -c '...'`"
    return ConfigError(f"The command for the job's end cannot be run: {why}.", where="on_end", fix=fix)


def _run(words: Sequence[str], end: JobEnd) -> None:
    told = {"PHIFT_JOB": end.job, "PHIFT_STATUS": end.status, "PHIFT_CAUSE": end.cause or ""}
    environment, problem = {**os.environ, **told}, ""
    try:
        done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=2, check=False)  # noqa: S603 - the user's own
        problem = f"it ended with exit code {done.returncode}" if done.returncode else ""
    except (OSError, ValueError) as error:  # it has gone meanwhile, or a word has a null byte
        problem = f"{type(error).__name__}: {error}"
    if problem:
        message = "The command for the end of job %s failed, which changes nothing else: %s"
        logger.warning(message, in_a_line(end.job), in_a_line(problem))
