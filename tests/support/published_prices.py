"""What providers publish on their pages, written down by hand: dollars per million tokens, as plain
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
}


@dataclass(frozen=True)
class Published:
    """One model. `tier` is (prompt tokens, prices above them). `shapes`: which usage objects its
    answers carry. `date`: when the page was as written here. `differs`: how genai-prices 0.2.3
    differs; corrections.toml has these.
    """

    provider: str
    model: str
    prices: dict[str, str]
    tier: tuple[int, dict[str, str]] | None = None
    shapes: tuple[str, ...] = ("chat",)
    date: str = "2025-11"
    differs: str = ""
    kinds: tuple[str, ...] = field(default=("plain", "cached"))


def _text(provider: str, rows: str, *, shapes: tuple[str, ...], date: str) -> list[Published]:
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


def _claude(rows: str) -> list[Published]:
    """Rows of `model input output`: by the page, a write costs 1.25 times the input, one for an
    hour twice, and a read a tenth. Written out, since a page rounds.
    """
    found = []
    for row in filter(None, rows.split("\n")):
        model, given, made, write, hour, read = row.split()
        prices = {"input": given, "output": made, "cache_read": read}
        prices |= {"cache_write": write, "cache_write_1h": hour}
        kinds = ("plain", "tiny", "cached", "written", "all")
        shapes = ("anthropic", "litellm")
        found.append(Published("anthropic", model, prices, None, shapes, "2025-11", "", kinds))
    return found


_LONG_SONNET = {
    "input": "6",
    "output": "22.50",
    "cache_read": "0.60",
    "cache_write": "7.50",
    "cache_write_1h": "12",
}
_SONNET = {
    "input": "3",
    "output": "15",
    "cache_read": "0.30",
    "cache_write": "3.75",
    "cache_write_1h": "6",
}
_TIER = ("plain", "edge", "above")
_TIERED = ("plain", "cached", "edge", "above")
_NO_TIER = "no price above the tier"

PUBLISHED: Final = [
    *_text(
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
    *_text(
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
    *(
        Published(
            "openai",
            model,
            {"input": text, "output": made, "input_audio": audio},
            None,
            ("responses",),
            kinds=("transcript",),
        )
        for model, text, made, audio in (
            ("gpt-4o-transcribe", "2.50", "10", "6"),
            ("gpt-4o-mini-transcribe", "1.25", "5", "3"),
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
    *_claude(
        """
