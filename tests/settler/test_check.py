"""Check is silent on right books, whatever goes on, and speaks up for each kind of wrong ones."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
import pytest
from click.testing import CliRunner
from settler_world import World

from taximeter.api.commands import group
from taximeter.meter import InsufficientCredits, Meter, RequestConflict
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.moves.relay import relay
from taximeter.settler.proof.check import CheckLimits, check
from taximeter.settler.proof.invariants import TITLES, sql_invariants
from taximeter.settler.proof.reconcile import CouldNotLook, ReconcileLimits, reconcile
from taximeter.settler.settling.settle import settle_once
from taximeter.settler.settling.trim import trim
from taximeter.settler.shards.guardian import guard
from taximeter.settler.worker.sweep import sweep

Plant = Callable[[World], Awaitable[None]]


async def busy_world(world: World) -> None:
    """Two organisations with usage of every kind, partly settled."""
    await world.organization("acme", ann=10_000, bob=10_000)
    await world.organization("other", eve=5_000)
    await world.charge("ann", 100, "r1")
    await world.charge("eve", 50, "r1", org_id="other")
    await world.inject(b"poison")
    await world.pool.execute(
        "SELECT deduct_credits('acme', 'bob', 70, 'llm_inference', 'gpt', 'sql1', '{}'::jsonb)"
    )
    await world.settle()
    await world.relay()
    await world.operate("acme", ("reserve", "ann", "open", 500), ("charge", "bob", "r2", 30))


async def sql(world: World, statement: str) -> None:
    """Change the books behind the triggers' back, as a damaged or restored table would."""
    async with world.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL session_replication_role = 'replica'")
        assert await conn.execute(statement) not in ("UPDATE 0", "DELETE 0", "INSERT 0 0")


def by_sql(statement: str) -> Plant:
    async def plant(world: World) -> None:
        await sql(world, statement)

    return plant


def by_redis(command: str, *args: str | int) -> Plant:
    """`command` on a key that is named as `accounts`, `holds` and so on, of shard 0."""

    async def plant(world: World) -> None:
        keys = world.stores.keys(0)
        name, *rest = args
        await world.stores.redis.execute_command(command, getattr(keys, str(name)), *rest)

    return plant


async def overdue_hold(world: World) -> None:
    keys = world.keys()
    await world.stores.redis.zadd(keys.deadlines, {"acme/open": 1_000})


async def lost_events(world: World) -> None:
    await world.inject(await world.line("ann", 5, "after"), skip=2)
    await world.settle()


async def foreign_hold(world: World) -> None:
    keys = world.keys()
    record = await world.stores.redis.hget(keys.holds, "acme/open")
    await world.stores.redis.hdel(keys.holds, "acme/open")
    await world.stores.redis.hset(keys.holds, "other/open", record)


async def waiting_entry(world: World) -> None:
    await world.pool.execute("SELECT taximeter.append_entry('acme', 'ann', 5, 'repair')")
    await sql(world, "UPDATE taximeter.account_entries SET created_at = now() - interval '1 hour'")


async def changed_audit(world: World) -> None:
    await world.pool.execute(
        "INSERT INTO taximeter.audit_log (actor, action) VALUES ('ann', 'org.tested')"
    )
    await world.pool.execute("SELECT taximeter.seal_audit()")
    await sql(world, "UPDATE taximeter.audit_log SET actor = 'bob'")


