"""Reads what a finished request used, from the shapes in which LiteLLM tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")
# What has a price of its own.
_PROMPT_KINDS = ("cached_tokens", "audio_tokens", "image_tokens", "video_tokens")
_OUTPUT_KINDS = ("reasoning_tokens", "audio_tokens", "image_tokens")
_CACHE_LIVES = (
    *("ephemeral_5m_input_tokens", "ephemeral_30m_input_tokens"),
    *("ephemeral_1h_input_tokens", "ephemeral_12h_input_tokens"),
)
_SEARCHES = "web_search_requests"
_MODES = ("service_tier", "speed", "inference_geo")
_MEDIA = ("audio_tokens", "image_tokens", "video_tokens")
# Of Perplexity's deep research, beside the totals.
_BESIDE = ("citation_tokens", "num_search_queries", "reasoning_tokens")


def tokens_of_answer(response: object) -> dict[str, Any] | None:
    """The usage object of a whole answer, in OpenAI's chat shape; None when it has none."""
    usage = _field(response, "usage")
    shaped = None if usage is None else _chat_shape(usage)
    if shaped is not None and isinstance(tier := _field(response, "service_tier"), str):
        shaped["service_tier"] = tier  # OpenAI says it beside the usage, Anthropic in it.
    elif shaped is not None and "service_tier" not in shaped:
        # Gemini's word for it is kept apart.
        beside = _field(_field(response, "_hidden_params"), "provider_specific_fields")
        if isinstance(traffic := _field(beside, "traffic_type"), str):
            shaped["trafficType"] = traffic
    return shaped


def tokens_of_log(kwargs: Mapping[str, Any], response: object) -> dict[str, Any] | None:
    """The usage of a log event: of its response, or as LiteLLM has summed it up."""
    found = tokens_of_answer(response)
    if found is not None:
        return found
    logged = kwargs.get("standard_logging_object")
    if not isinstance(logged, Mapping):
        return None
    metadata = logged.get("metadata") or {}
    usage = metadata.get("usage_object")
    return _chat_shape(usage if isinstance(usage, Mapping) and usage else logged)


def is_told(tokens: Mapping[str, Any] | None, delivered: int) -> bool:
    """Whether a usage can be true: no prompt has no tokens, and no answer that has delivered some.
    LiteLLM fills in zeros where a provider told none.
    """
    if tokens is None or not tokens["prompt_tokens"]:
        return False
    return bool(tokens["completion_tokens"]) or not delivered


def is_from_cache(response: object, kwargs: Mapping[str, Any]) -> bool:
    """Whether LiteLLM answered from its own cache, and nothing was paid upstream."""
    hidden = _field(response, "_hidden_params")
    return kwargs.get("cache_hit") is True or _field(hidden, "cache_hit") is True


def deployment_of(response: object, kwargs: Mapping[str, Any]) -> object:
    """The id of the deployment that answered, or None."""
    logged = kwargs.get("standard_logging_object")
    found = _field(logged, "model_id")
    return found or _field(_field(response, "_hidden_params"), "model_id")


def cost_by_litellm(response: object, kwargs: Mapping[str, Any]) -> str | None:
    """LiteLLM's own figure in dollars, recorded beside ours and never charged."""
    cost = kwargs.get("response_cost")
    if cost is None:
        cost = _field(_field(response, "_hidden_params"), "response_cost")
    return None if cost is None else str(cost)


def _chat_shape(usage: object) -> dict[str, Any] | None:
    prompt, output = _first(usage, _INPUT), _first(usage, _OUTPUT)
    if prompt is None and output is None:
        return None
    shaped: dict[str, Any] = {"prompt_tokens": prompt or 0, "completion_tokens": output or 0}
    read = _field(usage, "prompt_tokens_details") or _field(usage, "input_tokens_details")
    written = _field(usage, "completion_tokens_details") or _field(usage, "output_tokens_details")
    details = _counts(read, _PROMPT_KINDS)
    details["cache_write_tokens"] = _count(read, "cache_write_tokens") or _count(
        read, "cache_creation_tokens"
    )
    # Anthropic's own shape counts what the cache gave and took apart from its input.
    if _field(usage, "prompt_tokens") is None and read is None:
        given = _count(usage, "cache_read_input_tokens")
        taken = _count(usage, "cache_creation_input_tokens")
        shaped["prompt_tokens"] += given + taken
        details["cached_tokens"], details["cache_write_tokens"] = given, taken
    shaped["prompt_tokens_details"] = {name: count for name, count in details.items() if count}
    if media := _counts(_field(read, "cached_tokens_details"), _MEDIA):
        shaped["prompt_tokens_details"]["cached_tokens_details"] = media
    shaped |= _counts(usage, _BESIDE)
    shaped["completion_tokens_details"] = _counts(written, _OUTPUT_KINDS)
    by_life = _field(read, "cache_creation_token_details") or _field(usage, "cache_creation")
    if lives := _counts(by_life, _CACHE_LIVES):
        shaped["prompt_tokens_details"]["cache_creation_token_details"] = lives
    searches = _count(_field(usage, "server_tool_use"), _SEARCHES) or _count(read, _SEARCHES)
    if searches:
        shaped["server_tool_use"] = {_SEARCHES: searches}
    for name in _MODES:
        if isinstance(mode := _field(usage, name), str):
            shaped[name] = mode
    return shaped


def _counts(usage: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: count for name in names if (count := _count(usage, name))}


def _first(usage: object, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = _field(usage, name)
        if type(value) is int and value >= 0:
            return value
    return None


def _count(usage: object, name: str) -> int:
    return _first(usage, (name,)) or 0


def _field(value: object, name: str) -> Any:
    """A field of a mapping or of an object: LiteLLM hands out both."""
    if isinstance(value, Mapping):
        return value.get(name)
    return getattr(value, name, None)