claude-3-haiku-20240307 0.25 1.25 0.30 0.50 0.03
claude-3-5-haiku-20241022 0.80 4 1.00 1.60 0.08
claude-3-7-sonnet-20250219 3 15 3.75 6 0.30
claude-3-opus-20240229 15 75 18.75 30 1.50
claude-opus-4-20250514 15 75 18.75 30 1.50
claude-opus-4-1-20250805 15 75 18.75 30 1.50
claude-haiku-4-5-20251001 1 5 1.25 2 0.10
claude-opus-4-5-20251101 5 25 6.25 10 0.50
""".strip("\n")
    ),
    *(
        Published(
            "anthropic",
            model,
            _SONNET,
            (200_000, _LONG_SONNET),
            ("anthropic",),
            differs=differs,
            kinds=("plain", "tiny", "cached", "all", "edge", "above", "above_by_cache"),
        )
        for model, differs in (
            ("claude-sonnet-4-20250514", _NO_TIER),
            ("claude-sonnet-4-5-20250929", ""),
        )
    ),
    *(
        Published(
            "google",
            model,
            {"input": given, "output": made, "cache_read": cached},
            (start, {"input": given_2, "output": made_2, "cache_read": cached_2}),
            ("gemini",),
            date,
            differs,
            (*_TIERED, "tiny", "thoughts"),
        )
        for model, given, made, cached, start, given_2, made_2, cached_2, date, differs in (
            *(
                (
                    "gemini-2.5-pro",
                    "1.25",
                    "10",
                    "0.125",
                    200_000,
                    "2.50",
                    "15",
                    "0.25",
                    "2025-11",
                    "",
                ),
            ),
            *(
                (
                    "gemini-3-pro-preview",
                    "2",
                    "12",
                    "0.20",
                    200_000,
                    "4",
                    "18",
                    "0.40",
                    "2025-11",
                    "",
                ),
            ),
            *(
                ("gemini-1.5-pro", "1.25", "5", "0.3125", 128_000, "2.50", "10", "0.625")
                + ("2025-05", "charges cached tokens in full"),
            ),
            *(
                ("gemini-1.5-flash", "0.075", "0.30", "0.01875", 128_000, "0.15", "0.60", "0.0375")
                + ("2025-05", ""),
            ),
            *(
                ("gemini-1.5-flash-8b", "0.0375", "0.15", "0.01", 128_000, "0.075", "0.30", "0.02")
                + ("2025-05", "has the prices of gemini-1.5-flash"),
            ),
        )
    ),
    *(
        Published(
            "google",
            model,
            {
                "input": given,
                "output": made,
                "cache_read": cached,
                "input_audio": audio,
                "cache_read_audio": cached_audio,
            },
            None,
            ("gemini",),
            kinds=("plain", "cached", "heard", "cached_audio", "thoughts"),
        )
        for model, given, made, cached, audio, cached_audio in (
            ("gemini-2.5-flash", "0.30", "2.50", "0.03", "1.00", "0.10"),
            ("gemini-2.5-flash-lite", "0.10", "0.40", "0.01", "0.30", "0.03"),
            ("gemini-2.0-flash", "0.10", "0.40", "0.025", "0.70", "0.175"),
        )
    ),
    Published(
        "google",
        "gemini-2.5-flash-image",
        {"input": "0.30", "output": "2.50", "output_image": "30"},
        None,
        ("gemini",),
        kinds=("plain", "drawn"),
    ),
    Published(
        "google", "gemini-embedding-001", {"input": "0.15"}, None, ("gemini",), kinds=("prompt",)
    ),
    *(
        Published(
            "deepseek",
            model,
            {"input": "0.28", "cache_read": "0.028", "output": "0.42"},
            None,
            ("deepseek",),
            "2025-10",
            "still has the hours of lower prices that ended in September 2025",
            ("plain", "cached", "tiny", "reasoning"),
        )
        for model in ("deepseek-chat", "deepseek-reasoner")
    ),
    *(
        Published(
            "x-ai",
            model,
            {"input": given, "cache_read": cached, "output": made},
            (128_000, {"input": given_2, "output": made_2}),
            ("x-ai",),
            "2025-10",
            _NO_TIER,
            (*_TIER, "cached", "thoughts"),
        )
        for model, given, cached, made, given_2, made_2 in (
            ("grok-4-0709", "3", "0.75", "15", "6", "30"),
            ("grok-4-fast-reasoning", "0.20", "0.05", "0.50", "0.40", "1.00"),
        )
    ),
    *_text(
        "x-ai",
        """
        grok-3 3.00 15.00 0.75
        grok-3-mini 0.30 0.50 0.075
        grok-code-fast-1 0.20 1.50 0.02
        """,
        shapes=("x-ai",),
        date="2025-10",
    ),
    *_text(
        "mistral",
        """
        mistral-large-2411 2 6
        codestral-latest 0.30 0.90
        pixtral-large-latest 2 6
        open-mistral-nemo 0.15 0.15
        magistral-medium-latest 2 5
        """,
        shapes=("chat",),
        date="2025-10",
    ),
    *_text(
        "groq",
        """
        llama-3.3-70b-versatile 0.59 0.79
        llama-3.1-8b-instant 0.05 0.08
        """,
        shapes=("chat",),
        date="2025-10",
    ),
    *_text(
        "cohere",
        """
        command-r-plus 2.50 10.00
        command-r 0.15 0.60
        command-r7b-12-2024 0.0375 0.15
        """,
        shapes=("chat",),
        date="2025-10",
    ),
    # The page has three prices of the request; the dearest is that of the largest search context.
    *(
        Published(
            "perplexity",
            model,
            {"input": given, "output": made, "request": request},
            kinds=("plain", "tiny"),
        )
        for model, given, made, request in (
            ("sonar", "1", "1", "0.012"),
            ("sonar-pro", "3", "15", "0.014"),
        )
    ),
    *_text(
        "aws",
        """
        amazon.nova-micro-v1:0 0.035 0.14 0.00875
        amazon.nova-lite-v1:0 0.06 0.24 0.015
        amazon.nova-pro-v1:0 0.80 3.20 0.20
        """,
        shapes=("bedrock",),
        date="2025-10",
    ),
]
