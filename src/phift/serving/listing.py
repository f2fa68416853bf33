"""What phift has deployed in a workspace, and what it costs: a row an endpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from phift.azure.answers import text
from phift.azure.clients import Clients
from phift.azure.connect import clients_of, connect
from phift.azure.threads import SideBySide
from phift.errors import (
    NotFound,
    PhiftError,
    forgetting_locals,
    in_a_line,
    redact,
    visible_columns,
    visible_html,
    visible_table,
)
from phift.jobs.progress import in_words
from phift.serving.cleanup import DeployedEndpoint, deployed_endpoints
from phift.serving.lifetime import OWNER, Expiry, expiry
from phift.serving.monitor import read_traffic
from phift.serving.parking import is_parked
from phift.serving.price import Machines, Prices, machines_of

if TYPE_CHECKING:
    import pandas as pd

    from phift.azure.connect import AnyClients

logger = logging.getLogger(__name__)

_AT_ONCE = 8  # requests


@dataclass(frozen=True, kw_only=True)
class EndpointSummary:
    """An endpoint that phift made, and what it costs; what is not known is empty, or None.

    - **job**: whose model it serves; **model**: ``name:version``. **owner**: whose credential made it.
    - **created**: in UTC. **expires**: when it is not needed any more, in UTC, or ``never``.
    - **traffic**: percent by deployment. **machines**: what serves, by deployment.
    - **requests**: of the last day, as Azure Monitor counted them; the newest minutes are not in it.
    - **price_per_day**: of all machines, used or not, at the price that the region lists for them, in USD.
    - **is_parked**: whether its deployments can be brought back; see `phift.Endpoint.park`.
    """

    name: str
    job: str
    model: str
    owner: str
    created: datetime | None
    expires: Expiry
    traffic: Mapping[str, int]
    machines: Mapping[str, Machines]
    requests: int | None
    price_per_day: float | None
    is_parked: bool = False

    @property
    def age(self) -> timedelta | None:
        """How long it has been there."""
        return datetime.now(UTC) - self.created if self.created else None

    @property
    def has_expired(self) -> bool:
        """Whether the time for which it was wanted is over."""
        return isinstance(self.expires, datetime) and self.expires <= datetime.now(UTC)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON; the age in seconds."""
        created, expires = (at.isoformat() if isinstance(at, datetime) else at for at in (self.created, self.expires))
        age = self.age.total_seconds() if self.age is not None else None
        machines = {name: asdict(each) for name, each in self.machines.items()}
        more = {"traffic": dict(self.traffic), "machines": machines, "age": age, "has_expired": self.has_expired}
        return {**asdict(self), "created": created, "expires": expires, **more}


@dataclass(frozen=True)
class Endpoints:
    """Endpoints of a workspace, newest first; to be gone through as a sequence."""

    endpoints: tuple[EndpointSummary, ...]
    workspace: str

    def __iter__(self) -> Iterator[EndpointSummary]:
        return iter(self.endpoints)

    def __len__(self) -> int:
        return len(self.endpoints)

    def __getitem__(self, number: int) -> EndpointSummary:
        return self.endpoints[number]

    def frame(self) -> pd.DataFrame:
        """Return a table with a row an endpoint; times in UTC, ``never`` as none."""
        import pandas as pd

        columns = [*EndpointSummary.__dataclass_fields__, "age", "has_expired"]
        frame = pd.DataFrame([[getattr(each, name) for name in columns] for each in self.endpoints], columns=columns)
        for column in ("created", "expires"):
            frame[column] = pd.to_datetime(frame[column].where(frame[column] != "never"), utc=True)
        numbers = {name: frame[name].astype(float) for name in ("requests", "price_per_day")}
        return frame.assign(age=pd.to_timedelta(frame["age"]), **numbers)

    @property
    def price_per_day(self) -> float:
        """What those cost a day together whose price is known, in USD."""
        return sum(each.price_per_day or 0 for each in self.endpoints)

    @property
    def summary(self) -> str:
        """How many there are, and what they cost together."""
        where = in_a_line(self.workspace)
        if not self.endpoints:
            return f"phift has deployed nothing in the workspace {where}."
        unknown = sum(each.price_per_day is None for each in self.endpoints)
        cost = f"{self.price_per_day:,.2f} USD a day" if unknown < len(self) else "at a price that is not known"
        more = f", and {unknown} at a price that is not known" if 0 < unknown < len(self) else ""
        expired = sum(each.has_expired for each in self.endpoints)
        gone = f"; {expired} expired: phift endpoints prune" if expired else ""
        return f"{len(self)} endpoint{'s' * (len(self) != 1)} in the workspace {where}: {cost}{more}{gone}"

    def __str__(self) -> str:
        head = ("endpoint", "age", "expires", "requests", "USD a day")
        rows = [[_cells(row)[name] for name in head] for row in self]
        table = visible_columns(head, rows, [in_a_line(_of(row)) for row in self])
        return f"{table}\n{self.summary}" if rows else self.summary

    def _repr_html_(self) -> str:
        rows = [_cells(row) for row in self.endpoints]
        table = visible_table(rows[0], [row.values() for row in rows]) if rows else ""
        return f"{table}<p>{visible_html(self.summary)}</p>"


