"""Plain SQL: what an operator types reaches the live balance and the pool."""

from __future__ import annotations

import pytest
from asyncpg import (
    CheckViolationError,
    IntegrityConstraintViolationError,
    RestrictViolationError,
    UniqueViolationError,
)
from support.books import Books


async def test_raising_an_allocation_takes_from_the_pool(books: Books) -> None:
    await books.open(1000, 100)
    await books.run("UPDATE user_credit_allocations SET allocated_credits = 250")
    assert await books.totals() == (1000, 250, 0, 750)
    assert await books.entries() == [(1, 100, "allocation"), (2, 150, "allocation")]


async def test_lowering_an_allocation_gives_back(books: Books) -> None:
    await books.open(1000, 100)
    await books.run("UPDATE user_credit_allocations SET allocated_credits = 30")
    assert await books.totals() == (1000, 30, 0, 970)
    assert await books.live() == 30


async def test_an_increase_that_the_pool_cannot_pay_is_refused(books: Books) -> None:
    await books.open(1000, 100)
    with pytest.raises(CheckViolationError, match="need 901 millicredits, have 900") as caught:
        await books.run("UPDATE user_credit_allocations SET allocated_credits = 1001")
    assert caught.value.constraint_name == "pool_can_pay"
    await books.run("UPDATE user_credit_allocations SET allocated_credits = 1000")


async def test_changing_used_reaches_balance_pool_and_the_books(books: Books) -> None:
    await books.open(1000, 100)
    await books.run("UPDATE user_credit_allocations SET used_credits = 40")
    await books.run("UPDATE user_credit_allocations SET used_credits = 15")
    assert await books.totals() == (1000, 100, 15, 900)
    assert [entry[1:] for entry in await books.entries()] == [
        (100, "allocation"),
        (-40, "correction"),
        (25, "correction"),
    ]
    assert await books.value("SELECT used_by_hand FROM taximeter.accounts") == 15


async def test_a_change_of_neither_sum_is_no_entry(books: Books) -> None:
    await books.open(1000, 100)
    await books.run(
        "UPDATE user_credit_allocations SET expires_at = now(), auto_renew = true,"
        " allocated_credits = 100, user_id = 'ann'"
    )
    assert await books.entries() == [(1, 100, "allocation")]


async def test_closing_by_the_flag_alone_gives_the_rest_back(books: Books) -> None:
    await books.open(1000, 100)
    await books.deduct(30, "req-1")
    await books.run("UPDATE user_credit_allocations SET is_active = FALSE")
    assert await books.row(
        "SELECT allocated_credits, used_credits, remaining_credits FROM user_credit_allocations"
    ) == (30, 30, 0)
    assert await books.totals() == (1000, 0, 30, 970)
    assert (await books.entries())[-1] == (3, -70, "closing")


async def test_closing_a_fresh_allocation_leaves_an_empty_row(books: Books) -> None:
    await books.open(1000, 100)
    await books.run("UPDATE user_credit_allocations SET is_active = FALSE, allocated_credits = 500")
    assert await books.totals() == (1000, 0, 0, 1000)
    assert await books.live() == 0


async def test_a_closed_row_may_be_opened_again_with_nothing_left(books: Books) -> None:
    await books.open(1000, 100)
    await books.deduct(30, "req-1")
    await books.run("UPDATE user_credit_allocations SET is_active = FALSE")
    await books.run("UPDATE user_credit_allocations SET is_active = TRUE, allocated_credits = 80")
    assert await books.live() == 50
    assert await books.totals() == (1000, 80, 30, 920)


async def test_a_closed_row_cannot_keep_credits(books: Books) -> None:
    await books.open(1000, 100)
    await books.run("UPDATE user_credit_allocations SET is_active = FALSE")
    with pytest.raises(CheckViolationError, match="closed_allocation_has_nothing_left"):
        await books.run("UPDATE user_credit_allocations SET allocated_credits = 1")
    with pytest.raises(CheckViolationError, match="closed_allocation_has_nothing_left"):
        await books.run(
            "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, is_active)"
            " VALUES ('org', 'bob', 1, false)"
        )


