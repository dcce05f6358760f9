"""Bounds what a LiteLLM request may use: its prompt by its bytes, its output by its limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from taximeter.meter.litellm.settings import LiteLLMSettings

IMAGE_TOKENS: Final = 2_000
BYTES_PER_TOKEN: Final = 4
PARTS_MAX: Final = 1_000_000
ANSWERS_MAX: Final = 1_000
_OVERHEAD_TOKENS: Final = 32
_PROMPT_FIELDS: Final = (
    *("messages", "input", "prompt", "contents", "system", "instructions"),
    *("tools", "functions", "response_format", "text", "prediction"),
)
_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")


class Estimate(NamedTuple):
    """Tokens to hold for, and a guess at the prompt's for a stream whose usage never comes."""

    prompt_tokens: int
    output_tokens: int
    answers: int
    prompt_guess: int


def estimate(
    data: Mapping[str, Any], settings: LiteLLMSettings, ceiling: int | None, *, writes: bool
) -> Estimate:
    """Bound the request. `ceiling` is what the model can write at most; `writes` is false for an
    embedding, which has no output.
    """
    size, items, images = _measure([data[name] for name in _PROMPT_FIELDS if name in data])
    prompt = size + items + images * IMAGE_TOKENS + _OVERHEAD_TOKENS
    guess = -(-size // BYTES_PER_TOKEN) + images * IMAGE_TOKENS
    if not writes:
        return Estimate(prompt, 0, 1, guess)
    given = [data[name] for name in _LIMITS if type(data.get(name)) is int and data[name] > 0]
    # Which of them a provider obeys is its own affair, so the largest counts.
    output = max(given, default=settings.output_tokens)
    output = min(output, settings.output_tokens_max, ceiling or output)
    answers = data.get("n")
    answers = answers if type(answers) is int and 1 <= answers <= ANSWERS_MAX else 1
    return Estimate(prompt, output, answers, guess)


def _measure(parts: list[Any]) -> tuple[int, int, int]:
    """(bytes of text, values, images). No recursion: the nesting is the caller's."""
    size = items = images = 0
    waiting = parts
    while waiting and items < PARTS_MAX:
        value = waiting.pop()
        items += 1
        if isinstance(value, str):
            if value.startswith("data:"):
                images += 1  # Data inside of an URL is not read as text.
            else:
                size += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif isinstance(value, Mapping):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
    return size, items, images
