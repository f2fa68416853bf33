"""What the documents say of the code is what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from phift.config.data import DataConfig

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
    assert len(lines) == 9
    for line in lines:
        DataConfig(**yaml.safe_load(line))
    for block in others:
        DataConfig(**yaml.safe_load(block))


def test_the_example_on_memory_runs() -> None:
    text = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    command = [sys.executable, "-c", example]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    assert done.stdout.startswith("GPU memory: about ")
