"""The server with the instant engine, noting which fields of request bodies its handlers read by name.

The notes go into the file that ``PHIFT_TEST_READS`` names, one line for each: the route's operation, a tab, the path of
the field.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from phift.local import wire


class Watched(dict[str, Any]):
    """A JSON object that tells which of its fields are asked for."""

    def __init__(self, value: dict[str, Any], note: Callable[[str], None], path: str) -> None:
        super().__init__(value)
        self.note = note
        self.path = path

    def __getitem__(self, name: str) -> Any:
        self.note(f"{self.path}.{name}")
        return self._inner(name, super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        self.note(f"{self.path}.{name}")
        return self._inner(name, super().get(name, default))

    def items(self) -> Any:
        return [(name, self._inner(name, value)) for name, value in super().items()]

    def _inner(self, name: str, value: Any) -> Any:
        plain = isinstance(value, dict) and not isinstance(value, Watched)
        return Watched(value, self.note, f"{self.path}.{name}") if plain else value


def watch(file: Path) -> None:
    """Watch every body from here on; the modules with the handlers must not have been imported yet."""
    seen: set[str] = set()
    plain_json, plain_section = wire.Call.json, wire.section

    def json(call: wire.Call, shape: Any = dict) -> Any:
        operation = _route_of(call)
        if not operation:  # what tests ask of the workspace itself
            return plain_json(call, shape)

        def note(path: str) -> None:
            line = f"{operation}\t{path}\n"
            if line not in seen:
                seen.add(line)
                with file.open("a") as notes:
                    notes.write(line)

        return Watched(plain_json(call, shape), note, "body")

    def section(body: Any, name: str) -> Any:
        found = plain_section(body, name)
        if not isinstance(body, Watched):
            return found
        body.note(f"{body.path}.{name}")
        return Watched(found, body.note, f"{body.path}.{name}")

    wire.Call.json = json  # type: ignore[method-assign, assignment]  # that is the point
    wire.section = section


def _route_of(call: wire.Call) -> str:
    from fidelity.wire_traffic import route_of

    return route_of(call.method, call.path)


def reads(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the operation and the field of each note."""
    for line in file.read_text().splitlines():
        operation, _, path = line.partition("\t")
        yield operation, path


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    watch(Path(os.environ["PHIFT_TEST_READS"]))
    from phift.local import programs
    from phift.local.server import process as server

    server.main(programs.ENGINES["instant"])
