"""Azure's published preprocessing rules one by one: what phift says of the rows, and what the engine does with them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phift.component.preprocessing import SPLITS, ChatTokenizer, Refused
from phift.config.data import DataConfig
from phift.data.prepare import PreparedDataset, prepare_dataset
from phift.errors import DataError
from phift.local.work import standin
from phift.local.work.engine import preprocess, validate
from phift.local.work.engine.job import Job
from phift.local.work.engine.preprocess import IGNORED
from phift.tokens.count import TokenReport, measure, token_findings
from phift.tokens.tokenizer import load_tokenizer
from properties.preprocessing_rules import (
    AZURE,
    CALL,
    CALLS,
    MODEL_LIMIT,
    NO_TEXT,
    OURS,
    PACKAGE,
    PHI_3,
    PHI_4,
    PLAIN,
    TOOL,
    Row,
    Rule,
    assistant,
    beside_good,
    chat,
    good,
    lines,
    said,
    system,
    user,
)

DROPS = ("without_messages", "too_short", "without_tools", "without_answer")

# What Azure trains on, and phift refuses.
STRICTER = (
    Rule(
        id="assistant-first",
        says="a user speaks first",
        source=OURS,
        content=beside_good(chat(assistant(), user(), assistant())),
        engine="keeps",
        phift=r"refuses messages\[0\]: a conversation starts with system or user, not assistant",
    ),
    Rule(
        id="user-twice",
        says="user and assistant speak in turn",
        source=f"{PACKAGE}, by its count of markers",
        content=beside_good(chat(user(), user(), assistant())),
        engine="drops without_answer",
        phift=r"refuses messages\[1\]: after user comes assistant, not user",
    ),
    Rule(
        id="assistant-twice",
        says="assistant and user speak in turn",
        source=OURS,
        content=beside_good(chat(user(), assistant(), assistant())),
        engine="keeps",
        phift=r"refuses messages\[2\]: after assistant comes user, not assistant",
    ),
    Rule(
        id="user-last",
        says="the assistant speaks last",
        source=OURS,
        content=beside_good(chat(user(), assistant(), user())),
        engine="keeps",
        phift="refuses the last message is from user, not from assistant",
    ),
    Rule(
        id="empty-content",
        says="a message says something",
        source=OURS,
        content=beside_good(chat(user(""), assistant())),
        engine="keeps",
        phift=r"refuses messages\[0\]: the user message has no text",
    ),
    Rule(
        id="blank-content",
        says="a message says more than blanks",
        source=OURS,
        content=beside_good(chat(user(), assistant(" \n"))),
        engine="keeps",
        phift=r"refuses messages\[1\]: the assistant message has no text",
    ),
    Rule(
        id="user-calls-a-tool",
        says="only the assistant calls tools",
        source=OURS,
        content=beside_good(chat({**user(), "tool_calls": [CALL]}, assistant())),
        engine="keeps",
        phift=r"refuses messages\[0\]: only the assistant calls tools, not user",
    ),
    Rule(
        id="call-without-an-answer",
        says="a tool answers a call",
        source=OURS,
        content=beside_good(chat(user(), CALLS, user(), assistant())),
        engine="keeps",
        phift=r"refuses messages\[2\]: after tool call comes tool, not user",
    ),
    Rule(
        id="calls-not-a-list",
        says="tool calls are a list",
        source=OURS,
        content=beside_good(chat(user(), {**assistant(), "tool_calls": "weather"})),
        engine="keeps",
        phift=r"refuses `messages\[1\]\.tool_calls` is text that is not JSON",
    ),
    Rule(
        id="not-a-number",
        says="NaN, which JSON has not, is a missing value",
        source=OURS,
        content=beside_good(lines({**PLAIN, "score": float("nan")})),
        engine="keeps",
        phift="finds DATA_COLUMNS_LEFT_OUT",
    ),
)
RULES = (*AZURE, *STRICTER)
EVERY_RULE = [pytest.param(rule, id=rule.id) for rule in RULES]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name in (PHI_3, PHI_4):
        standin.write_checkpoint(folder / name, name)
    return {name: folder / name for name in (PHI_3, PHI_4)}


@pytest.fixture(scope="module")
def tokenizers(models: dict[str, Path]) -> dict[str, ChatTokenizer]:
    return {name: load_tokenizer(folder) for name, folder in models.items()}


def given_files(folder: Path, rule: Rule) -> dict[str, Path]:
    """Write the rule's training file, and good rows for the other splits."""
    files = {"train": folder / rule.name, "validation": folder / "validation.jsonl", "test": folder / "test.jsonl"}
    for split, path in files.items():
        path.write_bytes(rule.content if split == "train" else lines(*good(2, split)))
    return files


