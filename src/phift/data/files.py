"""Data files as they lie there: which a path stands for, and their bytes, unpacked while they are read."""

from __future__ import annotations

import codecs
import difflib
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from phift.component.preprocessing import SUFFIXES
from phift.errors import DataError, DataNotFound

_PACKED = (".gz", ".zst")
BINARY = ("parquet", "arrow")
"""Kinds of files that are no text."""
_ARROW = (".arrow", ".feather")
_BUFFER = 1 << 20
_RECODED = 1 << 16  # bytes of another encoding that are read at a time

_NO_DATA = re.compile(
    r"_success|_(common_)?metadata|_(started|committed)_\d+|(eh)?thumbs\.db|~\$.*|.*~"
    r"|(readme|license|licence|citation)\.json"
    r"|dataset_(info|infos|dict)\.json|state\.json|manifest\.json|rejects\.jsonl|package(-lock)?\.json|tsconfig\.json"
    r"|(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|adapter_config|trainer_state)\.json"
    r"|(vocab|metadata|finetune_config|ds_config)\.json|croissant\.json|.*[._-]metadata\.json|cache-.*\.arrow|indices\.arrow"
)
# With a suffix of data it is a topic: of license-questions.jsonl the rows are meant.
_ABOUT_DATA = re.compile(
    r"(readme|license|licence|notice|changelog|citation|requirements|makefile|dockerfile"
    r"|authors|contributors|contributing|copying|codeowners|version)\b.*"
)
_SAVED = {"state.json", "dataset_info.json"}
_LONGEST_STATE = 16 << 20

MOST_SILENT = 16 << 20
"""Bytes of a packed file of which nothing comes: blanks behind it, empty members, frames to be skipped."""


def most_unpacked(size: int) -> int:
    """Return the bytes that a packed file may hold, since a small one can hold as many as would fill any disk.

    Ordinary chats take a fifth to a tenth of their size; gzip packs nothing to less than a thousandth, zstd and parquet
    know no end.

    - **size**: the file's own, in bytes.
    """
    return max(1 << 30, 200 * size)


def kind(path: Path) -> str:
    """Return what the file is by its name: jsonl, json, csv, tsv, parquet or arrow.

    Text also with ``.gz`` or ``.zst`` behind; ``.ndjson`` is ``.jsonl``, ``.feather`` is ``.arrow``.
    """
    suffix = _suffix(path)
    if not is_known(path):
        what = f"A data file with the suffix {''.join(path.suffixes[-2:]) or '(none)'} cannot be read."
        packed = f"{', '.join(SUFFIXES[:-1])} file, which may end in {' or '.join(_PACKED)}"
        fix = f"give a {packed}, or a {SUFFIXES[-1]}, {' or '.join(_ARROW)} file"
        raise DataError(what, where=str(path), fix=fix)
    return "arrow" if suffix in _ARROW else suffix.removeprefix(".")


def compressed(path: Path) -> bool:
    """Tell whether the file is packed with gzip or zstd."""
    return path.suffix.lower() in _PACKED


def is_known(path: Path) -> bool:
    """Tell whether files with this suffix are read."""
    suffix = _suffix(path)
    return suffix in SUFFIXES[:-1] if compressed(path) else suffix in (*SUFFIXES, *_ARROW)


def _suffix(path: Path) -> str:
    name = Path(path.stem) if compressed(path) else path
    suffix = name.suffix.lower()
    return ".jsonl" if suffix == ".ndjson" else suffix


def check_path(path: Path) -> None:
    """Refuse a path that no file can have.

    Quotes and backslashes are for nobody to refuse: what is uploaded is named after the split, and nothing of a path
    on this machine gets into the component's command lines.
    """
    if "\0" in str(path):
        what = "The path has NUL in it, which no file's name can have."
        raise DataError(what, where=str(path).replace("\0", "\\0"), fix="check the path")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        where = str(path).encode(errors="backslashreplace").decode()
        raise DataError("The name is not UTF-8, so no account can name it.", where=where, fix="rename it") from None


class Contents(NamedTuple):
    """What a path stands for: data **files**, and the **others**, of a **folder**, which is None for one file."""

    folder: Path | None
    files: list[Path]
    others: list[Path]


def expand(path: Path) -> list[Path]:
    """Return the data files that a path stands for: a file, those of a folder, or those of a pattern, sorted.

    Hidden names are left out of folders and patterns, and so are files that are no data.
    """
    return contents(path).files


