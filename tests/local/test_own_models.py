"""A model of one's own: what is found out of it, what is refused and why, and how it comes into the registry."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import checkpoints
import pytest
import torch
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint
from azure.core.exceptions import ResourceNotFoundError
from checkpoints import FAMILIES, TEMPLATES, Family
from click.testing import CliRunner
from peft import LoraConfig
from running import Local
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from phift import samples
from phift.cli.commands import main
from phift.component.finetune_config import FinetuneConfig
from phift.component.inputs import STEPS
from phift.component.preprocessing import ChatTokenizer
from phift.errors import LocalWorkspaceError, ModelError, NotFound
from phift.local import LocalWorkspace, own_models
from phift.local.programs import Programs
from phift.local.state.documents import Documents
from phift.local.state.folder import Folder
from phift.local.work.adding import steps, weights
from phift.local.work.adding.chat import read_chat
from phift.local.work.engine import finetune, models, preprocess, validate
from phift.local.work.engine.job import Job, Step
from phift.local.work.scorer import Scorer
from phift.testing import TestWorkspace

pytestmark = pytest.mark.filterwarnings("ignore:.*type hint.*:UserWarning")  # MLflow 3.15, of its own schema

GIVEN: dict[str, Any] = {
    "hub": False,
    "name": "mine",
    "known": {},
    "response_template": "",
    "instruction_template": "",
    "system_role_supported": None,
    "lora_targets": [],
    "license": "",
}


@pytest.fixture(autouse=True)
def _unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process the memory that it has: what is read here is ours."""
    monkeypatch.setattr(weights, "limit_memory", lambda _more: None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {family: checkpoints.write(folder / family, family) for family in FAMILIES}
    return lambda family: made[family]


@pytest.fixture
def copy(saved: Callable[[Family], Path], tmp_path: Path) -> Path:
    """A checkpoint of Llama's shape, to be broken."""
    return shutil.copytree(saved("llama"), tmp_path / "copy")


def read(source: Path, folder: Path, **given: Any) -> dict[str, Any]:
    """Read a model in this process; returns what is said of it."""
    folder.mkdir(exist_ok=True)
    return steps.add({**GIVEN, "source": str(source), "folder": str(folder), **given}, lambda _event: None)


MARKERS = {
    "llama": ("<|start_header_id|>assistant<|end_header_id|>", "<|start_header_id|>user<|end_header_id|>"),
    "phi3": ("<|assistant|>", "<|user|>"),
    "qwen2": ("<|im_start|>assistant", "<|im_start|>user"),
}
SEPARATE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {"llama": SEPARATE, "phi3": ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"], "qwen2": SEPARATE}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_model_needs_is_found_in_its_own_template_and_architecture(
    saved: Callable[[Family], Path], tmp_path: Path, family: Family
) -> None:
    about = read(saved(family), tmp_path / "built")
    found = about["added"]
    assert (found["response_template"], found["instruction_template"]) == MARKERS[family]
    assert found["system_role_supported"] is (family != "phi3")
    assert found["lora_targets"] == TARGETS[family]
    assert found["parameters"] == checkpoints.model(family).num_parameters()
    assert (found["license"], about["tags"]["license"]) == ("apache-2.0", "apache-2.0")
    shape = json.loads(about["tags"]["phift.shape"])
    assert (shape["hidden"], shape["layers"], shape["kv_heads"]) == (64, 2, 2)
    folder = tmp_path / "built" / "model"
    config = FinetuneConfig.load(folder)
    assert (config.response_template, config.lora_target_modules) == (MARKERS[family][0], TARGETS[family])
    same = load_file(folder / "model" / "model.safetensors")
    assert all(torch.equal(same[name], each) for name, each in load_file(saved(family) / "model.safetensors").items())
    ends = json.loads((folder / "model" / "generation_config.json").read_text())["eos_token_id"]
    assert {"llama": "<|eot_id|>", "phi3": "<|end|>", "qwen2": "<|im_end|>"}[family] in checkpoints.tokenizer(
        family
    ).convert_ids_to_tokens(ends)


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_answers_of_conversations_are_trained_on(family: Family) -> None:
    own = checkpoints.tokenizer(family)
    chat = read_chat(own)
    of_component = ChatTokenizer.of(
        own,
        FinetuneConfig(
            response_template=chat.response,
            instruction_template=chat.instruction,
            system_role_supported=chat.system,
        ),
    )
    system = {"role": "system", "content": "Say user and assistant."}
    turns = [{"role": ("user", "assistant")[at % 2], "content": f"turn {at}, by a user"} for at in range(6)]
    shown = of_component.view({"messages": [system, *turns]}, None)
    assert isinstance(shown, list)
    trained = "".join(text for text, mine in shown if mine)
    hidden = "".join(text for text, mine in shown if not mine)
    ends = {"llama": "<|eot_id|>", "phi3": "<|end|>", "qwen2": "<|im_end|>"}[family]
    assert [part.strip() for part in trained.removesuffix("<|endoftext|>").split(ends)] == [
        *(turn["content"] for turn in turns[1::2]),
        "",
    ]
    assert all(turn["content"] in hidden for turn in turns[::2])


class Tracking:
    """Takes what the engine tells MLflow."""

    logged: ClassVar[list[Any]] = []

    def __init__(self, tracking_uri: str) -> None:
        """Take no notice of where it is."""

    def log_batch(self, _run: str, metrics: list[Any]) -> None:
        self.logged.extend(metrics)

    def set_tag(self, *_: str) -> None:
        """Take no notice."""


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # peft 0.21, of transformers 5.23
@pytest.mark.parametrize(("family", "lora"), [("llama", "false"), ("phi3", "true"), ("qwen2", "true")])
def test_a_few_steps_of_training_are_converted_into_a_model_that_answers(
    saved: Callable[[Family], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family, lora: str
) -> None:
    read(saved(family), tmp_path / "built")
    base = tmp_path / "built" / "model"
    monkeypatch.setattr(finetune, "MlflowClient", Tracking)
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in samples.rows()["train"][:20]))
    files = {f"{split}_file_path": str(data) for split in ("train", "validation", "test")}
    how = {"max_steps": "3", "logging_steps": "1", "apply_lora": lora, "learning_rate": "1e-3"}
    runs = tuple(Step(name, name, "NotStarted", tmp_path / "log") for name in STEPS)
    outputs = {name: tmp_path / name for name in ("pytorch_model_folder", "mlflow_model_folder")}
    job = Job("job", {"mlflow_model_path": str(base), **files, **how}, outputs, runs, tmp_path / "work", "")
    for step in (validate.run, models.import_base, preprocess.run, finetune.run, models.convert):
        step(job)
    assert any(metric.key == "loss" and metric.value > 0 for metric in Tracking.logged)
    trained, before = (
        load_file(folder / "model" / "model.safetensors") for folder in (outputs["mlflow_model_folder"], base)
    )
    changed = {name.split(".")[-2] for name, each in trained.items() if not torch.equal(each[:700], before[name][:700])}
    assert changed == set(TARGETS[family]) if lora == "true" else changed > set(TARGETS[family])
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (answer,) = Scorer(outputs["mlflow_model_folder"]).answer([asked], {"max_new_tokens": 3})
    assert isinstance(answer, str)


