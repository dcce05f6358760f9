"""Models as gateways write them, each with the published price of what is meant: see
`published_prices`. None of these says the provider beside the name.
"""

from __future__ import annotations

from typing import Final

from support.published_prices import Published


def _rows(provider: str, date: str, rows: str) -> list[Published]:
    """Rows of `input output cached|- name [name ...]`."""
    found = []
    for row in filter(None, map(str.strip, rows.split("\n"))):
        given, made, cached, *names = row.split()
        prices = {"input": given, "output": made}
        kinds: tuple[str, ...] = ("plain", "reasoning")
        if cached != "-":
            prices["cache_read"] = cached
            kinds = ("plain", "cached")
        model = names[0].rpartition("/")[2]
        found.append(
            Published(provider, model, prices, None, ("chat",), date, "", kinds, tuple(names))
        )
    return found


SPELLED: Final = [
    *_rows(
        "openai",
        "2025-11",
        """
        2.50 10.00 1.25 openai/gpt-4o gpt-4o-2024-08-06 gpt-4o-2024-11-20 openai/responses/gpt-4o
        0.15 0.60 0.075 openai/gpt-4o-mini gpt-4o-mini-2024-07-18 OpenAI/GPT-4o-Mini
        2.00 8.00 0.50 openai/gpt-4.1 gpt-4.1-2025-04-14
        0.40 1.60 0.10 gpt-4.1-mini-2025-04-14
        2.00 8.00 0.50 openai/o3 o3-2025-04-16
        1.10 4.40 0.55 o3-mini-2025-01-31
        1.25 10.00 0.125 gpt-5-2025-08-07 openai/gpt-5
        0.25 2.00 0.025 gpt-5-mini-2025-08-07
        """,
    ),
    *_rows(
        "azure",
        "2025-11",
        """
        2.50 10.00 1.25 azure/gpt-4o azure/global/gpt-4o azure/global-standard/gpt-4o-2024-08-06
        2.75 11.00 1.375 azure/eu/gpt-4o azure/us/gpt-4o-2024-08-06 azure/eu/gpt-4o-2024-11-20
        0.165 0.66 0.083 azure/eu/gpt-4o-mini azure/us/gpt-4o-mini-2024-07-18
        2.20 8.80 0.55 azure/us/gpt-4.1-2025-04-14
        1.375 11.00 0.1375 azure/eu/gpt-5-2025-08-07
        """,
    ),
    *_rows(
        "groq",
        "2025-11",
        """
        0.59 0.79 - groq/llama-3.3-70b-versatile
        0.05 0.08 - groq/llama-3.1-8b-instant
        0.15 0.60 0.075 groq/openai/gpt-oss-120b
        0.075 0.30 0.0375 groq/openai/gpt-oss-20b
        0.29 0.59 - groq/qwen/qwen3-32b
        """,
    ),
    *_rows(
        "x-ai",
        "2025-10",
        """
        3.00 15.00 0.75 xai/grok-3 x-ai/grok-3
        0.30 0.50 0.075 xai/grok-3-mini
        3.00 15.00 0.75 xai/grok-4 grok-4-latest xai/grok-4-0709
        """,
    ),
    *_rows(
        "deepseek",
        "2025-10",
        """
        0.28 0.42 0.028 deepseek/deepseek-chat deepseek/deepseek-reasoner
        """,
    ),
    *_rows(
        "mistral",
        "2025-12",
        """
        0.50 1.50 0.05 mistral/mistral-large-2512
        0.30 0.90 - mistral/codestral-latest codestral/codestral-latest
        """,
    ),
    Published(
        "mistral",
        "mistral-large-latest",
        {"input": "0.50", "output": "1.50"},
        None,
        date="2025-12",
        differs="has the price of mistral-large-2411",
        kinds=("plain", "tiny"),
        names=("mistral-large-latest", "mistral/mistral-large-latest"),
    ),
    Published(
        "vertex",
        "gemini-2.0-flash",
        {"input": "0.15", "output": "0.60"},
        None,
        ("gemini",),
        "2025-11",
        "has the price of the Gemini API",
        ("plain", "thoughts"),
        ("vertex_ai/gemini-2.0-flash", "vertex_ai/gemini-2.0-flash-001"),
    ),
    *_rows(
        "vertex",
        "2025-11",
        """
        0.30 2.50 0.03 vertex_ai/gemini-2.5-flash
        3.00 15.00 0.30 vertex_ai/claude-3-7-sonnet@20250219
        1.00 5.00 0.10 vertex_ai/claude-haiku-4-5@20251001
        5.00 25.00 0.50 vertex_ai/claude-opus-4-5@20251101
        """,
    ),
    *_rows(
        "google",
        "2025-11",
        """
        0.30 2.50 0.03 gemini/gemini-2.5-flash
        0.10 0.40 0.01 gemini/gemini-2.5-flash-lite
        0.10 0.40 0.025 gemini/gemini-2.0-flash gemini/gemini-2.0-flash-001
        """,
    ),
    *_rows(
        "anthropic",
        "2025-11",
        """
        1.00 5.00 0.10 anthropic/claude-haiku-4-5 claude-haiku-4-5-20251001
        5.00 25.00 0.50 anthropic/claude-opus-4-5 claude-opus-4-5-20251101
        15.00 75.00 1.50 anthropic/claude-opus-4-1-20250805
        3.00 15.00 0.30 claude-sonnet-4-0 anthropic/claude-sonnet-4-20250514
        3.00 15.00 0.30 claude-4-sonnet-20250514
        """,
    ),
    *_rows(
        "aws",
        "2025-11",
        """
        0.25 1.25 - anthropic.claude-3-haiku-20240307-v1:0
        0.25 1.25 - bedrock/anthropic.claude-3-haiku-20240307-v1:0
        0.06 0.24 0.015 bedrock/converse/amazon.nova-lite-v1:0 us.amazon.nova-lite-v1:0
        0.80 3.20 0.20 bedrock/us-east-1/amazon.nova-pro-v1:0
        1.00 5.00 0.10 global.anthropic.claude-haiku-4-5-20251001-v1:0
        1.10 5.50 0.11 us.anthropic.claude-haiku-4-5-20251001-v1:0
        3.30 16.50 0.33 eu.anthropic.claude-sonnet-4-5-20250929-v1:0
        """,
    ),
]
