"""Everything one running local workspace consists of, handed to every route."""

from __future__ import annotations

from phift.local.ground import Ground
from phift.local.model import files, quota
from phift.local.work.operations import Operations
from phift.local.work.scorers import Scorers
from phift.local.work.training import Training


class Site(Ground):
    """A ground with what works on it; nothing of it runs before `start`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scorers, self.training = Scorers(self), Training(self)
        self.operations = Operations(self, self.scorers, self.training)

    def start(self) -> None:
        """Clean up behind one that was killed, and take up the work that waits."""
        files.clear_halves(self.folder)
        quota.seed(self)
        self.operations.resume()
        self.training.start()

    def close(self) -> None:
        """Stop the job that runs, which goes on at the next start, end the scorers, and close the documents."""
        self.training.stop()
        self.scorers.stop()
        self.traffic.close()
        self.documents.close()
