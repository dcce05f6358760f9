"""Copies what belongs to an organisation from one Postgres to another, and proves the copy.

Everything is written by one transaction of the receiving side, so that a copy is there whole or not
at all. Numbers of events are those of the cell that gave them: their shard is below zero elsewhere.
A cell that an organisation returns to keeps the charges and the usage that it has of it, with its
own numbers, and takes what it does not have; all else is replaced by what comes.

Queries marked `nosec B608` are put together from `TABLES` and the catalog's names of columns, never
from what somebody sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, Literal, NamedTuple

import asyncpg

from taximeter.settler.books.named_sql import load_queries

_SQL: Final = load_queries("cells")
_CHUNKS_WAITING_MAX: Final = 16
_OF_SHARD: Final = "CASE WHEN shard < 0 THEN shard ELSE -1 - shard END"

Conn = Any
"""asyncpg's connection, whose annotations do not fit those of pools."""


class BooksDiffer(Exception):
    """The copy is not what was copied. Nothing of it stays."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with rows of organisations. `day`: by which it is copied in two parts. `changed`:
    columns that say something else in the other cell. `known`: what becomes of rows that the cell
    has already: they are replaced, kept by their key, updated, or kept by all that they say.
    """

    name: str
    where: str = "org_id = $1"
    day: str | None = None
    left_out: frozenset[str] = frozenset()
    changed: dict[str, str] = field(default_factory=dict)
    known: Literal["replaced", "kept", "updated", "counted"] = "replaced"

    @property
    def came(self) -> str:
        """The temporary table that takes what comes where rows are known."""
        return f"came_{self.name.partition('.')[2]}"


class Proof(NamedTuple):
    """How many rows, and a sum of their digests."""

    rows: int
    digest: str


_BY_TIME: Final = "(created_at AT TIME ZONE 'UTC')::date"
_UNCHANGED: Final = Table("taximeter.usage_daily_by_org", day="day")
"""Any change of usage by hand or by SQL shows in it."""
TABLES: Final = (
    Table("public.organizations", "id = $1", known="updated"),
    Table("public.organization_members"),
    Table("public.organization_credit_pools"),
    Table("public.user_credit_allocations"),
    Table("public.organization_subscriptions"),
    Table("public.org_billing_history"),
    Table("taximeter.accounts", changed={"applied_seq": "entry_seq"}, known="updated"),
    Table("taximeter.account_entries", day=_BY_TIME, known="kept"),
    Table("taximeter.moves", known="kept"),
    Table("taximeter.pool_refreshes", known="kept"),
    Table("taximeter.charged_requests", day=_BY_TIME, changed={"shard": _OF_SHARD}, known="kept"),
    Table(
        "public.credit_usage_attribution",
        day=_BY_TIME,
        left_out=frozenset({"id"}),
        changed={"shard": _OF_SHARD},
        known="counted",
    ),
    Table("taximeter.usage_names", known="kept"),
    Table("taximeter.usage_daily", day="day"),
    _UNCHANGED,
    Table("taximeter.usage_daily_by_label", day="day"),
    Table("taximeter.usage_monthly_by_org"),
    Table("taximeter.usage_monthly_by_user"),
    Table("taximeter.api_keys"),
    Table("taximeter.idempotent_answers", "scope = $1"),
    Table("taximeter.endings"),
)
"""In an order in which they can be written: what is named stands before what names it."""
_POOLS: Final = "public.organization_credit_pools"


