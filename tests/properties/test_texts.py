"""Whatever is in a text of somebody else: it is shown, whole and as it is, and does nothing to the terminal.

Findings, names, tags, file names, a log's lines and a model's answers, with rich's markup, links, emoji codes and every
control character in them, go through every view and through the command line's own way out.
"""

from __future__ import annotations

import ast
import inspect
import io
import os
import pkgutil
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from rich.console import Console

import phift
from phift import errors
from phift.azure.storage import Datastore
from phift.check.cost import CostEstimate
from phift.check.data_report import DataReport
from phift.check.findings import Finding
from phift.check.memory import MemoryEstimate
from phift.check.parameters import Parameter, Parameters
from phift.check.report import CheckReport
from phift.cli.commands import main
from phift.cli.interrupted import say
from phift.cli.output import tell
from phift.cli.quickstart import Exam
from phift.data.assets import DataInput
from phift.data.prepare import PreparedDataset, Progress
from phift.data.split import Account
from phift.errors import redact, visible
from phift.evaluation.comparison import ComparedRow, ModelComparison
from phift.evaluation.paired import PairedResult
from phift.jobs.capacity import Capacity
from phift.jobs.events import MetricLogged, NoAnswer, StatusChanged, StepChanged
from phift.jobs.job import FineTuneJob
from phift.jobs.tracking import MetricPoint
from phift.local import LocalWorkspace
from phift.plan import Plan
from phift.run import FineTuneRun
from phift.run.comparison import ComparedRun, Comparison
from phift.run.events import TrialChanged
from phift.run.listing import Runs, RunSummary
from phift.run.trials import SearchResult, Ticket, Trial
from phift.serving.cleanup import Cleanup, DeployedEndpoint
from phift.serving.endpoint import Endpoint
from phift.serving.gate import Gate
from phift.serving.listing import Endpoints, EndpointSummary
from phift.serving.price import Machines
from phift.serving.pruning import Pruned
from phift.serving.resource import DeploymentEvent
from phift.serving.rollout import Rollout
from phift.serving.rollout_state import RolloutEvent, RolloutStatus
from phift.serving.streaming import ReplyStream
from phift.testing import TestWorkspace
from phift.tokens.conversation import Conversation
from phift.tokens.count import Counted, SplitTokens, TokenReport
from phift.views.printer import EventPrinter
from phift.views.terminal import show_plan, show_report
from unit.fakes import Fakes, run_config

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "50"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

MARKUP = ["[x]", "[/x]", "[/]", "[red]a[/red]", "[link=https://a.test]b[/link]", ":smile:", "\\[a]", "[@click=x]y[/]"]
CONTROLS = ["\x1b[2J", "\x1b]8;;https://a.test\x1b\\b", "\x1b]52;c;eA==\x07", "\x9b31m", "\u202e", "\u2066", "\ud800"]
NAMES = ["data/[train]/x.jsonl", "phift[local]", "<b>a</b>", "\r\n", "\n", "\t", "\x00", "\x7f", "\x85", "\u2028"]
HOSTILE = st.lists(st.sampled_from([*MARKUP, *CONTROLS, *NAMES, "a", " ", "ü"]) | st.characters(), max_size=6)
TEXT = HOSTILE.map(lambda parts: "a" + "".join(parts) + "z")  # a view may leave spaces at an end away

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def drawn(show: Callable[[Console], object]) -> str:
    stream = io.StringIO()
    # Wide enough for a text to stay in one line; rich writes no sequences of its own without a terminal.
    show(Console(file=stream, width=2000))
    return stream.getvalue()


def printed(show: Callable[[], object]) -> str:
    with CliRunner().isolation() as (out, err, *_):
        show()
        return (out.getvalue() + err.getvalue()).decode()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return FineTuneRun(run_config(tmp_path_factory.mktemp("plan")), Fakes().clients).plan


def endpoint(text: str) -> DeployedEndpoint:
    return DeployedEndpoint(
        name=text, job=text, model=text, series="", configuration="", created=datetime.now(UTC), traffic={text: 100}
    )


def summary(text: str) -> EndpointSummary:
    return EndpointSummary(
        name=text,
        job=text,
        model=text,
        owner=text,
        created=None,
        expires=None,
        traffic={},
        machines={text: Machines(text, 1)},
        requests=None,
        price_per_day=None,
    )


def account(text: str) -> Account:
    return Account(
        source=text, format="jsonl", rows=1, train=1, validation=0, test=0, aside=0, reasons={text: 1}, blank=0
    )


def finding(text: str) -> Finding:
    return Finding(text, "error", text, text, text, text)


def error(text: str) -> errors.PhiftError:
    return errors.DataError(text, where=text, fix=text, problems=(("a", "b"), (text, text)), refused=5)


