"""Opening, fencing and approving a shard, generations of outcomes, and the snapshot that check
relies on.
"""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from support.shard import ScriptedShard, op
from support.waiting import eventually

from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script


async def fence(shard: ScriptedShard, reason: str = "test") -> bytes:
    reply: bytes = await load_script("fence").call(shard.redis, [shard.keys.meta], [reason])
    return reply


async def every_call(shard: ScriptedShard) -> None:
    """Each script that takes an epoch refuses: one that did not would write to a closed shard."""
    for call in (
        lambda: shard.one("charge", "x", 1),
        lambda: shard.one("commit", "x", 1, script="resolve"),
        lambda: shard.apply(("org/u", 2, 5)),
        lambda: shard.load("org/new", 5),
        lambda: shard.sweep(),
        lambda: shard.rotate(),
        lambda: shard.snapshot("org/u"),
        lambda: load_script("approve").call(shard.redis, [shard.keys.meta], [shard.epoch, "run"]),
        lambda: load_script("note_postgres").call(
            shard.redis, [shard.keys.meta], [shard.epoch, "a/1 2 3"]
        ),
    ):
        before = await shard.state()
        with pytest.raises(ResponseError, match=r"^(FENCED|STALE_EPOCH)"):
            await call()
        assert await shard.state() == before


async def test_a_shard_that_was_never_opened_admits_nobody(redis: Redis) -> None:
    await every_call(ScriptedShard(redis, ShardKeys("tm", 0)))


async def test_a_fenced_shard_admits_nobody(shard: ScriptedShard) -> None:
    assert await fence(shard, "testing") == b"1"
    assert await fence(shard) == b""
    await every_call(shard)
    assert await shard.redis.hget(shard.keys.meta, "fenced_reason") == b"testing"


async def test_no_number_of_a_start_is_used_again(shard: ScriptedShard) -> None:
    """A guardian that froze, was replaced and wakes approves nothing."""
    approve, meta = load_script("approve"), shard.keys.meta
    assert await approve.call(shard.redis, [meta], [shard.epoch, "run", "rep", 7]) == 7
    before = await shard.state()
    for start in (6, 7):
        with pytest.raises(ResponseError, match=r"^RESTARTED the shard is at start 7"):
            await approve.call(shard.redis, [meta], [shard.epoch, "late", "rep", start])
    with pytest.raises(ResponseError, match=r"^MALFORMED start"):
        await approve.call(shard.redis, [meta], [shard.epoch, "late", "rep", "7.5"])
    assert await shard.state() == before
    assert await approve.call(shard.redis, [meta], [shard.epoch, "run"]) == 8


async def test_another_epoch_is_refused(shard: ScriptedShard) -> None:
    """A client that was paused over a rebuild still believes in the old epoch."""
    await shard.redis.hset(shard.keys.meta, "epoch", 2)
    await every_call(shard)


async def test_a_shard_without_seq_admits_nobody(shard: ScriptedShard) -> None:
    await shard.redis.hdel(shard.keys.meta, "seq")
    await every_call(shard)


async def test_open_starts_a_greater_epoch_with_nothing_but_the_events(
    shard: ScriptedShard,
) -> None:
    await shard.batch(op("charge", "a", 10), op("reserve", "b", 10))
    with pytest.raises(ResponseError, match="OPEN_ALREADY"):
        await shard.open(epoch=2)
    await fence(shard)
    with pytest.raises(ResponseError, match="EPOCH_USED"):
        await shard.open(epoch=1)
    await shard.open(epoch=2)
    state = await shard.state()
    assert len(state["events"]) == 1
    assert not any(state[name] for name in ("accounts", "holds", "deadlines", "outcomes"))
    await shard.load("org/u", 990)
    await shard.one("charge", "c", 1)
    assert [event[0] for event in await shard.events()] == ["1-1", "2-1"]


async def test_open_refuses_an_epoch_that_the_stream_has_seen(shard: ScriptedShard) -> None:
    await shard.one("charge", "a", 10)
    await shard.redis.delete(shard.keys.meta)
    with pytest.raises(ResponseError, match="EPOCH_USED"):
        await shard.open(epoch=1)


async def test_a_stream_that_is_ahead_of_meta_stops_the_batch_whole(shard: ScriptedShard) -> None:
    """A meta that went back in time must not hand out a seq twice: Redis itself refuses the id."""
    await shard.batch(op("charge", "a", 1), op("charge", "b", 1))
    await shard.redis.hset(shard.keys.meta, "seq", 0)
    before = await shard.state()
    with pytest.raises(ResponseError, match="equal or smaller"):
        await shard.one("charge", "c", 1)
    assert await shard.state() == before


