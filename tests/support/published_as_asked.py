"""Models and usages that were once priced wrongly here, each with the page that has the price:
dated names, what caches keep of images and videos, an hour's writes on Bedrock, deep research,
reasoning beside the output, tuned models. See `published_prices`.
"""

from __future__ import annotations

from typing import Final

from support.published_prices import Published

_SOUND: Final = (
    (
        ("2.50", "10.00", "40", "80"),
        ("gpt-4o-audio-preview-2024-12-17", "openai/gpt-4o-audio-preview-2025-06-03"),
    ),
    (
        ("0.15", "0.60", "10", "20"),
        ("gpt-4o-mini-audio-preview-2024-12-17", "openai/gpt-4o-mini-audio-preview"),
    ),
)
_GEMINI: Final = "ai.google.dev/gemini-api/docs/pricing"
_VERTEX: Final = "cloud.google.com/gemini-enterprise-agent-platform/generative-ai/pricing"
_TUNED: Final = (
    ("3.75", "15.00", ("ft:gpt-4o-2024-08-06:acme::x1", "openai/ft:gpt-4o-2024-08-06:acme")),
    ("0.30", "1.20", ("ft:gpt-4o-mini-2024-07-18:acme:mine:x1",)),
)


def _seen(host: str, name: str, page: str, given: str, made: str, cached: str) -> Published:
    """Images and videos cost what text does, and so do those from the cache."""
    prices = {kind: given for kind in ("input", "input_image", "input_video")}
    prices |= {kind: cached for kind in ("cache_read", "cache_read_image", "cache_read_video")}
    prices["output"] = made
    kinds = ("plain", "seen")
    return Published(
        host, name, prices, None, ("gemini_seen",), "2026-11", "", kinds, (name,), page
    )


def _stored(name: str, *prices: str) -> Published:
    kinds = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
    return Published(
        "aws",
        name,
        dict(zip(kinds, prices, strict=True)),
        shapes=("bedrock_written",),
        kinds=("plain", "stored"),
        names=(name,),
    )


ASKED: Final = [
    # Once another host's price.
    Published(
        "zai",
        "glm-4.7",
        {"input": "0.60", "output": "2.20", "cache_read": "0.11"},
        names=("zai/glm-4.7",),
        page="docs.z.ai/guides/overview/pricing",
    ),
    # Dated and other names of what is corrected.
    *(
        Published(
            "openai",
            names[0],
            {"input": text, "output": made, "input_audio": heard, "output_audio": spoken},
            None,
            ("chat",),
            "2025-06",
            "has no prices of audio",
            ("plain", "audio"),
            names,
        )
        for (text, made, heard, spoken), names in _SOUND
    ),
    Published(
        "azure",
        "gpt-4o-audio-preview",
        {"input": "2.50", "output": "10.00", "input_audio": "40", "output_audio": "80"},
        kinds=("plain", "audio"),
        names=("azure/gpt-4o-audio-preview-2024-12-17", "azure/global/gpt-4o-audio-preview"),
    ),
    Published(
        "google",
        "gemini-1.5-pro",
        {"input": "1.25", "output": "5", "cache_read": "0.3125"},
        None,
        ("gemini",),
        "2025-05",
        "has no price of its cached tokens",
        ("plain", "cached"),
        ("gemini-1.5-pro-002", "gemini/gemini-1.5-pro-002", "gemini/gemini-1.5-pro-latest"),
    ),
    # Cached images and videos.
    _seen("google", "gemini/gemini-2.5-flash", _GEMINI, "0.30", "2.50", "0.03"),
    _seen("google", "gemini/gemini-2.5-pro", _GEMINI, "1.25", "10", "0.125"),
    _seen("google", "gemini/gemini-2.5-flash-lite", _GEMINI, "0.10", "0.40", "0.01"),
    _seen("vertex", "vertex_ai/gemini-2.5-pro", _VERTEX, "1.25", "10", "0.125"),
    # An hour's writes, in Bedrock's own shape.
    *(
        _stored(f"{before}anthropic.{name}", *prices)
        for before, prices_of in (
            (
                "us.",
                {
                    "claude-haiku-4-5-20251001-v1:0": ("1.10", "5.50", "0.11", "1.375", "2.20"),
                    "claude-sonnet-4-5-20250929-v1:0": ("3.30", "16.50", "0.33", "4.125", "6.60"),
                },
            ),
            (
                "global.",
                {"claude-haiku-4-5-20251001-v1:0": ("1", "5", "0.10", "1.25", "2")},
            ),
        )
        for name, prices in prices_of.items()
    ),
    # Deep research.
    Published(
        "perplexity",
        "sonar-deep-research",
        {
            **{"input": "2", "output": "8", "reasoning": "3"},
            **{"citation": "2", "search": "5"},
        },
        shapes=("perplexity",),
        kinds=("plain", "researched"),
        names=("perplexity/sonar-deep-research",),
    ),
    # Reasoning beside the output, without a price of its own.
    Published(
        "x-ai",
        "grok-3-mini",
        {"input": "0.30", "output": "0.50", "cache_read": "0.075"},
        shapes=("x-ai_sdk",),
        date="2025-10",
        kinds=("thought", "thought_alone"),
        names=("xai/grok-3-mini",),
    ),
    # Tuned models, and one that was taught by another.
    *(
        Published(
            "openai",
            names[0],
            {"input": given, "output": made},
            kinds=("plain", "tiny"),
            names=names,
        )
        for given, made, names in _TUNED
    ),
    Published(
        "groq",
        "deepseek-r1-distill-llama-70b",
        {"input": "0.75", "output": "0.99"},
        date="2025-08",
        kinds=("plain", "reasoning"),
        names=("groq/deepseek-r1-distill-llama-70b",),
    ),
]
