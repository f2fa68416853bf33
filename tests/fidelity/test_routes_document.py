"""docs/routes.md says what the server does today."""

from __future__ import annotations

from fidelity.recording import recordings
from fidelity.render_routes import DOCUMENT, PARTS, document
from fidelity.wire_traffic import served


def test_the_document_is_not_stale() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "make routes"
    assert f"but {len(recordings())} answers are held" in document()


def test_every_route_stands_in_it() -> None:
    text = document()
    assert [route.operation for route in served() if f"| `{route.operation}` |" not in text] == []
    assert len(PARTS) == text.count("| route | used by |")
