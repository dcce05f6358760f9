"""Charges that were refused for want of credits are on record, and do not fill it."""

from __future__ import annotations

import json
from typing import Any

from support.waiting import eventually
from support.world import World

from taximeter.api.billing.refused_charges import PAUSE_S, RefusalAudit

ROWS = "SELECT * FROM taximeter.audit_log WHERE action = 'credit.deduction.failed' ORDER BY id"


async def rows(world: World, count: int) -> list[Any]:
    async def written() -> bool:
        return len(await world.stores.pool.fetch(ROWS)) >= count

    await eventually(written, what=f"{count} rows")
    found = await world.stores.pool.fetch(ROWS)
    assert len(found) == count
    return list(found)


async def test_a_refused_request_is_on_record(world: World) -> None:
    await world.funded("ann", 0.001)
    refused = await world.chat()
    assert refused.status_code == 402
    [row] = await rows(world, 1)
    assert (row["actor"], row["org_id"], row["target"]) == ("ann", "acme", "ann")
    assert row["request_id"] == refused.headers["X-Request-Id"]
    assert json.loads(row["before"]) == {"available_credits": 1}
    assert json.loads(row["after"])["needed_credits"] > 1


async def test_so_is_one_without_any_allocation(world: World) -> None:
    assert (await world.subscribe()).status_code == 200
    await world.add_member("ann")
    assert (await world.chat()).status_code == 402
    [row] = await rows(world, 1)
    assert json.loads(row["before"]) == {"available_credits": 0}


async def test_many_refusals_are_one_row_a_minute(world: World) -> None:
    services, now = world.app.state.services, [0.0]
    audit = RefusalAudit(services.pool, services.tracker, clock=lambda: now[0])
    for number in range(50):
        audit.note("acme", "ann", need=5, have=1, request_id=f"r{number}")
    audit.note("acme", "bob", need=5, have=1, request_id="other")
    first, other = await rows(world, 2)
    assert {first["request_id"], other["request_id"]} == {"r0", "other"}
    now[0] = PAUSE_S
    audit.note("acme", "ann", need=5, have=1, request_id="later")
    later = (await rows(world, 3))[-1]
    assert later["request_id"] == "later"
    assert json.loads(later["after"])["refused_since_last_row"] == 49
