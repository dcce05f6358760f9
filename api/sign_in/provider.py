"""Speaks with the OpenID provider for people with a browser: the authorization code flow with PKCE.

Tokens are checked by the same keys as those of every other session (`access.jwks`).
"""

from __future__ import annotations

import base64
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx
import jwt

from taximeter.api.access.jwks import KeySet, KeysUnavailable, discover, place_in
from taximeter.api.access.sessions import LEEWAY_S, TOKEN_BYTES_MAX
from taximeter.api.sign_in.attempts import Attempt
from taximeter.api.sign_in.browser_sessions import ProviderAway, SessionRefused
from taximeter.api.sign_in.tokens import Tokens

logger = logging.getLogger("taximeter.api")

DOCUMENT_TTL_S: Final = 300.0
ANSWER_TIMEOUT_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 65_536


class SignInRefused(Exception):
    """The provider has signed nobody in, or what it answered is not to be believed. The message is
    for whoever signs in; it says nothing that the provider or a stranger wrote.
    """


@dataclass(frozen=True, slots=True)
class Client:
    """What the provider knows us by."""

    client_id: str
    secret: str | None = field(repr=False)
    scopes: str
    redirect_uri: str
    signed_out_uri: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    """More of the request for a code, such as `audience`, where a provider wants that."""


