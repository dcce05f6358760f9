"""A Postgres that is slow, silent or used up: nobody hangs, who must wait is told so, the others go
on, and afterwards all is well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from support.proxy import Proxy
from support.servers import with_login
from support.waiting import eventually
from support.world import BILLING, World

from taximeter.settler.settling.settle import settle_shard

pytestmark = [pytest.mark.timeouts, pytest.mark.own_database]

POOL_MAX = 4
# The bounds that the API is given here; the client of a test waits for a minute.
BOUNDS = {
    "database_pool_max": POOL_MAX,
    "database_timeout_s": 4.0,
    "database_wait_s": 2.0,
    "usage_wait_s": 0.3,
}
CREDITS = f"{BILLING}/credits/acme"


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[Proxy]:
    """The wire between the API and Postgres; the settler has another."""
    async with Proxy(with_login(database_url, "taximeter_app")) as proxy:
        yield proxy


@pytest.fixture
def app_database_url(postgres: Proxy) -> str:
    return postgres.url


@pytest.fixture
def api_options() -> dict[str, Any]:
    return dict(BOUNDS)


def assert_refused(response: httpx.Response) -> None:
    assert response.status_code == 503, response.text
    assert response.json()["error"]["details"] == {"reason": "database_unavailable"}
    assert response.headers["Retry-After"] == "1"


async def test_a_silent_postgres_refuses_administration_and_lets_users_go_on(
    world: World, postgres: Proxy
) -> None:
    """Three times as many callers as connections, each answered; a user with credits is served
    meanwhile, from what was known of them before.
    """
    await world.funded("ann", 50.0)
    assert (await world.chat("ann")).status_code == 200
    before = await world.balance("ann")
    postgres.black_hole(True)
    asked = [
        asyncio.create_task(world.client.get(CREDITS, headers=world.auth("boss")))
        for _ in range(3 * POOL_MAX)
    ]
    served = await asyncio.gather(*(world.chat("ann") for _ in range(5)))
    assert [response.status_code for response in served] == [200] * 5, served[0].text
    assert (await world.balance("ann")).available < before.available
    status = await world.client.get("/api/v1/system/status")
    assert status.status_code == 503
    assert status.json()["postgres"] == {"status": "down", "reason": "timeout"}
    assert status.json()["redis"]["status"] == "ok"
    for response in await asyncio.gather(*asked):
        assert_refused(response)

    postgres.heal()

    async def answers() -> bool:
        found = await world.client.get(CREDITS, headers=world.auth("boss"))
        return found.status_code == 200 and found.json()["complete"]

    await eventually(answers, what="an answer from books that are complete")
    assert len(await world.charges()) == 6
    await world.prove()


async def test_a_slow_postgres_is_slow_and_nothing_else(world: World, postgres: Proxy) -> None:
    await world.funded("ann", 50.0)
    postgres.delay(0.02)
    responses = await asyncio.gather(
        *(world.client.get(CREDITS, headers=world.auth("boss")) for _ in range(POOL_MAX)),
        world.allocate("ann", 1.0),
        world.chat("ann"),
    )
    for response in responses:
        if response.status_code != 200:  # Several wait for a connection longer than they may.
            assert_refused(response)
    assert postgres.touched
    postgres.heal()
    await world.prove()


async def test_connections_that_all_wait_for_a_lock_are_no_reason_to_hang(world: World) -> None:
    await world.funded("ann", 50.0)
    assert (await world.subscribe("beta")).status_code == 200
    await world.add_member("bob", "beta")
    assert (await world.allocate("bob", 10.0, "beta")).status_code == 200
    await world.settle()
    assert (await world.chat("bob")).status_code == 200

    async with world.stores.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM organization_credit_pools WHERE org_id = 'acme' FOR UPDATE")
        waiting = [asyncio.create_task(world.allocate("ann", 1.0)) for _ in range(POOL_MAX)]

        async def all_wait() -> bool:
            count = await world.stores.pool.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'taximeter-api' AND wait_event_type = 'Lock'"
            )
            return int(count) == POOL_MAX

        await eventually(all_wait, what=f"{POOL_MAX} sessions of the API that wait for a lock")
        others = await asyncio.gather(
            *(
                world.client.get(f"{BILLING}/credits/beta", headers=world.auth("boss"))
                for _ in range(2 * POOL_MAX)
            )
        )
        assert not all(task.done() for task in waiting), "they were refused while the lock was held"
        for response in others:
            assert_refused(response)
        # The settler has connections of its own, and these users need none.
        assert (await world.chat("bob")).status_code == 200
        settled = [await settle_shard(world.settling, shard) for shard in range(2)]
        assert sum(one.settled for one in settled) == 2
        for response in await asyncio.gather(*waiting):
            assert_refused(response)

    async def done() -> bool:
        return (await world.allocate("ann", 1.0)).status_code == 200

    await eventually(done, what="an allocation after the lock is gone")
    assert (await world.balance("bob", "beta")).available < 10_000
    await world.prove()


# Whose default it is: that of everybody in the database, or of the API's user alone.
WHOSE = {
    "database": 'ALTER DATABASE "{name}"',
    "role": 'ALTER ROLE {user} IN DATABASE "{name}"',
}


async def change_default(world: World, postgres: Proxy, whose: str, change: str) -> None:
    """Change a setting, and let the API connect anew: new sessions have it."""
    name = await world.stores.pool.fetchval("SELECT current_database()")
    user = str(urlsplit(postgres.url).username)
    await world.stores.pool.execute(f"{WHOSE[whose].format(name=name, user=user)} {change}")
    await world.stores.pool.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'taximeter-api'"
    )


@pytest.mark.parametrize("whose", WHOSE)
async def test_a_postgres_that_takes_no_writes_is_a_refusal_that_may_be_tried_again(
    world: World, postgres: Proxy, whose: str
) -> None:
    """As a standby, or a database that is closed for upkeep; users with credits notice nothing."""
    await world.funded("ann", 50.0)
    assert (await world.chat("ann")).status_code == 200
    await change_default(world, postgres, whose, "SET default_transaction_read_only = on")

    async def is_refused() -> bool:
        response = await world.allocate("ann", 1.0)
        assert response.status_code in (200, 503), response.text
        return response.status_code == 503

    await eventually(is_refused)
    assert_refused(await world.allocate("ann", 1.0))
    assert (await world.chat("ann")).status_code == 200
    await change_default(world, postgres, whose, "RESET ALL")

    async def is_taken() -> bool:
        return bool((await world.allocate("ann", 1.0)).status_code == 200)

    await eventually(is_taken)


@pytest.mark.parametrize("whose", WHOSE)
async def test_a_postgres_that_is_serializable_by_default_refuses_nobody(
    world: World, postgres: Proxy, whose: str
) -> None:
    """Our transactions are READ COMMITTED whatever the default is: those that change the same rows
    wait for each other, and none is undone for another one's sake.
    """
    await world.funded("ann", 50.0)
    await change_default(world, postgres, whose, "SET default_transaction_isolation = serializable")
    conn = await asyncpg.connect(postgres.url)
    assert await conn.fetchval("SHOW transaction_isolation") == "serializable"
    await conn.close()

    async def answers() -> bool:
        return (await world.client.get(CREDITS, headers=world.auth("boss"))).status_code == 200

    await eventually(answers)
    responses = await asyncio.gather(*(world.allocate("ann", 1.0) for _ in range(POOL_MAX)))
    assert [one.status_code for one in responses] == [200] * POOL_MAX, responses[0].text
    assert (await world.chat("ann")).status_code == 200
    await world.prove()
    row = await world.stores.pool.fetchrow(
        "SELECT allocated_credits, used_credits FROM user_credit_allocations WHERE user_id = 'ann'"
    )
    assert row["allocated_credits"] == 50_000 + POOL_MAX * 1_000
    assert row["used_credits"] > 0
