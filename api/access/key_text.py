"""Makes the text of API keys, and tells what can be told of one without asking anybody."""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

PREFIX: Final = "tm_"
"""Says what it is to programs that look for secrets where none should be."""
SYSTEM_PREFIX: Final = "tms_"
"""The same of a key of the installation, which belongs to no organisation."""

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_DIGITS: Final = 6
_SHAPE: Final = re.compile(rb"tms?_([0-9A-Za-z]{12})_[0-9A-Za-z]{43}([0-9A-Za-z]{6})")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `text` is shown once and kept nowhere."""

    key_id: str
    text: str
    digest: bytes

    def __repr__(self) -> str:
        return f"NewKey({self.key_id!r})"


@dataclass(frozen=True, slots=True)
class KeyText:
    """What a key says of itself. A sealed one was made by us; one that is not may be older than
    seals, or made up.
    """

    key_id: str
    is_sealed: bool


def make_key(seal: bytes, prefix: str = PREFIX) -> NewKey:
    """A key of 256 random bits: `tm_<id>_<secret><check digits>`. Whoever does not know `seal`
    guesses the digits of one in 5 * 10^10.
    """
    key_id, secret = _random(12), _random(43)
    unchecked = f"{prefix}{key_id}_{secret}"
    text = unchecked + sealed_digits(seal, unchecked.encode())
    return NewKey(key_id, text, sha256(text.encode()).digest())


def has_shape(text: bytes) -> bool:
    """Whether it looks like a key of ours: else nothing needs to be known to refuse it."""
    return _SHAPE.fullmatch(text) is not None


def read_key(text: bytes, seal: bytes) -> KeyText | None:
    """What the key says of itself; None when it cannot be one of ours: a typing error, or a made-up
    key.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        return None
    key_id, digits, unchecked = match[1].decode(), match[2], text[:-_DIGITS]
    if hmac.compare_digest(digits, sealed_digits(seal, unchecked).encode()):
        return KeyText(key_id, is_sealed=True)
    if digits == plain_digits(unchecked).encode():
        return KeyText(key_id, is_sealed=False)
    return None


def sealed_digits(seal: bytes, unchecked: bytes) -> str:
    """The check digits of a key, which only we can make."""
    return _base62(int.from_bytes(hmac.digest(seal, unchecked, "sha256")[:8]))


def plain_digits(unchecked: bytes) -> str:
    """The check digits of a key that was made before there were seals. Anybody can make them."""
    return _base62(zlib.crc32(unchecked))


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _base62(number: int) -> str:
    digits = ""
    for _ in range(_DIGITS):
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
    return digits
