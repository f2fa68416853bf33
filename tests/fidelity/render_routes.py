"""Writes `docs/routes.md` from routes, facts and recordings: ``python tests/fidelity/render_routes.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fidelity.recording import recordings
from fidelity.route_facts import EXPECTED, FACTS, Fact
from fidelity.wire_traffic import served

DOCUMENT = Path(__file__).parents[2] / "docs" / "routes.md"
PARTS = {
    "arm": "Workspace, storage, addresses; clusters, sizes, quota",
    "assets": "Data assets and models; code, environments, components",
    "jobs": "Jobs",
    "history": "Run history and its neighbours",
    "artifacts": "Artifacts",
    "mlflow": "MLflow tracking",
    "mlflow_models": "MLflow's registry of models",
    "endpoints": "Endpoints and deployments",
    "scoring": "Scoring",
    "chat_completions": "Chat completions",
    "metrics": "Azure Monitor's metrics",
    "operations": "Long-running operations",
    "registry": "The registry",
    "blobs": "Blobs",
}
HEAD = Path(__file__).with_name("routes_head.md")


def document() -> str:
    """Return the whole text."""
    return "\n".join([HEAD.read_text(encoding="utf-8"), *_sections(), *_expected(), *_recorded()]) + "\n"


def _sections() -> Iterator[str]:
    routes = served()
    modules = {route.operation: route.handler.__module__.rpartition(".")[2] for route in routes}
    for module, title in PARTS.items():
        names = [name for name in modules if modules[name] == module]
        yield f"## {title}\n"
        columns = "used by", "asked with", "what is done", "what differs", "left out", "held against", "known from"
        yield f"| route | {' | '.join(columns)} |"
        yield f"|---{'|---' * len(columns)}|"
        yield from (_row(name, FACTS[name]) for name in names)
        yield ""


def _row(name: str, fact: Fact) -> str:
    models = ", ".join(f"`{model.strip('[]')}`" for model in dict.fromkeys((*fact.answer, *fact.body))) or fact.why
    versions = ", ".join(fact.versions)
    dates = [recording.source["recorded"] for recording in recordings() if recording.route == name]
    known = f"recorded, {max(dates)}" if dates else "documented" if fact.answer or fact.body else "guessed"
    cells = (f"`{name}`", fact.calls, versions, fact.does, fact.differs, fact.left_out, models, known)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _expected() -> Iterator[str]:
    yield "## Where a model complains, and why it stays\n"
    yield "| route | complaint | reason |"
    yield "|---|---|---|"
    for name, complaints in EXPECTED.items():
        yield from (f"| `{name}` | `{complaint}` | {reason} |" for complaint, reason in complaints.items())


def _recorded() -> Iterator[str]:
    yield "\n## Beside recorded answers of Azure\n"
    yield "| answer | where it was recorded | when | differences that stay |"
    yield "|---|---|---|---|"
    for recording in recordings():
        source = recording.source
        file = source["file"].rpartition("/")[2]
        place = f"{source['repository']} {source['commit']}, {file}, {source['where']}"
        cells = recording.operation, place, source["recorded"], str(len(recording.known) or "")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield "\n| answer | what differs | why it stays |"
    yield "|---|---|---|"
    for recording in recordings():
        yield from (f"| {recording.operation} | `{what}` | {why} |" for what, why in recording.known.items())


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
