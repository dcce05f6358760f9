"""Says where sessions may come from: algorithms, addresses of keys, and the claims of a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

ASYMMETRIC_ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def is_safe_url(url: str) -> bool:
    """Whether keys may be fetched from here: over TLS, or from this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


@dataclass(frozen=True, slots=True)
class ClaimPaths:
    """Names of claims. A dot steps into an object, unless a claim has the whole name. The defaults
    are Keycloak's; those of Entra ID and Google are in docs/production.md.
    """

    user: str = "sub"
    email: str = "email"
    email_verified: str = "email_verified"
    name: str = "name"
    roles: str = "realm_access.roles"


KEYCLOAK: Final = ClaimPaths()
