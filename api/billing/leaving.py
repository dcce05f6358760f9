"""Ends what would go on to act for a person who has left an organisation: keys and invitations."""

from __future__ import annotations

from asyncpg import Record
from pydantic import BaseModel, Field

from taximeter.api.billing.audit import write_audit
from taximeter.api.sql import IDENTITY, KEYS
from taximeter.api.web.errors import ApiError
from taximeter.settler.books.stores import Connection


class KeyNamed(BaseModel):
    """A key, so that whoever runs a gateway with it knows."""

    key_id: str
    name: str
    last_four: str


class Ended(BaseModel):
    """What ended with it."""

    keys_ended: list[KeyNamed] = Field(
        default=[], description="API keys that the user has made, or that acted for the user alone"
    )
    keys_kept: list[KeyNamed] = Field(
        default=[], description="API keys that the user has made, and `keep_keys` has kept"
    )
    invitations_withdrawn: int = Field(
        default=0, description="Invitations that the user had made, and nobody has answered"
    )


def refuse_to_keep(*, actor: str, user_id: str) -> None:
    """Raise ApiError 403 for somebody who would keep their own keys."""
    if actor == user_id:
        raise ApiError(
            403,
            "keep_keys: another admin decides which of your keys go on",
            details={"field": "keep_keys"},
        )


async def end_what_acts_for(
    conn: Connection, org_id: str, user_id: str, *, actor: str, is_member: bool, keep_keys: bool
) -> Ended:
    """End the keys that the user has made, unless they are kept, those that act for a user who is
    no member any more, and the invitations of the user. Each has an audit row. In the caller's
    transaction, which has the organisation locked.
    """
    ended = await conn.fetch(KEYS["end_keys_of"], org_id, user_id, actor, is_member, keep_keys)
    kept = await conn.fetch(KEYS["keys_made_by"], org_id, user_id) if keep_keys else []
    for row in ended:
        await _note(conn, "org.key.revoked", org_id, actor, row, {"ended_with": user_id})
    for row in kept:
        await _note(conn, "org.key.kept", org_id, actor, row, {"made_by": user_id})
    withdrawn = await conn.fetch(IDENTITY["withdraw_invitations_of"], org_id, user_id)
    for row in withdrawn:
        await write_audit(
            conn,
            actor=actor,
            action="org.invitation.withdrawn",
            org_id=org_id,
            target=row["user_id"],
            before={"role": row["role"], "status": "invited"},
            after={"status": "removed", "ended_with": user_id},
        )
    return Ended(
        keys_ended=named(ended), keys_kept=named(kept), invitations_withdrawn=len(withdrawn)
    )


async def end_all_keys(conn: Connection, org_id: str, *, actor: str) -> list[KeyNamed]:
    """End every key of an organisation, as `end_what_acts_for` does."""
    ended = await conn.fetch(KEYS["end_all_keys"], org_id, actor)
    for row in ended:
        await _note(conn, "org.key.revoked", org_id, actor, row, {"ended_with": org_id})
    return named(ended)


def named(rows: list[Record]) -> list[KeyNamed]:
    """The keys of these rows."""
    return [
        KeyNamed(key_id=row["key_id"], name=row["name"], last_four=row["last_four"])
        for row in sorted(rows, key=lambda row: (row["name"], row["key_id"]))
    ]


async def _note(
    conn: Connection, action: str, org_id: str, actor: str, row: Record, after: dict[str, object]
) -> None:
    await write_audit(
        conn,
        actor=actor,
        action=action,
        org_id=org_id,
        target=row["key_id"],
        before={"name": row["name"], "user_id": row["user_id"], "created_by": row["created_by"]},
        after={**after, "revoked_at": row["revoked_at"]},
    )
