"""A file's parts have each of its rows once, wherever they are cut, and however little is read at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phift.data import files, parquet, parts, texts
from phift.data.formats import recognise
from phift.data.parts import ROW, Part, Tally
from phift.errors import DataError

GOOD = b'{"messages":[{"role":"user","content":"%b"},{"role":"assistant","content":"%b"}]}'
LINES = st.lists(st.sampled_from([GOOD % (b"a", b"b"), GOOD % (b"a" * 150, b"b"), b"{", b"", b" \r"]), max_size=12)


def tallies(path: Path, cut: int) -> Iterator[tuple[int, Tally]]:
    """Yield the tallies of parts of ``cut`` bytes, each with the number of lines in the parts before."""
    layout, size, before = recognise(["messages"]), path.stat().st_size, 0
    for start in range(0, size, cut):
        part = Part(path=str(path), kind="jsonl", start=start, end=min(start + cut, size), layout=layout)
        found = list(part.perform(path.parent))
        yield from ((before, tally) for tally in found)
        before += max(tally.last for tally in found)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, ended=st.booleans(), cut=st.integers(1, 400), block=st.integers(1, 400), step=st.integers(1, 40))
def test_every_line_is_in_one_part(
    tmp_path: Path, lines: list[bytes], ended: bool, cut: int, block: int, step: int
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + (b"\n" if ended else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "BLOCK", block)
        patch.setattr(parts, "_LINE", step)
        found = list(tallies(path, cut))
    rows = [number for number, line in enumerate(lines, start=1) if line.strip()]
    good = [number for number, line in enumerate(lines, start=1) if line.startswith(b'{"')]
    numbers = [before + number for before, tally in found for _, _, _, number, *_ in ROW.iter_unpack(tally.known)]
    refused = [before + number for before, tally in found for number, _ in tally.problems]
    assert numbers == good
    assert sorted(numbers + refused) == rows
    assert sum(tally.rows for _, tally in found) == len(rows)
    written = b"".join(Path(tally.spool).read_bytes() for _, tally in found if tally.size)
    assert written == b"".join(lines[number - 1] + b"\n" for number in good)


@pytest.mark.parametrize("cut", [40, 200, 1 << 20])
def test_a_line_that_is_too_long_is_found_in_the_part_it_begins_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    monkeypatch.setattr(texts, "LONGEST_LINE", 300)
    monkeypatch.setattr(parts, "BLOCK", 50)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD % (b"a", b"b") + b"\n" + GOOD % (b"a", b"b" * 1000) + b"\n" + GOOD % (b"a", b"b") + b"\n")
    with pytest.raises(DataError, match="longer than") as caught:
        list(tallies(path, cut))
    assert caught.value.where in (f"{path}:2", f"{path}, near byte {len(GOOD) - 1}")


ROLES = ["user", "assistant", "user", "assistant", "system", "user", "assistant"]
SIZES = [2, 2, 3]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
@pytest.mark.parametrize("start", range(len(SIZES) + 1))
@pytest.mark.parametrize("length", range(len(SIZES) + 1))
def test_a_slice_of_a_batch_has_its_own_conversations(
    kind: Callable[[pa.DataType], pa.DataType], start: int, length: int
) -> None:
    turns = [{"role": role, "content": f"text {number}"} for number, role in enumerate(ROLES)]
    rows = [turns[sum(SIZES[:number]) :][:size] for number, size in enumerate(SIZES)]
    turn = pa.struct([("content", pa.string()), ("role", pa.string())])
    batch = pa.record_batch({"messages": pa.array(rows, kind(turn))}).slice(start, length)
    found = parquet.conversations(batch)
    assert msgspec.to_builtins(found) == [{"messages": row} for row in rows[start : start + length]]


def test_a_parquet_file_holds_only_so_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    rows = [msgspec.json.decode(GOOD % (b"a" * 100, b"b" * 100))] * 1000
    pq.write_table(pa.Table.from_pylist(rows), path)
    layout, size = recognise(["messages"]), path.stat().st_size
    part = Part(path=str(path), kind="parquet", end=1, size=size, columns=("messages",), layout=layout)
    assert sum(tally.good for tally in part.perform(tmp_path)) == 1000
    monkeypatch.setattr(files, "most_unpacked", lambda size: 2 * size)
    with pytest.raises(DataError, match="more than 200 times its own size") as caught:
        list(part.perform(tmp_path))
    assert caught.value.where == str(path)


def test_rows_that_are_all_refused_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MOST_REFUSED", 200)
    monkeypatch.setattr(parts, "BLOCK", 1 << 10)
    path = tmp_path / "rows.jsonl"
    bad, good = b'{"messages":[]}\n', GOOD % (b"a", b"b") + b"\n"
    path.write_bytes((bad * 190 + good) * 10)
    assert sum(tally.refused for _, tally in tallies(path, 1 << 20)) == 1900
    path.write_bytes(good + bad * 1900)
    with pytest.raises(DataError, match="More than 200 rows in a row cannot be trained on") as caught:
        list(tallies(path, 1 << 20))
    assert caught.value.where == str(path)