def _cells(row: EndpointSummary) -> dict[str, str]:
    """Return what a table shows of an endpoint, by the columns' titles."""
    return {
        "endpoint": row.name,
        "job": row.job or "-",
        "model": row.model or "?",
        "owner": row.owner or "?",
        "age": in_words(row.age) if row.age is not None else "?",
        "expires": _expires(row),
        "traffic": _traffic(row),
        "requests": "?" if row.requests is None else f"{row.requests:,}",
        "USD a day": "?" if row.price_per_day is None else f"{row.price_per_day:,.2f}",
    }


def _expires(row: EndpointSummary) -> str:
    if not isinstance(row.expires, datetime):
        return row.expires or "?"
    left = in_words(abs(row.expires - datetime.now(UTC)))
    return f"expired {left} ago" if row.has_expired else f"in {left}"


def _traffic(row: EndpointSummary) -> str:
    shares = (f"{name} {row.traffic.get(name, 0)} % ({machines})" for name, machines in row.machines.items())
    said = ", ".join(shares)
    if row.is_parked:
        return f"half parked: {said}" if said else "parked"
    return said or "no deployment"


def _of(row: EndpointSummary) -> str:
    """Return what an endpoint serves for whom, in a line; all that would make a table too wide for a terminal."""
    cells = _cells(row)
    said = [f"model {cells['model']}"] if row.model else []
    said += [f"job {row.job}"] if row.job else []
    return "; ".join([*said, cells["traffic"], *([f"of {row.owner}"] if row.owner else [])])


@forgetting_locals()
def endpoints(workspace: AnyClients | None = None, *, prices: Mapping[str, float] = MappingProxyType({})) -> Endpoints:
    """Return what phift has deployed in a workspace and what it costs, by the tags of its endpoints, newest first.

    - **workspace**: as in a configuration; or clients; left out, it comes from the environment or ``config.json``.
    - **prices**: USD an hour by VM size, where the region's own are missing or not what you pay.
    """
    clients = connect() if workspace is None else clients_of(workspace)
    with SideBySide(_AT_ONCE) as side:
        known = side.begin(Prices.of, clients, prices)
        rows = [side.begin(_summary, clients, each, known) for each in deployed_endpoints(clients)]
    found = [row for each in rows if (row := each.result()) is not None]
    return Endpoints(tuple(found), text(clients.workspace.workspace_name, "workspace.name"))


def requests_of(clients: Clients, endpoint: str, last: timedelta) -> int | None:
    """Return how many requests an endpoint had in the last time; None where that cannot be found out.

    Azure Monitor asks for a right of its own, ``Microsoft.Insights/metrics/read``.
    """
    now = datetime.now(UTC)
    since = now - last + timedelta(minutes=1)  # its minute counts as a whole, and a day is asked for at once
    try:
        return sum(each.requests for each in read_traffic(clients, endpoint, since, now).values())
    except PhiftError as error:
        logger.info("How often endpoint %s is asked is unknown: %s", in_a_line(endpoint), in_a_line(error.what))
        return None


def _summary(clients: Clients, each: DeployedEndpoint, prices: Future[Prices]) -> EndpointSummary | None:
    """Return an endpoint's row; None where it is gone since it was listed."""
    try:
        machines = machines_of(clients, each.name)
    except NotFound:
        return None
    return EndpointSummary(
        name=redact(each.name),
        job=redact(each.job),
        model=redact(each.model),
        owner=redact(each.tags.get(OWNER, "")),
        created=each.created,
        expires=expiry(each.tags),
        traffic={redact(name): share for name, share in each.traffic.items()},
        machines={redact(name): there for name, there in machines.items()},
        requests=requests_of(clients, each.name, timedelta(days=1)),
        price_per_day=prices.result().per_day(machines),
        is_parked=is_parked(each.tags),
    )
