"""Conversations that say nearly the same, so that none of them is held against another one that was trained on.

**What is compared** is what is said: the contents and the tool calls, without the system messages; not the case, the
whitespace and the punctuation of prose. Conversations that are equal then are near; others where they have all but a
few words in common, see `_near`. Other numbers make another conversation.

**A form is not content.** Where more than `MOST_ALIKE` conversations seem near each other, they were made after one
form, such as a long question with a short text in it; what they share is left out, and they are compared by the rest.

**The way.** Of each conversation there are 144 bytes in memory, a `SKETCH`: a hash of its words, and 32 numbers of
MinHash, so that near ones have one of these in common (locality-sensitive hashing). They come from processes side by
side. Those that may be near are read again, some megabytes at a time, and held against each other word by word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
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
    Rows = npt.NDArray[np.intp]

MOST_ALIKE = 8
"""Different conversations that are near each other; with more, what they share is their form."""

LEAST_SHARED = 6
"""Shingles that two different conversations must share: of fewer words than that, one may change what is meant."""

_SHINGLE = 3  # words
_MOST = 1 << 20  # characters of a conversation that are compared; what comes after them is one word
_BATCH = 1 << 18  # bytes of rows whose words are hashed at once
_PORTION = 1 << 22  # bytes of rows that are held against each other at a time
_MANY = 50_000  # rows, which keep one process busy for longer than it takes to start others
_SHORT = 64  # shingles; conversations of fewer have numbers that are found in one that is less near
_BANDS = 16
_MOST_FORMS = 4  # within each other
_LINKED_AT_ONCE = 8  # lists of labels, each with one for each row
_SAMPLE = 400  # of those with one form; fewer of long ones, which are no more than a few portions

Tell: TypeAlias = Callable[[Progress], None]

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
    tools: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_Row).decode


def _around(row: _Row) -> bytes:
    """Return what a row has around what is said: its system message and its tools."""
    system = (turn.content or "" for turn in row.messages if turn.role == "system")
    return "\n".join(system).encode() + bytes(row.tools)


def _said(row: _Row) -> bytes:
    """Return the words that are said in a row, with blanks between them."""
    turns = [turn for turn in row.messages if turn.role != "system"]
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
    """Return the hashes of each text's words, in their order.

    The texts are joined to one block, and numpy takes all words of it at once, eight bytes of each at a time: a loop
    over the words takes several times as long. The few of more than 64 bytes are hashed one by one.
    """
    import numpy as np

    beginnings = list(accumulate(map(len, texts), lambda end, size: end + size + 1, initial=1))
    block = (
        b" " + b" ".join(texts) + b" " * 9
    )  # with a blank on either side of each word, and eight bytes after the last
    is_word = np.frombuffer(block, np.uint8) != ord(" ")
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1  # the start of a word, its end, the next one's start, ...
    starts, ends = edges[::2], edges[1::2]
    sizes = ends - starts
    eight: Hashes = np.ndarray(len(block) - 7, "<u8", block, strides=(1,))  # the eight bytes from each place on
    masks = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # that leave so many of these bytes
    words = _mixed(eight[starts] & masks[np.minimum(sizes, 8)])
    longer = np.flatnonzero(sizes > 8)
    for done in range(8, 64, 8):
        if not len(longer):
            break
        more = eight[starts[longer] + done] & masks[np.minimum(sizes[longer] - done, 8)]
        words[longer] = _mixed(words[longer] + more)
        longer = longer[sizes[longer] > done + 8]
    for index in longer.tolist():
        words[index] = xxhash.xxh3_64_intdigest(block[starts[index] : ends[index]])
    return [words[start:end] for start, end in pairwise(np.searchsorted(starts, beginnings).tolist())]


def _shingles(words: Hashes) -> Hashes:
    """Return the different shingles of a text, in the order of their hashes."""
    import numpy as np

    if len(words) < _SHINGLE:
        return words[:0]
    odd = np.uint64(_ODD)
    every = np.sort(_mixed((words[:-2] * odd + words[1:-1]) * odd + words[2:]))
    return every[np.concatenate(([True], every[1:] != every[:-1]))]


def _bands(shingles: Hashes) -> npt.NDArray[np.uint32]:
    """Return 32 numbers, some of which near texts have in common; all are zero for hardly any shingles.

    The shingles lie on a circle, in the order of their hashes. Two texts have the same one next after a point as often
    as a shingle of either is one of both: that is MinHash, of one permutation with rotation (Shrivastava and Li, 2014).
    Half of the numbers are made of what comes next after four points each, which is hardly ever the same for texts that
    are not near. The others are made of two, on circles of different orders, since short texts are near with less in
    common; of a long text they are zero.
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


