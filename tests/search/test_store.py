"""The model of Redis answers and keeps what a real server does."""

from __future__ import annotations

import random
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from search.lua import Scripts
from search.store import Store
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script

HASHES, ZSETS, STREAMS = ("h1", "h2"), ("z1",), ("s1",)
ROUNDS = 400


def commands(dice: random.Random) -> list[str]:
    name, text = dice.choice("abc"), str(dice.randrange(-3, 9))
    key = dice.choice((*HASHES, *ZSETS, *STREAMS)) if dice.random() < 0.1 else None
    of_hash, of_zset, of_stream = (key or dice.choice(kind) for kind in (HASHES, ZSETS, STREAMS))
    low, high = sorted((dice.randrange(9), dice.randrange(9)))
    return dice.choice([
        ["HSET", of_hash, name, text, dice.choice("abc"), "x"],
        ["HSETNX", of_hash, name, text],
        ["HGET", of_hash, name],
        ["HMGET", of_hash, "a", "b", "none"],
        ["HGETALL", of_hash],
        ["HLEN", of_hash],
        ["HEXISTS", of_hash, name],
        ["HDEL", of_hash, name, "none"],
        ["HINCRBY", "counts", name, text],
        ["ZADD", of_zset, text, name, "4", dice.choice("abc")],
        ["ZREM", of_zset, name, "none"],
        ["ZCARD", of_zset],
        ["ZSCORE", of_zset, name],
        ["ZCOUNT", of_zset, "-inf", text],
        ["ZRANGEBYSCORE", of_zset, "-inf", text, "LIMIT", "0", "2"],
        ["ZRANGE", of_zset, "0", "0", "WITHSCORES"],
        ["ZRANGE", of_zset, "0", "-1"],
        ["XADD", of_stream, f"{dice.randrange(1, 4)}-{dice.randrange(1, 9)}", "t", "1", "v1", text],
        ["XLEN", of_stream],
        ["XREVRANGE", of_stream, "+", "-", "COUNT", "1"],
        ["XRANGE", of_stream, f"(1-{low}", f"2-{high}"],
        ["XRANGE", of_stream, "-", "+"],
        ["EXISTS", of_hash],
        ["UNLINK", *([of_hash] if dice.random() < 0.5 else [of_zset, of_stream])],
        ["RENAME", "h1", "h2"],
    ])  # fmt: skip


def plain(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, dict):
        return [plain(one) for pair in reply.items() for one in pair]
    if isinstance(reply, list | tuple):
        return [plain(one) for one in reply]
    return reply


async def ask(redis: Redis, *command: str) -> Any:
    """The reply as the protocol has it, without what the library makes of it."""
    connection = await redis.connection_pool.get_connection()
    try:
        await connection.send_command(*command)
        return plain(await connection.read_response())
    except ResponseError as error:
        return str(error).split(" ")[:2]
    finally:
        await redis.connection_pool.release(connection)


@pytest.mark.parametrize("seed", range(3))
async def test_commands_do_what_they_do_on_a_server(redis: Redis, seed: int) -> None:
    dice, store = random.Random(seed), Store()
    for _ in range(ROUNDS):
        command = commands(dice)
        before = store.copy()
        try:
            modelled = store.call(*command)
        except ResponseError as error:
            modelled = str(error).split(" ")[:2]
            store = before
        real = await ask(redis, *command)
        if command[0] == "HGETALL":
            modelled, real = sorted(modelled), sorted(real)
        if isinstance(modelled, list) and modelled and modelled[0] in ("ERR", "WRONGTYPE"):
            # The library takes ERR away from what it raises.
            assert real[0] == "WRONGTYPE" or modelled[0] == "ERR", (command, real)
            continue
        assert modelled == real, command


