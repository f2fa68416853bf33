"""The table of what is verified is that of the suite as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from contract import verified
from contract.targets import AZURE, NAMES
from phift.local import LocalWorkspace
from phift.local.names import WORKSPACE_ID
from phift.local.recorder.exchange import read

HERE = Path(__file__).parent


def rows() -> set[tuple[str, str]]:
    """Return every test of the suite with every target, as pytest collects them."""
    command = [sys.executable, "-m", "pytest", str(HERE), "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return {found for line in done.stdout.splitlines() if (found := verified.row(line)) is not None}


def test_the_record_has_every_test_of_the_suite_and_no_other(child_environment: None) -> None:
    suite, known = rows(), verified.load()
    tests = {name for name, _ in suite}
    assert len(tests) > 50
    assert {target for _, target in suite} == set(NAMES)
    for target in ("wire", "process"):
        assert set(known[target]["results"]) == tests, f"make verified ({target})"
        assert set(known[target]["results"].values()) == {"passed"}, target
    assert set(known.get("azure", {}).get("results", {})) <= tests


def test_the_table_is_that_of_the_record() -> None:
    assert verified.TABLE.read_text(encoding="utf-8") == verified.render(verified.load())


def test_the_document_says_plainly_that_nothing_is_verified_on_azure() -> None:
    known = verified.load()
    said = "Nothing has been verified on Azure yet" in verified.TABLE.read_text(encoding="utf-8")
    assert said == ("azure" not in known)


def test_a_skipped_target_leaves_no_record_and_a_failure_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "outcomes", {})

    def note(when: Literal["setup", "call", "teardown"], outcome: Literal["passed", "failed", "skipped"]) -> None:
        test = "tests/contract/test_a.py::test_b[azure-c]"
        verified.note(pytest.TestReport(test, ("", 0, ""), {}, outcome, None, when))

    note("setup", "skipped")
    note("teardown", "passed")
    assert verified.outcomes == {}
    note("setup", "passed")
    note("call", "passed")
    assert verified.outcomes == {"azure": {"test_a.test_b[c]": "passed"}}
    note("teardown", "failed")  # what was made could not be taken away
    assert verified.outcomes == {"azure": {"test_a.test_b[c]": "failed"}}
    known = {"azure": {"date": "2026-01-01", "sdk": "1.35.2", "results": verified.outcomes["azure"]}}
    assert verified.render(known).endswith("| a: b (c) | unverified | unverified | failed |\n")


@pytest.mark.slow
def test_the_suite_is_recorded_on_a_local_workspace_and_verifies_nothing_on_azure(
    tmp_path: Path, child_environment: None
) -> None:
    _, _, subscription, _, group, *_, name = WORKSPACE_ID.split("/")
    given = {**os.environ, AZURE: f"{subscription}/{group}/{name}", verified.WANTED: "1"}
    before = verified.load(), verified.TABLE.read_text(encoding="utf-8")
    file = tmp_path / "suite.jsonl"
    tests = [f"{HERE / 'test_places.py'}", f"{HERE / 'test_jobs.py'}::test_a_running_job_is_cancelled"]
    suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    command = [sys.executable, "-m", "phift.cli", "local", "record", str(file), "--", *suite]
    workspace = LocalWorkspace(tmp_path / "workspace", engine="instant", speed="fast")
    try:
        variables = {**given, **workspace.up().environment()}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    finally:
        workspace.down()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "9 passed" in done.stdout
    operations = {each.operation for each in read(file)[1]}
    assert operations >= {"GET datastores/{}", "PUT jobs/{}", "POST jobs/{}/cancel"}
    assert (verified.load(), verified.TABLE.read_text(encoding="utf-8")) == before
