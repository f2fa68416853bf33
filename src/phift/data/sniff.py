"""What a file is, whatever its name says: a look at its beginning, and one way out for all of its rows.

The delimiter that a header shows is taken. Anything else that a file is instead of what its name says is an error,
since to guess is not exact. No text of the file is quoted.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import string
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from phift.data import files, texts
from phift.data.formats import UnknownFormat, recognise
from phift.errors import DataError

if TYPE_CHECKING:
    from phift.config.data import Format

_HEAD = 1 << 20  # bytes of a file that are looked at
_HEADER = 1 << 16  # bytes in which a header is looked for
_ENCODED = 16 << 20  # bytes of which it is told how their characters are encoded
_DELIMITERS = (",", ";", "\t", "|")

_UNPACK = "unpack it"
_TABLE = "write the table as CSV or parquet"
_DOWNLOAD = "download the data itself, logged in if need be"
_REWRITE = "load it where it was written, and write JSON Lines or parquet"
_GZIP, _ZSTD, _PARQUET, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"PK\x03\x04"
_ARROW = _ARROW_FILE, _ARROW_STREAM = b"ARROW1\0", b"\xff\xff\xff\xff"
_MAGIC: Mapping[bytes, tuple[str, str]] = {
    b"version https://git-lfs": ("a Git LFS pointer and not the data", "fetch the data with `git lfs pull`"),
    _GZIP: ("packed with gzip", "rename it to {name}.gz"),
    _ZSTD: ("packed with zstd", "rename it to {name}.zst"),
    _PARQUET: ("a parquet file", "rename it to {stem}.parquet"),
    _ARROW_FILE: ("an Arrow file", "rename it to {stem}.arrow"),
    _ARROW_STREAM: ("an Arrow stream", "rename it to {stem}.arrow"),
    b"FEA1": ("a Feather file of the first version", _TABLE),
    _ZIP: ("a zip archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a": ("a rar archive", _UNPACK),
    b"BZh": ("packed with bzip2", _UNPACK),
    b"\xfd7zXZ\0": ("packed with xz", _UNPACK),
    b"\x04\x22\x4d\x18": ("packed with lz4", _UNPACK),
    b"SQLite format 3\0": ("an SQLite database", _TABLE),
    b"\xd0\xcf\x11\xe0": ("a document of an old Office program", "save the table as 'CSV UTF-8'"),
    b"\x80": ("a pickle of Python's", _REWRITE),
    b"\x93NUMPY": ("an array of numpy's", _TABLE),
    b"\x89HDF": ("an HDF5 file", _TABLE),
    b"Obj\x01": ("an Avro file", _TABLE),
    b"ORC": ("an ORC file", _TABLE),
    b"%PDF-": ("a PDF document", "give the data that it was made of"),
}
# By an entry's name, from its beginning, and what follows it.
_IN_ZIP: Mapping[bytes, tuple[str, str]] = {
    b"word/": ("a document of Word's", "write its rows as CSV or JSON Lines"),
    rb"mimetypeapplication/vnd\.oasis\.": ("a document of LibreOffice's", "save the sheet as CSV, in UTF-8"),
    rb"xl/|\[Content_Types\]\.xml": ("a workbook of Excel's", "save the sheet as 'CSV UTF-8'"),
    rb"[^/]{1,99}/data\.pkl": ("a file of torch.save", _REWRITE),
    rb"[\w/ -]{1,99}\.npy(?![\w.])": ("arrays of numpy's", _TABLE),
}
_OWN: Mapping[str, tuple[bytes, ...]] = {
    ".gz": (_GZIP,),
    ".zst": (_ZSTD,),
    ".parquet": (_PARQUET,),
    ".arrow": _ARROW,
    ".feather": _ARROW,
}
_NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95}\]cX(]")
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--|\?xml|error)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\W*(40\d\b|(not|entry not|repository not|file not) found|access denied|access to|unauthorized|forbidden"
    r"|invalid (username|credentials|token)|rate limit|too many requests|internal server error|bad gateway)",
    re.IGNORECASE,
)
_LONGEST_REFUSAL = 1_000


def check(path: Path) -> None:
    """Refuse a file whose first bytes say that it is something else than its name says; raises `DataError`."""
    _check(path, _head(path))


def check_nameless(path: Path) -> None:
    """Refuse a file whose suffix is none that is read, by what it is; raises `DataError` where that can be told."""
    if files.compressed(path):
        return
    head = _head(path)
    _check(path, head)
    if suffix := _suffix_of(_text_of(head)):
        what = "The file's name does not say what it is: it seems to be text with rows."
        raise DataError(what, where=str(path), fix=f"rename it to {path.stem}.{suffix}")


def _head(path: Path) -> bytes:
    with io.BufferedReader(files.open_file(path)) as file:
        return file.read(_HEADER)


def _text_of(head: bytes) -> str:
    return head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").lstrip()


def _check(path: Path, head: bytes) -> None:
    packed, own = files.compressed(path), _OWN.get(path.suffix.lower(), ())
    is_own = not own or head.startswith(own)
    found = None if own and is_own else _by_magic(head)
    if not found and not is_own and not _NO_TEXT.search(head) and (files.is_known(path) or not packed):
        told = "text, and not packed" if packed else f"text and no {path.suffix} file"
        suffix = _suffix_of(_text_of(head)) or "csv"
        found = told, f"rename it to {path.stem}" if packed else "rename it to {stem}." + suffix
    if packed and not found:
        with suppress(DataError), files.opened(path) as (stream, _):
            if found := _by_magic(stream.read(_HEADER)):
                found = f"packed, and in that it is {found[0]}", found[1] if "{" not in found[1] else _UNPACK
    if found:
        raise _something_else(path, *found)


def _something_else(path: Path, what: str, fix: str) -> DataError:
    if files.compressed(path) and "{stem}" in fix:
        fix = fix.replace("{stem}", Path(path.stem).stem) + path.suffix
    fix = fix.replace("{name}", path.name).replace("{stem}", path.stem)
    return DataError(f"The file is {what}.", where=str(path), fix=fix)


def _by_magic(head: bytes) -> tuple[str, str] | None:
    """Return what the first bytes say for certain, and the way out."""
    if markup := _MARKUP.match(head):
        is_xml = markup[1].lower() in (b"?xml", b"error")
        what = "XML, such as a service's error" if is_xml else "a web page, such as one to log in"
        return f"{what}, and not the data", _DOWNLOAD
    if head and not head.strip(b"\0"):
        return "nothing but zero bytes, as of a copy that was interrupted", "copy it again"
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    for magic, told in _MAGIC.items():
        if not head.startswith(magic):
            continue
        if magic == _ZIP:
            entry = re.escape(_ZIP) + b".{26}"
            found = (told for name, told in _IN_ZIP.items() if re.search(entry + b"(?:" + name + b")", head, re.DOTALL))
            return next(found, told)
        if magic == b"\x80" and not _PICKLE.match(head):
            continue
        if magic.startswith(b"version") or _NO_TEXT.search(head):  # a table's header may begin with some of them
            return told
    return None


# ---------------------------------------------------------------- tables


def delimiter(
    path: Path,
    kind: str,
    encoding: str | None = None,
    format: Format | None = None,  # noqa: A002 - the configuration's own word
    columns: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return what is between the cells of a table: the usual one, unless by it the header has no known columns.

    Another one is taken where by that alone the header has them.
    """
    usual = texts.DELIMITERS[kind]
    with files.opened(path, encoding) as (stream, _):
        text = codecs.decode(stream.read(_HEADER).removeprefix(codecs.BOM_UTF8), "utf-8", "replace")
    if told := re.match(r"\"?sep=([^\"\r\n])\"?\r?\n", text):
        return told[1]

    def known(delimiter: str) -> bool:
        with suppress(UnknownFormat):
            return bool(recognise(_header(text, delimiter), format, columns))
        return False

    if not known(usual):
        others = [each for each in _DELIMITERS if each != usual and known(each)]
        return others[0] if len(others) == 1 else usual
    return usual


