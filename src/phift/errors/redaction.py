"""What must not be shown of what others say."""

from __future__ import annotations

import re

# A shared-access signature's `sig`, and bearer tokens, travel in URLs and headers that the SDK quotes; so does what a
# proxy is told. JSON in a text of JSON has its quotes escaped.
_SECRET = re.compile(
    r"""(?ix)
    ( (?:\b(?:sig|sv|code)|token|key|secret|password|assertion) =\\?['"]?
    | (?:token|key|secret|password) \\?['"]\s*:\s*\\?['"] ) [^&\s'"]+
    | (bearer\s+) [\w.~+/=-]+
    | (://) [^/\s:@'"]+ : [^/\s@'"]+ (?=@)
    """
)


def redact(text: str) -> str:
    """Return ``text`` with anything that looks like a signature, key or token replaced by ``***``."""
    return _SECRET.sub(lambda match: f"{match[1] or match[2] or match[3]}***", text)
