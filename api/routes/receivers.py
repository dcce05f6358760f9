"""Keeps the receivers of notices: webhooks of an organisation, and of the installation."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from asyncpg import Record
from fastapi import APIRouter, Path, Query, Response
from pydantic import AfterValidator, BaseModel, Field, model_validator

from taximeter.api.access.sessions import Principal
from taximeter.api.billing.audit import write_audit
from taximeter.api.running.dependencies import (
    CallerFirstRoute,
    OrgAdminDep,
    ServicesDep,
    SystemAdminDep,
)
from taximeter.api.running.services import Services
from taximeter.api.sql import RECEIVERS
from taximeter.api.web.errors import ApiError
from taximeter.api.web.idempotency import IdempotencyKey, Repeatable, make_once
from taximeter.api.web.json_numbers import Body, ShortText
from taximeter.api.web.paging import (
    NEXT,
    CursorParam,
    LimitParam,
    OffsetParam,
    cursor_of,
    read_cursor,
)
from taximeter.api.web.retries import again_when_undone
from taximeter.settler.books.stores import Connection
from taximeter.settler.notices.addresses import (
    MAILTO,
    URL_LENGTH_MAX,
    check_mailto,
    check_url,
)
from taximeter.settler.notices.catalogue import KINDS, Percent
from taximeter.settler.notices.sealing import Sealer, Unreadable, make_secret

router = APIRouter(prefix="/api/v1/org-billing", tags=["receivers"], route_class=CallerFirstRoute)

RECEIVERS_MAX = 10
MADE_BEFORE = (
    "Receiver {id} was made by this request before; a secret was in that answer alone: make a new"
    " one for it where you need it"
)
BOTH_SIGN_S = 86_400.0
"""How long the secret before the last signs as well."""
SENT_AGAIN_MAX = 10_000
ReceiverId = Annotated[UUID, Path(description="`receiver_id` of the list")]


def _known_type(value: str) -> str:
    if value != "*" and value not in KINDS:
        raise ValueError("must be a type of docs/notices.md, or * for all")
    return value


Types = Annotated[
    list[
        Annotated[
            str,
            AfterValidator(_known_type),
            Field(json_schema_extra={"enum": ["*", *KINDS]}),
        ]
    ],
    Field(min_length=1, max_length=100, description="Which types of notices; `*` is all"),
]
Percents = Annotated[
    list[Percent],
    Field(
        min_length=1,
        max_length=6,
        description="Of `pool.low` and `allocation.low`: at which part used",
    ),
]


class NewReceiver(Body):
    """Where notices are to be sent. `slack` is an incoming webhook of Slack, or whatever reads the
    same; `email` is for people.
    """

    name: ShortText
    kind: Literal["webhook", "slack", "email"] = "webhook"
    url: Annotated[str, Field(max_length=URL_LENGTH_MAX)] = Field(
        description="https, of a host that the Internet can reach; `mailto:` and an address for "
        "e-mail, of an active member unless a system admin says so. It is encrypted where it is "
        "kept"
    )
    types: Types = Field(default=["*"])
    percents: Percents = Field(default=[80, 95])


class ReceiverChange(Body):
    """What is to be different; what is left out stays. The address stays: make another receiver."""

    name: ShortText | None = None
    types: Types | None = None
    percents: Percents | None = None
    state: Literal["active", "paused"] | None = Field(
        default=None, description="`active` enables one again that was disabled"
    )


class Again(Body):
    """Which notices: one, or those of a span of time."""

    notice_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = Field(default=None, description="Now, when left out")
    also_delivered: bool = Field(
        default=False, description="Also those that have reached it, and not only the others"
    )

    @model_validator(mode="after")
    def _says_which(self) -> Again:
        if (self.notice_id is None) == (self.since is None):
            raise ValueError("notice_id or since: give one of them")
        for moment in (self.since, self.until):
            if moment is not None and moment.tzinfo is None:
                raise ValueError("since, until: must say their time zone")
        return self


class ReceiverView(BaseModel):
    """One receiver, without its secret."""

    receiver_id: UUID
    name: str
    kind: str
    url: str | None = Field(
        description="Of Slack's the host alone, since the rest is a secret. Null when it was "
        "encrypted with a key that this installation does not have: it is sent nothing"
    )
    types: list[str]
    percents: list[int]
    state: str = Field(description="active, paused or disabled")
    reason: str | None = Field(
        description="Why it was disabled: `gone` (it answered 410), `failing` (ten tries in three "
        "days), `copy` (of the original of this database)"
    )
    failures: int = Field(description="Tries since the last that succeeded")
    succeeded_at: datetime | None
    failed_at: datetime | None
    old_secret_until: datetime | None = Field(
        description="Until when the secret before the last signs as well"
    )
    created_by: str
    created_at: datetime


class ReceiverAnswer(BaseModel):
    """The receiver as it is now."""

    receiver: ReceiverView


class ReceiverMade(BaseModel):
    """The only answer that ever holds the secret; null for Slack's, which is not signed."""

    secret: str | None
    receiver: ReceiverView


