"""A secret in any text of any answer of the service: nothing that phift says, keeps or sends on has it.

The whole chain runs against a workspace in this process while one field of one operation's answers has a secret in it,
as somebody may have put one into a description, a tag or an error of his own.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import random
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter
from rich.console import Console

from faults.chains import write_data
from fidelity.wire_traffic import route_of
from phift import EventPrinter, FineTuneRun, RunConfig, endpoints
from phift.cli.output import tell
from phift.errors import PhiftError
from phift.serving.cleanup import deployed_endpoints, remove_endpoints_of
from phift.testing import TestWorkspace
from phift.views.terminal import show_plan, show_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the SDK and its libraries announce their own deprecations
]

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "3"))

MARK = "Pl4ntedS3cr3tOfS0mebody"  # a part of every secret below, and of nothing else
SECRETS = {
    "JSON web token": f"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIx{MARK}.{MARK}sig",
    "token of the Hub": f"hf_{MARK}AbCdEf",
    "signature": f"https://a.blob.core.windows.net/c/b?sv=2021-08-06&sr=b&sig={MARK}%2Bab%3D",
    "key": f"{MARK * 4}"[:86] + "==",
    "password": f"password={MARK}",
    "connection string": f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={MARK}+/b==;EndpointSuffix=b.c",
    "header": f"Authorization: Bearer {MARK}",
}
CUT = MARK[:12]  # what is left of one that was cut off

Place = tuple[Any, ...]
"""The names that lead to a text in an answer; 0 for all entries of a list, and () for an answer that is no JSON."""


@dataclass(frozen=True)
class Field:
    """A text in the answers of an operation."""

    route: str
    place: Place


@dataclass
class Planted:
    """What is planted where, and what came of it.

    - **status**: of a refusal in the place of each answer of the operation, which says the secret; 0 for none.
    - **times**: how often the secret was planted.
    """

    where: Field | None = None
    secret: str = ""
    status: int = 0
    times: int = 0
    fields: set[Field] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)


@contextmanager
def planting(planted: Planted) -> Iterator[None]:
    """Write down the fields of all answers that this process gets, plant a secret, and look at what is sent."""
    send = HTTPAdapter.send

    def planter(adapter: HTTPAdapter, asked: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        parts = urlsplit(str(asked.url))
        route = route_of(str(asked.method), unquote(parts.path))
        # What is sent back to where it came from is known there: an update leaves tags of others as they are.
        if planted.where is None or planted.where.route.partition(" ")[2] != route.partition(" ")[2]:
            planted.sent += _told(asked.body)
        response = send(adapter, asked, *args, **options)
        if not route or parts.path.startswith("/phift/"):
            return response
        body = _json(response.content)
        planted.fields |= {Field(route, place) for place in _places(body)} if body is not None else {Field(route, ())}
        if planted.where is None or planted.where.route != route:
            return response
        if planted.status:
            response.status_code, body = planted.status, {"error": {"code": "UserError", "message": planted.secret}}
            planted.times += 1
        elif not planted.where.place and body is None and response.content:
            response._content = response.content + f"\n{planted.secret}\n".encode()
            planted.times += 1
        else:
            planted.times += _plant(body, planted.where.place, planted.secret)
        if body is not None:
            response._content = json.dumps(body).encode()
            response.headers["Content-Type"] = "application/json"
        response.headers["Content-Length"] = str(len(response.content))
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPAdapter, "send", planter)
        # With a secret behind it a state is none that an operation ends in.
        patch.setattr("phift.azure.answers._LONGEST_OPERATION", 1.0)
        patch.setattr("phift.serving.resource._LONGEST_OPERATION", 1.0)
        # What the SDK's own loggers say, such as that a step's name has capitals, is not phift's.
        patch.setattr(logging, "lastResort", None)
        yield


def _json(content: bytes) -> Any:
    if content[:1] in (b"{", b"["):
        with suppress(ValueError):
            return json.loads(content)
    return None


def _places(body: Any) -> Iterator[Place]:
    match body:
        case str():
            yield ()
        case dict():
            for name, inner in body.items():
                yield from ((name, *place) for place in _places(inner))
        case list():
            for inner in body:
                yield from ((0, *place) for place in _places(inner))


def _plant(body: Any, place: Place, secret: str) -> int:
    """Put a secret behind what is there, everywhere in a body where the place leads; returns how often."""
    match body, place:
        case [dict() as inner, (name,)] if isinstance(inner.get(name), str):
            glue = "&" if "?" in inner[name] else "?" if inner[name].startswith("https://") else " "
            inner[name] += glue + secret
            return 1
        case [dict() as inner, (name, *rest)] if name in inner and rest:
            return _plant(inner[name], tuple(rest), secret)
        case [list() as inner, (0,)]:
            count = len(inner)
            inner[:] = [f"{each} {secret}" if isinstance(each, str) else each for each in inner]
            return count
        case [list() as inner, (0, *rest)]:
            return sum(_plant(each, tuple(rest), secret) for each in inner)
    return 0


def _told(body: Any) -> Iterator[str]:
    """Yield what a request keeps with a thing in the workspace for all to read."""
    sent = _json(body.encode() if isinstance(body, str) else body) if isinstance(body, str | bytes) else None
    properties = sent.get("properties") if isinstance(sent, dict) else None
    for where in (sent, properties):
        if isinstance(where, dict):
            yield from (json.dumps(where.get(name)) for name in ("tags", "description", "displayName", "properties"))
            if "key" in where and "value" in where:  # MLflow's tags
                yield json.dumps(where)


@dataclass
class Outputs:
    """Everything that phift says and keeps, in parts with a name."""

    parts: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, text: object) -> None:
        self.parts.append((name, str(text)))

    def raised(self, error: BaseException) -> None:
        self.add("error", error)
        self.add("error.repr", repr(error))
        self.add("error.args", error.args)
        self.add("error.details", {name: value for name, value in vars(error).items() if name != "report"})
        with suppress(pickle.PicklingError, TypeError, AttributeError):
            self.add("error.pickle", pickle.dumps(error))
        self.add("traceback", "".join(traceback.format_exception(error)))
        for each in _and_before(error):
            for frame, _line in traceback.walk_tb(each.__traceback__):
                if "/phift/" in frame.f_code.co_filename:
                    for name, value in frame.f_locals.items():
                        with suppress(Exception):
                            self.add(f"local {name} of {frame.f_code.co_qualname}", repr(value))

    @property
    def leaks(self) -> list[tuple[str, str]]:
        return [(name, text[max(0, at - 150) : at + 60]) for name, text in self.parts if (at := text.find(CUT)) >= 0]


def _and_before(error: BaseException) -> list[BaseException]:
    """Return an error and what it was raised from."""
    found: list[BaseException] = [error]
    for each in found:  # it grows
        before = (each.__cause__, None if each.__suppress_context__ else each.__context__)
        found += [other for other in before if other is not None and other not in found]
    return found


@contextmanager
def logged(outputs: Outputs) -> Iterator[None]:
    """Add what phift's own loggers are told, down to DEBUG."""

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            outputs.add(f"log {record.name}", self.format(record))

    logger, keeper = logging.getLogger("phift"), Keeper(logging.DEBUG)
    before, logger.level = logger.level, logging.DEBUG
    logger.addHandler(keeper)
    try:
        yield
    finally:
        logger.removeHandler(keeper)
        logger.level = before


