"""Stand-ins and the scorer, on an untrained model: its answers mean nothing, but they must be the same ones."""

from __future__ import annotations

import io
import json
import math
import pickle
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phift.errors import ModelError, ParameterError
from phift.evaluation.likelihood import measure
from phift.evaluation.rows import read_rows
from phift.local.question import Sampling
from phift.local.work import scorer, standin
from phift.local.work.scorer import Asked, Scorer, Turn, together

pytestmark = pytest.mark.slow

NAMES = ("Phi-3-mini-4k-instruct", "Phi-4-mini-instruct")
SHORT = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    command = [sys.executable, "-m", "phift.local.work.standin", str(folder), *NAMES]
    subprocess.run(command, check=True)  # noqa: S603 - our own program
    return folder


@pytest.fixture(scope="module")
def model(registry: Path) -> Scorer:
    return Scorer(registry / NAMES[0])


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


QUESTIONS = [user(text) for text in ("a", "What is the symbol of iron?", "Grüße, 世界 🌍", "long " * 60, "b c d")]


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_a_name_gives_the_weights(registry: Path, tmp_path: Path) -> None:
    standin.write_checkpoint(tmp_path, NAMES[0])
    assert (tmp_path / "model.safetensors").read_bytes() == weights(registry / NAMES[0])
    assert weights(registry / NAMES[0]) != weights(registry / NAMES[1])


def test_nothing_is_left_of_the_building(registry: Path) -> None:
    assert {path.name for path in registry.iterdir()} == set(NAMES)


