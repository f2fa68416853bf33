from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phift.check.findings import Finding
from phift.component.preprocessing import ChatTokenizer
from phift.data.workers import Workers
from phift.errors import DataError, DataNotFound, MissingDependency
from phift.local.work import standin
from phift.local.work.engine import preprocess
from phift.local.work.engine.job import Job
from phift.tokens.count import SAMPLE_ROWS, Counted, measure, token_findings
from phift.tokens.limited import LIMITS, LimitedTokenizer, Opening
from phift.tokens.tokenizer import load_tokenizer
from unit.fakes import codes

Row = dict[str, Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    standin.write_checkpoint(folder, "Phi-4")
    return folder


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> ChatTokenizer:
    return load_tokenizer(model)


def chat(question: str, answer: str) -> Row:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def chats(count: int, seed: int = 1) -> list[Row]:
    draw = random.Random(seed)  # noqa: S311 - reproducible test data
    return [chat("word " * draw.randint(1, 40), "answer " * draw.randint(1, 40)) for _ in range(count)]


def write(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


BAD = {"messages": [{"role": "nobody", "content": "a secret"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize("limit", [-1, 100, 60, 30])
def test_the_counts_are_what_the_engine_does_with_the_rows(
    tmp_path: Path, model: Path, tokenizer: ChatTokenizer, limit: int
) -> None:
    files = {
        split: write(tmp_path / f"{split}.jsonl", chats(count, seed=count))
        for split, count in (("train", 300), ("validation", 70), ("test", 30))
    }
    work = tmp_path / "work"
    work.mkdir()
    (work / "model").symlink_to(model, target_is_directory=True)
    inputs = {f"{split}_file_path": str(path) for split, path in files.items()}
    job = Job("job", {**inputs, "max_seq_length": str(limit)}, {}, (), work, "http://127.0.0.1:1")
    preprocess.run(job)
    engine = json.loads((job.data / preprocess.COUNTS).read_text())
    report = measure(files, tokenizer, max_seq_length=limit, exact=True)
    assert report.counted == "exact"
    for split, tokens in report.splits.items():
        counts = engine[split]
        assert (tokens.rows, tokens.cut) == (counts["read"], counts["truncated"])
        assert (tokens.without_answer, tokens.assistant_tokens) == (
            counts["without_answer"],
            counts["assistant_tokens"],
        )
        assert tokens.rows - (tokens.without_answer or 0) == counts["kept"]
        encoded = tokenizer.encode_batch([json.loads(line) for line in files[split].read_text().splitlines()])
        cut = [ids[: report.limit] for ids in encoded if isinstance(ids, list)]
        assert sum(len(ids) for ids in cut if any(tokenizer.trained(ids))) == counts["tokens"]
        assert sum(map(len, cut)) == tokens.tokens - tokens.tokens_lost
    assert bool(report.splits["train"].without_answer) == (limit > 0)


def test_lengths_are_described_as_they_are(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    rows = chats(500)
    lengths = [len(ids) for ids in tokenizer.encode_batch(rows) if isinstance(ids, list)]
    report = measure({"train": write(tmp_path / "t.jsonl", rows)}, tokenizer, max_seq_length=-1, exact=True)
    tokens = report.splits["train"]
    ordered = sorted(lengths)
    assert tokens.tokens == sum(lengths)
    assert tokens.mean == sum(lengths) / 500
    assert tokens.quantiles == {
        0.0: ordered[0],
        0.05: ordered[24],
        0.25: ordered[124],
        0.5: ordered[249],
        0.75: ordered[374],
        0.95: ordered[474],
        0.99: ordered[494],
        1.0: ordered[499],
    }
    assert (tokens.longest, lengths[tokens.longest_line - 1]) == (max(lengths), max(lengths))
    for low, high, count in tokens.histogram:
        assert count == sum(low <= length < high for length in lengths)
    assert sum(count for *_, count in tokens.histogram) == 500
    assert [high for _, high, _ in tokens.histogram[:-1]] == [low for low, *_ in tokens.histogram[1:]]


def test_a_sample_is_seeded_and_stands_for_all_rows(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    long, short = chat("word " * 60, "answer"), chat("word", "answer")
    path = write(tmp_path / "t.jsonl", [long if number % 4 == 0 else short for number in range(3_000)])
    first, again, other = (
        measure({"train": path}, tokenizer, max_seq_length=40, exact=False, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.splits["train"].without_answer_lines != other.splits["train"].without_answer_lines
    assert first.counted == "sample"
    tokens = first.splits["train"]
    assert (tokens.rows, tokens.rows_counted) == (3_000, SAMPLE_ROWS)
    assert tokens.without_answer is not None
    assert 650 < tokens.of_all(tokens.without_answer) < 850
    assert "about " in token_findings(first)[0].message
    assert all(line % 4 == 1 for line in tokens.without_answer_lines)


def test_every_row_is_as_likely_to_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phift.tokens.count.SAMPLE_ROWS", 5)
    path = write(tmp_path / "t.jsonl", [chat("q" * 40 * number, "a") for number in range(1, 21)])
    drawn = [0] * 20
    for seed in range(800):
        tokens = measure({"train": path}, None, max_seq_length=-1, exact=False, seed=seed).splits["train"]
        drawn[tokens.longest_line - 1] += 1
        assert tokens.rows_counted == 5
    # The highest of 5 of 20 is the k-th with probability C(k-1, 4) / C(20, 5): the last with a quarter.
    assert 150 < drawn[19] < 250
    assert not any(drawn[:4])
    assert sum(drawn[9:]) > 700


def test_a_small_file_is_counted_whole(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    path = write(tmp_path / "t.jsonl", chats(50))
    assert measure({"train": path}, tokenizer, max_seq_length=64, exact=False) == measure(
        {"train": path}, tokenizer, max_seq_length=64, exact=True
    )


def test_without_a_tokenizer_it_is_an_estimate_that_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [chat("q" * 400, "a" * 100), chat("q" * 40, "a" * 100)] * 20)
    report = measure({"train": path}, None, max_seq_length=80, exact=True, reason="transformers is not installed")
    assert report.counted == "estimate"
    tokens = report.splits["train"]
    assert (tokens.tokens, tokens.cut, tokens.without_answer) == (20 * (125 + 35), 20, 20)
    assert (tokens.assistant_tokens, tokens.tokens_lost) == (20 * 25, 20 * 45)
    findings = token_findings(report)
    assert codes(findings) == ["DATA_TOKENS_ESTIMATED", "DATA_NO_ANSWER_LEFT", "DATA_CUT"]
    assert "4 characters a token (transformers is not installed)" in findings[0].message
    assert all("about 20 of 40" in finding.message for finding in findings[1:])
    assert "estimated" in str(report)


def test_an_estimate_counts_tool_calls_and_stops_nobody(tmp_path: Path) -> None:
    call = [{"function": {"name": "weather"}}]
    row = {"messages": [{"role": "user", "content": "q" * 400}, {"role": "assistant", "tool_calls": call}]}
    report = measure({"train": write(tmp_path / "t.jsonl", [row])}, None, max_seq_length=50, exact=True)
    assert report.splits["train"].tokens == 109  # 400 characters and 35 of JSON
    assert {finding.severity for finding in token_findings(report)} == {"note", "warning"}


def test_rows_that_the_template_refuses_are_counted_and_named(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    path = write(tmp_path / "t.jsonl", [*chats(20), *[BAD] * 30, *chats(20)])
    report = measure({"train": path}, tokenizer, max_seq_length=-1, exact=True)
    tokens = report.splits["train"]
    assert (tokens.rows_counted, tokens.refused, len(tokens.problems)) == (70, 30, 20)
    assert tokens.problems[0][0] == f"{path}:21"
    (finding,) = token_findings(report)
    assert (finding.code, finding.severity, finding.place) == ("DATA_TEMPLATE", "error", f"{path}:21")
    assert "30 of 70" in finding.message
    assert "secret" not in f"{report}{report.to_dict()}{report._repr_html_()}{finding}"


@pytest.mark.parametrize(
    ("split", "kept", "severity"),
    [
        ("train", 10, "warning"),
        ("train", 9, "error"),
        ("validation", 1, "warning"),
        ("validation", 0, "error"),
        ("test", 0, "warning"),
    ],
)
def test_too_few_rows_with_an_answer_stop_the_run(
    tmp_path: Path, tokenizer: ChatTokenizer, split: str, kept: int, severity: str
) -> None:
    rows = [chat("a", "b")] * kept + [chat("word " * 100, "answer")] * 20
    report = measure({split: write(tmp_path / "t.jsonl", rows)}, tokenizer, max_seq_length=50, exact=True)
    dropped, cut = token_findings(report)
    assert (dropped.code, dropped.severity) == ("DATA_NO_ANSWER_LEFT", severity)
    assert dropped.place.endswith(f":{kept + 1}")
    assert f"20 of {kept + 20} {split} rows keep no assistant token within 50 tokens" in dropped.message
    assert (severity == "error") == ("It needs at least" in dropped.message)
    assert (cut.code, cut.severity) == ("DATA_CUT", "warning")


def test_the_cut_says_whose_limit_it_is_and_the_way_out(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    path = write(tmp_path / "t.jsonl", [*chats(20), chat("a", "word " * 6_000)])
    own = measure({"train": path}, tokenizer, max_seq_length=1_000, exact=True)
    longest = own.splits["train"].longest
    (finding,) = token_findings(own)
    assert finding.message.startswith("1 of 21 train rows are longer than max_seq_length (1,000 tokens);")
    assert f"the longest counted row has {longest:,}" in finding.fix
    assert finding.place == f"{path}:21"
    for given in (-1, 1_000_000):
        (finding,) = token_findings(measure({"train": path}, tokenizer, max_seq_length=given, exact=True))
        assert "the model's longest input (4,096 tokens)" in finding.message
        assert "max_seq_length" not in finding.fix


def test_unknown_markers_are_a_note_and_no_number(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    bare = ChatTokenizer(source="bare", tokenizer=tokenizer.tokenizer)
    report = measure({"train": write(tmp_path / "t.jsonl", chats(20))}, bare, max_seq_length=-1, exact=True)
    assert report.splits["train"].assistant_tokens is None
    assert report.splits["train"].without_answer is None
    assert codes(token_findings(report)) == ["DATA_MARKERS_UNKNOWN"]
    assert "?" in str(report)


def test_nothing_to_say_of_good_data(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    report = measure({"train": write(tmp_path / "t.jsonl", chats(20))}, tokenizer, max_seq_length=-1, exact=True)
    assert token_findings(report) == []


def test_progress_ends_at_the_end(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    events: list[Counted] = []
    files = {split: write(tmp_path / split, chats(600)) for split in ("train", "test")}
    measure(files, tokenizer, max_seq_length=-1, exact=True, on_progress=events.append)
    assert [event.rows for event in events] == [256, 512, 600] * 2
    assert [event.share for event in events if event.rows == 600] == [1.0, 1.0]
    assert 0 < events[0].share < events[1].share < 1


def test_large_rows_go_in_small_batches(tmp_path: Path) -> None:
    events: list[Counted] = []
    path = write(tmp_path / "t.jsonl", [chat("q" * 1_000_000, "a")] * 6)
    measure({"train": path}, None, max_seq_length=-1, exact=True, on_progress=events.append)
    assert [event.rows for event in events] == [2, 4, 6]


def test_it_is_shown_as_text_html_and_values(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    path = write(tmp_path / "<b>.jsonl", [*chats(30), BAD])
    report = measure({"<i>": path}, tokenizer, max_seq_length=100, exact=True)
    text, html = str(report), report._repr_html_()
    assert text.startswith("Tokens of every row, counted with the tokenizer of ")
    assert text.count("<- cut at 100") == 1
    assert "█" in text
    assert max(map(len, text.splitlines()[1:3])) < 120
    assert "<b>.jsonl" not in html
    assert "&lt;b&gt;.jsonl" in html
    assert "&lt;i&gt;" in html
    values = json.loads(json.dumps(report.to_dict()))
    assert values["splits"]["<i>"]["quantiles"]["0.5"] == report.splits["<i>"].quantiles[0.5]
    assert values["counted"] == "exact"


def test_an_empty_file_is_no_error(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    path = write(tmp_path / "t.jsonl", [])
    for exact in (True, False):
        report = measure({"train": path}, tokenizer, max_seq_length=-1, exact=exact)
        assert (report.splits["train"].rows, report.splits["train"].mean) == (0, 0)
        assert token_findings(report) == []
        assert str(report)
        assert report._repr_html_()
    assert measure({}, tokenizer, max_seq_length=-1, exact=True).splits == {}


def test_what_cannot_be_read_is_an_error_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="no such file"):
        measure({"train": tmp_path / "missing"}, None, max_seq_length=-1, exact=True)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")
    with pytest.raises(DataError, match="cannot be read as chat data"):
        measure({"train": broken}, None, max_seq_length=-1, exact=False)


def test_a_plot_has_a_line_a_split_and_the_limit(
    tmp_path: Path, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    files = {split: write(tmp_path / split, chats(30)) for split in ("train", "test")}
    files["validation"] = write(tmp_path / "validation", [])
    report = measure(files, tokenizer, max_seq_length=50, exact=True)
    ax = report.plot(Figure().subplots())
    assert len(ax.patches) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["train, 30 rows", "test, 30 rows", "cut at 50"]  # type: ignore[union-attr]  # it has one
    matplotlib.use("Agg")
    own = report.plot()
    assert own.figure is not ax.figure
    pyplot.close("all")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match="matplotlib is not installed"):
        report.plot()


# ---------------------------------------------------------------- marks of a template in the texts


def marks(tmp_path: Path, rows: Sequence[Row], tokenizer: ChatTokenizer | None, *, exact: bool = True) -> list[Finding]:
    report = measure({"train": write(tmp_path / "t.jsonl", rows)}, tokenizer, max_seq_length=-1, exact=exact)
    json.dumps(report.to_dict())
    return [each for each in token_findings(report) if each.code in ("DATA_SPECIAL_TOKENS", "DATA_TEMPLATE_TWICE")]


@pytest.mark.parametrize("known", [True, False])
def test_special_tokens_in_a_text_are_told_with_count_and_place(
    tmp_path: Path, tokenizer: ChatTokenizer, known: bool
) -> None:
    rows = [chat("word", "paraphrase<|endoftext|>") if number % 4 == 2 else chat("word", "a") for number in range(40)]
    rows[30] = chat("a <|end|> b", "c")
    (finding,) = marks(tmp_path, rows, tokenizer if known else None)
    assert (finding.code, finding.severity, finding.place) == (
        "DATA_SPECIAL_TOKENS",
        "warning",
        f"{tmp_path}/t.jsonl:3",
    )
    assert finding.message.startswith("10 of all 40 train rows ")
    assert "<|endoftext|> in 9, <|end|> in 1; in texts of assistant, user." in finding.message
    assert "paraphrase" not in str(finding)


def test_special_tokens_are_the_tokenizers_own(tmp_path: Path, model: Path) -> None:
    own = load_tokenizer(model)
    own.tokenizer.add_special_tokens({"additional_special_tokens": ["[GO]", "<|end|>", " "]})
    (finding,) = marks(tmp_path, [chat("Press [GO].", "b <unk> c")] * 20, own)
    assert "[GO] in 20; in texts of user" in finding.message
    assert marks(tmp_path, [chat("Press [GO].", "b")] * 20, None) == []


def test_a_token_in_a_tool_call_counts_and_what_a_model_says_itself_does_not(
    tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "say", "arguments": {"text": "<|end|>"}}}]}
    row = {"messages": [{"role": "user", "content": "a"}, call]}
    (finding,) = marks(tmp_path, [row] * 20, None)
    assert "<|end|> in 20; in texts of assistant" in finding.message
    own = replace(tokenizer, tokenizer=copy.deepcopy(tokenizer.tokenizer))
    own.tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    assert marks(tmp_path, [chat("a", "<think>b</think>c")] * 20, own) == []
    assert codes(marks(tmp_path, [chat("<think>a", "c")] * 20, own)) == ["DATA_SPECIAL_TOKENS"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("<|user|>\nHow?<|end|>\n<|assistant|>\n", "Phi"),
        ("<|system|>Be kind.<|end|><|user|>How?", "Phi"),
        (" <s><|user|>\nHow?", "Phi"),
        ("<|im_start|>user<|im_sep|>How?<|im_end|>", "ChatML or Phi-4"),
        ("<|im_start|>system\nBe kind.<|im_end|>", "ChatML or Phi-4"),
        ("<s>[INST] How? [/INST]", "Llama 2 or Mistral"),
        ("<<SYS>>Be kind.<</SYS>>", "Llama 2 or Mistral"),
        ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>How?", "Llama 3"),
        ("<bos><start_of_turn>user\nHow?<end_of_turn>", "Gemma"),
        ("### Instruction:\nHow?\n\n### Response:", "Alpaca"),
        ("Below is an instruction that describes a task. Write.\n\n### Instruction:\nHow?", "Alpaca"),
        ("A chat.\n### Human: How?\n### Assistant:", "Vicuna"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_template_in_a_text_is_named(
    tmp_path: Path, tokenizer: ChatTokenizer, text: str, name: str, known: bool
) -> None:
    rows = [chat(text, "So."), *chats(19)]
    (finding,) = marks(tmp_path, rows, tokenizer if known else None)
    assert (finding.code, finding.place) == ("DATA_TEMPLATE_TWICE", f"{tmp_path}/t.jsonl:1")
    assert f"{name} in 1; in texts of user." in finding.message
    (finding,) = marks(tmp_path, [chat("How?", text), *chats(19)], tokenizer if known else None)
    assert f"{name} in 1; in texts of assistant." in finding.message


@pytest.mark.parametrize(
    "text", ["a[0] < b | c > d", "# Instruction", "an [INST", "<user>", "Response: b", "<|x|", "{s}"]
)
def test_what_only_looks_like_a_mark_is_a_text(tmp_path: Path, tokenizer: ChatTokenizer, text: str) -> None:
    assert marks(tmp_path, [chat(text, text)] * 20, tokenizer) == marks(tmp_path, [chat(text, text)] * 20, None) == []


def test_of_a_sample_it_says_how_many_rows_were_looked_at(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    rows = [chat("word", "a<|end|>")] * 1500
    (finding,) = marks(tmp_path, rows, tokenizer, exact=False)
    assert finding.message.startswith("1,000 of the 1,000 train rows that were looked at, of 1,500, ")


def test_the_tokenizer_of_another_process_tells_its_special_tokens(tmp_path: Path, model: Path) -> None:
    workers = Workers(Path(), LIMITS, most=1)
    try:
        limited = LimitedTokenizer.open(Opening(str(model), model), workers)
        assert {"<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"} <= set(limited.specials)
    finally:
        workers.end()
