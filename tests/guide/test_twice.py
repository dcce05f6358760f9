"""The owner's test files pass again on the database that they have just left."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import asyncpg
import pytest
from support.books import Books

FOLDER = Path(__file__).parent


def guide_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"guide_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_unit_tests_pass_twice_in_a_row(database_url: str, books: Books) -> None:
    module = guide_module("test_org_billing_functions")
    conn = await asyncpg.connect(database_url)
    for _ in range(2):
        await module.test_has_sufficient_credits(conn)
        await module.test_deduct_credits_atomic(conn)
        await books.prove()
    await conn.close()


async def test_the_load_test_deducts_what_is_expected_and_fails_nowhere(
    database_url: str,
    books: Books,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """100 workers with a connection each; it asserts failures and the difference itself."""
    monkeypatch.setenv("TAXIMETER_DATABASE_URL", database_url)
    module = guide_module("load_test_credit_deductions")
    for _ in range(2):
        await module.load_test_concurrent_deductions(100)
        printed = capsys.readouterr().out
        assert "Successes: 100" in printed
        assert "Final credits used: 5.0\n" in printed
        assert "Difference: 0.000" in printed
        await books.prove()
