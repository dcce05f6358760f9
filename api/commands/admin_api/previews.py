"""Shows what moving credits would do, from what stands now: nothing is sent.

What runs meanwhile changes it, so this says what would be refused now and promises nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import click

from taximeter.api.commands.admin_api.caller import Caller, Request
from taximeter.api.commands.admin_api.shown import show_rows
from taximeter.meter.wire.credits import credits_of, exact_millicredits

BASE = "/api/v1/org-billing"


def preview_allocation(caller: Caller, path: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """The free credits of the pool, and what the member has."""
    org, amount = path["org_id"], _millis(body["credits"])
    free = _free(caller, org)
    before = _remaining(caller, org, body["user_id"])
    _show(
        ("pool, available", free, free - amount),
        (f"{body['user_id']}, remaining", before or 0, (before or 0) + amount),
    )
    _say_missing("the pool", free, amount)


def preview_deallocation(caller: Caller, path: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """What the member could spend right now, and the free credits of the pool."""
    org, amount = path["org_id"], _millis(body["credits"])
    free = _free(caller, org)
    before = _spendable(caller, org, body["user_id"])
    _show(
        (f"{body['user_id']}, to spend", before, before - amount),
        ("pool, available", free, free + amount),
    )
    _say_missing(body["user_id"], before, amount)


def preview_transfer(caller: Caller, path: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """What both could spend right now: what open requests hold stays where it is."""
    org, amount = path["org_id"], _millis(body["credits"])
    giver, taker = body["from_user_id"], body["to_user_id"]
    gives = _spendable(caller, org, giver)
    takes = _spendable(caller, org, taker)
    _show(
        (f"{giver}, to spend", gives, gives - amount), (f"{taker}, to spend", takes, takes + amount)
    )
    _say_missing(giver, gives, amount)


def preview_purchase(caller: Caller, path: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """The pool with so much more, or so much less of an adjustment that takes away."""
    pool = _pool(caller, path["org_id"])
    amount = _millis(body["credits"])
    total, free = _millis(pool["total_credits"]), _millis(pool["available_credits"])
    _show(("pool, total", total, total + amount), ("pool, available", free, free + amount))
    if amount < 0:
        _say_missing("the pool", free, -amount)


def preview_refund(caller: Caller, path: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """What the user has, with what is given back."""
    before = _remaining(caller, path["org_id"], body["user_id"])
    if before is None:
        click.echo(f"{body['user_id']} has no allocation in {path['org_id']} that can be spent")
        return
    _show((f"{body['user_id']}, remaining", before, before + _millis(body["credits"])))


def _show(*lines: tuple[str, int, int]) -> None:
    rows = [
        {"what": what, "credits_before": credits_of(before), "credits_after": credits_of(after)}
        for what, before, after in lines
    ]
    show_rows(rows, ("what", "credits_before", "credits_after"))


def _say_missing(who: str, have: int, need: int) -> None:
    if need > have:
        click.echo(
            f"would be refused now: {who} has {credits_of(have):,.3f},"
            f" and {credits_of(need):,.3f} are asked for"
        )


def _millis(credits: float) -> int:
    """Of a number of credits as JSON has it, whose shortest text is exact."""
    found = exact_millicredits(Decimal(repr(credits)))
    if found is None:
        raise click.ClickException(f"the API answered {credits} credits: more than three decimals")
    return found


def _pool(caller: Caller, org_id: str) -> Any:
    return caller.ask(Request("GET", f"{BASE}/credits/{quote(org_id, safe='')}", {}))


def _free(caller: Caller, org_id: str) -> int:
    return _millis(_pool(caller, org_id)["available_credits"])


def _allocation(caller: Caller, org_id: str, user_id: str) -> Any:
    """The one that can be spent; None without one."""
    path = f"{BASE}/credits/{quote(org_id, safe='')}/allocations"
    asked = {"user_id": user_id, "is_active": "true", "limit": 1}
    found = caller.ask(Request("GET", path, asked))["allocations"]
    return found[0] if found else None


def _remaining(caller: Caller, org_id: str, user_id: str) -> int | None:
    found = _allocation(caller, org_id, user_id)
    return None if found is None else _millis(found["remaining_credits"])


def _spendable(caller: Caller, org_id: str, user_id: str) -> int:
    found = _allocation(caller, org_id, user_id)
    if found is None:
        return 0
    return _millis(found["remaining_credits"]) - _millis(found["held_credits"])
