"""Where in a token an identity provider says who somebody is. The defaults are Keycloak's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ClaimPaths:
    """Names of claims. A dot steps into an object, unless a claim has the whole name."""

    user: str = "sub"
    email: str = "email"
    name: str = "name"
    roles: str = "realm_access.roles"

    def roles_of(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """The roles: a list of texts, or one text with spaces between, as scopes are written."""
        found = claim_at(claims, self.roles)
        if isinstance(found, str):
            return frozenset(found.split())
        if isinstance(found, list):
            return frozenset(one for one in found if isinstance(one, str))
        return frozenset()


KEYCLOAK = ClaimPaths()


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """The value at a path, or None. Names such as `https://example.com/roles` have dots too."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found
