"""Everything that an admin can do, and settling, beside everything else on one organisation: each
pair meets no deadlock, no 500 and no stall of another tenant.

On the database of the test a deadlock is found within DEADLOCK_TIMEOUT and counted, and a
wait for a lock beyond LOCK_TIMEOUT is an error of the server: nothing is timed here.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.world import BILLING, World

from taximeter.api.web.retries import UNDONE
from taximeter.meter import AccountNotFound, InsufficientCredits
from taximeter.settler.moves.closing import Closed, close_all
from taximeter.settler.settling.settle import settle_shard

DEADLOCK_TIMEOUT = "20ms"
LOCK_TIMEOUT = os.environ.get("STALL_LIMIT", "60s")
"""The server ends whoever stands before a lock so long. What is promised is 250 ms: that holds on a
machine that is not busy, and STALL_LIMIT=250ms shows it there.
"""
USERS = ("ann", "bob")
Work = Callable[[World, int], Awaitable[object]]


async def post(world: World, path: str, who: dict[str, str], **body: Any) -> None:
    response = await world.client.post(f"{BILLING}/{path}", json=body, headers=who)
    assert response.status_code < 500, f"{path}: {response.status_code} {response.text}"


async def put_member(world: World, n: int) -> None:
    await post(
        world,
        "orgs/acme/members",
        world.root,
        user_id=USERS[n % 2],
        role=("member", "admin")[n % 2],
    )


async def remove_member(world: World, n: int) -> None:
    user = USERS[n % 2]
    path = f"{BILLING}/orgs/acme/members/{user}"
    response = await world.client.delete(path, headers=world.root)
    assert response.status_code < 500, response.text
    await post(world, "orgs/acme/members", world.root, user_id=user)


async def allocate(world: World, n: int) -> None:
    await post(world, "credits/acme/allocate", world.root, user_id=USERS[n % 2], credits=1)


async def transfer(world: World, n: int) -> None:
    source, target = USERS[n % 2], USERS[(n + 1) % 2]
    await post(
        world,
        "credits/acme/transfer",
        world.root,
        from_user_id=source,
        to_user_id=target,
        credits=0.1,
    )


async def deallocate(world: World, n: int) -> None:
    await post(world, "credits/acme/deallocate", world.root, user_id=USERS[n % 2], credits=0.1)


async def buy(world: World, n: int) -> None:
    await post(world, "credits/acme/add", world.root, credits=1, purchase_amount=1)


async def subscribe(world: World, n: int) -> None:
    await world.subscribe("acme", credits=None)


async def change_plan(world: World, n: int) -> None:
    path = f"{BILLING}/subscriptions/acme"
    plans = ("enterprise", "starter")
    for answer in (
        await world.client.put(
            f"{path}/upgrade", json={"new_plan_code": plans[n % 2]}, headers=world.root
        ),
        await world.client.delete(path, headers=world.root),
    ):
        assert answer.status_code < 500, answer.text


async def make_and_revoke_key(world: World, n: int) -> None:
    response = await world.client.post(
        f"{BILLING}/orgs/acme/keys",
        json={"name": f"k{n}", "operations": ["charge"], "user_id": USERS[n % 2]},
        headers=world.root,
    )
    assert response.status_code < 500, response.text
    if response.status_code == 200:
        key = response.json()["api_key"]["key_id"]
        path = f"{BILLING}/orgs/acme/keys/{key}"
        assert (await world.client.delete(path, headers=world.root)).status_code < 500


async def grant(world: World, n: int) -> None:
    """Credits of a person: their own organisation is changed in the same way."""
    await post(world, "users/ann/credits", world.root, credits=1, purchase_amount=1)


async def deduct(world: World, n: int) -> None:
    await world.stores.pool.execute(
        "SELECT deduct_credits('acme', $1, 1, 's', 'm', NULL, '{}')", USERS[n % 2]
    )


async def charge_and_settle(world: World, n: int) -> None:
    meter = await world.app.state.services.meters.get()
    for org, user in (("acme", "ann"), ("acme", "bob"), ("personal:ann", "ann")):
        # Whoever is being removed at this moment has nothing.
        with suppress(InsufficientCredits, AccountNotFound):
            await meter.charge(org, user, 1)
    for shard in range(2):
        await settle_shard(world.settling, shard)


async def expire(world: World, n: int) -> None:
    await world.stores.pool.execute(
        "UPDATE user_credit_allocations SET auto_renew = true, expires_at = now(),"
        " created_at = now() - interval '1 day'"
        " WHERE org_id = 'acme' AND user_id = $1 AND is_active",
        USERS[n % 2],
    )
    await world.settling.pool.execute("SELECT taximeter.begin_expiry(now(), 10)")
    await close_all(world.settling, Closed())


async def refresh(world: World, n: int) -> None:
    await world.stores.pool.execute(
        "UPDATE organization_credit_pools SET monthly_refresh_amount = 10,"
        " last_refresh_date = (now() - interval '40 days')::date WHERE org_id = 'acme'"
    )
    await world.settling.pool.execute("SELECT taximeter.refresh_pools(now(), 10)")


async def end_period(world: World, n: int) -> None:
    await world.settling.pool.execute(
        "SELECT taximeter.end_billing_periods((now() + interval '1 year')::date)"
    )


async def refund(world: World, n: int) -> None:
    body = {"user_id": USERS[n % 2], "credits": 0.1, "reason": "an outage"}
    await post(world, "credits/acme/refund", world.root, **body)


async def adjust(world: World, n: int) -> None:
    credits = (0.1, -0.1)[n % 2]
    await post(world, "credits/acme/adjust", world.root, credits=credits, reason="a mistake")


async def change_terms(world: World, n: int) -> None:
    """The end of an allocation, the monthly refresh, the name: whatever an admin may set."""
    for method, path, body in (
        ("PATCH", f"credits/acme/allocations/{USERS[n % 2]}", {"expires_at": None}),
        ("PUT", "credits/acme/monthly-refresh", {"credits": n}),
        ("PATCH", "orgs/acme", {"org_name": f"Acme {n}", "billing_email": "a@b.cd"}),
        ("PUT", "orgs/acme/suspension", {"suspended": False, "reason": "none"}),
    ):
        response = await world.client.request(
            method, f"{BILLING}/{path}", json=body, headers=world.root
        )
        assert response.status_code < 500, f"{path}: {response.status_code} {response.text}"


async def invoice(world: World, n: int) -> None:
    body = {"lago_invoice_id": f"inv-{n // 2}", "amount": 1, "status": ("failed", "paid")[n % 2]}
    await post(world, "billing/acme/invoices", world.root, **body)


async def invite(world: World, n: int) -> None:
    """By an admin, and the answer of who was invited."""
    await post(world, "orgs/acme/members", world.auth("boss"), user_id="eve")
    await post(world, "invitations/acme/accept", world.auth("eve"))
    path = f"{BILLING}/orgs/acme/members/eve"
    left = await world.client.delete(path, headers=world.auth("eve"))
    assert left.status_code < 500, left.text


WORKS: tuple[Work, ...] = (
    refund,
    adjust,
    change_terms,
    invoice,
    invite,
    put_member,
    remove_member,
    allocate,
    transfer,
    deallocate,
    buy,
    subscribe,
    change_plan,
    make_and_revoke_key,
    grant,
    deduct,
    charge_and_settle,
    expire,
    refresh,
    end_period,
)
FIRST = (refund, remove_member, transfer, grant, charge_and_settle)
"""Whose pairs `make test` makes; the planted bugs of the order of locks show in them."""


def pairs_of(first: Work, step: int) -> Iterator[tuple[Work, Work]]:
    """Each pair once: with itself and with those that come later, or with some of them."""
    yield from itertools.product([first], WORKS[WORKS.index(first) :: step])


@pytest.fixture
async def organisation(world: World, database_url: str) -> World:
    conn = await asyncpg.connect(database_url)
    name = await conn.fetchval("SELECT current_database()")
    for setting, value in (("deadlock_timeout", DEADLOCK_TIMEOUT), ("lock_timeout", LOCK_TIMEOUT)):
        await conn.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    await conn.close()
    # Sessions that were there before have the old setting.
    await world.stores.pool.expire_connections()
    await world.settling.pool.expire_connections()
    await world.app.state.services.pool.expire_connections()
    for org in ("acme", "beta"):
        assert (await world.subscribe(org, credits=100_000)).status_code == 200
        for user in USERS:
            await post(world, f"orgs/{org}/members", world.root, user_id=user)
            await post(world, f"credits/{org}/allocate", world.root, user_id=user, credits=100)
    await grant(world, 0)
    await world.settle()
    return world


async def deadlocks(world: World) -> int:
    found = await world.stores.pool.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    return int(found)


async def said_by_the_server(world: World) -> str:
    """What it has written of deadlocks: who waited for whom, and in which statement."""
    cluster = Path(await world.stores.pool.fetchval("SHOW data_directory"))
    log = cluster.parent / "server.log"
    if not log.exists():
        return "the server's log is not here"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    at = [n for n, line in enumerate(lines) if "deadlock detected" in line]
    return "\n".join(line for n in at for line in lines[n : n + 12])


async def beside(world: World, pair: asyncio.Future[list[None]]) -> None:
    """A tenant that has nothing to do with it, now and then as long as the pair works. Without a
    pause it would keep those busy who are to meet.
    """
    while not pair.done():
        response = await world.client.get(f"{BILLING}/credits/beta", headers=world.root)
        assert response.status_code == 200, response.text
        await post(world, "credits/beta/allocate", world.root, user_id="ann", credits=0.001)
        await asyncio.wait([pair], timeout=0.25)


@pytest.mark.own_database
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "first",
    [pytest.param(work, marks=[] if work in FIRST else [pytest.mark.whole]) for work in WORKS],
    ids=lambda work: work.__name__,
)
async def test_every_pair_gets_along(organisation: World, first: Work) -> None:
    """Every other pair, and each work beside itself: those of FIRST, by `make test-whole` the
    others, too; `make chaos-runs` makes all pairs.
    """
    await get_along(organisation, first, 2)


@pytest.mark.long
@pytest.mark.own_database
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", WORKS, ids=lambda work: work.__name__)
async def test_all_pairs_get_along(organisation: World, first: Work) -> None:
    await get_along(organisation, first, 1)


async def get_along(world: World, first: Work, step: int) -> None:
    UNDONE.clear()
    before = await deadlocks(world)
    for one, other in pairs_of(first, step):
        # Each for either user: two admins at once, and what keeps out of its own way.
        pair = asyncio.gather(*(work(world, n) for n in range(2) for work in (one, other)))
        await beside(world, pair)
        await pair
        names = f"{one.__name__} beside {other.__name__}"
        assert not UNDONE, f"{names}: {UNDONE}\n{await said_by_the_server(world)}"
    # Sessions report within a second of being idle.
    await world.stores.pool.execute("SELECT pg_stat_force_next_flush()")
    await world.prove()
    assert await deadlocks(world) == before, await said_by_the_server(world)
