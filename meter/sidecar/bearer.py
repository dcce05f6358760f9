"""Checks API keys of the sidecar: only their SHA-256 digests are ever in its settings or its
memory.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256

from taximeter.meter.sidecar.grants import UNLIMITED, Grant

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SCHEME = b"bearer "


def bearer(header: bytes) -> bytes | None:
    """The key of an Authorization header, or None for a header of another kind."""
    return header[7:].strip(b" ") if header[:7].lower() == _SCHEME else None


class ApiKeys:
    """Accepts `Authorization: Bearer <key>` when the key's digest is one of those given.

    Keys are random and long, so a plain digest is enough: there is nothing to guess slowly. Several
    at once let an operator change a key without a gap.
    """

    def __init__(self, digests: Iterable[str]) -> None:
        """Take hex digests. Raises ValueError that names the place of a bad one, never its text."""
        found = [digest.strip().lower() for digest in digests]
        for place, digest in enumerate(found, 1):
            if not _DIGEST.fullmatch(digest):
                raise ValueError(f"key {place} must be a SHA-256 digest of 64 hex digits")
        if not found:
            raise ValueError("at least one key digest is needed")
        self._digests = [bytes.fromhex(digest) for digest in found]

    @classmethod
    def parse(cls, text: str) -> ApiKeys:
        """Read comma separated digests. Raises ValueError."""
        return cls(text.split(","))

    def accept(self, header: bytes) -> bool:
        """Whether this Authorization header carries a known key; takes as long for any wrong
        one.
        """
        key = bearer(header)
        if key is None:
            return False
        digest = sha256(key).digest()
        known = False
        for one in self._digests:
            known |= hmac.compare_digest(digest, one)
        return known

    def known(self, header: bytes) -> Grant | None:
        """Everything, for a known key."""
        return UNLIMITED if self.accept(header) else None

    async def find(self, header: bytes) -> Grant | None:
        """None: all keys of this ring are known."""
        return None
