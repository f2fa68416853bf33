"""Holds JSON against the models of generated clients: names, types, enums, times, and what must be there.

Two generators are read, each by what it leaves in its classes: the one behind `azure-ai-ml` (typed ``rest_field``) and
the older one behind `azure-mgmt-machinelearningservices` (``_attribute_map``). Both become the same `Field`, so that
one walk serves both.
"""

from __future__ import annotations

import copy
import datetime
import enum
import functools
import importlib
import inspect
import operator
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import isodate

_SDK = "azure.ai.ml._restclient"
_PACKAGES = {
    "arm": f"{_SDK}.arm_ml_service.models",
    "history": f"{_SDK}.runhistory.models",
    "datasets": f"{_SDK}.dataset_dataplane.models",
    "registries": f"{_SDK}.registry_discovery.models",
    "modeldata": f"{_SDK}.model_dataplane.models",
    "mgmt": "azure.mgmt.machinelearningservices.models",
    "artifacts": "azureml.mlflow._restclient.run_artifact.models",
}
_PLAIN = {"str": str, "int": int, "long": int, "float": float, "bool": bool, "object": object}
_TIMES = {"iso-8601": datetime.datetime, "duration": datetime.timedelta, "unix-time": int}


@dataclass(frozen=True)
class Field:
    """One field of a model, under its name on the wire."""

    kind: Any
    required: bool
    readonly: bool


@dataclass(frozen=True, eq=False)
class Inside:
    """An object that the older generator has no class for, as its fields stand flat in the class around it."""

    title: str
    fields: dict[str, Field]


def model(name: str) -> type:
    """Return the generated class called ``client:Class``."""
    client, _, short = name.partition(":")
    found: type = getattr(importlib.import_module(_PACKAGES[client]), short)
    return found


def complaints(kind: Any, value: Any, path: str = "body", *, sent: bool = False) -> Iterator[str]:
    """Yield what a client that has this type would not find, not know or not read in a value.

    - **kind**: a generated class, a plain type, or a type hint of these.
    - **sent**: the value is a request: what only the service fills in may be absent.
    """
    kind = _optional(kind)
    origin = typing.get_origin(kind)
    if value is None or kind in (Any, object):
        return
    if origin is list:
        yield from _each(typing.get_args(kind)[0], value, list, path, sent)
    elif origin is dict:
        yield from _each(typing.get_args(kind)[1], value, dict, path, sent)
    elif _is_enum(kind):
        if str(value) not in {str(member.value) for member in kind}:
            yield f"{path}: {_short(value)} is not one of {kind.__name__}"
    elif isinstance(kind, Inside):
        yield from _object(kind.title, kind.fields, value, path, sent)
    elif isinstance(kind, type) and kind.__module__.startswith(("azure.", "azureml.")):
        cls = concrete(kind, value) if isinstance(value, dict) else kind
        yield from _object(cls.__name__, fields(cls), value, path, sent)
    elif not _is(kind, value):
        yield f"{path}: {_short(value)} is no {getattr(kind, '__name__', kind)}"


def _each(kind: Any, value: Any, container: Any, path: str, sent: bool) -> Iterator[str]:
    if not isinstance(value, container):
        yield f"{path}: {_short(value)} is no {container.__name__}"
        return
    items: Any = value.values() if container is dict else value
    for item in items:
        yield from complaints(kind, item, f"{path}.*" if container is dict else f"{path}[]", sent=sent)


def _object(title: str, known: dict[str, Field], value: Any, path: str, sent: bool) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {_short(value)} is no {title}"
        return
    for name, item in value.items():
        if name in known:
            yield from complaints(known[name].kind, item, f"{path}.{name}", sent=sent)
        else:
            yield f"{path}.{name}: not in {title}"
    for name, field in known.items():
        if field.required and not (sent and field.readonly) and value.get(name) is None:
            yield f"{path}.{name}: required in {title}"
        elif field.readonly and not sent and name not in value:
            yield f"{path}.{name}: always sent, in {title}"


def _short(value: Any) -> str:
    return repr(value) if len(repr(value)) < 60 else f"{repr(value)[:60]}..."


def _is(kind: Any, value: Any) -> bool:
    try:
        if kind is datetime.datetime:
            return datetime.datetime.fromisoformat(value).tzinfo is not None
        if kind is datetime.timedelta:
            return isodate.parse_duration(value) is not None
    except (TypeError, ValueError):
        return False
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _optional(hint: Any) -> Any:
    """Return what a hint says apart from "or None", and of "a text or this enum" the enum."""
    if typing.get_origin(hint) is typing.Literal:
        return str
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    enums = [part for part in parts if _is_enum(part)]
    if enums:
        return enums[0]
    return parts[0] if len(parts) == 1 else object


def concrete(cls: Any, value: dict[str, Any]) -> Any:
    """Return the class that a value's discriminator picks."""
    if hasattr(cls, "_attribute_map"):
        for attribute, names in vars(cls).get("_subtype_map", {}).items():
            picked = names.get(value.get(cls._attribute_map[attribute]["key"]))
            if picked:
                return concrete(getattr(_package(cls), picked), value)
        return cls
    for field in _rest_fields(cls).values():
        if field._is_discriminator:
            picked = vars(cls).get("__mapping__", {}).get(value.get(field._rest_name))
            if picked is not None and picked is not cls:
                return concrete(picked, value)
    return cls


@functools.cache
def fields(cls: type) -> dict[str, Field]:
    """Return the fields of a generated class by their names on the wire."""
    return _older(cls) if hasattr(cls, "_attribute_map") else _newer(cls)


