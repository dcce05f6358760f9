"""Writes the audit log: who changed what, in the transaction of the change."""

from __future__ import annotations

import json
from collections.abc import Mapping

from taximeter.api.sql import IDENTITY
from taximeter.api.web.current_request import current_request_id
from taximeter.settler.books.stores import Connection


def to_json(values: Mapping[str, object] | None) -> str | None:
    """JSON text for a jsonb parameter; what JSON does not know, such as a Decimal, becomes text."""
    return None if values is None else json.dumps(dict(values), default=str)


async def write_audit(
    conn: Connection,
    *,
    actor: str,
    action: str,
    org_id: str | None,
    target: str | None = None,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
    request_id: str | None = None,
) -> None:
    """Add one row, with the id of the request that is being answered unless another one is given;
    without an `org_id` for what is of no organisation alone. What is named `..._credits` in
    `before` and `after` is millicredits, as in the tables and in what SQL writes; answers turn it
    into credits. Durable when the transaction is.

    The one way in which the API writes audit rows: Postgres takes `actor` from the transaction, and
    refuses one that is missing or stands for a program of ours.
    """
    await conn.execute(
        IDENTITY["write_audit"],
        actor,
        action,
        org_id,
        target,
        to_json(before),
        to_json(after),
        request_id or current_request_id(),
    )
