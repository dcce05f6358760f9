"""Seals rows that no transaction can add to unnoticed, in a chain, and proves what is sealed.

A seal says of each day, shard and table how many rows there are, what they come to and the sum of
their digests. Triggers note what is changed behind the seals by the ways that there are for it, and
the next seal has that as a line of its own: what must be there is the sum of all lines.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import asyncpg

from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Pool, Session
from taximeter.settler.proof.invariants import EVERYTHING, Span, sql_invariants
from taximeter.settler.proof.reconcile import CouldNotLook

SQL: Final = load_queries("seals")
TABLES: Final = {"usage": "usage", "charges": "charged requests", "entries": "account entries"}
ALL: Final = tuple(TABLES)
SEAL_AFTER_S: Final = 600.0
"""An hour is sealed so long after its end: what is settled later is a change behind the seals."""
STEPS_MAX: Final = 2_000
STATEMENT_TIMEOUT_S: Final = 600.0
"""Of what reads rows: the first look reads all there are."""
_ALTERED_FIRST: Final = 20
_DAYS_AT_ONCE: Final = 100
_SAID_MAX: Final = 20
_DAY: Final = timedelta(days=1)
_FIRST_DAY: Final = date(1, 1, 1)
_LAST_DAY: Final = date(9999, 12, 31)

Told = Callable[[date, int], None]
"""What is done when a month is proved: which, and how many rows that were sealed."""


class Place(NamedTuple):
    """Whose rows: of which table, day, shard and epoch."""

    what: str
    day: date
    shard: int | None
    epoch: int | None


class Sum(NamedTuple):
    """What rows come to."""

    rows: int
    credits: Decimal
    digest: Decimal

    def plus(self, other: Sum, times: int = 1) -> Sum:
        """Both together; the other one `times`."""
        return Sum(
            self.rows + times * other.rows,
            self.credits + times * other.credits,
            self.digest + times * other.digest,
        )


_NOTHING: Final = Sum(0, Decimal(0), Decimal(0))
Sums = dict[Place, Sum]


@dataclass(frozen=True, slots=True)
class State:
    """How far rows are sealed. `is_noted`: everybody who writes notes changes of before
    `announced`. `pending`: changes that no seal has yet, by kind and day (of whole tables: the
    month, or none).
    """

    announced: datetime | None
    sealed_until: datetime | None
    n: int
    link: bytes
    is_noted: bool
    pending: tuple[tuple[str, date | None], ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For JSON: the head of the chain, which a copy elsewhere can be compared with."""
        until = None if self.sealed_until is None else self.sealed_until.isoformat()
        return {"n": self.n, "head": self.link.hex() if self.n else None, "sealed_until": until}

    @property
    def spans(self) -> list[Span]:
        """What must be read for a proof that trusts the seals: what is newer, and the days that
        were changed since. All there is while nothing is sealed.
        """
        if self.sealed_until is None:
            return [EVERYTHING]
        today = self.sealed_until.astimezone(UTC).date()
        days = self.changed_days
        newest = self.sealed_until
        if today in days:
            newest = datetime.combine(today, datetime.min.time(), UTC)
        return [*_spans_of(day for day in days if day < today), Span(newest)]

    @property
    def changed_days(self) -> set[date]:
        """Days whose rows were changed, or came back, since they were sealed."""
        found = set()
        for kind, day in self.pending:
            if day is None or kind == "archived":
                continue
            found |= set(_days_of(day)) if kind == "restored" else {day}
        return found

    @property
    def counts_all_charges(self) -> bool:
        """Whether charges have to be counted one by one."""
        return any(kind == "forgotten" for kind, _ in self.pending)


def _days_of(month: date) -> Iterable[date]:
    day = month
    while day.month == month.month:
        yield day
        day += _DAY


def _spans_of(days: Iterable[date]) -> list[Span]:
    """Neighbours together."""
    found: list[list[date]] = []
    for day in sorted(days):
        if found and found[-1][1] == day:
            found[-1][1] = day + _DAY
        else:
            found.append([day, day + _DAY])
    return [Span.of_days(first, after) for first, after in found]


