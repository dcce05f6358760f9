"""What is sealed is found when it is changed, what changes it by the ways there are is not, and a
look that trusts the seals says what one says that reads everything.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner
from rich.console import Console
from settler_world import World

from taximeter.api.commands import group
from taximeter.api.commands.check import run_check
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.proof.check import CheckLimits, Report, check
from taximeter.settler.proof.invariants import TITLES, sql_invariants
from taximeter.settler.proof.reconcile import CouldNotLook
from taximeter.settler.proof.seals import (
    Sealed,
    accept,
    alone,
    prove_all,
    prove_some,
    read_state,
    seal,
)
from taximeter.settler.status.health import HealthCheck
from taximeter.settler.status.money import MoneyLook
from taximeter.settler.worker.jobs import Settler

NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
OLD = NOW - 40 * DAY
TABLES = {
    "usage": "credit_usage_attribution",
    "charged requests": "taximeter.charged_requests",
    "account entries": "taximeter.account_entries",
}
COLUMNS = {
    "usage": {
        "id": "id + 1000000", "org_id": "'other'", "user_id": "'bob'", "service_type": "'x'",
        "service_name": "'x'", "credits_used": "credits_used + 1",
        "request_id": "'other-' || request_id", "request_metadata": "'{\"a\": 1}'",
        "created_at": "created_at + interval '1 microsecond'",
        "shard": "coalesce(shard, 0) + 1", "epoch": "coalesce(epoch, 0) + 1",
        "seq": "coalesce(seq, 0) + 1000", "late": "NOT late", "reserved": "reserved + 1",
    },
    "charged requests": {
        "org_id": "'other'", "request_id": "'other-' || request_id", "phase": "1 - phase",
        "user_id": "'bob'", "shard": "coalesce(shard, 0) + 1", "epoch": "coalesce(epoch, 0) + 1",
        "seq": "coalesce(seq, 0) + 1000", "amount": "amount + 1",
        "created_at": "created_at + interval '1 microsecond'", "by_expiry": "NOT by_expiry",
    },
    "account entries": {
        "org_id": "'other'", "user_id": "'eve'", "entry_seq": "entry_seq + 9",
        "delta": "delta + 1", "kind": "'other'", "reference": "'x'", "hold": "'x'",
        "created_at": "created_at + interval '1 microsecond'",
    },
}  # fmt: skip
"""Each column of a sealed table, and what somebody makes of it."""


@asynccontextmanager
async def past_triggers(pool: asyncpg.Pool) -> AsyncIterator[Any]:
    """A transaction in which no trigger fires, as one of somebody who has rights on a table."""
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL session_replication_role = 'replica'")
        yield conn


async def seal_to(world: World, until: datetime = NOW) -> Sealed:
    async with world.pool.acquire() as conn:
        return await seal(conn, until)


async def prove_a_round(world: World) -> None:
    """Every sealed day is read again once, as a settler does minute by minute."""
    async with world.pool.acquire() as conn:
        await prove_some(conn, 60.0)


async def said(world: World, *, full: bool = False) -> list[str]:
    """What a look finds wrong."""
    report: Report = await check(world.stores, CheckLimits(full=full))
    return [f"{one.name}: {text}" for one in report.invariants for text in one.violations]


async def charge_at(world: World, at: datetime, *requests: str, user: str = "ann") -> None:
    """Charges of 10 millicredits whose events are of some time, however late they are settled."""
    lines = [await world.line(user, 10, request) for request in requests]
    time_ms = str(int(at.timestamp() * 1000)).encode()
    await world.inject(*lines, fields={b"t": time_ms, b"v1": b"\n".join(lines)})
    # The last number of an entry is that of its last line.
    await world.settle()


async def old_world(world: World) -> None:
    """Usage of several days of two months, through a shard and by SQL, and entries."""
    await world.organization("acme", ann=100_000, bob=10_000)
    await world.relay()
    await charge_at(world, OLD, "old-1")
    await charge_at(world, OLD + 2 * HOUR, "old-2")
    await charge_at(world, OLD + DAY, "next-1")
    await charge_at(world, NOW - 2 * DAY, "late-1", user="bob")
    await charge_at(world, NOW + HOUR / 4, "new-1", user="bob")
    await world.pool.execute(
        "SELECT deduct_credits('acme', 'bob', 70, 'llm_inference', 'gpt', 'sql1', '{}')"
    )
    await world.relay()
    async with past_triggers(world.pool) as conn:
        await conn.execute("UPDATE taximeter.account_entries SET created_at = $1", OLD)


async def test_any_change_of_what_is_sealed_is_found_and_named(world: World) -> None:
    await old_world(world)
    assert await said(world, full=True) == []
    assert not (await seal_to(world)).refused
    assert await said(world) == await said(world, full=True) == []
    month, day = f"{OLD:%Y-%m}", f"{OLD:%Y-%m-%d}"
    async with past_triggers(world.pool) as conn:
        state = await read_state(conn)
        for name, table in TABLES.items():
            one = f"ctid = (SELECT min(ctid) FROM {table} WHERE created_at = '{OLD}')"
            if name == "usage":
                one = f"created_at = '{OLD}'"
            changes = {
                column: f"UPDATE {table} SET {column} = {value} WHERE {one}"
                for column, value in COLUMNS[name].items()
            }
            changes["a row less"] = f"DELETE FROM {table} WHERE {one}"
            listed = await conn.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass"
                " AND attnum > 0 AND NOT attisdropped", table,
            )  # fmt: skip
            columns = [row[0] for row in listed]
            assert set(columns) == set(COLUMNS[name]), "a column is in no seal"
            key = {"id": "id + 999", "request_id": "'more'", "entry_seq": "entry_seq + 99"}
            values = ", ".join(key.get(column, column) for column in columns)
            changes["a row more"] = f"INSERT INTO {table} SELECT {values} FROM {table} WHERE {one}"
            where = "every shard" if name == "account entries" else "shard 0"
            for case, statement in changes.items():
                planted = conn.transaction()
                await planted.start()
                assert (await conn.execute(statement)).endswith(" 1"), case
                found = await prove_all(conn, state)
                await planted.rollback()
                assert found, f"{name}: {case}"
                head = f"{month}, {where}: {name} of {day}"
                assert any(text.startswith(head) for text in found), (case, found)
        assert await prove_all(conn, state) == []


async def test_a_round_finds_what_the_seals_hide_and_a_person_can_accept_it(world: World) -> None:
    await old_world(world)
    await seal_to(world)
    async with past_triggers(world.pool) as conn:
        await conn.execute(
            "UPDATE credit_usage_attribution SET request_metadata = '{}' WHERE created_at = $1", OLD
        )
        # A rollup is no sealed row, and is compared when its day is read again.
        await conn.execute(
            "UPDATE taximeter.usage_daily SET requests = requests + 1 WHERE day = $1",
            (OLD + DAY).date(),
        )
    await prove_a_round(world)
    found = await said(world)
    assert any(text.startswith(f"I16: {OLD:%Y-%m}, shard 0: usage of") for text in found), found
    assert any(text.startswith("I2: acme/ann") for text in found), found
    async with past_triggers(world.pool) as conn:
        await conn.execute(
            "UPDATE taximeter.usage_daily SET requests = requests - 1 WHERE day = $1",
            (OLD + DAY).date(),
        )
    await prove_a_round(world)
    assert {text[:3] for text in await said(world)} == {"I16"}
    async with alone(world.pool) as conn:
        number, days = await accept(conn, "restored from a copy")
    assert days == [OLD.date()]
    await prove_a_round(world)
    assert await said(world) == await said(world, full=True) == []
    note = await world.pool.fetchval("SELECT note FROM taximeter.seals WHERE n = $1", number)
    assert note == "restored from a copy"


async def test_what_is_done_by_the_ways_there_are_is_no_change(world: World) -> None:
    await old_world(world)
    await seal_to(world)
    await charge_at(world, OLD + HOUR, "late-2")
    await world.pool.execute(
        "DELETE FROM credit_usage_attribution WHERE request_id = 'old-2' AND org_id = 'acme'"
    )
    await world.pool.execute(
        "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, credits_used,"
        " created_at) VALUES ('acme', 'ann', 'by_hand', 7, $1)",
        OLD - 300 * DAY,
    )
    await world.relay()
    pending = await world.pool.fetch(
        "SELECT kind, what, sum(rows) FROM taximeter.seal_changes GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert [tuple(row) for row in pending] == [
        ("deleted", "charges", -1), ("deleted", "usage", -1),
        ("late", "charges", 1), ("late", "usage", 2),
    ]  # fmt: skip
    assert await said(world) == await said(world, full=True) == []
    assert not (await seal_to(world)).refused
    assert await world.pool.fetchval("SELECT count(*) FROM taximeter.seal_changes") == 0
    await prove_a_round(world)
    assert await said(world) == await said(world, full=True) == []


async def test_late_rows_that_are_wrong_are_not_sealed(world: World) -> None:
    await old_world(world)
    await seal_to(world)
    await charge_at(world, OLD + HOUR, "late-2")
    async with past_triggers(world.pool) as conn:
        await conn.execute("DELETE FROM taximeter.charged_requests WHERE request_id = 'late-2'")
    for _ in range(2):
        assert "I5: acme request late-2: charged 0, attributed 10" in await said(world)
        done = await seal_to(world)
        assert not done.seals
        assert done.refused


STEPS = 14


@pytest.mark.parametrize("seed", range(3))
async def test_a_look_that_trusts_the_seals_says_what_a_full_one_does(
    world: World, seed: int
) -> None:
    dice = random.Random(seed)
    await world.organization("acme", ann=10_000_000, bob=10_000_000)
    await world.relay()
    until = start = NOW - 3 * DAY
    for step in range(STEPS):
        at = start + dice.random() * (NOW - start)
        match dice.randrange(7):
            case 0 | 1:
                names = [f"r{step}-{n}" for n in range(dice.randrange(1, 4))]
                await charge_at(world, at, *names, user=dice.choice(("ann", "bob")))
            case 2:
                await world.pool.execute(
                    "SELECT deduct_credits('acme', 'bob', 7, 'llm_inference', 'gpt', $1, '{}')",
                    f"sql{step}",
                )
            case 3:
                await world.pool.execute(
                    "INSERT INTO credit_usage_attribution (org_id, user_id, service_type,"
                    " credits_used, created_at) VALUES ('acme', 'ann', $1, 7, $2)",
                    dice.choice(("a", "b")), at,
                )  # fmt: skip
            case 4:
                await world.pool.execute(
                    "DELETE FROM credit_usage_attribution WHERE id = (SELECT id FROM"
                    " credit_usage_attribution ORDER BY md5(id::text || $1) LIMIT 1)", str(step),
                )  # fmt: skip
            case _:
                until = min(NOW, until + dice.randrange(30) * HOUR)
                assert not (await seal_to(world, until)).refused
        await world.relay()
        assert await said(world) == await said(world, full=True) == []
    # What is not sealed is looked at by both, whatever is wrong with it.
    at = max(until, start) + HOUR / 2
    await charge_at(world, at, "fresh-1", "fresh-2")
    await world.relay()
    for plant in (
        "DELETE FROM taximeter.charged_requests WHERE request_id = 'fresh-1'",
        "UPDATE credit_usage_attribution SET credits_used = 11 WHERE request_id = 'fresh-2'",
        "UPDATE taximeter.charged_requests SET shard = 1 WHERE request_id = 'fresh-2'",
        "UPDATE taximeter.usage_daily SET credits_used = credits_used + 1",
    ):
        async with past_triggers(world.pool) as conn:
            await conn.execute(plant)
        trusting, full = await said(world), await said(world, full=True)
        assert trusting, plant
        assert {text[:2] for text in trusting} == {text[:2] for text in full} - {"I16"}
        assert not (await seal_to(world)).seals


async def test_a_seal_waits_for_whoever_may_not_note_what_he_writes(world: World) -> None:
    await old_world(world)
    insert = (
        "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, credits_used,"
        " created_at) VALUES ('acme', 'ann', 'by_hand', 7, $1)"
    )
    async with world.pool.acquire() as writer:
        async with writer.transaction():
            await writer.execute(insert, OLD)
            assert (await seal_to(world)).until is None
        assert (await seal_to(world)).until == NOW
        assert await said(world, full=True) == []
        # One whose view is older than what was announced notes everything.
        async with writer.transaction(isolation="repeatable_read"):
            await writer.fetchval("SELECT count(*) FROM taximeter.seals")
            async with world.pool.acquire() as conn:
                await seal(conn, NOW + HOUR)
            await writer.execute(insert, NOW + HOUR / 3)
    assert await said(world) == await said(world, full=True) == []
    await seal_to(world, NOW + HOUR)
    assert await said(world) == await said(world, full=True) == []


class _Cut(Exception):
    """The process ends here."""


class Killed:
    """A connection whose process is killed before its `left`-th command."""

    def __init__(self, conn: Any, left: int) -> None:
        self._conn = conn
        self._left = left

    def __getattr__(self, name: str) -> Any:
        whole = getattr(self._conn, name)
        if name not in ("execute", "fetch", "fetchval"):
            return whole

        async def cut(*arguments: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise _Cut
            return await whole(*arguments)

        return cut


async def test_killed_anywhere_a_seal_is_there_whole_or_not_at_all(world: World) -> None:
    await old_world(world)
    await seal_to(world, NOW - 3 * DAY)
    await charge_at(world, OLD + HOUR, "late-2")
    for commands in range(200):
        async with world.pool.acquire() as conn:
            try:
                await seal(Killed(conn, commands), NOW)  # type: ignore[arg-type]
            except _Cut:
                if commands % 5 == 0:
                    assert await said(world) == await said(world, full=True) == []
                continue
        break
    assert commands > 10
    assert await said(world) == await said(world, full=True) == []
    assert (await seal_to(world)).until == NOW
    lines = await world.pool.fetch(
        "SELECT kind, count(*) FROM taximeter.sealed_rows WHERE kind = 'late' GROUP BY 1"
    )
    assert [tuple(row) for row in lines] == [("late", 2)]


async def test_two_settlers_seal_once(world: World) -> None:
    await old_world(world)
    async with alone(world.pool):
        with pytest.raises(CouldNotLook, match="a settler looks at the books"):
            async with alone(world.pool):
                pytest.fail("two at once")
    # And without the lock, one of two that are at the same seal comes to nothing.
    await asyncio.gather(seal_to(world), seal_to(world), return_exceptions=True)
    assert (await seal_to(world)).until == NOW
    assert await said(world) == await said(world, full=True) == []
    twice = await world.pool.fetch(
        "SELECT what, day, shard, epoch FROM taximeter.sealed_rows GROUP BY 1, 2, 3, 4"
        " HAVING count(*) > 1"
    )
    assert not twice


CHAIN = {
    "a line": "UPDATE taximeter.sealed_rows SET rows = rows + 1 WHERE seal_n = 2 AND place = 1",
    "a line less": "DELETE FROM taximeter.sealed_rows WHERE seal_n = 1 AND place = 1",
    "a line more": "INSERT INTO taximeter.sealed_rows"
    " SELECT 99, place, kind, what, day, shard, epoch, rows, credits, digest"
    " FROM taximeter.sealed_rows WHERE seal_n = 1",
    "a note": "UPDATE taximeter.seals SET note = 'x' WHERE n = 1",
    "a link": "UPDATE taximeter.seals SET link = sha256(link) WHERE n = 1",
    "the first one": "DELETE FROM taximeter.seals WHERE n = 1",
    "the last one": "DELETE FROM taximeter.seals WHERE n = (SELECT max(n) FROM taximeter.seals)",
    "its end": "UPDATE taximeter.seal_state SET n = n - 1",
    "how far it is": "UPDATE taximeter.seal_state SET sealed_until = sealed_until - interval '1h'",
}


async def test_a_change_of_the_chain_shows_at_once(world: World) -> None:
    await old_world(world)
    await seal_to(world)
    queries = [query.sql for query in sql_invariants() if query.invariant == "I16"]
    async with past_triggers(world.pool) as conn:
        for case, statement in CHAIN.items():
            planted = conn.transaction()
            await planted.start()
            await conn.execute(statement)
            found = [row[0] for query in queries for row in await conn.fetch(query)]
            await planted.rollback()
            assert found, case
        assert not [row for query in queries for row in await conn.fetch(query)]


async def months_world(world: World) -> datetime:
    """A month of usage that can leave, sealed; returns its first day."""
    await world.organization("acme", ann=100_000)
    await world.relay()
    month = (NOW - 100 * DAY).replace(day=1, hour=0)
    await world.pool.execute("SELECT taximeter.make_attribution_month($1)", month.date())
    await charge_at(world, month + 5 * DAY, "a1", "a2")
    await charge_at(world, month + 6 * DAY, "b1")
    await charge_at(world, NOW - DAY, "c1")
    await world.relay()
    await seal_to(world)
    return month


@pytest.mark.parametrize("changed", [False, True])
async def test_a_month_leaves_and_comes_back(world: World, changed: bool) -> None:
    month = await months_world(world)
    day, pool = month.date(), world.pool
    table = f"taximeter.attribution_{day:%Y_%m}"
    await pool.execute(f"CREATE TABLE kept AS SELECT * FROM {table}")
    await pool.execute("SELECT taximeter.drop_attribution_month($1)", day)
    assert await said(world) == await said(world, full=True) == []
    await charge_at(world, month + 5 * DAY, "late-1")
    await world.relay()
    assert await said(world) == await said(world, full=True) == []
    assert not (await seal_to(world)).refused
    await prove_a_round(world)
    assert await said(world) == await said(world, full=True) == []
    if changed:
        await pool.execute("UPDATE kept SET request_metadata = '{}' WHERE request_id = 'a1'")
    restoring = await pool.fetchval("SELECT taximeter.begin_restoring_month($1)", day)
    await pool.execute(f"INSERT INTO taximeter.{restoring} SELECT * FROM kept")
    await pool.execute("SELECT taximeter.end_restoring_month($1)", day)
    assert await said(world) == []
    assert not (await seal_to(world)).refused
    await prove_a_round(world)
    found = await said(world)
    assert found == await said(world, full=True)
    assert bool(found) == changed
    if changed:
        assert found[0].startswith(f"I16: {day:%Y-%m}: as many rows came back"), found


async def test_more_than_a_month_had_does_not_leave_in_silence(world: World) -> None:
    month = await months_world(world)
    async with past_triggers(world.pool) as conn:
        await conn.execute(
            "UPDATE credit_usage_attribution SET credits_used = credits_used + 1"
            " WHERE request_id IN ('a1', 'b1')"
        )
        # And the rollup with it, so that the month can be dropped.
        await conn.execute(
            "UPDATE taximeter.usage_monthly_by_org SET credits_to_day ="
            " array_fill(credits_used + 2, ARRAY[31]) WHERE month = $1", month.date(),
        )  # fmt: skip
    await world.pool.execute("SELECT taximeter.drop_attribution_month($1)", month.date())
    done = await seal_to(world)
    assert "(archived), by the seals they are -3 and -30" in done.refused[month.date()][0]
    assert any("(archived)" in text for text in await said(world))


async def test_forgotten_charges_take_their_seals_with_them(world: World) -> None:
    await old_world(world)
    await seal_to(world, NOW + 2 * HOUR)
    kept, aged = (
        timedelta(days=30),
        (
            "UPDATE taximeter.charge_generations SET began_at = began_at - interval '31 days',"
            " frozen_at = frozen_at - interval '31 days'"
        ),
    )
    await world.pool.execute(aged)
    assert await world.pool.fetchval("SELECT taximeter.freeze_charges($1)", kept)
    await charge_at(world, NOW - HOUR / 2, "after-1")
    await world.pool.execute("DELETE FROM credit_usage_attribution WHERE request_id = 'old-1'")
    await world.relay()
    assert await said(world) == await said(world, full=True) == []
    await seal_to(world, NOW + 2 * HOUR)
    await world.pool.execute(aged)
    assert await world.pool.fetchval("SELECT taximeter.forget_charges($1)", kept) > 0
    assert await said(world) == await said(world, full=True) == []
    done = await seal_to(world)
    assert not done.refused
    assert await said(world) == await said(world, full=True) == []
    assert await world.pool.fetchval(
        "SELECT sum(rows) FROM taximeter.sealed_rows WHERE what = 'charges'"
    ) == await world.pool.fetchval("SELECT count(*) FROM taximeter.charged_requests")


async def test_a_settler_says_what_it_found(world: World) -> None:
    await old_world(world)
    await world.pool.execute("UPDATE taximeter.conditions SET is_wrong = false")
    settings = SettlerSettings(check_reread_s=600)
    settler = Settler(world.stores, settings, check_stores=world.stores)

    async def state() -> asyncpg.Record:
        return (await world.pool.fetch("SELECT * FROM taximeter.check_state"))[0]

    async def notices() -> list[str]:
        rows = await world.pool.fetch(
            "SELECT type FROM taximeter.notices WHERE type LIKE 'system.books%' ORDER BY n"
        )
        return [row["type"] for row in rows]

    await settler.check()
    first = await state()
    assert first["holds"] is True
    assert (first["violations"], first["could_not_look"]) == (0, None)
    assert first["proved_at"] == first["checked_at"]
    assert first["rows_sealed"] > 0
    assert first["seal_n"] > 0
    results = await world.pool.fetch("SELECT * FROM taximeter.check_results")
    assert {row["invariant"] for row in results} == set(TITLES)
    assert all(row["holds"] for row in results)
    health = HealthCheck(world.stores)
    books = (await health.get()).books
    assert books is not None
    assert (books.status, books.seal) == ("ok", f"{first['seal_n']}:{first['seal_head']}")

    # What a round finds is told once two looks have, and the figures are there for /metrics.
    async with past_triggers(world.pool) as conn:
        await conn.execute(
            "UPDATE taximeter.charged_requests SET by_expiry = true WHERE request_id = 'old-1'"
        )
    await settler.check()
    assert await notices() == []
    await settler.check()
    assert await notices() == ["system.books_wrong"]
    wrong = await state()
    assert (wrong["holds"], wrong["violations"]) == (False, 1)
    assert wrong["proved_at"] == first["proved_at"]
    health = HealthCheck(world.stores)
    books = (await health.get()).books
    assert books is not None
    assert (books.status, books.reason) == ("degraded", "wrong")
    look = MoneyLook(world.pool)
    await look.refresh()
    told = {
        sample.name: (sample.labels, sample.value)
        for family in look.families()
        for sample in family.samples
    }
    assert told["taximeter_check_violations"] == ({}, 1)
    assert told["taximeter_check_violated"] == ({"invariant": "I16"}, 1)
    assert told["taximeter_check_seal_head"][1] == int(wrong["seal_head"][:12], 16)
    # Live accounts alone are right, which does not say that the books are.
    await settler.reconcile()
    assert await notices() == ["system.books_wrong"]
    async with past_triggers(world.pool) as conn:
        await conn.execute(
            "UPDATE taximeter.charged_requests SET by_expiry = false WHERE request_id = 'old-1'"
        )
    await settler.check()
    assert await notices() == ["system.books_wrong", "system.books_right"]
    # Another settler is at it; and a shard that nobody can look at.
    async with alone(world.pool):
        await settler.check()
    assert (await state())["could_not_look"] is None
    await world.stores.redis.delete(world.keys().meta)
    await settler.check()
    assert "has not been opened" in (await state())["could_not_look"]
    assert (await state())["checked_at"] > wrong["checked_at"]


async def test_the_command_reads_everything_and_knows_a_seal(
    world: World, database_url: str, redis_url: str, key_prefix: str
) -> None:
    env = {
        "TAXIMETER_DATABASE_URL": database_url,
        "TAXIMETER_REDIS_URL": redis_url,
        "TAXIMETER_KEY_PREFIX": key_prefix,
    }

    async def run(*arguments: str) -> tuple[int, str]:
        done = await asyncio.to_thread(CliRunner().invoke, group, ["check", *arguments], env=env)
        return done.exit_code, done.output

    await old_world(world)
    await seal_to(world)
    code, output = await run("--json")
    seals = json.loads(output)["seals"]
    assert (code, seals["n"] > 1) == (0, True)
    known = f"{seals['n']}:{seals['head']}"
    code, output = await run("--full", "--knows", known)
    assert (code, known in output) == (0, True), output
    code, output = await run("--knows", f"{seals['n'] - 1}:{seals['head']}")
    assert code == 1
    assert "written anew" in " ".join(output.split())
    for wrong in ("x", "1:ff", f"-1:{seals['head']}", f"{10**30}:{seals['head']}"):
        code, output = await run("--knows", wrong)
        assert code == 2
        assert "--knows" in output
    async with past_triggers(world.pool) as conn:
        await conn.execute(
            "UPDATE taximeter.account_entries SET delta = delta + 1, reference = 'x'"
            " WHERE entry_seq = 1 AND user_id = 'bob'"
        )
    assert (await run())[0] == 0
    code, output = await run("--full")
    assert code == 1
    assert f"I16 violated: {OLD:%Y-%m}, every shard: account entries of" in output
    code, output = await run("accept", "--note", "known")
    assert (code, "no sealed day was found altered" in output) == (0, True)
    await prove_a_round(world)
    assert (await run())[0] == 1
    code, output = await run("accept", "--note", "known")
    assert (code, f"{OLD:%Y-%m-%d}" in output) == (0, True)
    assert (await run("--full"))[0] == 0
    assert (await run("accept", "--note", " "))[0] == 2


async def test_how_far_a_full_proof_is_shows_on_a_terminal_alone(
    world: World, database_url: str, redis_url: str, key_prefix: str
) -> None:
    await old_world(world)
    await seal_to(world)
    settings = SettlerSettings(
        database_url=database_url, redis_url=redis_url, key_prefix=key_prefix
    )
    for terminal in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=100)
        report = await run_check(settings, full=True, console=console)
        assert report.holds
        assert ("sealed rows" in screen.getvalue()) == terminal
