"""What type checkers know of the configuration and the steps: a misspelt key is an error before anything runs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from inspect import getsource
from pathlib import Path

import pydantic
import pytest

import phift
from phift import RunConfig, SearchConfig
from phift.config.data import DataConfig, FileSource, Section
from phift.config.run import LocalWorkspaceFolder

CALLS = Path(__file__).with_name("typed_calls.py")
# The rules that people go by; basedpyright's own, on by default, are about style.
SETTINGS = {"typeCheckingMode": "standard", "reportUnnecessaryTypeIgnoreComment": "error"}


def test_pyright_finds_an_error_in_each_wrong_call_and_in_no_other(tmp_path: Path) -> None:
    # What mypy finds, `make check` says: the file is one of those that it is strict with.
    settings = {"include": [str(CALLS)], "extraPaths": [str(Path(phift.__file__).parents[1])], **SETTINGS}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    options = ["--outputjson", "-p", str(tmp_path), "--pythonpath", sys.executable]
    command = [sys.executable, "-m", "basedpyright", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    found = json.loads(done.stdout)
    told = [f"line {each['range']['start']['line'] + 1}: {each['message']}" for each in found["generalDiagnostics"]]
    assert told == []
    assert found["summary"]["filesAnalyzed"] == 1


@pytest.mark.parametrize("section", [RunConfig, DataConfig, FileSource, LocalWorkspaceFolder, SearchConfig])
def test_what_type_checkers_are_told_is_what_there_is(section: type[Section]) -> None:
    (told,) = (
        each
        for each in ast.walk(ast.parse(getsource(section)))
        if isinstance(each, ast.FunctionDef) and each.name == "__init__" and each.args.kwonlyargs
    )
    defaults = dict(zip((each.arg for each in told.args.kwonlyargs), told.args.kw_defaults, strict=True))
    fields: dict[str, bool] = {}
    for name, field in section.model_fields.items():
        aliases = field.validation_alias
        names = aliases.choices if isinstance(aliases, pydantic.AliasChoices) else [name]
        fields |= {str(each): field.is_required() for each in names}
    assert {name: default is None for name, default in defaults.items()} == fields
