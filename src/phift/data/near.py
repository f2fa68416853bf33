"""Conversations that say nearly the same, so that none of them is held against another one that was trained on.

**What is compared** is what is said: the contents and the tool calls, without the system messages; not the case, the
whitespace and the punctuation of prose. Conversations that are equal then are near; others where they have all but a
few words in common, see `_near`. Other numbers make another conversation.

**A form is not content.** Where more than `MOST_ALIKE` conversations seem near each other, they were made after one
form, such as a long question with a short text in it; what they share is left out, and they are compared by the rest.

**The way.** Of each conversation there are 136 bytes in memory: a hash of its words, and 32 of MinHash, so that near
ones have one of these in common (locality-sensitive hashing). They come from processes side by side. Those that may be
near are read again, and held against each other word by word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import normalize

import msgspec
import xxhash

from phift.data.sources import Progress, Reading, Table
from phift.data.split import units
from phift.data.workers import LARGE, Workers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

MOST_ALIKE = 8
"""Different conversations that are near each other; with more, what they share is their form."""

LEAST_SHARED = 6
"""Shingles that two different conversations must share: of fewer words than that, one may change what is meant."""

_SHINGLE = 3  # words
_MOST = 1 << 20  # characters of a conversation that are compared; what comes after them is one word
_BATCH = 1 << 18  # bytes of rows whose words are hashed at once
_SHORT = 64  # shingles; conversations of fewer have numbers that are found in one that is less near
_BANDS = 16
_MOST_FORMS = 4  # within each other
_CACHED = 256  # conversations that wait to be compared with others
_SAMPLE = 200  # of those with one form

_ODD = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, as in Knuth's multiplicative hashing
_FOLDED = bytes(
    ord(" ") if byte <= ord(" ") or byte == 0x7F or chr(byte) in ".,;:!?'\"`()*_" else ord(chr(byte).lower())
    for byte in range(0x80)
) + bytes(range(0x80, 0x100))
_PUNCTUATION = re.compile("[«»¿¡\u2000-\u206f\u3000-\u3003]+")
_ALONE = re.compile("[\u0800-\U0010ffff]")  # scripts that have no spaces between words, and symbols
_NUMBER = re.compile(rb"(?<![^ ])[^ 0-9]*+[0-9][^ ]*")  # a word with a digit


class _Turn(msgspec.Struct):
    role: str
    content: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"")


class _Row(msgspec.Struct):
    messages: list[_Turn]


_decode = msgspec.json.Decoder(_Row).decode


def _said(line: bytes) -> bytes:
    """Return the words that are said in a row, with blanks between them."""
    turns = [turn for turn in _decode(line).messages if turn.role != "system"]
    text = "\n".join(chain.from_iterable((turn.content or "", bytes(turn.tool_calls).decode()) for turn in turns))
    text, rest = text[:_MOST], text[_MOST:]
    if not text.isascii():
        text = normalize("NFKC", text.casefold())
        text = _ALONE.sub(r" \g<0> ", _PUNCTUATION.sub(" ", text))
    return text.encode().translate(_FOLDED) + (f" {xxhash.xxh3_64_hexdigest(rest.encode())}".encode() if rest else b"")


# ---------------------------------------------------------------- hashes


def _mixed(hashes: Hashes) -> Hashes:
    import numpy as np

    mixed = hashes * np.uint64(_ODD)
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _hashed(texts: Sequence[bytes]) -> list[Hashes]:
    """Return the hashes of each text's words, in their order."""
    import numpy as np

    offsets = list(accumulate(map(len, texts), lambda end, size: end + size + 1, initial=1))
    block = b" " + b" ".join(texts) + b" " * 9
    solid = np.frombuffer(block, np.uint8) != ord(" ")
    edges = np.flatnonzero(solid[1:] != solid[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    sizes = ends - starts
    windows: Hashes = np.ndarray(len(block) - 7, "<u8", block, strides=(1,))
    masks = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
    words = _mixed(windows[starts] & masks[np.minimum(sizes, 8)])
    longer = np.flatnonzero(sizes > 8)
    for done in range(8, 64, 8):
        if not len(longer):
            break
        more = windows[starts[longer] + done] & masks[np.minimum(sizes[longer] - done, 8)]
        words[longer] = _mixed(words[longer] + more)
        longer = longer[sizes[longer] > done + 8]
    for index in longer.tolist():
        words[index] = xxhash.xxh3_64_intdigest(block[starts[index] : ends[index]])
    return [words[start:end] for start, end in pairwise(np.searchsorted(starts, offsets).tolist())]


def _shingles(words: Hashes) -> Hashes:
    """Return the different shingles of a text, in the order of their hashes."""
    import numpy as np

    if len(words) < _SHINGLE:
        return words[:0]
    odd = np.uint64(_ODD)
    every = np.sort(_mixed((words[:-2] * odd + words[1:-1]) * odd + words[2:]))
    return every[np.concatenate(([True], every[1:] != every[:-1]))]


def _bands(shingles: Hashes) -> npt.NDArray[np.uint32]:
    """Return numbers, some of which near texts have in common; there are none, but zeros, for hardly any shingles.

    The shingles lie on a circle, in the order of their hashes, and what comes next after a point is a MinHash. Half of
    the numbers are made of four of these. The others are made of one, and one of a circle of another order, since short
    texts are near with less in common; of a long text they are zero.
    """
    import numpy as np

    bands = np.zeros(2 * _BANDS, np.uint32)
    if len(shingles) < LEAST_SHARED:
        return bands
    points = np.arange(4 * _BANDS, dtype=np.uint64) * np.uint64((1 << 64) // (4 * _BANDS))
    found = shingles[np.searchsorted(shingles, points) % len(shingles)].reshape(4, _BANDS)
    four = _mixed(found[0] + _mixed(found[1] + _mixed(found[2] + _mixed(found[3]))))
    bands[:_BANDS] = four >> np.uint64(32)
    if len(shingles) <= _SHORT:
        order = np.sort(_mixed(shingles * np.uint64(_ODD)))
        other = order[np.searchsorted(order, points[::4]) % len(order)]
        bands[_BANDS:] = _mixed(found.reshape(-1)[::4] + other) >> np.uint64(32)
    return bands


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """The hashes of the rows of one spool.

    - **lengths**: of each row's line, in bytes; unsigned numbers of 4 bytes.
    """

    spool: str
    lengths: bytes

    def perform(self, _: Path) -> Iterator[tuple[bytes, bytes]]:
        """Yield, of one row after another, a hash of its words, 0 without a word, and its `_bands`."""
        import numpy as np

        lengths = memoryview(self.lengths).cast("I").tolist()
        with Path(self.spool).open("rb") as file:
            start = 0
            while start < len(lengths):
                end, size = start, 0
                while end < len(lengths) and size < _BATCH:
                    size += lengths[end]
                    end += 1
                words = _hashed([_said(file.read(length)) for length in lengths[start:end]])
                same = [xxhash.xxh3_64_intdigest(each.tobytes()) if len(each) else 0 for each in words]
                bands = np.zeros((end - start, 2 * _BANDS), np.uint32)
                for index, each in enumerate(words):
                    bands[index] = _bands(_shingles(each))
                yield np.array(same, np.uint64).tobytes(), bands.tobytes()
                start = end


# ---------------------------------------------------------------- the comparison


def _without(hashes: Hashes, others: Hashes) -> Hashes:
    """Return those that are not among the others; both are in order."""
    import numpy as np

    if not len(others):
        return hashes
    found = others[np.minimum(np.searchsorted(others, hashes), len(others) - 1)]
    return hashes[np.not_equal(found, hashes)]


class _Look(NamedTuple):
    said: bytes
    shingles: Hashes


def _near(one: _Look, other: _Look, form: Hashes) -> bool:
    """Tell whether two conversations are near.

    They share at least `LEAST_SHARED` shingles and two fifths of all that they have; and what one of them has besides
    is no more than a changed word makes, and one more for every 300 words: the other one may add a sentence. Each has
    no number that the other one has not, but for what one adds.
    """
    mine, others = _without(one.shingles, form), _without(other.shingles, form)
    shared = len(mine) - len(_without(mine, others))
    less, more = sorted((len(mine) - shared, len(others) - shared))
    if shared < LEAST_SHARED or 3 * shared < 2 * (less + more) or less > _SHINGLE + shared // 100:
        return False
    numbers, other_numbers = (frozenset(_NUMBER.findall(each.said)) for each in (one, other))
    return numbers <= other_numbers or other_numbers <= numbers


class _Linked:
    """Rows that are linked with each other, over others too."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def first(self, row: int) -> int:
        """Return the first of the rows that a row is linked with."""
        above = self._above
        while (higher := above.get(row, row)) != row:
            above[row] = row = above.get(higher, higher)
        return row

    def link(self, rows: Sequence[int]) -> None:
        """Link rows with each other."""
        first, *others = sorted({self.first(row) for row in rows})
        self._above.update(dict.fromkeys(others, first))

    def clusters(self) -> list[list[int]]:
        """Return the rows that are linked, two at least, in their order."""
        clusters: dict[int, list[int]] = {}
        for row in sorted({*self._above, *self._above.values()}):
            clusters.setdefault(self.first(row), []).append(row)
        return [*clusters.values()]


def _candidates(bands: npt.NDArray[np.uint32], most: int) -> tuple[npt.NDArray[np.intp], list[npt.NDArray[np.intp]]]:
    """Return pairs that have numbers in common, each with the next one that has the same; and crowds that have.

    A long text has one of its numbers in common with another one sooner by chance, and two with a near one.

    - **most**: how many have a number in common; more are a crowd, and those that are in several link these.
    """
    import numpy as np

    rows = np.arange(len(bands))
    found, labels = [rows[:0]], []
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        values = band[order]
        begins = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
        sizes = np.diff(begins, append=len(values))
        bucket, size = np.repeat(rows[: len(begins)], sizes), np.where(values == 0, 1, np.repeat(sizes, sizes))
        equal = np.flatnonzero((bucket[1:] == bucket[:-1]) & (size[1:] > 1) & (size[1:] <= most))
        found.append(order[equal] * (1 << 32) + order[equal + 1])
        if (size > most).any():
            label = rows + len(rows)
            label[order[size > most]] = bucket[size > most]
            labels.append(label.astype(np.uint64))
    pairs, counts = np.unique(np.concatenate(found), return_counts=True)
    first, second = pairs >> 32, pairs & 0xFFFFFFFF
    short = np.count_nonzero(bands[:, _BANDS:], axis=1) > 0
    likely = (counts > 1) | short[first] | short[second]
    crowds = []
    if labels:
        linked = units(*labels)
        order = np.argsort(linked, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(linked[order])) + 1)
        crowds = [part for part in parts if len(part) > most]
        likely &= linked[first] != linked[second]  # those are compared without what their crowd has in common
    return np.stack([first[likely], second[likely]], axis=1), crowds


def _clusters(
    rows: npt.NDArray[np.intp],
    bands: npt.NDArray[np.uint32],
    look: Callable[[int], _Look],
    form: Hashes,
    forms: int = 0,
    most: int = MOST_ALIKE,
) -> Iterator[list[int]]:
    """Yield rows that are near each other, two at least; some may be in several clusters.

    - **bands**: of each row.
    - **form**: shingles that are left out, of **forms** forms within each other.
    - **most**: rows that are compared as they are; of more with something in common that is left out.
    """
    import numpy as np

    pairs, crowds = _candidates(bands, most)
    linked = _Linked()
    for first, second in rows[pairs].tolist():
        if linked.first(first) != linked.first(second) and _near(look(first), look(second), form):
            linked.link((first, second))
    for cluster in linked.clusters():
        if len(cluster) <= MOST_ALIKE:
            yield cluster
        else:
            crowds.append(np.searchsorted(rows, cluster))
    for crowd in crowds if forms < _MOST_FORMS else ():
        mine, some = rows[crowd], rows[crowd[:: max(1, len(crowd) // _SAMPLE)]].tolist()
        shingles, counts = np.unique(np.concatenate([look(row).shingles for row in some]), return_counts=True)
        more = np.union1d(form, shingles[counts > len(some) / 4])
        if len(more) == len(form):  # they are linked over others, and have nothing in common
            yield from _clusters(mine, bands[crowd], look, form, forms + 1, len(crowd))
            continue
        again = [_bands(_without(look(row).shingles, more)) for row in mine.tolist()]
        yield from _clusters(mine, np.array(again), look, more, forms + 1)


def find_near(readings: Sequence[Reading], table: Table, workers: Workers, tell: Callable[[Progress], None]) -> None:
    """Write into the table which rows are near: of each row the index of the first one that it is near to."""
    import numpy as np

    tallies = [tally for reading in readings for tally in reading.tallies if tally.good]
    firsts = np.cumsum([0, *(tally.good for tally in tallies)])
    lengths = table["length"]
    sketches = [
        Sketch(spool=tally.spool, lengths=lengths[start : start + tally.good].tobytes())
        for tally, start in zip(tallies, firsts.tolist(), strict=False)
    ]
    same, found = (
        table["key"].copy(),
        [[(np.zeros(0, np.intp), np.zeros((0, 2 * _BANDS), np.uint32))] for _ in sketches],
    )
    done, total, at = 0, int(lengths.sum(dtype=np.int64)), firsts.tolist()
    for index, answer in workers.run(sketches, side_by_side=total > LARGE):
        words, bands = np.frombuffer(answer[0], np.uint64), np.frombuffer(answer[1], np.uint32).reshape(-1, 2 * _BANDS)
        rows = np.arange(at[index], at[index] + len(words))
        same[rows] = np.where(words == 0, same[rows], words)
        having = bands.any(axis=1)
        found[index].append((rows[having], bands[having]))
        at[index] += len(words)
        done += len(words)
        tell(Progress(stage="compare", source="rows with each other", rows=done))
    first, of_row = np.unique(same, return_index=True, return_inverse=True)[1:]
    near = first[of_row.reshape(-1)]
    ends = np.cumsum(lengths, dtype=np.int64)

    @lru_cache(_CACHED)
    def look(row: int) -> _Look:
        tally = int(np.searchsorted(firsts, row, side="right")) - 1
        start = int(ends[row] - lengths[row]) - int(ends[firsts[tally]] - lengths[firsts[tally]])
        with Path(tallies[tally].spool).open("rb") as file:
            file.seek(start)
            said = _said(file.read(int(lengths[row])))
        return _Look(said, _shingles(_hashed([said])[0]))

    rows, bands = (np.concatenate(some) for some in zip(*chain.from_iterable(found), strict=True))
    found.clear()
    if not (alone := near[rows] == rows).all():
        rows, bands = rows[alone], bands[alone]
    linked = _Linked()
    for cluster in _clusters(rows, bands, look, np.zeros(0, np.uint64)):
        linked.link(cluster)
    joined = np.arange(len(table))
    for cluster in linked.clusters():
        joined[cluster] = cluster[0]
    table["near"] = joined[near]
