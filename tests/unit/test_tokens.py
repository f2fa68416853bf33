from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from phift.component.preprocessing import ChatTokenizer
from phift.errors import DataError, DataNotFound, MissingDependency
from phift.local.work import standin
from phift.local.work.engine import preprocess
from phift.local.work.engine.job import Job
from phift.tokens.count import SAMPLE_ROWS, Counted, measure, token_findings
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
