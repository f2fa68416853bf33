from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import is_dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import UnionType
from typing import get_args

import pytest

import phift
import phift.data

HEAVY = ("azure", "datasets", "pandas", "mlflow", "torch", "transformers", "pydantic", "requests")
ASIDE = ("phift.local", "phift.testing")
PROBE = """
import json, sys, time
before = time.process_time()
import phift
import phift.data
seconds = time.process_time() - before
print(json.dumps({"seconds": seconds, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def test_importing_is_light_and_quick() -> None:
    found = []
    for _ in range(3):
        command = [sys.executable, "-c", PROBE]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own text
        assert not done.stderr
        found.append(json.loads(done.stdout))
    assert not set(HEAVY) & {name for each in found for name in each["modules"]}
    assert min(each["seconds"] for each in found) < 0.5  # the machine's other work makes one slower than another


def test_all_names_what_is_public() -> None:
    assert phift.__all__ == sorted(phift.__all__)
    assert set(phift.__all__) == set(phift._PLACES)
    assert dir(phift) == sorted([*phift.__all__, "__version__"])


@pytest.mark.parametrize("name", phift.__all__)
def test_every_public_name_resolves_to_its_own(name: str) -> None:
    found = getattr(phift, name)
    if isinstance(found, UnionType):  # a name for several types, each of which has its own
        assert {kind.__module__.partition(".")[0] for kind in get_args(found)} == {"phift"}
        return
    assert found.__name__ == name
    assert found.__doc__


def test_every_kind_of_event_and_what_each_step_returns_is_public() -> None:
    kinds = {kind.__name__ for kind in get_args(phift.Event)}
    assert {"StatusChanged", "Progress"} <= kinds <= set(phift.__all__)
    steps = ("find_model", "resolve_compute", "prepare_dataset", "register_model", "deploy_model")
    returned = {getattr(phift, step).__annotations__["return"] for step in steps}
    assert returned <= set(phift.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'phift' has no attribute 'nothing'"):
        phift.nothing  # noqa: B018 - the access is the test


def test_every_value_is_frozen() -> None:
    rooms = [each.name for each in iter_modules(phift.__path__, "phift.") if each.name not in ASIDE]
    found = [
        each.name for room in rooms for each in iter_modules(getattr(import_module(room), "__path__", []), f"{room}.")
    ]
    modules = [import_module(name) for name in (*rooms, *found) if not name.endswith("__main__")]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    values = {kind for kind in kinds if is_dataclass(kind) and kind.__module__.startswith("phift.")}
    assert {"Finding", "Plan", "Parameter", "RegisteredModel"} <= {kind.__name__ for kind in values}
    changeable = {kind.__name__ for kind in values if kind.__setattr__ is object.__setattr__}
    assert changeable <= {
        "JobProgress",
        "Names",
        "Reading",
        "Seen",
        "StepProgress",
        "Tally",
    }  # they count while it is read or followed
