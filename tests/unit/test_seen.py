"""What is left out is told by what its name means, however it is written."""

from __future__ import annotations

import pytest

from phift.data.seen import Names, Seen


def lost(columns: dict[str, int], keys: dict[str, int]) -> list[str]:
    seen = Seen(columns=Names(columns), keys=Names(keys))
    return [finding.message for finding in seen.findings("a", 10) if finding.code == "DATA_MEANING_LEFT_OUT"]


@pytest.mark.parametrize("name", ["systemInstruction", "System Prompt", " system", "image_url", "kto-tag", "SCORE"])
def test_a_name_means_the_same_however_it_is_written(name: str) -> None:
    (message,) = lost({name: 10}, {})
    assert message.startswith(f"Without effect: {name}; ")
    assert not lost({name: 0}, {})


def test_a_name_of_a_column_and_of_a_key_is_counted_once() -> None:
    (message,) = lost({"images": 4}, {"images": 4, "context": 4})
    assert message.startswith("Without effect: images (4 of 10 rows); ")
