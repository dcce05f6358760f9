"""Lists the fields of a request body that go upstream: those whose cost is known, since usage tells
it or there is none. What is not here is refused by name, and not passed on in the hope that it is
free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from taximeter.api.openai.checks import invalid

# The upstream and its key are the operator's: a caller who could name another one would be sent our
# key.
_OPERATORS: Final = frozenset(
    (
        *("api_base", "base_url", "api_key", "api_version", "organization", "user_config"),
        # Gateways behind us take these for other models than the one that is priced.
        *("models", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks"),
        *("model_list", "custom_llm_provider"),
    )
)
# These describe the request to us; an upstream would refuse them as unknown.
OWN: Final = ("power_level", "task_type", "tag")

_ALL: Final = frozenset(("model", "user", "metadata", "safety_identifier", "priority", *OWN))
_SAMPLING: Final = frozenset(
    (
        *("temperature", "top_p", "top_k", "min_p", "top_a", "typical_p", "seed", "random_seed"),
        *("stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "bad_words"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty"),
        *("logit_bias", "min_tokens", "skip_special_tokens", "spaces_between_special_tokens"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"),
        *("truncate_prompt_tokens", "add_special_tokens", "dry_multiplier", "mirostat"),
    )
)
_STREAM: Final = frozenset(("stream", "stream_options", "service_tier"))
_CACHE: Final = frozenset(("prompt_cache_key", "prompt_cache_retention", "store"))
_TOOLS: Final = frozenset(("tools", "tool_choice", "parallel_tool_calls"))
CHAT: Final = (
    _ALL
    | _SAMPLING
    | _STREAM
    | _CACHE
    | _TOOLS
    | frozenset(
        (
            *("messages", "n", "max_tokens", "max_completion_tokens", "response_format"),
            *("functions", "function_call", "modalities", "audio", "prediction", "verbosity"),
            *("logprobs", "top_logprobs", "reasoning", "reasoning_effort", "reasoning_format"),
            *("include_reasoning", "thinking", "enable_thinking", "thinking_budget"),
            *("chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
            *("safe_prompt", "prompt_mode", "cache_control", "parse_reasoning"),
        )
    )
)
COMPLETIONS: Final = (
    _ALL
    | _SAMPLING
    | _STREAM
    | _CACHE
    | frozenset(("prompt", "suffix", "max_tokens", "n", "best_of", "echo", "logprobs"))
)
EMBEDDINGS: Final = _ALL | frozenset(
    (
        *("input", "encoding_format", "dimensions", "input_type", "task", "truncate"),
        *("truncate_prompt_tokens", "normalize", "embedding_type", "stream", "stream_options"),
    )
)
IMAGES: Final = _ALL | frozenset(
    (
        *("prompt", "n", "size", "quality", "style", "response_format", "background", "seed"),
        *("moderation", "output_format", "output_compression", "negative_prompt"),
        *("stream", "stream_options"),
    )
)
RESPONSES: Final = (
    _ALL
    | _STREAM
    | _CACHE
    | _TOOLS
    | frozenset(
        (
            *("input", "instructions", "max_output_tokens", "temperature", "top_p", "text"),
            *("reasoning", "truncation", "include", "top_logprobs", "max_tool_calls"),
            # These are refused with words of their own, where they ask for anything.
            *("background", "previous_response_id", "conversation", "prompt"),
        )
    )
)

# Other tools run at the provider and have prices of their own, which no usage tells.
METERED_TOOLS: Final = ("function", "custom")


def check_fields(body: Mapping[str, Any], known: frozenset[str], extra: frozenset[str]) -> None:
    """Raises ApiError 422 for the first field that is neither known nor allowed by the operator."""
    for name in body:
        if name in _OPERATORS:
            raise invalid(name, "is decided by the operator and cannot be sent")
        if name not in known and name not in extra:
            raise invalid(
                name[:64],
                "is not served: what it costs is not known here. The operator can let it through "
                "(TAXIMETER_LLM_EXTRA_FIELDS)",
            )


def check_tools(body: Mapping[str, Any]) -> None:
    """Raises ApiError 422 for a tool that would run at the provider."""
    tools = body.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise invalid("tools", "must be a list of objects")
    for tool in tools:
        if len({name.casefold() for name in tool}) < len(tool):
            raise invalid("tools", "must have names that differ by more than their case")
        if tool.get("type") not in METERED_TOOLS:
            raise invalid("tools", f"only those of type {' or '.join(METERED_TOOLS)} are served")
