"""Spans of a run's steps, by azure-core's settings; and what is logged of them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from azure.core.settings import settings

from phift.errors import JobFailed
from phift.run.chain import FineTuneRun
from unit.fakes import Fakes, run_config, write_rows

STEPS = ["prepare", "check", "submit", "wait", "register", "deploy"]


class Span:
    """A span as azure-core's plugins make them, which remembers."""

    ended: ClassVar[list[Span]] = []
    open: ClassVar[list[Span]] = []

    def __init__(self, span: Any = None, name: str = "", **_options: Any) -> None:
        self.name, self.attributes, self.error = name, dict[str, Any](), None
        self.parent = self.open[-1].name if self.open else ""

    def add_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def __enter__(self) -> Span:
        self.open.append(self)
        return self

    def __exit__(self, kind: Any, error: Any, _traceback: Any) -> None:
        self.error = error
        self.ended.append(self.open.pop())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Span]]:
    monkeypatch.setattr(Span, "ended", [])
    settings.tracing_implementation.set_value(Span)  # type: ignore[arg-type]  # all of it that is used
    yield Span.ended
    settings.tracing_implementation.unset_value()


def test_each_step_is_a_span_that_says_where_and_of_which_job(spans: list[Span], tmp_path: Path) -> None:
    run = FineTuneRun(run_config(tmp_path), Fakes().clients)
    job = run.execute().job
    named = {span.name: span for span in spans if span.name.startswith("phift.")}  # the SDK has some of its own
    assert set(named) == {f"phift.{step}" for step in STEPS}
    of = {"phift.workspace": "workspace", "phift.job": job.name}
    assert named["phift.wait"].attributes == named["phift.deploy"].attributes == named["phift.submit"].attributes == of
    assert named["phift.check"].attributes == {"phift.workspace": "workspace"}  # there is no job yet
    parents = {span.name: span.parent for span in spans if span.parent}
    assert parents["phift.check"] == "phift.submit"


def test_a_step_that_fails_is_a_span_with_its_error(spans: list[Span], tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.workspace.jobs.next_script = ["Failed"]
    run = FineTuneRun(run_config(tmp_path), fakes.clients)
    run.submit()
    with pytest.raises(JobFailed):
        run.wait()
    assert isinstance(spans[-1].error, JobFailed)


def test_nobody_who_does_not_trace_pays_for_it(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 30)
    probe = f"""
import sys
from phift import FineTuneRun, RunConfig
config = RunConfig(model="Phi-4", compute="c", data={{"train": {str(rows)!r}}}, work_dir={str(tmp_path)!r})
FineTuneRun(config).prepare()
assert not [name for name in sys.modules if "opentelemetry" in name or name == "azure.core.settings"]
"""
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own text
    assert done.returncode == 0, done.stderr


def test_opentelemetry_gets_them_as_azure_core_has_it_built_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    exported = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exported))
    from azure.core.instrumentation import get_tracer

    tracer = get_tracer(library_name="phift")
    assert tracer is not None
    monkeypatch.setattr(tracer, "_tracer", provider.get_tracer("phift"))
    monkeypatch.setattr("azure.core.instrumentation.get_tracer", lambda **_named: tracer)
    monkeypatch.setenv("AZURE_TRACING_ENABLED", "true")
    FineTuneRun(run_config(tmp_path), Fakes().clients).submit()
    names = [span.name for span in exported.get_finished_spans()]
    assert names[-1] == "phift.submit"
    assert "phift.check" in names


def test_each_change_of_state_is_logged_with_fields_and_without_user_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fakes = Fakes()
    run = FineTuneRun(run_config(tmp_path, tags={"owner": "somebody in person"}), fakes.clients)
    with caplog.at_level(logging.INFO, "phift"):
        with run.execute().endpoint:
            pass
        run.register()
        run.submit()
    told = [vars(record) for record in caplog.records if hasattr(record, "phift_event")]
    kinds = [each["phift_event"] for each in told]
    assert [kind for kind in kinds if kind in ("submitted", "registered")] == ["submitted", "registered"]
    assert {each["phift_job"] for each in told if "phift_job" in each} == {run.job.name}
    assert [each["phift_stage"] for each in told if "phift_stage" in each] == [
        "endpoint",
        "deployment",
        "traffic",
        "ready",
        "delete",
        "deleted",
    ]
    assert {each["phift_status"] for each in told if each["phift_event"] == "status"} == {"Completed"}
    assert "somebody in person" not in caplog.text
    assert "Question 1?" not in caplog.text
