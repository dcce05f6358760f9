"""A database that may be a copy of an installation tells nobody anything, until somebody has said
what it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner
from settler_world import World
from structlog.testing import capture_logs
from support.books import Books
from support.receiving import KEY, Receiver, add, listening, note, rounds

from taximeter.api.commands import group
from taximeter.meter import Meter, MeterSettings, ShardFenced
from taximeter.settler.books.installation import (
    AnotherInstallation,
    become_copy,
    claim_installation,
    may_speak,
    objection,
    read_standing,
    speak_again,
)
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.notices.deliver import Deliverer
from taximeter.settler.notices.sealing import Sealer
from taximeter.settler.notices.sending import HttpSender
from taximeter.settler.shards.guardian import guard
from taximeter.settler.worker.jobs import Settler


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with listening(Receiver()) as made:
        yield made


@pytest.fixture
async def books(world: World) -> Books:
    """A system that has been at work, and has told all that there was to tell."""
    made = Books(world.pool)
    await claim_installation(world.stores)
    await world.organization("org", ann=1_000)
    await world.charge("ann", 10, org_id="org")
    await world.settle()
    await made.run("UPDATE taximeter.notices SET spread_at = now()")
    return made


async def restore_elsewhere(world: World) -> None:
    """The same database, on a Redis that has never seen it."""
    keys = world.stores.keys(0)
    await world.stores.redis.delete(*keys.batch(), keys.outcomes_old)


async def test_a_copy_with_all_secrets_of_the_original_calls_nobody(
    world: World, books: Books, receiver: Receiver
) -> None:
    await add(books, receiver.url, key=KEY)
    await note(books, 1)
    await restore_elsewhere(world)
    settler = Settler(world.stores, SettlerSettings(notice_keys=KEY))
    async with HttpSender(anywhere=True) as sender:
        deliverer = Deliverer(
            world.pool, Sealer(KEY), sender, is_guarded=lambda: settler.has_found_redis
        )
        try:
            await rounds(deliverer)  # Before any guardian has looked, nobody knows what this is.
            assert receiver.seen == []
            await settler.guard()
            assert settler.has_found_redis
            await note(books, 2)
            with capture_logs() as logs:
                await rounds(deliverer)
            assert receiver.seen == []
            assert [one["silent"] for one in logs if "silent" in one] == [
                "this may be a copy: see `taximeter restored`"
            ]
            standing = await read_standing(world.pool)
            assert (standing.deliveries, standing.notices, standing.receivers) == (0, 2, 1)
            assert "Redis does not know this database" in (standing.silent_because or "")
            # A further look finds a Redis that it has opened itself: that says nothing.
            assert (await guard(world.stores, 0, 1)).action == "nothing"
            await world.stores.redis.hset(world.keys().meta, "epoch", "fenced")
            assert (await guard(world.stores, 0, 1)).action == "rebuilt"
            assert not await may_speak(world.pool)

            await become_copy(world.pool, "staging")
            await rounds(deliverer)
            await add(books, receiver.url, key=KEY)
            await note(books, 3)
            await rounds(deliverer)
            assert receiver.said == [3], "its own receivers, of what comes after"
        finally:
            await deliverer.aclose()
    await world.assert_books()


async def test_the_installation_itself_goes_on_where_it_left_off(
    world: World, books: Books, receiver: Receiver
) -> None:
    await add(books, receiver.url, key=KEY)
    await note(books, 1)
    await restore_elsewhere(world)
    assert (await guard(world.stores, 0, 1)).action == "rebuilt"
    await speak_again(world.pool, "the machine burnt")
    async with HttpSender(anywhere=True) as sender:
        deliverer = Deliverer(world.pool, Sealer(KEY), sender)
        try:
            await rounds(deliverer)
        finally:
            await deliverer.aclose()
    assert receiver.said == [1]
    assert (await read_standing(world.pool)).answer == "the machine burnt"


@pytest.mark.parametrize(
    ("of", "name", "history", "speaks", "opens"),
    [
        pytest.param("prod", "prod", None, True, True, id="itself"),
        pytest.param("prod", "prod", "1/00000001", False, False, id="a restore, with its name"),
        pytest.param("prod", None, None, False, False, id="without the name that it has"),
        pytest.param(None, None, None, False, True, id="that never had a name"),
        pytest.param(None, None, "1/00000001", False, False, id="a restore, without a name"),
    ],
)
async def test_who_may_lose_its_redis(
    world: World,
    books: Books,
    of: str | None,
    name: str | None,
    history: str | None,
    speaks: bool,
    opens: bool,
    redis_url: str,
) -> None:
    """An emptied Redis is an ordinary accident of the installation itself; a Postgres of another
    history beside it is what a restore leaves: nothing is opened then before somebody has answered.
    """
    await claim_installation(replace(world.stores, installation=of))
    stores = replace(world.stores, installation=name)
    if history is not None:
        await books.run("UPDATE taximeter.installation SET history = $1", history)
    await restore_elsewhere(world)
    for _ in range(2):  # What it has closed itself is no Redis that knows it.
        guarded = await guard(stores, 0, 1)
        assert await may_speak(world.pool) is speaks
        assert (await read_standing(world.pool)).is_stopped is not opens
        if opens:
            assert guarded.usable
            continue
        assert (guarded.usable, guarded.action) == (False, "stopped")
        meta = await world.stores.redis.hgetall(world.keys().meta)
        assert meta[b"epoch"] == b"fenced"
        assert b"taximeter restored" in meta[b"fenced_reason"]
        with pytest.raises(ShardFenced, match="taximeter restored"):
            await Meter.connect(redis_url, settings=MeterSettings(key_prefix=stores.prefix))
    if not opens:
        await speak_again(world.pool, "the machine burnt")
        assert (await guard(stores, 0, 1)).action == "rebuilt"
        assert await objection(world.pool, of) is None
    await world.assert_books()


async def test_a_copy_leaves_the_redis_of_another_postgres_alone(
    world: World, books: Books
) -> None:
    """As a dump that was loaded elsewhere finds it: another system, on production's Redis."""
    await books.run("UPDATE taximeter.installation SET history = '1/00000001'")
    await books.run("UPDATE taximeter.watermarks SET run_id = 'another'")
    keys = world.keys()
    await world.stores.redis.hset(
        keys.meta, mapping={"ledger": "7/00000001 5 1", "postgres": "7/00000001"}
    )
    await world.stores.redis.hset(keys.meta, "run_id", "of-production")
    before = await world.stores.redis.hgetall(keys.meta)
    assert (await guard(world.stores, 0, 1)).action == "stopped"
    assert await world.stores.redis.hgetall(keys.meta) == before


