"""What the other providers publish on their pages: see `published_prices`."""

from __future__ import annotations

from typing import Any, Final

from support.published_prices import Published, text_models


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

_GEMINI: tuple[tuple[Any, ...], ...] = (
    ("gemini-2.5-pro", "1.25", "10", "0.125", 200_000, "2.50", "15", "0.25", "2025-11", ""),
    ("gemini-3-pro-preview", "2", "12", "0.20", 200_000, "4", "18", "0.40", "2025-11", ""),
    (
        *("gemini-1.5-pro", "1.25", "5", "0.3125", 128_000, "2.50", "10", "0.625"),
        *("2025-05", "charges cached tokens in full"),
    ),
    (
        *("gemini-1.5-flash", "0.075", "0.30", "0.01875", 128_000, "0.15", "0.60", "0.0375"),
        *("2025-05", ""),
    ),
    (
        *("gemini-1.5-flash-8b", "0.0375", "0.15", "0.01", 128_000, "0.075", "0.30", "0.02"),
        *("2025-05", "has the prices of gemini-1.5-flash"),
    ),
)

ELSEWHERE: Final = [
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
        for model, given, made, cached, start, given_2, made_2, cached_2, date, differs in _GEMINI
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
    *text_models(
        "x-ai",
        """
        grok-3 3.00 15.00 0.75
        grok-3-mini 0.30 0.50 0.075
        """,
        shapes=("x-ai",),
        date="2025-10",
    ),
    *text_models(
        "mistral",
        """
        mistral-large-2411 2 6
        codestral-latest 0.30 0.90
        pixtral-large-latest 2 6
        open-mistral-nemo 0.15 0.15
        """,
        shapes=("chat",),
        date="2025-10",
    ),
    *text_models(
        "groq",
        """
        llama-3.3-70b-versatile 0.59 0.79
        llama-3.1-8b-instant 0.05 0.08
        """,
        shapes=("chat",),
        date="2025-10",
    ),
    *text_models(
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
    *text_models(
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
