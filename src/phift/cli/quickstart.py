"""The demonstration: a whole run in the local workspace, with the held-out questions asked before and after."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console

from phift import EventPrinter, FineTuneRun, RunConfig, samples
from phift.check.compute import instance_type
from phift.local import LocalWorkspace
from phift.serving.deployment import deploy_model
from phift.serving.endpoint import Endpoint
from phift.serving.resource import MODEL
from phift.views.terminal import show_plan, show_report, shown

_QUESTIONS = 100  # of the held-out ones; asking all would take longer than the training
_LONGEST_ANSWER = 24  # tokens; the right answers have at most 20
_EXAMPLES = 3  # questions shown with their answers
_STAND_IN = (
    "The model is a stand-in: the architecture of Phi-4-mini, very small, with random weights. What it can afterwards "
    "it has learned here. With a real pretrained model: phift quickstart --real"
)

Show = Callable[[Console, LocalWorkspace], int]


@dataclass(frozen=True)
class Exam:
    """Held-out questions, the right answers, and what an endpoint said."""

    questions: tuple[str, ...]
    expected: tuple[str, ...]
    answers: tuple[str, ...]

    @property
    def right(self) -> int:
        """How many answers are exactly right."""
        return sum(said.strip() == right for said, right in zip(self.answers, self.expected, strict=True))

    @property
    def share(self) -> float:
        """The share of answers that are exactly right, 0 to 1."""
        return self.right / len(self.questions)

    def __str__(self) -> str:
        return f"{self.right} of {len(self.questions)} questions answered exactly ({self.share:.0%})"


def default_folder() -> Path:
    """Return where the demonstration keeps its state, apart from the user's own local workspace."""
    import platformdirs

    return platformdirs.user_data_path("phift") / "quickstart"


def demonstrate(console: Console, folder: Path, *, fresh: bool = False, show: Show) -> int:
    """Run the demonstration and return its exit code: 0 if the model answers better than before, else 1.

    - **folder**: state of the local workspace and the prepared data. What an earlier, interrupted call left there is
      gone on with; the server is stopped at the end in any case.
    - **fresh**: delete that state first.
    - **show**: what is shown in the workspace, such as `fine_tune`.
    """
    started = time.monotonic()
    workspace = LocalWorkspace(folder)
    if fresh:
        workspace.reset()
    title(console, "Local workspace")
    connection = workspace.up(on_event=lambda text: console.print(shown(f"  {text}")))
    try:
        console.print(shown(f"  {connection.base_url} speaks Azure ML; the client is the unmodified azure-ai-ml SDK."))
        return show(console, workspace)
    finally:
        workspace.down()
        took = f"{time.monotonic() - started:.0f} s"
        console.print(shown(f"\nThe local workspace is stopped after {took}; its state stays in {folder}."))


def configuration(folder: Path) -> RunConfig:
    """Return the demonstration's run: the sample data on the stand-in of Phi-4-mini."""
    data = samples.write(folder / "samples", overwrite=True)
    return RunConfig(
        workspace={"local": folder},
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data={"train": data.train, "validation": data.validation, "test": data.test},
        parameters=dict(samples.PARAMETERS),
        work_dir=folder / "work",
    )


def checked(console: Console, config: RunConfig) -> FineTuneRun:
    """Check a run, show what was found, and return it; raises `phift.errors.CheckFailed`."""
    run = FineTuneRun(config, on_event=EventPrinter(console))
    title(console, "Check")
    report = run.check()
    show_report(console, report)
    report.raise_for_errors()
    show_plan(console, run.plan)
    return run


def trained(console: Console, run: FineTuneRun) -> None:
    """Submit a run, or go on with what an earlier demonstration has submitted, and register its model."""
    title(console, "Fine-tune")
    job = run.submit()
    if job.existed:
        console.print(shown(f"  going on with {job.name}, submitted earlier"))
    run.wait()
    model = run.register()
    console.print(shown(f"  registered {model.name} version {model.version}"))


def fine_tune(console: Console, workspace: LocalWorkspace) -> int:
    """Fine-tune the stand-in, and ask it before and after; return 0 if it answers better than before, else 1."""
    console.print(shown(f"  {_STAND_IN}"))
    run = checked(console, configuration(workspace.folder))

    title(console, "Before: the base model on questions held out of training")
    plan, config = run.plan, run.config.deployment
    base = deploy_model(  # the model as it is before training, under a name of its own
        run.clients,
        plan.model.id,
        name=f"phift-base-{plan.fingerprint}",
        size=instance_type(plan.model, config),
        config=config,
        tags={MODEL: f"{plan.model.name}:{plan.model.version}"},
        on_event=EventPrinter(Console(quiet=True)),
    )
    try:
        before = ask_held_out(base, run.prepare().test)
    finally:
        base.delete()  # also one that an interrupted demonstration left
    console.print(shown(f"  {before}"))

    trained(console, run)
    metrics = run.metrics()

    title(console, "After: the fine-tuned model on the same questions")
    with run.deploy() as endpoint:
        console.print(shown(f"  {endpoint.scoring_uri}"))
        after = ask_held_out(endpoint, run.prepare().test)
        console.print(shown(f"  {after}"))

    title(console, "Result")
    show_answers(console, zip(before.questions, before.answers, after.answers, strict=True))
    losses = metrics[metrics["metric"] == "eval_loss"].sort_values("step")["value"]
    if len(losses):  # a job of an earlier demonstration may have lost them
        console.print(shown(f"  validation loss    {losses.iloc[0]:.3f} before, {losses.iloc[-1]:.3f} after"))
    line = f"  answered exactly   {before.share:.0%} before, {after.share:.0%} after"
    console.print(shown(f"{line} (of {len(after.questions)} held-out questions)"))
    return 0 if after.share > before.share else 1


def show_answers(console: Console, asked: Iterable[tuple[str, str, str]]) -> None:
    """Print the first of the questions, each with its answers before and after."""
    for question, first, last in islice(asked, _EXAMPLES):
        for label, text in (("question", question), ("before", first), ("after", last)):
            console.print(shown(f"  {label:<9}{' '.join(text.split())[:90]}"))
        console.print()


def ask_held_out(endpoint: Endpoint, test_file: Path, count: int = _QUESTIONS, seed: int = 0) -> Exam:
    """Ask an endpoint questions of a prepared test file, the same ones for the same seed."""
    rows = [json.loads(line)["messages"] for line in test_file.read_text(encoding="utf-8").splitlines()]
    rows = random.Random(seed).sample(rows, min(count, len(rows)))  # noqa: S311 - a choice, no secret
    return Exam(
        questions=tuple(str(messages[-2]["content"]) for messages in rows),
        expected=tuple(str(messages[-1]["content"]) for messages in rows),
        answers=tuple(endpoint.chat(messages[:-1], max_new_tokens=_LONGEST_ANSWER) for messages in rows),
    )


def title(console: Console, text: str) -> None:
    """Print what comes next."""
    console.print(shown(f"\n{text}", "bold"))
