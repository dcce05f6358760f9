"""A server whose data goes on differently from what Postgres has settled is never trusted, though
its epoch and its numbers fit: the run id in its data names whom Postgres has let in last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from settler_world import World, eventually

from taximeter.api.embedded.machine import LOOPBACK
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.fingerprint import StreamChanged
from taximeter.settler.books.postgres_position import Ledger
from taximeter.settler.books.shard_reads import read_uncharged
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import Mark, read_mark
from taximeter.settler.settling.settle import settle_once
from taximeter.settler.settling.trim import trim
from taximeter.settler.shards.guardian import Guarded, guard
from taximeter.settler.shards.shard_view import view_shard
from taximeter.settler.shards.verdict import (
    Action,
    ShardView,
    is_of_another_history,
    judge,
)
from taximeter.settler.worker.sweep import sweep

Server = Any
ALLOCATED = 10_000


@pytest.mark.parametrize(
    ("server", "data", "approved", "action"),
    [
        ("a", "a", "a", Action.NOTHING),
        ("b", "a", "a", Action.APPROVE),  # Restarted, or a replica that follows the approved one.
        ("b", "a", "b", Action.APPROVE),  # A guardian died between Postgres and Redis.
        ("b", "a", "c", Action.REBUILD),  # A replica of a life before the approved one.
        ("a", "a", "c", Action.REBUILD),  # An old primary that comes back after a failover.
        ("b", "", "a", Action.REBUILD),
    ],
)
def test_data_continues_what_was_approved_or_is_not_trusted(
    server: str, data: str, approved: str, action: Action
) -> None:
    meta = {"epoch": "3", "seq": "10", "shards": "1", "format": "1", "run_id": data}
    assert judge(Mark(0, 3, 8, approved), ShardView(server, meta, (3, 10)), 1).action is action


@pytest.mark.parametrize(
    ("approved", "ledger", "another"),
    [
        ("b", "h 100 1", False),
        ("a", "h 100 1", False),
        ("c", "h 100 1", True),
        # A Postgres that was put back does not know whom it has approved since.
        ("c", "h 900 9", False),
    ],
)
def test_a_server_that_was_passed_over_is_of_another_history(
    approved: str, ledger: str, another: bool
) -> None:
    meta = {"epoch": "3", "seq": "10", "run_id": "a", "ledger": ledger}
    mark = Mark(0, 3, 8, approved, ledger=Ledger("h", 200, 8))
    assert is_of_another_history(mark, ShardView("b", meta, (3, 10))) is another


class Pair:
    """A primary and its replica, each with a world on the same Postgres."""

    def __init__(self, servers: list[Server], worlds: list[World]) -> None:
        self.servers, self.worlds = servers, worlds

    async def in_step(self) -> None:
        primary, replica = (world.stores.redis for world in self.worlds)

        async def is_in_step() -> bool:
            ours, theirs = await primary.info("replication"), await replica.info("replication")
            return bool(
                theirs["master_link_status"] == "up"
                and theirs["master_replid"] == ours["master_replid"]
                and theirs["slave_repl_offset"] == ours["master_repl_offset"]
            )

        await eventually(is_in_step)

    async def split(self) -> None:
        """From now on each goes its own way."""
        await self.in_step()
        await self.worlds[1].stores.redis.execute_command("REPLICAOF", "NO", "ONE")


@pytest.fixture
async def pair(
    pool: asyncpg.Pool, key_prefix: str, valkey_server: Callable[..., Server]
) -> AsyncIterator[Pair]:
    servers = [valkey_server("--repl-diskless-sync-delay", "0") for _ in range(2)]
    async with AsyncExitStack() as stack:
        worlds = []
        for server in servers:
            redis = await stack.enter_async_context(redis_asyncio.Redis.from_url(server.url))
            worlds.append(World(Stores(pool, redis, key_prefix)))
        await worlds[0].start()
        await worlds[0].organization("acme", ann=ALLOCATED)
        await worlds[1].stores.redis.execute_command("REPLICAOF", LOOPBACK, str(servers[0].port))
        yield Pair(servers, worlds)


async def test_a_stale_replica_with_a_longer_history_is_rebuilt(pair: Pair) -> None:
    """The primary came back without its last writes, was approved, and went on. Then the replica
    that still has those writes is promoted: its numbers fit, and its balance lacks what is settled.
    """
    primary, replica = pair.worlds
    redis, keys = primary.stores.redis, primary.keys()
    await primary.charge("ann", 100)
    kept = {key: await redis.dump(key) for key in keys.batch()}
    for number in range(9):
        await primary.charge("ann", 10, f"lost-{number}")
    await pair.split()
    await redis.delete(*kept)
    for key, value in kept.items():
        if value is not None:
            await redis.restore(key, 0, value)
    pair.servers[0].stop()
    pair.servers[0].start()
    assert (await guard(primary.stores, 0, 1)).action == "approved"
    for _ in range(3):
        await primary.charge("ann", 1_000)
    await primary.settle()

    seen = await view_shard(replica.stores, 0)
    assert (seen.epoch, seen.seq, seen.last_id) == (1, 10, (1, 10)), "it looks whole"
    guarded = await guard(replica.stores, 0, 1)
    assert (guarded.action, guarded.epoch) == ("rebuilt", 3)
    assert "went back in time and on" in guarded.reason
    # What was settled is not spent again; what only the replica had is booked.
    assert await replica.used("ann") == 100 + 3_000 + 9 * 10
    await replica.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
    )
    await replica.relay()
    assert await replica.live("ann") is not None
    await replica.assert_books()
    assert (await guard(replica.stores, 0, 1)).action == "nothing"


async def test_an_old_primary_that_comes_back_after_a_failover_is_rebuilt(pair: Pair) -> None:
    """It never stopped, so its own data approves it; Postgres has approved the other one since."""
    old, new = pair.worlds
    await old.charge("ann", 100)
    await pair.split()
    assert (await guard(new.stores, 0, 1)).action == "approved"
    await new.charge("ann", 1_000)
    await new.settle()
    for _ in range(4):
        await old.charge("ann", 10)
    seen = await view_shard(old.stores, 0)
    assert seen.meta["run_id"] == seen.run_id, "its data says that it is approved"
    guarded = await guard(old.stores, 0, 1)
    assert (guarded.action, guarded.epoch) == ("rebuilt", 3)
    assert await old.used("ann") == 100 + 1_000 + 4 * 10
    await old.assert_books()


async def test_a_server_that_lost_what_is_settled_and_went_on_is_found_out(pair: Pair) -> None:
    """Made a replica of a stale server and promoted again within one life of its process: run id,
    epoch and numbers fit. The entry that Postgres has settled last is not the one that is there.
    """
    own = pair.worlds[0]
    redis = own.stores.redis
    for number in range(20):
        await own.charge("ann", 10, f"before-{number}")
    await own.settle()
    await pair.split()
    for number in range(50):
        await own.charge("ann", 10, f"settled-{number}")
    await own.settle()
    await redis.execute_command("REPLICAOF", LOOPBACK, str(pair.servers[1].port))

    async def is_stale() -> bool:
        info = await redis.info("replication")
        lost = await redis.hget(own.keys().meta, "seq") == b"20"
        return bool(info["master_link_status"] == "up" and lost)

    await eventually(is_stale)
    await redis.execute_command("REPLICAOF", "NO", "ONE")
    await own.operate("acme", ("reserve", "ann", "held", 100))
    await own.operate("acme", ("touch", "ann", "held", 40))
    for number in range(60):
        await own.charge("ann", 10, f"after-{number}")
    mark, seen = await read_mark(own.pool, 0), await view_shard(own.stores, 0)
    assert (mark.run_id, mark.seq) == (seen.run_id, 70)
    assert (seen.meta["run_id"], seen.seq) == (seen.run_id, 80), "it looks whole"

    with pytest.raises(StreamChanged, match="another entry under 1-70"):
        await settle_once(own.stores, 0)
    guarded = await guard(own.stores, 0, 1)
    assert (guarded.action, guarded.displaced, guarded.lost) == ("rebuilt", 60, 0)
    assert "1-70" in guarded.reason
    # All that anybody was answered is booked, once.
    assert await own.used("ann") == (20 + 50 + 60) * 10
    assert await own.live("ann") == (ALLOCATED - 1_300 - 100, 100, 1)
    await own.overdue("held")
    assert (await sweep(own.stores, 0, guarded.epoch)).uncharged == 40
    await own.assert_books()
    assert (await guard(own.stores, 0, 1)).action == "nothing"
    await own.charge("ann", 10)
    await own.assert_books()


async def test_an_entry_that_is_gone_is_found_out_too(world: World) -> None:
    """Another server counts its entries otherwise: under the number of the last one is nothing."""
    await world.organization("acme", ann=1_000)
    for number in range(3):
        await world.charge("ann", 10, f"r{number}")
    await world.settle()
    keys, redis = world.keys(), world.stores.redis
    await redis.delete(keys.events)
    line = await world.line("ann", 5, "of-the-other")
    await redis.hset(keys.meta, "seq", 1)
    await world.inject(b"garbage", await world.line("ann", 6, "two"), line)
    assert (await view_shard(world.stores, 0)).seq == 4
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.displaced) == ("rebuilt", 3)
    assert "it has nothing" in guarded.reason
    (letter,) = await world.dead_letters()
    assert letter["raw"] == b"garbage"
    assert await world.used("ann") == 30 + 11
    await world.assert_books(but="I4 I5")


async def test_what_was_set_aside_is_not_set_aside_again(world: World) -> None:
    await world.organization("acme", ann=1_000)
    await world.inject(b"garbage", await world.line("ann", 5, "good"))
    await world.settle()
    await world.pool.execute(
        "UPDATE taximeter.watermarks SET settled_entry = '1-2 of another history'"
    )
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.displaced) == ("rebuilt", 0)
    assert len(await world.dead_letters()) == 1
    assert await world.used("ann") == 5


async def test_the_entry_at_the_watermark_is_never_trimmed(world: World) -> None:
    await world.organization("acme", ann=100_000)
    for _ in range(300):
        await world.charge("ann", 1)
    await world.settle()
    await trim(world.stores, 0, retention_s=0, retention_max=1)
    assert await world.stores.redis.xrange(world.keys().events, "1-300", "1-300")
    assert (await guard(world.stores, 0, 1)).action == "nothing"
    await world.assert_books()


async def test_an_older_release_that_settled_last_leaves_no_doubt(world: World) -> None:
    await world.organization("acme", ann=1_000)
    await world.charge("ann", 1)
    await world.settle()
    before = (await world.mark())["settled_entry"]
    await world.charge("ann", 1)
    await world.settle()
    await world.pool.execute("UPDATE taximeter.watermarks SET settled_entry = $1", before)
    assert (await guard(world.stores, 0, 1)).action == "nothing"
    await world.charge("ann", 1)
    await world.assert_books()


async def test_what_a_client_was_told_of_and_the_server_lacks_is_rebuilt(world: World) -> None:
    """Nothing of it reached Postgres, so that only the client can know."""
    await world.organization("acme", ann=1_000)
    await world.operate("acme", ("reserve", "ann", "r", 100), ("touch", "ann", "r", 40))
    epoch, writes = await world.stores.redis.hmget(world.keys().meta, "epoch", "writes")
    told = int(writes) + 3
    await load_script("report").call(
        world.stores.redis, [world.keys().meta], [int(epoch), told, int(writes)]
    )
    guarded = await guard(world.stores, 0, 1)
    assert (guarded.action, guarded.holds) == ("rebuilt", 1)
    assert "lost 3 calls" in guarded.reason
    await world.overdue("r")
    assert (await sweep(world.stores, 0, guarded.epoch)).uncharged == 40
    assert (await guard(world.stores, 0, 1)).action == "nothing"
    await world.assert_books()


class TwoEnds:
    """Holds of 100, each of which ends twice: as its first steps say, which is settled, and then,
    on a server that has gone back to before that, as its second steps say. Steps are `touch 37`,
    `commit 56` or `expire`.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    async def make(self, *cases: tuple[str, str]) -> None:
        redis, keys = self.world.stores.redis, self.world.keys()
        await self.world.organization("acme", ann=10_000)
        for number in range(len(cases)):
            await self.world.operate("acme", ("reserve", "ann", f"r{number}", 100))
        kept = {key: await redis.dump(key) for key in keys.batch()}
        for number, (first, _) in enumerate(cases):
            await self.take(number, first)
        await self.world.settle()
        await redis.delete(*kept)
        for key, value in kept.items():
            if value is not None:
                await redis.restore(key, 0, value)
        for number, (_, second) in enumerate(cases):
            await self.take(number, second)

    async def take(self, number: int, steps: str) -> list[str]:
        """Take the steps of one hold; returns what was answered."""
        replies = []
        for step in filter(None, steps.split(", ")):
            op, _, amount = step.partition(" ")
            if op == "expire":
                await self.world.overdue(f"r{number}")
                epoch = (await self.world.mark())["epoch"]
                assert (await sweep(self.world.stores, 0, epoch)).ended == 1
            else:
                replies += await self.world.operate("acme", (op, "ann", f"r{number}", int(amount)))
        return replies

    async def go_on(self) -> Guarded:
        """The guardian comes. However many numbers it gave, the server is of another history."""
        other = "UPDATE taximeter.watermarks SET settled_entry = epoch || '-' || seq || ' another'"
        await self.world.pool.execute(other)
        guarded = await guard(self.world.stores, 0, 1)
        assert guarded.action == "rebuilt"
        return guarded

    async def other_server(self) -> Guarded:
        """The same on a server whose data does not go back to the approved one: nobody settles
        what it has before the guardian has come.
        """
        await self.world.pool.execute("UPDATE taximeter.watermarks SET run_id = 'another'")
        with pytest.raises(StreamChanged, match="before the approved one"):
            await settle_once(self.world.stores, 0)
        guarded = await guard(self.world.stores, 0, 1)
        assert (guarded.action, "before the approved one" in guarded.reason) == ("rebuilt", True)
        return guarded

    async def charged(self, number: int) -> list[int]:
        """What the ledger has charged for the request of one, by phase."""
        rows = await self.world.pool.fetch(
            "SELECT amount FROM taximeter.charged_requests WHERE request_id = $1 ORDER BY phase",
            f"r{number}",
        )
        return [row["amount"] for row in rows]


