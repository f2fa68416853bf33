"""Writes `docs/run.schema.json`, the JSON schema of a configuration: ``python tests/unit/render_schema.py``."""

from __future__ import annotations

import json
from pathlib import Path

from phift import RunConfig

DOCUMENT = Path(__file__).parents[2] / "docs" / "run.schema.json"


def document() -> str:
    """Return the whole text."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunConfig.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
