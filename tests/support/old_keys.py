"""Keys as they were made before there were seals: anybody can make one."""

from __future__ import annotations

from hashlib import sha256

from taximeter.api.access.key_text import NewKey, make_key, plain_digits

SEAL = b"s" * 32
"""What stands in for the secret of a Postgres where there is none."""


def make_old_key() -> NewKey:
    """A key whose check digits are a plain checksum."""
    unchecked = make_key(SEAL).text[:-6]
    text = unchecked + plain_digits(unchecked.encode())
    return NewKey(unchecked.split("_")[1], text, sha256(text.encode()).digest())
