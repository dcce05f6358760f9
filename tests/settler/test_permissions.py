"""Redis users with no more rights than they need: enough for everything; less is said at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from click.testing import CliRunner
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from settler_world import World

from taximeter.api.commands import group
from taximeter.meter import InsufficientCredits, Meter
from taximeter.meter.server.permissions import API, METER, ROLES, SETTLER, MissingPermission, Role
from taximeter.settler.books.accounts import account_loader
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.moves import move
from taximeter.settler.moves.records import Request
from taximeter.settler.shards.drain import rebuild_on_demand
from taximeter.settler.shards.reshard import reshard
from taximeter.settler.worker.jobs import Settler

PASSWORD = "not-a-secret"
PREFIX = "tm"


def url_of(url: str, user: str) -> str:
    parts = urlsplit(url)
    netloc = f"{user}:{PASSWORD}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc))


@pytest.fixture
async def admin(redis: Redis) -> AsyncIterator[Redis]:
    """The server's administrator, who made a user for every role as the command says."""
    version = (await redis.info("server"))["redis_version"]  # Valkey says 7.2 there.
    for role in ROLES:
        asked = ["acl", "--role", role, "--user", role, "--server-version", version]
        line = CliRunner().invoke(group, asked).output
        await redis.execute_command(*line.split(), f">{PASSWORD}")
    yield redis
    await redis.execute_command("ACL", "DELUSER", *ROLES)


@pytest.fixture
async def world(admin: Redis, redis_url: str, pool: asyncpg.Pool) -> AsyncIterator[World]:
    """The settler's side, as its own user."""
    redis = Redis.from_url(url_of(redis_url, "settler"))
    yield World(Stores(pool, redis, PREFIX))
    await redis.aclose()


async def test_the_printed_rules_are_enough_for_everything(world: World, redis_url: str) -> None:
    settler = Settler(world.stores, SettlerSettings(durability="none"))
    await settler.start()
    await settler.settle()
    await world.organization("acme", ann=1_000)
    async with await Meter.connect(
        url_of(redis_url, "meter"), loader=account_loader(world.pool)
    ) as meter:
        hold = await meter.reserve("acme", "ann", 100)
        await hold.touch(5)
        await hold.commit(10)
        await (await meter.reserve("acme", "ann", 100)).release()
        late = await meter.reserve("acme", "ann", 10, request_id="late", ttl_s=0.001)
        charged = await meter.charge("acme", "ann", 20, request_id="c")
        with pytest.raises(InsufficientCredits):
            await meter.charge("acme", "ann", 10**6)
        assert (await meter.request("acme", "c")) is not None
        assert (await meter.balance("acme", "ann")).held in (0, late.amount)
        await meter.ready()
        assert charged.charged == 20
        for tick in (
            *(settler.settle, settler.sweep, settler.relay, settler.moves, settler.fill),
            settler.reconcile,
        ):
            await tick()
        for role in (API, SETTLER):
            async with Redis.from_url(url_of(redis_url, role.name)) as user:
                stores = replace(world.stores, redis=user)
                ended = await move(stores, Request("acme", "deallocation", "ann", 5, "x"))
                assert (ended.state, ended.live) == ("done", True)
        assert await reshard(world.stores, 2, wait_s=10) == 1
        world.shards = 2
        await rebuild_on_demand(world.stores, 0, reason="test", wait_s=10)
        await meter.charge("acme", "ann", 1)
    await world.assert_books()
    assert await world.used("ann") == 31


async def test_users_can_touch_nothing_else(admin: Redis, redis_url: str) -> None:
    await admin.set("other", "secret")
    await admin.set("tm", "secret")
    for role in ROLES:
        async with Redis.from_url(url_of(redis_url, role)) as user:
            for command in (
                ("GET", "other"),
                ("HGET", "tm", "f"),
                ("EVAL", "return redis.call('HGET', 'other', 'f')", "0"),
                ("FLUSHALL",),
                ("CONFIG", "SET", "appendonly", "no"),
                ("KEYS", "*"),
                ("BGREWRITEAOF",),
                ("ACL", "LIST"),
                ("SCRIPT", "FLUSH"),
            ):
                with pytest.raises(ResponseError, match=r"(?i)permission|can't access"):
                    await user.execute_command(*command)


@pytest.mark.parametrize(
    ("role", "command"),
    [(role, command) for role in (METER, SETTLER) for command in role.needed],
    ids=lambda value: value.name if isinstance(value, Role) else value,
)
async def test_a_missing_permission_is_said_before_anything_is_done(
    admin: Redis, world: World, redis_url: str, role: Role, command: str
) -> None:
    await world.start()
    await admin.execute_command("ACL", "SETUSER", role.name, f"-{command.lower()}")
    starting = (
        Meter.connect(url_of(redis_url, "meter"))
        if role is METER
        else Settler(world.stores, SettlerSettings(durability="none")).start()
    )
    with pytest.raises(MissingPermission) as refused:
        await starting
    missing = command.split("|")[0]
    assert any(missing in word.upper() for word in refused.value.commands), refused.value.commands
    assert not await admin.exists(world.keys().events)
