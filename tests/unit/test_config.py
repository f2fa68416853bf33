from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from phift.config.data import AssetSource, FileSource, HuggingFaceSource, SplitConfig, refuse_placeholder
from phift.config.run import (
    AzureWorkspace,
    ComputeConfig,
    LocalWorkspaceFolder,
    RunConfig,
    read_workspace,
)
from phift.errors import ConfigError

LEAST: dict[str, Any] = {"model": "Phi-4", "compute": "gpu", "data": {"train": "train.jsonl"}}


def places(error: ConfigError) -> list[str]:
    return [place for place, _ in error.mistakes]


def mistakes(**changes: Any) -> dict[str, str]:
    """Return what a configuration with these changes has wrong, by place."""
    with pytest.raises(ConfigError) as caught:
        RunConfig(**{**LEAST, **changes})
    return dict(caught.value.mistakes)


def test_the_least_configuration_has_the_documented_defaults() -> None:
    config = RunConfig(**LEAST)
    assert (config.model.name, config.model.version, config.model.registry) == ("Phi-4", None, "azureml")
    assert (config.compute.cluster, config.compute.nodes) == ("gpu", 1)
    assert (config.component.name, config.component.version) == ("chat_completion_pipeline", None)
    assert isinstance(config.workspace, AzureWorkspace)
    assert config.data.split == SplitConfig(validation=0.1, test=0.1, seed=42)
    assert config.deployment.probe.initial_delay == 1200
    assert config.deployment.request_timeout_ms == 180_000


def test_a_model_may_carry_its_version() -> None:
    assert RunConfig(**{**LEAST, "model": "Phi-4:8"}).model.version == "8"
    assert RunConfig(**{**LEAST, "model": {"name": "Phi-4", "registry": "own"}}).model.registry == "own"


def test_every_mistake_is_reported_at_once_with_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig(
            model="Phi-4",
            compute={"cluster": "c", "nodes": 0},
            data={"train": "a", "vaildation": "b"},
            x=1,  # type: ignore[call-arg]  # as a caller without a type checker
        )
    assert places(caught.value) == ["data.vaildation", "compute.nodes", "x"]
    assert "3 mistakes: data.vaildation: no such key; " in caught.value.what


def test_values_do_not_get_into_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict({**LEAST, "parameters": "hunter2", "credential": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert len(caught.value.mistakes) == 2


def test_one_mistake_is_not_plural() -> None:
    with pytest.raises(ConfigError, match="has 1 mistake: nonsense: no such key"):
        RunConfig.from_dict({**LEAST, "nonsense": 1})


@pytest.mark.parametrize("name", ["it's", "back\\slash", "two words", ""])
def test_names_that_break_the_components_command_lines_are_refused(name: str) -> None:
    assert "experiment" in mistakes(experiment=name)


@pytest.mark.parametrize("name", ["ab", "1abc", "a--b", "a-", "a_b", "a" * 33])
def test_endpoint_names_that_azure_refuses_are_refused(name: str) -> None:
    assert list(mistakes(deployment={"endpoint_name": name})) == ["deployment.endpoint_name"]


@pytest.mark.parametrize("name", ["abc", "a-1-b", "A" * 32])
def test_endpoint_names_that_azure_takes_are_taken(name: str) -> None:
    config = RunConfig(**LEAST, deployment={"endpoint_name": name})
    assert config.deployment.endpoint_name == name


@pytest.mark.parametrize("name", ["-a", "a b", "a/b", "a" * 256])
def test_model_names_that_azure_refuses_are_refused(name: str) -> None:
    assert list(mistakes(registered_model_name=name)) == ["registered_model_name"]


@pytest.mark.parametrize("compute", [{}, {"cluster": "c", "serverless": "s"}], ids=["none", "both"])
def test_compute_is_one_place(compute: dict[str, str]) -> None:
    assert "either a cluster name or" in mistakes(compute=compute)["compute"]


@pytest.mark.parametrize("key", ["nodes", "max_nodes", "gpus_per_node"])
def test_counts_start_at_one(key: str) -> None:
    assert list(mistakes(compute={"cluster": "c", key: 0})) == [f"compute.{key}"]
    assert RunConfig(**{**LEAST, "compute": {"cluster": "c", key: 1}}).compute.model_dump()[key] == 1


def test_a_size_beside_serverless_is_refused() -> None:
    assert "`size` is for a cluster" in mistakes(compute={"serverless": "s", "size": "t"})["compute"]
    assert ComputeConfig(cluster="c", size="t").size == "t"


def test_shares_must_leave_training_rows() -> None:
    split = {"validation": 0.5, "test": 0.5}
    assert "leave no rows" in mistakes(data={"train": "a", "split": split})["data.split"]


def test_the_longest_request_time_out_is_the_services() -> None:
    assert list(mistakes(deployment={"request_timeout_ms": 180_001})) == ["deployment.request_timeout_ms"]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("train.jsonl", Path("train.jsonl")),
        ("data/train.jsonl", Path("data/train.jsonl")),
        ("./data/train", Path("data/train")),
        ("/data/train", Path("/data/train")),
        ("a/b/c", Path("a/b/c")),
        ("owner/name", HuggingFaceSource(huggingface="owner/name")),
    ],
)
def test_a_text_is_a_file_or_a_hugging_face_id(text: str, source: object) -> None:
    assert RunConfig(**{**LEAST, "data": {"train": text}}).data.train == source