class ReceiverList(BaseModel):
    """A page of receivers, oldest first."""

    receivers: list[ReceiverView]
    total: int
    limit: int
    offset: int


class ReceiverRemoved(BaseModel):
    """What is there no more."""

    receiver_id: UUID


class NoticeWritten(BaseModel):
    """The notice that is being sent; its `webhook-id` is `msg_` and this, without dashes."""

    notice_id: UUID


class SentAgain(BaseModel):
    """How many notices are being sent."""

    notices: int


class TryView(BaseModel):
    """One try."""

    at: datetime
    status: int | None = Field(default=None, description="What was answered, if anything was")
    error: str | None = None
    seconds: float | None = None


class DeliveryView(BaseModel):
    """What became of one notice at one receiver."""

    delivery_id: int
    notice_id: UUID
    type: str
    org_id: str | None
    at: datetime
    state: str = Field(description="waiting, delivered or failed")
    tries: int
    due_at: datetime | None = Field(
        description="When it is, or was, tried; null while an earlier one of its subject waits"
    )
    ended_at: datetime | None
    log: list[TryView] = Field(description="The last 20 tries")


class DeliveryList(BaseModel):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryView]
    limit: int
    next: str | None = Field(description=NEXT)


StateParam = Annotated[
    Literal["waiting", "delivered", "failed"] | None, Query(description="Only these")
]


