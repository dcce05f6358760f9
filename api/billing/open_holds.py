"""Reads open holds from Redis: one, or those of an organisation in small steps. Changes nothing."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, Field

from taximeter.meter import Usage
from taximeter.meter.wire.credits import credits_of
from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.keys import ShardKeys, request_field, shard_of, split_account
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import count_shards

_LOOKED_AT: Final = 500
"""Holds that one call to Redis looks at: a millisecond of its time, or less."""
_CALLS_MAX: Final = 20
"""Of such calls for one page."""


class OpenHold(BaseModel):
    """What one running request holds. `reported_credits`: what its touches have reported so far,
    which an expiry would charge. `opened_by`: the API key or process, where one was named.
    """

    request_id: str
    user_id: str
    held_credits: float
    reported_credits: float
    deadline: datetime | None = Field(description="By the clock of Redis; it expires after that")
    overdue: bool
    opened_by: str | None
    service_type: str | None
    service_name: str | None


class HoldPage(NamedTuple):
    """Some open holds of an organisation, and the place of those that come next; None at the end.
    `as_of` is the clock of Redis.
    """

    holds: list[OpenHold]
    place: int | None
    as_of: datetime


async def find_hold(stores: Stores, org_id: str, request_id: str) -> OpenHold | None:
    """The open hold of one request; None when it has none. Raises redis and asyncpg errors."""
    keys = await _keys(stores, org_id)
    name = request_field(org_id, request_id)
    record = await stores.redis.hget(keys.holds, name)
    if record is None:
        return None
    holds, _ = await _views(stores.redis, keys, {name.encode(): record})
    return holds[0] if holds else None


async def page_of_holds(
    stores: Stores, org_id: str, user_id: str | None, place: int, limit: int
) -> HoldPage:
    """Open holds of an organisation, or of one of its users, from a place on, which is 0 at the
    start. About `limit` of them; fewer where only a part of the shard could be looked at in time.
    What is opened or ended meanwhile may be there or not, all others are on one of the pages.

    Raises redis and asyncpg errors; NoPermissionError where the Redis user may not HSCAN.
    """
    keys = await _keys(stores, org_id)
    found: dict[bytes, bytes] = {}
    account = None if user_id is None else f"{org_id}/{user_id}"
    for _ in range(_CALLS_MAX):
        place, part = await stores.redis.hscan(
            keys.holds, place, match=f"{org_id}/*", count=_LOOKED_AT
        )
        found |= {
            name: record
            for name, record in part.items()
            if account is None or record.split(b"\t", 2)[1:2] == [account.encode()]
        }
        if place == 0 or len(found) >= limit:
            break
    holds, now = await _views(stores.redis, keys, found)
    return HoldPage(sorted(holds, key=lambda one: one.request_id), place or None, now)


async def _keys(stores: Stores, org_id: str) -> ShardKeys:
    return stores.keys(shard_of(org_id, max(1, await count_shards(stores.pool))))


async def _views(
    redis: Any, keys: ShardKeys, records: dict[bytes, bytes]
) -> tuple[list[OpenHold], datetime]:
    """With their deadlines, read after them: one that has none any more has ended since. What is
    damaged is left out: `taximeter check` shows it.
    """
    async with redis.pipeline(transaction=True) as pipe:
        pipe.time()
        for name in records:
            pipe.zscore(keys.deadlines, name)
        (seconds, micros), *deadlines = await pipe.execute()
    now = datetime.fromtimestamp(seconds + micros / 1e6, UTC)
    holds = []
    for (name, record), deadline in zip(records.items(), deadlines, strict=True):
        with suppress(ValueError):
            holds.append(_view(name.decode().partition("/")[2], record, deadline, now))
    return holds, now


def _view(request_id: str, text: bytes, deadline_ms: float | None, now: datetime) -> OpenHold:
    record = HoldRecord.parse(text)
    usage = Usage.of_payload(record.payload)
    deadline = None if deadline_ms is None else datetime.fromtimestamp(deadline_ms / 1000, UTC)
    return OpenHold(
        request_id=request_id,
        user_id=split_account(record.account)[1],
        held_credits=credits_of(record.amount),
        reported_credits=credits_of(record.progress),
        deadline=deadline,
        overdue=deadline is not None and deadline < now,
        opened_by=record.opener or None,
        service_type=None if usage is None else usage.service_type,
        service_name=None if usage is None else usage.service_name,
    )
