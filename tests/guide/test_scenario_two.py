"""The guide's second scenario, word for word: it adds what is there, and replaces a function. The
one statement that Postgres refuses is the one whose work is done, and expiry goes on by our own.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.books import Books

from taximeter.api.embedded.postgres import postgres_program

MIGRATION = (Path(__file__).parent / "add_credit_expiration.sql").read_text(encoding="utf-8")
THERE_ALREADY = 'ERROR:  column "expires_at" of relation "user_credit_allocations" already exists\n'
EXPIRE = (
    "UPDATE user_credit_allocations SET created_at = now() - interval '30 days',"
    " expires_at = now() - interval '1 hour', auto_renew = $2 WHERE user_id = $1"
)


def as_the_guide_does(url: str, text: str) -> subprocess.CompletedProcess[str]:
    """`cat migration.sql | psql`: without ON_ERROR_STOP."""
    return subprocess.run(
        [str(postgres_program("psql")), "--no-psqlrc", url],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_its_third_step_ends_well(database_url: str) -> None:
    finished = as_the_guide_does(database_url, MIGRATION)
    assert finished.returncode == 0
    assert [line for line in finished.stderr.splitlines(keepends=True) if "ERROR" in line] == [
        THERE_ALREADY
    ]
    assert finished.stdout.split() == ["CREATE", "INDEX", "CREATE", "FUNCTION", "COMMENT"]


def test_its_second_step_changes_nothing(database_url: str) -> None:
    finished = as_the_guide_does(database_url, f"BEGIN;\n{MIGRATION}\nROLLBACK;\n")
    assert finished.returncode == 0
    listed = as_the_guide_does(database_url, r"\d user_credit_allocations").stdout
    for column in ("expires_at", "auto_renew"):
        assert column in listed
    assert "idx_user_allocations_expires" not in listed


@pytest.mark.parametrize("followed", [False, True], ids=["as we made it", "as the guide makes it"])
async def test_expiry_does_not_depend_on_a_function_that_operators_replace(
    books: Books, database_url: str, followed: bool
) -> None:
    if followed:
        as_the_guide_does(database_url, MIGRATION)
    await books.open(1000, 300)
    await books.allocate(200, user="bob")
    await books.deduct(120, "req-1")
    await books.run(EXPIRE, "ann", True)
    await books.run(EXPIRE, "bob", False)
    # What the settler calls every second.
    became = await books.rows("SELECT user_id, became FROM taximeter.begin_expiry(now(), 10)")
    assert sorted(became) == [("ann", "renewed"), ("bob", "closing")]
    # What allocating to an expired user does on the way.
    await books.run(EXPIRE, "ann", False)
    await books.allocate(50)
    assert await books.allocation() == (50, 0)
    assert await books.value("SELECT taximeter.close_expired()") == 1


async def test_the_function_of_the_contract_is_a_name_for_ours(books: Books) -> None:
    await books.open(1000, 300)
    await books.run(EXPIRE, "ann", False)
    assert await books.value("SELECT deactivate_expired_allocations()") == 1
    assert await books.value("SELECT deactivate_expired_allocations()") == 0