PLANTED = {
    "I1 live balance": ("I1", by_redis("HSET", "accounts", "acme/ann", "9401 500 1")),
    "I1 unreadable record": ("I1", by_redis("HSET", "accounts", "acme/ann", "nonsense")),
    "I1 unknown account": ("I1", by_redis("HSET", "accounts", "acme/mallory", "5 0 0")),
    "I1 account vanished": ("I1", by_redis("HDEL", "accounts", "acme/bob")),
    "I2 used of an allocation": (
        "I2",
        by_sql("UPDATE user_credit_allocations SET used_credits = used_credits + 1"),
    ),
    "I2 used of a pool": (
        "I2",
        by_sql("UPDATE organization_credit_pools SET used_credits = used_credits + 1"),
    ),
    "I2 rollup": ("I2", by_sql("UPDATE taximeter.usage_daily SET requests = requests + 1")),
    "I2 month of a user": (
        "I2",
        by_sql(
            "UPDATE taximeter.usage_monthly_by_user SET credits_to_day[1] = credits_to_day[1] + 1"
            " WHERE user_id = 'ann'"
        ),
    ),
    "I2 month of an organisation": (
        "I2",
        by_sql(
            "UPDATE taximeter.usage_monthly_by_org SET requests_to_day[30] = requests_to_day[31]+1"
        ),
    ),
    "I2 usage by tag": (
        "I2",
        by_sql(
            "INSERT INTO taximeter.usage_daily_by_label"
            " VALUES ('acme', 'tag', current_date, 'night', 0, 1, 5)"
        ),
    ),
    "I2 month of everybody": (
        "I2",
        by_sql("UPDATE taximeter.usage_monthly SET credits_to_day[31] = credits_to_day[31] + 1"),
    ),
    "I2 attribution": (
        "I2",
        by_sql("DELETE FROM credit_usage_attribution WHERE request_id = 'r1' AND org_id = 'acme'"),
    ),
    "I3 allocated of a pool": (
        "I3",
        by_sql("UPDATE organization_credit_pools SET allocated_credits = allocated_credits + 1"),
    ),
    "I3 closed of a pool": (
        "I3",
        by_sql("UPDATE organization_credit_pools SET closed_credits = closed_credits + 1"),
    ),
    "I4 charge deleted": ("I4", by_sql("DELETE FROM taximeter.charged_requests WHERE seq = 1")),
    "I4 dead letter deleted": ("I4", by_sql("DELETE FROM taximeter.dead_letters")),
    "I4 lost": ("I4", lost_events),
    "I4 number used twice": (
        "I4",
        by_sql("UPDATE taximeter.charged_requests SET seq = 1 WHERE org_id = 'other'"),
    ),
    "I16 end of the seals": ("I16", by_sql("UPDATE taximeter.seal_state SET n = 1")),
    "I14 audit row changed": ("I14", changed_audit),
    "I4 stream forgot": ("I4", by_redis("DEL", "events")),
    "I5 charged twice": (
        "I5",
        by_sql(
            "INSERT INTO credit_usage_attribution (org_id, user_id, service_type, credits_used,"
            " request_id, created_at, shard, epoch, seq) SELECT org_id, user_id, service_type,"
            " credits_used, request_id, created_at, shard, epoch, seq"
            " FROM credit_usage_attribution WHERE request_id = 'r1' AND org_id = 'acme'"
        ),
    ),
    "I5 charged another amount": (
        "I5",
        by_sql("UPDATE taximeter.charged_requests SET amount = amount + 1 WHERE seq = 1"),
    ),
    "I5 deduction without usage": (
        "I5",
        by_sql("DELETE FROM credit_usage_attribution WHERE request_id = 'sql1'"),
    ),
    "I6 held": ("I6", by_redis("HSET", "accounts", "acme/ann", "9300 600 1")),
    "I6 count": ("I6", by_redis("HSET", "open_holds", "acme/ann", "3")),
    "I6 hold vanished": ("I6", by_redis("HDEL", "holds", "acme/open")),
    "I6 deadline vanished": ("I6", by_redis("DEL", "deadlines")),
    "I6 overdue": ("I6", overdue_hold),
    "I6 garbled hold": ("I6", by_redis("HSET", "holds", "acme/odd", "5\tnobody\t0\t1Sx\t")),
    "I7 bought": (
        "I7",
        by_sql("UPDATE organization_credit_pools SET used_credits = used_credits + 5"),
    ),
    "I7 live": ("I7", by_redis("HSET", "accounts", "acme/ann", "9401 500 1")),
    "I11 entry missing": (
        "I11",
        by_sql("DELETE FROM taximeter.account_entries WHERE user_id = 'eve'"),
    ),
    "I11 applied ahead": ("I11", by_redis("HSET", "accounts", "acme/ann", "9400 500 9")),
    "I11 hint ahead": ("I11", by_redis("HSET", "accounts", "acme/ann", "9400 500 0")),
    "I11 waiting": ("I11", waiting_entry),
    "I13 organisation gone": ("I13", by_sql("DELETE FROM organizations WHERE id = 'other'")),
    "I13 another user": (
        "I13",
        by_sql("UPDATE taximeter.charged_requests SET user_id = 'bob' WHERE seq = 1"),
    ),
    "I13 another shard": (
        "I13",
        by_sql(
            "INSERT INTO taximeter.charged_requests (org_id, request_id, user_id, shard, epoch, "
            "seq, amount)"
            " VALUES ('acme', 'rx', 'ann', 1, 1, 1, 0)"
        ),
    ),
    "I13 foreign hold": ("I13", foreign_hold),
}


