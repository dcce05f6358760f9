"""Meter, settler, Postgres and Redis together, with crashes anywhere: the books always hold.

What a caller was told is kept aside: at the end of every run the ledger has each request once, with
the amount that was acknowledged, unless Redis was emptied in that run, or Postgres was put back to
a copy after the stream had been trimmed of what that copy lacks. What nobody was told is never in
it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from property.running import MACHINE_S, run_machine
from redis.asyncio import Redis
from support.servers import with_database

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import (
    AccountNotFound,
    InsufficientCredits,
    LoadedAccount,
    Meter,
    MeterSettings,
    OutcomeUnknown,
    RequestConflict,
    RequestReplayed,
    UnknownHold,
    Usage,
)
from taximeter.meter.wire.keys import account_field, shard_of
from taximeter.settler.books.accounts import account_loader, last_applied
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.closing import Closed, close_all
from taximeter.settler.moves.moves import KeyUsed, LiveSideAway, move, undo_left
from taximeter.settler.moves.records import Request
from taximeter.settler.moves.relay import relay
from taximeter.settler.proof.check import CheckLimits, check
from taximeter.settler.settling.settle import settle_shard
from taximeter.settler.settling.trim import trim
from taximeter.settler.shards.fill import Filler
from taximeter.settler.shards.guardian import ensure_shards, guard
from taximeter.settler.worker.sweep import rotate, sweep

T = TypeVar("T")
SHARDS = 2
REFUSALS = (
    AccountNotFound,
    InsufficientCredits,
    RequestConflict,
    RequestReplayed,
    UnknownHold,
)
runs = itertools.count()
users = st.sampled_from(["ann", "bob"])
requests = st.sampled_from(["r1", "r2", "r3"])
amounts = st.sampled_from([0, 1, 30, 70, 100])
USAGE = Usage("test", "model", {"run": 1})


@contextmanager
def refusals() -> Iterator[None]:
    """Notes what is refused. An operation that was sent to a server which died is never told that
    it was refused: asked again and refused, it ends as unknown. Here nothing was done then, since
    the server is dead before the operation is sent; what the ledger says at the end proves it.
    """
    try:
        yield
    except REFUSALS as refusal:
        note(f"refused: {refusal!r}")
    except OutcomeUnknown as unknown:
        asked_again = "asked again, the answer was" in str(unknown)
        if not asked_again and not isinstance(unknown.__cause__, AccountNotFound):
            raise
        note(f"refused: {unknown!r}")


class SystemMachine(RuleBasedStateMachine):
    """Two organisations on two shards, whose users spend while everything breaks."""

    server: EmbeddedValkey
    database_url: str
    loop: asyncio.AbstractEventLoop

    @initialize()
    def start(self) -> None:
        run = next(runs)
        self.orgs = [f"one-{run}", f"two-{run}"]
        self.acknowledged: dict[tuple[str, str], list[int]] = {}
        self.emptied = False
        self.copied = False
        self.trimmed = False
        self.lacks = False
        self.run(self._start())

    async def _start(self) -> None:
        self.redis = Redis.from_url(self.server.url)
        await self._open_pool()
        await ensure_shards(self.stores, SHARDS)
        await self._guard()
        self.meter = await self._connect()
        for org in self.orgs:
            await self.pool.execute(
                "INSERT INTO organizations (id, org_name, slug, created_by)"
                " VALUES ($1, $1, $1, 'x')",
                org,
            )
            await self.pool.execute("SELECT add_credits_to_pool($1, 2000, 20.00)", org)
            await self.pool.execute("SELECT allocate_credits_to_user($1, 'ann', 300, 'x')", org)
            await self.pool.execute(
                "INSERT INTO organization_members (org_id, user_id)"
                " VALUES ($1, 'ann'), ($1, 'bob')",
                org,
            )

    async def _open_pool(self) -> None:
        self.pool = await asyncpg.create_pool(self.database_url, min_size=1, max_size=6)
        self.stores = Stores(self.pool, self.redis, "tm")

    async def _connect(self) -> Meter:
        async def load(org_id: str, user_id: str) -> LoadedAccount | None:
            return await account_loader(self.pool)(org_id, user_id)

        return await Meter.connect(self.server.url, loader=load, settings=MeterSettings())

    async def _guard(self) -> None:
        for shard in range(SHARDS):
            outcome = await guard(self.stores, shard, SHARDS)
            assert outcome.usable, outcome

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 120))

    # What users do.

    @rule(org=st.sampled_from([0, 1]), user=users, request=requests, amount=amounts)
    def charge(self, org: int, user: str, request: str, amount: int) -> None:
        self.run(self._charge(self.orgs[org], user, request, amount))

    async def _charge(self, org: str, user: str, request: str, amount: int) -> None:
        with refusals():
            await self.meter.charge(org, user, amount, request_id=request, usage=USAGE)
            self.acknowledged.setdefault((org, request), []).append(amount)

    @rule(org=st.sampled_from([0, 1]), user=users, request=requests, amount=amounts)
    def reserve(self, org: int, user: str, request: str, amount: int) -> None:
        async def work() -> None:
            with refusals():
                await self.meter.reserve(self.orgs[org], user, amount, request_id=request)

        self.run(work())

    @rule(org=st.sampled_from([0, 1]), user=users, request=requests, amount=amounts)
    def commit(self, org: int, user: str, request: str, amount: int) -> None:
        self.run(self._commit(self.orgs[org], user, request, amount))

    async def _commit(self, org: str, user: str, request: str, amount: int) -> None:
        with refusals():
            receipt = await self.meter.commit(org, user, request, amount, usage=USAGE)
            self.acknowledged.setdefault((org, request), []).append(receipt.charged)

    @rule(org=st.sampled_from([0, 1]), user=users, request=requests)
    def release(self, org: int, user: str, request: str) -> None:
        async def work() -> None:
            with refusals():
                await self.meter.release(self.orgs[org], user, request)

        self.run(work())

    # What operators do.

    @rule(org=st.sampled_from([0, 1]), user=users, amount=st.sampled_from([1, 50, 400]))
    def allocate(self, org: int, user: str, amount: int) -> None:
        self._sql("SELECT allocate_credits_to_user($1, $2, $3, 'x')", self.orgs[org], user, amount)

    @rule(org=st.sampled_from([0, 1]), user=users, amount=st.sampled_from([1, 50]))
    def deduct(self, org: int, user: str, amount: int) -> None:
        self._sql(
            "SELECT deduct_credits($1, $2, $3, 'back', 'office', NULL, '{}')",
            self.orgs[org],
            user,
            amount,
        )

    @rule(org=st.sampled_from([0, 1]), user=users, delta=st.sampled_from([-40, 25]))
    def raw_update(self, org: int, user: str, delta: int) -> None:
        self._sql(
            "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + $3"
            " WHERE org_id = $1 AND user_id = $2 AND is_active",
            self.orgs[org],
            user,
            delta,
        )

    @rule(org=st.sampled_from([0, 1]), user=users)
    def expire_allocation(self, org: int, user: str) -> None:
        self._sql(
            "UPDATE user_credit_allocations SET expires_at = now() - interval '1 day'"
            " WHERE org_id = $1 AND user_id = $2 AND is_active",
            self.orgs[org],
            user,
        )
        self._sql("SELECT deactivate_expired_allocations()")

    @rule(
        org=st.sampled_from([0, 1]),
        users=st.sampled_from([("ann", "bob"), ("bob", "ann"), ("ann", None)]),
        amount=st.sampled_from([1, 50, 200]),
        key=st.sampled_from([None, "k1", "k2"]),
        steps=st.one_of(st.none(), st.integers(0, 60)),
    )
    def move(
        self,
        org: int,
        users: tuple[str, str | None],
        amount: int,
        key: str | None,
        steps: int | None,
    ) -> None:
        """A transfer or a deallocation, whole or cut off, twice at once."""
        source, target = users
        request = Request(
            self.orgs[org],
            "transfer" if target else "deallocation",
            source,
            amount,
            "x",
            to_user=target,
            key=key,
        )

        async def work() -> None:
            try:
                ended = await move(self.stores, request)
                note(f"moved: {ended.state} {ended.reason}")
            except (KeyUsed, LiveSideAway) as refusal:
                note(f"refused: {refusal!r}")

        self.run(self._cut_off([work(), work()], steps))

    @rule(
        org=st.sampled_from([0, 1]),
        user=users,
        why=st.sampled_from(["removal", "expiry"]),
        steps=st.one_of(st.none(), st.integers(0, 60)),
    )
    def close(self, org: int, user: str, why: str, steps: int | None) -> None:
        self._sql(
            "SELECT taximeter.begin_closing(id, $3) FROM user_credit_allocations"
            " WHERE org_id = $1 AND user_id = $2 AND is_active",
            self.orgs[org],
            user,
            why,
        )
        self.run(self._cut_off([close_all(self.stores, Closed())], steps))

    @rule()
    def moves_that_were_left_are_undone(self) -> None:
        self.run(undo_left(self.stores, grace_s=0.0))

    def _sql(self, statement: str, *arguments: object) -> None:
        async def work() -> None:
            try:
                await self.pool.execute(statement, *arguments)
            except (asyncpg.RaiseError, asyncpg.CheckViolationError) as refusal:
                note(f"refused: {refusal}")

        self.run(work())

    # What the settler does, whole or cut off after some steps of the event loop.

    @rule(steps=st.one_of(st.none(), st.integers(0, 60)))
    def settle(self, steps: int | None) -> None:
        self.run(
            self._cut_off(
                [settle_shard(self.stores, shard, batch_events=2) for shard in range(SHARDS)], steps
            )
        )

    @rule(steps=st.one_of(st.none(), st.integers(0, 40)))
    def relay(self, steps: int | None) -> None:
        self.run(self._cut_off([relay(self.stores), relay(self.stores)], steps))

    @rule(steps=st.one_of(st.none(), st.integers(0, 40)))
    def accounts_are_compared(self, steps: int | None) -> None:
        self.run(self._cut_off([self._walk()], steps))

    async def _walk(self) -> None:
        filler = Filler(self.stores, page_accounts=2)
        await filler.fill()

    async def _cut_off(self, work: list[Coroutine[Any, Any, Any]], steps: int | None) -> None:
        """Run at once; after `steps` turns of the event loop, cancel what is not done."""
        tasks = [asyncio.ensure_future(one) for one in work]
        if steps is not None:
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    @rule()
    def overdue_holds_end(self) -> None:
        async def work() -> None:
            for shard in range(SHARDS):
                deadlines = self.stores.keys(shard).deadlines
                due = await self.stores.redis.zrange(deadlines, 0, -1)
                if due:
                    await self.stores.redis.zadd(deadlines, dict.fromkeys(due, 1))
                await sweep(self.stores, shard, await self._epoch(shard))

        self.run(work())

    @rule()
    def outcomes_are_forgotten(self) -> None:
        async def work() -> None:
            for shard in range(SHARDS):
                for _ in range(2):
                    await self.stores.redis.hset(self.stores.keys(shard).meta, "rotated_ms", 0)
                    await rotate(self.stores, shard, await self._epoch(shard), window_s=1.0)

        self.run(work())

    @rule()
    def settled_events_are_trimmed(self) -> None:
        self.trimmed = True

        async def work() -> None:
            for shard in range(SHARDS):
                await trim(self.stores, shard, retention_s=0.0, retention_max=0)

        self.run(work())

    async def _epoch(self, shard: int) -> int:
        return int(await self.stores.redis.hget(self.stores.keys(shard).meta, "epoch"))

    # What breaks.

    @rule()
    def redis_is_killed(self) -> None:
        self.server.kill()
        self.server.start()
        self.run(self._guard())

    @rule(org=st.sampled_from([0, 1]), user=users)
    def a_restart_loses_what_was_relayed(self, org: int, user: str) -> None:
        """Nobody else was answered meanwhile."""

        async def work() -> None:
            await relay(self.stores)
            keys = [key for shard in range(SHARDS) for key in self.stores.keys(shard).batch()]
            kept = {key: await self.redis.dump(key) for key in keys}
            amount = "SELECT allocate_credits_to_user($1, $2, 7, 'x')"
            await self.pool.execute(amount, self.orgs[org], user)
            await relay(self.stores)
            await self.redis.delete(*keys)
            for key, value in kept.items():
                if value is not None:
                    await self.redis.restore(key, 0, value)

        self.run(work())
        self.redis_is_killed()

    @rule()
    @precondition(lambda self: not self.emptied)
    def redis_is_emptied(self) -> None:
        """Acknowledged charges that were not settled are lost, and nothing else goes wrong."""
        self.emptied = True

        async def work() -> None:
            await self.stores.redis.flushall()
            await self._guard()

        self.run(work())

    @rule()
    @precondition(lambda self: not self.copied)
    def postgres_is_copied(self) -> None:
        self.copied, self.trimmed = True, False
        self.run(self._with_no_session('CREATE DATABASE "{copy}" TEMPLATE "{name}"'))

    @rule()
    @precondition(lambda self: self.copied)
    def postgres_is_put_back(self) -> None:
        """What it lacks is charged again from the stream, as long as that has it. The server has
        written on: no position in its log shows that this database went back. Redis has been given
        credits that it knows nothing of: they are gone, or the books do not hold.
        """
        self.copied, self.lacks = False, self.lacks or self.trimmed
        self._sql("SELECT add_credits_to_pool($1, 7, 0.07)", self.orgs[0])
        self._sql("SELECT allocate_credits_to_user($1, 'ann', 7, 'x')", self.orgs[0])

        async def work() -> None:
            await relay(self.stores)
            await self._with_no_session(
                'DROP DATABASE "{name}"', 'ALTER DATABASE "{copy}" RENAME TO "{name}"'
            )
            await self._guard()

        self.run(work())

    async def _with_no_session(self, *statements: str) -> None:
        """Change databases as a whole, between two pools."""
        name = urlsplit(self.database_url).path.removeprefix("/")
        await self.pool.close()
        admin = await asyncpg.connect(with_database(self.database_url, "postgres"))
        try:
            for statement in statements:
                await admin.execute(statement.format(name=name, copy=f"{name}_copy"))
        finally:
            await admin.close()
            await self._open_pool()

    @rule()
    def the_client_is_replaced(self) -> None:
        async def work() -> None:
            await self.meter.aclose()
            self.meter = await self._connect()

        self.run(work())

    @invariant()
    def the_books_hold(self) -> None:
        if hasattr(self, "meter"):
            self.run(self._prove())

    async def _prove(self) -> None:
        report = await check(self.stores, CheckLimits(loss_alarm_s=0.0, hold_grace_s=3_600.0))
        violations = [f"{one.name}: {one.violations}" for one in report.invariants if not one.holds]
        assert not violations, violations

    def teardown(self) -> None:
        if hasattr(self, "meter"):
            self.run(self._finish())

    async def _finish(self) -> None:
        try:
            for shard in range(SHARDS):
                await settle_shard(self.stores, shard)
            await undo_left(self.stores, grace_s=0.0)
            await self._walk()
            await relay(self.stores)
            await self._prove()
            await self._every_entry_is_live()
            await self._compare_with_what_was_told()
        finally:
            await self.meter.aclose()
            if self.copied:
                await self._with_no_session('DROP DATABASE "{copy}"')
            await self.redis.aclose()
            await self.pool.close()

    async def _every_entry_is_live(self) -> None:
        for org_id, user_id, last in await self.pool.fetch(
            "SELECT org_id, user_id, entry_seq FROM taximeter.accounts WHERE org_id = ANY ($1)",
            self.orgs,
        ):
            keys = self.stores.keys(shard_of(org_id, SHARDS))
            record = await self.redis.hget(keys.accounts, account_field(org_id, user_id))
            assert last_applied(record) == last, (org_id, user_id, record)

    async def _compare_with_what_was_told(self) -> None:
        """Each request once, with the first amount that was acknowledged. A repeat that Redis has
        forgotten may be acknowledged too, and takes the place of the first if that one was lost.
        """
        rows = await self.pool.fetch(
            "SELECT org_id, request_id, sum(credits_used)::bigint AS amount"
            " FROM credit_usage_attribution WHERE shard IS NOT NULL AND org_id = ANY ($1)"
            " GROUP BY 1, 2",
            self.orgs,
        )
        ledger = {(row["org_id"], row["request_id"]): row["amount"] for row in rows}
        if not self.emptied and not self.lacks:
            assert ledger == {key: told[0] for key, told in self.acknowledged.items()}
        for key, amount in ledger.items():
            assert amount in self.acknowledged.get(key, []), f"{key}: {amount} was told to nobody"


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.hypothesis
@pytest.mark.own_database
@pytest.mark.timeout(MACHINE_S)
def test_the_books_hold_whatever_happens(tmp_path: Path, database_url: str) -> None:
    SystemMachine.database_url = database_url
    run_machine(SystemMachine, tmp_path / "valkey", examples=10, steps=25)
