"""Writes `docs/routes.md` from the routes and their facts: ``python tests/fidelity/render_routes.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fidelity.route_facts import EXPECTED, FACTS, Fact
from fidelity.wire_traffic import served

DOCUMENT = Path(__file__).parents[2] / "docs" / "routes.md"
PARTS = {
    "arm": "Workspace, storage, addresses; clusters, sizes, quota",
    "assets": "Data assets and models; code, environments, components",
    "jobs": "Jobs",
    "history": "Run history and its neighbours",
    "mlflow": "MLflow tracking",
    "endpoints": "Endpoints, deployments, scoring",
    "operations": "Long-running operations",
    "registry": "The registry",
    "blobs": "Blobs",
}
HEAD = Path(__file__).with_name("routes_head.md")


def document() -> str:
    """Return the whole text."""
    return "\n".join([HEAD.read_text(encoding="utf-8"), *_sections(), *_expected()]) + "\n"


def _sections() -> Iterator[str]:
    routes = served()
    modules = {route.operation: route.handler.__module__.rpartition(".")[2] for route in routes}
    for module, title in PARTS.items():
        names = [name for name in modules if modules[name] == module]
        yield f"## {title}\n"
        yield "| route | used by | asked with | what is done | what differs | what is left out | held against |"
        yield "|---|---|---|---|---|---|---|"
        yield from (_row(name, FACTS[name]) for name in names)
        yield ""


def _row(name: str, fact: Fact) -> str:
    models = ", ".join(f"`{model.strip('[]')}`" for model in dict.fromkeys((*fact.answer, *fact.body))) or fact.why
    versions = ", ".join(fact.versions)
    cells = (f"`{name}`", fact.calls, versions, fact.does, fact.differs, fact.left_out, models)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _expected() -> Iterator[str]:
    yield "## Where a model complains, and why it stays\n"
    yield "| route | complaint | reason |"
    yield "|---|---|---|"
    for name, complaints in EXPECTED.items():
        yield from (f"| `{name}` | `{complaint}` | {reason} |" for complaint, reason in complaints.items())


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
