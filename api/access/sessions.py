"""Turns a session token into a `Principal`, by the key of dev mode or those of an OIDC issuer."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from taximeter.api.access.dev_tokens import DEV_ALGORITHM, DEV_AUDIENCE, DEV_ISSUER, DevKey
from taximeter.api.access.jwks import KeySet, KeysUnavailable
from taximeter.api.access.oidc_claims import claim_at, is_email_verified, lacking, roles_of
from taximeter.api.settings.oidc import ASYMMETRIC_ALGORITHMS, KEYCLOAK, ClaimPaths
from taximeter.api.web.errors import ApiError
from taximeter.meter import InvalidRequest
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.meter.wire.limits import check_user_id

logger = logging.getLogger("taximeter.api.access.sessions")

TOKEN_BYTES_MAX = 8192
LEEWAY_S = 30
TOKENS_REMEMBERED_MAX = 10_000
REMEMBERED_S = 60.0
KEY_ACTOR = "taximeter:key:"
"""How the id of a key of the installation stands where others have the id of a user."""
_RESERVED_IDS = ("taximeter:", "operator:")
_ACCESS_TOKEN_TYPES = frozenset({"at+jwt", "application/at+jwt"})
_ID_TOKEN_CLAIMS = frozenset({"at_hash", "c_hash", "s_hash"})
_REQUIRED_CLAIMS = ["exp", "iat", "iss", "aud", "sub"]


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose session was checked, and when that session ends, in seconds since 1970. Roles
    in organisations are looked up where they are needed.
    """

    user_id: str
    email: str | None
    name: str | None
    is_system_admin: bool
    expires_at: float
    email_verified: bool = False
    adds_members: bool = False
    """The issuer vouches that this caller may make users members without asking them."""


class Verifier(Protocol):
    """Checks a token. Raises ApiError 401 when it is not good, 503 when that cannot be told."""

    async def verify(self, token: str) -> Principal: ...


class RememberingVerifier:
    """Asks another verifier once a minute for each token, and never trusts one past its `exp`.

    The minute is for the issuer who withdraws a key: what that key has signed ends with it. Tokens
    are remembered by their digest, so that no session lies around in memory. Refusals are not
    remembered: a flood of bad tokens would push out the good ones. `found_good` is told of each
    caller whose token was asked about and is good.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        found_good: Callable[[Principal], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._found_good = found_good
        self._clock = clock
        self._known: BoundedCache[bytes, tuple[float, Principal]] = BoundedCache(
            TOKENS_REMEMBERED_MAX
        )

    async def verify(self, token: str) -> Principal:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known, now = self._known.get(digest), self._clock()
        if known is not None and now < known[0]:
            return known[1]
        try:
            principal = await self._verifier.verify(token)
        except ApiError as error:
            # Its kind alone: what a message of the library quotes may be of the token.
            cause = "" if error.__cause__ is None else f" ({type(error.__cause__).__name__})"
            logger.info("token refused: %s%s", error.message, cause)
            raise
        self._known.keep(digest, (min(principal.expires_at, now + REMEMBERED_S), principal))
        self._found_good(principal)
        return principal


class DevVerifier:
    """Accepts what `taximeter token` mints with this data folder's key, and nothing else."""

    def __init__(self, key: DevKey, *, admin_role: str, members_role: str | None = None) -> None:
        self._public = key.private.public_key()
        self._admin_role = admin_role
        self._members_role = members_role

    async def verify(self, token: str) -> Principal:
        _read_header(token)
        try:
            claims = jwt.decode(
                token,
                self._public,
                algorithms=[DEV_ALGORITHM],
                audience=DEV_AUDIENCE,
                issuer=DEV_ISSUER,
                leeway=LEEWAY_S,
                options={"require": _REQUIRED_CLAIMS},
            )
        except jwt.PyJWTError as error:
            raise _unauthorized(error) from error
        return _principal(claims, self._admin_role, members_role=self._members_role)


