"""Reads from the claims of a token who somebody is, at the paths that the settings name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from taximeter.api.settings.oidc import ClaimPaths

_WORDS: Final = frozenset({"scope", "scp"})
"""Claims that are words with spaces between, as OAuth writes them."""
_TRUE: Final = (True, 1, "true", "1")
"""How providers write it: some send text (Cognito), some a number (Entra's `xms_edov`)."""


def roles_of(claims: Mapping[str, Any], paths: ClaimPaths) -> frozenset[str]:
    """The roles: a list of texts, or one text with spaces between, as scopes are written."""
    found = claim_at(claims, paths.roles)
    if isinstance(found, str):
        return frozenset(found.split())
    if isinstance(found, list):
        return frozenset(one for one in found if isinstance(one, str))
    return frozenset()


def is_email_verified(claims: Mapping[str, Any], paths: ClaimPaths) -> bool:
    """Whether the provider says that the address is its user's; False if it says nothing."""
    found = claim_at(claims, paths.email_verified)
    return isinstance(found, (bool, int, str)) and found in _TRUE


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """The value at a path, or None. Names such as `https://example.com/roles` have dots too, at any
    depth: the longest name that is there is the one that is meant.
    """
    found: Any = claims
    while path:
        if not isinstance(found, Mapping):
            return None
        name, path = _first_name(found, path)
        found = found.get(name)
    return found


def _first_name(claims: Mapping[str, Any], path: str) -> tuple[str, str]:
    """The longest beginning of the path that is a claim, else its first part; and what is left."""
    name = path
    while name not in claims and "." in name:
        name = name.rpartition(".")[0]
    return name, path[len(name) + 1 :]


def lacking(claims: Mapping[str, Any], required: Mapping[str, Iterable[str]]) -> str | None:
    """The path of the first claim that holds none of the values that it must hold one of, or None
    when all do. A list holds what is in it, `scope` and `scp` each of their words.
    """
    for path, values in required.items():
        if _texts(path, claim_at(claims, path)).isdisjoint(values):
            return path
    return None


def _texts(path: str, value: object) -> frozenset[str]:
    if isinstance(value, list):
        return frozenset(one for one in value if isinstance(one, str))
    if isinstance(value, bool):
        return frozenset({str(value).lower()})
    if isinstance(value, str):
        return frozenset(value.split() if path in _WORDS else [value])
    return frozenset()