def test_a_folder_that_exists_is_no_hugging_face_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert RunConfig(**{**LEAST, "data": {"train": "owner/name"}}).data.train == Path("owner/name")


def test_how_text_is_written_may_be_said_and_is_told_only_where_it_is() -> None:
    given = {"files": "a.csv", "delimiter": ";", "encoding": "windows-1252"}
    (source,) = RunConfig(**{**LEAST, "data": {"train": given}}).data.sources["train"]
    assert isinstance(source, FileSource)
    assert (source.delimiter, source.encoding) == (";", "windows-1252")
    assert source.model_dump(mode="json") == {"format": None, "columns": {}, **given}
    assert FileSource(files=Path("a.csv")).model_dump(mode="json") == {"format": None, "columns": {}, "files": "a.csv"}
    azure = AssetSource(asset="azureml:a:1")
    assert azure.model_dump(mode="json") == {"format": None, "columns": {}, "asset": "azureml:a:1"}
    for tab in ("\t", "\\t", "tab"):
        assert FileSource(files=Path("a.csv"), delimiter=tab).delimiter == "\t"
    for name in ("utf-8", "UTF-16", "latin-1", "cp437", "shift_jis", "gb18030", "mac-roman"):
        assert FileSource(files=Path("a.csv"), encoding=name).encoding == name


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "a", "1", " ", "\0", "§", ["a"]])
def test_no_delimiter(delimiter: Any) -> None:
    (mistake,) = mistakes(data={"train": {"files": "a.csv", "delimiter": delimiter}}).items()
    assert "delimiter" in " ".join(mistake)


@pytest.mark.parametrize("encoding", ["", "utf-99", "hex", "rot13", "idna", "unicode_escape", "\0", "x" * 9999, 8])
def test_no_encoding(encoding: Any) -> None:
    (mistake,) = mistakes(data={"train": {"files": "a.csv", "encoding": encoding}}).items()
    assert "encoding" in " ".join(mistake)


def test_how_text_in_azure_is_written_is_for_a_cluster_that_prepares_it() -> None:
    given = {"asset": "azureml:a:1", "encoding": "utf-16"}
    assert "`prepare_on`" in str(mistakes(data={"train": given}))
    RunConfig(**{**LEAST, "data": {"train": given, "prepare_on": "cpu"}})


def test_a_hugging_face_source_may_be_spelled_out() -> None:
    train = {"huggingface": "owner/name", "percent": 5}
    wanted = HuggingFaceSource(huggingface="owner/name", percent=5)
    assert RunConfig(**{**LEAST, "data": {"train": train}}).data.train == wanted


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/made-up")
    config = RunConfig(**{**LEAST, "data": {"train": "~/a.jsonl"}, "work_dir": "~/w", "workspace": {"local": "~/l"}})
    assert config.data.train == Path("/home/made-up/a.jsonl")
    assert config.work_dir == Path("/home/made-up/w")
    assert config.workspace == LocalWorkspaceFolder(local=Path("/home/made-up/l"))


def test_what_a_run_may_cost() -> None:
    assert RunConfig(**LEAST).max_cost is None
    config = RunConfig(**LEAST, max_cost=20, prices={"Standard_NC24ads_A100_v4": 3.5}, tokens_per_second=1500)
    assert (config.max_cost, config.tokens_per_second) == (20, 1500)
    assert config.prices == {"Standard_NC24ads_A100_v4": 3.5}


