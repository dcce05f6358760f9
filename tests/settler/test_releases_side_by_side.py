"""Two releases at work on one shard: scripts of another text, and events that only the newer one
can read.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from settler_world import OPERATE, PAYLOAD, World

from taximeter.meter.wire.keys import account_field
from taximeter.meter.wire.payload_codes import coded
from taximeter.meter.wire.scripts import Script, load_script
from taximeter.settler.settling.read_your_writes import CatchUp
from taximeter.settler.settling.settle import settle_once
from taximeter.settler.settling.stream import NewerEvents
from taximeter.settler.shards.admission import admit

TEXT = OPERATE.text + "\n-- Another release.\n"
OTHER = Script("operate", TEXT, hashlib.sha1(TEXT.encode(), usedforsecurity=False).hexdigest())
TIME = b"1790000000000"
BEFORE = Path(__file__).parents[1] / "support" / "release_before"
"""Scripts of the release before this one, which knows no payload with codes."""
ESTIMATE = '{"type":"llm_inference","name":"gpt-4o","meta":{"model":"gpt-4o","estimated":true}}'


def script_before(name: str) -> Script:
    text = (BEFORE / f"{name}.lua").read_text()
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


async def test_scripts_of_two_releases_share_a_shard(world: World) -> None:
    """Both are known to the server under their own digests, and each ends what the other began."""
    await world.organization("acme", ann=1_000_000)
    keys, account = world.keys(), account_field("acme", "ann")
    epoch = (await world.stores.redis.hget(keys.meta, "epoch")).decode()

    async def call(script: Script, op: str, request: str, amount: int) -> None:
        owner = "owner" if op == "reserve" else ""
        args = [epoch, op, account, f"acme/{request}", amount, 60_000, owner, PAYLOAD]
        reply, _ = await script.call(world.stores.redis, keys.batch(), args)
        assert reply.startswith(b"1 "), reply

    async def caller(number: int) -> None:
        first, second = (OTHER, OPERATE) if number % 2 else (OPERATE, OTHER)
        await call(first, "reserve", f"r{number}", 100)
        await call(second, "commit", f"r{number}", 60)
        await call(first, "charge", f"c{number}", 5)

    await asyncio.gather(*(caller(number) for number in range(50)))
    assert OTHER.sha != OPERATE.sha
    assert await world.stores.redis.script_exists(OTHER.sha, OPERATE.sha) == [True, True]
    await world.assert_books()
    assert await world.used("ann") == 50 * 65


async def test_holds_of_two_releases_end_in_either(world: World) -> None:
    """The settler is of this release, as the order of an upgrade has it, or the order was another
    one, or the release was taken back: amounts and purposes are right all the same.
    """
    await world.organization("acme", ann=1_000_000)
    keys, redis, account = world.keys(), world.stores.redis, account_field("acme", "ann")
    epoch = (await redis.hget(keys.meta, "epoch")).decode()
    ours, before = load_script("operate"), script_before("operate")

    async def call(script: Script, op: str, request: str, amount: int, payload: str = "") -> None:
        owner = "owner" if op == "reserve" else ""
        args = [epoch, op, account, f"acme/{request}", amount, 60_000, owner, payload]
        reply, _ = await script.call(redis, keys.batch(), args)
        assert reply.startswith(b"1 "), (op, request, reply)

    async def kept(request: str) -> bytes:
        return bytes((await redis.hget(keys.holds, f"acme/{request}")).split(b"\t", 4)[4])

    for number in range(4):
        await call(before, "reserve", f"old{number}", 100, ESTIMATE)
        await call(ours, "reserve", f"new{number}", 100, coded(ESTIMATE))
    assert await kept("old0") == ESTIMATE.encode()
    assert await kept("new0") == coded(ESTIMATE).encode()
    for mine, first in ((ours, "old"), (before, "new")):
        await call(mine, "touch", f"{first}0", 60)
        await call(mine, "commit", f"{first}0", 60)
        await call(mine, "release", f"{first}1", 0)
        await call(mine, "touch", f"{first}2", 60)
        await call(mine, "touch", f"{first}3", 60)
        await world.overdue(f"{first}2")
    sweep = script_before("sweep")
    assert (await sweep.call(redis, keys.sweeping(), [epoch, 10]))[:2] == [2, 2]
    for first in ("old", "new"):
        await world.overdue(f"{first}3")
    ended = await load_script("sweep").call(redis, keys.sweeping(), [epoch, 10])
    assert ended[:2] == [2, 2]
    await world.assert_books()
    assert await world.used("ann") == 6 * 60
    rows = await world.pool.fetch(
        "SELECT service_type, service_name, request_metadata FROM credit_usage_attribution"
    )
    assert [(row[0], row[1]) for row in rows] == [("llm_inference", "gpt-4o")] * 6
    assert {row["request_metadata"] for row in rows} == {'{"model": "gpt-4o", "estimated": true}'}


async def test_holds_have_no_codes_before_a_settler_of_this_release_has_come(world: World) -> None:
    await world.organization("acme", ann=1_000)
    keys, redis = world.keys(), world.stores.redis
    await redis.hdel(keys.meta, "payload_codes")
    mark = await redis.hget(keys.meta, "epoch")

    async def reserved(request: str) -> bytes:
        args = [mark, "reserve", "acme/ann", f"acme/{request}", 1, 60_000, "o", coded(ESTIMATE)]
        await load_script("operate").call(redis, keys.batch(), args)
        return bytes((await redis.hget(keys.holds, f"acme/{request}")).split(b"\t", 4)[4])

    assert await reserved("a") == ESTIMATE.encode()
    found = await world.mark()
    await admit(world.stores, 0, found["epoch"], found["seq"], 1_000, 1_000)
    assert await reserved("b") == coded(ESTIMATE).encode()


@pytest.mark.parametrize("before", [0, 3])
async def test_events_of_a_newer_release_wait_for_its_settler(world: World, before: int) -> None:
    """They are neither taken for damaged nor passed by; what came before them is settled."""
    await world.organization("acme", ann=10_000)
    for number in range(before):
        await world.charge("ann", 100, f"old{number}")
    newer = await world.line("ann", 50, "new")
    await world.stores.redis.hset(world.keys().meta, "format", "2")
    await world.inject(newer, fields={b"t": TIME, b"v2": newer})
    await world.charge("ann", 100, "after")

    if before:
        assert (await settle_once(world.stores, 0)).settled == before
    for _ in range(2):
        with pytest.raises(NewerEvents):
            await settle_once(world.stores, 0)
    assert (await world.mark())["seq"] == before
    assert await world.used("ann") == 100 * before
    assert await world.dead_letters() == []
    answer = await CatchUp(world.stores, 0.3).of_org("acme")
    assert not answer.complete

    # The newer release has come, which reads both: what this one reads stands in for that.
    keys, redis = world.keys(), world.stores.redis
    await redis.hset(keys.meta, "format", "1")
    entries = await redis.xrange(keys.events)
    await redis.delete(keys.events)
    for entry_id, fields in entries:
        line = fields.get(b"v1") or fields[b"v2"]
        await redis.xadd(keys.events, {b"t": fields[b"t"], b"v1": line}, id=entry_id)
    await world.assert_books()
    assert await world.used("ann") == 100 * before + 50 + 100


@pytest.mark.parametrize("name", [b"version", b"v2"])
async def test_an_entry_that_no_release_has_announced_is_damaged(world: World, name: bytes) -> None:
    """A newer release writes down its data format first; what is strange without that is set
    aside.
    """
    await world.organization("acme", ann=10_000)
    await world.inject(b"x", fields={b"t": TIME, name: b"2"})
    await world.charge("ann", 100)
    await world.settle()
    assert [row["reason"] for row in await world.dead_letters()] == ["unreadable_line"]
    assert await world.used("ann") == 100
