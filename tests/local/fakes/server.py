"""The real server with fake programs around it."""

import sys
from pathlib import Path

from phift.local.app import configure_logging
from phift.local.server import serve
from phift.local.site import Programs

HERE = Path(__file__).parent


def programs() -> Programs:
    names = ("server", "standin", "engine", "scorer")
    return Programs(**{name: (sys.executable, str(HERE / f"{name}.py")) for name in names})


if __name__ == "__main__":
    configure_logging()
    sys.exit(serve(Path(sys.argv[1]), programs()))
