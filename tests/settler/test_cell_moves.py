"""An organisation moves to another cell with its history and its open holds: nothing is lost,
nothing is charged twice, and it is never open in two places.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from cells_world import Cells
from settler_world import World, eventually, settling
from support.servers import Psql, with_database

from taximeter.api.access.api_keys import BELIEVED_S, KeyStore
from taximeter.api.access.key_text import make_key
from taximeter.api.llm.late_charges import take
from taximeter.api.llm.unsent_charges import Due, PendingCharges
from taximeter.meter import (
    AccountNotFound,
    Meter,
    OrganizationMoves,
    Receipt,
    RequestReplayed,
    UnknownHold,
    Usage,
    WrongCell,
)
from taximeter.settler.books.directory import Directory
from taximeter.settler.books.stores import Stores
from taximeter.settler.cells import move as moves
from taximeter.settler.shards.guardian import guard

T = TypeVar("T")


@pytest.fixture
def second_database_url(
    session_database_url: str, session_psql: Psql, template_database: str, database_url: str
) -> Iterator[str]:
    name = database_url.rpartition("/")[2].partition("?")[0] + "_b"
    session_psql.run(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
    yield with_database(session_database_url, name)
    session_psql.run(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def cells(
    stores: Stores,
    redis: redis_asyncio.Redis,
    key_prefix: str,
    database_url: str,
    second_database_url: str,
) -> AsyncIterator[Cells]:
    async with asyncpg.create_pool(second_database_url, min_size=1, max_size=8) as pool:
        there = World(Stores(pool, redis, f"{key_prefix}-b"))
        made = Cells(World(stores), there, database_url, second_database_url)
        await made.start()
        yield made


async def test_it_moves_with_its_history_and_its_open_holds(cells: Cells, redis_url: str) -> None:
    await cells.organization("acme", ann=1_000, bob=500)
    await cells.organization("globex", eve=100)
    async with cells.meters(redis_url) as (in_a, in_b):
        for number in range(5):
            await in_a.charge("acme", "ann", 10, request_id=f"c{number}")
        hold = await in_a.reserve("acme", "ann", 100, request_id="open")
        await hold.touch(30)
        await in_a.reserve("acme", "bob", 7, request_id="other")
        await in_a.reserve("acme", "bob", 0, request_id="nothing")
        ended = await in_a.reserve("acme", "ann", 50, request_id="ended")
        await ended.commit(20)

        moved = await cells.move("acme")

        assert await cells.lives_in("acme") == ["b"]
        assert (moved.holds, moved.accounts) == (3, 2)
        assert moved.proof["taximeter.charged_requests"][0] == 6
        for use in (
            in_a.charge("acme", "ann", 1),
            in_a.commit("acme", "ann", "open", 60),
            in_a.balance("acme", "bob"),
            in_a.release("acme", "bob", "other"),
        ):
            with pytest.raises(WrongCell) as wrong:
                await use
            assert wrong.value.sidecar_url == "https://s.b"
        assert (await in_b.balance("acme", "ann")).held == 100
        # Late ends come to the other cell under the same ids, and count once.
        for _ in range(2):
            assert (await in_b.commit("acme", "ann", "open", 60)).charged == 60
        assert (await in_b.commit("acme", "ann", "ended", 20)).replayed
        await in_b.release("acme", "bob", "other")
        with pytest.raises(UnknownHold):
            await in_b.release("acme", "bob", "never")
        await in_b.charge("acme", "bob", 3)
        await in_a.charge("globex", "eve", 5)
        left = await in_b.balance("acme", "ann"), await in_b.balance("acme", "bob")
        assert [one.available for one in left] == [1_000 - 50 - 20 - 60, 500 - 3]
    await cells.assert_books()
    assert await cells.b.used("ann", "acme") == 130
    used = await cells.b.pool.fetchval(
        "SELECT sum(credits_used) FROM credit_usage_attribution WHERE org_id = 'acme'"
    )
    assert used == 5 + 130 + 3
    # What stays is a record: it does not change, and nobody uses it.
    assert await cells.a.used("ann", "acme") == 70
    for change in (
        "SELECT add_credits_to_pool('acme', 5, 1)",
        "SELECT deduct_credits('acme', 'ann', 1, 'x', 'x', 'by-sql')",
        "DELETE FROM credit_usage_attribution WHERE org_id = 'acme'",
        "UPDATE organization_members SET role = 'admin' WHERE org_id = 'acme'",
    ):
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await cells.a.pool.execute(change)
    with pytest.raises(moves.CannotMove, match="is not here: gone b"):
        await cells.move("acme")
    assert await cells.a.stores.redis.hlen(cells.a.keys().holds) == 0


async def test_its_api_keys_are_good_in_the_new_cell(cells: Cells) -> None:
    """Check digits are made with the seal of the cell that made the key."""
    await cells.organization("acme", ann=1_000)
    await cells.b.pool.execute("UPDATE taximeter.key_seal SET secret = $1", bytes(range(32)))
    seal = await cells.a.pool.fetchval("SELECT secret FROM taximeter.key_seal")
    key = make_key(seal)
    await cells.a.pool.execute(
        "INSERT INTO taximeter.api_keys (key_id, org_id, name, operations, digest, last_four,"
        " created_by, expires_at, sealed) VALUES ($1, 'acme', 'gateway', '{charge}', $2, 'abcd',"
        " 'ann', now() + interval '1 day', true)",
        *(key.key_id, key.digest),
    )
    now = 0.0
    store = KeyStore(cells.b.pool, has_cells=True, clock=lambda: now)
    alone = KeyStore(cells.b.pool)
    try:
        assert await store.find(key.text.encode()) is None
        await cells.move("acme")
        now = BELIEVED_S
        grant = await store.find(key.text.encode())
        assert grant is not None
        assert grant.org_id == "acme"
        made_up = make_key(bytes(32))
        assert await store.find(made_up.text.encode()) is None
        assert await alone.find(key.text.encode()) is None
    finally:
        await store.aclose()
        await alone.aclose()


async def test_what_our_own_api_owes_follows_its_organisation(
    cells: Cells, redis_url: str, tmp_path: Path
) -> None:
    """A request that was sent to a model before the move, and ends after it."""
    await cells.organization("acme", ann=1_000)
    async with cells.meters(redis_url) as (in_a, in_b):

        async def of_a() -> Meter:
            return in_a

        async def of_b() -> Meter:
            return in_b

        payload = Usage("llm_inference", "gpt-4o", {"tokens_used": 7}).payload()
        await in_a.reserve("acme", "ann", 100, request_id="open")
        await cells.move("acme")
        async with (
            asyncpg.create_pool(cells.url_a, min_size=1, max_size=2) as directory_pool,
            asyncpg.create_pool(cells.url_a, min_size=1, max_size=2) as other_pool,
        ):
            here, there = Directory(directory_pool, "a"), Directory(other_pool, "b")
            owing = PendingCharges(tmp_path / "a", of_a, here)
            taking = PendingCharges(tmp_path / "b", of_b, there)
            for folder in ("a", "b"):
                (tmp_path / folder).mkdir()
            await owing.keep(Due("acme", "ann", "open", 60, payload))

            async def is_left() -> bool:
                return bool(await there.late_charges()) and not len(owing)

            await eventually(is_left)
            for _ in range(2):  # Another process of that cell may take it at the same time.
                await take(there, taking)

            async def is_taken() -> bool:
                return not len(taking)

            await eventually(is_taken)
            assert await there.late_charges() == []
            await owing.aclose()
            await taking.aclose()
        assert (await in_b.balance("acme", "ann")).held == 0
    await cells.assert_books()
    assert await cells.b.used("ann", "acme") == 60


STEPS = (
    *("prepared", "copied", "closed", "closed accounts", "read", "copied the rest", "proved"),
    *("decided", "arrived", "said", "half opened", "opened", "let in", "open", "done"),
)
HALF_UNDONE = "copied the rest"
UNDECIDED = STEPS[: STEPS.index("decided")]


async def test_a_kill_at_any_step_is_undone_or_resumed(
    cells: Cells, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "LEFT_S", 0.0)
    async with cells.meters(redis_url) as (in_a, in_b):
        for number, step in enumerate(STEPS):
            org_id = f"org{number}"
            await cells.organization(org_id, ann=1_000)
            await in_a.charge(org_id, "ann", 10, request_id="before")
            await in_a.reserve(org_id, "ann", 100, request_id="open")

            assert await cells.killed_at(org_id, step), step

            assert len(await cells.lives_in(org_id)) <= 1, step
            if step == HALF_UNDONE:
                # Whoever undid it has died as well, before it was let in.
                await cells.a.pool.execute(
                    "UPDATE taximeter.cell_moves SET state = 'undone', ended_at = now()"
                    " WHERE org_id = $1 AND state = 'closed'",
                    org_id,
                )
            elif step in UNDECIDED:
                if step not in ("prepared", "copied"):
                    if step != "closed":  # Its books are, and its accounts are still open.
                        with pytest.raises(OrganizationMoves):
                            await _use(in_a, org_id)
                    # Nobody comes again: a settler lets it in where it was.
                    assert (await moves.take_up_left(cells.a.stores))["undone"] == 1, step
                assert await cells.lives_in(org_id) == ["a"], step
                assert (await in_a.balance(org_id, "ann")).held == 100, step
                await in_a.charge(org_id, "ann", 1, request_id="meanwhile")
            else:
                # Nobody comes again: settlers say where it is, and let it in there.
                assert (await moves.take_up_left(cells.a.stores))["undone"] == 0, step
                with pytest.raises(WrongCell):
                    await _use(in_a, org_id)
                opened = (await moves.take_up_left(cells.b.stores))["opened"]
                assert opened == (step not in ("decided", "open", "done")), step
                assert await cells.lives_in(org_id) == ([] if step == "decided" else ["b"]), step
                assert not any((await moves.take_up_left(cells.a.stores)).values()), step
            if step in ("half opened", "opened"):
                # Its accounts are open there already, and go on.
                assert (await in_b.commit(org_id, "ann", "open", 40)).charged == 40
            if step != "done":
                await cells.move(org_id)
            assert await cells.lives_in(org_id) == ["b"], step
            assert (await in_b.commit(org_id, "ann", "open", 40)).charged == 40
            with pytest.raises(WrongCell):
                await in_a.commit(org_id, "ann", "open", 40)
            charged = 10 + 40 + (1 if step in UNDECIDED and step != HALF_UNDONE else 0)
            assert (await in_b.balance(org_id, "ann")).available == 1_000 - charged, step
    await cells.assert_books()


async def test_a_process_that_is_frozen_keeps_no_organisation_closed(
    cells: Cells, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sessions live, and with them its lock; nobody waits for it longer than it may take."""
    monkeypatch.setattr(moves, "LEFT_S", 0.0)
    await cells.organization("acme", ann=1_000)
    assert await cells.killed_at("acme", "read")
    async with cells.connections() as frozen:
        assert await frozen.source.fetchval("SELECT pg_try_advisory_lock(74101, hashtext('acme'))")
        assert not any((await moves.take_up_left(cells.a.stores)).values())
        assert await cells.lives_in("acme") == []
        await cells.a.pool.execute(
            "UPDATE taximeter.cell_moves SET closed_at = now() - interval '61 s'"
        )
        assert (await moves.take_up_left(cells.a.stores))["undone"] == 1
        assert await cells.lives_in("acme") == ["a"]
    await cells.assert_books()


