"""Days of the past with something in them, as tests of exports need them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from settler_world import World

from taximeter.settler.archive.places import Place
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.exports.by_itself import exporting
from taximeter.settler.exports.columns import Terms
from taximeter.settler.exports.compare import Compared, compare_exports
from taximeter.settler.exports.days import Wanted, Written, take_turn, write_day
from taximeter.settler.exports.manifest import DayManifest, read_manifest

ALL = Wanted(
    ("usage", "requests", "ledger", "audit", "focus"),
    ("csv", "parquet"),
    Terms(Decimal("0.01"), "EUR", "Example"),
)
ODD_NAME = "=cmd|\"/c calc\"!A0, \n'Zoë'"

CHARGES = """
    INSERT INTO credit_usage_attribution
           (org_id, user_id, service_type, service_name, credits_used, request_id, request_metadata,
            created_at, late, reserved)
    SELECT $4, CASE WHEN nth % 3 = 0 THEN '-bob' ELSE 'ann' END, 'llm_inference',
           CASE WHEN nth % 4 = 0 THEN $5 ELSE 'gpt-' || nth % 5 END, nth * 1001, 'r' || nth,
           jsonb_build_object('model', 'gpt', 'provider', 'openai', 'prompt_tokens', nth,
                              'completion_tokens', 2 * nth, 'price_source', 'package',
                              'price_version', 'v7', 'price_dated', '2026-01-02'),
           $1::timestamptz + $3::interval * (nth - 1) / $2::integer, nth % 6 = 0, nth * 2
      FROM generate_series(1, $2) AS nth
"""
ENTRIES = """
    INSERT INTO taximeter.account_entries
           (org_id, user_id, entry_seq, delta, kind, reference, created_at)
    SELECT $1, 'ann', 10 * extract(epoch FROM $2::timestamptz)::bigint + nth,
           CASE WHEN nth % 2 = 0 THEN -7 ELSE 1005 END, 'allocation', $3, $2
      FROM generate_series(1, 4) AS nth
"""
AUDIT = """
    INSERT INTO taximeter.audit_log (at, actor, action, org_id, target, before, after)
    VALUES ($2, 'root', 'org.credits.purchased', $1, '@x', NULL, '{"total_credits": 5000}'),
           ($2, 'system', 'system.started', NULL, NULL, NULL, NULL)
"""
PURCHASE = """
    INSERT INTO org_billing_history (org_id, event_type, amount, currency, metadata, created_at)
    VALUES ($1, 'credits_purchased', 25.00, 'EUR', '{"millicredits": 2500000}', $2),
           ($1, 'credits_refunded', -1.50, 'EUR', '{}', $2), ($1, 'note', 7, 'EUR', '{}', $2)
"""


def today() -> date:
    return datetime.now(UTC).date()


@dataclass
class Days:
    """`first` and the two days after it, all of them over."""

    world: World
    place: Place
    first: date = field(default_factory=lambda: today() - timedelta(days=5))

    @property
    def all(self) -> list[date]:
        return [self.first + timedelta(days=nth) for nth in range(3)]

    async def fill(self, charges: int = 30) -> None:
        pool = self.world.pool
        for org_id in ("acme", "zeta"):
            await self.world.organization(org_id, ann=10_000)
        for day in self.all[:2]:
            for org_id in ("acme", "zeta"):
                await self.charge(day, org_id, charges)
            noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
            async with pool.acquire() as conn, conn.transaction():
                await conn.execute("SET LOCAL session_replication_role = replica")
                await conn.execute(ENTRIES, "acme", noon, f"=day {day}")
                await conn.execute(AUDIT, "acme", noon)
                await conn.execute(PURCHASE, "zeta", noon)

    async def charge(self, day: date, org_id: str = "acme", number: int = 1) -> None:
        """The first charge is of midnight, the others follow until the next one."""
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        await self.world.pool.execute(
            CHARGES, start, number, timedelta(days=1), org_id, ODD_NAME, timeout=120
        )

    def settings(self, **more: Any) -> SettlerSettings:
        return SettlerSettings(**more)

    async def write(self, day: date, wanted: Wanted = ALL, *, again: bool = False) -> Written:
        async with exporting(self.settings()) as conn:
            await take_turn(conn)
            return await write_day(conn, self.place, wanted, day, again=again)

    async def compare(self) -> Compared:
        async with (
            exporting(self.settings()) as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await compare_exports(conn, self.place)

    def manifest(self, day: date) -> DayManifest:
        return read_manifest(self.place, day)

    def table(self, day: date, kind: str) -> list[dict[str, Any]]:
        """The rows of the Parquet file."""
        content = self.place.read(self.manifest(day).kinds[kind].files["parquet"].name)
        return list(pq.read_table(pa.BufferReader(content)).to_pylist())

    def lines(self, day: date, kind: str) -> Sequence[dict[str, str]]:
        """The rows of the CSV file."""
        content = self.place.read(self.manifest(day).kinds[kind].files["csv"].name)
        return list(csv.DictReader(io.StringIO(content.decode(), newline="")))