async def test_inserting_a_row_takes_from_the_pool(books: Books) -> None:
    await books.open(1000)
    await books.run(
        "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits, used_credits)"
        " VALUES ('org', 'ann', 300, 10), ('org', 'bob', 200, 0), ('org', 'cid', 0, 0)"
    )
    assert await books.totals() == (1000, 500, 10, 500)
    assert await books.live("ann") == 290
    assert await books.entries("cid") == []
    with pytest.raises(CheckViolationError, match="need 501 millicredits, have 500"):
        await books.run(
            "INSERT INTO user_credit_allocations (org_id, user_id, allocated_credits)"
            " VALUES ('org', 'dee', 501)"
        )


async def test_one_active_row_a_user_and_any_number_of_closed_ones(books: Books) -> None:
    await books.open(1000, 100)
    with pytest.raises(UniqueViolationError, match="one_active_allocation_per_user"):
        await books.run(
            "INSERT INTO user_credit_allocations (org_id, user_id) VALUES ('org', 'ann')"
        )
    for _ in range(3):
        await books.run(
            "INSERT INTO user_credit_allocations (org_id, user_id, is_active)"
            " VALUES ('org', 'ann', false)"
        )


async def test_deleting_a_row_takes_its_live_balance_and_its_part_of_the_pool(books: Books) -> None:
    await books.open(1000, 100)
    await books.deduct(30, "req-1")
    await books.run("DELETE FROM user_credit_allocations")
    assert await books.totals() == (1000, 0, 0, 1000)
    assert (await books.entries())[-1] == (3, -70, "deletion")
    assert await books.live() == 0
    # The attribution is still there: the books know that its sum is not in `used` any more.
    assert await books.value("SELECT used_by_hand FROM taximeter.accounts") == -30


async def test_the_guides_transfer_by_two_updates(books: Books) -> None:
    await books.open(1000, 600)
    await books.allocate(400, user="bob")
    move = (
        "UPDATE user_credit_allocations SET allocated_credits = allocated_credits + $1::bigint"
        " WHERE org_id = 'org' AND user_id = $2 AND is_active = TRUE"
        " AND (allocated_credits - used_credits) >= -$1::bigint"
        " RETURNING allocated_credits - used_credits"
    )
    async with books.pool.acquire() as conn, conn.transaction():
        assert await conn.fetchval(move, -250, "ann") == 350
        assert await conn.fetchval(move, 250, "bob") == 650
    assert await books.totals() == (1000, 1000, 0, 0)
    assert (await books.live("ann"), await books.live("bob")) == (350, 650)


async def test_kind_and_reference_can_be_given_for_a_transaction(books: Books) -> None:
    await books.open(1000, 600)
    async with books.pool.acquire() as conn, conn.transaction():
        await conn.execute(
            "SET LOCAL taximeter.entry_kind = 'transfer';"
            " SET LOCAL taximeter.entry_reference = 't1'"
        )
        await conn.execute("UPDATE user_credit_allocations SET allocated_credits = 500")
    await books.run("UPDATE user_credit_allocations SET allocated_credits = 400")
    assert await books.rows(
        "SELECT kind, reference FROM taximeter.account_entries ORDER BY entry_seq"
    ) == [("allocation", None), ("transfer", "t1"), ("allocation", None)]


@pytest.mark.parametrize(
    "change", ["org_id = 'other'", "user_id = 'bob'", "id = gen_random_uuid()"]
)
async def test_an_allocation_keeps_its_owner(books: Books, change: str) -> None:
    await books.open(1000, 100)
    await books.open(1000, org="other")
    with pytest.raises(RestrictViolationError, match="keeps its id, organisation and user"):
        await books.run(f"UPDATE user_credit_allocations SET {change}")


@pytest.mark.parametrize("column", ["allocated_credits", "used_credits"])
async def test_the_sums_of_a_pool_are_not_written_by_hand(books: Books, column: str) -> None:
    await books.open(1000, 100)
    with pytest.raises(RestrictViolationError, match="sums of allocations; change those"):
        await books.run(f"UPDATE organization_credit_pools SET {column} = {column} + 1")
    await books.open(0, org="other")
    with pytest.raises(RestrictViolationError, match="sums of allocations and start at 0"):
        await books.run(
            f"INSERT INTO organization_credit_pools (org_id, total_credits, {column})"
            " VALUES ('other', 5, 5)"
        )