def run_chain(workspace: TestWorkspace, folder: Path, planted: Planted) -> Outputs:
    """Do all that phift does; what fails is an output too, and the next thing is done."""
    outputs, console = Outputs(), Console(file=io.StringIO(), width=2000)
    printer = EventPrinter(console)

    def on_event(event: Any) -> None:
        outputs.add("event", repr(event))
        printer(event)

    def work(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # noqa: BLE001 - whatever it is
            outputs.raised(error)
            if not isinstance(error, PhiftError):
                outputs.add("no error of ours", f"{CUT} {error!r}")

    config = RunConfig(
        workspace={"local": workspace.connection.folder},
        model="Phi-4-mini-instruct",
        compute="gpu-cluster",
        data=write_data(folder),
        work_dir=folder / "work",
    )

    def serve() -> None:
        with run.deploy() as endpoint:
            outputs.add("endpoint", repr(endpoint))
            endpoint.chat("Is this a chain?")
            tell(f"endpoint {endpoint.name} at {endpoint.scoring_uri}")
            found = deployed_endpoints(run.clients)
            tell(endpoints(run.clients), lines=True)
            outputs.add("endpoints", [str(each) for each in found])
            outputs.add("earlier", [str(each) for each in run.earlier_endpoints()])

    def submit() -> None:
        job = run.submit()
        tell(f"job {job.name}")
        outputs.add("job", repr(job))
        outputs.add("record", repr(run.record))

    def register() -> None:
        model = run.register()
        tell(f"model {model.name} version {model.version}")

    def report() -> None:
        found = run.check()
        show_report(console, found)
        outputs.add("report", f"{found} {found.to_dict()} {found!r}")
        if found.ok:
            show_plan(console, run.plan)
            outputs.add("plan", f"{run.plan.parameters.explain()}")

    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed), logged(outputs), planting(planted):
        run = FineTuneRun(
            config, replace(workspace.clients, poll_seconds=0.01, patience_seconds=0.5), on_event=on_event
        )
        for step in (report, submit, lambda: run.wait(timeout=2), run.metrics, register, serve, run.deploy):
            work(step)
        outputs.add("cleanup", work(run.cleanup))
        outputs.add("cleanup", work(lambda: remove_endpoints_of(run.clients, run.endpoint_name, on_event=on_event)))
    outputs.add("printed", printed.getvalue())
    outputs.add("console", console.file.getvalue())  # type: ignore[attr-defined]
    for text in planted.sent:
        outputs.add("sent", text)
    for path in folder.rglob("*"):
        if path.is_file():
            outputs.add(f"file {path.name}", path.read_bytes().decode("utf-8", "replace"))
    return outputs


@pytest.fixture(scope="module")
def workspace() -> Iterator[TestWorkspace]:
    with TestWorkspace() as workspace:
        yield workspace


def cases(workspace: TestWorkspace, folder: Path) -> list[Planted]:
    """Return every field of a chain with a secret in it, and every operation refused in words with one."""
    clean = Planted()
    outputs = run_chain(workspace, folder, clean)
    assert not outputs.leaks
    # By then there is nothing to clean up any more.
    assert {text.partition(" ")[0] for name, text in outputs.parts if name == "error.repr"} == {"NotFound('There"}
    fields = sorted(clean.fields, key=repr)
    found = [Planted(each) for each in fields]
    routes = sorted({each.route for each in fields})
    found += [Planted(Field(route, ()), status=status) for route in routes for status in (400, 403)]
    random.Random(EXAMPLES).shuffle(found)  # noqa: S311 - no cryptography
    for number, each in enumerate(found):
        each.secret = list(SECRETS.values())[number % len(SECRETS)]
    return found


def test_a_secret_in_an_answer_is_in_no_output(workspace: TestWorkspace, tmp_path: Path) -> None:
    leaks = {}
    for planted in cases(workspace, tmp_path)[:EXAMPLES]:
        workspace.reset()
        with tempfile.TemporaryDirectory() as folder:
            if found := run_chain(workspace, Path(folder), planted).leaks:
                leaks[planted.where, planted.status, planted.secret] = found
    assert not leaks