def job(folder: Path, model: Path, files: dict[str, Path], max_seq_length: int = -1) -> Job:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    if not (work / "model").is_symlink():
        (work / "model").symlink_to(model, target_is_directory=True)
    inputs = {f"{split}_file_path": str(path) for split, path in files.items()}
    inputs |= {"mlflow_model_path": str(model), "max_seq_length": str(max_seq_length)}
    return Job("job", inputs, {}, (), work, "http://127.0.0.1:1")


def counts_of(job: Job) -> dict[str, dict[str, int]]:
    document: dict[str, dict[str, int]] = json.loads((job.data / preprocess.COUNTS).read_text())
    return document


def engine_says(job: Job) -> str:
    """Run the engine's checks and preprocessing, and say what became of the training rows."""
    try:
        validate.run(job)
        preprocess.run(job)
    except DataError as error:
        return f"fails {error}"
    train = counts_of(job)["train"]
    dropped = [name for name in DROPS if train[name]]
    assert train["kept"] == train["read"] - sum(train[name] for name in DROPS)
    return f"drops {' '.join(dropped)}" if dropped else "keeps"


def phift_says(prepared: PreparedDataset, tokens: TokenReport) -> str:
    found = [finding for finding in (*prepared.findings, *token_findings(tokens)) if finding.code != "DATA_FORMAT"]
    return f"finds {' '.join(finding.code for finding in found)}" if found else "keeps"


def prepare(files: Mapping[str, Any], folder: Path, **data: Any) -> PreparedDataset:
    return prepare_dataset(DataConfig(**files, **data), folder / "out")


def count(files: dict[str, Path], tokenizer: ChatTokenizer, max_seq_length: int = -1) -> TokenReport:
    return measure(files, tokenizer, max_seq_length=max_seq_length, exact=True)


def test_every_rule_has_a_name_of_its_own() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.id) for rule in RULES])
def test_the_engine_does_what_is_published(tmp_path: Path, models: dict[str, Path], rule: Rule) -> None:
    outcome = engine_says(job(tmp_path, models[rule.model], given_files(tmp_path, rule), rule.max_seq_length))
    verb, _, expected = rule.engine.partition(" ")
    assert outcome.split(" ")[0] == verb
    assert expected in outcome


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_phift_says_so_before_it_costs_anything(
    tmp_path: Path, tokenizers: dict[str, ChatTokenizer], rule: Rule
) -> None:
    files = given_files(tmp_path, rule)
    verb, _, expected = rule.phift.partition(" ")
    if verb in ("refuses", "reads"):
        with pytest.raises(DataError) as raised:
            prepare(files, tmp_path)
        reasons = [reason for _, reason in raised.value.problems]
        assert (verb == "refuses") == bool(reasons)
        assert all(re.match(expected, reason) for reason in reasons)
        return
    prepared = prepare(files, tmp_path)
    outcome = phift_says(prepared, count(prepared.files, tokenizers[rule.model], rule.max_seq_length))
    assert outcome.split(" ")[0] == verb
    assert expected in outcome