@pytest.mark.parametrize("text", ["iron", "Grüße, 世界 🌍", "\x00\x7f\t\n", "<b>&amp;"])
def test_the_tokenizer_takes_any_text(registry: Path, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(registry / NAMES[0] / "components" / "tokenizer")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_format(registry: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(registry / NAMES[1] / "components" / "tokenizer")
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    opened = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert opened == "<|system|>\ns<|end|>\n<|user|>\nu<|end|>\n<|assistant|>\n"
    closed = tokenizer.apply_chat_template(messages[1:], tokenize=False)
    assert closed == "<|user|>\nu<|end|>\n<|endoftext|>"


def test_a_batch_answers_like_one_by_one(model: Scorer) -> None:
    together = model.answer(QUESTIONS * 8, SHORT)
    assert together == [text for question in QUESTIONS for text in model.answer([question], SHORT)] * 8


def test_greedy_is_the_default_and_repeats(model: Scorer) -> None:
    assert model.answer(QUESTIONS, SHORT) == model.answer(QUESTIONS, SHORT)
    cold = {**SHORT, "do_sample": True, "temperature": 0}
    assert model.answer(QUESTIONS, cold) == model.answer(QUESTIONS, SHORT)


class Requests:
    """Requests that wait for a model, and what has been said to each, with the number of tokens made by then."""

    def __init__(self, model: Scorer) -> None:
        self.model, self.said, self.made = model, [], 0
        self.waiting: deque[scorer.Turn] = deque()

    said: list[list[tuple[int, dict[str, Any]]]]

    def add(self, text: str, *, most: int = 12, **more: Any) -> Asked:
        said: list[tuple[int, dict[str, Any]]] = []
        self.said.append(said)
        parameters = {"max_new_tokens": most, **more.pop("parameters", {})}
        request = {"id": len(self.said), "conversations": [user(text)], "parameters": parameters, **more}
        asked = Asked(request, lambda what: said.append((self.made, what)))
        self.waiting += self.model.turns(asked)
        return asked

    def answer(self) -> list[int]:
        """Have all of them answered; returns how many were made together each time."""
        sizes = []

        def count(_model: Any, _inputs: Any, _output: Any) -> None:
            self.made += 1

        hook = self.model._model.register_forward_hook(count)
        while self.waiting:
            batch = together(self.waiting, self.model.room_together)
            sizes.append(len(batch))
            self.model.make(batch)
        hook.remove()
        return sizes

    def replies(self) -> list[dict[str, Any]]:
        return [said[-1][1] for said in self.said]


@pytest.fixture
def asking(model: Scorer) -> Requests:
    return Requests(model)


def test_requests_that_wait_are_answered_together_each_as_if_alone(model: Scorer, asking: Requests) -> None:
    texts = [question[0]["content"] for question in QUESTIONS]
    for number, text in enumerate(texts * 4):
        asking.add(text, most=4 + number % 9, stream=number % 2 == 0)
    assert asking.answer() == [20]
    alone = [model.answer([user(text)], {"max_new_tokens": 4 + number % 9}) for number, text in enumerate(texts * 4)]
    assert [reply["texts"] for reply in asking.replies()] == alone
    for said in asking.said:  # a short answer does not wait for the longest one
        assert said[-1][0] == said[-1][1]["usage"][0]["completion"]


def test_a_stream_says_each_token_when_it_is_made_and_the_same_text(model: Scorer, asking: Requests) -> None:
    asking.add("Grüße, 世界 🌍", most=40, stream=True)
    asking.answer()
    (said,) = asking.said
    pieces = [what["piece"] for _, what in said[:-1]]
    assert ["".join(pieces)] == said[-1][1]["texts"] == model.answer([user("Grüße, 世界 🌍")], {"max_new_tokens": 40})
    assert said[0][0] < 5, "the first one is said before the others are made"
    assert len({made for made, _ in said}) > 10
    assert (said[-1][1]["finish"], said[-1][1]["usage"][0]["completion"]) == (["length"], 40)


def test_a_text_to_stop_at_ends_an_answer_and_is_not_said(model: Scorer, asking: Requests) -> None:
    (whole,) = model.answer([user("a")], {"max_new_tokens": 40})
    stop = whole[10:14]
    for stream in (False, True):
        asking.add("a", most=40, stop=["never said", stop], stream=stream)
    asking.answer()
    for said in asking.said:
        (text,) = said[-1][1]["texts"]
        assert text == whole[: whole.index(stop)]
        assert said[-1][1]["finish"] == ["stop"]
        assert said[-1][1]["usage"][0]["completion"] < 40
    assert "".join(what["piece"] for _, what in asking.said[1][:-1]) == text


@pytest.mark.parametrize("step", [1, 2, 3])
def test_nothing_is_said_of_a_text_to_stop_at_with_which_an_answer_begins(step: int) -> None:
    said: list[dict[str, Any]] = []
    asked = Asked({"id": 1, "stop": ["gold is Au"], "stream": True}, said.append)
    asked.read()
    turn = Turn(asked, [0], most=40)
    asked.turns.append(turn)
    while not turn.finish:
        turn.take(7, frozenset(), lambda tokens: "gold is Au."[: step * len(tokens)])
    assert [each.get("piece", each.get("texts")) for each in said] == [[""]]


def test_who_goes_away_stops_the_model(asking: Requests) -> None:
    asked = asking.add("a", most=400, stream=True)
    asked._say = lambda _what: setattr(asked, "wanted", False)
    asking.answer()
    assert asking.made < 10


def test_a_seed_gives_the_same_answer_again_whoever_else_asks(asking: Requests) -> None:
    hot = {"do_sample": True, "temperature": 2.0}
    for seed in (7, None, 7, None, 8):
        asking.add("a", seed=seed, parameters=hot)
    assert asking.answer() == [1, 2, 1, 1]
    first, other, again, third, last = (reply["texts"] for reply in asking.replies())
    assert first == again
    assert first not in (other, third, last)


def test_greedy_and_sampled_are_not_made_together(asking: Requests) -> None:
    for temperature in (0, 0, 1, 0, 1, 2):
        asking.add("a", parameters={"do_sample": True, "temperature": temperature})
    assert asking.answer() == [3, 2, 1]


def test_a_long_question_does_not_make_the_others_larger_than_memory(
    asking: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "_BATCH_TOKENS", 300)
    for text in ("a", "b", "long " * 60, "c", "d"):
        asking.add(text, most=2)
    assert asking.answer() == [4, 1], "the long one goes by itself"


def test_tools_are_refused_by_a_template_that_takes_none(asking: Requests, registry: Path, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weigh"}}]
    with pytest.raises(ParameterError, match="takes no tools"):
        asking.add("a", tools=tools)
    parts = shutil.copytree(registry / NAMES[0], tmp_path / "own") / "components" / "tokenizer"
    (parts / "chat_template.jinja").write_text("{{ tools[0].function.name if tools }}{{ messages[-1].content }}")
    own = Requests(Scorer(tmp_path / "own"))
    own.add("a", tools=tools)
    own.add("weigha")
    assert own.waiting[0].prompt == own.waiting[1].prompt


def test_sampling_varies(model: Scorer) -> None:
    hot = {**SHORT, "do_sample": True, "temperature": 2.0, "top_p": 1.0}
    assert model.answer(QUESTIONS, hot) != model.answer(QUESTIONS, hot)


def test_system_text_is_read_with_the_first_question(model: Scorer) -> None:
    system = {"role": "system", "content": "be brief"}
    merged = model.answer([user("be brief\n\nhello")], SHORT)
    assert model.answer([[system, *user("hello")]], SHORT) == merged


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 1.5},
        {"max_new_tokens": True},
        {"do_sample": "false"},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"no_such": 1},
        [],
    ],
)
def test_parameters_that_mean_nothing(parameters: Any) -> None:
    with pytest.raises(ParameterError, match="use max_new_tokens, do_sample, temperature, top_p") as caught:
        Sampling.read(parameters)
    assert all(f"$.{name}" in str(caught.value) or f"`{name}`" in str(caught.value) for name in parameters)