def template(
    answer: str, question: str = "<|im_start|>user\n{}<|im_end|>\n", prompt: str = "<|im_start|>assistant\n"
) -> str:
    """Return a chat template that writes questions and answers so."""
    ways = {role: text.split("{}") for role, text in (("user", question), ("assistant", answer))}
    written = "".join(
        f"{{% if m.role == '{role}' %}}{{{{ {way[0]!r} + m.content + {way[1]!r} }}}}{{% endif %}}"
        for role, way in ways.items()
    )
    last = f"{{% if add_generation_prompt %}}{{{{ {prompt!r} }}}}{{% endif %}}"
    return f"{{% for m in messages %}}{written}{{% endfor %}}{last}"


# As Qwen3's, which writes an empty block into the last answer alone.
THINKS_LAST = TEMPLATES["qwen2"].replace(
    "m.role + '\n'", "m.role + '\n' + ('<think>\n\n</think>\n\n' if loop.last and m.role == 'assistant' else '')"
)


def test_a_template_that_writes_more_before_an_answer_is_refused_and_taken_with_markers_that_are_given() -> None:
    thinking = "<|im_start|>assistant\n<think>\n\n</think>\n\n{}<|im_end|>\n"
    own = checkpoints.tokenizer("qwen2", template(thinking, prompt=thinking.partition("{}")[0]))
    chat = read_chat(own)  # it writes that before every answer, so it belongs to the head
    assert chat.response.endswith("</think>")
    own = checkpoints.tokenizer("qwen2", THINKS_LAST)
    with pytest.raises(ModelError, match=r"(?s)not write all turns alike.*--response-template and --instruction"):
        read_chat(own)
    given = read_chat(own, "<|im_start|>assistant", "<|im_start|>user")
    assert given.response == "<|im_start|>assistant"
    assert given.example[1] == ("\n<think>\n\n</think>\n\nThe symbol of iron is Fe.<|im_end|>\n", True)
    for wrong in (
        ("<|im_start|>", "<|im_start|>user"),
        ("<|im_start|>user", "<|im_start|>assistant"),
        ("nowhere", "x"),
    ):
        with pytest.raises(ModelError, match="before the turns"):
            read_chat(own, *wrong)


