"""One run, from the check to the endpoint; and what there is to do with several."""

from phift.run.chain import FineTuneRun as FineTuneRun
from phift.run.chain import RunResult as RunResult
