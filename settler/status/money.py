"""Tells for /metrics what the books have in all, how the last look at them went, and of the
organisations that an operator has named: looked at when somebody scrapes, and at most every few
seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import asyncpg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Pool
from taximeter.settler.status.checked import checked_families

logger = logging.getLogger("taximeter.health")

_SQL: Final = load_queries("status")
_SEALS: Final = load_queries("seals")
LOOK_EVERY_S: Final = 10.0
TIMEOUT_S: Final = 2.0
"""A scrape waits no longer; a look that takes longer goes on, and the next scrape has it."""
_STATES: Final = ("total", "available", "allocated", "closed", "used")
_TROUBLES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class MoneyLook:
    """Sums over all pools, and figures of some organisations, as Postgres had them last; nothing
    while it cannot be read.
    """

    def __init__(
        self,
        pool: Pool,
        organizations: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._named = list(organizations)
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self._money: asyncpg.Record | None = None
        self._checked: asyncpg.Record | None = None
        self._organizations: list[asyncpg.Record] = []
        self._receivers: list[asyncpg.Record] = []
        self._notices_late_s = 0.0

    async def refresh(self) -> None:
        """Look, unless that was done just now. Never raises for a Postgres that is away."""
        if self._looking is None:
            if self._clock() - self._looked_at < LOOK_EVERY_S:
                return
            self._looking = asyncio.create_task(self._look())
        await asyncio.wait({self._looking}, timeout=TIMEOUT_S)

    async def aclose(self) -> None:
        """Stop a look that goes on."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        try:
            self._money = await self._pool.fetchrow(_SQL["money"])
            self._checked = await self._pool.fetchrow(_SEALS["last_look"])
            self._receivers = await self._pool.fetch(_SQL["receivers"])
            self._notices_late_s = await self._pool.fetchval(_SQL["notices_late"])
            if self._named:
                self._organizations = await self._pool.fetch(_SQL["organizations"], self._named)
        except _TROUBLES as error:
            logger.warning("metrics: postgres: %s: %s", type(error).__name__, error)
            self._money, self._checked, self._organizations = None, None, []
        finally:
            self._looked_at = self._clock()
            self._looking = None

    def families(self) -> Iterator[Metric]:
        """What the last look found."""
        money = self._money
        if money is None:
            return
        yield GaugeMetricFamily(
            "taximeter_pools", "Organisations with a pool of credits.", money["pools"]
        )
        credits = GaugeMetricFamily(
            "taximeter_pool_credits",
            "Credits of all pools: total is available, allocated and closed; used is of these two.",
            labels=("state",),
        )
        for state in _STATES:
            credits.add_metric((state,), money[state] / MILLICREDITS_PER_CREDIT)
        yield credits
        yield CounterMetricFamily(
            "taximeter_booked_requests",
            "Charges that the books have, of all months that are kept.",
            money["booked_requests"],
        )
        yield CounterMetricFamily(
            "taximeter_booked_credits",
            "Credits that the books have charged, in all months that are kept.",
            money["booked"] / MILLICREDITS_PER_CREDIT,
        )
        yield GaugeMetricFamily(
            "taximeter_unacknowledged_lost_events",
            "Events that Redis lost before they were booked, and nobody has acknowledged.",
            money["unacknowledged"],
        )
        yield GaugeMetricFamily(
            "taximeter_dead_letters", "Events that were set aside.", money["dead_letters"]
        )
        yield from checked_families(self._checked)
        yield GaugeMetricFamily(
            "taximeter_silent",
            "1 while nobody is told anything and nothing is archived: this may be a copy.",
            money["silent"],
        )
        yield from self._of_receivers()
        yield from self._of_organizations()

    def _of_receivers(self) -> Iterator[Metric]:
        receivers = GaugeMetricFamily(
            "taximeter_receivers",
            "Receivers of notices, by whose they are; failing: the last try failed.",
            labels=("of", "state"),
        )
        found = {(row["of"], row["state"]): row["number"] for row in self._receivers}
        for whose in ("organization", "installation"):
            for state in ("active", "failing", "paused", "disabled"):
                receivers.add_metric((whose, state), found.get((whose, state), 0))
        yield receivers
        yield GaugeMetricFamily(
            "taximeter_notice_late_seconds",
            "Since when the oldest notice is due that no try has failed for and nobody sends; 0"
            " while this system is silent.",
            0 if self._money is None or self._money["silent"] else self._notices_late_s,
        )

    def _of_organizations(self) -> Iterator[Metric]:
        if not self._named:
            return
        credits = GaugeMetricFamily(
            "taximeter_organization_credits",
            "Credits of a named organisation; in_progress is promised or not settled yet.",
            labels=("org_id", "state"),
        )
        requests = CounterMetricFamily(
            "taximeter_organization_requests",
            "Charges of a named organisation that the books have.",
            labels=("org_id",),
        )
        booked = CounterMetricFamily(
            "taximeter_organization_booked_credits",
            "Credits that the books have charged a named organisation.",
            labels=("org_id",),
        )
        for row in self._organizations:
            for state in (*_STATES, "in_progress"):
                amount = row[state] / MILLICREDITS_PER_CREDIT
                credits.add_metric((row["org_id"], state), amount)
            requests.add_metric((row["org_id"],), row["requests"])
            booked.add_metric((row["org_id"],), row["booked"] / MILLICREDITS_PER_CREDIT)
        yield from (credits, requests, booked)