def call(
    dice: random.Random, keys: ShardKeys, run_id: str, replid: str
) -> tuple[str, list[str], list[Any]]:
    """A script call as a client or a settler makes it, now and then a senseless one."""
    request = f"org/r{dice.randrange(4)}"
    account = dice.choice(("org/u", "org/u", "org/v"))
    batch = keys.batch()
    rows = [keys.accounts, keys.meta]

    def operation() -> list[Any]:
        op = dice.choice(
            ("reserve", "commit", "release", "charge", "touch", "void", "expire", "nonsense")
        )
        ttl = 60_000 if op in ("reserve", "touch") else 0
        return [op, account, request, dice.choice((0, 10, 40, 60)), ttl, dice.choice("ab"), ""]

    operations = [part for _ in range(dice.randrange(1, 4)) for part in operation()]
    epoch = dice.choice((1, 1, 1, 1, 2))
    sweep = keys.sweeping()
    return dice.choice([
        ("operate", batch, [epoch, *operations]),
        ("operate", batch, [epoch, *operations]),
        ("operate", batch, [epoch, *operations]),
        ("resolve", batch, [epoch, *operations]),
        ("sweep", sweep, [epoch, 10]),
        ("apply", keys.applying(),
         [epoch, account, dice.randrange(1, 5), dice.choice((-20, 30)), request]),
        ("load", rows, [epoch, account, dice.choice((100, -5)), 1]),
        ("admit", [keys.meta], [epoch, dice.choice((1, 1000)), dice.choice((1, 1000))]),
        ("recount", [keys.holds, keys.meta, keys.open_holds], [epoch, dice.choice((0, 1000))]),
        ("fence", [keys.meta], ["why"]) if dice.random() < 0.1 else ("barrier", [keys.meta], []),
        ("open", batch, [dice.choice((1, 2)), 1, run_id, replid,
                         *dice.choice(((1, 0), (2, 1))),
                         *dice.choice(([], ["org/u", 70, 2],
                                       ["org/u", 70, 2, request, "expired 4 1 org/u", "ended"]))]),
        ("approve", [keys.meta], [epoch, run_id, replid, *dice.choice(([], [2], [4]))]),
        ("complete", [keys.meta], [epoch, dice.choice((0, 1, 2)), 1_000, dice.choice((0, 1))]),
        ("report", [keys.meta], [epoch, 9, dice.choice((5, 9))]),
        ("rotate", [keys.outcomes, keys.outcomes_old, keys.meta], [epoch, 1_000]),
    ])  # fmt: skip


def hashes(keys: ShardKeys) -> list[str]:
    return [key for key in keys.batch() if key not in (keys.deadlines, keys.events)]


async def content(redis: Redis, keys: ShardKeys) -> list[Any]:
    """What is compared: everything but moments."""
    found: list[Any] = []
    for key in hashes(keys):
        pairs = await redis.hgetall(key)
        found.append({n.decode(): v.decode() for n, v in pairs.items() if not n.endswith(b"_ms")})
    found.append({member.decode() for member in await redis.zrange(keys.deadlines, 0, -1)})
    return [*found, [plain(fields[b"v1"]) for _, fields in await redis.xrange(keys.events)]]


def modelled(store: Store, keys: ShardKeys) -> list[Any]:
    found: list[Any] = []
    for key in hashes(keys):
        pairs = store.hashes.get(key, {})
        found.append({name: value for name, value in pairs.items() if not name.endswith("_ms")})
    found.append(set(store.zsets.get(keys.deadlines, {})))
    items = store.streams.get(keys.events, ((0, 0), []))[1]
    return [*found, [fields[3] for _, fields in items]]


@pytest.mark.parametrize("seed", range(2))
async def test_scripts_do_what_they_do_on_a_server(
    redis: Redis, key_prefix: str, seed: int
) -> None:
    """Same calls, same answers, same content: also of what is refused."""
    dice, store, scripts, keys = random.Random(seed), Store(), Scripts(), ShardKeys(key_prefix, 0)
    run_id = str((await redis.info("server"))["run_id"])
    replid = str((await redis.info("replication"))["master_replid"])
    store.run_id, store.replid = int(run_id, 16), int(replid, 16)
    for _ in range(ROUNDS):
        server = dice.choice((run_id, run_id, run_id, "another"))
        name, names, args = call(dice, keys, server, replid)
        if name == "sweep":
            # Everything is due, by each one's own clock.
            store.zsets[keys.deadlines] = dict.fromkeys(store.zsets.get(keys.deadlines, {}), 1)
            if not store.zsets[keys.deadlines]:
                del store.zsets[keys.deadlines]
            for member in await redis.zrange(keys.deadlines, 0, -1):
                await redis.zadd(keys.deadlines, {member: 1})
        if name == "rotate":
            for one in (store.hashes.get(keys.meta, {}),):
                if one:
                    one["rotated_ms"] = "0"
                    await redis.hset(keys.meta, "rotated_ms", 0)
        try:
            expected = plain(await load_script(name).call(redis, names, args))
        except ResponseError as error:
            expected = str(error)
        before = store.copy()
        try:
            answered = scripts.run(store, name, names, args)
        except ResponseError as error:
            answered = str(error)
            assert modelled(store, keys) == modelled(before, keys), "it was refused, not undone"
        assert answered == expected, (name, args)
        assert modelled(store, keys) == await content(redis, keys), (name, args)
