"""The wall: which part of the source may know which, type-checking imports included, and no circle anywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import phift

SRC = Path(phift.__file__).parent
MOST_ENTRIES = 22
MOST_LINES = 500

# What each room may import from; itself besides. `phift` is the package's own file, which names what is public.
ALLOWED = {
    "phift": {
        "azure",
        "check",
        "data",
        "errors",
        "evaluation",
        "jobs",
        "run",
        "serving",
        "tokens",
        "version",
        "views",
        "config",
    },
    "version": set(),
    "errors": set(),
    "plain_yaml": set(),
    "samples": {"errors", "facts"},
    "facts": {"errors"},
    "config": {"errors", "facts", "plain_yaml"},
    "azure": {"config", "errors", "local", "local.connection", "local.names", "local.trust", "version"},
    "component": {"errors", "facts"},
    "check": {"azure", "component", "config", "data", "errors", "facts", "tokens"},
    "data": {"azure", "check", "component", "config", "errors", "version"},
    "tokens": {"azure", "check", "component", "config", "data", "errors"},
    "jobs": {"views", "azure", "check", "component", "config", "data", "errors", "plan", "version"},
    "serving": {"azure", "check", "config", "errors", "jobs"},
    "evaluation": {"azure", "component", "data", "errors", "jobs", "serving"},
    "plan": {"azure", "check", "config", "data", "errors", "facts", "jobs", "tokens"},
    "run": {
        *("azure", "check", "component", "config", "data", "errors"),
        *("evaluation", "jobs", "plan", "serving", "tokens"),
    },
    "views": {"check", "data", "errors", "evaluation", "jobs", "plan", "run", "serving", "tokens"},
    "cli": {
        "check",
        "config",
        "errors",
        "evaluation",
        "facts",
        "jobs",
        "local",
        "local.garbage",
        "local.programs",
        "local.recorder",
        "local.state",
        "phift",
        "samples",
        "serving",
        "views",
    },
    "testing": {"azure", "errors", "local", "local.programs", "local.server", "local.state", "local.trust"},
    # The local workspace, from the bottom up: each room knows only what stands above it here.
    "local.garbage": set(),
    "local.names": set(),
    "local.pending": set(),
    "local.question": {"errors"},
    "local.programs": {"errors", "local.pending", "local.question"},
    "local.trust": {"local.names"},
    "local.state": {"component", "local.names"},
    "local.connection": {"errors", "local.names", "local.state"},
    "local.ground": {"local.programs", "local.state"},
    "local.wire": {"local.ground", "local.names", "local.state"},
    "local.model": {"component", "data", "facts", "local.ground", "local.names", "local.state", "local.wire"},
    "local.own_models": {"errors", "local.model", "local.programs", "local.state"},
    "local.work": {
        "component",
        "data",
        "errors",
        "local.connection",
        "local.garbage",
        "local.ground",
        "local.model",
        "local.names",
        "local.pending",
        "local.programs",
        "local.question",
        "local.state",
        "local.wire",
        "plain_yaml",
        "samples",
    },
    "local.site": {"local.ground", "local.model", "local.work"},
    "local.services": {
        "component",
        "data",
        "local.ground",
        "local.model",
        "local.names",
        "local.pending",
        "local.site",
        "local.state",
        "local.wire",
        "local.work",
        "plain_yaml",
        "version",
    },
    "local.server": {
        "errors",
        "local.connection",
        "local.ground",
        "local.model",
        "local.names",
        "local.programs",
        "local.services",
        "local.site",
        "local.state",
        "local.wire",
        "version",
    },
    "local.recorder": {"errors", "local.names", "local.services", "local.trust", "version"},
    "local.workspace": {
        "errors",
        "local.connection",
        "local.model",
        "local.own_models",
        "local.programs",
        "local.state",
    },
    "local": {"local.connection", "local.own_models", "local.workspace"},
}


def module_name(file: Path) -> str:
    parts = ("phift", *file.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(SRC.rglob("*.py"))}


def imported(module: str) -> Iterator[str]:
    """Yield every module of phift that a module imports, wherever in its text."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in FILES else node.module


def room(module: str) -> str:
    """Return the room of a module: the first name below the package, and the second one below ``local``."""
    parts = module.split(".")
    if parts[1:2] == ["local"]:
        return ".".join(parts[1:3])
    return parts[1] if len(parts) > 1 else parts[0]


ARROWS = {module: set(imported(module)) - {module} for module in FILES}


def test_there_is_no_circle() -> None:
    try:
        TopologicalSorter(ARROWS).prepare()
    except CycleError as error:
        raise AssertionError("a circle: " + " <- ".join(error.args[1])) from None


def test_every_room_knows_only_what_it_may() -> None:
    found = {(room(module), room(other)) for module, others in ARROWS.items() for other in others}
    arrows = {(one, other) for one, other in found if one != other}
    allowed = {(one, other) for one, others in ALLOWED.items() for other in others}
    assert sorted(arrows - allowed) == []
    assert sorted(allowed - arrows) == []  # what nobody needs any more goes


def test_the_rooms_of_the_local_workspace_stand_on_each_other() -> None:
    rooms = [name for name in ALLOWED if name.partition(".")[0] == "local"]
    below = {name: set(rooms[:number]) for number, name in enumerate(rooms)}
    assert {name: found for name in rooms if (found := (ALLOWED[name] & set(rooms)) - below[name])} == {}


def test_the_local_workspace_and_the_rest_meet_in_two_files() -> None:
    def inside(module: str) -> bool:
        return module.startswith("phift.local")

    beside = ("phift.testing", "phift.cli")
    into = {one for one, others in ARROWS.items() if not inside(one) and any(map(inside, others))}
    assert {one for one in into if not one.startswith(beside)} == {"phift.azure.connect"}
    out = {other for one, others in ARROWS.items() if inside(one) for other in others if not inside(other)}
    assert {other for other in out if room(other) == "data"} == {"phift.data.on_cluster"}


def test_the_root_is_small_and_no_file_is_long() -> None:
    entries = [entry.name for entry in SRC.iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in FILES.items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_texts_are_written_in_one_way_each() -> None:
    """What goes to a console is made by `views.terminal.shown`, what the command line says by `cli.output`."""
    writers = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write"}
    found: set[tuple[str, str]] = set()
    for module, file in FILES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in writers:
                    found.add((module, called))
                elif called.endswith("console.print") and node.args and ast.unparse(node.args[0])[:6] != "shown(":
                    found.add((module, ast.unparse(node)))
    assert found == {
        ("phift.cli.output", "click.echo"),
        ("phift.data.on_cluster", "sys.stdout.write"),  # into a job's log, which nobody there reads in a terminal
        ("phift.local.work.preparing", "sys.stderr.write"),  # into a step's log, what that would have said
        ("phift.views.terminal", "console.print(table)"),
    }
