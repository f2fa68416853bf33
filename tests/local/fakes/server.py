"""The real server with fake programs around it."""

import sys
from pathlib import Path

from phift.local.programs import Programs
from phift.local.server.process import main

HERE = Path(__file__).parent


def programs() -> Programs:
    names = ("server", "standin", "engine", "scorer")
    return Programs(**{name: (sys.executable, str(HERE / f"{name}.py")) for name in names})


if __name__ == "__main__":
    main(programs())
