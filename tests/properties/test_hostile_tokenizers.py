"""Tokenizers and chat templates that mean harm, or are broken: told with their place, within time and memory."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phift.data.workers import Workers
from phift.errors import PhiftError
from phift.local.work import standin
from phift.tokens import limited
from phift.tokens.conversation import Conversation
from phift.tokens.count import measure, token_findings
from phift.tokens.limited import LimitedTokenizer, find_tokenizer
from unit.fakes import Fakes, foundation_model

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "60"))
ROW = {"messages": [{"role": "user", "content": "hihi"}, {"role": "assistant", "content": "yo"}]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phi4")
    standin.write_checkpoint(folder, "Phi-4")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    return folder


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "own")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_text((json.dumps(ROW) + "\n") * 3)
    return path


def find(folder: Path, cache: Path) -> tuple[LimitedTokenizer | None, str]:
    return find_tokenizer(str(folder), Fakes().clients, foundation_model(), cache)


def template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def normaliser(*steps: tuple[str, str]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text())
        replaced = [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in steps]
        document["normalizer"] = {"type": "Sequence", "normalizers": replaced}
        (folder / "tokenizer.json").write_text(json.dumps(document))

    return write


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"


HOSTILE = (
    template(LOOPS + "{% endfor %}x"),
    template("{{ 'a' * 10**12 }}"),
    normaliser(*[("h", "hhhhhhhhhh")] * 12),
    template("{{ 'a' * 10**9 }}"),
    template(DOUBLING + "{{ ns.x }}"),
    template("{{ 'a'.center(10**10) }}"),
    template("{{ 9**(9**9) }}"),
)


@pytest.mark.parametrize("write", HOSTILE if "PHIFT_EXAMPLES" in os.environ else HOSTILE[:3])
def test_what_has_no_end_is_ended_and_the_tokens_are_estimated(
    own: Path, rows: Path, tmp_path: Path, write: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(own)
    tokenizer, missing = find(own, tmp_path / "cache")
    assert tokenizer is not None, missing  # as long as it may take to import transformers
    monkeypatch.setattr(tokenizer.workers, "_limits", replace(limited.LIMITS, memory=2 << 30, seconds=8))
    tokenizer.workers.end()
    report = measure({"train": rows}, tokenizer, max_seq_length=-1, exact=True)
    assert (report.counted, report.splits["train"].rows_counted) == ("estimate", 3)
    assert str(own) in report.source
    assert "after 8 s, which PHIFT_SECONDS raises" in report.source or "2 GB" in report.source
    (finding,) = token_findings(report)
    assert finding.code == "DATA_TOKENS_ESTIMATED"
    assert not tokenizer.workers._processes


def test_a_conversation_is_shown_without_what_fails(own: Path, rows: Path, tmp_path: Path) -> None:
    tokenizer, _ = find(own, tmp_path / "cache")
    assert tokenizer is not None
    assert Conversation.show(rows, 1, tokenizer).tokens
    tokenizer.workers.end()
    (own / "tokenizer.json").write_text("{")
    shown = Conversation.show(rows, 1, tokenizer)
    assert shown.note.startswith("Roles and texts only: The tokenizer cannot be opened")
    assert shown.messages == (("user", "hihi"), ("assistant", "yo"))
    tokenizer.workers.end()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "[" * 10**6),
        ("tokenizer_config.json", '{"a":' * 10**5),
        ("tokenizer_config.json", '{"model_max_length": "long"}'),
        ("tokenizer_config.json", '{"model_max_length": -3}'),
        ("tokenizer_config.json", '{"eos_token": [1]}'),
        ("tokenizer_config.json", '{"tokenizer_class": 7}'),
        ("finetune_config.json", '{"a":' * 900 + "1" + "}" * 900),
        (
            "finetune_config.json",
            '{"chat_special_tokens": {"response_template": "\\ud800", "instruction_template": "b"}}',
        ),
        ("finetune_config.json", " " * 20_000_000),
    ],
)
def test_what_is_broken_is_a_reason_that_names_it(own: Path, tmp_path: Path, name: str, content: str) -> None:
    (own / name).write_text(content)
    tokenizer, missing = find(own, tmp_path / "cache")
    assert tokenizer is None
    assert str(own) in missing


@pytest.mark.parametrize(
    "add",
    [
        lambda folder: (folder / "tokenizer").mkdir(),
        lambda folder: os.mkfifo(folder / "vocab.fifo"),
        lambda folder: (folder / "vocab.loop").symlink_to("vocab.loop"),
    ],
    ids=["folder", "pipe", "loop"],
)
def test_what_is_no_file_is_not_read(own: Path, tmp_path: Path, add: Callable[[Path], object]) -> None:
    add(own)
    tokenizer, missing = find(own, tmp_path / "cache")
    assert tokenizer is not None, missing
    tokenizer.workers.end()


class Trap:
    def __init__(self, executed: Path) -> None:
        self.executed = executed

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.executed,))


def setting(**settings: object) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return write


def odd(name: str, *values: object) -> list[Callable[[Path], object]]:
    return [setting(**{name: value}) for value in values]


def own_code(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder.parent / 'executed')!r}, 'w')\nclass Evil: pass\n")
    names = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil"}
    setting(auto_map=names, tokenizer_class="Evil", trust_remote_code=True)(folder)
    (folder / "config.json").write_text(json.dumps({"auto_map": names, "model_type": "evil"}))


def pickled(folder: Path) -> None:
    for name in ("vocab.pkl", "vocab.bin", "tokenizer.model"):
        (folder / name).write_bytes(pickle.dumps(Trap(folder.parent / "executed")))
    setting(tokenizer_class="TransfoXLTokenizer", pretrained_vocab_file="vocab.pkl")(folder)
    (folder / "config.json").write_text('{"model_type": "transfo-xl"}')


def backtracking(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(i+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))


TRAPS = (
    own_code,
    pickled,
    backtracking,
    *map(
        template,
        (
            "{{ lipsum.__globals__['os'].system('touch executed') }}",
            "{{ strftime_now.__globals__ }}{{ raise_exception.__globals__ }}",
            "{{ joiner.__init__.__globals__.os }}",
            "{{ strftime_now('%999999999d') }}",
            "{{ namespace.__class__.__base__.__subclasses__() }}",
            "{{ '{0.__class__.__mro__}'.format(messages) }}",
            "{% include '/etc/passwd' %}",
            "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
            "{% if 1 %}" * 5000 + "x" + "{% endif %}" * 5000,
            "{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}",
        ),
    ),
    setting(auto_map={"AutoTokenizer": ["evil/repo--evil.Evil", None]}, tokenizer_class="Evil"),
    *odd("tokenizer_class", [], {}, "../../x", "os.system"),
    *odd("model_max_length", True, float("nan"), 10**400, []),
    *odd("added_tokens_decoder", [], 7, {"x": {}}, {"-1": {"content": "a"}}, {"0": 7}),
    *odd("bos_token", 7, [], {}, {"content": 7}),
    *odd("chat_template", 7, [], [{"name": "default", "template": "x"}, {"name": 7}]),
    setting(tokenizer_file="/dev/zero", vocab_file="/etc/passwd", name_or_path="/etc/passwd"),
)


def test_nothing_of_a_tokenizer_is_executed(model: Path, tmp_path: Path) -> None:
    with Workers(tmp_path, replace(limited.LIMITS, seconds=60), most=1) as workers:
        for number, write in enumerate(TRAPS):
            folder = shutil.copytree(model, tmp_path / str(number))
            write(folder)
            opening = limited.Opening(str(folder), folder)
            try:
                limited._only(workers, opening)
                row = {"messages": [{"role": "user", "content": "hi" + "i" * 40 + "!"}, *ROW["messages"][1:]]}
                (found,) = limited._only(workers, limited._Count(opening, [row], 4096))
                assert "passwd" not in str(found)
            except PhiftError as error:
                assert str(folder) in str(error.where)  # noqa: PT017 - it is either
    assert not (tmp_path / "executed").exists()
    assert not Path("executed").exists()


def mutated(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    bits = (
        b"",
        b"\xff",
        b"{",
        b"]",
        b'"',
        b"null",
        b"-1",
        b"9" * 30,
        b"[" * 2000,
        b"\\ud800",
        b"{% for i in x %}",
        b"}}",
    )
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        data[at : at + draw.choice((0, 1, 4, 40))] = draw.choice(bits) or bytes([draw.randrange(256)])
    return bytes(data[: draw.randrange(len(data) + 1)] if draw.random() < 0.1 else data)


def test_mutated_tokenizers_and_templates_count_or_say_why_not(
    own: Path, model: Path, rows: Path, tmp_path: Path
) -> None:
    """Each is opened and used in one process after the other, as `find_tokenizer` does, which starts one for each."""
    draw = random.Random(0)  # noqa: S311 - can be repeated, is no secret
    with Workers(tmp_path, replace(limited.LIMITS, seconds=60), most=1) as workers:
        seen = {"counted": 0, "told": 0}
        for number in range(EXAMPLES):
            folder = shutil.copytree(model, tmp_path / str(number))
            path = draw.choice([path for path in sorted(folder.iterdir()) if path.name != "config.json"])
            path.write_bytes(mutated(path.read_bytes(), draw))
            opening = limited.Opening(str(folder), folder)
            try:
                limited._only(workers, opening)
                found: Any = limited._only(workers, limited._Count(opening, [ROW], 4096))
                assert len(found) == 1
                seen["counted"] += 1
            except PhiftError as error:
                assert str(folder) in str(error.where)  # noqa: PT017 - it is either
                seen["told"] += 1
            shutil.rmtree(folder)
    assert sum(seen.values()) == EXAMPLES
    assert all(seen.values())