def converse(folder: Path, *lines: str) -> list[dict[str, Any]]:
    replies = io.StringIO()
    scorer.main(folder, io.StringIO("".join(f"{line}\n" for line in lines)), replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def request(conversations: Any, **parameters: Any) -> str:
    return json.dumps({"id": 7, "conversations": conversations, "parameters": {**SHORT, **parameters}})


def test_what_cannot_be_answered_is_said_and_the_rest_is_answered(registry: Path) -> None:
    ready, *replies = converse(
        registry / NAMES[0],
        "{",
        "[]",
        request([]),
        request([[{"role": "assistant", "content": "secret"}]]),
        request([user("far too long " * 4000)]),
        request([user("\ud800")]),
        request([user("a")], top_p=7),
        request([user("a")]),
    )
    assert ready == {"ready": True}
    assert [reply["id"] for reply in replies] == [None, None, 7, 7, 7, 7, 7, 7]
    assert all(set(reply) == {"id", "error"} and reply["error"]["message"] for reply in replies[:-1])
    assert "secret" not in json.dumps(replies)
    assert set(replies[-1]) == {"id", "texts", "finish", "usage"}


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert converse(tmp_path)[0]["error"]["message"].startswith("The folder is not an MLflow model")


PANIC = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


@pytest.mark.skipif(sys.platform != "linux", reason="nothing else limits its data")
@pytest.mark.parametrize(
    ("template", "tokenizer", "said"),
    [
        ("{{ 'a' * (2 * 10**9) }}", {}, "more than 1 GB of memory"),
        ("{{ messages[0].content }}", {"pre_tokenizer": PANIC}, "fail with a PanicException"),
    ],
    ids=["memory", "panic"],
)
def test_a_tokenizer_or_a_template_that_harms_is_told(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, tokenizer: Any, said: str
) -> None:
    monkeypatch.setattr("phift.local.work.engine.process.MEMORY", 1 << 30)
    parts = shutil.copytree(registry / NAMES[0], tmp_path / "own") / "components" / "tokenizer"
    (parts / "chat_template.jinja").write_text(template)
    document = json.loads((parts / "tokenizer.json").read_text())
    (parts / "tokenizer.json").write_text(json.dumps({**document, **tokenizer}))
    with pytest.raises(ModelError, match=said):
        Scorer(tmp_path / "own").answer([user("a" * 40 + "!")], SHORT)


class Program:
    """What a hostile pickle holds: reading it runs it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))


def _hostile(registry: Path, folder: Path, kind: str, canary: Path) -> Path:
    """Return a model that somebody has uploaded."""
    model = folder / "uploaded"
    shutil.copytree(registry / NAMES[0], model)
    weights, manifest = model / "model", model / "MLmodel"
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    if kind == "python function":
        manifest.write_text("flavors:\n  python_function:\n    loader_module: evil\n    python_model: model.pkl\n")
        (model / "evil.py").write_text(code)
        (model / "model.pkl").write_bytes(pickle.dumps(Program(canary)))
    elif kind == "pickled weights":
        (weights / "model.safetensors").unlink()
        (weights / "pytorch_model.bin").write_bytes(pickle.dumps(Program(canary)))
    elif kind == "code beside the weights":
        config = json.loads((weights / "config.json").read_text())
        config |= {"model_type": "evil", "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "evil.Evil")}
        (weights / "config.json").write_text(json.dumps(config))
        (weights / "evil.py").write_text(code)
    else:
        written = manifest.read_text()
        assert "model_binary: model" in written
        manifest.write_text(written.replace("model_binary: model", f"model_binary: {folder / 'elsewhere'}"))
        shutil.move(weights, folder / "elsewhere")
    return model


@pytest.mark.parametrize(
    "kind", ["python function", "pickled weights", "code beside the weights", "weights somewhere else"]
)
def test_an_uploaded_model_runs_no_code(registry: Path, tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "ran"
    pickle.loads(pickle.dumps(Program(canary)))  # noqa: S301 - shows that the canary sings
    assert canary.exists()
    canary.unlink()
    (first,) = converse(_hostile(registry, tmp_path, kind, canary))
    assert first.keys() == {"error"}, first
    assert not canary.exists()


@pytest.fixture
def process(registry: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "phift.local.work.scorer", str(registry / NAMES[0])]
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8"
    ) as running:
        yield running


@pytest.mark.proof
def test_the_process(process: subprocess.Popen[str], model: Scorer) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline()) == {"ready": True}
    process.stdin.write(request(QUESTIONS) + "\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["texts"] == model.answer(QUESTIONS, SHORT)
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    log = process.stderr.read()
    assert "request 7: 5 conversations" in log
    assert "iron" not in log


def test_the_loss_of_an_answer_is_what_the_model_itself_says(registry: Path, model: Scorer) -> None:
    import torch

    (row,) = read_rows(
        [{"messages": [*user("What is the symbol of iron?"), {"role": "assistant", "content": "Fe."}]}]
    ).rows
    told: list[int] = []
    found = measure(registry / NAMES[0], [row, row], told.append)
    asked, whole = (
        model._tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True, add_generation_prompt=more)[
            "input_ids"
        ]
        for turns, more in ((row.prompt, True), ([*row.prompt, {"role": "assistant", "content": "Fe."}], False))
    )
    labels = whole.clone()
    labels[:, : asked.shape[1]] = -100  # what transformers takes no loss of
    with torch.inference_mode():
        loss = float(model._model(whole, labels=labels).loss)
    assert found.losses == pytest.approx((loss, loss), rel=1e-4)
    assert found.tokens == (whole.shape[1] - asked.shape[1],) * 2
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert told == [1, 2]