REFUSED = [rule for rule in RULES if rule.phift.startswith("refuses") and rule.id != "nine-rows-of-ten"]


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.id) for rule in REFUSED])
def test_without_the_refused_row_the_engine_keeps_all(tmp_path: Path, models: dict[str, Path], rule: Rule) -> None:
    prepared = prepare(given_files(tmp_path, rule), tmp_path, bad_rows="set_aside")
    assert [account.aside for account in prepared.accounts] == [1, 0, 0]
    assert prepared.rows["train"] == 20
    assert engine_says(job(tmp_path, models[rule.model], prepared.files)) == "keeps"


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.id in ("content-parts", "sharegpt-keys", "csv", "tsv")]
)
def test_what_phift_mends_the_engine_keeps(tmp_path: Path, models: dict[str, Path], rule: Rule) -> None:
    prepared = prepare(given_files(tmp_path, rule), tmp_path)
    assert engine_says(job(tmp_path, models[rule.model], prepared.files)) == "keeps"


# ---------------------------------------------------------------- rules about more than a row


@pytest.mark.parametrize(
    ("splits", "azure"),
    [
        (("train",), (80, 10, 10)),
        (("train", "test"), (80, 20, 7)),
        (("train", "validation"), (80, 7, 20)),
        (("train", "validation", "test"), (100, 7, 7)),
    ],
)
def test_a_missing_file_is_cut_from_the_training_rows_by_position(
    tmp_path: Path, models: dict[str, Path], splits: Sequence[str], azure: tuple[int, int, int]
) -> None:
    """By `COMPONENT` 80, 10 and 10 %, or 80 and 20 %, in order; phift always gives three files, so nothing is cut."""
    files = {split: tmp_path / f"{split}.jsonl" for split in splits}
    for split, path in files.items():
        path.write_bytes(lines(*good(100 if split == "train" else 7, split)))
    raw = job(tmp_path, models[PHI_4], files)
    assert engine_says(raw) == "keeps"
    assert tuple(counts_of(raw)[split]["kept"] for split in SPLITS) == azure
    first = [place for place, _ in dict(preprocess.split_rows(raw))["train"]]
    assert first == [f"train.jsonl, line {number}" for number in range(1, azure[0] + 1)]
    prepared = prepare(files, tmp_path)
    assert engine_says(job(tmp_path, models[PHI_4], prepared.files)) == "keeps"
    counts = counts_of(raw)
    assert {split: counts[split]["kept"] for split in SPLITS} == prepared.rows
    assert sum(prepared.rows.values()) == 100 + 7 * (len(splits) - 1)


@pytest.mark.parametrize(
    ("given_length", "limit"), [(-1, MODEL_LIMIT), (50, 50), (MODEL_LIMIT, MODEL_LIMIT), (10**6, MODEL_LIMIT)]
)
def test_a_row_is_cut_at_the_smaller_of_two_limits(
    tmp_path: Path, models: dict[str, Path], tokenizers: dict[str, ChatTokenizer], given_length: int, limit: int
) -> None:
    """`PACKAGE`: max_seq_length, or the tokenizer's model_max_length where that is less, and always for -1."""
    long = chat(user(), assistant("word " * 2 * MODEL_LIMIT))
    path = tmp_path / "train.jsonl"
    path.write_bytes(beside_good(long))
    files = dict.fromkeys(SPLITS, path)
    job_ = job(tmp_path, models[PHI_4], files, given_length)
    preprocess.run(job_)
    report = count(files, tokenizers[PHI_4], given_length)
    assert report.limit == limit
    assert counts_of(job_)["train"]["truncated"] == report.splits["train"].cut == 1
    lengths = [len(example_["input_ids"]) for example_ in examples(job_, "train")]
    assert lengths[-1] == max(lengths) == limit


def examples(job: Job, split: str) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in (job.data / f"{split}.jsonl").read_text().splitlines()]


def test_only_the_assistants_tokens_are_trained_on(
    tmp_path: Path, models: dict[str, Path], tokenizers: dict[str, ChatTokenizer]
) -> None:
    """`PACKAGE`: the labels after each response marker up to the next instruction marker are kept, no others."""
    row = chat(system("RULE"), user("ONE"), assistant("two"), user("THREE"), assistant("four"))
    path = tmp_path / "train.jsonl"
    path.write_bytes(lines(*[row] * 10))
    job_ = job(tmp_path, models[PHI_4], dict.fromkeys(SPLITS, path))
    preprocess.run(job_)
    encoded = examples(job_, "train")[0]
    trained = [label for label in encoded["labels"] if label != IGNORED]
    assert tokenizers[PHI_4].tokenizer.decode(trained) == "\ntwo<|end|>\n\nfour<|end|>\n<|endoftext|>"
    assert tokenizers[PHI_4].trained(encoded["input_ids"]) == [label != IGNORED for label in encoded["labels"]]


