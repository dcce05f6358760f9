"""What a hold has reported is charged when its gateway dies, through every reopening of a shard
that lost nothing; and nothing is ever charged for a hold that may have ended before a loss.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from redis.exceptions import ResponseError
from settler_world import World, eventually
from support.aof import command_ends, copy_cut, incremental_file
from support.proxy import Proxy

from taximeter.api.embedded.machine import LOOPBACK
from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import Meter, MeterSettings, OutcomeUnknown
from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.keys import shard_of
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.postgres_position import Ledger
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import Mark
from taximeter.settler.moves.moves import undo_left
from taximeter.settler.shards.drain import rebuild_on_demand
from taximeter.settler.shards.guardian import guard
from taximeter.settler.shards.reshard import reshard
from taximeter.settler.shards.shard_view import view_shard
from taximeter.settler.shards.verdict import ShardView, is_whole
from taximeter.settler.worker.sweep import Swept, sweep

ALWAYS = ("--appendfsync", "always")


async def end_at_deadline(world: World, *requests: str, org_id: str = "acme") -> Swept:
    for request in requests:
        await world.overdue(request, org_id)
    shard = shard_of(org_id, world.shards)
    return await sweep(world.stores, shard, (await world.mark(shard))["epoch"])


async def streamed(world: World) -> list[tuple[str, str, int]]:
    """(kind, request, amount) of every event that Redis has."""
    found = []
    for _, fields in await world.stores.redis.xrange(world.keys().events):
        for line in fields[b"v1"].decode().split("\n"):
            kind, _, request, amount, *_ = line.split("\t")
            found.append((kind, request.partition("/")[2], int(amount)))
    return found


@pytest.mark.parametrize("end", [("release", 0), ("commit", 10)], ids=["release", "commit"])
async def test_a_lost_tail_never_charges_more_than_the_hold_was_ended_with(
    tmp_path: Path, pool: asyncpg.Pool, key_prefix: str, end: tuple[str, int]
) -> None:
    """The end of a hold was answered, then Redis lost it at any command of the hold's life: the
    hold is back, with its heartbeat, and nobody will touch it again.
    """
    with EmbeddedValkey(tmp_path / "recorded", ALWAYS) as server:
        async with redis_asyncio.Redis.from_url(server.url) as redis:
            world = World(Stores(pool, redis, key_prefix))
            await world.start()
            await world.organization(ann=1_000)
            before = incremental_file(server.data_dir).stat().st_size
            await world.operate("acme", ("reserve", "ann", "r", 100))
            await world.operate("acme", ("touch", "ann", "r", 40))
            await world.operate("acme", (end[0], "ann", "r", end[1]))
            run_id = (await world.mark())["run_id"]
        server.kill()
        ends = command_ends(incremental_file(server.data_dir).read_bytes())
    uncharged = 0
    for cut in [one for one in ends if one >= before]:
        folder = tmp_path / f"cut-{cut}"
        copy_cut(tmp_path / "recorded", folder, cut)
        await pool.execute("UPDATE taximeter.watermarks SET run_id = $1", run_id)
        with EmbeddedValkey(folder, ALWAYS) as server:
            async with redis_asyncio.Redis.from_url(server.url) as redis:
                world = World(Stores(pool, redis, key_prefix))
                assert (await guard(world.stores, 0, 1)).action == "approved"
                swept = await end_at_deadline(world, "r")
                uncharged += swept.uncharged
                told = [("commit", "r", 10)] if end[0] == "commit" else []
                assert await streamed(world) in ([], told), cut
                available, held, _ = await world.live("ann") or (0, 0, 0)
                assert (available + sum(one[2] for one in await streamed(world)), held) == (
                    1_000,
                    0,
                )
        shutil.rmtree(folder)
    assert uncharged >= 40, "no cut brought the touched hold back: this shows nothing"


async def test_a_heartbeat_on_its_way_vouches_for_nothing_after_a_restart(
    pool: asyncpg.Pool, key_prefix: str, valkey_server: Callable[..., Any]
) -> None:
    """A heartbeat is held up, the hold released elsewhere, and the release lost with the server:
    the client does not send the heartbeat again, and the hold that is back charges nothing.
    """
    server = valkey_server(*ALWAYS)
    async with Proxy(server.url) as proxy:

        async def release_and_lose_it() -> None:
            size = incremental_file(server.data_dir).stat().st_size
            async with redis_asyncio.Redis.from_url(server.url) as redis:
                world = World(Stores(pool, redis, key_prefix))
                assert await world.operate("acme", ("release", "ann", "r", 0)) == ["1 1000 0"]
            server.kill()
            os.truncate(incremental_file(server.data_dir), size)
            server.start()
            async with redis_asyncio.Redis.from_url(server.url) as redis:
                assert (await guard(Stores(pool, redis, key_prefix), 0, 1)).action == "approved"

        async def meanwhile() -> None:
            # The client hears at once that the server is gone, and tries again all the while.
            done.append(asyncio.create_task(release_and_lose_it()))
            await asyncio.shield(done[0])

        done: list[asyncio.Task[None]] = []
        async with redis_asyncio.Redis.from_url(server.url) as redis:
            world = World(Stores(pool, redis, key_prefix))
            await world.start()
            await world.organization(ann=1_000)
            await world.operate("acme", ("reserve", "ann", "r", 100))
        proxy.withhold_request(b"touch", then=meanwhile)
        settings = MeterSettings(
            key_prefix=key_prefix, take_timeout_s=60.0, resolve_timeout_s=60.0, call_timeout_s=60.0
        )
        meter = await Meter.connect(proxy.url, loader=account_loader(pool), settings=settings)
        try:
            with pytest.raises(OutcomeUnknown, match="began anew"):
                await meter.touch("acme", "ann", "r", 40)
        finally:
            await meter.aclose()
        await done[0]
        async with redis_asyncio.Redis.from_url(server.url) as redis:
            world = World(Stores(pool, redis, key_prefix))
            assert (await end_at_deadline(world, "r")).ended == 1
            assert await streamed(world) == []
            assert await world.live("ann") == (1_000, 0, 1)


async def test_a_gateway_that_lives_is_believed_after_a_restart(
    pool: asyncpg.Pool, key_prefix: str, valkey_server: Callable[..., Any]
) -> None:
    """Who touches a hold has not ended it. Of one that is silent since, the progress is counted and
    not charged.
    """
    server = valkey_server(*ALWAYS)
    async with redis_asyncio.Redis.from_url(server.url) as redis:
        world = World(Stores(pool, redis, key_prefix))
        await world.start()
        await world.organization(ann=1_000)
        for request in ("living", "silent", "bare"):
            await world.operate("acme", ("reserve", "ann", request, 100))
            await world.operate("acme", ("touch", "ann", request, 40))
    server.stop()
    server.start()
    async with redis_asyncio.Redis.from_url(server.url) as redis:
        world = World(Stores(pool, redis, key_prefix))
        assert (await guard(world.stores, 0, 1)).action == "approved"
        await world.operate("acme", ("touch", "ann", "living", 55), ("touch", "ann", "bare", 0))
        swept = await end_at_deadline(world, "living", "silent", "bare")
        assert swept == Swept(ended=3, events=2, uncharged_holds=1, uncharged=40)
        await world.assert_books()
        assert await world.used("ann") == 55 + 40
        meta = (await view_shard(world.stores, 0)).meta
        assert (meta["uncharged_holds"], meta["uncharged_amount"]) == ("1", "40")
        report = await world.check()
        (holds,) = [one for one in report.invariants if one.name == "I6"]
        assert holds.figures["uncharged_holds"] == 1
        assert holds.figures["uncharged"] == 40


async def test_a_server_that_was_a_replica_in_between_counts_as_started(
    pool: asyncpg.Pool, key_prefix: str, valkey_server: Callable[..., Any]
) -> None:
    """Its run id stays, and its data may be another's: what was released in between is back."""
    primary, other = (valkey_server("--repl-diskless-sync-delay", "0") for _ in range(2))
    async with (
        redis_asyncio.Redis.from_url(primary.url) as redis,
        redis_asyncio.Redis.from_url(other.url) as stale,
    ):
        world = World(Stores(pool, redis, key_prefix))
        await world.start()
        await world.organization(ann=1_000)
        await stale.execute_command("REPLICAOF", LOOPBACK, primary.port)
        await world.operate("acme", ("reserve", "ann", "r", 100))
        await world.operate("acme", ("touch", "ann", "r", 40))

        async def in_step() -> bool:
            return bool(await stale.hget(world.keys().holds, "acme/r")) and b"\t40\t" in (
                await stale.hget(world.keys().holds, "acme/r")
            )

        await eventually(in_step)
        await stale.execute_command("REPLICAOF", "NO", "ONE")
        # Its first replica changed its history, and not what it has: the same start.
        assert (await guard(world.stores, 0, 1)).action == "nothing"
        assert (await view_shard(world.stores, 0)).start == 1
        assert (await view_shard(world.stores, 0)).replid != (
            await view_shard(world.stores, 0)
        ).meta["replid"]
        await sweep(world.stores, 0, 1)
        await world.operate("acme", ("release", "ann", "r", 0))
        await redis.execute_command("REPLICAOF", LOOPBACK, other.port)

        async def is_back() -> bool:
            seen = await redis.info("replication")
            return seen["master_link_status"] == "up" and bool(
                await redis.hexists(world.keys().holds, "acme/r")
            )

        await eventually(is_back)
        await redis.execute_command("REPLICAOF", "NO", "ONE")
        # A settler that froze after its look, and wakes, ends none of what is back.
        await world.overdue("r")
        with pytest.raises(ResponseError, match="FENCED the server has not been approved"):
            await sweep(world.stores, 0, 1)
        guarded = await guard(world.stores, 0, 1)
        assert guarded.action == "approved"
        seen = await view_shard(world.stores, 0)
        assert seen.start > 1
        assert (await guard(world.stores, 0, 1)).action == "nothing"
        swept = await end_at_deadline(world, "r")
        assert (swept.events, swept.uncharged) == (0, 40)
        await world.assert_books()
        assert await world.used("ann") == 0


