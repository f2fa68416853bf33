from __future__ import annotations

import time

import pytest
import yaml

from phift import plain_yaml


def tenfold(line: str) -> str:
    """Return a document of ten lines, each of which has the one before ten times."""
    lines = "".join(line % (depth, depth, ",".join([f"*a{depth - 1}"] * 10)) for depth in range(2, 11))
    return f"a1: &a1 {{k: v}}\n{lines}"


@pytest.mark.parametrize("text", [tenfold("a%d: &a%d [%s]\n"), tenfold("a%d: &a%d {<<: [%s]}\n"), "&a {x: [*a]}"])
def test_what_stands_for_too_much_is_refused_at_once(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match="stands for more than 1,000,000 values"):
        plain_yaml.load(text)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "text",
    ["", "a", "[]", "{}", "- [a, 1]\n- {x: null}\n", "a: &a {k: v}\nb: {<<: *a, c: [*a, *a]}\n"],
)
def test_anything_else_is_what_the_safe_loader_makes_of_it(text: str) -> None:
    assert plain_yaml.load(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text", ["? [a, b]\n: c\n", "!!python/object/apply:os.getcwd []", "a: b\n---\nc: d\n", "[" * 5000]
)
def test_what_the_safe_loader_refuses_is_refused(text: str) -> None:
    with pytest.raises((yaml.YAMLError, RecursionError)):
        plain_yaml.load(text)
