"""What pages say of service tiers, zones, hours, long prompts and searches, and what has changed
since the other tables: see `published_prices`. Read in November 2026; each with its own page.
"""

from __future__ import annotations

from typing import Final

from support.published_prices import Published

_GEMINI = "ai.google.dev/gemini-api/docs/pricing"
_VERTEX = "cloud.google.com/gemini-enterprise-agent-platform/generative-ai/pricing"
_BEDROCK = "aws.amazon.com/bedrock/pricing"
_AZURE = "prices.azure.com/api/retail/prices"
_OPENAI = "developers.openai.com/api/docs/pricing"
_FIREWORKS = "docs.fireworks.ai/serverless/pricing.md"
_CLAUDE = "platform.claude.com/docs/en/about-claude/pricing"
_TIER = ("plain", "cached")


def _rows(page: str, shape: str, rows: str) -> list[Published]:
    """Rows of `host model tier|- input output [cached]`."""
    found = []
    for row in filter(None, map(str.strip, rows.split("\n"))):
        host, model, tier, given, made, *cached = row.split()
        prices = {"input": given, "output": made}
        if cached:
            prices["cache_read"] = cached[0]
        found.append(
            Published(
                host,
                model,
                prices,
                shapes=(shape,),
                date="2026-11",
                kinds=_TIER if cached else ("plain", "tiny"),
                page=page,
                service_tier="" if tier == "-" else tier,
            )
        )
    return found


