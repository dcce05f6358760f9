"""Tells what a request cost, and whether that is booked yet: for callers of streams, whose headers
left before the cost was known, and for whoever lost an answer.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from asyncpg import Record
from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field

from taximeter.api.billing.charges import Chosen, reader_of
from taximeter.api.llm.callers import API_ROOT, CLIENTS_ROOT, get_caller
from taximeter.api.llm.services import LlmServices, LlmServicesDep
from taximeter.api.llm.unsent_charges import Due
from taximeter.api.sql import CREDITS
from taximeter.api.web.errors import ApiError
from taximeter.meter import MeterError, Receipt, Usage
from taximeter.meter.wire.credits import credits_of
from taximeter.settler.archive.places import ArchiveError

logger = logging.getLogger("taximeter.api")

router = APIRouter(tags=["llm"])

State = Literal["open", "committed", "charged", "released", "expired"]
Settlement = Literal["open", "pending", "settled", "none"]
# The user, and the organisation if it is chosen or the API key's.
CallerDep = Annotated[tuple[str, str | None], Depends(get_caller)]
RequestId = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9._:-]{1,128}$", description="X-Request-Id of the answer")
]


class RequestView(BaseModel):
    """One request of the caller."""

    request_id: str
    org_id: str
    state: State
    settlement: Settlement = Field(
        description="open: still running. pending: charged to the live balance, not booked yet. "
        "settled: in the ledger. none: nothing was charged."
    )
    cost_incurred: float | None = Field(description="Credits; null while the request is open")
    held_credits: float = Field(description="Credits that an open request keeps")
    settled_at: datetime | None = None
    model: str | None = None
    late: bool = Field(default=False, description="Charged after its hold had ended")
    usage: dict[str, Any] = Field(
        default_factory=dict, description="Tokens, provider and price, once booked"
    )
    archived: str | None = Field(
        default=None,
        description="The month, as YYYY-MM, in whose archive model and usage are, when that cannot "
        "be read now",
    )


@router.get(f"{API_ROOT}/requests/{{request_id}}", summary="Cost and settlement of a request")
@router.get(
    f"{CLIENTS_ROOT}/requests/{{request_id}}",
    summary="Cost and settlement of a request, beside the routes of OpenAI's clients",
)
async def get_request(
    request_id: RequestId, caller: CallerDep, services: LlmServicesDep
) -> RequestView:
    """The caller's own request; another's answers 404. A request that ended without a charge is
    known for some minutes, one that was charged as long as the ledger remembers its id.
    """
    user_id, only_org = caller
    org_ids = [one.org_id for one in await services.memberships.of(user_id)]
    if only_org is not None:
        org_ids = [org_id for org_id in org_ids if org_id == only_org]
    booked = await services.pool.fetchrow(CREDITS["booked_request"], org_ids, user_id, request_id)
    for org_id in org_ids:
        due = services.keepers.pending.find(org_id, request_id)
        if due is not None and due.user_id == user_id:
            return _pending(due)
    try:
        org_id, live = await _live(services, org_ids, user_id, request_id)
    except MeterError:
        if booked is None:
            raise
        org_id, live = booked["org_id"], None  # The ledger is enough to answer.
    if booked is not None:
        org_id = booked["org_id"]
    elif live is None:
        raise ApiError.of("unknown_request")
    view = _view(request_id, org_id, live, booked)
    if booked is None or booked["metadata"] is not None:
        return view
    return await _with_archived(view, services, user_id, booked)


async def _with_archived(
    view: RequestView, services: LlmServices, user_id: str, booked: Record
) -> RequestView:
    """With what the request was for, where its month is archived: one look into one file."""
    first: datetime = booked["first_at"]
    wanted = Chosen(
        view.org_id,
        first,
        first + timedelta(microseconds=1),
        user_id=user_id,
        request_id=view.request_id,
    )
    try:
        found = await services.charges.page(reader_of(services.pool), wanted, 1)
    except ArchiveError as error:
        logger.warning("answering without what is archived: %s", error)
        return view.model_copy(update={"archived": f"{first.astimezone(UTC):%Y-%m}"})
    if not found:
        return view
    return view.model_copy(
        update={
            "model": found[0]["service_name"],
            "late": bool(found[0]["late"]),
            "usage": json.loads(found[0]["metadata"]),
        }
    )


def _pending(due: Due) -> RequestView:
    """A charge that the meter could not take yet."""
    usage = Usage.of_payload(due.payload)
    return RequestView(
        request_id=due.request_id,
        org_id=due.org_id,
        state="committed",
        settlement="pending",
        cost_incurred=credits_of(due.amount),
        held_credits=0.0,
        model=None if usage is None else usage.service_name,
        usage={} if usage is None else dict(usage.metadata),
    )


async def _live(
    services: LlmServices, org_ids: list[str], user_id: str, request_id: str
) -> tuple[str, Receipt | None]:
    meter = await services.meters.get()
    for org_id in org_ids:
        found = await meter.request(org_id, request_id, user_id=user_id)
        if found is not None:
            return org_id, found
    return "", None


def _view(request_id: str, org_id: str, live: Receipt | None, booked: Record | None) -> RequestView:
    state: State = "committed" if live is None or live.state == "foreign" else live.state
    if state == "open":
        return RequestView(
            request_id=request_id,
            org_id=org_id,
            state=state,
            settlement="open",
            cost_incurred=None,
            held_credits=credits_of(0 if live is None else live.reserved),
        )
    cost = booked["amount"] if live is None and booked is not None else live.charged if live else 0
    settlement: Settlement = "pending"
    if booked is not None and booked["amount"] == cost:
        settlement = "settled"
    elif cost == 0 and state in ("released", "expired"):
        settlement = "none"
    view = RequestView(
        request_id=request_id,
        org_id=org_id,
        state=state,
        settlement=settlement,
        cost_incurred=credits_of(cost),
        held_credits=0.0,
    )
    if booked is None:
        return view
    return view.model_copy(
        update={
            "settled_at": booked["settled_at"],
            "model": booked["service_name"],
            "late": bool(booked["late"]),
            "usage": json.loads(booked["metadata"] or "{}"),
        }
    )
