"""Streams what is live: a pool and members' balances, and how the system is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import asyncpg
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from taximeter.api.access.sessions import Principal
from taximeter.api.running.dependencies import (
    CallerFirstRoute,
    MemberDep,
    ServicesDep,
    SystemAdminDep,
    get_member,
    get_system_admin,
    identify,
    own_user,
)
from taximeter.api.running.live_looks import USERS_MAX, Look
from taximeter.api.running.services import Services
from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import UserId
from taximeter.meter import Balance, MeterError
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.status.health import ShardHealth, State

router = APIRouter(prefix="/api/v1/org-billing", route_class=CallerFirstRoute)

STREAM: Final = "text/event-stream"
LOOKED_UP_EVERY_S: Final = 10.0
"""How often a stream asks whether its caller may still see it."""
_STREAMED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {STREAM: {"schema": {"type": "string"}}}}
}
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_AWAY: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, RedisError, MeterError, OSError)

UserIds = Annotated[
    list[UserId] | None,
    Query(max_length=USERS_MAX, description="Members to tell of; may be given several times"),
]


class LivePool(BaseModel):
    """A pool as settled. `in_progress_credits` are promised to running requests or not settled yet,
    of what is allocated and not used.
    """

    total_credits: float
    allocated_credits: float
    used_credits: float
    available_credits: float
    closed_credits: float
    in_progress_credits: float


class LiveMember(BaseModel):
    """What a member can spend now, and what their running requests hold; `remaining_credits` is
    both. Nothing where there is no live account, or Redis does not tell.
    """

    user_id: str
    live: bool
    available_credits: float | None
    held_credits: float | None
    remaining_credits: float | None


class LiveView(BaseModel):
    """What one look found. `live`: Redis has answered. `books_at`: when Postgres said what `pool`
    is; null where it has said nothing yet. Members see themselves, and no pool.
    """

    as_of: datetime
    live: bool
    books_at: datetime | None
    pool: LivePool | None
    members: list[LiveMember]


class LiveSystem(BaseModel):
    """How the system is, at most two seconds ago."""

    as_of: datetime
    status: State
    settlement_lag_s: float
    alarms: list[str] = Field(description="A part and a word for what is wrong with it")
    shards: list[ShardHealth]


class _Beat(BaseModel):
    """Nothing has changed since the event before."""

    as_of: datetime
    live: bool


class _End(BaseModel):
    """Why the stream ends: `server_stops` is no reason not to come again."""

    code: str
    message: str


@router.get(
    "/credits/{org_id}/live",
    summary="Live balances, once or as a stream",
    tags=["credits"],
    response_model=LiveView,
    responses=_STREAMED,
)
async def watch_balances(
    request: Request, access: MemberDep, services: ServicesDep, user: UserIds = None
) -> Response | LiveView:
    """Asked for `Accept: text/event-stream` it goes on: an event `balances` at once and whenever
    something has changed, `beat` every second that nothing has, `end` when the session ends, the
    caller is no member any more, or this process stops. At most 8 streams of one user.
    """
    org_id, me = access.org_id, access.user_id
    users = list(user or ())
    if not access.is_admin:
        users = [one for one in {own_user(access, one) for one in users} if one] or [me]
    of_pool = access.is_admin
    if not _wants_stream(request):
        return _view(await services.looks.once(org_id, users), users, of_pool)

    async def may_see() -> Principal:
        principal = await identify(request, services)
        found = await get_member(org_id, principal, services, request)
        if found.is_admin != of_pool:
            raise ApiError(403, "What you may see here has changed")
        return principal

    async def views(stack: AsyncExitStack) -> Callable[[], Awaitable[LiveView]]:
        following = await stack.enter_async_context(services.looks.watching(org_id, users))

        async def next_view() -> LiveView:
            return _view(await following(), users, of_pool)

        return next_view

    return await _stream(services, access.principal, "balances", may_see, views)


@router.get(
    "/system/live",
    summary="How the system is, once or as a stream",
    tags=["books"],
    response_model=LiveSystem,
    responses=_STREAMED,
)
async def watch_system(
    request: Request, admin: SystemAdminDep, services: ServicesDep
) -> Response | LiveSystem:
    """Asked for `Accept: text/event-stream` it goes on, as for balances: the event is `system`."""
    if not _wants_stream(request):
        return await _system(services)

    async def may_see() -> Principal:
        return get_system_admin(await identify(request, services))

    async def views(stack: AsyncExitStack) -> Callable[[], Awaitable[LiveSystem]]:
        is_first = True

        async def next_view() -> LiveSystem:
            nonlocal is_first
            if not is_first:
                await asyncio.sleep(1.0)
            is_first = False
            return await _system(services)

        return next_view

    return await _stream(services, admin, "system", may_see, views)


def _wants_stream(request: Request) -> bool:
    return STREAM in request.headers.get("accept", "")


async def _stream(
    services: Services,
    principal: Principal,
    name: str,
    may_see: Callable[[], Awaitable[Principal]],
    views: Callable[[AsyncExitStack], Awaitable[Callable[[], Awaitable[LiveView | LiveSystem]]]],
) -> StreamingResponse:
    """Raises ApiError 429, 503 before the stream begins."""
    services.looks.refuse_more(principal.user_id)

    async def events() -> AsyncIterator[str]:
        async with AsyncExitStack() as stack:
            stack.enter_context(services.looks.counting(principal.user_id))
            next_view = await views(stack)
            ends_at, asks_at = principal.expires_at, time.monotonic() + LOOKED_UP_EVERY_S
            seen: dict[str, Any] = {}
            while True:
                if services.looks.stopped.is_set():
                    yield _event("end", _End(code="server_stops", message="Come again"))
                    return
                if time.time() >= ends_at:
                    yield _event("end", _End(code="UNAUTHORIZED", message="The session is over"))
                    return
                if time.monotonic() >= asks_at:
                    asks_at = time.monotonic() + LOOKED_UP_EVERY_S
                    try:
                        ends_at = (await may_see()).expires_at
                    except ApiError as error:
                        if error.status < 500:
                            yield _event("end", _End(code=error.code, message=error.message))
                            return
                    except _AWAY:
                        pass  # Who may see it is asked for again; what is seen is as stale as that.
                view = await _or_stopped(services, next_view())
                if view is None:
                    continue
                told = view.model_dump(mode="json", exclude={"as_of", "books_at"})
                if told == seen:
                    live = view.live if isinstance(view, LiveView) else True
                    yield _event("beat", _Beat(as_of=view.as_of, live=live))
                else:
                    seen = told
                    yield _event(name, view)

    return StreamingResponse(events(), media_type=STREAM, headers=_HEADERS)


async def _or_stopped(
    services: Services, view: Awaitable[LiveView | LiveSystem]
) -> LiveView | LiveSystem | None:
    """The view, or nothing when the process stops before there is one."""
    looking = asyncio.ensure_future(view)
    stopping = asyncio.ensure_future(services.looks.stopped.wait())
    try:
        await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return looking.result() if looking.done() else None
    finally:
        looking.cancel()
        stopping.cancel()


def _event(name: str, data: BaseModel) -> str:
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n"


def _view(look: Look, users: list[str], of_pool: bool) -> LiveView:
    pool = None
    if of_pool and look.pool is not None:
        row = look.pool
        pool = LivePool(
            total_credits=credits_of(row["total_credits"]),
            allocated_credits=credits_of(row["allocated_credits"]),
            used_credits=credits_of(row["used_credits"]),
            available_credits=credits_of(row["available_credits"]),
            closed_credits=credits_of(row["closed_credits"]),
            in_progress_credits=credits_of(row["in_progress"]),
        )
    return LiveView(
        as_of=look.as_of,
        live=look.is_live,
        books_at=look.books_at,
        pool=pool,
        members=[_member(user, look.balances.get(user)) for user in users],
    )


def _member(user_id: str, balance: Balance | None) -> LiveMember:
    if balance is None:
        return LiveMember(
            user_id=user_id,
            live=False,
            available_credits=None,
            held_credits=None,
            remaining_credits=None,
        )
    return LiveMember(
        user_id=user_id,
        live=True,
        available_credits=credits_of(balance.available),
        held_credits=credits_of(balance.held),
        remaining_credits=credits_of(balance.available + balance.held),
    )


async def _system(services: Services) -> LiveSystem:
    health = await services.health.get()
    parts = {
        "postgres": health.postgres,
        "redis": health.redis,
        "settler": health.settler,
        "upstream": health.upstream,
        "prices": health.prices,
    }
    return LiveSystem(
        as_of=datetime.now(UTC),
        status=health.status,
        settlement_lag_s=health.settler.settlement_lag_s,
        alarms=[
            f"{name}: {part.reason or part.status}"
            for name, part in parts.items()
            if part is not None and part.status != "ok"
        ],
        shards=health.shards,
    )
