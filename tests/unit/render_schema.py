"""Writes the JSON schemas of what is configured into `docs`: ``python tests/unit/render_schema.py``."""

from __future__ import annotations

import json
from pathlib import Path

from phift import RunConfig, SearchConfig
from phift.config.data import Section

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENTS: dict[Path, type[Section]] = {DOCS / "run.schema.json": RunConfig, DOCS / "search.schema.json": SearchConfig}


def document(section: type[Section]) -> str:
    """Return the whole text."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **section.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    for path, section in DOCUMENTS.items():
        path.write_text(document(section), encoding="utf-8")
