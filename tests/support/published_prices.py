"""What OpenAI publishes on its pages, written down by hand: dollars per million tokens, as plain
text. Nothing here is read from a package or from the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

PAGES: Final = {
    "openai": "platform.openai.com/docs/pricing",
    "anthropic": "docs.claude.com, Pricing",
    "google": "ai.google.dev/gemini-api/docs/pricing",
    "deepseek": "api-docs.deepseek.com, Models & Pricing",
    "x-ai": "docs.x.ai/docs/models",
    "mistral": "mistral.ai/pricing",
    "groq": "groq.com/pricing",
    "cohere": "cohere.com/pricing",
    "perplexity": "docs.perplexity.ai, Pricing",
    "aws": "aws.amazon.com/bedrock/pricing",
    "azure": "azure.microsoft.com/pricing/details/cognitive-services/openai-service",
    "vertex": "cloud.google.com/vertex-ai/generative-ai/pricing",
}


@dataclass(frozen=True)
class Published:
    """One model. `tier` is (prompt tokens, prices above them). `shapes`: which usage objects its
    answers carry. `date`: when the page was as written here. `differs`: how genai-prices 0.2.3
    differs; corrections.toml has these. `names`: how gateways write the model without saying the
    provider beside it, each of which must find this price. `page`: where it is, if not on the
    provider's page of `PAGES`. `service_tier`: the one that it is for. `search_once`: searches are
    charged once a request.
    """

    provider: str
    model: str
    prices: dict[str, str]
    tier: tuple[int, dict[str, str]] | None = None
    shapes: tuple[str, ...] = ("chat",)
    date: str = "2025-11"
    differs: str = ""
    kinds: tuple[str, ...] = field(default=("plain", "cached"))
    names: tuple[str, ...] = ()
    page: str = ""
    service_tier: str = ""
    search_once: bool = False


def text_models(provider: str, rows: str, *, shapes: tuple[str, ...], date: str) -> list[Published]:
    """Rows of `model input output [cached]`."""
    found = []
    for row in rows.split("\n"):
        words = row.split()
        if words:
            model, given, made, *cached = words
            prices = {"input": given, "output": made}
            kinds: tuple[str, ...] = ("plain", "tiny", "reasoning")
            if cached:
                prices["cache_read"] = cached[0]
                kinds = (*kinds, "cached")
            found.append(Published(provider, model, prices, None, shapes, date, "", kinds))
    return found


OPENAI: Final = [
    *text_models(
        "openai",
        """
        gpt-4o 2.50 10.00 1.25
        gpt-4o-mini 0.15 0.60 0.075
        gpt-4.1 2.00 8.00 0.50
        gpt-4.1-mini 0.40 1.60 0.10
        gpt-4.1-nano 0.10 0.40 0.025
        o1 15.00 60.00 7.50
        o3 2.00 8.00 0.50
        o3-mini 1.10 4.40 0.55
        o4-mini 1.10 4.40 0.275
        gpt-5 1.25 10.00 0.125
        gpt-5-mini 0.25 2.00 0.025
        gpt-5-nano 0.05 0.40 0.005
        gpt-5.1 1.25 10.00 0.125
        codex-mini-latest 1.50 6.00 0.375
        """,
        shapes=("chat", "responses"),
        date="2025-11",
    ),
    *text_models(
        "openai",
        """
        gpt-4o-2024-05-13 5.00 15.00
        gpt-4-turbo 10.00 30.00
        gpt-4 30.00 60.00
        gpt-3.5-turbo 0.50 1.50
        o1-pro 150.00 600.00
        o3-pro 20.00 80.00
        gpt-5-pro 15.00 120.00
        computer-use-preview 3.00 12.00
        """,
        shapes=("chat",),
        date="2025-11",
    ),
    *(
        Published("openai", model, {"input": price}, None, ("embeddings",), "2025-11", "", kinds)
        for model, price, kinds in (
            ("text-embedding-3-small", "0.02", ("prompt", "tiny_prompt")),
            ("text-embedding-3-large", "0.13", ("prompt", "tiny_prompt")),
            ("text-embedding-ada-002", "0.10", ("prompt", "tiny_prompt")),
        )
    ),
    *(
        Published(
            "openai",
            model,
            {"input": text, "output": made, "input_audio": audio, "output_audio": spoken},
            None,
            ("chat",),
            "2025-06",
            differs,
            ("plain", "audio"),
        )
        for model, text, made, audio, spoken, differs in (
            ("gpt-4o-audio-preview", "2.50", "10", "40", "80", "has no prices of audio"),
            ("gpt-4o-mini-audio-preview", "0.15", "0.60", "10", "20", "has no prices of audio"),
            ("gpt-audio", "2.50", "10", "32", "64", ""),
            ("gpt-audio-mini", "0.60", "2.40", "10", "20", ""),
        )
    ),
    Published(
        "openai",
        "gpt-realtime",
        {
            "input": "4",
            "cache_read": "0.40",
            "output": "16",
            "input_audio": "32",
            "cache_read_audio": "0.40",
            "output_audio": "64",
        },
        None,
        ("realtime",),
        kinds=("plain", "cached", "audio", "cached_audio"),
    ),
    *(
        Published(
            "openai",
            model,
            {"input": text, "input_image": image, "output_image": made},
            None,
            ("images",),
            kinds=("picture", "edit"),
        )
        for model, text, image, made in (
            ("gpt-image-1", "5", "10", "40"),
            ("gpt-image-1-mini", "2", "2.50", "8"),
        )
    ),
    # 0.006 dollars a minute.
    Published("openai", "whisper-1", {"audio_hour": "0.36"}, None, ("seconds",), kinds=("speech",)),
    Published(
        "openai",
        "gpt-4o-search-preview",
        {"input": "2.50", "output": "10", "request": "0.025"},
        date="2025-06",
        differs="has no price of the search in each request",
        kinds=("plain", "tiny"),
    ),
]
