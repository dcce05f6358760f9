"""Remembers, in the browser itself, that it has gone to the identity provider to sign in."""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

HOME: Final = "/console/"
LIVES_S: Final = 600
"""How long somebody may take at the provider."""
_PLACE_MAX: Final = 1024
_CLOCK_S: Final = 60


def safe_place(wanted: str | None) -> str:
    """Where to go after signing in: an address of the console, else its first page. Whoever makes
    the link that somebody signs in by chooses nothing but a page of ours.
    """
    if wanted is None or not 0 < len(wanted) <= _PLACE_MAX:
        return HOME
    if not (wanted.isascii() and wanted.isprintable()) or "\\" in wanted or " " in wanted:
        return HOME
    path = wanted.partition("#")[0].partition("?")[0]
    below = path == "/console" or path.startswith(HOME)
    lowered = path.lower()
    if not below or path.startswith(f"{HOME}session/") or ".." in path or "%2e" in lowered:
        return HOME
    return wanted


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to the provider and back. What the provider is told (`state`, `nonce`, the challenge
    of `verifier`) comes of a secret that this browser alone has, with when it began and where it
    is to end.
    """

    secret: bytes
    began: int
    place: str

    @classmethod
    def begin(cls, place: str, now: float) -> Attempt:
        """A new one; `place` is where it ends, an address of the console."""
        return cls(secrets.token_bytes(32), int(now), safe_place(place))

    @classmethod
    def read(cls, cookie: str, now: float) -> Attempt | None:
        """What `cookie` has written, unless it is none of ours or too old."""
        try:
            secret, began, place = cookie.split(".")
            one = cls(_read(secret), int(began), safe_place(_read(place).decode()))
        except (ValueError, binascii.Error):
            return None
        in_time = -_CLOCK_S <= now - one.began <= LIVES_S
        return one if in_time and len(one.secret) == 32 else None

    @property
    def cookie(self) -> str:
        """For the browser to keep."""
        return f"{_write(self.secret)}.{self.began}.{_write(self.place.encode())}"

    @property
    def state(self) -> str:
        """Comes back from the provider with the answer to this attempt."""
        return self._made("state")

    @property
    def nonce(self) -> str:
        """Stands in the ID token that belongs to this attempt."""
        return self._made("nonce")

    @property
    def verifier(self) -> str:
        """Shows to the provider that who has the code is who asked for it (RFC 7636)."""
        return self._made("verifier")

    @property
    def challenge(self) -> str:
        """What the provider is told of the verifier, by its method S256."""
        return _write(sha256(self.verifier.encode()).digest())

    def is_answered_by(self, state: str) -> bool:
        """Whether the provider's answer is to this attempt, and to no other."""
        return hmac.compare_digest(self.state.encode(), state.encode("utf-8", "surrogatepass"))

    def _made(self, what: str) -> str:
        text = f"{what} {self.began} {self.place}".encode()
        return _write(hmac.digest(self.secret, text, "sha256"))


def _write(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _read(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
