"""Before anything is sent: who pays, whether the key was used before, and the hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

from taximeter.api.access.memberships import Membership
from taximeter.api.llm.estimates import PromptSize
from taximeter.api.llm.quote import Quote
from taximeter.api.llm.reported import Bounds, bounds_of
from taximeter.api.llm.services import LlmServices
from taximeter.api.openai.request import LlmRequest
from taximeter.api.running.dependencies import suspended
from taximeter.api.sql import CREDITS
from taximeter.api.upstreams.router import Target
from taximeter.api.web.errors import ApiError, from_meter
from taximeter.meter import (
    AccountNotFound,
    Hold,
    InsufficientCredits,
    Meter,
    MeterError,
    Receipt,
    RequestConflict,
    RequestReplayed,
    StoreError,
    Usage,
)
from taximeter.meter.pricing import Price
from taximeter.meter.wire.credits import credits_of, text_of_credits
from taximeter.meter.wire.refusals import REFUSALS


async def paying_org(services: LlmServices, user_id: str, org_header: str | None) -> Membership:
    """The organisation that the header names, else the caller's default, else the oldest active
    membership with an allocation for them; individual credits pay for who has no other.
    """
    if org_header is not None:
        for one in await services.memberships.of(user_id):
            if one.org_id == org_header:
                return _not_suspended(one)
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


def request_id_of(user_id: str, key: str | None) -> str:
    """Random, or for an idempotency key the same every time; never one that another user could
    name.
    """
    if key is None:
        return f"req-{os.urandom(16).hex()}"
    digest = hashlib.sha256(json.dumps([user_id, key]).encode()).hexdigest()
    return f"key-{digest[:48]}"


async def refuse_settled_replay(services: LlmServices, org_id: str, request_id: str) -> None:
    """Redis remembers outcomes for minutes only; a key that was charged before that is still in the
    ledger.
    """
    charged = await services.pool.fetchval(CREDITS["charged_request"], org_id, request_id)
    if charged is not None:
        raise _replayed(request_id, "committed", charged)


def bounds_for(
    chat: LlmRequest, prompt: PromptSize, prices: Mapping[Target, Price]
) -> dict[Target, Bounds]:
    """The most that this request can use at each target: what is reported beyond is cut."""
    return {
        target: bounds_of(
            price,
            prompt_bound=prompt.bound(target.price_as) + prompt.audio_tokens,
            limit=chat.output_tokens_limit,
            n=chat.n,
            inputs=chat.inputs,
        )
        for target, price in prices.items()
    }


async def reserve(
    services: LlmServices,
    meter: Meter,
    quote: Quote,
    org_id: str,
    user_id: str,
    request_id: str,
) -> Hold:
    """The hold, of as much of the quote as the settings say. Raises ApiError: 402, 409 for a key
    that was used, 429 and 503.
    """
    chat, estimate = quote.chat, quote.least
    usage = Usage("llm_inference", chat.model, {"model": chat.model, "estimated": True})
    try:
        hold = await services.holds.reserve(
            meter,
            org_id,
            user_id,
            quote.full,
            least=quote.least,
            request_id=request_id,
            ttl_s=services.settings.hold_ttl_s,
            usage=usage,
        )
    except (RequestReplayed, RequestConflict) as error:
        outcome = error.outcome
        raise _replayed(request_id, outcome.state, outcome.charged, outcome) from error
    except AccountNotFound as error:
        # Nothing was ever allocated: to the caller that is an empty balance like any other.
        services.refusals.note(org_id, user_id, need=estimate, have=0, request_id=request_id)
        raise from_meter(InsufficientCredits(estimate, 0, 0)) from error
    except MeterError as error:
        services.store.note(error)
        if isinstance(error, InsufficientCredits) and not error.only_holds_in_the_way:
            services.refusals.note(
                org_id, user_id, need=error.need, have=error.have, request_id=request_id
            )
        refusal = from_meter(error)
        refusal.headers["X-Request-Id"] = request_id
        raise refusal from error
    services.store.note(None)
    return hold


def _replayed(
    request_id: str, state: str, charged: int, outcome: Receipt | None = None
) -> ApiError:
    """A used key: what became of the request that used it. OpenAI's clients would repeat a 409
    unless told.
    """
    details: dict[str, object] = {
        "request_id": request_id,
        "state": state,
        "cost_incurred": credits_of(charged),
    }
    if outcome is not None:
        details["credits_remaining"] = credits_of(outcome.available + outcome.held)
    said = REFUSALS["replayed"].llm
    return ApiError(
        said.status,
        said.words.format(state=state),
        code=said.code,
        details=details,
        headers={
            "X-Request-Id": request_id,
            "X-Cost-Incurred": text_of_credits(charged),
            "X-Should-Retry": "false",
        },
    )
