"""Azure's published preprocessing rules as a table: each with its source, and a training file that shows it.

What the engine's own preprocessing does with that file as it lies, and what phift says of it, stands beside it;
`test_preprocessing_rules` holds both against what they do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

COMPONENT = "Azure/azureml-assets, finetune_acft_hf_nlp, src/preprocess/preprocess.py, 2026-07"
PACKAGE = "azureml-acft-contrib-hf-nlp 0.0.91, chat completion preprocessing, 2026-07"
LOADING = f"{PACKAGE}, which loads files with datasets; seen with datasets 5.2.0, 2026-11-23"
OURS = "phift is stricter"

PHI_3, PHI_4 = "Phi-3-mini-4k-instruct", "Phi-4"  # the first has no system role
MODEL_LIMIT = 4096  # of the stand-ins


def said(role: str, content: Any) -> Row:
    return {"role": role, "content": content}


def system(content: Any = "be brief") -> Row:
    return said("system", content)


def user(content: Any = "a question") -> Row:
    return said("user", content)


def assistant(content: Any = "an answer") -> Row:
    return said("assistant", content)


def chat(*messages: Any) -> Row:
    return {"messages": list(messages)}


def good(count: int, name: str = "train") -> list[Row]:
    return [chat(user(f"{name} {number}"), assistant()) for number in range(count)]


def lines(*rows: Any) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def beside_good(*rows: Any) -> bytes:
    return lines(*good(20), *rows)


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CALLS = {"role": "assistant", "content": "I look", "tool_calls": [CALL]}
NO_TEXT = {"role": "assistant", "tool_calls": [CALL]}
PLAIN = chat(user(), assistant())


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule, and a training file that shows it.

    - **engine**: ``keeps`` every row, ``drops`` some (and which counter says so), or ``fails`` with an error.
    - **phift**: ``keeps`` every row, ``refuses`` a row with a reason, ``reads no`` such file, ``finds`` something.
    """

    id: str
    says: str
    source: str
    content: bytes
    engine: str
    phift: str
    name: str = "train.jsonl"
    model: str = PHI_4
    max_seq_length: int = -1