class Copy:
    """One copy on its way. `source` is read by whoever calls; `target` is in a transaction that
    ends with the move, of a cell that has a record of the organisation where it `returns`.
    """

    def __init__(self, source: Conn, target: Conn, org_id: str, *, returns: bool) -> None:
        self._source = source
        self._returns = returns
        self._target = target
        self._org_id = org_id
        self._until: date | None = None
        self._before: Proof | None = None
        self.proof: dict[str, Proof] = {}

    async def begin(self) -> None:
        """Make the receiving transaction one that brings things. Raises asyncpg errors."""
        await self._target.execute(
            "SELECT set_config('taximeter.importing', 'on', true),"
            " set_config('taximeter.moving_rows', 'on', true),"
            " set_config('taximeter.settling', 'on', true), set_config('TimeZone', 'UTC', true)"
        )
        await self._target.execute(
            f"CREATE TEMPORARY TABLE came_pools (LIKE {_POOLS}) ON COMMIT DROP"
        )
        if self._returns:
            await self._make_room()

    async def _make_room(self) -> None:
        """Take away what is replaced by what comes, and what it has come to."""
        await self._target.execute(_SQL["take_from_all"], self._org_id)
        await self._target.execute(_SQL["take_from_dropped"], self._org_id)
        for table in reversed(TABLES):
            if table.known == "replaced":
                await self._target.execute(
                    f"DELETE FROM {table.name} WHERE {table.where}",  # nosec B608
                    self._org_id,
                )
            else:
                names = ", ".join(f'"{name}"' for name in await self._columns(table))
                await self._target.execute(
                    f"CREATE TEMPORARY TABLE {table.came} ON COMMIT DROP AS"  # nosec B608
                    f" SELECT {names} FROM {table.name} WITH NO DATA"
                )

    async def copy_the_past(self) -> None:
        """What was used before yesterday, while the organisation works. Raises BooksDiffer, asyncpg
        errors.
        """
        self._until = await self._source.fetchval(_SQL["yesterday"])
        async with self._source.transaction(isolation="repeatable_read", readonly=True):
            self._before = await self._prove(self._source, _UNCHANGED, "<", mapped=True)
            for table in TABLES:
                if table.day is not None:
                    await self._copy(table, "<")
                    await self._compare(table, "<")

    async def copy_the_rest(self) -> None:
        """Everything else, once nothing of the organisation changes any more; then what is derived.
        Raises BooksDiffer, asyncpg errors.
        """
        async with self._source.transaction(isolation="repeatable_read", readonly=True):
            if self._until is not None:
                now = await self._prove(self._source, _UNCHANGED, "<", mapped=True)
                if now != self._before:
                    raise BooksDiffer(
                        "usage of days before yesterday was changed while they were copied"
                    )
            for table in TABLES:
                await self._copy(table, ">=")
            await self._target.execute(_SQL["fill_pool"])
            for table in TABLES:
                await self._compare(table, ">=")
            seals = [row["secret"] for row in await self._source.fetch(_SQL["seals"])]
            members = await self._source.fetch(_SQL["members_known"], self._org_id)
        await self._target.execute(_SQL["take_seals"], seals)
        await self._target.executemany(_SQL["note_member"], [tuple(row) for row in members])
        await self._target.execute(_SQL["add_to_all"], self._org_id)
        await self._target.execute(_SQL["add_to_dropped"], self._org_id)

    async def _copy(self, table: Table, part: str) -> None:
        names = await self._columns(table)
        selected = ", ".join(table.changed.get(name, f'"{name}"') for name in names)
        schema, _, name = table.name.partition(".")
        query = (
            f"SELECT {selected} FROM {table.name}"  # nosec B608
            f" WHERE {self._rows(table, part)}"
        )
        is_pool = table.name == _POOLS
        aside = "came_pools" if is_pool else table.came if self._is_known(table) else None
        if aside is not None:
            await self._target.execute(f"TRUNCATE pg_temp.{aside}")
        await _pipe(
            *(self._source, query, self._arguments(table), self._target),
            *(schema if aside is None else None, aside or name, names),
        )
        if is_pool:
            await self._target.execute(_SQL["begin_pool"])
        elif aside is not None:
            await self._target.execute(f"ANALYZE pg_temp.{aside}")
            await self._take_what_is_new(table, part, names)

    def _is_known(self, table: Table) -> bool:
        return self._returns and table.known != "replaced"

    async def _take_what_is_new(self, table: Table, part: str, names: list[str]) -> None:
        columns = ", ".join(f'"{name}"' for name in names)
        came = f"pg_temp.{table.came} AS came"
        arguments: tuple[object, ...] = ()
        if table.known == "counted":
            # Rows have no key: as many of the same are kept as there are.
            said = ", ".join(table.changed.get(name, f'"{name}"') for name in names)
            arguments = self._arguments(table)
            query = (
                f"WITH known AS (SELECT md5(ROW({said})::text) AS digest,"  # nosec B608
                " count(*) AS rows"
                f" FROM {table.name} WHERE {self._rows(table, part)} GROUP BY 1),"
                f" found AS (SELECT {columns}, digest, row_number() OVER (PARTITION BY digest) AS"
                f" nth FROM (SELECT *, md5(ROW({columns})::text) AS digest FROM {came}) AS rows)"
                f" INSERT INTO {table.name} ({columns}) SELECT {columns} FROM found"
                " LEFT JOIN known USING (digest) WHERE nth > coalesce(known.rows, 0)"
            )
        elif table.known == "updated":
            key = await self._key(table)
            said = ", ".join(f'"{name}" = EXCLUDED."{name}"' for name in names if name not in key)
            query = (
                f"INSERT INTO {table.name} ({columns})"  # nosec B608
                f" SELECT {columns} FROM {came}"
                f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {said}"
            )
        else:
            query = (
                f"INSERT INTO {table.name} ({columns})"  # nosec B608
                f" SELECT {columns} FROM {came}"
                f" WHERE NOT EXISTS (SELECT FROM {table.name} AS known"
                f" WHERE {await self._same_key(table)})"
            )
        await self._target.execute(query, *arguments)

    async def _same_key(self, table: Table) -> str:
        """That a row `known` and a row `came` are the same, by the table's key."""
        return " AND ".join(f'known."{name}" = came."{name}"' for name in await self._key(table))

    async def _key(self, table: Table) -> list[str]:
        rows = await self._target.fetch(_SQL["key_columns"], *table.name.split("."))
        return [row["attname"] for row in rows]

    async def _compare(self, table: Table, part: str) -> None:
        given = await self._prove(self._source, table, part, mapped=True)
        taken = await self._prove(self._target, table, part, mapped=False, returned=self._returns)
        if given != taken:
            raise BooksDiffer(f"{table.name}: {given} was copied, {taken} came")
        before = self.proof.get(table.name, Proof(0, "0"))
        digest = str(int(before.digest) + int(given.digest))
        self.proof[table.name] = Proof(before.rows + given.rows, digest)

    async def _prove(
        self, conn: Conn, table: Table, part: str, *, mapped: bool, returned: bool = False
    ) -> Proof:
        """`mapped`: as it is in the other cell. `returned`: of a cell that has numbers of its own
        in some rows, and ids of requests that the other one has forgotten.
        """
        names = await self._columns(table)
        said = dict(table.changed)
        if not mapped:
            said = {"shard": said["shard"]} if returned and "shard" in said else {}
        values = ", ".join(said.get(name, f'"{name}"') for name in names)
        rows = self._rows(table, part)
        if returned and table.known == "kept":
            rows += (
                f" AND EXISTS (SELECT FROM pg_temp.{table.came} AS came"  # nosec B608
                f" WHERE {await self._same_key(table)})"
            )
        row = await conn.fetchrow(
            "SELECT count(*) AS rows, coalesce(sum(('x' || substr(md5(ROW("  # nosec B608
            f"{values})::text), 1, 15))::bit(60)::bigint), 0)::text AS digest"
            f" FROM {table.name} AS known WHERE {rows}",
            *self._arguments(table),
        )
        return Proof(row["rows"], row["digest"])

    def _rows(self, table: Table, part: str) -> str:
        if table.day is None or self._until is None:
            return table.where
        return f"{table.where} AND {table.day} {part} $2"

    def _arguments(self, table: Table) -> tuple[object, ...]:
        if table.day is None or self._until is None:
            return (self._org_id,)
        return (self._org_id, self._until)

    async def _columns(self, table: Table) -> list[str]:
        rows = await self._source.fetch(_SQL["columns"], *table.name.split("."))
        return [row["attname"] for row in rows if row["attname"] not in table.left_out]


async def _pipe(
    source: Conn,
    query: str,
    arguments: tuple[object, ...],
    target: Conn,
    schema: str | None,
    table: str,
    columns: list[str],
) -> None:
    """From one server to the other as they come, in Postgres's own binary form."""
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_CHUNKS_WAITING_MAX)

    async def put(chunk: bytes) -> None:
        await waiting.put(bytes(chunk))

    async def read() -> None:
        await source.copy_from_query(query, *arguments, output=put, format="binary")
        await waiting.put(None)

    async def chunks() -> AsyncIterator[bytes]:
        while (chunk := await waiting.get()) is not None:
            yield chunk

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(
                target.copy_to_table(
                    table, schema_name=schema, source=chunks(), columns=columns, format="binary"
                )
            )
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def explain(error: asyncpg.UniqueViolationError) -> str:
    """What the other cell has already that came once more, in a sentence."""
    return f"the other cell has {error.constraint_name or 'a row'} already: {error.detail}"