@pytest.mark.parametrize("null", [{"thinking": None}, {"tool_calls": None, "name": None}])
def test_null_keys_change_nothing(tmp_path: Path, models: dict[str, Path], null: Row) -> None:
    """`PACKAGE`: null keys of a message are dropped before the template sees it."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(lines(*good(10), chat({**user("train 0"), **null}, {**assistant(), **null})))
    job_ = job(tmp_path, models[PHI_4], dict.fromkeys(SPLITS, path))
    preprocess.run(job_)
    encoded = examples(job_, "train")
    assert encoded[10] == encoded[0]


def test_a_system_text_goes_before_the_first_user_text(
    tmp_path: Path, models: dict[str, Path], tokenizers: dict[str, ChatTokenizer]
) -> None:
    """`PACKAGE`: with a blank line between them, where the model has no system role."""
    row = chat(system("RULE"), user("ONE"), assistant("two"))
    path = tmp_path / "train.jsonl"
    path.write_bytes(lines(*[row] * 10))
    job_ = job(tmp_path, models[PHI_3], dict.fromkeys(SPLITS, path))
    preprocess.run(job_)
    ids = examples(job_, "train")[0]["input_ids"]
    assert tokenizers[PHI_3].tokenizer.decode(ids).startswith("<|user|>\nRULE\n\nONE<|end|>")
    assert tokenizers[PHI_3].encode_batch([row]) == [ids]


# ---------------------------------------------------------------- any rows at all

MARKERS = ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>", "<|system|>", "<|user|>\n", "<|assistant|>\nno")
TEXTS = st.one_of(
    st.text(min_size=1, max_size=30).map(lambda text: text + "."),
    st.integers(1, 60).map("word ".__mul__),
    st.lists(st.sampled_from(MARKERS) | st.text(max_size=8), max_size=4).map(lambda parts: " ".join(["a", *parts])),
    st.sampled_from(["word " * 6_000, "\u00e9\u4f60\U0001f600\u200b"]),
)
ANY_ROLE = st.sampled_from(["system", "user", "assistant", "tool", "User", "narrator", ""])
ANY_MESSAGE = st.fixed_dictionaries(
    {"role": ANY_ROLE, "content": TEXTS | st.sampled_from([None, "", " \n", 5])},
    optional={"tool_calls": st.sampled_from([[CALL], [], None, "x"]), "name": st.none() | st.just("Ann")},
)
TURNS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)
ALTERNATING = st.builds(
    lambda before, turns: chat(*before, *(each for ask, reply in turns for each in (user(ask), assistant(reply)))),
    st.lists(st.builds(system, TEXTS), max_size=1),
    TURNS,
)
WITH_TOOLS = st.builds(
    lambda call, text, turns: chat(
        user(), call, said("tool", text), assistant(text), *(each for a, b in turns for each in (user(a), assistant(b)))
    ),
    st.sampled_from([CALLS, NO_TEXT]),
    TEXTS,
    TURNS,
)
BAD = st.sampled_from([{"messages": None}, {"messages": "x"}, {"text": "x"}, [], 5, chat("a", "b")])
ANY_ROW = ALTERNATING | ALTERNATING | WITH_TOOLS | st.lists(ANY_MESSAGE, max_size=4).map(lambda said: chat(*said)) | BAD
EXAMPLES = int(os.environ.get("PHIFT_EXAMPLES", "60"))
LIMITS = st.just(-1) | st.integers(12, 60) | st.integers(12, 200)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    rows=st.lists(ANY_ROW, max_size=20),
    words=st.integers(0, 40),
    limit=LIMITS,
    model=st.sampled_from([PHI_3, PHI_4]),
    tools=st.none() | st.just([TOOL]),
)
@example(rows=[chat(user("word " * 60), assistant())] * 40, words=0, limit=20, model=PHI_4, tools=None)
@example(rows=[chat(user(), CALLS, said("tool", "rain"), assistant())] * 5, words=0, limit=-1, model=PHI_3, tools=None)
@example(rows=[PLAIN] * 5, words=40, limit=20, model=PHI_4, tools=[TOOL])  # too few are left
@example(rows=[], words=40, limit=12, model=PHI_4, tools=None)  # none is left
def test_the_check_foretells_what_the_engine_does_with_each_row(
    models: dict[str, Path],
    tokenizers: dict[str, ChatTokenizer],
    rows: list[Any],
    words: int,
    limit: int,
    model: str,
    tools: list[Row] | None,
) -> None:
    # Rows with tools beside rows without are a rule of their own.
    plain = [chat(user(f"{number} " + "word " * words), assistant()) for number in range(15)]
    every = [{**row, "tools": tools} if tools and isinstance(row, dict) else row for row in (*plain, *rows)]
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "rows.jsonl").write_bytes(lines(*every))
        prepared = prepare({"train": folder / "rows.jsonl"}, folder, bad_rows="set_aside")
        hold_reasons(prepared)
        report = count(prepared.files, tokenizers[model], limit)
        hold_engine(folder, models[model], tokenizers[model], prepared.files, report)


def hold_reasons(prepared: PreparedDataset) -> None:
    """Every kind of reason to refuse a row stands in the table."""
    known = {kind(each) for rule in REFUSED for each in re.split(r"(?<!\\)\|", rule.phift.removeprefix("refuses "))}
    for reason in prepared.accounts[0].reasons:
        assert any(kind(reason).startswith(each) for each in known), reason


def kind(reason: str) -> str:
    """Return a reason, or a pattern of the table, without places and roles."""
    role = "(?:system|user|assistant|tool call|tool)"
    return re.sub(rf"\b{role}(?: or {role})*\b", "role", re.sub(r"\[\d*\]", "", reason.replace("\\", "")))


def hold_engine(
    folder: Path, model: Path, tokenizer: ChatTokenizer, files: dict[str, Path], report: TokenReport
) -> None:
    """Let the engine preprocess the files, and hold what it does with each row against the report."""
    expected: dict[str, list[list[int]]] = {}
    refused: list[str] = []
    for split, path in files.items():
        tokens = report.splits[split]
        expected[split], dropped = [], []
        texts = path.read_text(encoding="utf-8").split("\n")[:-1]
        for number, ids in enumerate(tokenizer.encode_batch([json.loads(text) for text in texts]), start=1):
            if isinstance(ids, Refused):
                refused.append(f"{path.name}, line {number}")
            elif number in tokens.without_answer_lines:
                dropped.append(number)
            else:
                expected[split].append(ids[: report.limit])
        assert len(dropped) == tokens.without_answer
        assert tokens.refused == len(texts) - len(dropped) - len(expected[split])
    fatal = len(expected["train"]) < 10 or not expected["validation"]
    job_ = job(folder, model, files, report.max_seq_length)
    for place in refused:  # one at a time: the first one fails the job, and each is taken out when it has
        with pytest.raises(DataError) as raised:
            preprocess.run(job_)
        assert raised.value.where == place
        blank(files, place)
    if fatal:
        with pytest.raises(DataError, match=r"usable rows|No assistant tokens|No validation rows"):
            preprocess.run(job_)
    else:
        preprocess.run(job_)
    for split in files:
        assert [each["input_ids"] for each in examples(job_, split)] == expected[split]
    severities = {finding.severity for finding in token_findings(report) if finding.code == "DATA_NO_ANSWER_LEFT"}
    if not refused:
        assert fatal == ("error" in severities)


def blank(files: dict[str, Path], place: str) -> None:
    """Make a line blank, so that the numbers of the others stay."""
    name, _, number = place.partition(", line ")
    path = next(path for path in files.values() if path.name == name)
    rows = path.read_bytes().split(b"\n")
    rows[int(number) - 1] = b""
    path.write_bytes(b"\n".join(rows))