def contents(path: Path) -> Contents:
    """Return the data files that a path stands for, and the other files beside them; hidden ones are neither."""
    check_path(path)
    seen = look(path)
    if seen is not None and stat.S_ISDIR(seen.st_mode):
        # Path.rglob passes over a folder that it may not read; its rows would be lost without a word.
        def fail(error: OSError) -> None:
            raise _unreadable(path, error) from error

        files, others = [], []
        try:
            for place, folders, names in os.walk(path, onerror=fail):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                here = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
                own = _saved(Path(place)) if set(names) >= _SAVED else [file for file in here if _is_data(file)]
                files += own
                others += sorted(set(here).difference(own))
                others += [link for name in folders if (link := Path(place, name)).is_symlink()]  # os.walk stays out
        except RecursionError:
            what = "The folder has folders that are nested too deeply."
            raise DataError(what, where=str(path)[:500], fix="give a pattern, or the folder with the files") from None
        if not files:
            only = f"it has only {', '.join(other.name for other in others[:3])}: " if others else ""
            fix = f"{only}put {', '.join(SUFFIXES)} files there, or give another folder"
            raise DataError("The folder has no data files.", where=str(path), fix=fix)
        found = Contents(path, files, others)
    else:
        found = _matching(path) if seen is None else Contents(None, [path], [])
    for file in found.files:
        check_path(file)
        seen, where = look(file), str(file)
        if seen is None:
            raise DataNotFound("There is no such data file.", where=where, fix="it is a link to nothing, or just went")
        if not stat.S_ISREG(seen.st_mode):
            raise _no_file(file)
        kind(file)
        if not seen.st_size:
            raise DataError("The data file is empty.", where=where, fix="give a file with rows")
    return found


def _saved(folder: Path) -> list[Path]:
    """Return the files of a data set that `save_to_disk` of ``datasets`` has written, as its state lists them.

    (``Dataset.save_to_disk`` and ``load_from_disk`` in datasets/arrow_dataset.py, 5.2.0; read 2026-11-30.)
    """
    where, again = str(folder / "state.json"), "save it again with `save_to_disk`, or give its .arrow files"
    try:
        with open_file(folder / "state.json") as file:
            state = msgspec.json.decode(file.read(_LONGEST_STATE), type=_State)
    except (OSError, ValueError, RecursionError) as error:
        what = "The state of a data set that `save_to_disk` has written cannot be read."
        raise DataError(what, where=where, fix=again) from error
    if state.indices_files:
        fix = "save it again after `flatten_indices`, which writes the rows that it has, in their order"
        raise DataError("The data set is a choice of the rows that its files have.", where=where, fix=fix)
    names = [file.filename for file in state.data_files]
    if any(Path(name).name != name or name in ("", ".", "..") for name in names):
        raise DataError("The data set's state names files of other folders.", where=where, fix=again)
    return [folder / name for name in names]