async def test_the_total_of_a_pool_covers_what_is_allocated(books: Books) -> None:
    await books.open(1000, 400)
    await books.run("UPDATE organization_credit_pools SET total_credits = 400")
    with pytest.raises(RestrictViolationError, match="would fall below what is allocated"):
        await books.run("UPDATE organization_credit_pools SET total_credits = 399")
    await books.run("UPDATE organization_credit_pools SET total_credits = 2000")
    assert await books.totals() == (2000, 400, 0, 1600)


async def test_a_pool_above_its_allocations_is_not_deleted(books: Books) -> None:
    await books.open(1000, 400)
    with pytest.raises(IntegrityConstraintViolationError, match="allocation_has_a_pool"):
        await books.run("DELETE FROM organization_credit_pools")


async def test_an_organisation_with_money_or_members_is_not_deleted(books: Books) -> None:
    await books.open(1000, 400)
    await books.run("INSERT INTO organization_members (org_id, user_id) VALUES ('org', 'ann')")
    await books.run(
        "INSERT INTO organization_subscriptions (org_id, plan_code, plan_name, monthly_price)"
        " VALUES ('org', 'pro', 'Pro', 49.00)"
    )
    for table in (
        "organization_members",
        "organization_subscriptions",
        "user_credit_allocations",
        "organization_credit_pools",
    ):
        with pytest.raises(IntegrityConstraintViolationError, match="has_an_organization"):
            await books.run("DELETE FROM organizations")
        await books.run(f"DELETE FROM {table}")
    await books.run("DELETE FROM organizations")


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("organization_members", "(org_id, user_id) VALUES ('org', 'ann')"),
        (
            "organization_subscriptions",
            "(org_id, plan_code, plan_name, monthly_price) VALUES ('org', 'pro', 'Pro', 49.00)",
        ),
        ("organization_credit_pools", "(org_id, total_credits) VALUES ('org', 5)"),
    ],
)
async def test_nothing_goes_with_its_organisation(books: Books, table: str, row: str) -> None:
    """Each alone stands in the way: no other one is there to refuse for it."""
    await books.run(
        "INSERT INTO organizations (id, org_name, slug, created_by)"
        " VALUES ('org', 'Org', 'org', 'test')"
    )
    await books.run(f"INSERT INTO {table} {row}")
    with pytest.raises(IntegrityConstraintViolationError, match="has_an_organization"):
        await books.run("DELETE FROM organizations")
    assert await books.value(f"SELECT count(*) FROM {table}") == 1


async def test_numbers_go_on_when_an_organisation_is_made_again(books: Books) -> None:
    """The live side has applied entry 3: a second entry 1 would be taken for a repetition."""
    for life in range(3):
        await books.open(1000, 500)
        assert await books.deduct(50, "req-1") == (True, 450), life
        await books.clean_up()
        assert await books.live() == 0
        assert await books.value("SELECT entry_seq FROM taximeter.accounts") == 3 * (life + 1)
    for table in ("usage_daily", "charged_requests"):
        assert await books.value(f"SELECT count(*) FROM taximeter.{table}") == 0
    assert await books.value("SELECT used_by_hand FROM taximeter.accounts") == 0
    assert await books.value("SELECT count(*) FROM org_billing_history") == 3


async def test_the_guides_order_of_cleaning_up_needs_no_other(books: Books) -> None:
    await books.open(1000, 500)
    await books.run("INSERT INTO organization_members (org_id, user_id) VALUES ('org', 'ann')")
    await books.run(
        "INSERT INTO organization_subscriptions (org_id, plan_code, plan_name, monthly_price)"
        " VALUES ('org', 'pro', 'Pro', 49.00)"
    )
    await books.deduct(50, "req-1")
    await books.clean_up()
    assert await books.value("SELECT count(*) FROM organizations") == 0
