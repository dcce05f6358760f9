"""Follows the developer guide: subscribe, allocate, ask a model, look at the usage."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import httpx
from rich.console import Console

from taximeter.api.demo.admin import Admin, DemoFailed

USAGE_TIMEOUT_S = 15.0


async def run_journey(
    console: Console, client: httpx.AsyncClient, admin: Admin, org_id: str, user_id: str, token: str
) -> None:
    """Walk it over HTTP and print each step. Raises DemoFailed when an answer is wrong."""
    made = await admin.subscribe(org_id, "Journey Organisation", Decimal(10_000), user_id)
    pool = made["credit_pool"]
    _expect(pool["total_credits"] == 10_000.0, f"a pool of 10,000 credits, not {pool}")
    _step(console, "subscription", f"{org_id}, plan {made['subscription']['plan_code']}, 10,000")
    allocated = await admin.allocate(org_id, user_id, Decimal(5_000))
    left = allocated["pool_updated"]["available_credits"]
    _expect(left == 5_000.0, f"5,000 credits left in the pool, not {left}")
    _step(console, "allocation", f"{user_id} may spend 5,000 of them")
    response = await client.post(
        "/api/v1/llm/chat/completions",
        headers={"Cookie": f"session_token={token}", "X-Org-Id": org_id},
        json={
            "model": "gpt-3.5-turbo",
            "messages": [{"role": "user", "content": "Test e2e billing"}],
        },
    )
    _expect(response.status_code == 200, f"an answer of the model, not {response.text}")
    cost = Decimal(response.headers["X-Cost-Incurred"])
    remaining = Decimal(response.headers["X-Credits-Remaining"])
    _expect(cost > 0, "a cost above zero")
    _expect(remaining == Decimal(5_000) - cost, f"5,000 - {cost} credits left, not {remaining}")
    _step(console, "LLM request", f"cost {cost} credits, {remaining} remain")
    used = await _settled_usage(admin, org_id, cost)
    _step(console, "usage", f"settled in Postgres: {used} credits")


async def _settled_usage(admin: Admin, org_id: str, cost: Decimal) -> Decimal:
    loop = asyncio.get_running_loop()
    end = loop.time() + USAGE_TIMEOUT_S
    used = Decimal(0)
    while loop.time() < end:
        used = Decimal(str((await admin.usage(org_id))["total_credits_used"]))
        if used == cost:
            return used
        await asyncio.sleep(0.1)
    raise DemoFailed(f"usage shows {used} credits, the request cost {cost}")


def _step(console: Console, what: str, outcome: str) -> None:
    console.print(f"  [green]✓[/] {what:<13} {outcome}", highlight=False)


def _expect(true: bool, what: str) -> None:
    if not true:
        raise DemoFailed(f"expected {what}")
