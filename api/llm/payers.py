"""Finds out who pays for a request, and refuses early who has nothing left."""

from __future__ import annotations

from taximeter.api.access.memberships import Membership
from taximeter.api.llm.services import LlmServices
from taximeter.api.running.dependencies import suspended
from taximeter.api.web.errors import ApiError, from_meter
from taximeter.meter import AccountNotFound, InsufficientCredits, StoreError


async def paying_org(services: LlmServices, user_id: str, org_header: str | None) -> Membership:
    """The organisation that the header names, else the caller's default, else the oldest active
    membership with an allocation for them; individual credits pay for who has no other.
    """
    if org_header is not None:
        for one in await services.memberships.of(user_id):
            if one.org_id == org_header:
                return _not_suspended(one)
        if services.directory is not None:
            await services.directory.check(org_header)
        raise ApiError(404, "Organization not found")
    payer = await services.memberships.payer(user_id)
    if payer is None:
        raise ApiError(403, "You are not a member of any organization that could pay")
    return _not_suspended(payer)


def _not_suspended(membership: Membership) -> Membership:
    if membership.suspended:
        raise suspended()
    return membership


async def refuse_empty_account(services: LlmServices, org_id: str, user_id: str) -> None:
    """Refuse before a large body is read who has nothing left: 402, or 429 while it is only held.
    Raises ApiError. Whether there is enough is asked when the hold is taken, as ever.
    """
    try:
        meter = await services.meters.get()
        balance = await meter.balance(org_id, user_id)
    except AccountNotFound as error:
        raise from_meter(InsufficientCredits(1, 0, 0)) from error
    except StoreError as error:
        services.store.note(error)
        return  # Somebody with a credit line may go on; who has none is told so by the reserve.
    if balance.available <= 0:
        raise from_meter(InsufficientCredits(1, balance.available, balance.held))
