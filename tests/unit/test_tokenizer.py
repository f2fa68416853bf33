from __future__ import annotations

import json
import random
import shutil
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from phift.azure.clients import Rest
from phift.component import finetune_config as config_file
from phift.component.preprocessing import ChatTokenizer, Refused
from phift.errors import DataError, MissingDependency, ModelError, ServiceError
from phift.local.work import standin
from phift.local.work.engine.preprocess import IGNORED
from phift.tokens.limited import find_tokenizer
from phift.tokens.tokenizer import fetch_tokenizer_files, load_tokenizer, read_settings, wanted_files
from unit.fakes import FakeRest, Fakes, foundation_model
from unit.fakes import phi_4 as fake_model

WORDS = ("iron", "Größe", "東京", "🙂🙃", "a b", "\n", "<|user|>", "<|end|>", "e\u0301", "{{ x }}")


@pytest.fixture(scope="module")
def phi_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phi4")
    standin.write_checkpoint(folder, "Phi-4")
    return folder


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def model_info(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)


@pytest.fixture(scope="module")
def phi_3(phi_4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tokenizer for a model that takes no system role."""
    folder = tmp_path_factory.mktemp("models") / "phi3"
    shutil.copytree(phi_4, folder)
    configure(folder, system_role_supported="false")
    return folder


@pytest.fixture
def own(phi_4: Path, tmp_path: Path) -> Path:
    """A folder of the test's own, without weights."""
    folder = tmp_path / "own"
    shutil.copytree(phi_4, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def configure(folder: Path, **settings: Any) -> None:
    path = folder / "finetune_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - reproducible test data


def random_chat(draw: random.Random) -> dict[str, Any]:
    roles = [draw.choice(("user", "assistant")) for _ in range(draw.randint(1, 6))]
    roles = ["user", *roles]
    return {
        "messages": [{"role": role, "content": " ".join(draw.choices(WORDS, k=draw.randint(1, 8)))} for role in roles]
    }


def published_labels(ids: list[int], response: list[int], instruction: list[int]) -> list[int]:
    """Return the labels as azureml-acft-contrib-hf-nlp 0.0.91 describes them, token by token."""

    def starts(marker: list[int]) -> list[int]:
        return [at for at in range(len(ids)) if ids[at : at + len(marker)] == marker]

    answers, questions = [at + len(response) for at in starts(response)], starts(instruction)
    if not answers or not questions:
        return [IGNORED] * len(ids)
    labels = list(ids)
    if questions[0] > answers[0]:
        questions.insert(0, 0)
    for question, answer in zip([0, *questions[1:]], answers, strict=False):
        labels[question:answer] = [IGNORED] * max(0, answer - question)
    if len(questions) > len(answers):
        labels[questions[-1] :] = [IGNORED] * (len(ids) - questions[-1])
    return labels


def test_trained_tokens_are_those_with_a_label_whatever_the_markers() -> None:
    draw = seeded(5)
    some = 0
    for _ in range(3_000):
        response = [draw.randint(0, 2) for _ in range(draw.randint(1, 3))]
        instruction = [draw.randint(0, 2) for _ in range(draw.randint(1, 3))]
        ids = [draw.randint(0, 2) for _ in range(draw.randint(0, 30))]
        tokenizer = ChatTokenizer(tokenizer=None, response=tuple(response), instruction=tuple(instruction))
        labels = published_labels(ids, response, instruction)
        assert tokenizer.trained(ids) == [label != IGNORED for label in labels]
        some += any(tokenizer.trained(ids))
    assert some > 1_000


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ("user system assistant", "the only one and come first"),
        ("system system user", "the only one and come first"),
        ("system assistant", "no user message"),
        ("tool user", "TemplateError"),
    ],
)
def test_a_row_that_the_model_does_not_take_is_told_from_the_others(phi_3: Path, roles: str, reason: str) -> None:
    bad = {"messages": [{"role": role, "content": "secret"} for role in roles.split()]}
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    first, refused, last = load_tokenizer(phi_3).encode_batch([good, bad, good])
    assert isinstance(first, list)
    assert first == last
    assert isinstance(refused, Refused)
    assert reason in refused.reason
    assert "secret" not in refused.reason


@pytest.mark.parametrize("row", [{}, {"messages": 3}, {"messages": [1]}, {"messages": []}, {"messages": ["x", None]}])
def test_no_row_stops_the_others(phi_4: Path, row: dict[str, Any]) -> None:
    (only,) = load_tokenizer(phi_4).encode_batch([row])
    assert isinstance(only, Refused) or row == {"messages": []}