# ---------------------------------------------------------------- rows, read again

SKETCH = (("words", "<u8"), ("around", "<u8"), ("bands", "<u4", 2 * _BANDS))
"""What is known of a row's text.

- **words**: a hash of what is said; 0 without a word.
- **around**: a hash of what is around it.
- **bands**: the numbers of `_bands`.
"""


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Some rows of one spool, of which the `SKETCH` is wanted.

    - **starts**, **lengths**: of each row's line, in bytes; unsigned numbers of 8 and of 4 bytes.
    - **form**: the hashes of shingles that are left out, in their order; unsigned numbers of 8 bytes.
    """

    spool: str
    starts: bytes
    lengths: bytes
    form: bytes

    def perform(self, _: Path) -> Iterator[bytes]:
        """Yield the sketches of some rows after others."""
        import numpy as np

        form = np.frombuffer(self.form, np.uint64)
        for rows in self.read():
            words = _hashed([*map(_said, rows)])
            sketches = np.zeros(len(rows), list(SKETCH))
            sketches["words"] = [xxhash.xxh3_64_intdigest(each.tobytes()) if len(each) else 0 for each in words]
            sketches["around"] = [xxhash.xxh3_64_intdigest(_around(row)) for row in rows]
            sketches["bands"] = [_bands(_without(_shingles(each), form)) for each in words]
            yield sketches.tobytes()

    def read(self) -> Iterator[list[_Row]]:
        """Yield some rows after others."""
        rows, size = [], 0
        starts, lengths = memoryview(self.starts).cast("Q"), memoryview(self.lengths).cast("I")
        with Path(self.spool).open("rb") as file:
            for start, length in zip(starts, lengths, strict=True):
                file.seek(start)
                rows.append(_decode(file.read(length)))
                size += length
                if size >= _BATCH:
                    yield rows
                    rows, size = [], 0
        if rows:
            yield rows


class _Look(NamedTuple):
    said: bytes
    shingles: Hashes


class Spools:
    """Files of rows, a line each.

    - **files**: each with how many rows it has, one at least.
    - **lengths**: of all lines, in bytes, in the order of the files; unsigned numbers of 4 bytes.
    """

    def __init__(
        self, files: Sequence[tuple[str, int]], lengths: npt.NDArray[np.uint32], workers: Workers, tell: Tell
    ) -> None:
        import numpy as np

        counts = [count for _, count in files]
        self._paths = [path for path, _ in files]
        self._firsts = np.cumsum([0, *counts])  # rows of the spools
        self.lengths = lengths
        starts = np.cumsum(self.lengths, dtype=np.uint64) - self.lengths
        self._starts = starts - np.repeat(starts[self._firsts[:-1]], counts)
        self._workers = workers
        self._tell = tell

    def _tasks(self, rows: Rows, form: bytes = b"") -> list[Sketch]:
        import numpy as np

        of_spools = pairwise(np.searchsorted(rows, self._firsts).tolist())
        return [
            Sketch(spool=path, starts=self._starts[some].tobytes(), lengths=self.lengths[some].tobytes(), form=form)
            for path, (start, end) in zip(self._paths, of_spools, strict=True)
            if len(some := rows[start:end])
        ]

    def sketches(self, rows: Rows, form: Hashes) -> npt.NDArray[np.void]:
        """Return the `SKETCH` of each row, without the shingles of a form; the rows are in their order."""
        import numpy as np

        tasks, found = self._tasks(rows, form.tobytes()), np.zeros(len(rows), list(SKETCH))
        next_of, done = np.cumsum([0, *(len(task.lengths) // 4 for task in tasks)]).tolist(), 0
        size = int(self.lengths[rows].sum(dtype=np.int64))
        side_by_side = size > LARGE or (len(rows) > _MANY and len(tasks) > 1)
        for index, answer in self._workers.run(tasks, side_by_side=side_by_side):
            some = np.frombuffer(answer, list(SKETCH))
            found[next_of[index] : next_of[index] + len(some)] = some
            next_of[index] += len(some)
            done += len(some)
            self._tell(Progress(stage="compare", source="rows with each other", rows=done))
        return found

    def looks(self, rows: Iterable[int]) -> dict[int, _Look]:
        """Return the texts of rows; whoever asks sees to it that they are some megabytes and no more."""
        import numpy as np

        wanted = np.unique(np.fromiter(rows, np.intp))
        looks: list[_Look] = []
        for task in self._tasks(wanted):
            for some in task.read():
                said = [*map(_said, some)]
                looks += map(_Look, said, map(_shingles, _hashed(said)))
        return dict(zip(wanted.tolist(), looks, strict=True))

    def portions(self, pairs: Rows) -> list[Rows]:
        """Cut a list of pairs of rows, so that the rows of each piece can be in memory."""
        import numpy as np

        ends = np.cumsum(self.lengths[pairs].sum(axis=1, dtype=np.int64))
        return np.split(pairs, np.flatnonzero(np.diff(ends // _PORTION)) + 1)

    def some_of(self, rows: Rows) -> Rows:
        """Return some of the rows, from all of them, whose texts can be in memory."""
        import numpy as np

        most = int(4 * _PORTION / np.mean(self.lengths[rows]))
        return rows[:: -(-len(rows) // min(_SAMPLE, max(MOST_ALIKE, most)))]


# ---------------------------------------------------------------- the comparison


def _without(hashes: Hashes, others: Hashes) -> Hashes:
    """Return those that are not among the others; both are in order."""
    import numpy as np

    if not len(others):
        return hashes
    found = others[np.minimum(np.searchsorted(others, hashes), len(others) - 1)]
    return hashes[np.not_equal(found, hashes)]


def _near(one: _Look, other: _Look, form: Hashes) -> bool:
    """Tell whether two conversations are near.

    They share at least `LEAST_SHARED` shingles that are not of a form, and two fifths of all but these; and what one of
    them has besides is no more than a changed word makes, and one more for every 300 words: the other one may add a
    sentence. Each has no number that the other one has not, but for what one adds.
    """
    mine, others = _without(one.shingles, other.shingles), _without(other.shingles, one.shingles)
    less, more = sorted((len(mine), len(others)))  # of a form too: two questions about one text are no copies
    shared = len(_without(_without(one.shingles, mine), form))
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


def _runs(values: npt.NDArray[Any]) -> tuple[Rows, Rows]:
    """Return where equal values begin that follow each other, and how many they are."""
    import numpy as np

    begins = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    return begins, np.diff(begins, append=len(values))


def _candidates(bands: npt.NDArray[np.uint32], most: int) -> tuple[Rows, list[Rows]]:
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
        begins, sizes = _runs(values)
        bucket, size = np.repeat(rows[: len(begins)], sizes), np.where(values == 0, 1, np.repeat(sizes, sizes))
        equal = np.flatnonzero((bucket[1:] == bucket[:-1]) & (size[1:] > 1) & (size[1:] <= most))
        found.append(order[equal] * (1 << 32) + order[equal + 1])
        if (size > most).any():
            label = rows + len(rows)
            label[order[size > most]] = bucket[size > most]
            labels.append(label.astype(np.uint64))
            if len(labels) == _LINKED_AT_ONCE:
                labels = [units(*labels)]
    pairs, counts = np.unique(np.concatenate(found), return_counts=True)
    first, second = pairs >> 32, pairs & 0xFFFFFFFF
    short = np.count_nonzero(bands[:, _BANDS:], axis=1) > 0
    likely = (counts > 1) | short[first] | short[second]
    crowds = []
    if labels:
        linked = units(*labels)
        order = np.argsort(linked, kind="stable")
        runs = zip(*_runs(linked[order]), strict=True)
        crowds = [order[begin : begin + size] for begin, size in runs if size > most]
        likely &= linked[first] != linked[second]  # those are compared without what their crowd has in common
    return np.stack([first[likely], second[likely]], axis=1), crowds


def _clusters(
    rows: Rows,
    bands: npt.NDArray[np.uint32],
    spools: Spools,
    form: Hashes,
    forms: int = 0,
    most: int = MOST_ALIKE,
) -> Iterator[list[int]]:
    """Yield rows that are near each other, two at least; some may be in several clusters.

    - **bands**: of each row.
    - **spools**: where they are read again.
    - **form**: shingles that are left out, of **forms** forms within each other.
    - **most**: rows that are compared as they are; of more with something in common that is left out.
    """
    import numpy as np

    pairs, crowds = _candidates(bands, most)
    linked = _Linked()
    for portion in spools.portions(rows[pairs]):
        left = [(one, other) for one, other in portion.tolist() if linked.first(one) != linked.first(other)]
        looks = spools.looks(chain.from_iterable(left))
        for one, other in left:
            if linked.first(one) != linked.first(other) and _near(looks[one], looks[other], form):
                linked.link((one, other))
    for cluster in linked.clusters():
        if len(cluster) <= MOST_ALIKE:
            yield cluster
        else:
            crowds.append(np.searchsorted(rows, cluster))
    for crowd in crowds if forms < _MOST_FORMS else ():
        mine = rows[crowd]
        looks = spools.looks(spools.some_of(mine).tolist())
        shingles, counts = np.unique(np.concatenate([look.shingles for look in looks.values()]), return_counts=True)
        more = np.union1d(form, shingles[counts > len(looks) / 4])
        del looks, shingles, counts
        if len(more) == len(form):  # they are linked over others, and have nothing in common
            yield from _clusters(mine, bands[crowd], spools, form, forms + 1, len(crowd))
        else:
            yield from _clusters(mine, spools.sketches(mine, more)["bands"], spools, more, forms + 1)


def _equal(sketches: npt.NDArray[np.void], keys: Hashes) -> Hashes:
    """Return a number of each row that is the same where the same words are said, whatever the system message is.

    But a text may lie in the system message, and the question about it be the same each time, as many answers are: then
    the texts tell such rows from each other. That is so where words go with more than `MOST_ALIKE` different texts; and
    what goes with more than so many different words is a prompt and no text.

    - **keys**: for rows in which there is no word.
    """
    import numpy as np

    words, around = sketches["words"], sketches["around"]
    of_words, of_around = (np.unique(each, return_inverse=True)[1].reshape(-1) for each in (words, around))
    word, text = np.divmod(np.unique(of_words * len(words) + of_around), len(words))  # different pairs of them
    is_text = np.bincount(text) <= MOST_ALIKE
    has_texts = np.bincount(word, weights=is_text[text]) > MOST_ALIKE
    apart = has_texts[of_words] & is_text[of_around]
    return np.where(words == 0, keys, np.where(apart, _mixed(words + _mixed(around)), words))


def labels_of(spools: Spools, keys: Hashes) -> Rows:
    """Return of each row the index of the first one that it is near to.

    - **keys**: of each row, for those in which there is no word: equal where the rows are.
    """
    import numpy as np

    every, no_form = np.arange(len(keys)), np.zeros(0, np.uint64)
    sketches = spools.sketches(every, no_form)
    first, of_row = np.unique(_equal(sketches, keys), return_index=True, return_inverse=True)[1:]
    near = first[of_row.reshape(-1)]
    rows = np.flatnonzero((near == every) & sketches["bands"].any(axis=1))
    bands = sketches["bands"][rows]
    del sketches
    linked = _Linked()
    for cluster in _clusters(rows, bands, spools, no_form):
        linked.link(cluster)
    joined = every.copy()
    for cluster in linked.clusters():
        joined[cluster] = cluster[0]
    return joined[near]


def find_near(readings: Sequence[Reading], table: Table, workers: Workers, tell: Tell) -> None:
    """Write into the table which rows are near: of each row the index of the first one that it is near to."""
    tallies = [tally for reading in readings for tally in reading.tallies if tally.good]
    spools = Spools([(each.spool, each.good) for each in tallies], table["length"].copy(), workers, tell)
    table["near"] = labels_of(spools, table["key"])
