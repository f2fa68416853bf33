"""What went wrong, on one line."""

from __future__ import annotations

from phift.errors import PhiftError, redact


def one_line(error: Exception) -> str:
    """Return what happened, where, and the way out; of an error that is not phift's, its type and first line."""
    if isinstance(error, PhiftError):
        where = f" ({error.where})" if error.where else ""
        fix = f": {error.fix}" if error.fix else ""
        return " ".join(f"{error.what.rstrip('.')}{where}{fix}".split())
    first = next(iter(str(error).splitlines()), "")
    return redact(f"{type(error).__name__}: {first}")[:400]


def code(error: Exception) -> str:
    """Return whose fault it is: ``UserError`` for what the user can mend."""
    return "UserError" if isinstance(error, PhiftError) else "SystemError"
