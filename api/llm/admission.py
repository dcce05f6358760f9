"""Before anything is sent: who pays, whether the key was used before, and the hold."""

from __future__ import annotations

import hashlib
import json
import os

from taximeter.api.errors import ALREADY_EXISTS, ApiError, from_meter, text_of_credits
from taximeter.api.exact import credits_of
from taximeter.api.llm.chat import ChatRequest
from taximeter.api.llm.estimates import output_bound, prompt_bound
from taximeter.api.llm.routing import Target
from taximeter.api.queries import CREDITS
from taximeter.api.services import Services
from taximeter.meter import (
    AccountNotFound,
    Hold,
    InsufficientCredits,
    Meter,
    MeterError,
    Receipt,
    RequestConflict,
    RequestReplayed,
    Usage,
)
from taximeter.meter.pricing import UnpricedModel


async def paying_org(services: Services, user_id: str, org_header: str | None) -> str:
    """The organisation that the header names, else the caller's default, else the oldest active
    membership; individual credits pay for who has no other.
    """
    memberships = await services.memberships.of(user_id)
    if org_header is not None:
        if all(one.org_id != org_header for one in memberships):
            raise ApiError(404, "Organization not found")
        return org_header
    if not memberships:
        raise ApiError(403, "You are not a member of any organization that could pay")
    return memberships[0].org_id


def request_id_of(user_id: str, key: str | None) -> str:
    """Random, or for an idempotency key the same every time; never one that another user could
    name.
    """
    if key is None:
        return f"req-{os.urandom(16).hex()}"
    digest = hashlib.sha256(json.dumps([user_id, key]).encode()).hexdigest()
    return f"key-{digest[:48]}"


async def refuse_settled_replay(services: Services, org_id: str, request_id: str) -> None:
    """Redis remembers outcomes for minutes only; a key that was charged before that is still in the
    ledger.
    """
    charged = await services.pool.fetchval(CREDITS["charged_request"], org_id, request_id)
    if charged is not None:
        raise _replayed(request_id, "committed", charged)


def dearest(
    services: Services, chat: ChatRequest, targets: tuple[Target, ...]
) -> tuple[int, tuple[Target, ...]]:
    """Millicredits that cover an answer of any of these targets, and those of them that have a
    price: nothing is sent where its cost would be unknown. Raises ApiError 400 if none has.
    """
    fixed = chat.surface.fixed_output
    output = output_bound(chat, services.settings.output_tokens_assumed) if fixed is None else fixed
    prompt = prompt_bound(chat.prompt)
    most, priced = 0, []
    refusal: UnpricedModel | None = None
    for target in targets:
        try:
            quote = services.pricer.estimate(
                target.price_as, prompt, output, chat.n, service_tier=chat.service_tier
            )
        except UnpricedModel as error:
            refusal = error
            continue
        most = max(most, quote.millicredits)
        priced.append(target)
    if priced:
        return most, tuple(priced)
    raise ApiError(
        400, str(refusal), code="UNPRICED_MODEL", details={"model": chat.model}
    ) from refusal


async def reserve(
    services: Services,
    meter: Meter,
    chat: ChatRequest,
    amount: int,
    org_id: str,
    user_id: str,
    request_id: str,
) -> Hold:
    """The hold. Raises ApiError: 402, 409 for a key that was used, 429 and 503."""
    usage = Usage("llm_inference", chat.model, {"model": chat.model, "estimated": True})
    try:
        return await meter.reserve(
            org_id,
            user_id,
            amount,
            request_id=request_id,
            ttl_s=services.settings.hold_ttl_s,
            usage=usage,
        )
    except (RequestReplayed, RequestConflict) as error:
        outcome = error.outcome
        raise _replayed(request_id, outcome.state, outcome.charged, outcome) from error
    except AccountNotFound as error:
        # Nothing was ever allocated: to the caller that is an empty balance like any other.
        services.refusals.note(org_id, user_id, need=amount, have=0, request_id=request_id)
        raise from_meter(InsufficientCredits(amount, 0, 0)) from error
    except MeterError as error:
        if isinstance(error, InsufficientCredits) and not error.only_holds_in_the_way:
            services.refusals.note(
                org_id, user_id, need=amount, have=error.have, request_id=request_id
            )
        refusal = from_meter(error)
        refusal.headers["X-Request-Id"] = request_id
        raise refusal from error


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
    return ApiError(
        409,
        f"This Idempotency-Key was used before; that request is {state}",
        code=ALREADY_EXISTS,
        details=details,
        headers={
            "X-Request-Id": request_id,
            "X-Cost-Incurred": text_of_credits(charged),
            "X-Should-Retry": "false",
        },
    )