def test_half_a_surrogate_pair_is_refused(phi_4: Path) -> None:
    row = {"messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "b"}]}
    assert load_tokenizer(phi_4).encode_batch([row]) == [
        Refused("the model's chat template does not take it (UnicodeEncodeError)")
    ]


def test_what_a_template_says_is_not_passed_on(own: Path) -> None:
    (own / "chat_template.jinja").write_text("{{ raise_exception(messages[0].content) }}")
    (only,) = load_tokenizer(own).encode_batch([{"messages": [{"role": "user", "content": "my secret"}]}])
    assert only == Refused("the model's chat template does not take it (TemplateError)")


def test_tools_reach_the_template(own: Path) -> None:
    (own / "chat_template.jinja").write_text("{{ tools[0].name }}")
    row = {"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "weather"}]}
    assert load_tokenizer(own).render(row) == "weather"


def test_settings_left_in_the_tokenizer_cut_and_pad_nothing(phi_4: Path, own: Path) -> None:
    path = own / "tokenizer.json"
    document = json.loads(path.read_text())
    document["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 50}, "direction": "Left", "pad_to_multiple_of": None}
    document["padding"] = {**padding, "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    path.write_text(json.dumps(document))
    rows = [random_chat(seeded(number)) for number in range(5)]
    assert load_tokenizer(own).encode_batch(rows) == load_tokenizer(phi_4).encode_batch(rows)


def test_the_limit_is_the_shorter_one(phi_4: Path, own: Path) -> None:
    tokenizer = load_tokenizer(phi_4)
    assert [tokenizer.limit(given) for given in (-1, 0, 512, 9_999)] == [4096, 4096, 512, 4096]
    path = own / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "model_max_length"}))
    assert [load_tokenizer(own).limit(given) for given in (-1, 512)] == [None, 512]


@pytest.mark.parametrize("text", ["", "plain", "Größe 東京 🙂🙃 e\u0301 \u200d", "<|user|> <|end|>\n"])
def test_the_pieces_of_a_text_are_the_text(phi_4: Path, text: str) -> None:
    tokenizer = load_tokenizer(phi_4)
    pieces = tokenizer.pieces(text)
    assert "".join(piece for _, piece in pieces) == text
    assert [token for token, _ in pieces] == tokenizer.tokenizer.encode(text, add_special_tokens=False)


def test_an_mlflow_model_is_opened_where_its_tokenizer_is(own: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(own, model / "components" / "tokenizer")
    (model / "components" / "tokenizer" / "finetune_config.json").rename(model / "finetune_config.json")
    tokenizer = load_tokenizer(model)
    assert tokenizer.response == load_tokenizer(own).response != ()


def test_settings_for_chat_completion_only(own: Path) -> None:
    inner = {"chat_special_tokens": {"response_template": {"content": "<|end|>"}, "instruction_template": "<|user|>"}}
    document = {"version": "2", "task_specific_config": {"ChatCompletion": inner}}
    (own / "finetune_config.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(own)
    assert list(tokenizer.response) == tokenizer.tokenizer.encode("<|end|>")


def test_the_finetune_configs_template_replaces_the_tokenizers(own: Path) -> None:
    configure(own, finetune_chat_template="T{{ messages[0].content }}")
    assert load_tokenizer(own).render({"messages": [{"role": "user", "content": "a"}]}) == "Ta"


def test_of_a_tokenizer_on_the_hub_no_weights_are_downloaded(phi_4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(phi_4)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    tokenizer = load_tokenizer("somebody/phi")
    assert (tokenizer.source, tokenizer.knows_markers) == ("somebody/phi", True)
    ((name, patterns),) = asked
    assert name == "somebody/phi"
    assert not any(fnmatch("model-00001-of-00002.safetensors", pattern) for pattern in patterns)


def test_a_hub_that_does_not_answer_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        raise ConnectionError(f"no way to {name}?token=abc\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelError) as caught:
        load_tokenizer("somebody/phi")
    assert caught.value.what == "The tokenizer cannot be opened: ConnectionError: no way to somebody/phi?token=***"


def test_without_markers_nothing_is_said_of_training(own: Path) -> None:
    (own / "finetune_config.json").unlink()
    tokenizer = load_tokenizer(own)
    assert not tokenizer.knows_markers
    assert tokenizer.spans([1, 2, 3, 4]) == []


def test_what_cannot_be_opened_is_an_error_that_says_why(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer("./missing")
    with pytest.raises(ModelError, match="no tokenizer in the folder"):
        load_tokenizer(tmp_path)
    (own / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(own)
    (own / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be opened: "):
        load_tokenizer(own)
    (own / "finetune_config.json").write_text("[")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_settings(own)
    (own / "finetune_config.json").write_text("[]")
    with pytest.raises(ModelError, match="not a JSON object"):
        read_settings(own)


def test_no_code_of_a_tokenizer_is_run(own: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (own / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Tok: pass\n")
    path = own / "tokenizer_config.json"
    config = {
        **json.loads(path.read_text()),
        "tokenizer_class": "Tok",
        "auto_map": {"AutoTokenizer": ["evil.Tok", None]},
    }
    path.write_text(json.dumps(config))
    load_tokenizer(own)  # tokenizer.json says enough
    assert not ran.exists()


def test_opening_says_nothing(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 5_000}, {"role": "assistant", "content": "b"}]}
    (ids,) = load_tokenizer(own).encode_batch([long])
    assert isinstance(ids, list)
    assert len(ids) > 4096
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_in_python_counts_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import ByT5Tokenizer

    template = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}"
    ByT5Tokenizer(chat_template=template, model_max_length=20).save_pretrained(tmp_path)
    markers = {"response_template": "<assistant>", "instruction_template": "<user>"}
    (tmp_path / "finetune_config.json").write_text(json.dumps({"chat_special_tokens": markers}))
    tokenizer = load_tokenizer(tmp_path)
    assert not tokenizer.tokenizer.is_fast
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "answer"}]}
    (ids,) = tokenizer.encode_batch([row])
    assert isinstance(ids, list)
    assert tokenizer.spans(ids) == [(19, 25)]
    assert [piece for _, piece in tokenizer.pieces("abc")] == ["a", "b", "c"]
    assert tokenizer.encode_batch([]) == []
    assert capfd.readouterr() == ("", "")


def test_transformers_is_missed_by_name(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match="transformers is not installed"):
        load_tokenizer(own)
    found = find_tokenizer(str(own), Fakes().clients, foundation_model(), tmp_path)
    assert found == (None, "transformers is not installed, so there is no tokenizer to count with.")


def test_the_users_tokenizer_comes_first(own: Path, tmp_path: Path) -> None:
    fakes = Fakes()
    tokenizer, missing = find_tokenizer(str(own), fakes.clients, foundation_model(), tmp_path / "cache")
    assert tokenizer is not None
    assert (tokenizer.source, tokenizer.knows_markers, missing) == (str(own), True, "")
    assert not fakes.registry.record.calls
    assert not fakes.rest.addresses


def test_a_tokenizer_without_markers_says_so(own: Path, tmp_path: Path) -> None:
    (own / "finetune_config.json").unlink()
    tokenizer, missing = find_tokenizer(str(own), Fakes().clients, foundation_model(), tmp_path / "cache")
    assert tokenizer is not None
    assert not tokenizer.knows_markers
    assert "not known which tokens are trained on" in missing
    assert "does not say in which storage" in missing


def test_the_jobs_own_finetune_config_is_laid_over(own: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"chat_special_tokens": {"response_template": "<|end|>"}}))
    tokenizer, _ = find_tokenizer(
        str(own), Fakes().clients, foundation_model(), tmp_path / "cache", finetune_config=path
    )
    assert tokenizer is not None
    given = config_file.merge(read_settings(own), config_file.read(path))
    inside = load_tokenizer(own, given)
    assert list(inside.response) == inside.tokenizer.encode("<|end|>")
    assert list(inside.instruction) == inside.tokenizer.encode("<|user|>")
    assert tokenizer.digest == inside.digest != load_tokenizer(own).digest


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("./missing", "There is no such folder (./missing)."),
        (None, "The registry does not say in which storage the model is (model Phi-4 version 8 in registry azureml)."),
    ],
)
def test_a_check_goes_on_without_a_tokenizer(wanted: str | None, reason: str, tmp_path: Path) -> None:
    assert find_tokenizer(wanted, Fakes().clients, foundation_model(), tmp_path / "cache") == (None, reason)


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="does not say"):
        fetch_tokenizer_files(Fakes().clients, foundation_model(), tmp_path)
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({}, "no address"),
        (
            {"blobReferenceForConsumption": {"credential": {"sasUri": "http://plain.test/container?sig=abc"}}},
            "no address",
        ),
        (
            {"blobReferenceForConsumption": {"credential": {"sasUri": "https://a.test/other?sig=abc"}}},
            "another container",
        ),
        ({"blobReferenceForConsumption": {"blobUri": "https://a.test/cont"}}, "another container"),
    ],
)
def test_an_answer_without_the_models_address_is_no_address(answer: Any, reason: str, tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.registry.models.add(fake_model(path="https://a.test:443/container/models/phi"))
    rest = PostingRest(answer)
    clients = replace(fakes.clients, rest=cast(Rest, rest))
    with pytest.raises(ServiceError, match=reason) as caught:
        fetch_tokenizer_files(clients, foundation_model(), tmp_path)
    assert "abc" not in str(caught.value)
    assert rest.posted == {"assetId": foundation_model().id, "blobUri": "https://a.test:443/container/models/phi"}
    assert not list(tmp_path.iterdir())


class PostingRest(FakeRest):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.posted: dict[str, Any] = {}

    def post(self, url: str, body: dict[str, Any]) -> Any:
        assert url.endswith("/registries/azureml/datarefs/Phi-4/versions/8?api-version=2021-10-01-dataplanepreview")
        self.posted = body
        return self.answer


def test_a_cache_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be kept: "):
        fetch_tokenizer_files(Fakes().clients, foundation_model(), tmp_path / "file" / "cache")


def test_two_runs_fetch_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_clients: Any, _model: Any, _place: str, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("ours")
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        (theirs / "tokenizer.json").write_text("theirs")
        theirs.rename(tmp_path / name)

    monkeypatch.setattr("phift.tokens.tokenizer._fetch", lambda *_: None)
    name = fetch_tokenizer_files(Fakes().clients, foundation_model(), tmp_path).name
    (tmp_path / name).rmdir()
    monkeypatch.setattr("phift.tokens.tokenizer._fetch", fetch)
    found = fetch_tokenizer_files(Fakes().clients, foundation_model(), tmp_path)
    assert (found / "tokenizer.json").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_weights_and_names_that_lead_out_are_not_fetched() -> None:
    names = (
        "a/mlflow_model_folder/MLmodel",
        "a/mlflow_model_folder/finetune_config.json",
        "a/mlflow_model_folder/data/model/model-00001-of-00006.safetensors",
        "a/mlflow_model_folder/data/model/config.json",
        "a/mlflow_model_folder/data/tokenizer/tokenizer.json",
        "a/mlflow_model_folder/data/tokenizer/tokenizer.model",
        "a/mlflow_model_folder/../../../tokenizer.json",
        "a/mlflow_model_folder/x\\..\\tokenizer.json",
        "a/mlflow_model_folder/c:/tokenizer.json",
        "a/other/tokenizer.json",
        "a//tokenizer.json",
    )
    found = {str(path) for path in wanted_files("a", names).values()}
    assert found == {
        "MLmodel",
        "finetune_config.json",
        "data/model/config.json",
        "data/tokenizer/tokenizer.json",
        "data/tokenizer/tokenizer.model",
    }


def test_a_tokenizer_of_the_hub_has_a_size(phi_4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def model_info(*_: Any, **__: Any) -> SimpleNamespace:
        sizes = {
            "model.safetensors": 10**12,
            "tokenizer.json": 150_000_000,
            "sub/vocab.txt": 60_000_000,
            "vocab.x": None,
        }
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()])

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(phi_4))
    with pytest.raises(ModelError, match="have 210 MB; more than 200 are not read") as caught:
        load_tokenizer("somebody/phi")
    assert caught.value.where == "somebody/phi"
    monkeypatch.setattr("phift.tokens.tokenizer.MOST_BYTES", 300_000_000)
    assert load_tokenizer("somebody/phi").knows_markers


def test_an_error_that_cannot_be_shown_is_told_all_the_same(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        def __str__(self) -> str:
            raise ValueError

    def from_pretrained(*_: Any, **__: Any) -> None:
        raise Panic

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", from_pretrained)
    with pytest.raises(ModelError, match="The tokenizer cannot be opened: Panic") as caught:
        load_tokenizer(own)
    assert caught.value.where == str(own)
