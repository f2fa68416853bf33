"""What the documents say of the code is what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import yaml

from phift.azure import answers, bounds
from phift.cli.commands import main
from phift.config.data import DataConfig
from phift.data import files, hub, parts, texts, workers
from phift.local import wire
from phift.local.server import process, service
from phift.local.services import blobs, route
from phift.tokens import limited, tokenizer

ROOT = Path(__file__).parents[2]
CODE = re.compile(
    r"\b(?:MODEL|COMPUTE|COMPONENT|PARAMETER|QUOTA|COST|MEMORY|DATA|DEPLOYMENT|FACTS|NAME|STORAGE)(?:_[A-Z]+)+\b"
)


def codes_of_the_source() -> set[str]:
    package = ROOT / "src" / "phift"
    rooms = [path for path in package.iterdir() if path.name not in ("local", "testing")]
    sources = [file for room in rooms for file in ([room] if room.suffix == ".py" else room.glob("*.py"))]
    texts = [path.read_text(encoding="utf-8") for path in sources]
    return {code for text in texts for quoted in re.findall(r'"([A-Z_]+)"', text) for code in CODE.findall(quoted)}


def rows(document: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_the_table_of_findings_names_every_code_and_no_other() -> None:
    documented = [match[1] for row in rows("findings.md") if (match := re.match(r"\| `([A-Z_]+)` \|", row))]
    assert len(documented) == len(set(documented))
    assert set(documented) == codes_of_the_source()


def test_the_table_of_traps_names_findings_that_there_are() -> None:
    named = {code for row in rows("traps.md") for code in CODE.findall(row)}
    assert named
    assert named <= codes_of_the_source()


def test_every_document_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in readme] == []


def test_every_row_of_what_was_attacked_names_tests_that_there_are() -> None:
    named = [re.findall(r"`([a-z]+/test_\w+\.py)`", row) for row in rows("security.md")[1:]]
    assert all(named)
    assert [name for names in named for name in names if not (ROOT / "tests" / name).is_file()] == []


def test_whatever_is_drawn_at_random_is_drawn_often_by_make_fuzz() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    drawn = [path for path in (ROOT / "tests").rglob("test_*.py") if "\nEXAMPLES = int(" in path.read_text("utf-8")]
    assert len(drawn) > 5
    assert [path.name for path in drawn if f"tests/{path.parent.name}/{path.name}" not in makefile] == []


def test_the_limits_in_the_documents_are_those_of_the_code() -> None:
    assert texts.LONGEST_CSV_ROW == texts.LONGEST_LINE
    data = {
        "a line, or a row of JSON or CSV": f"{_mb(texts.LONGEST_LINE)}; blank lines {_mb(texts.LONGEST_BLANK)} on end",
        "rows that cannot be trained on": f"{parts.MOST_REFUSED:,} in a row",
        "a packed, parquet or Arrow file": f"{_gb(files.most_unpacked(1))} unpacked, "
        f"or {files.most_unpacked(1 << 40) >> 40} times its own size",
        "a packed file": f"{_mb(files.MOST_SILENT)} on end",
        "a process that reads parquet": f"{_gb(workers.DATA.memory)} of memory",
        "a process that has a tokenizer": f"{_gb(limited.LIMITS.memory)}, and {limited.LIMITS.seconds} s for a batch",
        "a tokenizer's files": f"{tokenizer.MOST_BYTES // 10**6} MB",
        "a process that reads a data set of the Hub": f"{_gb(hub.LIMITS.memory)}, {hub.LIMITS.seconds} s without a row,"
        f" and {hub.MOST_ROWS:,} rows",
        "an answer of Azure's": f"{_mb(bounds.MOST_ANSWERED)} unpacked, {bounds.LONGEST_ANSWER:.0f} s from its first "
        f"byte; a list has {answers.MOST_LISTED:,} entries and {answers.MOST_PAGES:,} pages",
        "a pause that an answer asks for": f"{bounds.LONGEST_PAUSE:.0f} s;",
    }
    table = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## What it may take")[2]
    documented = re.findall(r"^\| (.*) \| (.*) \|$", table.partition("\n## ")[0], flags=re.MULTILINE)[1:]
    assert len(documented) == len(data)
    for (what, limit), (begins, told) in zip(documented, data.items(), strict=True):
        assert what.startswith(begins)
        assert limit.startswith(told)


def test_the_limits_of_the_local_workspace_in_its_document_are_those_of_the_code() -> None:
    text = " ".join((ROOT / "docs" / "local-workspace.md").read_text(encoding="utf-8").split())
    assert f"no more than {service._PASSED_OVER >> 20} MiB is passed over" in text
    bodies = f"A body has {route.LARGEST_CONTENT >> 20} MiB at most, a blob in one piece {blobs.LARGEST_BLOB >> 20} MiB"
    assert bodies in text
    assert f"longer than {process._HEADERS_WITHIN} seconds; {process._MOST_CONNECTIONS} are served at once" in text
    assert f"Lists come in pages of {wire.PAGE}," in text


def _mb(size: int) -> str:
    return f"{size >> 20} MB"


def _gb(size: int) -> str:
    return f"{size >> 30} GB"


def test_the_example_on_data_prints_what_it_says(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    example, printed = re.findall(r"```(?:python)?\n(.*?)```", text, flags=re.DOTALL)[:2]
    command = [sys.executable, "-c", example]
    done = subprocess.run(  # noqa: S603 - our own words
        command, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == printed


def test_every_source_and_setting_of_the_document_on_data_is_one() -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"```yaml\ndata:\n(.*?)```", text, flags=re.DOTALL)
    lines = first.strip().splitlines()
    assert len(lines) == 10
    for line in lines:
        DataConfig(**yaml.safe_load(line))
    for block in others:
        DataConfig(**yaml.safe_load(block))


def test_the_example_of_two_functions_compared_prints_what_it_says() -> None:
    text = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[1]
    (printed,) = re.findall(r"```\n(before slow.*?)```", text, flags=re.DOTALL)
    command = [sys.executable, "-c", example]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    assert done.stdout == printed


def test_the_example_on_memory_runs() -> None:
    text = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    command = [sys.executable, "-c", example]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    assert done.stdout.startswith("GPU memory: about ")


def test_the_page_of_commands_has_each_of_them_and_says_which_hand_out_json() -> None:
    def listed(group: click.Group, words: str = "phift") -> Iterator[tuple[str, click.Command]]:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from listed(command, f"{words} {name}")
            else:
                yield f"{words} {name}", command

    documented = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows("commands.md")[1:]]
    there = {words: {"--json" in each.opts for each in command.params} for words, command in listed(main)}
    found = {}
    for usage, _, json, _ in documented:
        words = " ".join(word for word in usage.strip("`").split() if word.islower())
        found[words] = json in ("yes", "lines")
    assert found == {words: True in has for words, has in there.items()}
