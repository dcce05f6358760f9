"""Bounds the output tokens of one answer, by model. These only bound a hold: what is charged is
what the provider reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# By the start of the name without its maker; the longest that fits decides.
_CEILINGS: Final[Mapping[str, int]] = {
    "gpt-3.5-turbo": 4_096,
    "gpt-4": 8_192,
    "gpt-4-turbo": 4_096,
    "gpt-4o": 16_384,
    "gpt-4.1": 32_768,
    "gpt-4.5": 16_384,
    "gpt-5": 128_000,
    "gpt-5-chat": 16_384,
    "gpt-realtime": 4_096,
    "o1": 100_000,
    "o1-preview": 32_768,
    "o1-mini": 65_536,
    "o3": 100_000,
    "o4": 100_000,
    "claude": 128_000,
    "claude-2": 4_096,
    "claude-3-": 8_192,
    "claude-3-haiku": 4_096,
    "claude-3-opus": 4_096,
    "claude-3-7-sonnet": 128_000,
    "claude-haiku-4": 64_000,
    "claude-sonnet-4": 64_000,
    "claude-sonnet-4-6": 128_000,
    "claude-opus-4": 32_000,
    "claude-opus-4-5": 64_000,
    "claude-opus-4-6": 128_000,
    "claude-opus-4-7": 128_000,
    "gemini": 65_536,
    "gemini-1.5": 8_192,
    "gemini-2.0": 8_192,
    "deepseek": 65_536,
    "": 131_072,
}
_PREFIXES: Final = sorted(_CEILINGS, key=len, reverse=True)


def output_ceiling(model: str) -> int:
    """Most tokens that one answer of this model can have; that of no known model when it is not
    known.
    """
    name = model.lower().rpartition("/")[2]
    return next(_CEILINGS[prefix] for prefix in _PREFIXES if name.startswith(prefix))