AZURE = (
    # ------------------------------------------------------------ the file
    Rule(
        id="column-missing",
        says="there is a column messages",
        source=PACKAGE,
        content=lines(*({"chat": row["messages"]} for row in good(20))),
        engine="fails There is no column messages",
        phift="reads no",
    ),
    Rule(
        id="column-missing-in-a-row",
        says="a file is one table, so a row without a column that others have is null there, and a null row is removed",
        source=LOADING,
        content=beside_good({"text": "x"}),
        engine="drops without_messages",
        phift="refuses it has no `messages`",
    ),
    Rule(
        id="column-names-stripped",
        says="blanks around the names of columns are removed",
        source=PACKAGE,
        content=lines(*({" messages ": row["messages"]} for row in good(20))),
        engine="keeps",
        phift="keeps",
    ),
    Rule(
        id="other-columns",
        says="columns other than messages and tools are removed",
        source=PACKAGE,
        content=lines(*({**row, "score": 1} for row in good(20))),
        engine="keeps",
        phift="finds DATA_COLUMNS_LEFT_OUT",
    ),
    Rule(
        id="tools-kept",
        says="the column tools is kept and given to the chat template",
        source=PACKAGE,
        content=lines(*({**row, "tools": [TOOL]} for row in good(20))),
        engine="keeps",
        phift="keeps",
    ),
    Rule(
        id="bom",
        says="a byte order mark before the first row is no part of it",
        source=LOADING,
        content=b"\xef\xbb\xbf" + lines(*good(20)),
        engine="keeps",
        phift="keeps",
    ),
    Rule(
        id="blank-lines",
        says="blank lines are no rows",
        source=LOADING,
        content=lines(*good(20), b"\n  \n", PLAIN),
        engine="keeps",
        phift="finds DATA_BLANK_LINES",
    ),
    Rule(
        id="json-list",
        says="a .json file may be one list of rows",
        source=LOADING,
        content=json.dumps(good(20)).encode(),
        name="train.json",
        engine="keeps",
        phift="keeps",
    ),
    Rule(
        id="txt",
        says="the suffix .txt is among the known ones, but nothing loads it",
        source=PACKAGE,
        content=lines(*good(20)),
        name="train.txt",
        engine="fails ends in '.txt'",
        phift="reads no",
    ),
    *(
        Rule(
            id=suffix,
            says=f"a cell of a .{suffix} file is text, and no template takes text for messages",
            source=PACKAGE,
            content=b"messages\n"
            + b"".join(b'"%b"\n' % json.dumps(row["messages"]).replace('"', '""').encode() for row in good(20)),
            name=f"train.{suffix}",
            engine="fails cell is text",
            phift="keeps",
        )
        for suffix in ("csv", "tsv")
    ),
    Rule(
        id="not-json",
        says="a line that is not JSON fails the job",
        source=LOADING,
        content=beside_good(b"{\n"),
        engine="fails Not JSON",
        phift="refuses it is not JSON",
    ),
    Rule(
        id="not-utf8",
        says="a line that is not UTF-8 fails the job",
        source=LOADING,
        content=beside_good(lines(PLAIN).replace(b"question", b"\xff")),
        engine="fails not UTF-8",
        phift="refuses it is not UTF-8",
    ),
    Rule(
        id="not-an-object",
        says="a row that is no object fails the job",
        source=LOADING,
        content=beside_good([1]),
        engine="fails A row is not an object",
        phift="refuses it is not JSON|Expected `object`",
    ),
    Rule(
        id="too-deep",
        says="a row nested too deeply fails the job",
        source=LOADING,
        content=beside_good(b'{"messages": ' + b"[" * 5_000 + b"]" * 5_000 + b"}\n"),
        engine="fails nested too deeply",
        phift="refuses it is nested too deeply|it is not JSON",
    ),
    # ------------------------------------------------------------ the row
    Rule(
        id="null-messages",
        says="a row whose messages are null is removed",
        source=PACKAGE,
        content=beside_good({"messages": None}),
        engine="drops without_messages",
        phift="refuses it has no `messages`",
    ),
    Rule(
        id="empty-messages",
        says="a row whose messages are empty is removed",
        source=PACKAGE,
        content=beside_good(chat()),
        engine="drops without_messages",
        phift="refuses it has 0 messages; at least 2 are needed",
    ),
    Rule(
        id="one-message",
        says="a row of fewer than two messages is removed",
        source=PACKAGE,
        content=beside_good(chat(user())),
        engine="drops too_short",
        phift="refuses it has 1 message; at least 2 are needed",
    ),
    Rule(
        id="messages-text",
        says="the template must take every row: messages that are text",
        source=PACKAGE,
        content=beside_good({"messages": "a question"}),
        engine="fails messages is of type str",
        phift="refuses `messages` is text that is not JSON",
    ),
    Rule(
        id="message-not-an-object",
        says="the template must take every row: a message that is no object",
        source=PACKAGE,
        content=beside_good(chat("a question", "an answer")),
        engine="fails chat template",
        phift=r"refuses messages\[0\] is not an object but a text",
    ),
    Rule(
        id="no-role",
        says="the template must take every row: a message without a role",
        source=PACKAGE,
        content=beside_good(chat({"content": "a question"}, assistant())),
        engine="fails chat template",
        phift=r"refuses messages\[0\] does not say who speaks",
    ),
    Rule(
        id="unknown-role",
        says="the template must take every row: a role that it does not know",
        source=PACKAGE,
        content=beside_good(chat(said("narrator", "x"), assistant())),
        engine="fails chat template",
        phift=r"refuses messages\[0\] is said by nobody known",
    ),
    Rule(
        id="no-content",
        says="the template must take every row: a message without content",
        source=PACKAGE,
        content=beside_good(chat({"role": "user"}, assistant())),
        engine="fails chat template",
        phift=r"refuses messages\[0\]: the user message has no text",
    ),
    Rule(
        id="null-content",
        says="null keys of a message are dropped, the content too",
        source=PACKAGE,
        content=beside_good(chat(user(), assistant(None))),
        engine="fails chat template",
        phift=r"refuses messages\[1\]: the assistant message has no text",
    ),
    Rule(
        id="content-number",
        says="the template must take every row: a content that is no text",
        source=PACKAGE,
        content=beside_good(chat(user(5), assistant())),
        engine="fails chat template",
        phift=r"refuses messages\[0\]\.content is not a text but a number",
    ),
    Rule(
        id="content-image",
        says="the template must take every row: a content with an image",
        source=PACKAGE,
        content=beside_good(chat(user([{"type": "image_url", "image_url": {"url": "x"}}]), assistant())),
        engine="fails chat template",
        phift=r"refuses messages\[0\]\.content\[0\] is not text but an image_url part",
    ),
    Rule(
        id="content-parts",
        says="the template must take every row: a content in parts, which phift joins",
        source=PACKAGE,
        content=beside_good(chat(user([{"type": "text", "text": "a question"}]), assistant())),
        engine="fails chat template",
        phift="keeps",
    ),
    Rule(
        id="sharegpt-keys",
        says="the template must take every row: from and value for role and content, which phift renames",
        source=PACKAGE,
        content=beside_good(chat({"from": "human", "value": "a question"}, {"from": "gpt", "value": "an answer"})),
        engine="fails chat template",
        phift="keeps",
    ),
    Rule(
        id="half-a-surrogate",
        says="the template must take every row: text that is no Unicode",
        source=PACKAGE,
        content=beside_good(chat(user("\ud800"), assistant())),
        engine="fails chat template",
        phift="refuses it is not JSON|it is not UTF-8",
    ),
    Rule(
        id="tool-role",
        says="the template must take every row: a tool's answer, where the model knows no tools",
        source=PACKAGE,
        content=beside_good(chat(user(), CALLS, said("tool", "rain"), assistant())),
        engine="fails chat template",
        phift="finds DATA_TEMPLATE",
    ),
    Rule(
        id="call-without-text",
        says="the template must take every row: a tool call instead of content, where the model knows no tools",
        source=PACKAGE,
        content=beside_good(chat(user(), NO_TEXT, said("tool", "rain"), assistant())),
        engine="fails chat template",
        phift="finds DATA_TEMPLATE",
    ),
    Rule(
        id="null-keys",
        says="null keys of a message are dropped",
        source=PACKAGE,
        content=beside_good(chat({**user(), "thinking": None}, {**assistant(), "tool_calls": None})),
        engine="keeps",
        phift="keeps",
    ),
    Rule(
        id="tools-in-some-rows",
        says="a row whose tools are null or empty is removed where the file has that column",
        source=LOADING,
        content=beside_good({**PLAIN, "tools": [TOOL]}, *({**row, "tools": [TOOL]} for row in good(12, "with tools"))),
        engine="drops without_tools",
        phift="finds DATA_TOOLS_MIXED",
    ),
    # ------------------------------------------------------------ the system message
    Rule(
        id="system-merged",
        says="without a system role, the system text goes in front of the first user text",
        source=PACKAGE,
        content=beside_good(chat(system(), user(), assistant())),
        model=PHI_3,
        engine="keeps",
        phift="keeps",
    ),
    Rule(
        id="system-not-first",
        says="without a system role, a system message comes first",
        source=PACKAGE,
        content=beside_good(chat(user(), system(), assistant())),
        model=PHI_3,
        engine="fails the only one and come first",
        phift=r"refuses messages\[1\]: after user comes assistant, not system",
    ),
    Rule(
        id="system-twice",
        says="without a system role, there is one system message only",
        source=PACKAGE,
        content=beside_good(chat(system(), system(), user(), assistant())),
        model=PHI_3,
        engine="fails the only one and come first",
        phift=r"refuses messages\[1\]: after system comes user, not system",
    ),
    Rule(
        id="system-without-user",
        says="without a system role, a system message needs a user message",
        source=PACKAGE,
        content=beside_good(chat(system(), assistant())),
        model=PHI_3,
        engine="fails no user message",
        phift=r"refuses messages\[1\]: after system comes user, not assistant",
    ),
    # ------------------------------------------------------------ what is trained on
    Rule(
        id="no-assistant",
        says="an assistant speaks; Azure drops a row without its marker",
        source=PACKAGE,
        content=beside_good(chat(system(), user())),
        engine="drops without_answer",
        phift="refuses the last message is from user, not from assistant",
    ),
    Rule(
        id="answer-cut",
        says="a row is cut at max_seq_length, and dropped if no assistant token is left",
        source=PACKAGE,
        content=beside_good(chat(user("word " * 200), assistant())),
        max_seq_length=60,
        engine="drops without_answer",
        phift="finds DATA_NO_ANSWER_LEFT",
    ),
    Rule(
        id="marker-in-a-text",
        says="the n-th instruction marker hides all up to the n-th response marker, and one too many hides the rest",
        source=PACKAGE,
        content=beside_good(chat(user("what does <|user|> mean?"), assistant())),
        engine="drops without_answer",
        phift="finds DATA_NO_ANSWER_LEFT",
    ),
    Rule(
        id="end-cut",
        says="a row is cut at max_seq_length, and trained on if some of the answer is left",
        source=PACKAGE,
        content=beside_good(chat(user(), assistant("word " * 200))),
        max_seq_length=60,
        engine="keeps",
        phift="finds DATA_CUT",
    ),
    Rule(
        id="model-limit",
        says="a row is cut at the model's own longest input, whatever max_seq_length says",
        source=PACKAGE,
        content=beside_good(chat(user("word " * 2 * MODEL_LIMIT), assistant())),
        max_seq_length=10 * MODEL_LIMIT,
        engine="drops without_answer",
        phift="finds DATA_NO_ANSWER_LEFT",
    ),
    Rule(
        id="no-answers-at-all",
        says="without any assistant token the job fails",
        source=PACKAGE,
        content=lines(*(chat(user("word " * 200 + str(number)), assistant()) for number in range(20))),
        max_seq_length=60,
        engine="fails No assistant tokens",
        phift="finds DATA_NO_ANSWER_LEFT",
    ),
    Rule(
        id="nine-rows",
        says="a job wants ten training rows",
        source=PACKAGE,
        content=lines(*good(9)),
        engine="fails 9 usable rows",
        phift="reads no",
    ),
    Rule(
        id="nine-rows-of-ten",
        says="a job wants ten training rows after the others are removed",
        source=PACKAGE,
        content=lines(*good(9), {"messages": None}),
        engine="fails 9 usable rows",
        phift="refuses it has no `messages`",
    ),
)