@pytest.mark.parametrize("case", PLANTED)
async def test_a_planted_violation_is_found(world: World, case: str) -> None:
    name, plant = PLANTED[case]
    await busy_world(world)
    assert (await world.check()).holds
    await plant(world)
    found = {one.name: one for one in (await world.check()).invariants}[name]
    assert not found.holds
    assert found.violations
    assert found.fires


async def test_every_invariant_is_planted_and_every_query_reads(world: World) -> None:
    assert {name for name, _ in PLANTED.values()} == TITLES.keys()
    for query in sql_invariants():
        assert await world.pool.fetch(query.sql) == []


async def test_holds_are_compared_by_two_readings_when_they_are_many(world: World) -> None:
    await busy_world(world)
    report = await world.check(holds_limit=0)
    assert report.holds
    holds = {one.name: one for one in report.invariants}["I6"]
    assert holds.unjudged is not None
    assert "read twice" in holds.unjudged
    await world.stores.redis.hset(world.keys().accounts, "acme/ann", "9300 600 1")
    report = await world.check(holds_limit=0)
    found = {one.name: one.violations for one in report.invariants if not one.holds}
    assert found["I6"] == ["acme/ann: held less the sum of its open holds (100)"]


async def test_a_closed_shard_cannot_be_looked_at(world: World) -> None:
    await world.stores.redis.hset(world.keys().meta, "epoch", "fenced")
    with pytest.raises(CouldNotLook, match="closed"):
        await world.check()


async def test_a_system_that_was_never_started_cannot_be_looked_at(
    stores: object, pool: asyncpg.Pool
) -> None:
    with pytest.raises(CouldNotLook, match="never run"):
        await check(stores)  # type: ignore[arg-type]


async def test_an_old_loss_is_a_figure_and_not_an_alarm(world: World) -> None:
    await world.organization("acme", ann=1_000)
    await lost_events(world)
    assert not (await world.check()).holds
    await world.pool.execute("UPDATE taximeter.lost_events SET found_at = now() - interval '1 day'")
    report = await world.check(loss_alarm_s=3_600.0)
    assert report.holds
    assert {one.name: one for one in report.invariants}["I4"].figures["lost_ever"] == 2


