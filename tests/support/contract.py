"""Words for tests that are rows of a contract: each says which row it is, and asks for fields by
their names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from support.world import BILLING, World

Row = Callable[[World], Awaitable[None]]
Rows = dict[str, Row]

SUBSCRIPTION = (
    "id org_id plan_code plan_name monthly_price status billing_cycle_start billing_cycle_end"
    " lago_subscription_id created_at"
)
POOL = "total_credits allocated_credits used_credits available_credits"
ALLOCATION = (
    "user_id user_email allocated_credits used_credits remaining_credits usage_percentage"
    " is_active allocated_at"
)


def keeper(rows: Rows) -> Callable[[str], Callable[[Row], Row]]:
    """A decorator that puts a test among `rows`, under the name of its row."""

    def named(name: str) -> Callable[[Row], Row]:
        def keep(test: Row) -> Row:
            assert name not in rows
            rows[name] = test
            return test

        return keep

    return named


async def call(
    world: World, method: str, path: str, body: Any = None, *, by: str = "boss", status: int = 200
) -> Any:
    """The answer's document; fails unless it has this status. `root` is a system admin."""
    headers = world.auth(by, system_admin=by == "root")
    answer = await world.client.request(method, f"{BILLING}{path}", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def has(document: Any, names: str, /, **values: object) -> None:
    """The document has these fields, and some of them these values."""
    missing = set(names.split()) - set(document)
    assert not missing, missing
    for name, value in values.items():
        assert document[name] == value, name
