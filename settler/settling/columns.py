"""Names the columns of the two rows that every event becomes, in the order in which both ways of
booking write them: as COPY text (copy_rows) and event by event (event_rows).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from taximeter.settler.settling.events import Event
from taximeter.settler.settling.payloads import Purpose

CHARGED_COLUMNS: Final = (
    "org_id", "request_id", "phase", "user_id", "amount", "seq", "by_expiry", "shard", "epoch",
    "created_at",
)  # fmt: skip
ATTRIBUTION_COLUMNS: Final = (
    "org_id", "user_id", "request_id", "credits_used", "seq", "reserved", "late", "service_type",
    "service_name", "request_metadata", "shard", "epoch", "created_at",
)  # fmt: skip


def charged_record(
    event: Event, shard: int, epoch: int, created_at: datetime
) -> tuple[object, ...]:
    """The row of CHARGED_COLUMNS of one event."""
    return (
        event.org_id, event.request_id, event.phase, event.user_id, event.amount, event.seq,
        event.kind == "expire", shard, epoch, created_at,
    )  # fmt: skip


def attribution_record(
    event: Event, purpose: Purpose, shard: int, epoch: int, created_at: datetime
) -> tuple[object, ...]:
    """The row of ATTRIBUTION_COLUMNS of one event and of what it was for."""
    return (
        event.org_id, event.user_id, event.request_id, event.amount, event.seq, event.reserved,
        event.flags != "-", *purpose, shard, epoch, created_at,
    )  # fmt: skip
