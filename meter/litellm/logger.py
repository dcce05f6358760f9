"""Takes a hold before LiteLLM calls a model, and charges what the call cost after it."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from taximeter.meter.litellm import reported_usage as usage
from taximeter.meter.litellm.caller_errors import refusal, refusal_of
from taximeter.meter.litellm.deployments import dearest_behind, model_of_deployment
from taximeter.meter.litellm.ending import Settlement
from taximeter.meter.litellm.estimate import estimate
from taximeter.meter.litellm.open_calls import Call, Calls
from taximeter.meter.litellm.payer import find
from taximeter.meter.litellm.settings import LiteLLMSettings
from taximeter.meter.litellm.sidecar import SidecarClient
from taximeter.meter.litellm.stream import tokens_of_piece
from taximeter.meter.litellm.trace_context import trace_headers
from taximeter.meter.wire.credits import text_of_credits

try:
    from litellm.integrations.custom_logger import CustomLogger  # pyright: ignore
except ModuleNotFoundError:  # The plain install: every module of the client can be imported.
    CustomLogger = object

_EMBEDDING: Final = frozenset(("embedding", "aembedding", "embeddings"))
_METERED: Final = _EMBEDDING | {
    *("completion", "acompletion", "text_completion", "atext_completion"),
    *("responses", "aresponses", "anthropic_messages", "aanthropic_messages"),
    *("generate_content", "agenerate_content"),
    *("generate_content_stream", "agenerate_content_stream"),
}
"""Calls that are paid by tokens."""
_FREE: Final = re.compile(
    r"a?(get|list|retrieve|delete|cancel)_\w+|\w+_(list|retrieve|delete|content|cancel)"
    r"|a?moderation|a?create_file|alist_\w+"
)
"""Calls that no provider asks money for: reading, deleting and uploading."""

CALL_ID: Final = "x-litellm-call-id"
NAME_LENGTH_MAX: Final = 256


class TaximeterLogger(CustomLogger):  # type: ignore[misc]  # Its base has no types here.
    """Holds, charges and releases through a sidecar, one logical request once.

    LiteLLM's retries and fallbacks are inside of one request: the hold is taken before the first
    attempt and ended after the last. What LiteLLM never reports ends by itself: the hold at its
    deadline, charging what a stream had reported.
    """

    def __init__(self, settings: LiteLLMSettings, client: SidecarClient | None = None) -> None:
        super().__init__()
        self._settings = settings
        self._client = client or SidecarClient(settings)
        self._calls = Calls()
        self._settlement = Settlement(self._client, self._calls, settings)
        self._free_calls = frozenset(part.strip() for part in settings.free_calls.split(","))

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> None:
        """Hold the estimate, or raise the HTTPException that refuses the request."""
        if call_type not in _METERED:
            if call_type in self._free_calls or _FREE.fullmatch(call_type):
                return
            message = f"Requests of type {call_type} cannot be charged, so they are not let through"
            raise refusal(403, "UNMETERED_CALL", message)
        org_id, user_id = self._payer(user_api_key_dict, data)
        group = data.get("model")
        if not isinstance(group, str) or not group or "," in group:
            raise refusal(400, "INVALID_REQUEST", "model must be given, and be one model")
        model = dearest_behind(group, getattr(user_api_key_dict, "team_id", None))
        bound = estimate(data, self._settings, model.ceiling, writes=call_type not in _EMBEDDING)
        shown = group[:NAME_LENGTH_MAX]
        about = {"gateway": "litellm", "model_group": shown, "call_type": call_type}
        request_id = str(data.get("litellm_call_id") or "")
        ids = {"org_id": org_id, "user_id": user_id, "request_id": request_id}
        fields: dict[str, object] = {
            **ids,
            **model.fields,
            "prompt_tokens": bound.prompt_tokens,
            "max_output_tokens": bound.output_tokens,
            "n": bound.answers,
            "ttl_s": self._settings.hold_s,
            "usage": {"metadata": about},
        }
        if isinstance(tier := data.get("service_tier"), str) and tier:
            fields["service_tier"] = tier[:NAME_LENGTH_MAX]
        trace = trace_headers(user_api_key_dict, _headers_of(data))
        answer = await self._client.call("reserve", fields, trace)
        if answer.status != 200:
            is_unknown = not answer.status or answer.code == "OUTCOME_UNKNOWN"
            if is_unknown and CALL_ID not in _headers_of(data):
                # The answer was lost: a hold may stand, and this request will not use it. With an
                # id that the caller chose it may be another request's, and is left to its deadline.
                self._settlement.in_background(self._client.call("release", ids, trace))
            raise refusal_of(answer)
        call = Call(
            org_id,
            user_id,
            request_id,
            model=model,
            prompt_guess=bound.prompt_guess,
            reserved=answer.body["reserved_millicredits"],
            available=answer.body["available_millicredits"],
            about=about,
            trace=trace,
        )
        self._calls.add(call, data)

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: Any, response: Any
    ) -> None:
        """Charge a whole answer before it goes out, so that no crash comes between. One whose usage
        cannot be read is counted, and charged when LiteLLM logs it.
        """
        call = self._calls.of(data)
        if call is None:
            return
        delivered = tokens_of_piece(response)
        tokens = usage.tokens_of_answer(response)
        if usage.is_told(tokens, delivered):
            await self._charge(call, tokens, response, {})
        else:
            call.output_tokens = max(call.output_tokens, delivered)

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Relay a stream, count it, and report the progress while it runs and when it ends."""
        call = self._calls.of(request_data)
        try:
            async for item in response:
                if call is not None:
                    call.output_tokens += tokens_of_piece(item)
                    if time.monotonic() - call.touched_s > self._settings.hold_s / 3:
                        call.touched_s = time.monotonic()
                        self._settlement.in_background(self._settlement.report(call))
                yield item
        finally:
            # LiteLLM charges in the background. Until it does, the hold knows what is owed.
            if call is not None and not call.ended:
                self._settlement.in_background(self._settlement.report(call))

    async def async_log_success_event(
        self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Charge what is not charged yet: streams, also those whose caller left in the middle."""
        call = self._calls.of(kwargs)
        if call is None or call.ended:
            return
        tokens = usage.tokens_of_log(kwargs, response_obj)
        if not usage.is_told(tokens, call.output_tokens):
            tokens = None
        await self._charge(call, tokens, response_obj, kwargs)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """The request failed for good, after all retries: nothing is charged, unless a stream had
        delivered some.
        """
        call = self._calls.of(request_data)
        if call is None or call.ended:
            return
        if call.output_tokens:
            about = {**call.about, "failed": True, "estimated": True}
            tokens = self._settlement.delivered(call)
            await self._settlement.charge(call, model=call.model, tokens=tokens, about=about)
        else:
            await self._settlement.release(call)

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: dict[str, str] | None = None,
        litellm_call_info: dict[str, Any] | None = None,
    ) -> dict[str, str] | None:
        """What is left, and what a whole answer has cost."""
        call = self._calls.of(data)
        if call is None:
            return None
        headers = {"x-credits-remaining": text_of_credits(call.available)}
        if call.cost is not None:
            headers["x-cost-incurred"] = text_of_credits(call.cost)
        return headers

    async def _charge(
        self,
        call: Call,
        tokens: Mapping[str, Any] | None,
        response: Any,
        kwargs: Mapping[str, Any],
    ) -> None:
        """Charge what was reported, or, without that, what was sent and delivered."""
        model = model_of_deployment(usage.deployment_of(response, kwargs)) or call.model
        about: dict[str, object] = {**call.about, "model": model.name}
        if (cost := usage.cost_by_litellm(response, kwargs)) is not None:
            about["litellm_cost_usd"] = cost
        if usage.is_from_cache(response, kwargs):
            about["cache_hit"] = True
            await self._settlement.charge(call, model=model, tokens=None, about=about)
            return
        if tokens is None:
            about["estimated"] = True
            tokens = self._settlement.delivered(call)
        await self._settlement.charge(call, model=model, tokens=tokens, about=about)

    def _payer(self, key: Any, data: Mapping[str, Any]) -> tuple[str, str]:
        headers = _headers_of(data)
        org_id = find(self._settings.org, key, headers)
        user_id = find(self._settings.user, key, headers)
        if org_id is None or user_id is None:
            what = "organisation" if org_id is None else "user"
            raise refusal(403, "PAYER_UNKNOWN", f"This key belongs to no {what} that could pay")
        return org_id, user_id


def _headers_of(data: Mapping[str, Any]) -> Mapping[str, str]:
    """The headers of the caller's request, with names in lower case."""
    request = data.get("proxy_server_request")
    headers = request.get("headers") if isinstance(request, Mapping) else None
    return headers if isinstance(headers, Mapping) else {}