async def test_outcomes_are_remembered_over_one_rotation_and_forgotten_after_two(
    shard: ScriptedShard,
) -> None:
    await shard.one("charge", "r", 10)

    async def rotated() -> bool:
        return await shard.rotate(window_ms=1000) == 1

    await eventually(rotated, what="the first window")
    assert await shard.rotate(window_ms=1000) == 0
    assert await shard.one("charge", "r", 10) == "2 990 0 charged 0 10"
    assert (await shard.one("commit", "r", 10)).startswith("-4 ")
    await shard.redis.hset(shard.keys.meta, "rotated_ms", 0)
    assert await shard.rotate() == 1
    assert await shard.one("charge", "r", 10) == "1 980 0", (
        "the ledger, not Redis, catches this one"
    )


@pytest.mark.parametrize(
    ("ledger", "kept"),
    [
        ("a/1 99 9", True),
        ("a/1 99 8", False),
        ("a/1 98 9", False),
        ("a/2 100 10", False),
        ("b/1 100 10", False),
        ("a/1 100 10", True),
        # As text the first is the greater one, and both are beyond what a double holds.
        ("a/1 9007199254740993000 10", True),
    ],
)
async def test_what_a_shard_knows_of_postgres_never_goes_back(
    shard: ScriptedShard, ledger: str, kept: bool
) -> None:
    async def noted(text: str) -> bytes:
        reply: bytes = await load_script("note_postgres").call(
            shard.redis, [shard.keys.meta], [shard.epoch, text]
        )
        return reply

    assert await noted("a/1 99 9") == b"OK"
    assert await noted(ledger) == (b"OK" if kept else b"BEHIND")
    known = await shard.redis.hget(shard.keys.meta, "ledger")
    assert known == (ledger if kept else "a/1 99 9").encode()


@pytest.mark.parametrize(
    ("ledger", "tokens", "kept"),
    [
        ("a/1 100 10 7 70", "70 60 50", True),
        ("a/1 100 10 8 80", "80 70 60 50", True),
        ("a/1 100 10 9 90", "90 80 71 60", False),  # Its seventh step was another one.
        ("a/1 100 10 7 71", "71 60 50", False),
        ("a/1 100 10 6 60", "60 50", False),  # It has not made it, whatever it wrote.
        ("a/1 100 10 300 99", "99 98 97", True),  # Too long ago to tell: by its figures alone.
        ("a/1 98 10 8 80", "80 70", False),
        ("a/2 100 10 8 80", "80 70", False),
        ("a/1 100 10", "", True),  # Of an older release: what is known of steps stays.
    ],
)
async def test_a_postgres_is_known_by_the_steps_that_it_has_made(
    shard: ScriptedShard, ledger: str, tokens: str, kept: bool
) -> None:
    async def noted(text: str, of_steps: str) -> bytes:
        reply: bytes = await load_script("note_postgres").call(
            shard.redis, [shard.keys.meta], [shard.epoch, text, of_steps]
        )
        return reply

    assert await noted("a/1 99 9 7 70", "70 60 50") == b"OK"
    assert await noted(ledger, tokens) == (b"OK" if kept else b"BEHIND")
    known = (await shard.redis.hget(shard.keys.meta, "ledger")).decode()
    assert known == ((ledger if tokens else f"{ledger} 7 70") if kept else "a/1 99 9 7 70")


async def test_snapshot_reads_one_cut(shard: ScriptedShard) -> None:
    await shard.load("org/v", 500)
    await shard.batch(
        op("reserve", "a", 10), op("reserve", "b", 20, user="org/v"), op("charge", "c", 5)
    )
    seq, now_ms, holds, deadlines, first, records, found, _ = await shard.snapshot(
        "org/u", "org/nobody"
    )
    assert (seq, holds, deadlines) == (b"1", 2, 2)
    assert int(first) > int(now_ms)
    assert records == [b"985 10 1", None]
    assert found == [b"org/a", b"10\torg/u\t0\t1S\t"]
    assert (await shard.snapshot("org/u", holds_limit=1))[6] is None


async def test_snapshot_of_an_empty_shard(shard: ScriptedShard) -> None:
    assert (await shard.snapshot())[2:] == [0, 0, b"-1", [], [], []]
