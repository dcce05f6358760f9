"""Whatever happens to usage, every rollup is a recount of the rows and of what was dropped."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from settler_world import World

ORGS, USERS = ("acme", "beta"), ("ann", "bob")
STEPS = 80

Totals = Counter[tuple[str, str]]


class Traffic:
    """Random things that people, gateways and operators do, and what usage they come to."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.expected: Totals = Counter()
        """(organisation, user) -> millicredits, dropped and deleted rows left out of it."""
        self.requests: Totals = Counter()
        self.number = 0

    def someone(self) -> tuple[str, str]:
        return self.dice.choice(ORGS), self.dice.choice(USERS)

    def note(self, account: tuple[str, str], amount: int) -> None:
        self.expected[account] += amount
        self.requests[account] += 1

    async def charge(self) -> None:
        for _ in range(self.dice.randint(1, 5)):
            account, amount = self.someone(), self.dice.randint(0, 9)
            await self.world.charge(account[1], amount, org_id=account[0])
            self.note(account, amount)

    async def deduct(self) -> None:
        """Also the same request again, which is no second one."""
        account, amount = self.someone(), self.dice.randint(1, 9)
        self.number += 1
        for _ in range(self.dice.randint(1, 2)):
            done = await self.world.pool.fetchval(
                "SELECT success FROM deduct_credits($1, $2, $3, 'sql', 'm', $4, '{}')",
                *account,
                amount,
                f"sql-{self.number}",
            )
            assert done
        self.note(account, amount)

    async def write_by_hand(self) -> None:
        """Usage of another day, mostly months ago."""
        account, amount = self.someone(), self.dice.randint(0, 9)
        at = datetime.now(UTC) - timedelta(days=self.dice.randint(0, 200))
        await self.world.pool.execute(
            "INSERT INTO credit_usage_attribution"
            " (org_id, user_id, service_type, service_name, credits_used, created_at)"
            " VALUES ($1, $2, 'by_hand', $3, $4, $5)",
            *account,
            self.dice.choice("mn"),
            amount,
            at,
        )
        self.note(account, amount)

    async def delete(self) -> None:
        """A few rows, as the guide's clean-up deletes all of an organisation."""
        gone = await self.world.pool.fetch(
            "DELETE FROM credit_usage_attribution WHERE id IN (SELECT id"
            " FROM credit_usage_attribution ORDER BY md5(id::text || $1) LIMIT 3)"
            " RETURNING org_id, user_id, credits_used",
            str(self.dice.random()),
        )
        for org_id, user_id, amount in gone:
            self.expected[org_id, user_id] -= amount
            self.requests[org_id, user_id] -= 1

    async def close(self) -> None:
        """Charges that are on their way then go to a closed row."""
        org_id, user_id = self.someone()
        await self.world.pool.execute(
            "UPDATE user_credit_allocations SET is_active = false"
            " WHERE org_id = $1 AND user_id = $2 AND is_active",
            org_id,
            user_id,
        )
        await self.world.pool.execute(
            "SELECT allocate_credits_to_user($1, $2, 100000, 'boss')", org_id, user_id
        )
        await self.world.relay()

    async def settle(self) -> None:
        await self.world.settle()

    async def make_month(self) -> None:
        await self.world.pool.execute(
            "SELECT taximeter.make_attribution_month((now() - make_interval(months => $1))::date)",
            self.dice.randint(2, 6),
        )

    async def drop_months(self) -> None:
        """All before one of the last months: the totals stay, so nothing is taken off here."""
        before = (datetime.now(UTC) - timedelta(days=self.dice.randint(70, 200))).date()
        months = await self.world.pool.fetch(
            "SELECT month FROM taximeter.usage_months()"
            " WHERE month < date_trunc('month', $1::date::timestamp)",
            before,
        )
        for (month,) in months:
            await self.world.pool.execute("SELECT taximeter.drop_attribution_month($1)", month)

    async def prove(self) -> None:
        await self.world.settle()
        await self.world.relay()
        rows = await self.world.pool.fetch(
            "SELECT org_id, user_id, sum(requests) AS requests, sum(credits_used) AS credits"
            "  FROM taximeter.usage_daily GROUP BY 1, 2"
        )
        assert {row[:2]: (int(row[2]), int(row[3])) for row in rows} == {
            account: (count, self.expected[account])
            for account, count in self.requests.items()
            if count
        }
        report = await self.world.check()
        wrong = {one.name: one.violations for one in report.invariants if not one.holds}
        assert not wrong


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_rollups_are_a_recount_after_random_traffic(world: World, seed: int) -> None:
    for org_id in ORGS:
        await world.organization(org_id, **dict.fromkeys(USERS, 100_000))
    traffic = Traffic(world, seed)
    steps = [
        *[traffic.charge] * 6,
        *[traffic.settle] * 3,
        *[traffic.deduct] * 3,
        *[traffic.write_by_hand] * 4,
        traffic.delete,
        traffic.close,
        traffic.make_month,
        traffic.drop_months,
    ]
    for number in range(STEPS):
        await traffic.dice.choice(steps)()
        if number % 20 == 19:
            await traffic.prove()
    dropped = await world.pool.fetchval("SELECT count(*) FROM taximeter.dropped_months")
    assert dropped > 0, "the dice never dropped a month: another seed"