def _older(cls: Any) -> dict[str, Field]:
    found: dict[str, Field] = {}
    enums = _documented_enums(cls)
    for attribute, shape in cls._attribute_map.items():
        rule = cls._validation.get(attribute, {})
        kind = enums.get(attribute) or _older_kind(cls, shape["type"])
        field = Field(kind, bool(rule.get("required")), bool(rule.get("readonly")))
        outer, _, name = shape["key"].rpartition(".")
        if not outer:
            found[name] = field
            continue
        inside = found.setdefault(outer, Field(Inside(f"{cls.__name__}.{outer}", {}), required=False, readonly=False))
        inside.kind.fields[name] = field
    return found


def _older_kind(cls: type, text: str) -> Any:
    if text.startswith("["):
        return list[_older_kind(cls, text[1:-1])]  # type: ignore[misc]  # a type made at run time
    if text.startswith("{"):
        return dict[str, _older_kind(cls, text[1:-1])]  # type: ignore[misc]  # a type made at run time
    return _PLAIN.get(text) or _TIMES.get(text) or getattr(_package(cls), text)


def _package(cls: type) -> Any:
    return importlib.import_module(cls.__module__.rpartition(".")[0])


def _documented_enums(cls: type) -> dict[str, Any]:
    """Return the enums of the older generator's fields, which it tells of in its docstrings alone."""
    named = re.findall(r":vartype (\w+):\s+str or\s+~[\w.]+\.models\.(\w+)", cls.__doc__ or "")
    return {attribute: getattr(_package(cls), name) for attribute, name in named}


def _rest_fields(cls: Any) -> dict[str, Any]:
    """Return the newer generator's fields by attribute."""
    cls.__new__(cls)  # it fills the table of fields when the first object is made
    found: dict[str, Any] = cls._attr_to_rest_field
    return found


def _newer(cls: type) -> dict[str, Field]:
    found = {}
    for attribute, field in _rest_fields(cls).items():
        hint = _hint(cls, attribute)
        required = type(None) not in typing.get_args(hint)
        found[field._rest_name] = Field(hint, required, readonly=field._visibility == ["read"])
    return found


def _hint(cls: type, attribute: str) -> Any:
    """Return the type hint of an attribute, with the names in it replaced by what they name."""
    for base in cls.__mro__:
        hint = inspect.get_annotations(base).get(attribute)
        if hint is not None:
            return _resolved(hint, importlib.import_module(base.__module__.rpartition("._models")[0]))
    raise AssertionError(f"{cls.__name__}.{attribute} has no type")


def _resolved(hint: Any, package: Any) -> Any:
    if isinstance(hint, (str, typing.ForwardRef)):
        text = hint if isinstance(hint, str) else hint.__forward_arg__
        return getattr(package, text.removeprefix("_models."))
    parts, origin = typing.get_args(hint), typing.get_origin(hint)
    if not parts or origin is typing.Literal:
        return hint
    inner = tuple(_resolved(part, package) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, inner)
    return origin[inner]  # list[...] and dict[...]


def lost(cls: Any, value: dict[str, Any]) -> Iterator[str]:
    """Yield what the older client does not give back when it has read a value and writes it again."""
    again = cls.deserialize(copy.deepcopy(value)).serialize(keep_readonly=True)  # it writes into what it reads
    yield from _differences(value, again, "body")


def _differences(before: Any, after: Any, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name, item in before.items():
            if item is not None:
                yield from _differences(item, after.get(name), f"{path}.{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from _differences(one, other, f"{path}[]")
    elif before != after and not _same_time(before, after):
        yield f"{path}: {_short(before)} comes back as {_short(after)}"


def _same_time(one: Any, other: Any) -> bool:
    for read in (datetime.datetime.fromisoformat, isodate.parse_duration):
        try:
            return bool(read(one) == read(other))
        except (TypeError, ValueError):
            continue
    return False


def mlflow_complaints(name: str, value: Any) -> Iterator[str]:
    """Yield what MLflow's own protocol buffers do not know or read; ``name`` is ``mlflow:Message``."""
    from google.protobuf import json_format
    from mlflow.protos import model_registry_pb2, service_pb2

    of_models = name.partition(".")[0].endswith(("RegisteredModel", "ModelVersion", "ModelVersions", "DownloadUri"))
    message: Any = model_registry_pb2 if of_models else service_pb2
    for part in name.removeprefix("mlflow:").split("."):
        message = getattr(message, part)
    try:
        json_format.ParseDict(value, message(), ignore_unknown_fields=False)
    except json_format.ParseError as error:
        yield str(error)


def may_have(name: str, path: str) -> bool:
    """Tell whether a model, or one that may stand in its place, has a field; ``path`` is ``body.properties.mode``."""
    if name.startswith("mlflow:"):
        return True  # read by name in one flat message; the requests themselves are checked
    return _may_have(model(name), path.split(".")[1:])


def _may_have(kind: Any, names: list[str]) -> bool:
    kind = _optional(kind)
    if not names or kind in (Any, object):
        return True
    origin = typing.get_origin(kind)
    if origin is dict:
        return _may_have(typing.get_args(kind)[1], names[1:])
    if isinstance(kind, Inside):
        return names[0] in kind.fields and _may_have(kind.fields[names[0]].kind, names[1:])
    if not (isinstance(kind, type) and kind.__module__.startswith(("azure.", "azureml."))):
        return False
    return any(names[0] in fields(cls) and _may_have(fields(cls)[names[0]].kind, names[1:]) for cls in _family(kind))


def _family(cls: Any) -> list[Any]:
    return [cls, *(each for subclass in cls.__subclasses__() for each in _family(subclass))]