class OidcVerifier:
    """Accepts access tokens of one issuer for one audience, signed with one of its published keys.

    The algorithms come from our configuration and never from the token; symmetric ones cannot be
    configured. `required`: claims, and what each must hold one of. `id_tokens` lets ID tokens in
    too, for issuers whose access tokens are no JWTs.
    """

    def __init__(
        self,
        keys: KeySet,
        *,
        issuer: str,
        audience: str,
        algorithms: tuple[str, ...],
        admin_role: str,
        members_role: str | None = None,
        paths: ClaimPaths = KEYCLOAK,
        only_access_tokens: bool = False,
        required: Mapping[str, tuple[str, ...]] | None = None,
        id_tokens: bool = False,
    ) -> None:
        if not algorithms or not set(algorithms) <= ASYMMETRIC_ALGORITHMS:
            raise ValueError(
                f"algorithms must be some of {', '.join(sorted(ASYMMETRIC_ALGORITHMS))}"
            )
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = algorithms
        self._admin_role = admin_role
        self._members_role = members_role
        self._paths = paths
        self._only_access_tokens = only_access_tokens
        self._required = required or {}
        self._id_tokens = id_tokens

    async def verify(self, token: str) -> Principal:
        header = _read_header(token)
        if self._only_access_tokens and str(header.get("typ")).lower() not in _ACCESS_TOKEN_TYPES:
            raise ApiError(401, "The session token is not an access token")
        key_id = header.get("kid")
        if header.get("alg") not in self._algorithms or not isinstance(key_id, str):
            raise ApiError(401, "The session token is not signed in a way that is accepted")
        try:
            key = await self._keys.key(key_id)
        except KeysUnavailable as error:
            raise ApiError.of("identity_provider") from error
        if key is None or key.algorithm_name != header["alg"]:
            raise ApiError(401, "The session token is signed with an unknown key")
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": _REQUIRED_CLAIMS},
            )
        except jwt.PyJWTError as error:
            raise _unauthorized(error) from error
        # An ID token tells a front end who is there, and opens nothing. Keycloak says in `typ` what
        # a token is for; the other claims bind an ID token to what came with it.
        kind = claims.get("typ", "Bearer")
        is_id_token = kind == "ID" or bool(_ID_TOKEN_CLAIMS & claims.keys())
        if kind not in ("Bearer", "ID") or (is_id_token and not self._id_tokens):
            raise ApiError(401, "The session token is not an access token")
        path = lacking(claims, self._required)
        if path is not None:
            # Its name and no value: what somebody else's token says is nobody's business.
            raise ApiError(401, f"The session token does not have the {path} that is accepted here")
        return _principal(claims, self._admin_role, self._paths, members_role=self._members_role)


def _read_header(token: str) -> dict[str, Any]:
    """The header, not yet trusted. Refuses what no later check would look at."""
    if len(token) > TOKEN_BYTES_MAX or not token.isascii():
        raise ApiError(401, f"The session token is longer than {TOKEN_BYTES_MAX} bytes")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise _unauthorized(error) from error
    except RecursionError:  # The library lets it through: a header of nothing but brackets.
        raise ApiError(401, "The session token is not valid") from None
    kind = str(header.get("typ", "JWT")).lower()
    if "crit" in header or kind not in {"jwt", *_ACCESS_TOKEN_TYPES}:
        raise ApiError(401, "The session token is of a kind that is not accepted")
    return header


def _unauthorized(error: jwt.PyJWTError) -> ApiError:
    if isinstance(error, jwt.ExpiredSignatureError):
        return ApiError(401, "The session has expired")
    return ApiError(401, "The session token is not valid")


def _principal(
    claims: dict[str, Any],
    admin_role: str,
    paths: ClaimPaths = KEYCLOAK,
    *,
    members_role: str | None = None,
) -> Principal:
    try:
        user_id = check_user_id(claim_at(claims, paths.user))
    except InvalidRequest as error:
        raise ApiError(401, "The session token names no usable user") from error
    if user_id.startswith(_RESERVED_IDS):  # Or it would stand in the audit log as one of us.
        raise ApiError(401, "The session token names a user whose id is kept for our programs")
    roles = roles_of(claims, paths)
    return Principal(
        user_id=user_id,
        email=_text_claim(claim_at(claims, paths.email)),
        name=_text_claim(claim_at(claims, paths.name))
        or _text_claim(claims.get("preferred_username")),
        is_system_admin=admin_role in roles,
        expires_at=float(claims["exp"]),
        email_verified=is_email_verified(claims, paths),
        adds_members=members_role is not None and members_role in roles,
    )


def _text_claim(value: object) -> str | None:
    return value[:255] if isinstance(value, str) and value else None