def _header(text: str, delimiter: str) -> list[str]:
    with suppress(csv.Error):
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if "".join(cells).strip():
                return [cell.strip() for cell in cells]
    return []


def _likely_delimiter(text: str, usual: str) -> str | None:
    """Return by what the one column of a header would become several."""
    if len(_header(text, usual)) != 1:
        return None
    return next((each for each in _DELIMITERS if len(_header(text, each)) > 1), None)


# ---------------------------------------------------------------- a closer look


def explain(path: Path, kind: str, encoding: str | None = None, delimiter: str | None = None) -> DataError | None:
    """Return the error for a text file whose rows all fail, or which cannot be read, where a look at it tells why.

    - **encoding**, **delimiter**: with which it was read.
    """
    with suppress(DataError), files.opened(path, encoding) as (stream, _):
        head = stream.read(_HEAD)
        if encoding is None and (told := _other_encoding(head, stream)):
            what, fix = told
            return DataError(f"The file is {what}.", where=str(path), fix=fix)
        text = _text_of(head)
        if len(head) < _LONGEST_REFUSAL and _REFUSAL.match(text):
            return _something_else(path, "a short message, such as a service's error, and not the data", _DOWNLOAD)
        if text.startswith("<"):
            return _something_else(path, "a web page or XML, and not the data", _DOWNLOAD)
        if kind in texts.DELIMITERS:
            usual = texts.DELIMITERS[kind]
            found = _in_place_of_a_table(text, usual if delimiter in (None, usual) else None)
        else:
            found = _in_place_of_json(text, kind)
        if found:
            return _something_else(path, *found)
    return None


