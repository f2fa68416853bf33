"""What every part of the configuration is made of, and the part that says where the chat data comes from."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from phift.config.schema import PLACEHOLDER, describe


def refuse_placeholder(text: str) -> str:
    """Return a text that somebody has filled in; what was left as ``<name>`` or ``${NAME}`` is a `ValueError`."""
    braces = "}}" in text.partition("{{")[2]  # by a pattern it would take as long as the square of the text's length
    if braces or re.search(PLACEHOLDER, text):
        raise ValueError(f"{text} is a placeholder; write what it stands for (variables are not put in here)")
    return text


NAME: JsonSchemaValue = {"pattern": r"^[^'\\\s]+$", "minLength": 1, "not": {"pattern": PLACEHOLDER}}
_NOT_LEFT = Field(json_schema_extra={"not": NAME["not"]})
Name = Annotated[str, Field(min_length=1, pattern=NAME["pattern"]), _NOT_LEFT, AfterValidator(refuse_placeholder)]
"""A resource name; the component's command lines are single-quoted, so quotes and backslashes break them."""

EndpointName = Annotated[str, Field(min_length=3, max_length=32, pattern=r"^[A-Za-z](-?[A-Za-z0-9])*$")]
"""3 to 32 characters: a letter first, then letters, digits and single dashes (Microsoft Learn, 2026-07)."""


def expanded(path: Path) -> Path:
    """Return a path with its ``~`` replaced."""
    try:
        return path.expanduser()
    except RuntimeError as error:  # ~somebody, whom this machine does not know
        raise ValueError(str(error)) from None


Folder = Annotated[Path, AfterValidator(expanded)]


class GivesArrow(Protocol):
    """A table of Arrow's, of whatever library."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return its stream, as Arrow's PyCapsule interface has it."""