def test_a_template_that_asks_otherwise_than_it_was_trained_is_refused_or_with_given_markers_said() -> None:
    think = "<|im_start|>assistant\n<think>\n"
    given = ("<|im_start|>assistant", "<|im_start|>user")
    inside = checkpoints.tokenizer("qwen2", template("<|im_start|>assistant\n{}<|im_end|>\n", prompt=think))
    before = checkpoints.tokenizer("qwen2", template(think + "\n</think>\n\n{}<|im_end|>\n"))
    for own in (inside, before, checkpoints.tokenizer("qwen2", template(think + "{}<|im_end|>\n", prompt=""))):
        with pytest.raises(ModelError, match="context that it was not trained in"):
            read_chat(own)
    assert "context that it was not trained in" in read_chat(inside, *given).warning
    assert "context" in read_chat(before, f"{think}\n</think>", given[1]).warning
    assert not read_chat(before, *given).warning  # what follows the prompt is trained on
    assert not read_chat(checkpoints.tokenizer("qwen2"), *given).warning


NO_END = template("<|im_start|>assistant\n{}\n", "<|im_start|>user\n{}\n")
REFUSED_TEMPLATES = {
    "none": (None, "has no chat template"),
    "no roles": ("{% for m in messages %}{{ m.content + '\n' }}{% endfor %}", "not clear what opens a turn"),
    "no end of an answer": (NO_END, "never learn to stop"),
    "last turn only": ("{{ messages[-1].content }}", "not write every turn once"),
    "changed texts": ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "not write every turn once"),
    "raises": (
        "{{ raise_exception('only tools') }}",
        "does not take a question and an answer: TemplateError: only tools",
    ),
    "broken": ("{% for", "TemplateSyntaxError"),
    "one turn only": (
        "{% if messages | length > 2 %}{{ raise_exception('x') }}{% endif %}" + TEMPLATES["qwen2"],
        "several",
    ),
    "the same head": (template("<|im_start|>{}<|im_end|>", "<|im_start|>{}<|im_end|>", "<|im_start|>"), "not clear"),
}


@pytest.mark.parametrize("case", REFUSED_TEMPLATES)
def test_a_template_that_does_not_tell_answers_is_refused(case: str) -> None:
    text, reason = REFUSED_TEMPLATES[case]
    with pytest.raises(ModelError, match=reason) as raised:
        read_chat(checkpoints.tokenizer("qwen2", text))
    assert raised.value.fix


def test_an_older_form_without_heads_of_its_own() -> None:
    old = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}{% else %}"
    )
    old += "{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
    chat = read_chat(checkpoints.tokenizer("phi3", old))
    assert (chat.response, chat.instruction) == ("[/INST]", "<s>[INST]")


MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("special", [True, False])
def test_a_later_form_of_it_whose_heads_are_words_or_tokens_of_their_own(special: bool) -> None:
    own = checkpoints.tokenizer("phi3", MISTRAL)
    if special:
        own.add_special_tokens({"extra_special_tokens": ["[INST]", "[/INST]"]})
    chat = read_chat(own)
    assert (chat.response, chat.instruction, chat.system) == ("[/INST]", "[INST]", False)


def _remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            for path in folder.glob(name):
                path.unlink()

    return change