@pytest.mark.parametrize("server", ["this one", None, "an earlier one"])
async def test_postgres_put_back_keeps_what_holds_have_reported(
    world: World, server: str | None
) -> None:
    """Redis is whole: a gateway that dies now owes its last heartbeat all the same, whichever
    server the copy of Postgres knows.
    """
    await world.organization(ann=1_000)
    await world.charge("ann", 5)
    assert (await guard(world.stores, 0, 1)).action == "nothing"
    await world.operate("acme", ("reserve", "ann", "r", 100), ("reserve", "ann", "s", 50))
    await world.operate("acme", ("touch", "ann", "r", 40))
    seen = (await view_shard(world.stores, 0)).ledger
    assert seen is not None
    ahead = Ledger(seen.history, seen.position + 10**12, 0)
    await world.stores.redis.hset(world.keys().meta, "ledger", str(ahead))
    if server != "this one":
        await world.pool.execute("UPDATE taximeter.watermarks SET run_id = $1", server)
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.holds, guarded.holds_dropped) == ("rebuilt", 2, 0)
    assert await world.live("ann") == (1_000 - 5 - 150, 150, 1)
    swept = await end_at_deadline(world, "r")
    assert (swept.events, swept.uncharged) == (1, 0)
    assert (await world.operate("acme", ("commit", "ann", "s", 7)))[0].startswith("1 ")
    await world.assert_books()
    assert await world.used("ann") == 5 + 40 + 7


