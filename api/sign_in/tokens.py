"""Encrypts what the identity provider gave for somebody, with a key that only their browser has."""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict, dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_SECRET_BYTES: Final = 32
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the provider gave. `session` is what our API takes, an access token as a rule, and is
    good between `made_at` and `ends_at`, in seconds since 1970. The ID token says to the provider
    who signs out.
    """

    session: str = field(repr=False)
    made_at: float
    ends_at: float
    refresh: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class CookieSecret:
    """The 32 random bytes of a session's cookie: what finds its row, and what opens it."""

    secret: bytes = field(repr=False)

    @classmethod
    def make(cls) -> CookieSecret:
        """A new one."""
        return cls(secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def read(cls, cookie: str) -> CookieSecret | None:
        """Of a cookie, unless it is none of ours."""
        try:
            secret = urlsafe_b64decode(cookie + "=")
        except ValueError:
            return None
        one = cls(secret)
        # What decodes to the same bytes is no second way to write it.
        return one if len(secret) == _SECRET_BYTES and one.cookie == cookie else None

    @property
    def cookie(self) -> str:
        """43 characters of base64."""
        return urlsafe_b64encode(self.secret).rstrip(b"=").decode()

    @property
    def digest(self) -> bytes:
        """Finds the row. The key cannot be found from it."""
        return hmac.digest(self.secret, b"taximeter browser session: row", "sha256")

    def seal(self, tokens: Tokens) -> bytes:
        """For the row of `digest`, and for no other."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        text = json.dumps(asdict(tokens)).encode()
        return nonce + self._cipher().encrypt(nonce, text, self.digest)

    def open(self, sealed: bytes) -> Tokens | None:
        """What `seal` has encrypted; None for what somebody else wrote there."""
        nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return Tokens(**json.loads(self._cipher().decrypt(nonce, text, self.digest)))
        except (InvalidTag, ValueError, TypeError):
            return None

    def _cipher(self) -> AESGCM:
        return AESGCM(hmac.digest(self.secret, b"taximeter browser session: key", "sha256"))
