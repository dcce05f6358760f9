"""Usage objects as the providers send them, made of counts that do not overlap."""

from __future__ import annotations

from typing import Any, Final

Counts = dict[str, int]


def of(counts: Counts, *names: str) -> int:
    return sum(counts.get(name, 0) for name in names)


_AUDIO = ("input_audio", "cache_read_audio")
_IMAGE = ("input_image", "cache_read_image")
_VIDEO = ("input_video", "cache_read_video")
_CACHED = ("cache_read", "cache_read_audio", "cache_read_image", "cache_read_video")
_WRITTEN = ("cache_write", "cache_write_1h", "cache_write_12h")
PROMPT = ("input", "input_audio", "input_image", "input_video", *_CACHED, *_WRITTEN)
_OUTPUT = ("output", "reasoning", "output_audio", "output_image")


def _chat(counts: Counts) -> dict[str, Any]:
    prompt, output = of(counts, *PROMPT), of(counts, *_OUTPUT)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {
            "cached_tokens": of(counts, *_CACHED),
            "audio_tokens": of(counts, *_AUDIO),
        },
        "completion_tokens_details": {
            "reasoning_tokens": of(counts, "reasoning"),
            "audio_tokens": of(counts, "output_audio"),
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _responses(counts: Counts) -> dict[str, Any]:
    prompt, output = of(counts, *PROMPT), of(counts, *_OUTPUT)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": of(counts, *_CACHED),
            "audio_tokens": of(counts, *_AUDIO),
            "text_tokens": of(counts, "input", "cache_read"),
        },
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": of(counts, "reasoning")},
        "total_tokens": prompt + output,
    }


def _responses_written(counts: Counts) -> dict[str, Any]:
    usage = _responses(counts)
    usage["input_tokens_details"] |= {
        "cache_write_tokens": of(counts, *_WRITTEN),
        "cache_write_tokens_details": {
            "ttl_30m_tokens": of(counts, "cache_write"),
            "ttl_12h_tokens": of(counts, "cache_write_12h"),
        },
    }
    return usage


def _realtime(counts: Counts) -> dict[str, Any]:
    prompt, output = of(counts, *PROMPT), of(counts, *_OUTPUT)
    return {
        "total_tokens": prompt + output,
        "input_tokens": prompt,
        "output_tokens": output,
        "input_token_details": {
            "text_tokens": of(counts, "input", "cache_read"),
            "audio_tokens": of(counts, *_AUDIO),
            "image_tokens": 0,
            "cached_tokens": of(counts, *_CACHED),
            "cached_tokens_details": {
                "text_tokens": of(counts, "cache_read"),
                "audio_tokens": of(counts, "cache_read_audio"),
            },
        },
        "output_token_details": {
            "text_tokens": of(counts, "output"),
            "audio_tokens": of(counts, "output_audio"),
        },
    }


def _images(counts: Counts) -> dict[str, Any]:
    prompt, output = of(counts, *PROMPT), of(counts, *_OUTPUT)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "image_tokens": of(counts, *_IMAGE),
            "text_tokens": of(counts, "input"),
        },
        "output_tokens": output,
        "total_tokens": prompt + output,
    }


def _anthropic(counts: Counts) -> dict[str, Any]:
    return {
        "input_tokens": of(counts, "input"),
        "cache_creation_input_tokens": of(counts, "cache_write", "cache_write_1h"),
        "cache_read_input_tokens": of(counts, "cache_read"),
        "cache_creation": {
            "ephemeral_5m_input_tokens": of(counts, "cache_write"),
            "ephemeral_1h_input_tokens": of(counts, "cache_write_1h"),
        },
        "output_tokens": of(counts, "output"),
        "service_tier": "standard",
    }


def _litellm(counts: Counts) -> dict[str, Any]:
    """Anthropic's figures as LiteLLM hands them on: in OpenAI's words, with one total."""
    return {
        "prompt_tokens": of(counts, *PROMPT),
        "completion_tokens": of(counts, *_OUTPUT),
        "total_tokens": of(counts, *PROMPT, *_OUTPUT),
        "prompt_tokens_details": {
            "cached_tokens": of(counts, "cache_read"),
            "cache_creation_tokens": of(counts, "cache_write", "cache_write_1h"),
            "cache_creation_token_details": {
                "ephemeral_5m_input_tokens": of(counts, "cache_write"),
                "ephemeral_1h_input_tokens": of(counts, "cache_write_1h"),
            },
        },
        "cache_creation_input_tokens": of(counts, "cache_write", "cache_write_1h"),
        "cache_read_input_tokens": of(counts, "cache_read"),
    }


def _gemini(counts: Counts) -> dict[str, Any]:
    prompt = of(counts, *PROMPT)
    found: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": of(counts, "output", "output_image"),
        "totalTokenCount": prompt + of(counts, *_OUTPUT),
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": of(counts, "input", "cache_read")},
            {"modality": "AUDIO", "tokenCount": of(counts, *_AUDIO)},
        ],
        "candidatesTokensDetails": [
            {"modality": "IMAGE", "tokenCount": of(counts, "output_image")}
        ],
    }
    if cached := of(counts, *_CACHED):
        found["cachedContentTokenCount"] = cached
        found["cacheTokensDetails"] = [
            {"modality": "AUDIO", "tokenCount": of(counts, "cache_read_audio")}
        ]
    if "reasoning" in counts:
        found["thoughtsTokenCount"] = counts["reasoning"]
    return found


