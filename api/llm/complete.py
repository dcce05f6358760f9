"""One completion: hold, call upstream, relay, charge the actual usage."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp

from taximeter.api.errors import ALREADY_EXISTS, ApiError, from_meter, text_of_credits
from taximeter.api.exact import credits_of
from taximeter.api.llm.answer import Answer
from taximeter.api.llm.charge import OpenCharge
from taximeter.api.llm.chat import ChatRequest, parse_chat
from taximeter.api.llm.estimates import delta_text, output_bound, output_guess, prompt_bound
from taximeter.api.llm.streaming import CompletionStream, MeteredStream
from taximeter.api.llm.upstream import Upstream
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


async def complete(
    services: Services, user_id: str, content: bytes, org_header: str | None, key: str | None
) -> ASGIApp:
    """Hold, start the completion and return its answer. Raises ApiError, MeterError and what
    asyncpg raises; nothing is held then.
    """
    chat = parse_chat(content)
    if services.upstream is None:
        raise ApiError(
            503,
            "No provider is configured (TAXIMETER_UPSTREAM_BASE_URL)",
            details={"reason": "upstream_not_configured"},
        )
    org_id = await _paying_org(services, user_id, org_header)
    request_id = _request_id(user_id, key)
    if key is not None:
        await _refuse_settled_replay(services, org_id, request_id)
    meter = await services.meters.get()
    started = time.perf_counter()
    hold = await _reserve(services, meter, chat, org_id, user_id, request_id)
    hold_ms = (time.perf_counter() - started) * 1000
    charge = OpenCharge(
        hold,
        chat,
        services.pricer,
        services.tracker,
        provider=services.upstream.name,
        ttl_s=services.settings.hold_ttl_s,
        hold_ms=hold_ms,
    )
    try:
        # The completion is a task of the application: if the server gives this request up, the
        # completion still ends, and is charged.
        work = _stream if chat.stream else _answer
        completion = services.tracker.spawn(work(services, services.upstream, chat, charge))
        return await asyncio.shield(completion)
    except BaseException:
        charge.abandon()
        raise


async def _paying_org(services: Services, user_id: str, org_header: str | None) -> str:
    """The organisation that the caller chose, else the one of the oldest active membership."""
    memberships = await services.memberships.of(user_id)
    if org_header is not None:
        if all(one.org_id != org_header for one in memberships):
            raise ApiError(404, "Organization not found")
        return org_header
    if not memberships:
        raise ApiError(403, "You are not a member of any organization that could pay")
    return memberships[0].org_id


def _request_id(user_id: str, key: str | None) -> str:
    """Random, or for an idempotency key the same every time; never one that another user could
    name.
    """
    if key is None:
        return f"req-{os.urandom(16).hex()}"
    digest = hashlib.sha256(json.dumps([user_id, key]).encode()).hexdigest()
    return f"key-{digest[:48]}"


async def _refuse_settled_replay(services: Services, org_id: str, request_id: str) -> None:
    """Redis remembers outcomes for minutes only; a key that was charged before that is still in the
    ledger.
    """
    charged = await services.pool.fetchval(CREDITS["charged_request"], org_id, request_id)
    if charged is not None:
        raise _replayed(request_id, "committed", charged)


async def _reserve(
    services: Services,
    meter: Meter,
    chat: ChatRequest,
    org_id: str,
    user_id: str,
    request_id: str,
) -> Hold:
    try:
        quote = services.pricer.estimate(
            chat.model,
            prompt_bound(chat.body),
            output_bound(chat, services.settings.output_tokens_assumed),
            chat.n,
            service_tier=chat.service_tier,
        )
    except UnpricedModel as error:
        raise ApiError(
            400, str(error), code="UNPRICED_MODEL", details={"model": chat.model}
        ) from error
    assert services.upstream is not None, "checked before"
    usage = Usage(
        "llm_inference",
        chat.model,
        {"provider": services.upstream.name, "model": chat.model, "estimated": True},
    )
    try:
        return await meter.reserve(
            org_id,
            user_id,
            quote.millicredits,
            request_id=request_id,
            ttl_s=services.settings.hold_ttl_s,
            usage=usage,
        )
    except (RequestReplayed, RequestConflict) as error:
        outcome = error.outcome
        raise _replayed(request_id, outcome.state, outcome.charged, outcome) from error
    except AccountNotFound as error:
        # Nothing was ever allocated: to the caller that is an empty balance like any other.
        raise from_meter(InsufficientCredits(quote.millicredits, 0, 0)) from error
    except MeterError as error:
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


async def _answer(
    services: Services, upstream: Upstream, chat: ChatRequest, charge: OpenCharge
) -> ASGIApp:
    """One whole answer. A client that leaves meanwhile still pays: its provider does the work to
    the end.
    """
    try:
        response = await upstream.send(chat.encoded(), charge.request_id)
        content = await upstream.read(response)
    except ApiError as error:
        await charge.release()
        error.headers["X-Request-Id"] = charge.request_id
        raise
    document = _object(content)
    usage = document.get("usage")
    if not isinstance(usage, dict):
        usage = None
        charge.delivered_tokens = _output_of(document)
    tier = document.get("service_tier")
    receipt = await charge.finish(usage, tier if isinstance(tier, str) else None)
    headers = _headers(upstream, charge, receipt)
    headers["X-Cost-Incurred"] = text_of_credits(charge.cost or 0)
    if receipt is None:
        headers["X-Charge-Pending"] = "true"
    headers["Content-Type"] = response.headers.get("Content-Type", "application/json")
    return Answer(content, headers)


async def _stream(
    services: Services, upstream: Upstream, chat: ChatRequest, charge: OpenCharge
) -> ASGIApp:
    """The start of a stream. Until its first event the request can still fail with a status of its
    own.
    """
    stream: CompletionStream | None = None
    try:
        response = await upstream.send(chat.encoded(), charge.request_id)
        stream = CompletionStream(response)
        await stream.first()
    except BaseException as error:
        if stream is not None:
            stream.close()
        await charge.release()
        if isinstance(error, ApiError):
            error.headers["X-Request-Id"] = charge.request_id
        raise
    return MeteredStream(stream, charge, chat, services.tracker, _headers(upstream, charge, None))


def _headers(upstream: Upstream, charge: OpenCharge, receipt: Receipt | None) -> dict[str, str]:
    remaining = charge.remaining if receipt is None else receipt.available + receipt.held
    return {
        "X-Request-Id": charge.request_id,
        "X-Provider-Used": upstream.name,
        "X-Credits-Remaining": text_of_credits(remaining),
        "Server-Timing": f"hold;dur={charge.hold_ms:.2f}",
    }


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _output_of(document: Mapping[str, Any]) -> int:
    choices = document.get("choices")
    if not isinstance(choices, list):
        return 0
    return sum(
        output_guess(delta_text(choice.get("message")))
        for choice in choices
        if isinstance(choice, dict)
    )