async def test_a_rebuild_after_a_loss_keeps_holds_and_charges_none_of_their_reports(
    world: World,
) -> None:
    await world.organization(ann=1_000)
    await world.charge("ann", 5)
    await world.operate("acme", ("reserve", "ann", "r", 100), ("reserve", "ann", "s", 50))
    await world.operate("acme", ("touch", "ann", "r", 40), ("touch", "ann", "s", 20))
    # As an older copy of itself: Postgres has settled what it lacks.
    await world.settle()
    await world.pool.execute("UPDATE taximeter.watermarks SET seq = 2, settled_events = 2")
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.holds) == ("rebuilt", 2)
    await world.operate("acme", ("touch", "ann", "s", 21))
    swept = await end_at_deadline(world, "r", "s")
    assert (swept.ended, swept.events, swept.uncharged) == (2, 1, 40)
    await world.assert_books()
    assert await world.used("ann") == 5 + 21


async def test_a_doubt_survives_a_guardian_that_dies_in_the_middle(world: World) -> None:
    """Who closed the shard wrote down that it had lost something; the next one cannot see it."""
    await world.organization(ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r", 100))
    await world.operate("acme", ("touch", "ann", "r", 40))
    await world.stores.redis.hset(
        world.keys().meta,
        mapping={"epoch": "fenced", "fenced_epoch": "1", "fenced_reason": "x", "fenced_whole": 0},
    )
    assert (await guard(world.stores, 0, 1)).action == "rebuilt"
    assert (await end_at_deadline(world, "r")).uncharged == 40


async def test_holds_that_nobody_can_go_on_with_are_counted(world: World) -> None:
    await world.organization(ann=1_000)
    keys = world.keys()
    await world.stores.redis.hset(keys.holds, "acme/x", "damaged")
    await world.stores.redis.hset(keys.holds, "acme/y", "5\tacme/nobody\t0\t1Sx\t")
    await world.operate("acme", ("reserve", "ann", "r", 100))
    done = await rebuild_on_demand(world.stores, 0, reason="t", wait_s=0, force=True)
    assert (done.holds_kept, done.holds_dropped) == (1, 2)
    assert await world.stores.redis.hkeys(keys.holds) == [b"acme/r"]
    await world.assert_books()


@pytest.mark.parametrize("kind", ["holds", "deadlines"])
async def test_keys_of_another_type_are_replaced(world: World, kind: str) -> None:
    await world.organization(ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r", 100))
    key = getattr(world.keys(), kind)
    await world.stores.redis.delete(key)
    await world.stores.redis.set(key, "damaged")
    await world.stores.redis.hset(world.keys().meta, "epoch", "damaged")
    assert (await guard(world.stores, 0, 1)).action == "rebuilt"
    if kind == "deadlines":
        assert (await end_at_deadline(world)).ended == 1, "a hold without a deadline is due"
    await world.assert_books()


async def test_reshard_keeps_holds_reports_and_outcomes(
    world: World, redis_url: str, key_prefix: str
) -> None:
    orgs = [f"org{number}" for number in range(6)]
    for org in orgs:
        await world.organization(org, ann=1_000)
        await world.operate(org, ("reserve", "ann", "left", 100), ("reserve", "ann", "go", 50))
        await world.operate(org, ("touch", "ann", "left", 40), ("charge", "ann", "c", 3))
    # A heartbeat of an earlier start counts as little behind a reshard as before it.
    old = HoldRecord(10, "org0/ann", 9, 0, "x", "Key7", "")
    await world.operate("org0", ("reserve", "ann", "old", 10))
    await world.stores.redis.hset(world.keys("org0").holds, "org0/old", old.text())
    for wanted in (3, 5, 2):
        await reshard(world.stores, wanted, wait_s=0, force=True)
        world.shards = wanted
        for org in orgs:
            assert await world.stores.redis.hlen(world.keys(org).holds) == sum(
                2 + (other == "org0")
                for other in orgs
                if shard_of(other, wanted) == shard_of(org, wanted)
            )
    async with await Meter.connect(
        redis_url, key_prefix=key_prefix, loader=account_loader(world.pool)
    ) as meter:
        for org in orgs:
            assert (await meter.charge(org, "ann", 3, request_id="c")).replayed
            receipt = await meter.commit(org, "ann", "go", 20)
            assert not receipt.late
            swept = await end_at_deadline(world, "left", org_id=org)
            assert (swept.ended, swept.events, swept.uncharged) == (1, 1, 0)
    kept = HoldRecord.parse(await world.stores.redis.hget(world.keys("org0").holds, "org0/old"))
    assert kept._replace(start=0) == old
    swept = await end_at_deadline(world, "old", org_id="org0")
    assert (swept.events, swept.uncharged) == (0, 9)
    await world.assert_books()
    for org in orgs:
        assert await world.used("ann", org) == 3 + 20 + 40


async def test_a_move_that_is_booked_does_not_keep_its_hold(world: World) -> None:
    """The entry that would end it is in the balance that a rebuild loads, and is not applied."""
    await world.organization(ann=1_000)
    await world.operate("acme", ("reserve", "ann", "move/1", 300), ("reserve", "ann", "r", 10))
    async with world.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT set_config('taximeter.entry_hold', 'acme/move/1', true)")
        await conn.execute("UPDATE user_credit_allocations SET allocated_credits = 700")
    done = await rebuild_on_demand(world.stores, 0, reason="t", wait_s=0, force=True)
    assert (done.holds_kept, done.holds_dropped) == (1, 0)
    assert await world.live("ann") == (690, 10, 2)
    assert await undo_left(world.stores, grace_s=0) == 0
    await world.assert_books()


async def test_a_move_that_postgres_does_not_know_does_not_keep_its_hold(world: World) -> None:
    """Postgres was put back to a copy from before it: nobody would end the hold for an hour."""
    await world.organization(ann=1_000)
    begun = await world.pool.fetchval(
        "INSERT INTO taximeter.moves (org_id, kind, from_user, to_user, amount, actor)"
        " VALUES ('acme', 'deallocation', 'ann', NULL, 200, 'boss') RETURNING id"
    )
    await world.operate(
        "acme",
        ("reserve", "ann", f"move/{begun}", 200),
        ("reserve", "ann", f"move/{uuid4()}", 300),
        ("reserve", "ann", "r", 10),
    )
    done = await rebuild_on_demand(world.stores, 0, reason="t", wait_s=0, force=True)
    assert (done.holds_kept, done.holds_dropped) == (2, 0)
    assert await world.live("ann") == (790, 210, 1)
    assert await undo_left(world.stores, grace_s=0) == 1
    assert await world.live("ann") == (990, 10, 1)
    await world.assert_books()


def test_what_tells_that_nothing_was_lost() -> None:
    meta = {"epoch": "3", "seq": "10", "run_id": "r", "replid": "h", "start": "4"}
    meta["ledger"] = "1/1 500 8"
    fenced = {"epoch": "fenced", "fenced_epoch": "3"}
    mark = Mark(0, 3, 8, "r")
    for changed, mark_now, last_id, whole in (
        ({}, mark, (3, 10), True),
        ({}, Mark(0, 2, 99, "r"), (3, 10), True),  # Postgres went back.
        ({}, Mark(0, 3, 11, "r"), (3, 10), False),
        ({}, Mark(0, 4, 0, "r"), (3, 10), False),
        ({}, Mark(0, 3, 8, "s"), (3, 10), False),
        ({}, Mark(0, 3, 8, "s", ledger=Ledger("1/1", 600, 8)), (3, 10), False),
        ({}, Mark(0, 3, 8, "s", ledger=Ledger("1/1", 400, 8)), (3, 10), True),
        ({}, Mark(0, 1, 0, None, ledger=Ledger("1/1", 400, 0)), (3, 10), True),
        ({}, Mark(0, 1, 0, None, ledger=Ledger("2/1", 600, 0)), (3, 10), True),
        ({}, mark, (3, 9), False),
        ({}, mark, None, False),
        ({"run_id": "s"}, mark, (3, 10), False),
        ({"replid": "g"}, mark, (3, 10), False),
        ({"replid": ""}, mark, (3, 10), True),
        ({"seq": "x"}, mark, (3, 10), False),
        ({"seq": "0"}, Mark(0, 3, 0, "r"), (2, 5), True),
        ({"seq": "0"}, Mark(0, 3, 0, "r"), (3, 5), False),
        (fenced, mark, (3, 10), False),
        (fenced | {"fenced_whole": "0"}, mark, (3, 10), False),
        (fenced | {"fenced_whole": "1"}, mark, (3, 10), True),
        (fenced | {"fenced_whole": "1", "run_id": "s"}, mark, (3, 10), False),
        (fenced | {"fenced_whole": "1", "replid": "g"}, mark, (3, 10), False),
    ):
        seen = ShardView("r", meta | changed, last_id, "h")
        assert is_whole(mark_now, seen) is whole, (changed, mark_now, last_id)
    began = ShardView("r", meta | {"replid": "g"}, (3, 10), "h", began_history=True)
    assert is_whole(mark, began), "its first replica came"
