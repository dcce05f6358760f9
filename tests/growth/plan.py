"""Holds what somebody asks: a load, how it is spread, what a machine gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from growth.measured import (
    ARCHIVE_BYTES,
    CALL_US,
    ID_BYTES,
    MEASURED,
    OPERATION_US,
    PAYLOAD_BYTES,
    ROW_BYTES,
    WAL_BYTES,
)
from taximeter.meter.settings import MeterSettings
from taximeter.settler.books.settings import SettlerSettings

Front = Literal["meter", "sidecar", "route", "streams"]
FRONTS: Final[dict[Front, float]] = {
    "meter": MEASURED.meter_per_s,
    "sidecar": MEASURED.sidecar_per_s,
    "route": MEASURED.route_per_s,
    "streams": MEASURED.streams_per_s,
}
"""Requests a second that one process of each front end was measured to take, all of its core."""
METER: Final = MeterSettings()
MONTH_S: Final = 30 * 86_400


def _default(name: str) -> float:
    return float(SettlerSettings.model_fields[name].default)


@dataclass(frozen=True, slots=True)
class Plan:
    """A load and what it runs on. Rates are a second, shares are 0 to 1."""

    # The load.
    requests: float = 1_000_000.0
    peak: float = 3.0
    """The busiest second over the mean of a month."""
    organisations: int = 100_000
    largest: float = 0.01
    """The share of all requests that the largest organisation makes."""
    users: int = 100_000_000
    hold_s: float = 10.0
    touches: float = 0.0
    """Reports of progress a request, beside its reserve and its commit."""
    months: float = 2.0
    """How many months of usage stay in Postgres."""
    id_days: float = 30.0
    """How many days request ids are remembered at least, and twice as many at most."""

    # How it is asked.
    front: Front = "meter"
    processes: int | None = None
    """Gateway processes; None for as many as the front end needs."""
    batch_max: int = METER.batch_max
    """Most operations of one script call; 1 is a client without batches."""
    lanes: int = METER.lanes_per_server
    """Connections of a process to one primary."""

    # What a machine gives.
    use: float = 0.6
    """The share of a core, or of memory, that may be used at the peak."""
    answer_ms: float = 5.0
    """In which nearly every answer of a primary has to be there."""
    shards: int = 64
    """Shards of a cell."""
    cores: int = 8
    """Cores of a Postgres machine: shards that it settles side by side."""
    wal_mb: float = 200.0
    disk_tb: float = 20.0
    memory_gb: float = 64.0
    connections: int = 10_000
    network_ms: float = 0.5
    """Round trip between a gateway and Redis of the same region."""

    # What things cost.
    call_us: float = CALL_US
    operation_us: float = OPERATION_US
    settle: float = MEASURED.settle_per_s
    row_bytes: float = ROW_BYTES
    id_bytes: float = ID_BYTES
    wal_bytes: float = WAL_BYTES
    archive_bytes: float = ARCHIVE_BYTES

    # Between regions.
    round_trips_ms: tuple[float, ...] = (80.0, 150.0)
    """From a region to each of the others."""
    abroad: float = 0.05
    """The share of requests that are made outside of their organisation's region."""
    pause_s: float = 3.3
    """How long a primary is away in a failover."""
    lag_ms: float = 10.0
    """How far its replica is behind."""
    sidecars: int = 20
    """Processes abroad that serve one account, if each had a lease on it."""
    slice: float = 1_000.0
    """Credits of a lease."""
    account_rate: float = 50.0
    """Requests a second that one account makes abroad."""
    cost: float = 1.0
    """Credits of a request."""
    flush_s: float = 1.0
    """How often what was spent on a lease is told to the home region."""

    # How long it is tried.
    operations: int = 40_000
    seed: int = 1

    @property
    def operations_per_request(self) -> float:
        """Reserve, commit, and reports between them."""
        return 2.0 + self.touches

    def gateways_of(self, requests: float) -> int:
        """Gateway processes, each with a core of its own, for so many requests a second."""
        if self.processes is not None:
            return self.processes
        return max(1, -int(-requests // (FRONTS[self.front] * self.use)))

    @property
    def hold_bytes(self) -> float:
        """Bytes of Redis for the open holds of one request a second."""
        return self.hold_s * MEASURED.hold_bytes

    @property
    def outcome_bytes(self) -> float:
        """Bytes of Redis for what becomes of one request a second, in both windows."""
        return 2 * _default("outcome_window_s") * MEASURED.outcome_bytes

    @property
    def memory_per_request(self) -> float:
        """Bytes of Redis for each request a second: its hold, then its outcome."""
        return self.hold_bytes + self.outcome_bytes

    def events_kept_bytes(self, requests: float, shards: int) -> float:
        """Bytes of Redis for events that are settled and stay a while, with `requests` a second."""
        kept = min(
            requests * _default("event_retention_s"), shards * _default("event_retention_max")
        )
        return kept * (MEASURED.event_bytes + PAYLOAD_BYTES)

    @property
    def month_bytes(self) -> float:
        """Bytes of Postgres' disk that a month of usage takes, without request ids."""
        return self.requests / self.peak * MONTH_S * self.row_bytes

    @property
    def kept_bytes(self) -> float:
        """Bytes of Postgres' disk for each request a second of the mean: usage and request ids."""
        usage = self.months * MONTH_S * self.row_bytes
        return usage + 2 * self.id_days * 86_400 * self.id_bytes