SINCE: Final = [
    *_rows(
        _GEMINI,
        "gemini",
        """
        google gemini-2.5-flash priority 0.54 4.50 0.054
        google gemini-2.5-flash flex 0.15 1.25 0.03
        google gemini-3.5-flash-lite priority 0.54 4.50 0.05
        google gemini-3.5-flash-lite flex 0.15 1.25 0.02
        google gemini-3.5-flash priority 2.70 16.20 0.27
        google gemini-3.5-flash flex 0.75 4.50 0.08
        """,
    ),
    *_rows(
        _VERTEX,
        "gemini",
        """
        vertex gemini-2.5-pro priority 2.25 18 0.225
        vertex gemini-3.1-flash-image - 0.5 3 0.05
        vertex gemini-3.1-flash-image priority 0.9 5.4 0.09
        """,
    ),
    *_rows(
        _BEDROCK,
        "chat",
        """
        aws google.gemma-3-12b-it priority 0.16 0.51
        aws google.gemma-3-12b-it flex 0.05 0.15
        aws mistral.ministral-3-8b-instruct priority 0.26 0.26
        aws us.amazon.nova-2-lite-v1:0 priority 0.5775 4.8125 0.144375
        aws us.amazon.nova-2-lite-v1:0 flex 0.165 1.375 0.04125
        aws eu.amazon.nova-2-lite-v1:0 - 0.429 3.597 0.10725
        aws jp.amazon.nova-2-lite-v1:0 - 0.396 3.311 0.099
        """,
    ),
    *_rows(
        _AZURE,
        "chat",
        """
        azure eu/gpt-4o-mini - 0.165 0.66 0.083
        azure us/gpt-4o-mini-2024-07-18 - 0.165 0.66 0.083
        azure eu/gpt-4.1-nano - 0.11 0.44 0.028
        azure us/o4-mini - 1.21 4.84 0.303
        azure eu/gpt-5-nano-2025-08-07 - 0.055 0.44 0.0055
        azure eu/gpt-6-sol - 2.4 12 0.24
        azure us/gpt-6-sol - 2.2 11 0.22
        azure gpt-4o-mini batch 0.075 0.3
        azure gpt-5.5 priority 12.5 75 1.25
        """,
    ),
    *_rows(_OPENAI, "chat", "openai gpt-6-astra ultrafast 60 300 6"),
    *_rows(
        _FIREWORKS,
        "chat",
        """
        fireworks accounts/fireworks/models/kimi-k2p6 priority 1.5 6 0.22
        fireworks accounts/fireworks/models/gpt-oss-120b priority 0.18 0.72 0.018
        fireworks accounts/fireworks/models/glm-4p7 - 0.6 2.2 0.3
        """,
    ),
    *_rows("docs.mistral.ai", "chat", "mistral magistral-medium-latest - 1.5 7.5 0.15"),
    *_rows("docs.x.ai/developers/models", "chat", "x-ai grok-code-fast-1 - 1 2 0.2"),
    *(
        Published(
            "openai",
            model,
            {"input": text, "output": made, "input_audio": text},
            shapes=("responses",),
            date="2026-11",
            kinds=("transcript",),
            page="developers.openai.com/api/docs/models/compare",
        )
        for model, text, made in (
            ("gpt-4o-transcribe", "2.50", "10"),
            ("gpt-4o-mini-transcribe", "1.25", "5"),
        )
    ),
    *(
        Published(
            "azure",
            model,
            {"input": "2.5", "output": "10", "input_audio": heard, "output_audio": spoken},
            date="2026-08",
            kinds=("audio",),
            page=_AZURE,
        )
        for model, heard, spoken in (
            ("gpt-audio-2025-08-28", "40", "80"),
            ("gpt-audio-1.5", "32", "64"),
        )
    ),
    # Half a day's writes cost twice.
    *(
        Published(
            "openai",
            model,
            {
                **{"input": given, "output": made, "cache_read": cached},
                **{"cache_write": write, "cache_write_12h": long},
            },
            shapes=("responses_written",),
            date="2026-11",
            kinds=("written", "kept"),
            page=_OPENAI,
        )
        for model, given, made, cached, write, long in (
            ("gpt-6-astra", "10", "50", "1", "12.5", "25"),
            ("gpt-6-sol", "2", "10", "0.2", "2.5", "5"),
        )
    ),
    # Searches: Gemini's a prompt up to 2.5 and a query since, Claude's the same at every host.
    Published(
        "google",
        "gemini-2.5-flash",
        {"input": "0.30", "output": "2.50", "search": "35"},
        shapes=("gemini",),
        date="2026-11",
        kinds=("searched",),
        page=_GEMINI,
        search_once=True,
    ),
    *(
        Published(
            host,
            model,
            {"input": given, "output": made, "search": search},
            shapes=(shape,),
            date="2026-11",
            kinds=("searched",),
            page=page,
        )
        for host, model, given, made, search, shape, page in (
            ("google", "gemini-3-flash-preview", "0.50", "3", "14", "gemini", _GEMINI),
            ("vertex", "claude-sonnet-4-6", "3", "15", "10", "anthropic", _CLAUDE),
            ("aws", "us.anthropic.claude-sonnet-4-6", "3.3", "16.5", "10", "anthropic", _CLAUDE),
            ("azure", "gpt-4.1", "2", "8", "14", "chat", "microsoft.com/bing/apis"),
            ("openai", "gpt-4.1", "2", "8", "10", "chat", _OPENAI),
        )
    ),
    # Only in the United States: a tenth more for every token.
    *(
        Published(
            "anthropic",
            model,
            {
                **{"input": given, "output": made, "cache_read": read},
                **{"cache_write": write, "cache_write_1h": hour},
            },
            shapes=("anthropic_us",),
            date="2026-11",
            kinds=("plain", "tiny", "all"),
            page="platform.claude.com/docs/en/manage-claude/data-residency",
        )
        for model, given, made, read, write, hour in (
            ("claude-opus-4-6", "5.5", "27.5", "0.55", "6.875", "11"),
            ("claude-sonnet-4-6", "3.3", "16.5", "0.33", "4.125", "6.6"),
        )
    ),
    # Speech and talk.
    *(
        Published(
            host,
            model,
            {"input": given, "output": made, "output_audio": made},
            shapes=("gemini_speech",),
            date="2026-11",
            kinds=("read_out",),
            page=_GEMINI if host == "google" else _VERTEX,
        )
        for host, model, given, made in (
            ("google", "gemini-2.5-flash-preview-tts", "0.50", "10"),
            ("google", "gemini-2.5-pro-preview-tts", "1", "20"),
            ("google", "gemini-3.1-flash-tts-preview", "1", "20"),
            ("google", "gemini-3.8-flash-tts", "0.50", "9"),
            ("google", "gemini-3.8-flash-lite-tts", "0.50", "6"),
            ("vertex", "gemini-2.5-flash-tts", "0.50", "10"),
            ("vertex", "gemini-2.5-pro-tts", "1", "20"),
        )
    ),
    *(
        Published(
            host,
            model,
            {
                **{"input": given, "output": made, "input_audio": heard},
                **{"input_image": seen, "output_audio": spoken},
            },
            shapes=("gemini_live",),
            date="2026-11",
            kinds=("talk",),
            page=_GEMINI if host == "google" else _VERTEX,
        )
        for host, model, given, made, heard, seen, spoken in (
            ("google", "gemini-2.5-flash-native-audio-latest", "0.50", "2", "3", "3", "12"),
            ("google", "gemini-3.1-flash-live-preview", "0.75", "4.50", "3", "1", "12"),
            ("google", "gemini-3.8-live", "0.75", "4.50", "3", "1", "12"),
            ("vertex", "gemini-3.8-live", "0.75", "4.50", "3", "1", "12"),
        )
    ),
    # Images, by tokens.
    *(
        Published(
            "openai",
            model,
            {"input": "5", "output": "10", "input_image": "8", "output_image": "32"},
            shapes=("images_apart",),
            date="2026-11",
            kinds=("picture", "drawn_apart"),
            page=_OPENAI,
        )
        for model in ("gpt-image-1.5", "chatgpt-image-latest")
    ),
    Published(
        "openai",
        "gpt-image-2",
        {"input": "5", "output": "30", "input_image": "8", "output_image": "30"},
        shapes=("images", "images_apart"),
        date="2026-11",
        kinds=("picture", "edit"),
        page=_OPENAI,
    ),
]
