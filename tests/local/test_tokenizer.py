"""A model's tokenizer, fetched from the local registry as from Azure's."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from running import Local

from phift.azure.clients import Clients, Rest
from phift.check.models import FoundationModel, find_model
from phift.config.run import ModelConfig
from phift.errors import ModelError, PhiftError
from phift.local import LocalCredential
from phift.local.work import standin
from phift.tokens.count import measure
from phift.tokens.limited import find_tokenizer
from phift.tokens.tokenizer import fetch_tokenizer_files, load_tokenizer

pytestmark = pytest.mark.slow

NAME = "Phi-3-mini-4k-instruct"


@pytest.fixture(scope="module")
def clients(local: Local) -> Clients:
    metadata = local.connection.cloud_metadata
    scope = metadata["resource_manager"].rstrip("/") + "/.default"
    return Clients(
        workspace=local.client,
        registry=local.registry,
        component_registry=local.registry,
        rest=Rest(LocalCredential(local.connection), scope),
        registry_discovery=metadata["registry_discovery_endpoint"],
    )


@pytest.fixture(scope="module")
def model(clients: Clients) -> FoundationModel:
    return find_model(clients, ModelConfig(name=NAME))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / NAME
    standin.write_checkpoint(folder, NAME)
    return folder


@pytest.fixture(scope="module")
def published(local: Local, checkpoint: Path) -> Path:
    """The registry's folder of the model, laid out as MLflow does."""
    folder = local.workspace.folder / "registry" / NAME
    shutil.copytree(checkpoint, folder / "components" / "tokenizer")
    (folder / "components" / "tokenizer" / "model.safetensors").rename(folder / "model.safetensors")
    (folder / "components" / "tokenizer" / "finetune_config.json").rename(folder / "finetune_config.json")
    return folder


def test_the_registrys_tokenizer_counts_as_the_models_own(
    clients: Clients, model: FoundationModel, published: Path, checkpoint: Path, tmp_path: Path
) -> None:
    tokenizer, missing = find_tokenizer(None, clients, model, tmp_path / "cache")
    assert tokenizer is not None
    assert missing == ""
    assert tokenizer.source == f"{NAME} version {model.version}"
    rows = tmp_path / "train.jsonl"
    messages = [{"role": role, "content": "Größe 東京"} for role in ("system", "user", "assistant")]
    rows.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    files, own = {"train": rows}, load_tokenizer(checkpoint)
    reports = [measure(files, each, max_seq_length=-1, exact=True) for each in (tokenizer, own)]
    assert reports[0].splits == reports[1].splits
    assert reports[0].splits["train"].assistant_tokens


def test_only_the_tokenizer_is_fetched_and_only_once(
    clients: Clients, model: FoundationModel, published: Path, tmp_path: Path
) -> None:
    folder = fetch_tokenizer_files(clients, model, tmp_path)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "finetune_config.json", "components/tokenizer/tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".safetensors", ".bin"))]
    for name in names:
        assert (folder / name).read_bytes() == (published / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    # Whoever has nothing to ask with cannot ask.
    nobody = Clients(None, None, None, None, clients.registry_discovery)  # type: ignore[arg-type]  # none of them is used
    assert fetch_tokenizer_files(nobody, model, tmp_path) == folder


def test_the_signed_address_is_never_shown(
    clients: Clients,
    model: FoundationModel,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from azure.storage.blob import ContainerClient

    signed: list[str] = []
    opened = ContainerClient.from_container_url

    def tampered(url: str, **options: Any) -> ContainerClient:
        signed.append(url)
        return opened(url.replace("sig=", "sig=x"), **options)

    monkeypatch.setattr(ContainerClient, "from_container_url", tampered)
    caplog.set_level(logging.DEBUG)
    # urllib3 writes whole addresses at its own debug level, for the SDK as for anybody; that is not ours to change.
    caplog.set_level(logging.INFO, logger="urllib3")
    with pytest.raises(PhiftError) as caught:
        fetch_tokenizer_files(clients, model, tmp_path)
    signature = signed[0].partition("sig=")[2].partition("&")[0]
    assert len(signature) > 20
    shown = f"{caught.value}{caught.value!r}{caught.value.__cause__}{caplog.text}"
    assert signature not in shown
    assert not list(tmp_path.iterdir())


def test_too_much_is_not_fetched(
    clients: Clients, model: FoundationModel, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phift.tokens.tokenizer.MOST_BYTES", 1_000)
    with pytest.raises(ModelError, match="more than 0 are not read"):
        fetch_tokenizer_files(clients, model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer_is_a_reason_and_no_error(clients: Clients, tmp_path: Path) -> None:
    other = find_model(clients, ModelConfig(name="Phi-4-mini-instruct"))
    tokenizer, missing = find_tokenizer(None, clients, other, tmp_path)
    assert tokenizer is None
    assert missing.startswith("The model has no tokenizer files (model Phi-4-mini-instruct version ")
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_gone_is_a_reason_and_no_error(
    clients: Clients, model: FoundationModel, tmp_path: Path
) -> None:
    gone = FoundationModel(id="x", name="Nobody", version="1", registry=model.registry)
    tokenizer, missing = find_tokenizer(None, clients, gone, tmp_path)
    assert tokenizer is None
    assert "Not found" in missing
