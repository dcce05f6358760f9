"""Encrypts where notices are sent and what they are signed with, so that the database alone is not
enough to call anybody.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

_MARK_LENGTH: Final = 12
_SECRET_BYTES: Final = 24


class Unreadable(Exception):
    """It was encrypted with a key that this process does not have."""


@dataclass(frozen=True, slots=True)
class _Key:
    fernet: Fernet
    mark: str


class Sealer:
    """Keys of this installation, as TAXIMETER_NOTICE_KEYS has them: the first encrypts, all of them
    decrypt. A copy of the database that was restored elsewhere has other keys, or none.

    Raises ValueError for what is no key.
    """

    def __init__(self, keys: str) -> None:
        self._keys = {}
        for text in (part.strip() for part in keys.split(",")):
            try:
                fernet = Fernet(text)
            except ValueError as error:
                raise ValueError(
                    "must be 32 random bytes in URL-safe base64, or several such with commas"
                    " between: openssl rand -base64 32 | tr +/ -_"
                ) from error
            mark = sha256(b"taximeter notices " + text.encode()).hexdigest()[:_MARK_LENGTH]
            self._keys[mark] = _Key(fernet, mark)
        self.mark = next(iter(self._keys))
        """Names the key that encrypts; it cannot be found from it."""

    @property
    def marks(self) -> list[str]:
        """Of all keys."""
        return list(self._keys)

    def seal(self, text: str) -> bytes:
        """Encrypted with the first key."""
        return self._keys[self.mark].fernet.encrypt(text.encode())

    def open(self, sealed: bytes, mark: str) -> str:
        """What was sealed with the key of this mark. Raises Unreadable."""
        if mark not in self._keys:
            raise Unreadable(f"the key {mark} is not in TAXIMETER_NOTICE_KEYS")
        try:
            return self._keys[mark].fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise Unreadable(f"it was not encrypted with the key {mark}") from error


def make_secret() -> str:
    """A secret that signs webhooks, in the form of Standard Webhooks."""
    return "whsec_" + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