class Provider:
    """One issuer. `id_tokens`: its ID tokens are what our API takes, as its access tokens are no
    JWTs. Addresses come from its discovery document, which is believed for five minutes, and
    longer while it cannot be had.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        keys: KeySet,
        client: Client,
        *,
        issuer: str,
        algorithms: tuple[str, ...],
        id_tokens: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._keys = keys
        self._client = client
        self._issuer = issuer
        self._algorithms = algorithms
        self._id_tokens = id_tokens
        self._clock = clock
        self._document: dict[str, Any] = {}
        self._read_at = float("-inf")

    async def sign_in_address(self, attempt: Attempt) -> str:
        """Where the browser is sent. Raises ProviderAway."""
        query = {
            **self._client.parameters,
            "response_type": "code",
            "client_id": self._client.client_id,
            "redirect_uri": self._client.redirect_uri,
            "scope": self._client.scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        return _with_query(await self._place("authorization_endpoint"), query)

    async def sign_out_address(self, id_token: str | None) -> str | None:
        """Where the browser ends the provider's own session; None where there is no such place.
        Raises ProviderAway.
        """
        if "end_session_endpoint" not in await self._discovered():
            return None
        query = {
            "client_id": self._client.client_id,
            "post_logout_redirect_uri": self._client.signed_out_uri,
        }
        if id_token is not None:
            query["id_token_hint"] = id_token
        return _with_query(await self._place("end_session_endpoint"), query)

    async def exchange(self, code: str, attempt: Attempt, issuer: str | None) -> Tokens:
        """The tokens of whoever has signed in. `issuer` is what the answer says of its issuer
        (RFC 9207). Raises SignInRefused, ProviderAway.
        """
        if issuer not in (None, self._issuer):
            raise SignInRefused("The answer is another identity provider's.")
        answer = await self._ask_for_tokens(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._client.redirect_uri,
                "code_verifier": attempt.verifier,
            }
        )
        error = answer.get("error")
        if error is not None:
            logger.warning("the identity provider gave no tokens for a code: %s", error)
            raise SignInRefused("The identity provider did not confirm the sign-in.")
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            raise SignInRefused("The identity provider sent no ID token: is openid a scope?")
        await self._check_id_token(id_token, attempt.nonce)
        return self._tokens(answer, None, id_token)

    async def renew(self, before: Tokens) -> Tokens:
        """New tokens by the refresh token of those before. Raises SessionRefused when the provider
        wants somebody to sign in again, ProviderAway.
        """
        answer = await self._ask_for_tokens(
            {"grant_type": "refresh_token", "refresh_token": before.refresh or ""}
        )
        error = answer.get("error")
        if error == "invalid_grant":
            raise SessionRefused("invalid_grant")
        if error is not None:
            # Such as a secret that was changed: an operator mends that, and nobody is signed out.
            raise ProviderAway(f"the identity provider refuses this client: {error}")
        id_token = answer.get("id_token")
        if self._id_tokens and not isinstance(id_token, str):
            raise SessionRefused("no new ID token came")
        try:
            tokens = self._tokens(answer, before, id_token if isinstance(id_token, str) else None)
        except SignInRefused as error:
            raise SessionRefused(str(error)) from error
        return replace(tokens, refresh=tokens.refresh or before.refresh)

    def _tokens(
        self, answer: Mapping[str, Any], before: Tokens | None, id_token: str | None
    ) -> Tokens:
        session = id_token if self._id_tokens else answer.get("access_token")
        if not isinstance(session, str) or len(session) > TOKEN_BYTES_MAX:
            raise SignInRefused("The identity provider sent no access token that can be used.")
        try:
            # Not trusted by this: the session's verifier reads it again, with its signature.
            claims = jwt.decode(session, options={"verify_signature": False})
            ends_at = float(claims["exp"])
        except (jwt.PyJWTError, KeyError, TypeError, ValueError, RecursionError):
            raise SignInRefused(
                "The access tokens of the identity provider are no JWTs with an end."
            ) from None
        refresh = answer.get("refresh_token")
        return Tokens(
            session,
            made_at=self._clock(),
            ends_at=ends_at,
            refresh=refresh if isinstance(refresh, str) else None,
            id_token=id_token or (None if before is None else before.id_token),
        )

    async def _check_id_token(self, token: str, nonce: str) -> None:
        """Raise SignInRefused unless the provider made it for us and for this attempt."""
        try:
            header = jwt.get_unverified_header(token)
            key = await self._keys.key(str(header.get("kid")))
            if key is None or header.get("alg") not in self._algorithms:
                raise SignInRefused("The ID token is signed in a way that is not accepted.")
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self._client.client_id,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub", "nonce"]},
            )
        except KeysUnavailable as error:
            raise ProviderAway(str(error)) from error
        except (jwt.PyJWTError, RecursionError) as error:
            logger.warning("an ID token was refused: %s", type(error).__name__)
            raise SignInRefused("The ID token of the identity provider is not valid.") from None
        said = str(claims["nonce"]).encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(said, nonce.encode()):
            raise SignInRefused("The ID token belongs to another sign-in.")
        if claims.get("azp", self._client.client_id) != self._client.client_id:
            raise SignInRefused("The ID token was made for another client.")

    async def _ask_for_tokens(self, form: Mapping[str, str]) -> dict[str, Any]:
        """The provider's answer, with `error` for a refusal. Raises ProviderAway."""
        place = await self._place("token_endpoint")
        fields, headers = self._authenticated(form)
        try:
            response = await self._http.post(
                place,
                data=fields,
                headers=headers,
                timeout=ANSWER_TIMEOUT_S,
                follow_redirects=False,
            )
            if response.status_code in (200, 400, 401, 403) and (
                len(response.content) <= _ANSWER_BYTES_MAX
            ):
                answer = response.json()
                if isinstance(answer, dict):
                    if response.status_code != 200:
                        answer["error"] = str(answer.get("error"))[:40]
                    return answer
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            raise ProviderAway(f"the identity provider did not answer: {error!r}") from error
        raise ProviderAway(f"the identity provider answered {response.status_code}")

    def _authenticated(self, form: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """The form and headers with who we are: by HTTP Basic (RFC 6749, 2.3.1) unless the provider
        takes the secret in the form alone; a client without a secret says its id.
        """
        ours, headers = self._client, {"Accept": "application/json"}
        methods = self._document.get("token_endpoint_auth_methods_supported")
        by_form = isinstance(methods, list) and "client_secret_basic" not in methods
        if ours.secret is None:
            return {**form, "client_id": ours.client_id}, headers
        if by_form:
            return {**form, "client_id": ours.client_id, "client_secret": ours.secret}, headers
        pair = f"{quote_plus(ours.client_id)}:{quote_plus(ours.secret)}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return dict(form), headers

    async def _place(self, name: str) -> str:
        try:
            return place_in(await self._discovered(), name)
        except ValueError as error:
            raise ProviderAway(str(error)) from error

    async def _discovered(self) -> dict[str, Any]:
        if time.monotonic() - self._read_at >= DOCUMENT_TTL_S:
            try:
                self._document = await discover(self._http, self._issuer)
                self._read_at = time.monotonic()
            except (httpx.HTTPError, ValueError) as error:
                if not self._document:
                    raise ProviderAway(f"the identity provider cannot be asked: {error}") from error
        return self._document


def _with_query(place: str, query: Mapping[str, str]) -> str:
    return f"{place}{'&' if urlsplit(place).query else '?'}{urlencode(query)}"