def _other_encoding(head: bytes, stream: BinaryIO) -> tuple[str, str] | None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        return None  # whoever reads it says so
    start = head[: len(head[:4096]) & ~3]
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be") if b"\0" in start else ():
        with suppress(UnicodeDecodeError):
            text = start.decode(name)
            if sum(map(str.isascii, text)) > len(text) / 4 and "\0" not in text:
                return f"{name[:6].upper()} without a mark", f"write `encoding: {name}` beside `files`, or {_SAVE}"
    if b"\0" in start and _NO_TEXT.search(start.replace(b"\0", b"")):
        return "no text", "check that it is what its name says, and copy it again"
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    block, seen, letters, others, bad = head, 0, 0, 0, bytearray()
    while block and seen < _ENCODED:
        seen += len(block)
        text = decoder.decode(block)
        if not text.isascii():
            lone = re.findall("[\udc80-\udcff]", text)
            bad += bytes(ord(each) - 0xDC00 for each in lone)
            others += len(text) - len(lone) - len(text.encode("ascii", "ignore"))
        letters += len(block) - len(block.translate(None, _LETTERS))
        block = stream.read(_HEAD)
    is_dense = len(bad) >= 0.3 * (letters + len(bad))  # where each letter takes two bytes, some look like UTF-8
    is_western = not is_dense and len(bad.translate(None, _WESTERN)) <= 0.1 * len(bad)
    if len(bad) < 2 or others > (1 if is_dense else 0.2) * len(bad):  # a few broken ones are those rows' matter
        return None
    if is_western:
        fix = f"write `encoding: windows-1252` beside `files` and look at a few rows then, or {_SAVE}"
        return "not UTF-8, but probably Windows-1252", fix
    return "not UTF-8", f"write its `encoding` beside `files`, such as cp1251, gb18030 or shift_jis, or {_SAVE}"


def is_utf8(path: Path) -> bool:
    """Tell whether a file of text has letters beyond ASCII, and all of those at its beginning are UTF-8."""
    with suppress(DataError, UnicodeDecodeError), files.opened(path) as (stream, _):
        text = codecs.getincrementaldecoder("utf-8")().decode(stream.read(_HEAD))
        return len(text) - len(text.encode("ascii", "ignore")) >= _FEW
    return False


_FEW = 4  # letters; fewer may look like UTF-8 by chance, as one of six Chinese ones does in GB 18030
_LETTERS = string.ascii_letters.encode()
_SAVE = "save it as UTF-8 ('CSV UTF-8' in Excel)"
# Letters of western Europe and signs of typography, as Windows-1252 has them.
_WESTERN = bytes.fromhex("80828485 8c9192939495969799 9ca0a1a3a7a9ab aeb0b4b7bbbf") + bytes(range(0xC0, 0x100))


def _in_place_of_a_table(text: str, usual: str | None) -> tuple[str, str] | None:
    if re.match(r"[\[{]\s*(?:[\"\[{']|$)", text):
        return "JSON and no table", f"rename it to {{stem}}.{_suffix_of(text)}"
    if text.startswith("|"):
        return "a table of Markdown's", "write it as CSV"
    if usual and (other := _likely_delimiter(text, usual)):
        shown = "a tab" if other == "\t" else f"`{other}`"
        written = "'\\t'" if other == "\t" else f"'{other}'"
        fix = f"write `delimiter: {written}` beside `files`, and `columns` for names that are not known"
        return f"a table with {shown} between its cells", fix
    return None


_PYTHON = "in Python's notation and not JSON", "write each row with json.dumps instead of str or repr"


def _suffix_of(text: str) -> str | None:
    """Return the suffix for what starts as JSON does, or a table whose columns are known."""
    if text.startswith(("{", "[")):
        return "jsonl" if text.startswith("{") else "json"
    for each in _DELIMITERS:
        with suppress(UnknownFormat):
            if recognise(_header(text, each)):
                return "tsv" if each == "\t" else "csv"
    return None