def _emptied(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(b"")

    return change


def _pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _adapter(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").rename(folder / "adapter_config.json")


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _lacking(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _bert(folder: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=704, **shape)).save_pretrained(folder)


def _encoder(folder: Path) -> None:
    _bert(folder)
    checkpoints.change(folder, architectures=["BertLMHeadModel"])


def _sharded(names: list[str]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "elsewhere.safetensors")
        weight_map = {f"w{at}": name for at, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


def _distributed(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "shard-00000-model-00001-of-00001.safetensors")


def _eighths(folder: Path) -> None:
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0000")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tokenizer": (_remove("tokenizer*"), "There is no tokenizer"),
    "no configuration": (_remove("config.json"), "no config.json"),
    "no weights": (_remove("*.safetensors"), "no model.safetensors"),
    "pickles": (_pickled, "a pickle .pytorch_model.bin."),
    "adapter": (_adapter, "LoRA adapter.*\n.*merge_and_unload"),
    "a model and an adapter": (
        lambda f: LoraConfig(target_modules=["q_proj"]).save_pretrained(f),
        "LoRA adapter.*move the adapter elsewhere",
    ),
    "cut off": (_cut, r"cut off: its header says 6\d\d,\d\d\d bytes, and it has"),
    "empty file": (
        _emptied("model.safetensors"),
        "cut off or no safetensors",
    ),
    "wrong shapes": (lambda folder: checkpoints.change(folder, hidden_size=128), "do not fit config.json"),
    "a million layers": (
        lambda f: checkpoints.change(f, num_hidden_layers=10**6),
        "says 1,000,000 layers: there are 21",
    ),
    "wrong vocabulary": (lambda folder: checkpoints.change(folder, vocab_size=300), "do not fit config.json"),
    "weights missing": (_lacking, "1 of the weights are missing, such as model.layers.1.mlp.up_proj.weight"),
    "NaN": (_nan, r"model\.norm\.weight hold numbers that are none"),
    "quantized": (lambda f: checkpoints.change(f, quantization_config={"quant_method": "gptq"}), "are quantized"),
    "encoder": (_bert, "BertForMaskedLM is no causal language model"),
    "encoder in disguise": (_encoder, "is an encoder"),
    "other head": (lambda f: checkpoints.change(f, architectures=["LlamaForSequenceClassification"]), "no causal"),
    "own code": (lambda f: checkpoints.change(f, model_type="own", auto_map={"AutoModel": "x.Y"}), "none is run here"),
    "unknown": (lambda folder: checkpoints.change(folder, model_type="own"), "does not know the architecture 'own'"),
    "shards missing": (_sharded(["model-1.safetensors"]), "Weights are missing: model-1"),
    "shards elsewhere": (_sharded(["../llama/model.safetensors"]), "Weights are missing"),
    "no shards": (_sharded([]), "names no file"),
    "8 bits": (_eighths, "are of type F8_E4M3"),
    "weights elsewhere": (
        lambda f: checkpoints.change(f, transformers_weights="other.safetensors"),
        "reads other files",
    ),
    "another configuration": (
        lambda f: checkpoints.change(f, configuration_files=["config.4.0.0.json"]),
        "reads other files",
    ),
    "parts of another kind": (_distributed, "distributed"),
    "no JSON": (_emptied("config.json"), "cannot be read as a JSON object"),
    "no template": (_remove("chat_template.jinja"), "has no chat template"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_model_is_refused_with_the_reason(copy: Path, tmp_path: Path, case: str) -> None:
    breaks, reason = REFUSED[case]
    breaks(copy)
    with pytest.raises(ModelError, match=f"(?s){reason}") as raised:
        read(copy, tmp_path / "built")
    assert raised.value.fix
    assert list((tmp_path / "built").iterdir()) == []


def test_code_that_comes_with_a_known_architecture_is_left_behind(copy: Path, tmp_path: Path) -> None:
    own = {"AutoModelForCausalLM": "modeling_own.Own"}
    checkpoints.change(copy, auto_map=own)
    checkpoints.change(copy, "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_own.Own", None]})
    (copy / "modeling_own.py").write_text("raise SystemExit('it was run')")
    read(copy, tmp_path / "built")
    assert "auto_map" not in "".join(path.read_text() for path in (tmp_path / "built").rglob("*.json"))
    assert list((tmp_path / "built").rglob("modeling_own.py")) == []


def test_a_model_in_16_bits_and_in_several_files_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    checkpoints.model("llama").to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB")
    checkpoints.tokenizer("llama").save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    about = read(folder, tmp_path / "built")
    assert about["added"]["dtype"] == "BF16"
    kept = load_file(tmp_path / "built" / "model" / "model" / "model.safetensors")
    assert {each.dtype for each in kept.values()} == {torch.bfloat16}


def test_the_file_that_transformers_prefers_is_the_one_that_is_checked(copy: Path, tmp_path: Path) -> None:
    shutil.copy(copy / "model.safetensors", copy / "part.safetensors")
    weight_map = dict.fromkeys(load_file(copy / "part.safetensors"), "part.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    first = read(copy, tmp_path / "built")["added"]["content"]
    tensors = {name: each + 1 for name, each in load_file(copy / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert read(copy, tmp_path / "again")["added"]["content"] != first
    _cut(copy)
    with pytest.raises(ModelError, match="cut off"):
        read(copy, tmp_path / "third")


def test_what_was_taken_home_can_be_added(saved: Callable[[Family], Path], tmp_path: Path) -> None:
    read(saved("phi3"), tmp_path / "built")
    again = read(tmp_path / "built" / "model", tmp_path / "again")
    assert again["added"]["response_template"] == "<|assistant|>"


def test_what_the_finetune_config_of_a_model_says_is_taken_and_proved(
    saved: Callable[[Family], Path], tmp_path: Path
) -> None:
    first = read(saved("qwen2"), tmp_path / "built")["added"]
    home = tmp_path / "built" / "model"
    known = {read(home, tmp_path / "again")["added"]["content"]: "1"}
    assert read(home, tmp_path / "same", known=known) == {"same": "1"}
    own = template("<|im_start|>model\n{}<|im_end|>\n", prompt="<|im_start|>model\n")
    markers = {"response_template": "<|im_start|>model", "instruction_template": "<|im_start|>user"}
    said: dict[str, Any] = {"chat_special_tokens": markers, "finetune_chat_template": own}
    said |= {"system_role_supported": "false", "lora_target_modules": ["q_proj"]}
    (home / "finetune_config.json").write_text(json.dumps(said))
    found = read(home, tmp_path / "other", known=known)["added"]
    assert (first["system_role_supported"], found["system_role_supported"]) == (True, False)
    assert (found["response_template"], found["lora_targets"]) == ("<|im_start|>model", ["q_proj"])
    assert own in {path.read_text() for path in (tmp_path / "other").rglob("*.jinja")}
    for changed, reason in (
        ({"chat_special_tokens": {**markers, "response_template": "<|im_start|>"}}, "before the turns"),
        ({"finetune_chat_template": THINKS_LAST}, "all turns alike"),
        ({"lora_target_modules": "head"}, "no linear layers head"),
    ):
        (home / "finetune_config.json").write_text(json.dumps(said | changed))
        with pytest.raises(ModelError, match=reason):
            read(home, tmp_path / "refused")
    thinking = template("<|im_start|>assistant\n<think>\n\n</think>\n\n{}<|im_end|>\n")
    markers["response_template"] = "<|im_start|>assistant"
    (home / "finetune_config.json").write_text(json.dumps(said | {"finetune_chat_template": thinking}))
    with pytest.raises(ModelError, match=r"(?s)between its head and the answer.*mend chat_special_tokens.*--response"):
        read(home, tmp_path / "refused")
    given = {**markers, "lora_targets": ["v_proj"], "system_role_supported": False}
    assert read(home, tmp_path / "vouched", **given)["added"]["lora_targets"] == ["v_proj"]


def test_settings_of_training_that_come_with_a_model_are_left_behind_and_said(copy: Path, tmp_path: Path) -> None:
    left = {"hf_trainer_args": {"weight_decay": 0.5}, "load_model_kwargs": {}}
    (copy / "finetune_config.json").write_text(json.dumps(left))
    said: list[Any] = []
    (tmp_path / "built").mkdir()
    steps.add({**GIVEN, "source": str(copy), "folder": str(tmp_path / "built")}, said.append)
    assert {"say": "of its finetune_config.json, hf_trainer_args is left behind"} in said
    assert "weight_decay" not in (tmp_path / "built" / "model" / "finetune_config.json").read_text()


def test_an_adapter_that_mlflow_keeps_beside_its_base_is_not_left_behind(
    saved: Callable[[Family], Path], tmp_path: Path
) -> None:
    read(saved("phi3"), tmp_path / "built")
    peft = tmp_path / "built" / "model" / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="LoRA adapter"):
        read(peft.parent, tmp_path / "again")


def test_a_tokenizer_of_another_model(copy: Path, tmp_path: Path) -> None:
    small = checkpoints.model("llama", vocab_size=300, eos_token_id=1, pad_token_id=1)
    small.save_pretrained(copy)
    with pytest.raises(ModelError, match="they are not of one model"):
        read(copy, tmp_path / "built")


def test_a_model_that_is_too_large_is_refused_with_the_numbers_before_it_is_read(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "available_memory", lambda: 1_200_000_000)
    monkeypatch.setattr(weights, "load", lambda *_: pytest.fail("it was read"))
    with pytest.raises(
        ModelError, match=r"too large.*164,160 parameters.*F32.*1\.5 GB with LoRA.*1\.2 GB are available"
    ):
        read(copy, tmp_path / "built")
    monkeypatch.setattr(weights, "available_memory", lambda: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(ModelError, match=r"the disk has 0\.0 GB"):
        read(copy, tmp_path / "built")


def test_layers_for_lora_must_be_there(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)no linear layers qkv_proj.*q_proj, k_proj"):
        read(copy, tmp_path / "built", lora_targets=["q_proj", "qkv_proj"])
    assert read(copy, tmp_path / "built", lora_targets=["q_proj"])["added"]["lora_targets"] == ["q_proj"]


@pytest.mark.parametrize(
    "name", ["", "-x", "a/b", "../x", "a b", "x" * 256, "Phi-4-mini-instruct", "phi-4-MINI-instruct"]
)
def test_names_that_no_model_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="name"):
        LocalWorkspace(tmp_path / "ws").add_model(name, tmp_path)
    assert not (tmp_path / "ws").exists()


def program(text: str) -> Programs:
    return Programs(adding=(sys.executable, "-c", text))


WAITS = 'import sys, time\nsys.stdin.readline()\nprint(\'{"doing": "a part", "seconds": 0.2}\', flush=True)\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (WAITS + "time.sleep(60)", "stopped: a part took more than 0 s"),
        (WAITS + "sys.exit('out of luck')", r"ended \(exit code 1\) while it was at a part\. out of luck"),
        (WAITS + "sys.exit(77)", "more memory than its size allows for, at a part"),
        (WAITS + "import os; os.abort()", r"ended \(exit code -6\)"),
    ],
)
def test_a_reader_that_hangs_or_ends_leaves_nothing(tmp_path: Path, text: str, reason: str) -> None:
    workspace = LocalWorkspace(tmp_path / "ws", programs=program(text))
    with pytest.raises(ModelError, match=reason):
        workspace.add_model("mine", tmp_path)
    assert list((tmp_path / "ws" / "registry" / "added").iterdir()) == []


@pytest.mark.slow
def test_a_template_that_loops_is_stopped(copy: Path, tmp_path: Path) -> None:
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + TEMPLATES["llama"]
    (copy / "chat_template.jinja").write_text(loop)
    short = "from phift.local.work.engine import process; process.prepare()\n"
    short += "from phift.local.work.adding import __main__, steps; steps._TEMPLATE_SECONDS = 1; __main__.main()"
    with pytest.raises(ModelError, match="stopped: its chat template took more than 1 s"):
        LocalWorkspace(tmp_path / "ws", programs=program(short)).add_model("mine", copy)


# What stands for the program that reads models where their content does not matter: a source's name is its content.
READS = """
import json, pathlib, sys, time
asked = json.loads(sys.stdin.readline())
source = pathlib.Path(asked["source"]).name
tell = lambda event: print(json.dumps(event), flush=True)
tell({"doing": "all of it", "seconds": 60, "say": "begun"})
(pathlib.Path(asked["folder"]) / "model").mkdir()
if source.startswith("slow"):
    time.sleep(float(source[4:]))
if source in asked["known"]:
    tell({"done": {"same": asked["known"][source]}})
else:
    about = {"description": "", "tags": {}, "properties": {}, "systemMetadata": {}}
    tell({"done": {**about, "added": {"content": source, "architecture": source}}})
sys.stdin.read()
"""


@pytest.fixture
def reading(tmp_path: Path) -> LocalWorkspace:
    return LocalWorkspace(tmp_path / "ws", programs=program(READS))


def added(workspace: LocalWorkspace) -> list[tuple[str, str, str]]:
    return [(each.name, each.version, each.architecture) for each in workspace.models() if not each.stand_in]


def test_versions_never_change_and_no_number_is_given_twice(reading: LocalWorkspace) -> None:
    said: list[str] = []
    first = reading.add_model("mine", "/a", on_event=said.append)
    assert (first.version, first.id) == ("1", "azureml://registries/azureml/models/mine/versions/1")
    assert reading.add_model("MINE", "/a", on_event=said.append) == first
    assert said == ["begun", "begun", "this very model is there already, as version 1: nothing has changed"]
    assert reading.add_model("Mine", "/b").version == "2"
    assert added(reading) == [("mine", "2", "b"), ("mine", "1", "a")]
    assert (reading.model("mine").version, reading.model("mine:1")) == ("2", first)
    assert reading.remove_model("mine:2")[0][0].version == "2"
    assert reading.add_model("mine", "/b").version == "3"
    with pytest.raises(NotFound, match="no model mine:"):  # a script's version was empty
        reading.remove_model("mine:")
    assert [each.version for each in reading.remove_model("mine")[0]] == ["3", "1"]
    assert reading.add_model("mine", "/a").version == "4"


def test_a_removal_that_was_interrupted_is_seen_by_nobody_and_blocks_nothing(reading: LocalWorkspace) -> None:
    reading.add_model("mine", "/a")
    place = Folder(reading.folder).added
    half = place / ".building-left"
    half.mkdir()
    (place / "mine" / "1").rename(half / "model")
    assert added(reading) == []
    assert reading.add_model("mine", "/a").version == "2"
    assert not half.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "bad"}', '{"name": "bad", "version": "x"}'])
def test_a_model_whose_metadata_is_damaged_is_named_and_left_out(
    reading: LocalWorkspace, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    reading.add_model("mine", "/a")
    bad = Folder(reading.folder).added / "bad" / "1" / "about.json"
    bad.parent.mkdir(parents=True)
    bad.write_text(text)
    assert added(reading) == [("mine", "1", "a")]
    assert str(bad) in caplog.text


def test_what_is_being_removed_is_nobody_elses_to_clean_up(
    reading: LocalWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading.add_model("mine", "/a")
    seen: list[bool] = []
    rename = Path.rename

    def watched(path: Path, target: Path) -> Path:
        with pytest.raises(BlockingIOError), own_models._locked(target.parent):
            pass
        seen.append(True)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    reading.remove_model("mine")
    assert seen == [True]
    assert not list(Folder(reading.folder).added.glob(".*"))


def test_two_that_add_do_not_take_each_others_folder(reading: LocalWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, delays = own_models._locked, iter([0.5])

    def late(path: Path) -> Any:
        time.sleep(next(delays, 0))  # the first has made its folder, and the other one looks for what is left over
        return locked(path)

    monkeypatch.setattr(own_models, "_locked", late)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(reading.add_model, "mine", "/a")
        time.sleep(0.2)
        second = pool.submit(reading.add_model, "mine", "/b")
        assert {first.result().version, second.result().version} == {"1", "2"}


def test_what_is_not_there_and_what_cannot_be_removed(reading: LocalWorkspace) -> None:
    with pytest.raises(NotFound, match=r"no model mine\.\n.*\n.*Phi-3-mini-4k-instruct, Phi-4-mini-instruct"):
        reading.remove_model("mine")
    with pytest.raises(NotFound, match="no model Phi-4-mini-instruct:7"):
        reading.model("Phi-4-mini-instruct:7")
    with pytest.raises(LocalWorkspaceError, match="own models"):
        reading.remove_model("Phi-4-mini-instruct")
    assert reading.model("phi-4-mini-instruct").stand_in


def test_a_job_that_is_not_over_keeps_its_model(reading: LocalWorkspace) -> None:
    model = reading.add_model("mine", "/a")
    with closing(Documents(Folder(reading.folder).database)) as documents:
        documents.put("jobs/one", {"plan": {"inputs": {"mlflow_model_path": model.id}}})
        documents.put("runs/one", {"status": "Queued"})
        with pytest.raises(LocalWorkspaceError, match=r"mine is in use: job one \(Queued\)"):
            reading.remove_model("mine")
        documents.put("runs/one", {"status": "Canceled"})
    assert reading.remove_model("mine") == ([model], ["job one (Canceled)"])


def test_two_that_are_added_at_once_become_two_versions_and_equal_ones_one(reading: LocalWorkspace) -> None:
    sources = ["/slow0.3", "/slow0.31", "/slow0.3", "/slow0.31"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda source: reading.add_model("mine", source), sources))
    assert sorted({each.version for each in found}) == ["1", "2"]
    assert len(added(reading)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_one_that_is_interrupted_leaves_nothing(reading: LocalWorkspace, number: signal.Signals) -> None:
    code = "import sys, pathlib; from phift.local import LocalWorkspace; from phift.local.programs import Programs\n"
    code += "programs = Programs(adding=(sys.executable, '-c', sys.argv[2]))\n"
    code += "say = lambda text: print(text, flush=True)\n"
    code += "LocalWorkspace(pathlib.Path(sys.argv[1]), programs=programs).add_model('mine', '/slow60', on_event=say)"
    command = [sys.executable, "-c", code, str(reading.folder), READS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:  # noqa: S603
        assert other.stdout
        assert other.stdout.readline() == "begun\n"
        other.send_signal(number)
        other.wait(20)
    folder = reading.folder / "registry" / "added"
    if number == signal.SIGINT:
        assert list(folder.iterdir()) == []
    reading.add_model("mine", "/a")  # which cleans up behind one that was killed
    assert [path.name for path in folder.iterdir()] == ["mine"]


@pytest.mark.slow
def test_on_the_command_line(saved: Callable[[Family], Path], tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(main, ["local", "model", *words, "--folder", str(tmp_path / "ws")])
        assert done.exit_code == 0, done.output
        return done.output

    said = run("add", "mine", str(saved("llama")), "--lora-targets", "q_proj,v_proj", "--license", "mit")
    assert "LlamaForCausalLM, 164,160 parameters" in said
    assert "trained on          '\\n\\nThe symbol of iron is Fe.<|eot_id|>'" in said
    assert "Use it as `model: mine`, or `model: mine:1` for this version alone." in said
    assert [line.split()[:4] for line in run("list").splitlines()[1:]] == [
        ["Phi-3-mini-4k-instruct", "15", "a", "stand-in:"],
        ["Phi-4-mini-instruct", "1", "a", "stand-in:"],
        ["mine", "1", "164,160", "LlamaForCausalLM"],
    ]
    assert [each["name"] for each in json.loads(run("list", "--json"))][2] == "mine"
    assert "a stand-in of phift's" in run("show", "Phi-4-mini-instruct")
    shown = json.loads(run("show", "mine:1", "--json"))
    assert (shown["license"], shown["lora_targets"]) == ("mit", ["q_proj", "v_proj"])
    assert run("remove", "mine") == "removed mine, version 1\n"


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # azure-ai-ml 1.35.2 downloads as azure-storage-blob deprecates
def test_a_server_that_runs_has_a_model_at_once_and_keeps_one_that_is_in_use(
    instant: Local, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace, client = instant.workspace, instant.client
    monkeypatch.setattr(workspace, "_programs", program(READS))
    workspace.add_model("served", "/a")
    added = workspace.add_model("served", "/b")
    (workspace.folder / "registry" / "added" / "served" / "2" / "model" / "MLmodel").write_text("flavors: {}")
    assert [each.version for each in instant.registry.models.list("Served")] == ["2", "1"]
    assert instant.registry.models.get("served", label="latest").id == added.id
    assert [each.name for each in instant.registry.models.list()].count("served") == 1
    instant.registry.models.download("served", "2", download_path=str(tmp_path))
    assert len(list(tmp_path.rglob("MLmodel"))) == 1
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="own-model")).result()
    deployment = ManagedOnlineDeployment(
        name="blue",
        endpoint_name="own-model",
        model=added.id,
        instance_type="Standard_NC24ads_A100_v4",
        instance_count=1,
    )
    client.online_deployments.begin_create_or_update(deployment).result()
    for name in ("served", "served:2"):
        with pytest.raises(LocalWorkspaceError, match="deployment blue of endpoint own-model"):
            workspace.remove_model(name)
    workspace.remove_model("served:1")
    client.online_endpoints.begin_delete("own-model").result()
    assert workspace.remove_model("served")[1] == []
    with pytest.raises(ResourceNotFoundError):
        instant.registry.models.get("served", "2")


def test_a_workspace_of_the_process_has_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with TestWorkspace() as tested:
        workspace = LocalWorkspace(tested.connection.folder, programs=program(READS))
        workspace.add_model("mine", "/a")
        assert tested.clients.registry.models.get("mine", label="latest").version == "1"


def test_a_folder_that_holds_other_things_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    with pytest.raises(LocalWorkspaceError, match="holds other things"):
        LocalWorkspace(tmp_path).add_model("mine", tmp_path / "letters")
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


def test_the_hub_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"(?s)Hub does not give the model some/model.*give a folder"):
        LocalWorkspace(tmp_path / "ws").add_model("mine", "some/model")