async def test_a_request_that_ended_in_two_histories_is_charged_its_commit_once(
    world: World,
) -> None:
    """What was answered before the guardian came is settled beside what the ledger has already."""
    cases = {
        # A commit was answered here, and an expiry is in the ledger: the commit is owed.
        ("touch 37, expire", "commit 56"): [37, 19],
        ("touch 37, expire", "commit 20"): [37],
        ("touch 37, expire", "commit 37"): [37],
        # Without progress it expired for nothing, there or here.
        ("expire", "commit 56"): [56],
        ("touch 37, expire", "expire, commit 56"): [37, 19],
        # Both expired, and the commit here was told what was missing to its own expiry.
        ("touch 37, expire", "touch 20, expire, commit 56"): [37, 19],
        ("touch 37, expire", "touch 20, expire, commit 30"): [37],
        ("touch 20, expire", "touch 37, expire, commit 56"): [20, 36],
        # The same commit, once in parts: never once more.
        ("commit 56", "touch 20, expire, commit 56"): [56],
        ("touch 20, expire, commit 56", "commit 56"): [20, 36],
        ("touch 20, expire, commit 56", "touch 37, expire, commit 56"): [20, 36],
        ("commit 56", "commit 56"): [56],
        # An expiry that is not in the ledger may have ended otherwise in what is lost; a commit
        # after it was answered.
        ("", "touch 37, expire"): [],
        ("", "touch 37, expire, commit 56"): [56],
        ("", "touch 37, expire, commit 20"): [],
        ("commit 0", "commit 0"): [0],
        ("", "commit 0"): [0],
    }
    ends = TwoEnds(world)
    await ends.make(*cases)
    await ends.go_on()
    await world.assert_books()
    for number, (case, charged) in enumerate(cases.items()):
        assert await ends.charged(number) == charged, case
    assert await world.used("ann") == sum(map(sum, cases.values()))
    assert await read_uncharged(world.stores, 0) == (2, 37 + 37)