async def test_the_command_that_acknowledges_a_loss(
    world: World, database_url: str, redis_url: str, key_prefix: str
) -> None:
    """What it says, what `check` says after it, and that the next loss is an alarm again."""
    settings = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "KEY_PREFIX": key_prefix}
    runner = CliRunner(env={f"TAXIMETER_{name}": value for name, value in settings.items()})

    async def told(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(runner.invoke, group, ["check", *arguments])
        return result.exit_code, result.output

    note = ("acknowledge", "--note", "power cut; booked again from the gateway's log")
    await world.organization("acme", ann=1_000)
    assert await told(*note) == (
        0,
        "nothing to acknowledge: no loss is on record that was not known already\n",
    )
    await lost_events(world)
    code, said = await told()
    assert code == 1
    assert "docs/runbook.md" in " ".join(said.split())
    row = await world.pool.fetchrow("SELECT epoch, seq_first FROM taximeter.lost_events")
    known = f"shard 0 epoch {row['epoch']}: 2 lost events from {row['seq_first']} on are known now"
    assert await told(*note) == (0, f"{known}\n")
    assert (await told())[0] == 0
    assert (await told(*note))[1].startswith("nothing to acknowledge")
    assert await world.pool.fetchval("SELECT note FROM taximeter.acknowledgements") == note[2]
    await world.inject(await world.line("ann", 5, "later"), skip=1)
    await world.settle()
    assert (await told())[0] == 1
    for bad in ("", " ", "x" * 1001):
        code, said = await told("acknowledge", "--note", bad)
        assert (code, "--note: 1 to 1000 characters" in said) == (2, True), said


async def test_a_loss_is_acknowledged_while_redis_is_away(
    world: World, database_url: str, key_prefix: str
) -> None:
    await world.organization("acme", ann=1_000)
    await lost_events(world)
    nowhere = "redis://127.0.0.1:1/0"
    settings = {"DATABASE_URL": database_url, "REDIS_URL": nowhere, "KEY_PREFIX": key_prefix}
    runner = CliRunner(env={f"TAXIMETER_{name}": value for name, value in settings.items()})
    command = ["check", "acknowledge", "--note", "it is still away"]
    result = await asyncio.to_thread(runner.invoke, group, command)
    assert result.exit_code == 0, result.output
    assert "2 lost events" in result.output


CHANGES = (
    "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 7"
    " WHERE user_id = $1 AND is_active",
    "UPDATE user_credit_allocations SET is_active = false WHERE user_id = $1 AND is_active",
    "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits)"
    " VALUES ('acme', $1, 500) ON CONFLICT (org_id, user_id) WHERE is_active DO "
    "NOTHING",
    "SELECT deduct_credits('acme', $1, 3, 'llm_inference', 'x', gen_random_uuid()::text, '{}')",
)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("retention_s", [3_600.0, 0.0])
async def test_no_false_alarm_while_everything_runs(
    world: World, redis_url: str, key_prefix: str, retention_s: float
) -> None:
    """Traffic, settling, relaying, sweeping, trimming, changes by SQL and check itself, all at full
    speed.
    """
    users = {f"u{i}": 50_000 for i in range(30)}
    await world.organization("acme", **users)
    await world.organization("other", **users)
    stores, running = world.stores, True

    async def traffic(meter: Meter, seed: int) -> None:
        dice = random.Random(seed)
        while running:
            org_id, user_id = dice.choice(("acme", "other")), f"u{dice.randrange(30)}"
            amount = dice.randrange(200)
            try:
                match dice.randrange(5):
                    case 0:
                        await meter.charge(org_id, user_id, amount)
                    case 1:
                        hold = await meter.reserve(org_id, user_id, amount, ttl_s=0.05)
                        await meter.touch(org_id, user_id, hold.request_id, amount // 2, ttl_s=0.05)
                    case 2:
                        hold = await meter.reserve(org_id, user_id, amount)
                        await hold.release()
                    case _:
                        hold = await meter.reserve(org_id, user_id, amount, ttl_s=0.01)
                        await asyncio.sleep(dice.random() * 0.02)
                        await hold.commit(amount + dice.randrange(-amount, 50) if amount else 1)
            except (InsufficientCredits, RequestConflict):
                # Out of credits, or a hold so short that it ended before its heartbeat: both are
                # traffic.
                pass

    async def keep(work: Callable[[], Awaitable[object]]) -> None:
        while running:
            await work()
            await asyncio.sleep(0.002)

    async def change_by_sql() -> None:
        user_id = f"u{random.randrange(30)}"
        # Some change allocations of two organisations, in the order in which Postgres finds them:
        # what meets a settle there is undone, and the next change comes.
        with suppress(asyncpg.DeadlockDetectedError):
            await world.pool.execute(random.choice(CHANGES), user_id)
        await asyncio.sleep(0.01)

    async def trim_all() -> None:
        await trim(
            stores, 0, retention_s=retention_s, retention_max=0 if retention_s == 0 else 10**6
        )
        await asyncio.sleep(0.5 if retention_s == 0 else 0.01)

    loader = account_loader(world.pool)
    async with (
        await Meter.connect(redis_url, key_prefix=key_prefix, loader=loader) as meter,
        asyncio.TaskGroup() as tasks,
    ):
        for seed in range(8):
            tasks.create_task(traffic(meter, seed))
        tasks.create_task(keep(lambda: settle_once(stores, 0, batch_events=100)))
        tasks.create_task(keep(lambda: relay(stores)))
        tasks.create_task(keep(lambda: sweep(stores, 0, 1)))
        tasks.create_task(keep(change_by_sql))
        tasks.create_task(keep(trim_all))
        try:
            for _ in range(25):
                # The first look alone: a false difference must not need a second one to go
                # away.
                books = await reconcile(stores, ReconcileLimits(holds_limit=100_000))
                assert books.suspects == set()
            for _ in range(5):
                report = await check(stores, CheckLimits())
                wrong = {one.name: one.violations for one in report.invariants if not one.holds}
                assert not wrong, wrong
        finally:
            running = False
    assert (await guard(stores, 0, 1)).action == "nothing"
    await world.assert_books()


class TestCommand:
    def run(self, *args: str, env: dict[str, str]) -> tuple[int, str]:
        result = CliRunner().invoke(group, ["check", *args], env=env)
        return result.exit_code, result.output

    async def test_exits_0_1_and_2(
        self, world: World, database_url: str, redis_url: str, key_prefix: str
    ) -> None:
        env = {
            "TAXIMETER_DATABASE_URL": database_url,
            "TAXIMETER_REDIS_URL": redis_url,
            "TAXIMETER_KEY_PREFIX": key_prefix,
        }
        await busy_world(world)
        code, output = await asyncio.to_thread(self.run, env=env)
        assert (code, "The books are right." in output) == (0, True), output
        code, output = await asyncio.to_thread(self.run, "--json", env=env)
        assert code == 0
        report = json.loads(output)
        assert [one["name"] for one in report["invariants"]] == list(TITLES)

        await world.stores.redis.hset(world.keys().accounts, "acme/ann", "9401 500 1")
        code, output = await asyncio.to_thread(self.run, env=env)
        assert code == 1
        assert "I1 violated: acme/ann: live balance less what the books say (1)" in output

        code, output = await asyncio.to_thread(
            self.run, "--json", env=env | {"TAXIMETER_REDIS_URL": "redis://127.0.0.1:1/0"}
        )
        assert code == 2
        assert json.loads(output)["holds"] is None
        code, output = await asyncio.to_thread(
            self.run, env=env | {"TAXIMETER_DATABASE_URL": "mysql://secret@x"}
        )
        assert code == 2
        assert "TAXIMETER_DATABASE_URL" in output
        assert "secret" not in output


@pytest.mark.parametrize(
    "name", [b"no-slash", b"/ann", b"acme/", b"acme/\xff", b"\xfe/ann", b"acme/\0", b""]
)
async def test_what_is_no_account_in_redis_is_reported_and_hides_nothing(
    world: World, name: bytes
) -> None:
    await world.organization("acme", ann=1_000)
    accounts = world.keys("acme").accounts
    await world.stores.redis.hset(accounts, name, b"5 0 0")
    await world.stores.redis.hset(accounts, "acme/ann", "999 0 1")
    report = await world.check()
    (live,) = [one for one in report.invariants if one.name == "I1"]
    assert len(live.violations) == 2, live