class Section(BaseModel):
    """A part of the configuration: frozen, and an unknown key is a mistake instead of a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        described = handler.resolve_ref_schema(schema)
        describe(cls, described)
        also = cls._also_taken(described)
        return {"anyOf": [schema, *also]} if also else schema

    @classmethod
    def _also_taken(cls, _described: JsonSchemaValue) -> list[JsonSchemaValue]:
        """Return the schemas of what is taken in place of a mapping; a section adds rules over its keys here too."""
        return []


Format = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "ultrachat"]


class _Rows(Section):
    """What the rows of a source look like.

    - **format**: left out, it is recognised by the columns.
    - **columns**: the source's own names for the format's columns, such as ``{question: Frage}``.
    """

    format: Format | None = None
    columns: dict[str, str] = Field(default_factory=dict)


# Codecs of Python's that are texts to it, and no encodings of a file.
_NO_FILE_HAS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})


def _known_encoding(name: str) -> str:
    try:
        known = "{}\n".encode(name).decode(name) == "{}\n" and codecs.lookup(name).name not in _NO_FILE_HAS
    except (LookupError, ValueError):  # one of bytes, such as hex; a name that none can have
        known = False
    if not known:
        raise ValueError("is no text encoding that Python knows; write one such as windows-1252 or utf-16")
    return name


_DELIMITER: JsonSchemaValue = {"pattern": r"^([\t!#-&(-/:-@\[-`{-~\x01-\x08\x0b\x0c\x0e-\x1f\x7f]|\\t|tab)$"}


def _known_delimiter(text: str) -> str:
    text = "\t" if text in ("\\t", "tab") else text
    if len(text) != 1 or text.isalnum() or text in "\"'\r\n\0 " or not text.isascii():
        raise ValueError("is no delimiter; write one character, such as ';', '|' or '\\t'")
    return text


class _Files(_Rows):
    """How the text of a source's files is written.

    - **delimiter**: between the cells of a CSV file; left out, it is a comma, or what the header shows.
    - **encoding**: any that Python knows; left out, it is UTF-8.
    """

    delimiter: Annotated[str, Field(json_schema_extra=_DELIMITER), AfterValidator(_known_delimiter)] | None = None
    encoding: Annotated[str, AfterValidator(_known_encoding)] | None = None

    @model_serializer(mode="wrap")
    def _as_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What names are made of stays what it was before there were these.
        own = ("delimiter", "encoding")
        return {key: value for key, value in serialize(self).items() if key not in own or value is not None}


class FileSource(_Files):
    """A file, a folder of files, or a pattern such as ``data/*.jsonl.gz``; a bare path means the same.

    - **files**: its path, from the folder of the configuration's file.
    """

    files: Folder

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            files: str | Path,
            format: Format | None = ...,  # noqa: A002 - the key's name
            columns: dict[str, str] = ...,
            delimiter: str | None = ...,
            encoding: str | None = ...,
        ) -> None: ...


class HuggingFaceSource(_Rows):
    """A split of a data set on the Hugging Face Hub, or a part of it.

    - **huggingface**: the data set's id, ``owner/name``, or a folder.
    - **name**: the data set's configuration.
    - **split**: the split's name there.
    - **percent**: how much of the split to take.
    - **sample**: take the ``first`` rows, or ``random`` ones drawn with **seed**.
    - **seed**: what random rows are drawn with.
    - **revision**: a commit, a branch or a tag of the data set; left out, the newest.
    """

    huggingface: str = Field(min_length=1)
    name: str | None = None
    split: str = "train"
    percent: float = Field(default=100, gt=0, le=100)
    sample: Literal["first", "random"] = "first"
    seed: int = 42
    revision: str | None = None


class AssetSource(_Files):
    """Data that is in Azure already and is used where it lies: ``azureml:name:version`` or an ``azureml://`` URI.

    Only where a cluster prepares it (``prepare_on``) can its rows be other than chat messages.

    - **asset**: ``azureml:<name>:<version>``, ``azureml:<name>@latest`` or an ``azureml://`` address.
    """

    asset: str = Field(pattern=r"^azureml:[^'\"\\\s]+$")


class RowsSource(_Rows):
    """Rows from Python: a data frame, an iterable of mappings, or a function that returns one.

    An iterator gives its rows once, so it can be prepared once.

    - **rows**: what gives them; in a file, a list.
    """

    rows: Annotated[Any, Field(repr=False)]

    def __eq__(self, other: object) -> bool:
        # A data frame compared with another is a data frame.
        mine = (self.format, self.columns)
        return isinstance(other, RowsSource) and self.rows is other.rows and mine == (other.format, other.columns)

    def __hash__(self) -> int:
        return hash(id(self.rows))


OneSource = FileSource | HuggingFaceSource | AssetSource | RowsSource
AnySource = OneSource | Mapping[str, Any] | str | Path | Iterable[Any] | Callable[[], Any] | GivesArrow
_KINDS: Mapping[str, type[OneSource]] = {
    "files": FileSource,
    "huggingface": HuggingFaceSource,
    "asset": AssetSource,
    "rows": RowsSource,
}


def _one(value: Any) -> Path | OneSource:
    """Take a value for what it looks like: a place to read from, or the rows themselves.

    A text is something in Azure, a Hugging Face id (``owner/name``), or else files.
    """
    if isinstance(value, str):
        if value.startswith("azureml:"):
            return AssetSource(asset=value)
        path = Path(value)
        looks_like_id = value.count("/") == 1 and not path.suffix and not value.startswith((".", "/", "~"))
        exists = os.path.exists(value)  # noqa: PTH110 - Path.exists raises where a name is too long for the file system
        return HuggingFaceSource(huggingface=value) if looks_like_id and not exists else expanded(path)
    if isinstance(value, Path | OneSource):
        return value
    if isinstance(value, dict):
        return next((kind for key, kind in _KINDS.items() if key in value), HuggingFaceSource).model_validate(value)
    # An Arrow table cannot be iterated.
    if callable(value) or hasattr(value, "__arrow_c_stream__") or isinstance(value, Iterable):
        return RowsSource(rows=value)
    return HuggingFaceSource.model_validate(value)


_several = TypeAdapter(tuple[Annotated[Path | OneSource, BeforeValidator(_one)], ...])


def _source(value: Any) -> Path | OneSource | tuple[Path | OneSource, ...]:
    def is_place(each: Any) -> bool:
        return isinstance(each, str | Path | OneSource) or (isinstance(each, dict) and bool(each.keys() & _KINDS))

    is_list = isinstance(value, list | tuple) and value
    return _several.validate_python(value) if is_list and all(map(is_place, value)) else _one(value)


_WRITTEN = str | OneSource | list[str | OneSource] | list[Any]
Source = Annotated[
    Path | OneSource | tuple[Path | OneSource, ...], BeforeValidator(_source, json_schema_input_type=_WRITTEN)
]


class SplitConfig(Section):
    """Shares of the rows that become the validation and test files when none are given.

    - **validation**, **test**: between 0 and 1; together less than 1.
    - **seed**: what the rows of each are drawn with.
    - **group_by**: a column; rows that are equal in it stay together.
    """

    validation: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)
    seed: int = 42
    group_by: str | None = None

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test shares leave no rows for training")
        return self


class DataConfig(Section):
    """The chat data: training sources, and validation and test sources or shares to split off.

    A source alone is what to train on.

    - **train**: a path, a pattern, a folder, an id on the Hugging Face Hub, data in Azure, rows, or a list of these.
    - **validation**, **test**: of the same kinds; left out, they are split off.
    - **split**: what is split off then.
    - **bad_rows**: ``refuse`` the data, or ``set_aside`` each row that cannot be trained on in ``rejects.jsonl``.
    - **near_duplicates**: ``report`` conversations that say nearly the same and keep them on one side of the split;
      ``thin`` the training data too, to the first of them; or ``ignore`` them.
    - **tokenizer**: a folder, or an id on the Hugging Face Hub; left out, the model's own.
    - **count_tokens**: of a ``sample`` of rows, or of all (``exact``).
    - **asset_name**: what the data assets' names start with; left out, the data's name.
    - **prepare_on**: a cluster that prepares the data as the job's first step, instead of this machine.
    """

    train: Source
    validation: Source | None = None
    test: Source | None = None
    split: SplitConfig = SplitConfig()
    bad_rows: Literal["refuse", "set_aside"] = "refuse"
    near_duplicates: Literal["report", "thin", "ignore"] = "report"
    tokenizer: str | None = None
    count_tokens: Literal["sample", "exact"] = "sample"
    asset_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)
    prepare_on: Name | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            train: AnySource,
            validation: AnySource | None = ...,
            test: AnySource | None = ...,
            split: SplitConfig | Mapping[str, Any] = ...,
            bad_rows: Literal["refuse", "set_aside"] = ...,
            near_duplicates: Literal["report", "thin", "ignore"] = ...,
            tokenizer: str | None = ...,
            count_tokens: Literal["sample", "exact"] = ...,
            asset_name: str | None = ...,
            prepare_on: str | None = ...,
        ) -> None: ...

    @property
    def sources(self) -> dict[str, tuple[OneSource, ...]]:
        """The sources of each split that has any of its own; a bare path is a `FileSource` here."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        several = {split: v if isinstance(v, tuple) else (v,) for split, v in given.items() if v is not None}
        return {
            split: tuple(FileSource.model_construct(files=v) if isinstance(v, Path) else v for v in sources)
            for split, sources in several.items()
        }

    @property
    def in_azure(self) -> bool:
        """Whether the data lies in Azure and is used there."""
        return any(isinstance(source, AssetSource) for source in self.sources["train"])

    @classmethod
    def _also_taken(cls, described: JsonSchemaValue) -> list[JsonSchemaValue]:
        sources: list[JsonSchemaValue] = described["properties"]["train"]["anyOf"]
        return sources

    @model_validator(mode="before")
    @classmethod
    def _from_source(cls, value: Any) -> Any:
        is_source = bool(value.keys() & _KINDS) if isinstance(value, Mapping) else not isinstance(value, DataConfig)
        return {"train": value} if is_source else value

    @model_validator(mode="after")
    def _one_place(self) -> DataConfig:
        given = [source for sources in self.sources.values() for source in sources]
        if self.prepare_on:
            if any(isinstance(source, FileSource | RowsSource) for source in given):
                upload = "upload them first as a data asset and write `azureml:<name>:<version>`"
                message = "a cluster cannot read files or rows of this machine: leave `prepare_on` out, or"
                raise ValueError(f"{message} {upload}")
            if self.asset_name:
                message = "`asset_name` is for files that are uploaded from here; with `prepare_on` there are none"
                raise ValueError(message)
            return self
        if len({isinstance(source, AssetSource) for source in given}) > 1:
            raise ValueError("train, validation and test are all in Azure, or none of them is")
        if self.in_azure and len(given) > len(self.sources):
            raise ValueError("data in Azure is used where it lies, so it cannot be one of several sources")
        assets = [source for source in given if isinstance(source, AssetSource)]
        if any(each.format or each.columns or each.delimiter or each.encoding for each in assets):
            keys = "`format`, `columns`, `delimiter` and `encoding`"
            raise ValueError(f"{keys} of data in Azure need `prepare_on`, since nothing converts it here")
        return self


def source_below(source: Any, folder: Path) -> Any:
    """Return a source whose relative paths start from ``folder``."""
    if isinstance(source, tuple):
        return tuple(source_below(part, folder) for part in source)
    if isinstance(source, FileSource):
        return source.model_copy(update={"files": folder / source.files})
    return folder / source if isinstance(source, Path) else source
