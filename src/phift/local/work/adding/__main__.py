"""The process that reads a model: told what to do in a line on stdin, it says in lines of JSON how it goes.

- ``{"doing", "seconds"}``: what it is at now, and when to give it up unless something is said before.
- ``{"say"}``: what the user should know. ``{"refused": {"what", "where", "fix"}}`` or ``{"done"}`` is the last one.
- End of stdin, which the parent holds open, ends the process, and so does too little memory, with a code of its own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings

from phift.errors import ModelError, PhiftError
from phift.local.programs import TOO_LARGE
from phift.local.work.engine import process


def main() -> int:
    """Read one model, and return the exit code."""
    asked = json.loads(sys.stdin.readline())
    events = process.own_output()
    process.end_with_parent()
    online = os.environ.get("HF_HUB_OFFLINE", "0")
    process.prepare()
    if asked["hub"]:
        os.environ["HF_HUB_OFFLINE"] = online
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    at = "its libraries"

    def tell(event: dict[str, object]) -> None:
        nonlocal at
        at = str(event.get("doing", at))
        events.write(json.dumps(event) + "\n")

    try:
        from phift.local.work.adding import steps  # after all that is set for what it imports

        tell({"done": steps.add(asked, tell)})
    except MemoryError:
        os._exit(TOO_LARGE)  # at once: there is none left to say it with
    except PhiftError as error:
        tell(_refused(error))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - many libraries, Rust's panics among them: it is said, and the end
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        what = f"The model cannot be read: {at}: {type(error).__name__}: {first[:300]}"
        tell(_refused(ModelError(what, fix="it may be broken: save it anew, or use another one")))
    return 0


def _refused(error: PhiftError) -> dict[str, object]:
    return {"refused": {"what": error.what, "where": error.where, "fix": error.fix}}


if __name__ == "__main__":
    sys.exit(main())
