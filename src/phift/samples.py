"""A small data set of real facts that a tiny model learns in a minute: the chemical elements.

Every fact (an element's symbol, its atomic number, the name behind a symbol) is asked in several phrasings. Of each
fact one phrasing goes to the validation split and another to the test split, the rest to training; which ones changes
from fact to fact, so every phrasing is trained on, but never with the fact it is tested on. Right answers on the test
split therefore mean that the model knows the fact, not the line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from phift import facts
from phift.errors import ConfigError

_TABLE = facts.load("elements")

ELEMENTS: tuple[tuple[str, str], ...] = tuple((element["name"], element["symbol"]) for element in _TABLE["elements"])
"""Name and symbol of each element, in the order of their atomic numbers, from 1."""

KINDS: tuple[tuple[str, list[str]], ...] = tuple((kind["answer"], kind["questions"]) for kind in _TABLE["asked"])
"""Of every kind of fact: the answer, and the questions that ask for it."""

# Component inputs that make a small stand-in model learn these facts on a CPU; and a pretrained one those of a few.
PARAMETERS: Mapping[str, str | int | float] = _TABLE["parameters"]
PRETRAINED_PARAMETERS: Mapping[str, str | int | float] = _TABLE["pretrained_parameters"]

Row = Mapping[str, Sequence[Mapping[str, str]]]


@dataclass(frozen=True)
class Samples:
    """Where the three files are."""

    train: Path
    validation: Path
    test: Path


def rows(elements: range | None = None) -> dict[str, list[Row]]:
    """Return the rows of each split: ``train``, ``validation`` and ``test``.

    - **elements**: the atomic numbers of those to ask for; all, left out.
    """
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for number, (name, symbol) in enumerate(ELEMENTS, start=1):
        if elements is not None and number not in elements:
            continue
        fact = {"number": number, "name": name, "symbol": symbol}
        for answer, questions in KINDS:
            held_out = {number % len(questions): "test", (number + 1) % len(questions): "validation"}
            for index, question in enumerate(questions):
                asked = {"role": "user", "content": question.format_map(fact)}
                answered = {"role": "assistant", "content": answer.format_map(fact)}
                splits[held_out.get(index, "train")].append({"messages": [asked, answered]})
    return splits


def write(folder: Path, *, elements: range | None = None, overwrite: bool = False) -> Samples:
    """Write ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` into ``folder``, which is made if need be.

    Files that are there with this very content are left as they are.

    - **elements**: see `rows`.
    - **overwrite**: replace files of these names that hold something else.

    Raises `phift.errors.ConfigError` where there are such files and they are not to be replaced; nothing is written
    then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing: dict[Path, bytes] = {}
    for split, split_rows in rows(elements).items():
        path = folder / f"{split}.jsonl"
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in split_rows).encode()
        # The size first: what somebody keeps under this name may be large.
        if not (path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content):
            missing[path] = content
    taken = [str(path) for path in missing if os.path.lexists(path)]
    if taken and not overwrite:
        what = f"There is something else under the name of the samples: {', '.join(taken)}. Nothing was written."
        fix = "give another folder, or `--force` (`overwrite=True`) to replace"
        raise ConfigError(what, where=str(folder), fix=fix)
    for path, content in missing.items():
        # Beside its place first, so that there is never half a file under its name.
        written = path.with_name(f".{path.name}-{token_hex(8)}")
        try:
            with written.open("xb") as file:
                file.write(content)
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
    return Samples(**{split: folder / f"{split}.jsonl" for split in ("train", "validation", "test")})
