"""The splits that a folder has by the names of its files, so that no test row is trained on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from phift.check.findings import Finding
from phift.component.preprocessing import SPLITS
from phift.config.data import DataConfig, FileSource, OneSource
from phift.data import files, sniff, texts
from phift.errors import DataError

_EVAL = "eval"
_WORDS: Mapping[str, tuple[str, ...]] = {  # what is meant by several names is what is kept most apart
    "test": ("test", "testing", "heldout", "holdout"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    _EVAL: ("eval", "evaluation"),
    "train": ("train", "training"),
}
_NAMES = {split: re.compile(rf"({'|'.join(words)})(set|split|data)?\d*") for split, words in _WORDS.items()}

# Suffixes of what holds no rows; whatever else is not read can.
_HOLDS_NO_ROWS = re.compile(
    r"\.(bib|cfg|conf|crc|css|gif|html?|ini|ipynb|jpe?g|js|lock|map|md|md5|mp[34]|pdf|png|py|rst|sh|sha\d+|svg|tex|toml|ts"
    r"|wav|webp|ya?ml)"
)

_MOST_NAMED = 10

Given = tuple[str, int, OneSource]
"""What a source's rows are for, the source's number, and the source; of files, one file."""


def spread(data: DataConfig) -> tuple[list[Given], list[Finding]]:
    """Return all sources, in the order of the splits, with each file of a folder in the split that its name says.

    A folder or a pattern that is given for one split has others by the names in it: of `train`, a file named after
    another split is that split's, unless that has a source of its own; of any other, it is left out. Where all its
    files are named after one other split, they are what they are given for.

    Raises `phift.errors.DataError` where files cannot be read at all, or all are named after several other splits.
    """
    given: list[Given] = []
    findings: list[Finding] = []
    left: list[tuple[str, Path, Path]] = []
    several = [(split, source) for split, sources in data.sources.items() for source in sources]
    for stratum, (split, source) in enumerate(several):
        if not isinstance(source, FileSource):
            given.append((split, stratum, source))
            continue
        try:
            found = files.contents(source.files)
        except DataError:
            if not files.is_known(source.files) and os.path.isfile(source.files):  # noqa: PTH113 - Path.is_file raises where a name is too long
                sniff.check_nameless(source.files)
            raise
        place, folder = str(source.files), found.folder or source.files
        _check_text(source, set(map(files.kind, found.files)), place)
        findings += _passed_over(found.others, place, folder)
        named = split_by_name(found.files, found.folder) if found.folder else dict.fromkeys(found.files)
        others = {file: name for file, name in named.items() if name not in (None, split)}
        if len(others) == len(named):
            if len(set(others.values())) > 1:
                what = f"None of its files is named as data for {split}: {_told(named, folder)}."
                fix = f"give the files that are meant for {split} themselves, as in a list"
                raise DataError(what, where=place, fix=fix)
            if others:
                named_as = f"All its files are named as data of another split, and are given for {split}"
                message = f"{named_as}: {_told(named, folder)}."
                findings.append(
                    Finding("DATA_SPLITS_BY_NAME", "warning", place, message, "rename them, unless it is meant")
                )
            others = {}
        taken = {file: split for file in named if file not in others}
        for file, name in others.items():
            if split == "train" and name and name not in data.sources:
                taken[file] = name
            else:
                left.append((place, folder, file))
        if set(taken.values()) != {split}:
            message = f"Its files are the splits that their names say: {_told(taken, folder)}."
            findings.append(Finding("DATA_SPLITS_BY_NAME", "note", place, message))
        given += [(name, stratum, source.model_copy(update={"files": file})) for file, name in taken.items()]
    used = {source.files.absolute() for _, _, source in given if isinstance(source, FileSource)}
    for place, folder in dict.fromkeys((place, folder) for place, folder, _ in left):
        unused = [file for each, _, file in left if each == place and file.absolute() not in used]
        if unused:
            named_as = "Not read, since they are named as data of another split, which is given otherwise"
            message = f"{named_as}: {_listed(unused, folder)}."
            fix = "give them for their split too, as in a list, if they are meant"
            findings.append(Finding("DATA_FILES_LEFT_OUT", "warning", place, message, fix))
    return sorted(given, key=lambda each: SPLITS.index(each[0])), findings


def _check_text(source: FileSource, kinds: set[str], place: str) -> None:
    """Refuse what says how text is written, where there is none."""
    none = ""
    if source.delimiter and kinds.isdisjoint(texts.DELIMITERS):
        none = "`delimiter` is given, and none of the files is CSV or TSV."
    if source.encoding and kinds <= set(files.BINARY):
        none = "`encoding` is given, and none of the files is text."
    if none:
        raise DataError(none, where=place, fix="leave it out")


def split_by_name(paths: Sequence[Path], folder: Path) -> dict[Path, str | None]:
    """Return the split that each file's name says, or a folder's that it is in, below ``folder``; None without one.

    What is named after evaluation is validation data, or test data where there is validation data and no other test.
    """
    named = {path: _named(path.relative_to(folder)) for path in paths}
    splits = set(named.values())
    meant = "test" if "validation" in splits and "test" not in splits else "validation"
    return {path: meant if split == _EVAL else split for path, split in named.items()}


def _named(path: Path) -> str | None:
    text = re.sub("(held|hold)[-_ .]?out", r"\1out", str(path), flags=re.IGNORECASE)
    words = [word for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", text) if word]
    return next((split for split, name in _NAMES.items() if any(name.fullmatch(word.lower()) for word in words)), None)


def _passed_over(others: Sequence[Path], place: str, folder: Path) -> Iterable[Finding]:
    known = [file for file in others if files.is_no_data(file) or _HOLDS_NO_ROWS.fullmatch(file.suffix.lower())]
    if unread := sorted(set(others).difference(known)):
        message = (
            "Not read, since they are of kinds that nothing here reads, links to folders, or in no list of the data "
            f"set that they lie beside: {_listed(unread, folder)}."
        )
        fix = (
            "unpack them, or write them as JSON Lines, CSV or parquet, if they hold rows; give a linked folder, or "
            "what is in no list, itself"
        )
        yield Finding("DATA_FILES_LEFT_OUT", "warning", place, message, fix)
    if known:
        message = f"Passed over, since they are no data: {_listed(known, folder)}."
        yield Finding("DATA_FILES_PASSED_OVER", "note", place, message)


def _listed(paths: Sequence[Path], folder: Path) -> str:
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(path.relative_to(folder).as_posix() for path in paths[:_MOST_NAMED]) + more


def _told(splits: Mapping[Path, str | None], folder: Path) -> str:
    of_each = {split: [path for path, each in splits.items() if each == split] for split in SPLITS}
    return "; ".join(f"{split}: {_listed(paths, folder)}" for split, paths in of_each.items() if paths)