@pytest.mark.parametrize("amount", [0, -1, float("nan"), float("inf"), "much", None])
def test_amounts_are_positive_and_finite(amount: Any) -> None:
    wrong = mistakes(max_cost=amount or 0, tokens_per_second=amount or 0, prices={"Standard_X": amount})
    assert list(wrong) == ["max_cost", "prices.Standard_X", "tokens_per_second"]


def test_a_preset_is_known_by_name() -> None:
    assert RunConfig(**LEAST).preset_values == {}
    assert RunConfig(**LEAST, preset="safe").preset_values["apply_lora"] == "true"
    assert mistakes(preset="fast") == {"preset": "Value error, there is no such preset; there is: safe"}


def test_a_preset_of_the_users_own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = '{"presets": [{"name": "mine", "values": {"seed": 7}}, {"name": "broken"}]}'
    (tmp_path / "presets.json").write_text(own)
    monkeypatch.setenv("PHIFT_FACTS", str(tmp_path))
    assert RunConfig(**LEAST, preset="mine").preset_values == {"seed": 7}
    assert "no mapping of values" in mistakes(preset="broken")["preset"]


@pytest.mark.parametrize("place", ["work_dir", "workspace.local", "data.train"])
def test_the_home_of_somebody_unknown_is_a_mistake(place: str) -> None:
    section, _, key = place.partition(".")
    wrong = mistakes(**{section: {key: "~nobody-of-that-name/x"} if key else "~nobody-of-that-name/x"})
    assert list(wrong) == [place]


def test_a_name_too_long_for_the_file_system_is_no_file() -> None:
    train = RunConfig(**{**LEAST, "data": {"train": "owner/" + "n" * 300}}).data.train
    assert isinstance(train, HuggingFaceSource)


def test_a_key_called_self_is_no_such_key() -> None:
    with pytest.raises(ConfigError, match="self: no such key"):
        RunConfig.from_dict({**LEAST, "self": 1})


@pytest.mark.parametrize(
    "scalar", ["2001-99-99", "!!int x", "!!bool x", "!!timestamp x", "9" * 5000, "[" * 5000, "&a [*a]"]
)
def test_a_scalar_that_the_yaml_loader_stumbles_over_is_a_config_error(tmp_path: Path, scalar: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"model: {scalar}")
    with pytest.raises(ConfigError, match="cannot be read"):
        RunConfig.from_yaml(path)


def test_parameters_that_are_files_start_from_the_configurations_folder() -> None:
    own = {"deepspeed": "ds.json", "finetune_config_path": "azureml:own:1", "shm_size_finetune": "5g"}
    parameters = RunConfig.from_dict({**LEAST, "parameters": own}, folder=Path("/home/me")).parameters
    assert parameters == {**own, "deepspeed": "/home/me/ds.json"}


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig(**LEAST).experiment = "other"


def test_a_configuration_survives_pickling() -> None:
    config = RunConfig(**LEAST, workspace="local")
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own bytes


YAML = """
workspace: {local: state}
model: Phi-4
compute: {serverless: Standard_NC24ads_A100_v4}
data: {train: data/train.jsonl, validation: /abs/v.jsonl, test: {huggingface: owner/name}}
parameters: {learning_rate: 5e-6, apply_lora: true}
"""


def test_yaml_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(YAML)
    config = RunConfig.from_yaml(tmp_path / "run.yaml")
    assert config.data.train == tmp_path / "data/train.jsonl"
    assert config.data.validation == Path("/abs/v.jsonl")
    assert config.data.test == HuggingFaceSource(huggingface="owner/name")
    assert config.work_dir == tmp_path / ".phift"
    assert config.workspace == LocalWorkspaceFolder(local=tmp_path / "state")
    assert config.parameters == {"learning_rate": "5e-6", "apply_lora": True}


def test_paths_stay_as_they_are_without_a_folder() -> None:
    assert RunConfig.from_dict(LEAST) == RunConfig(**LEAST)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file") as caught:
        RunConfig.from_yaml(str(tmp_path / "none.yaml"))
    assert caught.value.where == str(tmp_path / "none.yaml")


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\xfa"], ids=["syntax", "encoding"])
def test_a_broken_file_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        RunConfig.from_yaml(tmp_path / "run.yaml")


@pytest.mark.parametrize("content", ["- a list", "", "42"])
def test_a_file_that_is_no_mapping_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ConfigError, match="not a mapping"):
        RunConfig.from_yaml(tmp_path / "run.yaml")


