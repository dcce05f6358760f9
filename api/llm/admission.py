"""Takes the hold of a request, once for an idempotency key."""

from __future__ import annotations

import hashlib
import json
import os
import time

from taximeter.api.llm.quote import Quote
from taximeter.api.llm.services import LlmServices
from taximeter.api.sql import CREDITS
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
    Usage,
)
from taximeter.meter.wire.credits import credits_of, text_of_credits
from taximeter.meter.wire.refusals import REFUSALS


async def take_hold(
    services: LlmServices,
    quote: Quote,
    org_id: str,
    user_id: str,
    key: str | None,
    key_id: str | None = None,
) -> tuple[Hold, float]:
    """Hold as much of the quote as the settings say; returns the hold and the milliseconds that it
    took. Raises ApiError: 402, 409 for an idempotency key that was used, 429 and 503, and what
    asyncpg raises.
    """
    request_id = _request_id_of(user_id, key)
    if key is not None:
        await _refuse_settled_replay(services, org_id, request_id)
    meter = await services.meters.get()
    started = time.perf_counter()
    hold = await _reserve(services, meter, quote, org_id, user_id, request_id, key_id)
    return hold, (time.perf_counter() - started) * 1000


def _request_id_of(user_id: str, key: str | None) -> str:
    """Random, or for an idempotency key the same every time; never one that another user could
    name.
    """
    if key is None:
        return f"req-{os.urandom(16).hex()}"
    digest = hashlib.sha256(json.dumps([user_id, key]).encode()).hexdigest()
    return f"key-{digest[:48]}"


async def _refuse_settled_replay(services: LlmServices, org_id: str, request_id: str) -> None:
    """Redis remembers outcomes for minutes only; a key that was charged before that is still in the
    ledger.
    """
    charged = await services.pool.fetchval(CREDITS["charged_request"], org_id, request_id)
    if charged is not None:
        raise _replayed(request_id, "committed", charged)


async def _reserve(
    services: LlmServices,
    meter: Meter,
    quote: Quote,
    org_id: str,
    user_id: str,
    request_id: str,
    key_id: str | None,
) -> Hold:
    chat, estimate = quote.chat, quote.least
    # What is charged where this process dies and nobody says more.
    metadata: dict[str, object] = {"model": chat.model}
    if key_id is not None:
        metadata["key_id"] = key_id
    if chat.tag is not None:
        metadata["tag"] = chat.tag
    usage = Usage("llm_inference", chat.model, {**metadata, "estimated": True})
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
