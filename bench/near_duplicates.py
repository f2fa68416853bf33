"""How many planted near-duplicates are found, and whether anything else is taken for one.

Makes conversations from the standard library's docstrings, and plants copies of a share of them, each with one small
change: other whitespace, another case, one word changed, or one sentence added. Then phift thins the data, and what it
set aside is held against what was planted. There are long conversations of UltraChat's shape, short ones of one
question and one answer, and such where the same long question is asked about different texts.

Run: ``python bench/near_duplicates.py [--rows N]``.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from prepare_data import conversations, sentences

ROWS = 5_000
SHARES = (0.01, 0.05)

Turns = list[dict[str, str]]


def long(rows: int) -> Iterator[Turns]:
    """Yield conversations of UltraChat's shape, some 900 words."""
    yield from (row["messages"] for row in conversations(rows))


def short(rows: int, words: int = 12, before: str = "") -> Iterator[Turns]:
    """Yield a question and an answer of a few words each, from 6 to **words**, which are not cut out of one text."""
    texts, draw = " ".join(sentences()).split(), random.Random(43)  # noqa: S311 - made-up data

    def some() -> str:
        start, size = draw.randrange(len(texts) - words), draw.randint(6, words)
        return " ".join(texts[start : start + size])

    for _ in range(rows):
        yield [{"role": "user", "content": before + some()}, {"role": "assistant", "content": some()}]


def one_form(rows: int) -> Iterator[Turns]:
    """Yield conversations that have the first 200 words of the question in common."""
    yield from short(rows, 30, " ".join(" ".join(sentences()).split()[:200]) + " ")


BASES: dict[str, Callable[[int], Iterator[Turns]]] = {"long": long, "short": short, "one form": one_form}


def changed(text: str, kind: str, sentence: str, draw: random.Random) -> str:
    """Return a text with a small change of one kind."""
    words = text.split(" ")
    match kind:
        case "whitespace":
            return "  " + text.replace(" ", draw.choice(("  ", "\n", " \t"))) + "\n"
        case "case":
            return draw.choice((text.upper(), text.lower(), text.title()))
        case "one word":
            words[draw.randrange(len(words))] = draw.choice(sentence.split())
            return " ".join(words)
        case _:
            at = draw.choice((0, len(words)))
            return " ".join([*words[:at], sentence, *words[at:]])


KINDS = ("whitespace", "case", "one word", "one sentence")


def measure(base: str, share: float, rows: int, folder: Path) -> None:
    """Plant, thin, and print what was found."""
    from phift.config.data import DataConfig
    from phift.data.prepare import prepare_dataset

    draw = random.Random(f"{base} {share}")  # noqa: S311 - made-up data
    added = [text for text in sentences() if 6 <= len(text.split()) <= 20]
    given = list(BASES[base](rows))
    planted: dict[int, tuple[int, str]] = {}  # by its line: the line of what it is a copy of, and what was changed
    for number, origin in enumerate(draw.sample(range(rows), round(share * rows))):
        kind = KINDS[number % len(KINDS)]
        copy = [dict(turn) for turn in given[origin]]
        turn = draw.choice(copy)
        turn["content"] = changed(turn["content"], kind, draw.choice(added), draw)
        if copy != given[origin]:  # in capitals already, or a word for itself
            given.append(copy)
            planted[len(given)] = (origin + 1, kind)
    source = folder / f"{base} {share}.jsonl"
    source.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in given), encoding="utf-8")
    prepared = prepare_dataset(DataConfig(train=source, near_duplicates="thin"), folder / "out")
    rejects = prepared.rejects.read_text(encoding="utf-8").splitlines() if prepared.rejects else []
    aside = {reject["line"]: int(reject["reason"].rpartition(":")[2]) for reject in map(json.loads, rejects)}
    right = {line for line, kept in aside.items() if planted.get(line, (0, ""))[0] == kept}
    total = Counter(kind for _, kind in planted.values())
    found = Counter(planted[line][1] for line in right)
    kinds = "  ".join(f"{found[kind] / max(1, total[kind]):>12.3f}" for kind in KINDS)
    precision = f"{len(right) / len(aside):.3f}" if aside else "-"
    print(f"{base:<9} {share:>5.0%} {len(planted):>8} {kinds} {len(right) / len(planted):>8.3f} {precision:>10}")


def main() -> None:
    """Measure each base at each share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    print(f"{options.rows:,} rows; recall by kind of change, of all, and precision")
    kinds = "  ".join(f"{kind:>12}" for kind in KINDS)
    print(f"{'base':<9} {'':>5} {'planted':>8} {kinds} {'recall':>8} {'precision':>10}")
    with tempfile.TemporaryDirectory(prefix="phift-near-") as name:
        for base in BASES:
            for share in SHARES:
                measure(base, share, options.rows, Path(name))


if __name__ == "__main__":
    main()
