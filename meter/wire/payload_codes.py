"""Writes a payload as short as a hold keeps it, and reads it again.

What a hold says it is for is most of its record, and most of that is the same in all of them.
Behind the byte 1, each of a few control characters stands for such a text; JSON has none of its
own, so reading back is exact. The scripts read the same (`lua/lib/payload.lua`), which write plain
JSON into events; they keep a payload with codes only where the settlers say that they know them
(`meta`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

CODES: Final = {
    "\x02": '{"type":"llm_inference","name":"',
    "\x03": '","meta":{',
    "\x04": '"model":',
    "\x06": ',"estimated":true}}',
    "\x07": '"provider":"openai",',
    "\x08": '"provider":',
}
"""Those that stand for the same everywhere. A longer text comes before one that is part of it."""
NAME_AGAIN: Final = "\x05"
"""The service's name in quotes: a price is often of a model of the same name."""
CODED: Final = "\x01"
"""The first character of a payload with these codes. Another set of codes would have another."""
FACTS: Final = "\x1f"
"""Before and after what a later release may put before a payload: it is no part of it."""

_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_NAME: Final = re.compile(r"\x01\x02([^\"\\\x00-\x1f\x7f]+)\x03")
_FACTS: Final = re.compile(rf"{FACTS}[^{FACTS}]*{FACTS}")
_CACHED: Final = 512


@lru_cache(_CACHED)
def coded(payload: str) -> str:
    """The payload with codes; as it is when it has control characters, or nothing to shorten.
    Remembered: an estimate says the same again and again.
    """
    if _CONTROL.search(payload):
        return payload
    text = payload
    for code, meant in CODES.items():
        text = text.replace(meant, code)
    if text == payload:
        return payload
    text = CODED + text
    if found := _NAME.match(text):
        head = found.end()
        text = text[:head] + text[head:].replace(f'"{found[1]}"', NAME_AGAIN)
    return text


def plain(kept: str) -> str:
    """The payload of what a hold keeps. What begins with another character is plain."""
    if kept[:1] == FACTS and (facts := _FACTS.match(kept)):
        kept = kept[facts.end() :]
    if kept[:1] != CODED:
        return kept
    found = _NAME.match(kept)
    meant = CODES | {NAME_AGAIN: f'"{found[1]}"' if found else '""'}
    return _CONTROL.sub(lambda code: meant.get(code[0], code[0]), kept[1:])