def _gemini_seen(counts: Counts) -> dict[str, Any]:
    """With images and videos, of which most came from the cache."""
    prompt, made = of(counts, *PROMPT), of(counts, *_OUTPUT)
    return {
        "promptTokenCount": prompt,
        "candidatesTokenCount": made,
        "totalTokenCount": prompt + made,
        "cachedContentTokenCount": of(counts, *_CACHED),
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": of(counts, "input", "cache_read")},
            {"modality": "IMAGE", "tokenCount": of(counts, *_IMAGE)},
            {"modality": "VIDEO", "tokenCount": of(counts, *_VIDEO)},
        ],
        "cacheTokensDetails": [
            {"modality": "TEXT", "tokenCount": of(counts, "cache_read")},
            {"modality": "IMAGE", "tokenCount": of(counts, "cache_read_image")},
            {"modality": "VIDEO", "tokenCount": of(counts, "cache_read_video")},
        ],
    }


def _gemini_speech(counts: Counts) -> dict[str, Any]:
    prompt, made = of(counts, *PROMPT), of(counts, "output_audio")
    return {
        "promptTokenCount": prompt,
        "candidatesTokenCount": made,
        "totalTokenCount": prompt + made,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": made}],
    }


def _gemini_live(counts: Counts) -> dict[str, Any]:
    prompt, made = of(counts, *PROMPT), of(counts, *_OUTPUT)
    return {
        "promptTokenCount": prompt,
        "responseTokenCount": made,
        "totalTokenCount": prompt + made,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": of(counts, "input")},
            {"modality": "AUDIO", "tokenCount": of(counts, *_AUDIO)},
            {"modality": "IMAGE", "tokenCount": of(counts, *_IMAGE)},
        ],
        "responseTokensDetails": [
            {"modality": "TEXT", "tokenCount": of(counts, "output")},
            {"modality": "AUDIO", "tokenCount": of(counts, "output_audio")},
        ],
    }


def _anthropic_us(counts: Counts) -> dict[str, Any]:
    """As asked for with `inference_geo`."""
    return {**_anthropic(counts), "inference_geo": "us"}


def _images_apart(counts: Counts) -> dict[str, Any]:
    """Of the models that also write: their output is told apart."""
    return {
        **_images(counts),
        "output_tokens_details": {
            "image_tokens": of(counts, "output_image"),
            "text_tokens": of(counts, "output"),
        },
    }


def _deepseek(counts: Counts) -> dict[str, Any]:
    return {
        **_chat(counts),
        "prompt_cache_hit_tokens": of(counts, "cache_read"),
        "prompt_cache_miss_tokens": of(counts, "input"),
    }


def _x_ai(counts: Counts) -> dict[str, Any]:
    """The total of the output is without the reasoning, which is billed all the same."""
    return {**_chat(counts), "completion_tokens": of(counts, "output")}


def _bedrock(counts: Counts) -> dict[str, Any]:
    return {
        "inputTokens": of(counts, "input"),
        "outputTokens": of(counts, *_OUTPUT),
        "totalTokens": of(counts, *PROMPT, *_OUTPUT),
        "cacheReadInputTokens": of(counts, "cache_read"),
        "cacheWriteInputTokens": 0,
    }


def _bedrock_written(counts: Counts) -> dict[str, Any]:
    """What was written to a cache, by how long it is kept."""
    written = of(counts, "cache_write", "cache_write_1h")
    return {
        **_bedrock(counts),
        "cacheWriteInputTokens": written,
        "cacheDetails": [
            {"ttl": "1h", "inputTokens": of(counts, "cache_write_1h")},
            {"ttl": "5m", "inputTokens": of(counts, "cache_write")},
        ],
    }


def _perplexity(counts: Counts) -> dict[str, Any]:
    """Deep research: what it thought, cited and asked for stands beside the totals."""
    prompt, made = of(counts, "input"), of(counts, "output")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "search_context_size": "low",
        "citation_tokens": of(counts, "citation"),
        "num_search_queries": of(counts, "search"),
        "reasoning_tokens": of(counts, "reasoning"),
    }


def _x_ai_sdk(counts: Counts) -> dict[str, Any]:
    """As x.ai's own client has it: the reasoning stands beside the output, and in the sum."""
    return {
        "prompt_tokens": of(counts, *PROMPT),
        "completion_tokens": of(counts, "output"),
        "reasoning_tokens": of(counts, "reasoning"),
        "total_tokens": of(counts, *PROMPT, *_OUTPUT),
        "cached_prompt_text_tokens": of(counts, "cache_read"),
    }


def _embeddings(counts: Counts) -> dict[str, Any]:
    return {"prompt_tokens": counts["input"], "total_tokens": counts["input"]}


def _seconds(counts: Counts) -> dict[str, Any]:
    return {"type": "duration", "seconds": counts["audio_hour"]}


SHAPES: Final = {
    "chat": _chat,
    "responses": _responses,
    "responses_written": _responses_written,
    "realtime": _realtime,
    "images": _images,
    "anthropic": _anthropic,
    "litellm": _litellm,
    "gemini": _gemini,
    "gemini_speech": _gemini_speech,
    "gemini_live": _gemini_live,
    "anthropic_us": _anthropic_us,
    "images_apart": _images_apart,
    "deepseek": _deepseek,
    "x-ai": _x_ai,
    "x-ai_sdk": _x_ai_sdk,
    "bedrock": _bedrock,
    "bedrock_written": _bedrock_written,
    "perplexity": _perplexity,
    "gemini_seen": _gemini_seen,
    "embeddings": _embeddings,
    "seconds": _seconds,
}
