"""What `check` found is what `submit` goes by, as long as it holds; what costs money twice is looked up each time."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from phift.errors import CheckFailed, ComputeError
from phift.local.work import standin
from phift.run import FineTuneRun
from phift.tokens.count import Counted
from unit.fakes import A100, FOUR_A100, Fakes, codes, phi_4, run_config, write_rows

LOOK_UPS = ("models.get", "components.get", "compute.get", "compute.list_sizes", "compute.list_usage")


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def run(fakes: Fakes, tmp_path: Path) -> FineTuneRun:
    return FineTuneRun(run_config(tmp_path), fakes.clients)


def looked_up(fakes: Fakes) -> Counter[str]:
    """Return how often each thing that a check asks for has been asked for; the workspace is once for all clients."""
    calls = [call for client in (fakes.workspace, fakes.registry) for call in client.record.calls]
    # The fake's model lies nowhere, so where its tokenizer lies is asked for by its version.
    return Counter(call[0] for call in calls if call[0] in LOOK_UPS and call != ("models.get", "Phi-4", "8"))


def add_a_row(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        messages = [{"role": "user", "content": "One more?"}, {"role": "assistant", "content": "Yes."}]
        file.write(json.dumps({"messages": messages}) + "\n")


def test_a_submission_repeats_no_look_up_of_the_check_before_it(fakes: Fakes, run: FineTuneRun) -> None:
    run.check()
    once, asked = looked_up(fakes), len(fakes.rest.addresses)
    assert set(once.values()) == {1}
    job = run.submit()
    assert (looked_up(fakes), len(fakes.rest.addresses)) == (once, asked)
    assert job.name == run.plan.job_name


def test_without_a_check_the_submission_checks(fakes: Fakes, run: FineTuneRun) -> None:
    run.submit()
    assert set(looked_up(fakes).values()) == {1}


def test_a_check_holds_for_a_while_only(fakes: Fakes, run: FineTuneRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run.check()
    monkeypatch.setattr("phift.run.chain.CHECK_HOLDS", 0)
    run.submit()
    assert set(looked_up(fakes).values()) == {2}


def in_place(path: Path) -> None:
    """Change one row and neither the file's size nor the time that a program may set."""
    before = path.stat()
    path.write_text(path.read_text().replace("Answer 7.", "Answer 8."), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def another_file(path: Path) -> None:
    moved = write_rows(path.with_name("other.jsonl"), 31)
    moved.replace(path)


@pytest.mark.parametrize("change", [add_a_row, in_place, another_file])
def test_a_changed_row_is_another_job_of_the_changed_rows(
    fakes: Fakes, run: FineTuneRun, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    run.check()
    before = run.plan
    change(tmp_path / "rows.jsonl")
    job = run.submit()
    assert job.name == run.plan.job_name != before.job_name
    (sent,) = fakes.workspace.jobs.submitted
    assert sent.tags["phift.data"] == run.prepare().content_hash != before.dataset.content_hash
    fresh = FineTuneRun(run.config, fakes.clients)
    assert fresh.plan.job_name == job.name


def test_a_file_that_is_gone_is_an_error(run: FineTuneRun, tmp_path: Path) -> None:
    run.check()
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(CheckFailed, match="DataNotFound"):
        run.submit()


def test_a_file_more_in_a_folder_is_seen(fakes: Fakes, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write_rows(folder / "a.jsonl", 30)
    run = FineTuneRun(run_config(tmp_path, data={"train": folder}), fakes.clients)
    before = run.plan.job_name
    write_rows(folder / "b.jsonl", 40)
    assert run.submit().name != before


def test_prepared_files_that_somebody_changed_are_not_submitted(fakes: Fakes, run: FineTuneRun) -> None:
    run.check()
    first = run.prepare()
    add_a_row(first.train)
    run.submit()
    assert set(looked_up(fakes).values()) == {2}
    assert run.prepare().content_hash == first.content_hash
    assert len(run.prepare().train.read_text().splitlines()) == first.rows["train"]


def test_a_changed_configuration_is_another_job(run: FineTuneRun) -> None:
    before = run.plan.job_name
    run.config.parameters["seed"] = 7
    assert run.submit().name == run.plan.job_name != before


def test_a_changed_file_among_the_parameters_is_checked_again(fakes: Fakes, tmp_path: Path) -> None:
    own = tmp_path / "finetune_config.json"
    own.write_text("{}")
    run = FineTuneRun(run_config(tmp_path, parameters={"finetune_config_path": str(own)}), fakes.clients)
    run.check()
    own.write_text('{"chat_special_tokens": {}}')
    run.submit()
    assert set(looked_up(fakes).values()) == {2}


def test_what_stood_in_the_way_is_looked_at_again(fakes: Fakes, tmp_path: Path) -> None:
    run = FineTuneRun(run_config(tmp_path, compute="late"), fakes.clients)
    assert not run.check().ok
    fakes.workspace.compute.add("late")
    assert run.submit().name == run.plan.job_name


def test_an_error_that_is_ignored_is_known_already(fakes: Fakes, tmp_path: Path) -> None:
    run = FineTuneRun(run_config(tmp_path, parameters={"optim": "sgd"}), fakes.clients)
    assert "PARAMETER_VALUE" in codes(run.check().errors)
    run.submit(ignore=["PARAMETER_VALUE"])
    assert set(looked_up(fakes).values()) == {1}


def test_the_same_job_of_somebody_else_is_found_whatever_was_checked(fakes: Fakes, run: FineTuneRun) -> None:
    run.check()
    theirs = FineTuneRun(run.config, fakes.clients).submit()
    mine = run.submit()
    assert (mine.name, mine.existed) == (theirs.name, True)
    assert len(fakes.workspace.jobs.submitted) == 1


def test_the_job_is_of_what_was_reported_though_the_registry_has_newer(fakes: Fakes, run: FineTuneRun) -> None:
    before = run.plan
    fakes.registry.models.add(phi_4(version="9", id=before.model.id.replace("8", "9")))
    job = run.submit()
    (sent,) = fakes.workspace.jobs.submitted
    assert (job.name, sent.tags["phift.base_model"]) == (before.job_name, before.model.id)


def test_a_submission_uses_the_check_up(fakes: Fakes, run: FineTuneRun) -> None:
    run.check()
    first = run.submit()
    fakes.workspace.compute.usages.clear()
    again = run.submit(fresh=True)
    assert again.name == f"{first.name}-2"
    assert set(looked_up(fakes).values()) == {2}


def test_a_cluster_of_another_size_that_appears_meanwhile_is_not_changed(fakes: Fakes, tmp_path: Path) -> None:
    run = FineTuneRun(run_config(tmp_path, compute={"cluster": "new", "size": A100}), fakes.clients)
    run.check()
    fakes.workspace.compute.add("new", FOUR_A100, max_instances=9)
    with pytest.raises(Exception, match="Somebody has created the cluster new meanwhile"):
        run.submit()
    assert fakes.workspace.compute.known["new"].max_instances == 9
    assert not fakes.workspace.jobs.submitted


def test_a_failed_cluster_that_appears_meanwhile_is_no_place_for_a_job(fakes: Fakes, tmp_path: Path) -> None:
    run = FineTuneRun(run_config(tmp_path, compute={"cluster": "new", "size": A100}), fakes.clients)
    run.check()
    fakes.workspace.compute.add("new", A100)
    fakes.workspace.compute.known["new"]._provisioning_state = "Failed"
    with pytest.raises(ComputeError, match="failed state"):
        run.submit()
    assert fakes.workspace.jobs.submitted == []


def test_rows_of_an_iterator_are_submitted_though_their_files_got_other_rights(fakes: Fakes, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in write_rows(tmp_path / "rows.jsonl", 40).read_text().splitlines()]
    run = FineTuneRun(run_config(tmp_path, data={"train": iter(rows)}), fakes.clients)
    assert run.check().ok
    run.prepare().train.chmod(0o640)
    assert run.submit().name == run.plan.job_name


def test_a_row_is_shown_though_its_source_is_gone(run: FineTuneRun, tmp_path: Path) -> None:
    run.submit()
    for source in tmp_path.glob("*.jsonl"):
        source.unlink()
    assert run.conversation(1).messages


def test_threads_that_share_a_run_check_once_and_submit_one_job(fakes: Fakes, run: FineTuneRun) -> None:
    run.check()
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: run.submit().name, range(8)))
    assert set(jobs) == {run.plan.job_name}
    assert len(fakes.workspace.jobs.submitted) == 1


def test_tokens_are_counted_once_for_the_same_rows_tokenizer_and_limit(fakes: Fakes, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    standin.write_checkpoint(model, "Phi-4")
    counted: list[Any] = []

    def tell(event: Any) -> None:
        counted.extend([event] if isinstance(event, Counted) else [])

    data = {"train": write_rows(tmp_path / "rows.jsonl", 30), "tokenizer": str(model), "count_tokens": "exact"}
    run = FineTuneRun(run_config(tmp_path, data=data), fakes.clients, on_event=tell)
    first = run.check()
    assert first.tokens is not None
    assert (first.tokens.counted, len(counted) > 0) == ("exact", True)
    times = len(counted)
    assert run.check().tokens == first.tokens
    run.submit()
    assert len(counted) == times
    run.config.parameters["max_seq_length"] = 17
    assert run.check().tokens != first.tokens
    assert len(counted) == 2 * times
    add_a_row(tmp_path / "rows.jsonl")
    run.check()
    assert len(counted) == 3 * times
    (model / "tokenizer_config.json").write_text(
        (model / "tokenizer_config.json").read_text().replace("{", '{"note": "changed", ', 1)
    )
    run.check()
    assert len(counted) == 4 * times
