"""How much of everything a run measures: in full, or quickly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes and times of one run. Every loop of the benchmark ends by one of these."""

    rounds: int
    round_s: float
    warm_up_s: float
    users: int = 1_000
    organisations: int = 50
    settle_events: int = 60_000
    """Events of one round of settling, and rows of one round of bare COPY."""
    lag_s: float = 60.0
    lag_rate: int = 5_000
    backlog_events: int = 1_000_000
    backlog_s_max: float = 150.0
    grown_accounts: int = 1_000_000
    grown_events: int = 1_000_000
    grown_holds: int = 100_000
    many_accounts: int = 10_000_000
    """Accounts of the benchmark that is about them alone, made page by page."""
    expiring_holds: int = 1_000_000
    latency_s: float = 3.0
    process_rounds: int = 5
    """Rounds of what starts processes anew for each."""
    history_rows: int = 10_000_000
    history_organisations: int = 10_000
    history_members: int = 1_500
    """Members of the largest organisation of the year of usage."""
    figure_samples: int = 500
    open_streams: int = 5_000
    large_users: int = 1_000_000
    """Users of the one large organisation."""


FULL = Scale(rounds=5, round_s=2.0, warm_up_s=0.5)
QUICK = Scale(
    rounds=2,
    round_s=0.5,
    warm_up_s=0.1,
    settle_events=10_000,
    lag_s=4.0,
    backlog_events=50_000,
    backlog_s_max=15.0,
    grown_accounts=20_000,
    grown_events=20_000,
    grown_holds=20_000,
    many_accounts=100_000,
    expiring_holds=20_000,
    latency_s=0.4,
    process_rounds=1,
    history_rows=200_000,
    history_organisations=500,
    history_members=300,
    figure_samples=50,
    open_streams=100,
    large_users=30_000,
)
