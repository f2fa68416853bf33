from __future__ import annotations

import json
from pathlib import Path

import pytest

from phift import facts, samples


def test_element_names_and_symbols_are_unique() -> None:
    assert len({name for name, _ in samples.ELEMENTS}) == len(samples.ELEMENTS) == 118
    assert len({symbol for _, symbol in samples.ELEMENTS}) == 118


@pytest.mark.parametrize(
    ("number", "name", "symbol"),
    [(1, "hydrogen", "H"), (26, "iron", "Fe"), (57, "lanthanum", "La"), (79, "gold", "Au"), (118, "oganesson", "Og")],
)
def test_position_is_atomic_number(number: int, name: str, symbol: str) -> None:
    assert samples.ELEMENTS[number - 1] == (name, symbol)


def test_noble_gases_stand_where_the_periods_end() -> None:
    names = [samples.ELEMENTS[number - 1][0] for number in (2, 10, 18, 36, 54, 86, 118)]
    assert names == ["helium", "neon", "argon", "krypton", "xenon", "radon", "oganesson"]


def test_symbols_look_like_symbols() -> None:
    assert all(symbol.istitle() and len(symbol) <= 2 and symbol.isascii() for _, symbol in samples.ELEMENTS)


def _questions(split: str) -> list[str]:
    return [row["messages"][0]["content"] for row in samples.rows()[split]]


def test_no_question_is_asked_twice() -> None:
    every = [question for split in ("train", "validation", "test") for question in _questions(split)]
    assert len(set(every)) == len(every)


def test_every_fact_is_in_every_split() -> None:
    answers = {split: {row["messages"][1]["content"] for row in rows} for split, rows in samples.rows().items()}
    assert answers["train"] == answers["validation"] == answers["test"]
    assert len(answers["test"]) == len(samples.ELEMENTS) * len(samples.KINDS)


def test_every_phrasing_is_trained_on() -> None:
    train = set(_questions("train"))
    for _, phrasings in samples.KINDS:
        for phrasing in phrasings:
            asked = {phrasing.format(name=name, symbol=symbol) for name, symbol in samples.ELEMENTS}
            assert asked & train


def test_write(tmp_path: Path) -> None:
    written = samples.write(tmp_path / "new")
    lines = written.test.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(samples.rows()["test"])
    assert [message["role"] for message in json.loads(lines[0])["messages"]] == ["user", "assistant"]
    assert written.train.stat().st_size > written.validation.stat().st_size


def test_parameters_are_inputs_of_the_component() -> None:
    assert set(samples.PARAMETERS) <= set(facts.load("chat_completion_pipeline")["inputs"])