async def test_an_expiry_on_a_server_that_was_passed_over_charges_nothing(world: World) -> None:
    """Its hold may have been released since, on the server that was approved after it."""
    ends = TwoEnds(world)
    await ends.make(("", "touch 37, expire"), ("", "touch 37, expire, commit 56"), ("", "commit 5"))
    guarded = await ends.other_server()
    assert (guarded.displaced, guarded.lost) == (2, 0)
    assert [await ends.charged(number) for number in range(3)] == [[], [56], [5]]
    assert await read_uncharged(world.stores, 0) == (1, 37)
    await world.assert_books()


async def test_a_commit_after_everything_is_lost_is_told_what_its_request_costs(
    world: World,
) -> None:
    """The hold has expired, its progress is in the ledger, and Redis knows of neither."""
    cases = {
        ("touch 37, expire", "commit 20"): (["3 37"], [37]),
        ("touch 37, expire", "commit 56"): (["3 56"], [37, 19]),
        ("touch 37, expire", "release 0"): (["2 expired 100 37"], [37]),
        ("touch 37, expire", "touch 40"): (["-4 expired 100 37"], [37]),
        ("touch 37, expire", "reserve 100"): (["2 expired 100 37"], [37]),
        ("touch 37, expire, commit 56", "commit 56"): (["2 committed 100 56"], [37, 19]),
        ("touch 37, expire, commit 56", "commit 20"): (["-4 committed 100 56"], [37, 19]),
    }
    ends = TwoEnds(world)
    await world.organization("acme", ann=10_000)
    for number, (first, _) in enumerate(cases):
        await world.operate("acme", ("reserve", "ann", f"r{number}", 100))
        await ends.take(number, first)
    await world.settle()
    await world.stores.redis.flushall()
    assert (await guard(world.stores, 0, 1)).action == "rebuilt"
    await world.pool.execute(
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + 1"
    )
    await world.relay()
    assert await world.live("ann") is not None
    for number, ((_, then), (replies, _)) in enumerate(cases.items()):
        code, _, _, *rest = (await ends.take(number, then))[0].split(" ")
        assert [" ".join([code, *rest])] == replies, then
    await world.assert_books()
    for number, (case, (_, charged)) in enumerate(cases.items()):
        assert await ends.charged(number) == charged, case


async def test_a_hold_that_has_ended_in_the_ledger_is_not_brought_back(world: World) -> None:
    """A server without that end takes over, with the hold: a commit that comes to it is told what
    the request costs in all, and costs that.
    """
    cases = {
        ("touch 37, expire", "commit 56"): (["3 56"], [37, 19]),
        ("touch 37, expire", "commit 20"): (["3 37"], [37]),
        ("commit 56", "commit 56"): (["2 committed 100 56"], [56]),
        ("touch 37, expire", "touch 40"): (["-4 expired 100 37"], [37]),
        ("touch 37, expire, commit 56", "commit 56"): (["2 committed 100 56"], [37, 19]),
        # What was only reported has left nothing in the ledger.
        ("touch 37", "commit 56"): (["1"], [56]),
    }
    ends = TwoEnds(world)
    await ends.make(*((first, "") for first, _ in cases))
    assert (await ends.go_on()).holds == 1
    for number, ((_, then), (replies, _)) in enumerate(cases.items()):
        code, _, _, *rest = (await ends.take(number, then))[0].split(" ")
        assert [" ".join([code, *rest])] == replies, then
    await world.assert_books()
    for number, (case, (_, charged)) in enumerate(cases.items()):
        assert await ends.charged(number) == charged, case