def _in_place_of_json(text: str, kind: str) -> tuple[str, str] | None:
    line = text.partition("\n")[0].strip()
    if re.match(r"[\[{(\s]*b?'", text):
        return _PYTHON
    if isinstance(value := _decoded(line), str | list) and (kind == "jsonl" or isinstance(value, str)):
        if isinstance(value, str):
            twice = isinstance(_decoded(value), dict | list)
            return ("JSON that was encoded twice", "write each row with json.dumps once") if twice else None
        if value and isinstance(value[0], dict):
            if value[0].keys().isdisjoint(("role", "from")):
                return None  # one list of rows, as whoever reads it says
            return "JSON with lists of messages and no rows", 'write {"messages": [...]} on each line'
        return "JSON with lists and no objects", 'write each row as an object, such as {"question": ..., "answer": ...}'
    if not text.startswith(("{", "[", "//", "/*", "#")):
        if suffix := _suffix_of(text):
            return "a table in text", "rename it to {stem}." + suffix
        if re.match(r"(---\s|- |[a-z]\w*:\s)", text):
            return "YAML and not JSON", "load it, and write each row with json.dumps"
        return None
    if re.match(r"[\[{\s]*[A-Za-z_$][\w$]*\s*:", text):
        return "in JavaScript's notation and not JSON", "write it with JSON.stringify"
    if "\r" in text.rstrip() and "\n" not in text and kind == "jsonl":
        return "text whose lines end as on an old Mac, with CR", "save it with line ends of today (LF)"
    if kind == "jsonl" and line.endswith(",") and _decoded(line[:-1]):
        return "not JSON Lines: its lines end in commas", "take the comma at the end of each line out"
    bare = re.sub(r'"(?:[^"\\\n]|\\.)*+(?:"|$)', '""', text, flags=re.MULTILINE)
    if "{" in bare and re.search(r"(?:^|[\s,\[{}])(?://|/\*|#)", bare):
        return "JSON with comments", "take the comments out"
    if re.search(r"[:,\[]\s*(?:None|True|False)\b", bare):
        return _PYTHON
    if re.search(r",\s*[}\]]", bare):
        return "JSON with a comma before a closing bracket, which JSON has not", "take such commas out"
    return _several_objects(text, kind)


def _decoded(text: str) -> object:
    with suppress(msgspec.DecodeError, RecursionError):
        return msgspec.json.decode(text)
    return None


_HOLDS_ROWS = "one JSON object that holds the rows", "rename it to {stem}.json"


def _several_objects(text: str, kind: str) -> tuple[str, str] | None:
    """Tell objects that are not one a line."""
    decoder = json.JSONDecoder()
    with suppress(ValueError, RecursionError):
        first, end = decoder.raw_decode(text)
        rest = text[end:].lstrip()
        if not isinstance(first, dict):
            return None
        held = [value for value in first.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if not rest and len(held) == 1 and not texts.TURNS & first.keys():
            return _HOLDS_ROWS if kind == "jsonl" else None
        if not rest and (told := _other_object(first)):
            return told
        if not rest and kind == "json" and not _is_row(first):
            return None  # on one line it would be no row either
        same_line = "\n" not in text[end : len(text) - len(rest)]
        if "\n" in text[:end] or (rest and same_line):
            shape = "over several lines" if "\n" in text[:end] else "one after the other"
            return f"JSON with objects {shape}, and not one a line", "write one object a line, as `jq -c .` does"
        return None
    # Of a longer object there is only the beginning here.
    if kind == "jsonl" and (before := re.match(r'\{\s*"[^"\\]*"\s*:\s*\[\s*', text)):
        with suppress(ValueError, RecursionError):
            if _is_row(decoder.raw_decode(text, before.end())[0]):
                return _HOLDS_ROWS
    return None


def _other_object(value: dict[str, Any]) -> tuple[str, str] | None:
    """Tell one object of rows or columns, and one that is an answer of a service's."""
    to_json = "write it with to_json(orient='records', lines=True)"
    values = list(value.values())
    first = next(iter(values), None)
    if _is_row(first) and all(isinstance(each, dict) for each in values):
        return "JSON with rows by their numbers, as of pandas' to_json", to_json
    with suppress(UnknownFormat):
        of_texts = recognise(value).format not in ("messages", "sharegpt", "ultrachat")
        cells = first if isinstance(first, list) else []
        of_lists = bool(cells) and all(isinstance(each, (str, list) if of_texts else list) for each in cells)
        of_columns = isinstance(first, dict) or of_lists
        if first and of_columns and all(type(each) is type(first) for each in values):
            return "JSON with columns and no rows, as of pandas' to_json", to_json
        return None
    if sum(isinstance(each, list) and bool(each) and _is_row(each[0]) for each in values) > 1:
        return "one JSON object with several lists of rows", "write the rows of each list to a file of their own"
    if _ANSWER & value.keys():
        return "a service's error and not the data", _DOWNLOAD
    return None


def _is_row(value: object) -> bool:
    with suppress(UnknownFormat):
        return isinstance(value, dict) and bool(recognise(value))
    return False


_ANSWER = frozenset({"error", "errors", "detail", "message", "error_description"})