async def test_damage_on_the_live_side_keeps_no_organisation_closed(
    cells: Cells, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor any other one whose move was left as well."""
    monkeypatch.setattr(moves, "LEFT_S", 0.0)
    redis, keys = cells.a.stores.redis, cells.a.keys()
    for org_id in ("acme", "globex"):
        await cells.organization(org_id, ann=1_000)
    assert await cells.killed_at("globex", "read")
    async with cells.meters(redis_url) as (in_a, _):
        await in_a.reserve("acme", "ann", 100, request_id="open")
        for name in (b"acme/\xff", b"acme/damaged"):
            for key in (keys.accounts, keys.holds, keys.outcomes):
                await redis.hset(key, name, b"\xfe")
        with pytest.raises(moves.CannotMove, match="the live balances of 2 accounts"):
            await cells.move("acme")
        assert (await in_a.balance("acme", "ann")).held == 100
        # Nor when somebody dies before the accounts are read, and the settler has to.
        assert await cells.killed_at("acme", "closed accounts")
        assert (await moves.take_up_left(cells.a.stores))["undone"] == 2
        assert await cells.lives_in("acme") == await cells.lives_in("globex") == ["a"]
        assert (await in_a.balance("acme", "ann")).held == 100
    for key in (keys.holds, keys.outcomes):
        await redis.hdel(key, b"acme/\xff", b"acme/damaged")
    await cells.assert_books()


async def test_one_move_that_cannot_be_taken_up_delays_no_other(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "LEFT_S", 0.0)
    for org_id in ("acme", "globex"):
        await cells.organization(org_id, ann=1_000)
        assert await cells.killed_at(org_id, "read")
    undo = moves.undo

    async def faulty(conn: asyncpg.Connection, stores: Stores, org_id: str, move: UUID) -> bool:
        if org_id == "acme":
            raise RuntimeError("not this one")
        return await undo(conn, stores, org_id, move)

    monkeypatch.setattr(moves, "undo", faulty)
    assert (await moves.take_up_left(cells.a.stores))["undone"] == 1
    assert await cells.lives_in("globex") == ["a"]
    monkeypatch.setattr(moves, "undo", undo)
    assert (await moves.take_up_left(cells.a.stores))["undone"] == 1
    await cells.assert_books()


async def _use(meter: Meter, org_id: str) -> None:
    await meter.charge(org_id, "ann", 1)


BACK_AT = (
    *("prepared", "closed", "read", "copied the rest", "proved"),
    *("decided", "arrived", "half opened", "let in"),
)


async def test_it_returns_to_the_cell_that_has_its_record(
    cells: Cells, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back and there again, killed on the way at one step after the other: with what was
    used in either cell, and what was charged before it left is charged once.
    """
    monkeypatch.setattr(moves, "LEFT_S", 0.0)
    await cells.organization("acme", ann=10_000, bob=500)
    await cells.organization("globex", eve=100)
    await cells.a.charge("eve", 3, org_id="globex")
    # What does not travel stays where it is, and is there again.
    await cells.a.pool.execute(
        "INSERT INTO taximeter.receivers (org_id, kind, name, address, key_mark, types, percents,"
        " created_by) VALUES ('acme', 'slack', 'ours', '', '', '{key.revoked}', '{}', 'ann')"
    )
    spent = {"ann": 0, "bob": 0}
    async with cells.meters(redis_url) as (in_a, in_b):
        ids: list[str] = []
        for hop in range(4):
            back = hop % 2 == 1
            here, other = (cells.b, cells.a) if back else (cells.a, cells.b)
            meter, elsewhere = (in_b, in_a) if back else (in_a, in_b)
            for user in spent:
                for number in range(3):
                    ids.append(f"h{hop}-{user}-{number}")
                    await meter.charge("acme", user, 10 + hop, request_id=ids[-1])
                    spent[user] += 10 + hop
            # What admins do: by SQL, and to the pool.
            await here.pool.fetchrow(
                "SELECT * FROM deduct_credits('acme', 'ann', 7, 's', 'm', $1, '{}')", f"sql{hop}"
            )
            spent["ann"] += 7
            await here.pool.execute("SELECT add_credits_to_pool('acme', 50, 1)")
            await here.pool.execute(
                "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits)"
                " VALUES ('acme', $1, 100)",
                f"new{hop}",
            )
            await here.relay()
            await meter.reserve("acme", "ann", 100, request_id=f"open{hop}")
            for step in BACK_AT[hop::4] if hop else ():
                assert await cells.killed_at("acme", step, back=back), step
                decided = step in STEPS[STEPS.index("decided") :]
                await moves.take_up_left(here.stores)
                await moves.take_up_left(other.stores)
                if not decided:
                    assert await cells.lives_in("acme") == ["b" if back else "a"], step
                    assert (await meter.balance("acme", "ann")).held == 100
                    with pytest.raises((WrongCell, OrganizationMoves)):
                        await _use(elsewhere, "acme")
                    continue
                break
            await cells.move("acme", back=back)
            assert await cells.lives_in("acme") == ["a" if back else "b"], hop
            assert (await elsewhere.commit("acme", "ann", f"open{hop}", 60)).charged == 60
            spent["ann"] += 60
            ids.append(f"open{hop}")
            with pytest.raises(WrongCell):
                await _use(meter, "acme")
            # Whatever was charged in either cell is known.
            for request_id in ids:
                if not request_id.startswith("open"):
                    user = request_id.split("-")[1]
                    amount = 10 + int(request_id[1])
                    again = await elsewhere.charge("acme", user, amount, request_id=request_id)
                    assert again.replayed, request_id
            await cells.assert_books()
            assert {user: await other.used(user, "acme") for user in spent} == spent
            assert await other.pool.fetchval(
                "SELECT sum(credits_used) FROM credit_usage_attribution WHERE org_id = 'acme'"
            ) == 5 + sum(spent.values())
        # Also when the live side has forgotten: the books give back what was charged again.
        outcomes = cells.a.keys("acme")
        await cells.a.stores.redis.delete(outcomes.outcomes, outcomes.outcomes_old)
        for request_id in ids[:3]:
            assert not (await in_a.charge("acme", "ann", 10, request_id=request_id)).replayed
        await cells.assert_books()
        assert await cells.a.used("ann", "acme") == spent["ann"]
        await in_a.charge("globex", "eve", 5)
    await cells.assert_books()
    assert await cells.a.pool.fetchval("SELECT count(*) FROM taximeter.receivers") == 1
    # Nobody is told of what only came over.
    told = "SELECT type FROM taximeter.notices WHERE type LIKE 'key.%' OR type LIKE 'member.%'"
    assert await cells.b.pool.fetch(told) == []


async def test_what_was_taken_away_elsewhere_does_not_come_back(
    cells: Cells, redis_url: str
) -> None:
    """Usage that was deleted by hand in the other cell is still in the record of this one."""
    await cells.organization("acme", ann=1_000)
    await cells.a.charge("ann", 10)
    await cells.move("acme")
    await cells.b.pool.execute(
        "DELETE FROM credit_usage_attribution WHERE org_id = 'acme' AND service_name = 'old'"
    )
    before = await cells.a.pool.fetch("SELECT * FROM credit_usage_attribution ORDER BY id")
    with pytest.raises(moves.CannotMove, match=r"public\.credit_usage_attribution: "):
        await cells.move("acme", back=True)
    assert await cells.lives_in("acme") == ["b"]
    assert before == await cells.a.pool.fetch("SELECT * FROM credit_usage_attribution ORDER BY id")
    await cells.assert_books()


async def test_a_move_that_was_undone_meanwhile_decides_nothing(
    cells: Cells, redis_url: str
) -> None:
    """Whoever froze before the decision and wakes after somebody has undone it."""
    await cells.organization("acme", ann=1_000)

    async def at(step: str) -> None:
        if step in ("closed", "proved"):
            row = await cells.a.pool.fetchrow(
                "SELECT id, state FROM taximeter.cell_moves ORDER BY started_at DESC LIMIT 1"
            )
            assert row is not None
            if step == first[0]:
                assert await moves.undo(cells.a.pool, cells.a.stores, "acme", row["id"])

    async with cells.meters(redis_url) as (in_a, in_b):
        for frozen_at in ("closed", "proved"):
            first = [frozen_at]
            await in_a.reserve("acme", "ann", 100, request_id=f"open-{frozen_at}")
            with pytest.raises(moves.CannotMove, match="undone meanwhile"):
                await cells.move("acme", at=at)
            assert await cells.lives_in("acme") == ["a"]
            await in_a.charge("acme", "ann", 1)
            with pytest.raises(AccountNotFound):
                await in_b.charge("acme", "ann", 1)
        assert (await in_a.balance("acme", "ann")).held == 200
        await cells.move("acme")
        assert (await in_b.balance("acme", "ann")).held == 200
    await cells.assert_books()


async def test_a_server_that_lacks_a_departure_lets_nobody_in(cells: Cells, redis_url: str) -> None:
    """A replica that was promoted without the closing of the accounts, and has all events."""
    await cells.organization("acme", ann=1_000)
    redis, keys = cells.a.stores.redis, cells.a.keys()
    async with cells.meters(redis_url) as (in_a, in_b):
        await in_a.charge("acme", "ann", 10)
        await in_a.reserve("acme", "ann", 100, request_id="open")
        await cells.a.settle()
        before = {key: await redis.dump(key) for key in (keys.accounts, keys.meta)}
        assert await cells.killed_at("acme", "read")
        for key, value in before.items():
            await redis.restore(key, 0, value, replace=True)
        assert (await guard(cells.a.stores, 0, 1)).action == "rebuilt"
        with pytest.raises(OrganizationMoves):
            await in_a.charge("acme", "ann", 1)
        # Finished by whoever comes next, with the hold that was open.
        await cells.move("acme")
        assert await cells.lives_in("acme") == ["b"]
        assert (await in_b.commit("acme", "ann", "open", 40)).charged == 40
        # And once more after it has left: the server of long ago is opened without it.
        for key, value in before.items():
            await redis.restore(key, 0, value, replace=True)
        assert (await guard(cells.a.stores, 0, 1)).action == "rebuilt"
        with pytest.raises(WrongCell):
            await in_a.charge("acme", "ann", 1)
        with pytest.raises(WrongCell):
            await in_a.commit("acme", "ann", "open", 40)
    await cells.assert_books()


async def test_it_moves_under_traffic(cells: Cells, redis_url: str) -> None:
    """Callers go on under the same ids: at the new address once they are told."""
    await cells.organization("acme", **{f"user{number}": 10_000 for number in range(6)})
    await cells.organization("globex", eve=10_000)
    charged, undisturbed, moved = 0, 0, asyncio.Event()
    async with (
        cells.meters(redis_url) as (in_a, in_b),
        settling(cells.a, "guard", "moves", "cell_moves"),
        settling(cells.b, "guard", "moves", "cell_moves"),
    ):

        async def until_told(meter: list[Meter], use: Callable[[Meter], Awaitable[T]]) -> T:
            while True:
                try:
                    return await use(meter[0])
                except OrganizationMoves:
                    await asyncio.sleep(0.005)
                except WrongCell as wrong:
                    meter[0] = in_b if wrong.cell == "b" else in_a

        async def caller(user: str) -> None:
            nonlocal charged
            meter, number = [in_a], 0

            async def reserve(one: Meter) -> None:
                with suppress(RequestReplayed):
                    await one.reserve("acme", user, 9, request_id=f"{user}-{number}")

            async def commit(one: Meter) -> Receipt:
                return await one.commit("acme", user, f"{user}-{number}", 2)

            while not (moved.is_set() and meter[0] is in_a and number % 3 == 0):
                number += 1
                await until_told(meter, reserve)
                receipt = await until_told(meter, commit)
                charged += receipt.charged

        async def neighbour() -> None:
            nonlocal undisturbed
            while not moved.is_set():
                await in_a.charge("globex", "eve", 1)
                undisturbed += 1

        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(caller(f"user{number}"))
            group.create_task(neighbour())
            await cells.move("acme")
            there = charged
            await eventually(lambda: _has_grown(lambda: charged, there))
            await cells.move("acme", back=True)
            moved.set()
    await cells.assert_books()
    assert undisturbed
    assert await cells.lives_in("acme") == ["a"]
    used = await cells.a.pool.fetchval(
        "SELECT sum(used_credits) FROM user_credit_allocations WHERE org_id = 'acme'"
    )
    assert used == charged
    for world in (cells.a, cells.b):
        assert await world.stores.redis.hlen(world.keys("acme").holds) == 0


async def _has_grown(figure: Callable[[], int], since: int) -> bool:
    return figure() > since
