from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phift.component.preprocessing import ChatTokenizer
from phift.errors import DataError, DataNotFound
from phift.local.work import standin
from phift.tokens.conversation import Conversation
from phift.tokens.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    standin.write_checkpoint(folder, "Phi-4")
    return folder


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> ChatTokenizer:
    return load_tokenizer(model)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]}


def test_it_is_the_text_of_the_template_with_the_trained_tokens_marked(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    path = write(tmp_path / "t.jsonl", chat("x", "y"), chat("hi", "Größe 🙂", "more", "two"))
    conversation = Conversation.show(path, 2, tokenizer)
    title, _, body = str(conversation).partition("\n")
    assert title.startswith(f"{path}:2, {len(conversation.tokens)} tokens, ")
    assert body == (
        "<|user|>\nhi<|end|>\n<|assistant|>⟦\nGröße 🙂<|end|>\n⟧<|user|>\nmore<|end|>\n"
        "<|assistant|>⟦\ntwo<|end|>\n<|endoftext|>⟧"
    )
    row = json.loads(path.read_text().splitlines()[1])
    assert "".join(text for text, _ in conversation.tokens) == tokenizer.render(row)


def test_the_place_of_the_cut_is_shown(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    path = write(tmp_path / "t.jsonl", chat("hi", "one two three four five"))
    whole = Conversation.show(path, 1, tokenizer)
    cut = Conversation.show(path, 1, tokenizer, max_seq_length=9)
    kept = "".join(text for text, _ in whole.tokens[:9])
    before, mark, after = str(cut).partition("✂ cut after 9 tokens ✂")
    assert mark
    assert before.partition("\n")[2].replace("⟦", "").replace("⟧", "") == kept
    assert kept + after == "".join(text for text, _ in whole.tokens)
    assert not any(trained for _, trained in cut.tokens[9:])
    assert "⟦" not in str(Conversation.show(path, 1, tokenizer, max_seq_length=3))
    assert "✂" not in str(Conversation.show(path, 1, tokenizer, max_seq_length=len(whole.tokens)))


def test_every_text_is_escaped_in_a_notebook(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    path = write(tmp_path / "<u>.jsonl", chat("<script>x</script>", "<b>y</b>"))
    for each in (tokenizer, None):
        html = Conversation.show(path, 1, each, max_seq_length=20)._repr_html_()
        assert "<script>" not in html
        assert "<b>y" not in html
        assert "<u>" not in html
        assert "&lt;script&gt;" in html
    assert 'class="cut"' in Conversation.show(path, 1, tokenizer, max_seq_length=12)._repr_html_()
    assert 'class="trained"' in Conversation.show(path, 1, tokenizer)._repr_html_()


def test_without_a_tokenizer_it_says_what_it_is_not(tmp_path: Path) -> None:
    calls = [{"function": {"name": "weather"}}]
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": calls}]}
    shown = str(Conversation.show(write(tmp_path / "t.jsonl", row), 1, None))
    assert "not what the model sees" in shown
    assert shown.endswith('user: hi\nassistant: [{"function": {"name": "weather"}}]')


def test_a_row_that_the_template_refuses_is_shown_with_the_reason(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    row = {"messages": [{"role": "nobody", "content": "hi"}]}
    shown = Conversation.show(write(tmp_path / "t.jsonl", row), 1, tokenizer)
    assert "does not take it (TemplateError)" in shown.note
    assert str(shown).endswith("nobody: hi")


def test_unknown_markers_are_said(tmp_path: Path, model: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "finetune_config.json").unlink()
    shown = Conversation.show(write(tmp_path / "t.jsonl", chat("a", "b")), 1, load_tokenizer(bare))
    assert "not known which tokens are trained on" in str(shown)


def test_its_repr_says_nothing_of_the_text(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    assert "hush" not in repr(Conversation.show(write(tmp_path / "t.jsonl", chat("hush", "b")), 1, tokenizer))


@pytest.mark.parametrize("number", [0, -1, 2])
def test_a_row_that_is_not_there(tmp_path: Path, number: int) -> None:
    with pytest.raises(DataNotFound, match="no such row"):
        Conversation.show(write(tmp_path / "t.jsonl", chat("a", "b")), number, None)


@pytest.mark.parametrize("row", [None, 3, {}, {"messages": None}, {"messages": [1]}])
def test_a_row_that_is_no_conversation(tmp_path: Path, row: Any) -> None:
    with pytest.raises(DataError, match="no conversation"):
        Conversation.show(write(tmp_path / "t.jsonl", row), 1, None)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="no such file"):
        Conversation.show(tmp_path / "missing", 1, None)
    (tmp_path / "broken").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Conversation.show(tmp_path / "broken", 1, None)