NAME_VIEWS: dict[str, Callable[[str], str]] = {
    "status": lambda text: drawn(lambda c: EventPrinter(c)(StatusChanged(job=text, status=text))),
    "step": lambda text: drawn(lambda c: EventPrinter(c)(StepChanged(job="j", step=text, status="Running"))),
    "silence": lambda text: drawn(lambda c: EventPrinter(c)(NoAnswer(job="j", what=text))),
    "metric": lambda text: drawn(lambda c: EventPrinter(c)(MetricLogged(job="j", metric=MetricPoint(text, 1, 1.0, 0)))),
    "deployment": lambda text: drawn(lambda c: EventPrinter(c)(DeploymentEvent("ready", text))),
    "progress": lambda text: drawn(lambda c: EventPrinter(c)(Progress(source=text, rows=1))),
    "counted": lambda text: drawn(lambda c: EventPrinter(c)(Counted(text, 1, 0.5))),
    "tell": lambda text: printed(lambda: tell(f"job {text}")),
    "account": lambda text: f"{account(text)}",
    "endpoint": lambda text: f"{endpoint(text)}\n",
}
LINES_VIEWS: dict[str, Callable[[str], str]] = {
    "report": lambda text: drawn(lambda c: show_report(c, CheckReport.of([finding(text)]))),
    "report as text": lambda text: f"{CheckReport.of([finding(text)])}",
    "error": lambda text: f"{error(text)}",
    "endpoints": lambda text: f"{Endpoints((summary(text),), text)}",
    "cleanup": lambda text: f"{Cleanup(deleted=(text,), left=(endpoint(text),))}",
    "conversation": lambda text: f"{Conversation(place=text, messages=((text, text),), note=text)}",
    "tokens": lambda text: f"{Conversation(place='a', messages=(), tokens=((text, True), (text, False)))}",
    "say": lambda text: printed(lambda: say([f"error: {error(text)}", f"log:\n{text}"])),
    "answer": lambda text: printed(lambda: tell(text, lines=True, hide=False)),
}


# What the user asked to see, or said himself.
UNHIDDEN = {"answer", "conversation", "tokens", "account"}


@many
@given(st.sampled_from(sorted(NAME_VIEWS)), TEXT)
def test_a_name_is_shown_whole_in_one_line(view: str, text: str) -> None:
    out = NAME_VIEWS[view](text)
    assert not CONTROL.search(out)
    assert visible(text if view in UNHIDDEN else redact(text), lines=False) in out


@many
@given(st.sampled_from(sorted(LINES_VIEWS)), TEXT)
def test_a_text_is_shown_whole_with_its_lines(view: str, text: str) -> None:
    out = LINES_VIEWS[view](text)
    assert not CONTROL.search(out)
    lines = visible(text if view in UNHIDDEN else redact(text)).split("\n")
    assert all(line.strip() in out for line in lines)


@many
@given(TEXT)
def test_a_plan_is_shown_as_it_is(plan: Plan, text: str) -> None:
    hostile = replace(
        plan,
        model=replace(plan.model, name=text, version=text),
        component=SimpleNamespace(name=text, version=text),
        target=replace(plan.target, name=text),
    )
    out = drawn(lambda c: show_plan(c, hostile))
    assert not CONTROL.search(out)
    assert out.count(visible(redact(text), lines=False)) >= 5


@many
@given(TEXT)
def test_a_bar_in_a_terminal_has_only_the_sequences_that_are_its_own(text: str) -> None:
    stream = io.StringIO()
    printer = EventPrinter(Console(file=stream, width=300, force_terminal=True, color_system=None))
    printer(Progress(source=text, rows=1, bytes=100, total_bytes=100))
    own = re.sub(r"\x1b\[(?:\?25[lh]|\d*[AK])|[\r\n]", "", stream.getvalue())
    assert not CONTROL.search(own)
    assert visible(redact(text), lines=False) in own


@many
@given(TEXT)
def test_a_notebook_takes_nothing_for_html(text: str) -> None:
    report: Any = CheckReport.of([finding(text)])
    for shown in (report, Conversation(place=text, messages=((text, text),))):
        html = cast(Any, shown)._repr_html_()
        assert not CONTROL.search(html)
        assert "<b>a</b>" not in html


@many
@given(TEXT.filter(lambda text: "\0" not in text), st.sampled_from(["", "check", "local up --engine"]))
def test_a_mistake_on_the_command_line_is_quoted_as_it_is(text: str, command: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), text])
    assert result.exit_code in (1, 2)
    assert not CONTROL.search(result.output)


