from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from phift.component.preprocessing import SPLITS
from phift.config.data import DataConfig
from phift.config.run import RunConfig
from phift.data import on_cluster as preparation
from phift.data.assets import DataInAzure, DataInput, find_preparation
from phift.data.on_cluster import PACKAGES, source_code
from phift.data.prepare import prepare_dataset
from phift.errors import ConfigError, DataError, NotFound
from phift.jobs.pipeline import pipeline_job
from phift.run import FineTuneRun
from phift.views.terminal import show_plan
from unit.fakes import A100, Fakes, codes, data_asset, data_id, parameters, plan, run_config

RAW = "azureml:raw:3"
ON = {"prepare_on": "gpu-cluster"}


@pytest.fixture
def fakes() -> Fakes:
    fakes = Fakes()
    fakes.workspace.data.add(data_asset("raw", "3", path="azureml://datastores/store/paths/raw.csv.gz"))
    fakes.workspace.data.add(data_asset("many", "1", type="uri_folder"))
    return fakes


def find(fakes: Fakes, train: Any = RAW, **settings: Any) -> DataInAzure:
    return find_preparation(fakes.clients, DataConfig.model_validate({"train": train, **ON, **settings}))


def sharegpt(path: Path, count: int = 30) -> Path:
    turns = [[{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": f"answer {n}"}] for n in range(count)]
    path.write_text("".join(json.dumps({"conversations": row}) + "\n" for row in turns))
    return path


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize("source", ["chat.jsonl", {"files": "chat.jsonl"}, [{"messages": []}], [RAW, "chat.jsonl"]])
def test_a_cluster_is_not_sent_to_files_or_rows_of_this_machine(source: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave `prepare_on` out, or upload them first"):
        run_config(tmp_path, data={"train": source, **ON})


def test_a_data_set_of_the_hub_that_is_a_folder_here_is_refused(fakes: Fakes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read files") as caught:
        find(fakes, {"huggingface": str(tmp_path)})
    assert caught.value.where == "data.train"


def test_settings_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="asset_name"):
        run_config(tmp_path, data={"train": RAW, "asset_name": "mine", **ON})
    with pytest.raises(ConfigError, match="need `prepare_on`"):
        run_config(tmp_path, data={"train": {"asset": RAW, "format": "sharegpt"}})


def test_files_folders_and_data_sets_of_the_hub_become_the_steps_inputs(fakes: Fakes) -> None:
    hub = {"huggingface": "owner/name", "percent": 5, "revision": "abc"}
    table = {"asset": RAW, "format": "question_answer", "columns": {"question": "Frage"}}
    place = "azureml://datastores/store/paths/held/out"
    found = find(fakes, [hub, table, "azureml:many:1"], test=place, bad_rows="set_aside", split={"seed": 7})
    assert {name: (given.type, given.address) for name, given in found.inputs.items()} == {
        "train_2": ("uri_file", data_id("raw", "3")),
        "train_3": ("uri_folder", data_id("many", "1")),
        "test_1": ("uri_folder", place),
    }
    first, second, third = found.settings["train"]
    assert {key: first[key] for key in hub} == hub
    assert second == {"files": "train_2", "format": "question_answer", "columns": table["columns"]}
    assert (third["files"], found.settings["test"][0]["files"]) == ("train_3", "test_1")
    assert (found.settings["bad_rows"], found.settings["split"]["seed"]) == ("set_aside", 7)
    assert (found.name, found.compute) == ("owner/name", "gpu-cluster")


def test_the_step_reads_the_hub_as_the_run_was_told(fakes: Fakes) -> None:
    hub = {"huggingface": "owner/name", "name": "en", "split": "all", "percent": 5, "sample": "random", "seed": 7}
    given = {"train": hub, "bad_rows": "set_aside", "split": {"group_by": "id", "validation": 0.2}}
    told = json.loads(json.dumps(find(fakes, **given).settings))
    assert DataConfig.model_validate(told).sources == DataConfig.model_validate(given).sources
    assert (told["bad_rows"], told["split"]["group_by"], told["split"]["validation"]) == ("set_aside", "id", 0.2)
    assert "near_duplicates" not in told  # so that a run has the name that it had before there was the key
    assert find(fakes, **given, near_duplicates="thin").settings["near_duplicates"] == "thin"


def test_the_check_says_what_cannot_be_known_before(fakes: Fakes) -> None:
    (note,) = find(fakes).findings
    assert (note.code, note.severity) == ("DATA_PREPARED_ON_CLUSTER", "note")
    assert "fresh=True" in note.fix
    loose = find(fakes, ["owner/one", {"huggingface": "owner/two", "revision": "abc"}]).findings[0]
    assert loose.fix == "pin owner/one with `revision`"


def test_a_cluster_that_is_not_there_is_an_error_unless_the_run_makes_it(fakes: Fakes, tmp_path: Path) -> None:
    none = run_config(tmp_path, data={"train": RAW, "prepare_on": "none"})
    (missing,) = FineTuneRun(none, fakes.clients).check().errors
    assert (missing.code, missing.severity, missing.place) == ("COMPUTE_PREPARE_MISSING", "error", "data.prepare_on")
    made = run_config(tmp_path, data={"train": RAW, "prepare_on": "new"}, compute={"cluster": "new", "size": A100})
    assert FineTuneRun(made, fakes.clients).check().ok


def test_what_is_no_file_and_no_folder_is_refused(fakes: Fakes) -> None:
    fakes.workspace.data.add(data_asset("table", "1", type="mltable"))
    with pytest.raises(DataError, match="of type mltable"):
        find(fakes, "azureml:table:1")
    fakes.workspace.data.add(data_asset("text", "1", path="azureml://datastores/store/paths/raw.txt"))
    for text in ("azureml:text:1", "azureml://datastores/store/paths/raw.txt"):
        with pytest.raises(DataError, match=r"suffix \.txt cannot be read") as caught:
            find(fakes, text)
        assert caught.value.where == "data.train"
    fakes.workspace.data.add(data_asset("quoted", "1", path="azureml://datastores/store/paths/it's.jsonl"))
    with pytest.raises(DataError, match="has ' in it"):
        find(fakes, "azureml:quoted:1")
    assert find(fakes, "azureml://datastores/store/paths/v1.2/").inputs["train_1"].type == "uri_folder"
    with pytest.raises(NotFound, match="no data asset gone"):
        find(fakes, "azureml:gone:1")


def test_a_run_is_told_by_addresses_and_settings_and_not_by_the_cluster(fakes: Fakes) -> None:
    fakes.workspace.compute.add("other")
    same = {find(fakes).content_hash, find(fakes, "azureml:raw@latest").content_hash}
    assert len({*same, find(fakes, prepare_on="other").content_hash}) == 1
    hub = [{"huggingface": "owner/name", "revision": revision} for revision in ("abc", "abd")]
    others = [find(fakes, given).content_hash for given in ("azureml:many:1", *hub)]
    others += [find(fakes, bad_rows="set_aside").content_hash, find(fakes, split={"group_by": "id"}).content_hash]
    others.append(find(fakes, {"asset": RAW, "format": "alpaca"}).content_hash)
    assert len({*others, *same}) == 7


# ---------------------------------------------------------------- the step in the pipeline


def sent(found: DataInAzure) -> Any:
    """Return the step's component, and the job's nodes as the SDK sends them."""
    with source_code() as code:
        config = RunConfig(model="Phi-4", compute="gpu-cluster", data={"train": RAW})
        job = pipeline_job(config, plan(found, parameters()), found, name="job", code=code)
        nodes = job._to_rest_object().as_dict()["properties"]["jobs"]
        return job.jobs["prepare_data"].component, nodes


def test_training_reads_what_the_step_writes(fakes: Fakes) -> None:
    _, nodes = sent(find(fakes))
    first, training = nodes["prepare_data"], nodes["step"]
    for split in SPLITS:
        given = training["inputs"][f"{split}_file_path"]
        assert given["value"] == f"${{{{parent.jobs.prepare_data.outputs.{split}}}}}"
        # Without its suffix, the component does not know what to make of a file.
        assert first["outputs"][split]["uri"].endswith(f"/${{{{name}}}}/{split}.jsonl")
    assert first["outputs"]["report"]["value"] == "${{parent.outputs.report}}"
    assert first["inputs"]["train_1"] == {"uri": data_id("raw", "3"), "job_input_type": "uri_file"}
    assert first["computeId"] == "gpu-cluster"


def test_the_settings_pass_any_shell_unchanged(fakes: Fakes) -> None:
    table = {"asset": RAW, "format": "question_answer", "columns": {"question": 'it\'s "$(x)" `y`; é\n'}}
    found = find(fakes, table)
    _, nodes = sent(found)
    value = nodes["prepare_data"]["inputs"]["settings"]["value"]
    echoed = subprocess.run(["bash", "-c", f"printf %s {value}"], capture_output=True, check=True)  # noqa: S603, S607 - the point is that the shell finds nothing in it
    assert json.loads(unquote(echoed.stdout.decode())) == found.settings


def test_the_command_names_every_input_and_output(fakes: Fakes) -> None:
    built, _ = sent(find(fakes, ["azureml:many:1", RAW]))
    names = re.findall(r"\$\{\{(\w+\.\w+)\}\}", built.command)
    assert names == ["inputs.settings", "inputs.train_1", "inputs.train_2"] + [
        f"outputs.{name}" for name in (*SPLITS, "report")
    ]


@pytest.mark.parametrize(
    ("source", "reused"),
    [(RAW, True), ("azureml://datastores/store/paths/raw.csv", False), ("owner/name", False)],
)
def test_a_step_is_reused_only_while_its_data_cannot_have_changed(fakes: Fakes, source: str, reused: bool) -> None:
    built, _ = sent(find(fakes, source))
    assert built.is_deterministic is reused


def test_the_environment_has_the_versions_that_are_installed_here(fakes: Fakes) -> None:
    own, hub = (sent(find(fakes, source))[0].environment for source in (RAW, "owner/name"))
    wanted = [f"{name}=={version(name)}" for name in PACKAGES]
    assert own.conda_file["dependencies"][-1] == {"pip": wanted}
    assert hub.conda_file["dependencies"][-1] == {"pip": [*wanted, f"datasets=={version('datasets')}"]}
    assert own.version != hub.version
    assert own.version == sent(find(fakes, RAW))[0].environment.version


def test_a_run_submits_both_steps_and_uploads_no_data(fakes: Fakes, tmp_path: Path) -> None:
    run = FineTuneRun(run_config(tmp_path, data={"train": RAW, **ON}), fakes.clients)
    assert {"DATA_PREPARED_ON_CLUSTER", "COST_UNKNOWN"} <= set(codes(run.check().findings))
    name = run.submit().name
    (job,) = fakes.workspace.jobs.submitted
    assert list(job.jobs) == ["prepare_data", "step"]
    assert fakes.workspace.record.count("data.create_or_update") == 0
    assert FineTuneRun(run.config, fakes.clients).submit().name == name
    with pytest.raises(ConfigError, match="first step prepares the data, on gpu-cluster"):
        run.prepare()
    console = Console(record=True, width=200)
    show_plan(console, run.plan)
    assert "raw, prepared by the job on gpu-cluster" in console.export_text()


# ---------------------------------------------------------------- the step as it runs


def arguments(folder: Path, settings: dict[str, Any], **data: Path) -> list[str]:
    """Return the step's arguments as its command gives them."""
    given = [word for name, path in data.items() for word in ("--data", name, str(path))]
    places = {**{split: folder / f"{split}.jsonl" for split in SPLITS}, "report": folder / "report"}
    written = [word for name, path in places.items() for word in (f"--{name}", str(path))]
    return ["--settings", json.dumps(settings), *given, *written]


ALONE = """
import importlib.abc, json, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name, name=name)

absent = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Absent())
sys.argv = ["phift.data.on_cluster", *sys.argv[2:]]
sys.path.insert(0, "")
runpy.run_module("phift.data.on_cluster", run_name="__main__")
print(sys.modules["phift"].__file__)
"""


def wanted_by(names: tuple[str, ...]) -> set[str]:
    """Return packages with all that they want."""
    wanted = set(names)
    for name in names:
        plain = [line for line in requires(name) or [] if "extra ==" not in line]
        wanted |= wanted_by(tuple(re.split(r"[^\w.-]", line)[0] for line in plain))
    return {name.replace("_", "-").lower() for name in wanted}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "jsonl.zst"])
def test_the_uploaded_code_runs_alone_with_the_packages_of_its_environment(tmp_path: Path, kind: str) -> None:
    table = pa.table({"question": [f"{n}?" for n in range(30)], "answer": [f"answer {n}" for n in range(30)]})
    file = tmp_path / f"raw.{kind}"
    if kind == "parquet":
        pq.write_table(table, file)
    elif kind == "csv":
        table.to_pandas().to_csv(file, index=False)
    else:
        with pa.output_stream(file) as out:  # packed where the name says so
            out.write(table.to_pandas().to_json(orient="records", lines=True).encode())
    present = wanted_by(PACKAGES)
    named = {module: {name.replace("_", "-").lower() for name in of} for module, of in packages_distributions().items()}
    absent = [module for module, names in named.items() if not names & (present | {"phift"})]
    assert {"azure", "datasets", "pandas", "yaml", "requests"} <= set(absent)
    with source_code() as code:
        assert not list(code.rglob("__pycache__"))
        assert not (code / "phift" / "local").exists()
        given = arguments(tmp_path, {"train": [{"files": "train_1"}]}, train_1=file)
        command = [sys.executable, "-c", ALONE, json.dumps(absent), *given]
        ended = subprocess.run(command, cwd=code, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
        assert ended.returncode == 0, ended.stderr
        assert Path(ended.stdout.splitlines()[-1]).is_relative_to(code)
    here = prepare_dataset(DataConfig(train=file), tmp_path / "here")
    for split, path in here.files.items():
        assert (tmp_path / f"{split}.jsonl").read_bytes() == path.read_bytes()


def test_a_folder_and_several_sources_are_prepared_as_they_are_here(tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    sharegpt(many / "one.jsonl", 20)
    sharegpt(many / "two.jsonl.gz", 0).write_bytes(gzip.compress((many / "one.jsonl").read_bytes()))
    held = sharegpt(tmp_path / "held.jsonl", 40)
    settings = {"train": [{"files": "train_1"}], "test": [{"files": "test_1"}], "bad_rows": "set_aside"}
    preparation.main(arguments(tmp_path, {**settings, "split": {"seed": 7}}, train_1=many, test_1=held))
    config = DataConfig.model_validate({"train": many, "test": held, "bad_rows": "set_aside", "split": {"seed": 7}})
    here = prepare_dataset(config, tmp_path / "here")
    manifest = json.loads((tmp_path / "report" / "manifest.json").read_text())
    assert manifest["content_hash"] == here.content_hash
    assert here.rejects
    assert (tmp_path / "report" / "rejects.jsonl").read_bytes() == here.rejects.read_bytes()


def test_refused_rows_end_the_step_with_place_and_reason_and_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sharegpt(tmp_path / "raw.jsonl")
    with file.open("a") as raw:
        raw.write('{"conversations": [{"from": "human", "value": "my secret"}]}\n')
    with pytest.raises(SystemExit) as caught:
        preparation.main(arguments(tmp_path, {"train": [{"files": "train_1"}]}, train_1=file))
    told = str(caught.value)
    assert f"{file}:31: " in told
    assert "secret" not in told + "".join(capsys.readouterr())
    assert not (tmp_path / "train.jsonl").exists()


def test_rows_set_aside_are_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sharegpt(tmp_path / "raw.jsonl")
    with file.open("a") as raw:
        raw.write("no json\n")
    settings = {"train": [{"files": "train_1"}], "bad_rows": "set_aside"}
    preparation.main(arguments(tmp_path, settings, train_1=file))
    (reject,) = map(json.loads, (tmp_path / "report" / "rejects.jsonl").read_text().splitlines())
    assert reject["line"] == 31
    printed = capsys.readouterr().out
    assert "DATA_SET_ASIDE" in printed
    assert "24 train, 3 validation, 3 test rows written." in printed


def test_an_input_of_the_data_keeps_its_name(fakes: Fakes) -> None:
    assert find(fakes).inputs["train_1"] == DataInput(name="raw", version="3", address=data_id("raw", "3"))