class _File(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    data_files: list[_File] = msgspec.field(name="_data_files")
    indices_files: list[_File] | None = msgspec.field(name="_indices_files", default=None)


def look(path: Path) -> os.stat_result | None:
    """Return what is at a path, or None if nothing is there."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # too long a name, a loop of links, no right to look
        raise _unreadable(path, error) from error


def _is_data(path: Path) -> bool:
    return is_known(path) and not (path.name.startswith(".") or is_no_data(path))


def is_no_data(path: Path) -> bool:
    """Tell a file that by its name is about data, of a program, or phift's own, and not data."""
    name = path.name.lower()
    return bool(_NO_DATA.fullmatch(name) or (_ABOUT_DATA.fullmatch(name) and not is_known(path)))


def _matching(path: Path) -> Contents:
    """Return the data files that match a pattern; the parts before the first with ``*?[`` are a plain folder."""
    magic = next((index for index, part in enumerate(path.parts) if re.search(r"[*?\[]", part)), None)
    if magic is None:
        raise DataNotFound("There is no such data file.", where=str(path), fix=_near(path))
    folder, pattern = Path(*path.parts[:magic]), Path(*path.parts[magic:])
    if pattern.name == "**":
        pattern /= "*"
    try:
        found = sorted(file for file in folder.glob(str(pattern)) if file.is_file())
    except ValueError as error:
        what = "In a pattern, ** is a part of its own, which stands for folders."
        raise DataError(what, where=str(path), fix="write **/* for all files below a folder") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    found = [file for file in found if not re.search(r"(?:^|/)\.", file.relative_to(folder).as_posix())]
    if not found:
        raise DataNotFound("No file matches the pattern.", where=str(path), fix=_near(folder / "*"))
    data = [file for file in found if _is_data(file)] or found[:1]  # which says what can be read
    return Contents(folder, data, sorted(set(found).difference(data)))


def _near(path: Path) -> str:
    """Return what to do about a missing file: the names in its folder that look like it."""
    try:
        taken = sorted(entry.name for entry in path.parent.iterdir() if _is_data(entry))
    except OSError:
        return f"there is no folder {path.parent}; check the path"
    near = difflib.get_close_matches(path.name, taken, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "check the path"


def _no_file(path: Path) -> DataError:
    return DataError("The path is not a file.", where=str(path), fix="give a file, a folder or a pattern")


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return DataError(f"The data cannot be read: {reason}.", where=str(path)[:500], fix="check the path and its rights")


def make_private(folder: Path) -> None:
    """Make the folder of what phift keeps on this machine, with a ``.gitignore`` that keeps all of it out of Git.

    A folder that is there is somebody's, unless its name is ``.phift``; and so is a ``.gitignore``. Whoever writes
    into the folder says why it cannot be made.
    """
    with suppress(OSError, ValueError):
        there = folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        if not there or folder.name == ".phift":
            with (folder / ".gitignore").open("x", encoding="utf-8") as file:
                file.write("*\n")


def open_file(path: Path) -> io.FileIO:
    """Open a data file to be read, without a buffer.

    Raises `phift.errors.DataError` where it cannot be read or is no file; what lay there when it was looked at may have
    become a pipe, at which opening alone waits for ever, or a device.
    """
    try:
        file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    except FileNotFoundError as error:
        raise DataNotFound("There is no such data file.", where=str(path), fix=_near(path)) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _no_file(path)
    return file


@contextmanager
def opened(path: Path, encoding: str | None = None) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Open a file and unpack it while it is read; what cannot be read or unpacked is a `DataError`.

    Gives its unpacked bytes, and a function that returns how many bytes of the file on the disk have been read so far.

    - **encoding**: of its text, which then comes as UTF-8; left out, bytes come as they are.
    """
    with open_file(path) as file, io.BufferedReader(_Unpacked(file, path), _BUFFER) as stream:
        yield io.BufferedReader(_Recoded(stream, path, encoding), _BUFFER) if encoding else stream, file.tell


class _Recoded(io.RawIOBase):
    """A text in UTF-8 that is in another encoding in **stream**."""

    def __init__(self, stream: BinaryIO, path: Path, encoding: str) -> None:
        self._stream = stream
        self._path = path
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._read = 0
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # WriteableBuffer is private
        block = b"more"
        while block and not self._left:
            block = self._stream.read(_RECODED)
            try:
                self._left = self._decoder.decode(block, final=not block).encode()
            except ValueError as error:
                what = f"The file is not in the encoding {self._encoding} (near byte {self._read:,})."
                raise DataError(
                    what, where=str(self._path), fix="check `encoding`, and that the file is whole"
                ) from error
            self._read += len(block)
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a file.

    Errors are turned into ours here and not around the whole reading, where a full disk of whoever writes the rows
    would be taken for a broken archive.
    """

    def __init__(self, file: io.FileIO, path: Path) -> None:
        self._path = path
        size = os.fstat(file.fileno()).st_size
        self._left = most_unpacked(size) if compressed(path) else size
        self._bytes: io.BufferedIOBase | io.FileIO = file
        self._packed = _Packed(file, path)
        if path.suffix.lower() == ".gz":
            self._bytes = gzip.GzipFile(fileobj=io.BufferedReader(self._packed, _BUFFER))
        elif path.suffix.lower() == ".zst":
            import pyarrow as pa

            self._bytes = pa.CompressedInputStream(self._packed, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int | None:  # type: ignore[override]  # WriteableBuffer is private
        try:
            count = self._bytes.readinto(buffer)
        except (EOFError, OSError, zlib.error) as error:
            if not compressed(self._path):
                raise _unreadable(self._path, error) from error
            what = "The packed file cannot be unpacked: it is cut short or broken."
            raise DataError(what, where=str(self._path), fix="pack or copy it again") from error
        self._packed.silent = 0
        self._left -= count or 0
        if self._left < 0:
            if not compressed(self._path):
                what, fix = "The file became longer while it was read.", "let nobody write to it meanwhile"
                raise DataError(what, where=str(self._path), fix=f"{fix}, and start again")
            what = "The packed file holds more than 1 GB, and more than 200 times its own size."
            raise DataError(what, where=str(self._path), fix="unpack it, if what it holds is meant")
        return count


class _Packed(io.RawIOBase):
    """The bytes of a packed file; **silent**: how many were read since something last came of them."""

    def __init__(self, file: io.FileIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.silent = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int | None:  # type: ignore[override]  # WriteableBuffer is private
        count = self._file.readinto(buffer)
        self.silent += count or 0
        if self.silent > MOST_SILENT:
            what = f"The packed file has {MOST_SILENT >> 20} MB on end that hold nothing."
            raise DataError(what, where=str(self._path), fix="pack or copy it again")
        return count