@asynccontextmanager
async def alone(pool: Pool) -> AsyncIterator[Session]:
    """A connection on which nobody else seals meanwhile. Raises CouldNotLook when somebody does,
    asyncpg errors.
    """
    async with pool.acquire() as conn:
        if not await conn.fetchval(SQL["alone"]):
            raise CouldNotLook("a settler looks at the books just now; try again in a minute")
        try:
            yield conn
        finally:
            # With its session the lock ends, whatever the server has heard of.
            with suppress(asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
                await conn.execute(SQL["not_alone"])


async def read_state(conn: Session) -> State:
    """How far rows are sealed, as the transaction sees it. Raises asyncpg errors."""
    row = (await conn.fetch(SQL["state"]))[0]
    until = row["sealed_until"]
    pending = [] if until is None else await conn.fetch(SQL["pending"], until.isoformat())
    return State(
        row["announced"], until, row["n"], row["link"], row["is_noted"],
        tuple((one["kind"], one["day"]) for one in pending),
    )  # fmt: skip


async def ask(conn: Session, spans: Sequence[Span], *, whole_days: bool = True) -> list[str]:
    """What is wrong with the rows of these spans, by the queries that can be asked of one. Raises
    asyncpg errors.
    """
    found: list[str] = []
    for query in sql_invariants():
        if not query.is_of_a_span:
            continue
        for span in spans:
            if query.is_of_days and not (whole_days and span.ends_a_day):
                continue
            rows = await conn.fetch(query.within(span))
            found += [f"{query.invariant}: {row['violation']}" for row in rows]
    return found[:_SAID_MAX]


async def announce(conn: Session, until: datetime | None = None) -> None:
    """Have everybody who writes note what is changed of before the last hour that is over, or of
    `until`. Durable on return. `conn` must not be in a transaction. Raises asyncpg errors.
    """
    due = await conn.fetchval(SQL["due"], SEAL_AFTER_S) if until is None else until
    await conn.execute(SQL["announce"], due)
    # A statement of its own: who begins to write after this one sees what was committed before it.
    await conn.execute(SQL["announced"])


@dataclass(slots=True)
class Sealed:
    """What sealing came to. `refused`: why nothing more is sealed, a sentence each, by day.
    `is_behind`: there is more to seal that could have been.
    """

    seals: int = 0
    n: int = 0
    link: bytes = b""
    until: datetime | None = None
    refused: dict[date, list[str]] = field(default_factory=dict)
    is_behind: bool = False


async def seal(
    conn: Session, until: datetime | None = None, *, budget_s: float = float("inf")
) -> Sealed:
    """Seal what can be, a day at a time, up to the last hour that is over (or to `until`), until
    `budget_s` are over. Each seal is there whole or not at all. What is wrong is not sealed, nor is
    anything after it. Nothing is sealed yet while a transaction runs that may not note what it
    writes: the next call does it.

    Call it while nobody else does: `alone`. `conn` must not be in a transaction. Raises asyncpg
    errors.
    """
    await announce(conn, until)
    done = Sealed()
    started = time.monotonic()
    for _ in range(STEPS_MAX):
        try:
            async with conn.transaction(isolation="repeatable_read"):
                more = await _seal_once(conn, done)
        except _RefusedError as refusal:
            done.refused[refusal.day] = refusal.said
            if refusal.is_altered:
                await conn.execute(SQL["note_altered"], refusal.day, refusal.said)
            return done
        if not more:
            return done
        if time.monotonic() - started > budget_s:
            break
    done.is_behind = True
    return done


class _RefusedError(Exception):
    """Something is wrong with what was to be sealed. Nothing of the seal stays. `is_altered`: with
    what is sealed, so that no look finds it that trusts the seals.
    """

    def __init__(self, day: date, said: list[str], *, is_altered: bool = False) -> None:
        super().__init__(f"{day}: {said}")
        self.day = day
        self.said = said
        self.is_altered = is_altered


async def _seal_once(conn: Session, done: Sealed) -> bool:
    """One seal, in the transaction of `conn`; whether there may be more."""
    await conn.execute(SQL["read_much"])
    state = await read_state(conn)
    done.n, done.link, done.until = state.n, state.link, state.sealed_until
    if state.announced is None or not state.is_noted:
        return False
    since, until = state.sealed_until, await _next_end(conn, state, state.announced)
    if until == since and not state.pending:
        return False
    fresh = Span(since, until)
    changed = [] if since is None else _spans_of(
        day for day in state.changed_days if datetime.combine(day, datetime.min.time(), UTC) < since
    )  # fmt: skip
    # A day that goes on is changed and sealed on in one: its rollup is compared with all of its
    # rows, once it is over.
    changed = [Span(one.since, min(one.until or until, until)) for one in changed]
    wrong = await ask(conn, changed)
    if until != since:
        is_changed = since is not None and since.astimezone(UTC).date() in state.changed_days
        wrong += await ask(conn, [fresh], whole_days=not is_changed)
    if wrong:
        raise _RefusedError((since or until).astimezone(UTC).date(), wrong)
    lines = await _lines(conn, state, fresh)
    await _write(conn, state, until, lines, None, done)
    await _carry(conn, state, until, changed)
    return until < state.announced


async def _next_end(conn: Session, state: State, announced: datetime) -> datetime:
    """Where the next seal ends: with the day of the next row, or where all is announced."""
    since = state.sealed_until
    first: datetime | None = await conn.fetchval(SQL["next_rows"], Span(since).moments[0])
    if first is None or first >= announced:
        return announced
    midnight = first.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return min(announced, midnight + _DAY)


Line = tuple[str, Place, Sum]


async def _lines(conn: Session, state: State, fresh: Span) -> list[Line]:
    """What the next seal says; what came and went as a whole must be what was noted of it."""
    since = state.sealed_until
    whole = [] if since is None else await conn.fetch(SQL["whole_changes"])
    lines = await _take_changes(conn, Span(since))
    for one in whole:
        assert since is not None, "else nothing came or went"
        other = await _as_a_whole(conn, one["what"], one["month"], since, lines)
        rows = sum(line.rows for line in other.values())
        credits = sum((line.credits for line in other.values()), Decimal(0))
        if one["rows"] is not None and (rows, credits) != (one["rows"], one["credits"]):
            day = one["month"] or since.astimezone(UTC).date()
            said = (
                f"I16: {TABLES[one['what']]} of {_month(one['month'])}: {one['rows']:+,} rows and"
                f" {one['credits']:+,} millicredits were noted ({one['kind']}), by the seals they"
                f" are {rows:+,} and {credits:+,}"
            )
            raise _RefusedError(day, [said], is_altered=True)
        lines += [(one["kind"], place, line) for place, line in other.items()]
    if fresh.since != fresh.until:
        read = await _read(conn, fresh, ALL)
        lines += [("sealed", place, line) for place, line in read.items()]
    return lines


async def _take_changes(conn: Session, fresh: Span) -> list[Line]:
    rows = await conn.fetch(SQL["take_changes"], fresh.moments[0])
    return [(row["kind"], _place(row), _sum(row)) for row in rows]


def _month(month: date | None) -> str:
    return "all months" if month is None else f"{month:%Y-%m}"


async def _as_a_whole(
    conn: Session, what: str, month: date | None, since: datetime, lines: Sequence[Line]
) -> Sums:
    """What the rows of a table are beyond what was sealed and is about to be."""
    span = Span(None, since)
    first, after = _FIRST_DAY, _LAST_DAY
    if month is not None:
        first, after = month, (month + 31 * _DAY).replace(day=1)
        span = Span.of_days(first, after)
        span = Span(span.since, min(span.until or since, since))
    found = await _read(conn, span, (what,))
    known = await _known(conn, first, after, (what,), None)
    for _, place, line in lines:
        if place.what == what and first <= place.day < after:
            known[place] = known.get(place, _NOTHING).plus(line)
    return _less(found, known)


def _less(found: Mapping[Place, Sum], known: Mapping[Place, Sum]) -> Sums:
    """What is there beyond what is known, and what is missing with a minus."""
    return {
        place: more
        for place in found.keys() | known.keys()
        if (more := found.get(place, _NOTHING).plus(known.get(place, _NOTHING), -1)) != _NOTHING
    }


def _place(row: Any) -> Place:
    return Place(row["what"], row["day"], row["shard"], row["epoch"])


def _sum(row: Any) -> Sum:
    return Sum(row["rows"], Decimal(row["credits"]), Decimal(row["digest"]))


async def _read(conn: Session, span: Span, tables: Sequence[str]) -> Sums:
    rows = await conn.fetch(SQL["rows"], *span.moments, list(tables))
    return {_place(row): _sum(row) for row in rows}


async def _known(
    conn: Session, first: date, after: date, tables: Sequence[str], noted: datetime | None
) -> Sums:
    """What the seals say of days; with `noted` what was noted of before then as well."""
    until = Span(noted).moments[0]
    rows = await conn.fetch(SQL["sealed"], first, after, list(tables), until)
    return {_place(row): _sum(row) for row in rows}


async def _write(
    conn: Session,
    state: State,
    until: datetime,
    lines: Iterable[Line],
    note: str | None,
    done: Sealed,
) -> None:
    number = state.n + 1
    ordered = sorted(lines, key=lambda line: (line[0], *map(str, line[1])))
    columns: list[list[Any]] = [[], [], [], [], [], [], [], []]
    for kind, place, line in ordered:
        for column, value in zip(columns, (kind, *place, *line), strict=True):
            column.append(value)
    await conn.execute(SQL["add_rows"], number, *columns)
    link = await conn.fetchval(SQL["add_seal"], number, until, state.link, note)
    await conn.execute(SQL["move_end"], number, link, until)
    done.seals += 1
    done.n, done.link, done.until = number, link, until


async def _carry(conn: Session, state: State, until: datetime, changed: Sequence[Span]) -> None:
    """Keep what later comparisons need of rows that are not read again: the usage of the day that
    goes on, and the shards of organisations.
    """
    since = state.sealed_until
    today = until.astimezone(UTC).date()
    begins = datetime.combine(today, datetime.min.time(), UTC)
    anew = today in state.changed_days or since is None
    await conn.execute(SQL["forget_sealed_usage"], today, anew)
    first = begins if anew else max(begins, since or begins)
    if first < until:
        await conn.execute(SQL["add_sealed_usage"], *Span(first, until).moments)
    for span in (*changed, Span(since, until)):
        if span.since != span.until:
            await conn.execute(SQL["add_sealed_shards"], *span.moments)


async def accept(conn: Session, note: str) -> tuple[int, list[date]]:
    """Seal the days that are altered as they are now, with a note why; returns the number of the
    seal and the days, none where nothing is altered. Their former lines stay. Durable on return.
    Raises asyncpg errors.
    """
    done = Sealed()
    async with conn.transaction(isolation="repeatable_read"):
        state = await read_state(conn)
        days = [row["day"] for row in await conn.fetch(SQL["altered"])]
        if state.sealed_until is None or not days:
            return 0, []
        whole = await conn.fetch(SQL["whole_changes"])
        lines = await _take_changes(conn, Span(state.sealed_until))
        for what, month in {(one["what"], one["month"]) for one in whole}:
            other = await _as_a_whole(conn, what, month, state.sealed_until, lines)
            lines += [("accepted", place, line) for place, line in other.items()]
        for day in days:
            span = Span.of_days(day, day + _DAY)
            span = Span(span.since, min(span.until or state.sealed_until, state.sealed_until))
            known = await _known(conn, day, day + _DAY, ALL, None)
            for _, place, line in lines:
                if place.day == day:
                    known[place] = known.get(place, _NOTHING).plus(line)
            found = _less(await _read(conn, span, ALL), known)
            lines += [("accepted", place, line) for place, line in found.items()]
        await _write(conn, state, state.sealed_until, lines, note, done)
        today = state.sealed_until.astimezone(UTC).date()
        begins = datetime.combine(today, datetime.min.time(), UTC)
        await conn.execute(SQL["forget_sealed_usage"], today, True)
        await conn.execute(SQL["add_sealed_usage"], *Span(begins, state.sealed_until).moments)
        await conn.execute(SQL["forget_altered"], days)
    return done.n, days


async def prove_days(conn: Session, first: date | None, after: date, state: State) -> list[str]:
    """Read sealed days again, all before `after` where no first one is given; what is not as it was
    sealed, a sentence each with its month, shard and table. Raises asyncpg errors.
    """
    if state.sealed_until is None:
        return []
    span = Span.of_days(first or _FIRST_DAY, after)
    until = min(span.until or state.sealed_until, state.sealed_until)
    span = Span(None if first is None else span.since, until)
    tables = [what for what in ALL if what != "charges" or not state.counts_all_charges]
    found = await _read(conn, span, tables)
    known = await _known(conn, first or _FIRST_DAY, after, tables, state.sealed_until)
    moved = {day for kind, day in state.pending if kind in ("archived", "restored")}
    return [
        _say(place, more)
        for place, more in sorted(_less(found, known).items(), key=lambda one: str(one[0]))
        if place.what != "usage" or place.day.replace(day=1) not in moved
    ]


def _say(place: Place, more: Sum) -> str:
    where = "written by SQL"
    if place.shard is not None:
        where = f"shard {place.shard}" if place.shard >= 0 else f"another cell ({place.shard})"
    if place.what == "entries":
        where = "every shard"
    head = f"{place.day:%Y-%m}, {where}: {TABLES[place.what]} of {place.day}"
    if not more.rows and not more.credits:
        return f"{head} were changed: as many rows and millicredits as were sealed, not the same"
    return (
        f"{head}: {abs(more.rows):,} rows {'more' if more.rows >= 0 else 'less'} and"
        f" {abs(more.credits):,} millicredits {'more' if more.credits >= 0 else 'less'} than were"
        " sealed"
    )


async def prove_all(conn: Session, state: State, told: Told | None = None) -> list[str]:
    """Read everything that is sealed, month by month. Raises asyncpg errors."""
    found: list[str] = []
    # From one month to the next, so that rows between them are found as well.
    first: date | None = None
    for row in await conn.fetch(SQL["months"]):
        after = (row["month"] + 31 * _DAY).replace(day=1)
        found += await prove_days(conn, first, after, state)
        first = after
        if told is not None:
            told(row["month"], row["rows"])
    if state.sealed_until is not None:
        found += await prove_days(conn, first, _LAST_DAY, state)
    return found


async def prove_some(conn: Session, budget_s: float) -> list[date]:
    """Read sealed days again, first those that were found altered, then the next ones of the round,
    at least one and until `budget_s` are over; note what they are. Returns the days. Raises asyncpg
    errors.
    """
    started = time.monotonic()
    altered = [row["day"] for row in await conn.fetch(SQL["altered"])][:_ALTERED_FIRST]
    last: date | None = (await conn.fetch(SQL["state"]))[0]["round_day"]
    done: list[date] = []
    for day in altered:
        await _prove_day(conn, day, day)
        done.append(day)
    days = [one["day"] for one in await conn.fetch(SQL["days"], last or _FIRST_DAY, _DAYS_AT_ONCE)]
    for day in days:
        # From one day to the next, so that rows between them are found as well.
        await _prove_day(conn, None if last is None else last + _DAY, day)
        await conn.execute(SQL["move_round"], day)
        last = day
        done.append(day)
        if time.monotonic() - started > budget_s:
            break
    if last is not None and not await conn.fetch(SQL["days"], last, 1):
        await conn.execute(SQL["end_round"])
    return done


async def _prove_day(conn: Session, first: date | None, day: date) -> None:
    """Read a day and those before it from `first` on, and note what they are."""
    async with conn.transaction(isolation="repeatable_read"):
        await conn.execute(SQL["read_much"])
        state = await read_state(conn)
        wrong = [f"I16: {one}" for one in await prove_days(conn, first, day + _DAY, state)]
        if state.sealed_until is not None and day < state.sealed_until.astimezone(UTC).date():
            wrong += await ask(conn, [Span.of_days(day, day + _DAY)])
        if wrong:
            await conn.execute(SQL["note_altered"], day, wrong[:_SAID_MAX])
        else:
            await conn.execute(SQL["forget_altered"], [day])