async def test_a_redis_that_knows_its_postgres_is_no_doubt(world: World, books: Books) -> None:
    """A restart, a failover, and Postgres put back beside a Redis that goes on."""
    await books.run("UPDATE taximeter.installation SET history = '1/00000001'")
    await world.stores.redis.hset(world.keys().meta, "ledger", "1/00000001 5 1")
    assert (await guard(world.stores, 0, 1)).action == "rebuilt"
    assert await may_speak(world.pool)
    standing = await read_standing(world.pool)
    assert standing.history == await books.value("SELECT history FROM taximeter.ledger_position()")


async def test_a_settler_of_another_name_does_not_start(world: World, books: Books) -> None:
    await claim_installation(replace(world.stores, installation="production"))
    staging = replace(world.stores, installation="staging")
    before = await world.stores.redis.hgetall(world.keys().meta)
    with pytest.raises(AnotherInstallation, match="is staging, and the database is of production"):
        await Settler(staging, SettlerSettings()).start()
    assert await world.stores.redis.hgetall(world.keys().meta) == before
    await claim_installation(world.stores)  # One without a name says nothing.


async def test_the_command_says_what_it_is(
    world: World, books: Books, database_url: str, redis_url: str
) -> None:
    environment = {
        "TAXIMETER_DATABASE_URL": database_url,
        "TAXIMETER_REDIS_URL": redis_url,
        "TAXIMETER_KEY_PREFIX": world.stores.prefix,
    }

    async def run(*arguments: str) -> Any:
        return await asyncio.to_thread(
            CliRunner(env=environment).invoke, group, ["restored", *arguments]
        )

    done = await run("--copy", "staging")
    assert (done.exit_code, done.output) == (
        1,
        "Error: this is the installation itself, at work with its Redis: nothing was changed\n",
    )
    ledger = await world.stores.redis.hget(world.keys().meta, "ledger")
    await world.stores.redis.hset(world.keys().meta, "ledger", "7/00000001 5 1")
    assert "is at work with another Postgres" in (await run("--copy", "staging")).output
    assert (await run()).exit_code == 0
    await world.stores.redis.hset(world.keys().meta, "ledger", ledger)
    await restore_elsewhere(world)
    await guard(world.stores, 0, 1)
    done = await run()
    assert done.exit_code == 1
    assert "NOBODY IS TOLD ANYTHING" in done.output
    assert (await run("--copy", "staging")).exit_code == 0
    assert (await read_standing(world.pool)).name == "staging"
    assert "it is staging already" in (await run("--copy", "staging")).output
    for wrong in (("--copy", "a b"), ("--same", " "), ("--same", "x", "--copy", "y")):
        assert (await run(*wrong)).exit_code == 2
    assert (await run("--same", "after a drill")).output.endswith("active receivers\n")
