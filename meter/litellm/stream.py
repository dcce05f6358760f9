"""Counts the tokens that a piece of a stream delivers: its usage comes last, or never."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from taximeter.meter.litellm.estimate import BYTES_PER_TOKEN

_ONE_TOKEN_BYTES_MAX: Final = 16
_TEXTS: Final = ("content", "reasoning_content", "refusal")


def tokens_of_piece(piece: Any) -> int:
    """Providers mostly send a token at a time; larger pieces, and whole answers, go by their
    bytes.
    """
    if isinstance(piece, bytes | str):
        # Anthropic's events pass as they came, several in a piece perhaps.
        mark = b"content_block_delta" if isinstance(piece, bytes) else "content_block_delta"
        return -(-piece.count(mark) // 2)  # type: ignore[arg-type]  # Of the same kind.
    return sum(map(_tokens_of_text, _texts_of(piece)))


def _texts_of(piece: Any) -> Iterator[str]:
    if isinstance(delta := getattr(piece, "delta", None), str):
        yield delta  # An event of the Responses API.
    for choice in getattr(piece, "choices", None) or ():
        # A whole answer has its message where a piece has what it adds.
        delta = getattr(choice, "delta", None) or getattr(choice, "message", None)
        for name in _TEXTS:
            if isinstance(text := getattr(delta, name, None), str):
                yield text
        if isinstance(text := getattr(choice, "text", None), str):
            yield text
        for call in getattr(delta, "tool_calls", None) or ():
            function = getattr(call, "function", None)
            for name in ("name", "arguments"):
                if isinstance(text := getattr(function, name, None), str):
                    yield text


def _tokens_of_text(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size <= _ONE_TOKEN_BYTES_MAX:
        return 1 if size else 0
    return -(-size // BYTES_PER_TOKEN)