@router.post("/orgs/{org_id}/receivers", summary="Make a receiver of an organization's notices")
@again_when_undone
async def create_receiver(
    body: NewReceiver,
    access: OrgAdminDep,
    services: ServicesDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> ReceiverMade:
    """The secret is shown in this answer and never again: a repetition with the same
    `Idempotency-Key` makes nothing, and is refused with 409 and the `id` of the first. 400 for an
    address of an inner network; 409 if there are 10 receivers.
    """
    response.headers["Cache-Control"] = "no-store"
    return await _create(services, access.org_id, access.principal, body, idempotency_key)


@router.post("/system/receivers", summary="Make a receiver of all notices")
@again_when_undone
async def create_system_receiver(
    body: NewReceiver,
    admin: SystemAdminDep,
    services: ServicesDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> ReceiverMade:
    """It hears of the installation, and of every organisation, whatever of `types` it asks for. The
    secret is shown in this answer and never again; a repetition is refused as above.
    """
    response.headers["Cache-Control"] = "no-store"
    return await _create(services, None, admin, body, idempotency_key)


@router.get("/orgs/{org_id}/receivers", summary="Receivers of an organization")
async def list_receivers(
    access: OrgAdminDep, services: ServicesDep, limit: LimitParam = 50, offset: OffsetParam = 0
) -> ReceiverList:
    """Oldest first, with how it went lately."""
    return await _list(services, access.org_id, limit, offset)


@router.get("/system/receivers", summary="Receivers of the installation")
async def list_system_receivers(
    _: SystemAdminDep, services: ServicesDep, limit: LimitParam = 50, offset: OffsetParam = 0
) -> ReceiverList:
    """Oldest first, with how it went lately."""
    return await _list(services, None, limit, offset)


@router.patch("/orgs/{org_id}/receivers/{receiver_id}", summary="Change a receiver")
@again_when_undone
async def change_receiver(
    receiver_id: ReceiverId, body: ReceiverChange, access: OrgAdminDep, services: ServicesDep
) -> ReceiverAnswer:
    """Pause it, enable it again, or choose other types. While it is not active nothing is kept for
    it: send that again afterwards.
    """
    return await _change(services, access.org_id, access.user_id, receiver_id, body)


@router.patch("/system/receivers/{receiver_id}", summary="Change a receiver of the installation")
@again_when_undone
async def change_system_receiver(
    receiver_id: ReceiverId, body: ReceiverChange, admin: SystemAdminDep, services: ServicesDep
) -> ReceiverAnswer:
    """As for one of an organisation."""
    return await _change(services, None, admin.user_id, receiver_id, body)


@router.delete("/orgs/{org_id}/receivers/{receiver_id}", summary="Remove a receiver")
@again_when_undone
async def remove_receiver(
    receiver_id: ReceiverId, access: OrgAdminDep, services: ServicesDep
) -> ReceiverRemoved:
    """With its secret and its log. What is being sent at this moment may still arrive."""
    return await _remove(services, access.org_id, access.user_id, receiver_id)


@router.delete("/system/receivers/{receiver_id}", summary="Remove a receiver of the installation")
@again_when_undone
async def remove_system_receiver(
    receiver_id: ReceiverId, admin: SystemAdminDep, services: ServicesDep
) -> ReceiverRemoved:
    """As for one of an organisation."""
    return await _remove(services, None, admin.user_id, receiver_id)


@router.post(
    "/orgs/{org_id}/receivers/{receiver_id}/secret", summary="Give a receiver a new secret"
)
@again_when_undone
async def rotate_secret(
    receiver_id: ReceiverId, access: OrgAdminDep, services: ServicesDep, response: Response
) -> ReceiverMade:
    """For a day the one before signs as well: there are two signatures. 400 for Slack's."""
    response.headers["Cache-Control"] = "no-store"
    return await _rotate(services, access.org_id, access.user_id, receiver_id)


@router.post(
    "/system/receivers/{receiver_id}/secret", summary="Give one of the installation a new secret"
)
@again_when_undone
async def rotate_system_secret(
    receiver_id: ReceiverId, admin: SystemAdminDep, services: ServicesDep, response: Response
) -> ReceiverMade:
    """As for one of an organisation."""
    response.headers["Cache-Control"] = "no-store"
    return await _rotate(services, None, admin.user_id, receiver_id)


@router.post("/orgs/{org_id}/receivers/{receiver_id}/test", summary="Send a test notice")
@again_when_undone
async def send_test(
    receiver_id: ReceiverId, access: OrgAdminDep, services: ServicesDep
) -> NoticeWritten:
    """A notice of type `receiver.test`, to this receiver alone. Its log says what became of it."""
    return await _send_test(services, access.org_id, receiver_id)


@router.post("/system/receivers/{receiver_id}/test", summary="Send a test notice of the system")
@again_when_undone
async def send_test_of_system(
    receiver_id: ReceiverId, _: SystemAdminDep, services: ServicesDep
) -> NoticeWritten:
    """As for one of an organisation."""
    return await _send_test(services, None, receiver_id)


@router.post("/orgs/{org_id}/receivers/{receiver_id}/resend", summary="Send notices again")
@again_when_undone
async def resend(
    receiver_id: ReceiverId, body: Again, access: OrgAdminDep, services: ServicesDep
) -> SentAgain:
    """One notice, or those of a span of time that have not reached it: under the same ids, in
    order. 400 for more than 10,000 of them: take a shorter time.
    """
    return await _resend(services, access.org_id, receiver_id, body)


@router.post("/system/receivers/{receiver_id}/resend", summary="Send notices of the system again")
@again_when_undone
async def resend_of_system(
    receiver_id: ReceiverId, body: Again, _: SystemAdminDep, services: ServicesDep
) -> SentAgain:
    """As for one of an organisation."""
    return await _resend(services, None, receiver_id, body)


@router.get("/orgs/{org_id}/receivers/{receiver_id}/deliveries", summary="What became of notices")
async def list_deliveries(
    receiver_id: ReceiverId,
    access: OrgAdminDep,
    services: ServicesDep,
    state: StateParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> DeliveryList:
    """Newest first, with every try. They are kept as long as notices are, 30 days by default."""
    return await _deliveries(services, access.org_id, receiver_id, state, limit, cursor)


@router.get(
    "/system/receivers/{receiver_id}/deliveries", summary="What became of notices of the system"
)
async def list_system_deliveries(
    receiver_id: ReceiverId,
    _: SystemAdminDep,
    services: ServicesDep,
    state: StateParam = None,
    limit: LimitParam = 50,
    cursor: CursorParam = None,
) -> DeliveryList:
    """As for one of an organisation."""
    return await _deliveries(services, None, receiver_id, state, limit, cursor)


def _sealer(services: Services) -> Sealer:
    if services.sealer is None:
        raise ApiError(400, "Notices are not sent here: TAXIMETER_NOTICE_KEYS is not set")
    return services.sealer


async def _create(
    services: Services,
    org_id: str | None,
    admin: Principal,
    body: NewReceiver,
    idempotency_key: str | None,
) -> ReceiverMade:
    sealer = _sealer(services)
    is_email = body.kind == "email"
    if is_email and services.settings.smtp_url is None:
        raise ApiError(400, "kind: no e-mail is sent here: TAXIMETER_SMTP_URL is not set")
    try:
        anywhere = services.settings.notices_anywhere
        url = check_mailto(body.url) if is_email else check_url(body.url, anywhere=anywhere)
    except ValueError as error:
        raise ApiError(400, f"url: {error}", details={"field": "url"}) from error
    secret = make_secret() if body.kind == "webhook" else None

    async def make() -> tuple[str, ReceiverMade]:
        await conn.execute(RECEIVERS["lock_all"], org_id)
        if await conn.fetchval(RECEIVERS["count"], org_id) >= RECEIVERS_MAX:
            raise ApiError(409, f"There are at most {RECEIVERS_MAX} receivers; remove one first")
        if is_email and not admin.is_system_admin:
            address = url.removeprefix(MAILTO)
            if not await conn.fetchval(RECEIVERS["is_members"], org_id, address):
                raise ApiError(
                    400,
                    "url: must be the address of an active member",
                    details={"field": "url"},
                )
        row = await _changed(
            conn,
            RECEIVERS["insert"],
            *(org_id, body.kind, body.name, sealer.seal(url)),
            None if secret is None else sealer.seal(secret),
            *(sealer.mark, sorted(set(body.types)), sorted(set(body.percents)), admin.user_id),
        )
        await _audit(conn, "org.receiver.created", org_id, admin.user_id, row)
        return str(row["id"]), ReceiverMade(secret=secret, receiver=_view(row, services.sealer))

    scope = admin.user_id if org_id is None else org_id
    endpoint = "system.receivers.create" if org_id is None else "receivers.create"
    async with services.pool.acquire() as conn, conn.transaction():
        request = Repeatable(endpoint, scope, idempotency_key, body)
        return await make_once(conn, request, MADE_BEFORE, make)


async def _list(services: Services, org_id: str | None, limit: int, offset: int) -> ReceiverList:
    async with services.pool.acquire() as conn:
        total = await conn.fetchval(RECEIVERS["count"], org_id)
        rows = await conn.fetch(RECEIVERS["list"], org_id, limit, offset)
    views = [_view(row, services.sealer) for row in rows]
    return ReceiverList(receivers=views, total=total, limit=limit, offset=offset)


async def _change(
    services: Services, org_id: str | None, user_id: str, receiver_id: UUID, body: ReceiverChange
) -> ReceiverAnswer:
    async with services.pool.acquire() as conn, conn.transaction():
        row = await _locked(conn, org_id, receiver_id)
        types, percents = body.types or row["types"], body.percents or row["percents"]
        row = await _changed(
            conn,
            RECEIVERS["update"],
            *(receiver_id, body.name or row["name"], sorted(set(types)), sorted(set(percents))),
            body.state or row["state"],
        )
        await _audit(conn, "org.receiver.changed", org_id, user_id, row)
    return ReceiverAnswer(receiver=_view(row, services.sealer))


async def _remove(
    services: Services, org_id: str | None, user_id: str, receiver_id: UUID
) -> ReceiverRemoved:
    async with services.pool.acquire() as conn, conn.transaction():
        row = await _locked(conn, org_id, receiver_id)
        await conn.execute(RECEIVERS["delete"], receiver_id)
        await _audit(conn, "org.receiver.removed", org_id, user_id, row)
    return ReceiverRemoved(receiver_id=receiver_id)


async def _rotate(
    services: Services, org_id: str | None, user_id: str, receiver_id: UUID
) -> ReceiverMade:
    sealer, secret = _sealer(services), make_secret()
    async with services.pool.acquire() as conn, conn.transaction():
        row = await _locked(conn, org_id, receiver_id)
        if row["secret"] is None:
            raise ApiError(400, f"A receiver of kind {row['kind']} has no secret")
        try:
            before = sealer.open(row["secret"], row["key_mark"])
            address = sealer.open(row["address"], row["key_mark"])
        except Unreadable as error:
            raise ApiError(
                400, "The receiver was made with another key of the installation: make it anew"
            ) from error
        row = await _changed(
            conn,
            RECEIVERS["rotate"],
            *(receiver_id, sealer.seal(secret), sealer.seal(before), sealer.mark),
            *(sealer.seal(address), BOTH_SIGN_S),
        )
        await _audit(conn, "org.receiver.rotated", org_id, user_id, row)
    return ReceiverMade(secret=secret, receiver=_view(row, services.sealer))


async def _send_test(services: Services, org_id: str | None, receiver_id: UUID) -> NoticeWritten:
    _sealer(services)
    async with services.pool.acquire() as conn, conn.transaction():
        row = await _locked(conn, org_id, receiver_id)
        _must_be_active(row)
        return NoticeWritten(notice_id=await conn.fetchval(RECEIVERS["write_test"], receiver_id))


async def _resend(
    services: Services, org_id: str | None, receiver_id: UUID, body: Again
) -> SentAgain:
    _sealer(services)
    async with services.pool.acquire() as conn, conn.transaction():
        row = await _locked(conn, org_id, receiver_id)
        _must_be_active(row)
        now = await conn.fetchval("SELECT now()")
        rows = await conn.fetch(
            RECEIVERS["notices_between"],
            *(org_id, body.since, body.until or now + timedelta(seconds=1)),
            *(row["types"], row["percents"], receiver_id),
            *(body.also_delivered or body.notice_id is not None, body.notice_id),
            SENT_AGAIN_MAX + 1,
        )
        if body.notice_id is not None and not rows:
            raise ApiError(404, "Notice not found, or on its way")
        if len(rows) > SENT_AGAIN_MAX:
            raise ApiError(
                400,
                f"since: more than {SENT_AGAIN_MAX:,} notices; take a shorter time",
                details={"field": "since"},
            )
        made = await conn.fetch(RECEIVERS["send_again"], receiver_id, [one["n"] for one in rows])
        await conn.execute(RECEIVERS["start"], [one["id"] for one in made])
    return SentAgain(notices=len(made))


async def _deliveries(
    services: Services,
    org_id: str | None,
    receiver_id: UUID,
    state: str | None,
    limit: int,
    cursor: str | None,
) -> DeliveryList:
    (before,) = read_cursor(cursor, str)
    if before is not None and not (before.isdecimal() and before.isascii() and len(before) < 19):
        raise ApiError(400, "cursor must be the `next` of a page", details={"field": "cursor"})
    last = None if before is None else int(before)
    async with services.pool.acquire() as conn:
        if await conn.fetchrow(RECEIVERS["find"], org_id, receiver_id) is None:
            raise _not_there()
        rows = await conn.fetch(RECEIVERS["deliveries"], receiver_id, state, last, limit + 1)
    views = [_delivery(row) for row in rows[:limit]]
    more = cursor_of(views[-1].delivery_id) if len(rows) > limit else None
    return DeliveryList(deliveries=views, limit=limit, next=more)


def _not_there() -> ApiError:
    return ApiError(404, "Receiver not found")


def _must_be_active(row: Record) -> None:
    if row["state"] != "active":
        raise ApiError(400, f"The receiver is {row['state']}: make it active first")


async def _locked(conn: Connection, org_id: str | None, receiver_id: UUID) -> Record:
    row = await conn.fetchrow(RECEIVERS["lock"], org_id, receiver_id)
    if row is None:
        raise _not_there()
    return row


async def _changed(conn: Connection, query: str, *arguments: object) -> Record:
    row = await conn.fetchrow(query, *arguments)
    assert row is not None, "it is locked, or new"
    return row


async def _audit(
    conn: Connection, action: str, org_id: str | None, user_id: str, row: Record
) -> None:
    names = ("name", "kind", "types", "percents", "state")
    await write_audit(
        conn,
        actor=user_id,
        action=action,
        org_id=org_id,
        target=str(row["id"]),
        after={name: row[name] for name in names},
    )


def _view(row: Record, sealer: Sealer | None) -> ReceiverView:
    try:
        url = None if sealer is None else sealer.open(row["address"], row["key_mark"])
    except Unreadable:
        url = None
    if url is not None and row["kind"] == "slack":
        url = "/".join(url.split("/")[:3]) + "/…"
    same = {name: row[name] for name in ReceiverView.model_fields if name in row}
    return ReceiverView(**{**same, "receiver_id": row["id"], "url": url})


def _delivery(row: Record) -> DeliveryView:
    values: dict[str, Any] = {**dict(row), "log": json.loads(row["log"])}
    values |= {"delivery_id": values.pop("id"), "notice_id": values.pop("notice")}
    return DeliveryView(**values)
