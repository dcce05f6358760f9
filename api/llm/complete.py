"""Completes one request: reads it, prices it, holds for it, and calls upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive

from taximeter.api.access.memberships import Membership
from taximeter.api.llm.admission import take_hold
from taximeter.api.llm.call import UpstreamCall
from taximeter.api.llm.charge import OpenCharge
from taximeter.api.llm.estimates import measure
from taximeter.api.llm.place import Place
from taximeter.api.llm.quote import quote
from taximeter.api.llm.services import LlmServices
from taximeter.api.openai.parse import parse_request
from taximeter.api.openai.surfaces import Surface
from taximeter.api.web.errors import ApiError


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it came, from a caller who is known, and who pays for it. `forwarded`: headers
    for the upstream. `key_id`: the API key that the caller has, if it is one.
    """

    surface: Surface
    user_id: str
    payer: Membership
    content: bytes
    key: str | None
    forwarded: Mapping[str, str]
    receive: Receive
    place: Place
    key_id: str | None = None


async def complete(services: LlmServices, incoming: Incoming) -> ASGIApp:
    """Hold, start the answer and return it. Raises ApiError, ClientLeft, MeterError and what
    asyncpg raises; nothing is held then, or given back in the background.
    """
    chat = parse_request(incoming.content, incoming.surface, services.extra_fields)
    if services.router is None:
        raise ApiError.of("upstream_not_configured")
    targets = services.router.targets(chat.model)
    org_id = incoming.payer.org_id
    prompt = await measure(chat.prompt)
    quoted = quote(
        services.settings, services.pricer, chat, prompt, targets, incoming.payer.plan_code
    )
    hold, hold_ms = await take_hold(
        services, quoted, org_id, incoming.user_id, incoming.key, incoming.key_id
    )
    charge = OpenCharge(
        hold,
        chat,
        quoted.prices,
        quoted.bounds(),
        services.keepers,
        prompt_tokens=prompt.guess,
        ttl_s=services.settings.hold_ttl_s,
        hold_ms=hold_ms,
        key_id=incoming.key_id,
    )
    headers = {**incoming.forwarded, "X-Request-Id": hold.request_id}
    if services.tracing is not None:
        from taximeter.api.llm.call_span import CallSpan

        charge.span = CallSpan(services.tracing, chat, charge.target, hold)
        headers = charge.span.on(headers)
    chat.limit_output(quoted.output_paid_by(hold.amount))
    payer = (org_id, incoming.user_id)
    call = UpstreamCall(
        services, payer, incoming.place, chat, charge, tuple(quoted.prices), headers
    )
    try:
        if chat.stream:
            return await call.stream(incoming.receive)
        return await call.answer()
    except ApiError as error:
        error.headers["X-Request-Id"] = hold.request_id
        if incoming.key is not None:
            # The key is used: a client that repeats it would only be told so.
            error.headers["X-Should-Retry"] = "false"
        raise