def test_a_files_mistakes_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: Phi-4\n7: seven\n")
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_yaml(tmp_path / "run.yaml")
    assert caught.value.where == str(tmp_path / "run.yaml")
    assert places(caught.value) == ["data", "compute", "7"]


@pytest.mark.parametrize(
    ("text", "name", "version", "registry"),
    [
        ("azureml://registries/azureml/models/Phi-4/versions/8", "Phi-4", "8", "azureml"),
        ("azureml://registries/ours/models/Phi-4/labels/latest", "Phi-4", None, "ours"),
        ("Phi-4:8", "Phi-4", "8", "azureml"),
    ],
)
def test_a_model_is_taken_as_registries_write_it(text: str, name: str, version: str | None, registry: str) -> None:
    made = RunConfig(model=text, compute="c", data={"train": "t.jsonl"}).model
    assert (made.name, made.version, made.registry) == (name, version, registry)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("azureml:Phi-4:8", "only a registry's models can be tuned"),
        ("https://ai.azure.com/catalog/models/Phi-4", "only a registry's models can be tuned"),
        ("azureml://registries/azureml/components/x/versions/1", "only a registry's models can be tuned"),
        ("/subscriptions/s/resourceGroups/g/providers/p/workspaces/w/models/m/versions/1", "only a registry's models"),
        ("microsoft/Phi-4", "write Phi-4"),
    ],
)
def test_a_model_that_is_written_otherwise_is_refused_with_how_to_write_it(text: str, says: str) -> None:
    for model in (text, {"name": text.partition(":")[0] if text.startswith("azureml:P") else text}):
        with pytest.raises(ConfigError, match=says):
            RunConfig(model=model, compute="c", data={"train": "t.jsonl"})


@pytest.mark.parametrize(
    "text",
    [
        "s/g/w",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w",
        "https://ml.azure.com/home?wsid=/subscriptions/s/resourcegroups/g/workspaces/w&tid=t",
        "https://ml.azure.com/?wsid=%2Fsubscriptions%2Fs%2Fresourcegroups%2Fg%2Fproviders%2Fx%2Fworkspaces%2Fw",
    ],
)
def test_a_workspace_is_taken_as_azure_writes_it(text: str) -> None:
    found = read_workspace(text)
    assert isinstance(found, AzureWorkspace)
    assert (found.subscription_id, found.resource_group, found.workspace_name) == ("s", "g", "w")


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"phift.job": "x"}, "phift's own"),
        ({"a/b": "x"}, "should match pattern"),
        ({"a": "x" * 257}, "at most 256 characters"),
        ({"a": 1}, "valid string"),
        ({str(i): "x" for i in range(11)}, "at most 10 items"),
        ({"cost": "<YOUR COST CENTRE>"}, "placeholder"),
        ({"sas": "sv=2025&sig=abc%2Fdef"}, "looks like a key or a token"),
    ],
)
def test_a_tag_that_azure_would_not_take_is_refused(tags: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RunConfig(model="m", compute="c", data={"train": "t.jsonl"}, tags=tags)


def test_a_tenant_has_either_name() -> None:
    assert RunConfig(model="m", compute="c", data={"train": "t.jsonl"}, tenant="b").tenant == "b"
    assert RunConfig(model="m", compute="c", data={"train": "t.jsonl"}, tenant_id="b").tenant == "b"


def test_a_managed_identity_has_its_own_tenant() -> None:
    with pytest.raises(ConfigError, match="a tenant of its own"):
        RunConfig(**LEAST, credential="managed_identity", tenant="b")


@pytest.mark.parametrize("content", ["x: 1\n" * 200_000, "a" * 10_000_000, "/dev/zero"])
def test_a_file_that_is_no_configuration_is_not_read_to_its_end(tmp_path: Path, content: str) -> None:
    path = tmp_path / "finetune.yaml"
    if content == "/dev/zero":
        path.symlink_to(content)
    else:
        path.write_text(content)
    with pytest.raises(ConfigError, match="longer than 250,000 characters") as caught:
        RunConfig.from_yaml(path)
    assert caught.value.where == str(path)


def test_braces_without_end_take_no_time() -> None:
    started = time.process_time()
    assert refuse_placeholder("{{" * 500_000)
    assert time.process_time() - started < 1
    with pytest.raises(ValueError, match="is a placeholder"):
        refuse_placeholder("}} {{model}}")
