"""Makes, narrows and ends API keys of an organisation's gateways."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from asyncpg import Record
from fastapi import APIRouter, Path, Query, Response
from pydantic import AfterValidator, BaseModel, Field

from taximeter.api.access.key_text import NewKey, make_key
from taximeter.api.billing.allocations import not_a_member
from taximeter.api.billing.audit import write_audit
from taximeter.api.running.dependencies import (
    Access,
    CallerFirstRoute,
    MemberDep,
    ServicesDep,
    own_user,
)
from taximeter.api.sql import IDENTITY, KEYS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, make_once
from taximeter.api.web.json_numbers import Body, ShortText, UserId
from taximeter.api.web.paging import LimitParam, OffsetParam
from taximeter.api.web.retries import again_when_undone
from taximeter.settler.books.stores import Connection

router = APIRouter(prefix="/api/v1/org-billing", tags=["keys"], route_class=CallerFirstRoute)

LIFE_DEFAULT = timedelta(days=90)
LIFE_MAX = timedelta(days=366)
KEYS_MAX = 100
MADE_BEFORE = (
    "Key {id} was made by this request before, and its text was in that answer alone: revoke it,"
    " and make another"
)
KEYS_OF_MEMBER_MAX = 5
"""Those that a member who is no admin has made."""
MEMBERS_MAY = frozenset({"llm", "balance"})
"""What a session of theirs lets them do themselves."""
KEYS_OF_NAME_MAX = 2
"""The one in use and the one that is to replace it."""

Operation = Literal[
    "reserve", "commit", "release", "charge", "touch", "balance", "lookup", "any_hold", "llm"
]
KeyId = Annotated[str, Path(pattern=r"^[0-9A-Za-z]{12}$")]


def _within_a_year(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("must say its time zone, such as 2030-01-31T00:00:00Z")
    now = datetime.now(UTC)
    if not now < value <= now + LIFE_MAX:
        raise ValueError(f"must be in the future, and at most {LIFE_MAX.days} days from now")
    return value


class NewApiKey(Body):
    """What a key is to be called, and all that it may do."""

    name: ShortText = Field(description="What it is for. Two keys may share a name, to rotate")
    operations: Annotated[list[Operation], Field(min_length=1, max_length=9)] = Field(
        description="`llm` is for the LLM route, all others are for the sidecar. A key ends the "
        "holds that a key of its name has opened, and charges no more than they hold, unless it "
        "may `charge`; `any_hold` lets it end those of others too"
    )
    user_id: UserId | None = Field(
        default=None,
        description="The only user that it acts for; without it, any of the members. A member who "
        "is no admin makes keys for themselves alone",
    )
    expires_at: Annotated[datetime, AfterValidator(_within_a_year)] | None = Field(
        default=None, description=f"At most {LIFE_MAX.days} days from now; {LIFE_DEFAULT.days} days"
    )


class ApiKeyView(BaseModel):
    """One key, without what would let anybody use it."""

    key_id: str
    name: str
    operations: list[str]
    user_id: str | None
    last_four: str
    created_by: str
    creator_is_admin: bool = Field(
        description="Whether who made it is an active admin of the organization now"
    )
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute")


class ApiKeyMade(BaseModel):
    """The only answer that ever holds the key itself."""

    key: str
    api_key: ApiKeyView


class ApiKeyList(BaseModel):
    """A page of keys, newest first."""

    keys: list[ApiKeyView]
    total: int
    limit: int
    offset: int


class ApiKeyRevoked(BaseModel):
    """The key as it is now."""

    api_key: ApiKeyView


@router.post("/orgs/{org_id}/keys", summary="Make an API key")
@again_when_undone
async def create_key(
    body: NewApiKey,
    access: MemberDep,
    services: ServicesDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> ApiKeyMade:
    """The key is shown in this answer and never again: a repetition with the same
    `Idempotency-Key` makes none, and is refused with 409 and the `id` of the first. It needs a
    session: no key makes keys. A member who is no admin makes keys that act for themselves, at most
    5, which may `llm` and `balance`; they end with the membership.

    403 for a member who asks for more; 404 if `user_id` is no active member; 409 if there are 100
    keys, or two of this name: revoke one first.
    """
    response.headers["Cache-Control"] = "no-store"
    if not access.is_admin:
        body = _for_oneself(body, access)
    seal = await services.keys.seal()
    if body.user_id is not None and "lookup" in body.operations:
        raise ApiError(
            400,
            "operations: lookup is not for a key of one user, since requests of all are looked up",
            details={"field": "operations"},
        )
    async with services.pool.acquire() as conn, conn.transaction():
        request = Repeatable("keys.create", access.org_id, idempotency_key, body)
        if not access.is_admin:
            # Nobody is told of another member's key for having chosen the same words.
            scope = f"{access.org_id}/{access.user_id}"
            request = Repeatable("keys.create_own", scope, idempotency_key, body)
        return await make_once(
            conn, request, MADE_BEFORE, lambda: _create(conn, body, access, make_key(seal))
        )


async def _create(
    conn: Connection, body: NewApiKey, access: Access, made: NewKey
) -> tuple[str, ApiKeyMade]:
    org_id = access.org_id
    await conn.fetchval(IDENTITY["lock_organization"], org_id)
    if body.user_id is not None:
        member = await conn.fetchrow(IDENTITY["find_member"], org_id, body.user_id)
        if member is None or member["status"] != "active":
            raise not_a_member()
    await _refuse_too_many(conn, access, body.name)
    await conn.execute(
        KEYS["insert_key"],
        made.key_id,
        org_id,
        body.user_id,
        body.name,
        sorted(set(body.operations)),
        made.digest,
        made.text[-4:],
        access.user_id,
        body.expires_at or datetime.now(UTC) + LIFE_DEFAULT,
    )
    row = await _locked(conn, org_id, made.key_id)
    await write_audit(
        conn,
        actor=access.user_id,
        action="org.key.created",
        org_id=org_id,
        target=made.key_id,
        after=_audited(row),
    )
    return made.key_id, ApiKeyMade(key=made.text, api_key=_view(row))


def _for_oneself(body: NewApiKey, access: Access) -> NewApiKey:
    """What a member asks for, who can give nobody more than they have. Raises ApiError 403."""
    if body.user_id not in (None, access.user_id):
        raise ApiError(
            403, "Members can make keys for themselves only", details={"field": "user_id"}
        )
    more = sorted(set(body.operations) - MEMBERS_MAY)
    if more:
        raise ApiError(
            403,
            f"operations: {more[0]} is given by admins; keys of members may "
            f"{' and '.join(sorted(MEMBERS_MAY, reverse=True))}",
            details={"field": "operations"},
        )
    return body.model_copy(update={"user_id": access.user_id})


async def _refuse_too_many(conn: Connection, access: Access, name: str) -> None:
    own = not access.is_admin
    found = await conn.fetchrow(KEYS["count_active_keys"], access.org_id, name, access.user_id, own)
    assert found is not None, "an aggregate has one row"
    if own and found["of_all"] >= KEYS_OF_MEMBER_MAX:
        limit = f"A member makes at most {KEYS_OF_MEMBER_MAX} active keys"
    elif found["of_all"] >= KEYS_MAX:
        limit = f"An organization has at most {KEYS_MAX} active keys"
    elif found["of_name"] >= KEYS_OF_NAME_MAX:
        limit = f"name: at most {KEYS_OF_NAME_MAX} active keys share a name"
    else:
        return
    raise ApiError.of("too_many_keys", limit=limit)


@router.get("/orgs/{org_id}/keys", summary="API keys of an organization")
async def list_keys(
    access: MemberDep,
    services: ServicesDep,
    include_ended: Annotated[bool, Query()] = False,
    limit: LimitParam = 50,
    offset: OffsetParam = 0,
) -> ApiKeyList:
    """Those that can be used, newest first; with `include_ended` also the revoked and expired.
    Admins see all, members those that act for them alone.
    """
    org_id, user_id = access.org_id, own_user(access, None)
    async with services.pool.acquire() as conn:
        total = await conn.fetchval(KEYS["count_keys"], org_id, include_ended, user_id)
        rows = await conn.fetch(KEYS["list_keys"], org_id, include_ended, limit, offset, user_id)
    keys = [_view(row) for row in rows]
    return ApiKeyList(keys=keys, total=total, limit=limit, offset=offset)


@router.delete("/orgs/{org_id}/keys/{key_id}", summary="Revoke an API key")
@again_when_undone
async def revoke_key(key_id: KeyId, access: MemberDep, services: ServicesDep) -> ApiKeyRevoked:
    """It stops within three seconds, everywhere. Revoking it again changes nothing. Admins revoke
    any, members those that they have made. 404 if the organization has no such key, or it is none
    of a member's; 403 if an admin has made it for them.
    """
    async with services.pool.acquire() as conn, conn.transaction():
        row = await _locked(conn, access.org_id, key_id)
        if not access.is_admin and row["user_id"] != access.user_id:
            raise _not_there()
        if not access.is_admin and row["created_by"] != access.user_id:
            raise ApiError(403, "An admin has made this key, and admins revoke it")
        if row["revoked_at"] is None:
            before = _audited(row)
            await conn.execute(KEYS["revoke_key"], key_id, access.user_id)
            row = await _locked(conn, access.org_id, key_id)
            await write_audit(
                conn,
                actor=access.user_id,
                action="org.key.revoked",
                org_id=access.org_id,
                target=key_id,
                before=before,
                after={"revoked_at": row["revoked_at"]},
            )
    return ApiKeyRevoked(api_key=_view(row))


async def _locked(conn: Connection, org_id: str, key_id: str) -> Record:
    """The key, as nobody else can change it now. Raises ApiError 404."""
    row = await conn.fetchrow(KEYS["lock_key"], org_id, key_id)
    if row is None:
        raise _not_there()
    return row


def _not_there() -> ApiError:
    return ApiError(404, "API key not found")


def _audited(row: Record) -> dict[str, object]:
    names = ("name", "operations", "user_id", "expires_at")
    return {name: row[name] for name in names}


def _view(row: Record) -> ApiKeyView:
    return ApiKeyView(**{name: row[name] for name in ApiKeyView.model_fields})
