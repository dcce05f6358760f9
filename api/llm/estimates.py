"""Token counts that we do not get from a usage object: bounds before a request, counts when usage
is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taximeter.api.llm.chat import ChatRequest

MESSAGE_OVERHEAD_TOKENS = 8
REPLY_OVERHEAD_TOKENS = 16
IMAGE_TOKENS = 2_000
BYTES_PER_TOKEN = 4
ONE_TOKEN_BYTES_MAX = 16

# Most output tokens of one answer, by the start of the model's name; the longest match decides. A
# model that is not here has the last entry. These only bound a hold: the charge is what the
# upstream reports.
_CEILINGS = {
    "gpt-3.5-turbo": 4_096,
    "gpt-4": 8_192,
    "gpt-4-turbo": 4_096,
    "gpt-4o": 16_384,
    "gpt-4.1": 32_768,
    "gpt-5": 128_000,
    "o1": 100_000,
    "o3": 100_000,
    "o4": 100_000,
    "claude": 64_000,
    "claude-3-": 8_192,
    "claude-3-haiku": 4_096,
    "claude-3-opus": 4_096,
    "gemini": 65_536,
    "": 32_768,
}
_PREFIXES = sorted(_CEILINGS, key=len, reverse=True)


def output_ceiling(model: str) -> int:
    """Most tokens that one answer of this model can have."""
    name = model.lower().rpartition("/")[2]
    return next(_CEILINGS[prefix] for prefix in _PREFIXES if name.startswith(prefix))


def output_bound(chat: ChatRequest, assumed: int) -> int:
    """Output tokens to hold for: what the caller allows, or what we assume, and never more than the
    model can do.

    A caller who sets no limit can exceed the assumption. The charge is then larger than the hold,
    and is made all the same; holding for the ceiling every time would let a few requests block a
    whole balance.
    """
    limit = assumed if chat.output_tokens_limit is None else chat.output_tokens_limit
    return min(limit, output_ceiling(chat.model))


def prompt_bound(body: Mapping[str, Any]) -> int:
    """An upper bound on prompt tokens: every token of a byte-level tokenizer stands for at least
    one byte.
    """
    text_bytes, items, images = _measure(_prompt_parts(body))
    messages = len(body["messages"])
    return (
        text_bytes
        + items
        + images * IMAGE_TOKENS
        + messages * MESSAGE_OVERHEAD_TOKENS
        + REPLY_OVERHEAD_TOKENS
    )


def prompt_guess(body: Mapping[str, Any]) -> int:
    """A fair guess at prompt tokens, for a charge when the upstream sent no usage."""
    text_bytes, _, images = _measure(_prompt_parts(body))
    messages = len(body["messages"])
    return -(-text_bytes // BYTES_PER_TOKEN) + images * IMAGE_TOKENS + messages * 4


def output_guess(text: str) -> int:
    """Tokens of one piece of streamed output. Upstreams send a token at a time; larger pieces go by
    their bytes.
    """
    size = _bytes_of(text)
    if size == 0:
        return 0
    return 1 if size <= ONE_TOKEN_BYTES_MAX else -(-size // BYTES_PER_TOKEN)


def delta_text(delta: object) -> str:
    """All text that a delta or a message brings, of whatever kind: each of them is paid for
    upstream.
    """
    if not isinstance(delta, Mapping):
        return ""
    parts = [
        value
        for name in ("content", "refusal", "reasoning", "reasoning_content")
        if isinstance(value := delta.get(name), str)
    ]
    if "tool_calls" not in delta and "function_call" not in delta:
        return "".join(parts)
    calls = delta.get("tool_calls")
    functions = [delta.get("function_call")]
    if isinstance(calls, list):
        functions += [call.get("function") for call in calls if isinstance(call, Mapping)]
    for function in functions:
        if isinstance(function, Mapping):
            parts += [v for key in ("name", "arguments") if isinstance(v := function.get(key), str)]
    return "".join(parts)


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _prompt_parts(body: Mapping[str, Any]) -> list[Any]:
    names = ("messages", "tools", "functions", "response_format", "prediction")
    return [body[name] for name in names if name in body]


def _measure(parts: list[Any]) -> tuple[int, int, int]:
    """(bytes of text, number of fields, number of images). No recursion: the nesting is foreign."""
    text_bytes = items = images = 0
    waiting: list[Any] = list(parts)
    while waiting:
        value = waiting.pop()
        items += 1
        if isinstance(value, str):
            text_bytes += _bytes_of(value)
        elif isinstance(value, dict):
            if value.get("type") in ("image_url", "input_image"):
                images += 1  # Its URL, or the data inside it, is not read as text.
                continue
            text_bytes += sum(map(_bytes_of, value))
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        else:
            text_bytes += len(str(value))
    return text_bytes, items, images