def test_advice_stays_whole() -> None:
    out = drawn(lambda c: show_report(c, CheckReport.of([finding("install `phift[local]` for data/[train]/x.jsonl")])))
    assert out.count("install `phift[local]` for data/[train]/x.jsonl") == 5


def tokens(text: str) -> TokenReport:
    shares = dict.fromkeys((0.5, 0.95, 0.99), 1)
    split = SplitTokens(
        path=Path("a"), rows=1, rows_counted=1, tokens=1, assistant_tokens=None, quantiles=shares, longest=1,
        longest_line=1, cut=0, tokens_lost=0, without_answer=0, without_answer_lines=(), refused=1,
        histogram=((1, 2, 1),), problems=((text, text),),
    )  # fmt: skip
    return TokenReport(counted="exact", source=text, max_seq_length=1, limit=1, splits={"train": split})


def cost(text: str) -> CostEstimate:
    return CostEstimate(
        tokens=1, hours=1.0, training=1.0, endpoint_per_day=1.0, currency=text, assumptions=(text, text)
    )


def memory(text: str) -> MemoryEstimate:
    sizes = ("weights", "gradients", "optimizer", "activations", "overhead", "least", "host")
    parts: Any = {f"{name}_gb": 1.0 for name in sizes}
    return MemoryEstimate(**parts, moment=text, formula=text, assumptions=(text,))


def prepared(text: str) -> PreparedDataset:
    empty: Any = {name: {} for name in ("rows", "characters", "hashes")}
    paths: Any = dict.fromkeys(("folder", "train", "validation", "test"), Path(text.replace("\0", "")))
    return PreparedDataset(
        **paths, **empty, longest_row=1, content_hash=text, name=text, accounts=(account(text),),
        findings=(finding(text),), before=datetime(2026, 11, 30, tzinfo=UTC), read=False,
    )  # fmt: skip


def deployed(text: str) -> Endpoint:
    made = object.__new__(Endpoint)  # which asks for its key else
    made.name = text
    return made


def parameters(text: str) -> Parameters:
    return Parameters(values={text: Parameter(text, text, "model", overrode=(("component", text),))})


def report(text: str) -> CheckReport:
    return CheckReport.of([finding(text)], tokens=tokens(text), cost=cost(text), memory=memory(text))


# What each class that writes its own text is made from.
def run_summary(text: str) -> RunSummary:
    of_text = ("name", "state", "experiment", "model", "data", "data_hash", "created_by", "registered")
    unknown = dict.fromkeys(("created", "started", "ended", "cost"))
    return RunSummary(**cast(Any, {**dict.fromkeys(of_text, text), **unknown, "endpoints": (text,)}))


def compared(text: str) -> Comparison:
    metrics = pd.DataFrame([(text, 1, 0.5, pd.Timestamp(0, tz="UTC"))], columns=["metric", "step", "value", "time"])
    one, other = {text: text}, {text: f"{text}2"}
    first = ComparedRun(name=text, made_of=one, parameters=one, metrics=metrics)
    return Comparison((first, ComparedRun(name=f"{text}1", made_of=other, parameters=other, metrics=metrics)))


def trial(text: str) -> Trial:
    return Trial(number=1, parameters={text: text}, state="refused", job=text, reason=text)


def trial_changed(text: str) -> TrialChanged:
    return TrialChanged(search=text, trial=1, parameters={text: text}, state=text, job=text, metric=text, value=0.5)


def paired(text: str) -> PairedResult:
    return PairedResult(
        metric=text,
        higher_is_better=True,
        n=1,
        before=0.0,
        after=1.0,
        difference=1.0,
        interval=(0.0, 1.0),
        interval_by="BCa",
        test="sign",
        p=1.0,
        p_adjusted=1.0,
        improved=1,
        worsened=0,
        tied=0,
        can_show=True,
        smallest_visible=None,
        verdict="cannot tell",
    )


def models_compared(text: str) -> ModelComparison:
    row = ComparedRow(
        number=1,
        prompt=({"role": "user", "content": text},),
        question=text,
        reference=text,
        before=text,
        after=text,
        asked_first="before",
        failed={"after": text},
        scores={text: (1.0, 0.0)},
        gains=(-1.0,),
    )
    given: dict[str, Any] = {"near": 0, "given": 1, "seed": 0, "parameters": {text: text}}
    return ModelComparison(before=text, after=text, metrics={text: paired(text)}, rows=(row,), **given)


def rollout_status(text: str) -> RolloutStatus:
    return RolloutStatus(
        endpoint=text, phase="paused", old=text, new=text, share=10, mirrored=0, steps=(10, 100), why=text, left=text
    )


OF_TEXT: dict[type, Callable[[str], object]] = {
    Account: account,
    Capacity: lambda text: Capacity(compute=text, known=(text,), fix=text),
    CheckReport: report,
    Cleanup: lambda text: Cleanup(deleted=(text,), left=(endpoint(text),)),
    Comparison: compared,
    Conversation: lambda text: Conversation(place=text, messages=((text, text),), note=text),
    CostEstimate: cost,
    DataReport: lambda text: DataReport(prepared(text), tokens(text)),
    DataInput: lambda text: DataInput(name=text, version=text, address=text),
    Datastore: lambda text: Datastore(Fakes().clients, text),
    DeployedEndpoint: endpoint,
    Endpoint: deployed,
    Endpoints: lambda text: Endpoints((summary(text),), text),
    Exam: lambda text: Exam((text,), (text,), (text,)),
    Finding: finding,
    FineTuneJob: lambda text: FineTuneJob(text, Fakes().clients),
    FineTuneRun: lambda text: _run(text),
    LocalWorkspace: lambda text: LocalWorkspace(Path(text.replace("\0", ""))),
    Machines: lambda text: Machines(text, 1),
    MemoryEstimate: memory,
    ModelComparison: models_compared,
    PairedResult: paired,
    Parameters: parameters,
    PreparedDataset: prepared,
    Pruned: lambda text: Pruned(chosen=Endpoints((), text), deleted=(text,), spared={text: text}, failed={text: text}),
    ReplyStream: lambda text: ReplyStream(iter(()), lambda: None, asked=0.0, deployment=text),
    Rollout: lambda text: Rollout(SimpleNamespace(name=text, clients=Fakes().clients), Gate()),
    RolloutEvent: lambda text: RolloutEvent(endpoint=text, deployment=text, stage=text, text=text),
    RolloutStatus: rollout_status,
    Runs: lambda text: Runs((run_summary(text),), text),
    SearchResult: lambda text: SearchResult(text, text, "minimize", (trial(text),), text),
    TestWorkspace: lambda _text: TestWorkspace(),
    Ticket: lambda text: Ticket(trial=1, parameters={text: text}, metric=text, direction=text),
    TokenReport: tokens,
    TrialChanged: trial_changed,
    errors.AuthenticationError: lambda text: errors.AuthenticationError(text, where=text, tried=(text,)),
    errors.DataError: error,
    errors.PhiftError: lambda text: errors.PhiftError(text, where=text, fix=text),
}
WAYS = ("__repr__", "__str__", "_repr_html_")


def _run(text: str) -> FineTuneRun:
    run = FineTuneRun(cast(Any, None), Fakes().clients)
    run._job = FineTuneJob(text, Fakes().clients)
    return run


def test_each_class_that_writes_its_own_text_is_tried() -> None:
    found = set()
    for path in Path(phift.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found |= {node.name for each in node.body if isinstance(each, ast.FunctionDef) and each.name in WAYS}
    # The one is what a server answers, the other a text that is the model's own, as it is.
    assert found - {"WireError", "Reply"} == {kind.__name__ for kind in OF_TEXT}


@many
@given(st.sampled_from(sorted(OF_TEXT, key=lambda kind: kind.__name__)), TEXT)
def test_what_is_ours_does_nothing_to_a_terminal_or_a_notebook(kind: type, text: str) -> None:
    made = OF_TEXT[kind](text)
    for way in WAYS:
        if hasattr(made, way):
            said = getattr(made, way)()
            assert not CONTROL.search(said), (way, said)
            assert way != "_repr_html_" or "<b>a</b>" not in said


@pytest.fixture(scope="module")
def of_fields() -> list[Any]:
    """All dataclasses and all models of pydantic's, which write their fields themselves."""
    found = []
    for module in pkgutil.walk_packages(phift.__path__, "phift."):
        if not module.name.endswith("__main__") and ".work.engine" not in module.name:  # the latter takes long
            kinds = inspect.getmembers(import_module(module.name), inspect.isclass)
            found += [kind for _, kind in kinds if kind.__module__ == module.name]
    return [kind for kind in found if is_dataclass(kind) or issubclass(kind, BaseModel)]


def filled(kind: Any, text: str) -> object:
    value = (text, {text: Path(text.replace("\0", ""))})
    if not is_dataclass(kind):
        return kind.model_construct(**dict.fromkeys(kind.model_fields, value))
    made = cast(Any, kind).__new__(kind)
    for field in fields(kind):
        object.__setattr__(made, field.name, value)
    return made


@many
@given(TEXT)
def test_what_has_fields_shows_them_as_they_are(of_fields: list[Any], text: str) -> None:
    assert len(of_fields) > 80
    for kind in of_fields:
        assert not CONTROL.search(repr(filled(kind, text))), kind
